"""Where the exits of a trace wait until it is known which of them are wanted."""

from __future__ import annotations

import io
import tempfile
from typing import BinaryIO

from vpmu.recordings import _cache

_IN_MEMORY = 4 * 2**20
_ROWS = 1 << 16
_LEAST_ROWS = 64


class Spool:
    """Bytes in order, in memory as long as they are few, then in a file without a name.

    Attributes
    ----------
    users : int
        Time lines that write to it.
    """

    def __init__(self) -> None:
        self.users = 1
        self._end = 0
        self._file: BinaryIO = io.BytesIO()
        self._on_disk = False

    def share(self) -> int:
        """Rows that each user may keep in memory."""
        return max(_ROWS // self.users, _LEAST_ROWS)

    def write(self, rows: bytes) -> int:
        """Append; not after the first `read`.

        Returns
        -------
        int
            Where the bytes are.
        """
        at = self._end
        if not self._on_disk and at + len(rows) > _IN_MEMORY:
            self._move()
        self._file.write(rows)
        self._end += len(rows)
        return at

    def read(self, at: int, size: int) -> bytes:
        """Give bytes back."""
        self._file.seek(at)
        return self._file.read(size)

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def _move(self) -> None:
        assert isinstance(self._file, io.BytesIO)
        held = self._file.getvalue()
        # The system's temporary directory may be in memory, the cache's is not.
        folder, _ = _cache.directory_to_write()
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self._on_disk = True
        self._file.write(held)
