"""Bounded reading of lines from a file that nobody vouches for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO

from vpmu._errors import RecordingError

LINE_LIMIT = 64 * 1024
"""Longer lines are passed over: no dialect has them, and they would cost memory."""

_CHUNK = 256 * 1024

# Binary files that people give by mistake, by their first bytes.
_MAGIC = (
    (b"PERFILE2", "perf.data, not text: give the output of `perf kvm stat report` or `perf script`"),
    (b"\x17\x08\x44tracing", "trace.dat, not text: give the output of `trace-cmd report`"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
)


def one_line(text: str, limit: int = 100) -> str:
    """Make untrusted text fit to be printed inside a one-line message.

    Parameters
    ----------
    text : str
        Anything.
    limit : int
        Greatest length of the result, in characters.

    Returns
    -------
    str
        `text` with control characters, line ends and escapes replaced by ``?``, cut to `limit`.
    """
    short = text[: limit + 1]
    if not short.isprintable():
        short = "".join(c if c.isprintable() else "?" for c in short)
    return short if len(short) <= limit else short[: limit - 1] + "…"


def counted(number: int, noun: str) -> str:
    """Say how many there are.

    Parameters
    ----------
    number : int
        How many.
    noun : str
        Of what, in the singular; the plural adds an s.

    Returns
    -------
    str
        For example ``"1 gap"`` or ``"2 gaps"``.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text_of(line: bytes) -> str | None:
    """Decode a line.

    Parameters
    ----------
    line : bytes
        One line without its line end.

    Returns
    -------
    str or None
        Its text: undecodable bytes become U+FFFD, a carriage return at its end is removed; None if it is longer than
        ``LINE_LIMIT``.
    """
    text = line.decode("utf-8", "replace")
    return None if len(text) > LINE_LIMIT else text.removesuffix("\r")


class LineReader:
    """Read the lines of a file in blocks, in time linear and memory constant.

    Line numbers are 1-based. The file is read once from start to end, so pipes work; use it in a ``with`` block.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file.
    progress : callable, optional
        Called with ("reading", bytes so far, bytes to read).

    Attributes
    ----------
    path : str
        Its name.
    number : int
        Number of the last line that was read.
    too_long : int
        Lines left out so far because they are longer than ``LINE_LIMIT``; the user of a block adds those in it.

    Raises
    ------
    RecordingError
        When the file is missing, unreadable, a directory or binary (it has a NUL byte or the first bytes
        of a known binary format); from the constructor or while iterating.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.number = 0
        self.too_long = 0
        self._progress = progress
        self._bytes = 0
        self._started = False
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 (closed by __exit__)
        except IsADirectoryError:
            raise self._error(None, "is a directory, not a recording: name a file in it") from None
        except FileNotFoundError:
            raise self._error(None, "no such file: give the path of a recording") from None
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        self._size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> LineReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """Iterate over blocks of complete lines, without the line end of the last one.

        A block is bounded, and may have lines that are too long. ``number`` is that of the line before the block;
        whoever reads the block sets it to that of its last line.
        """
        rest = b""  # a line whose end has not been read yet: at most LINE_LIMIT bytes
        in_long_line = False
        while chunk := self._read():
            if in_long_line:
                end = chunk.find(b"\n")
                if end < 0:
                    continue
                chunk = chunk[end + 1 :]
                in_long_line = False
            block = rest + chunk
            end = block.rfind(b"\n")
            if end >= 0:
                yield block[:end]
            rest = block[end + 1 :]
            if len(rest) > LINE_LIMIT:
                rest = b""
                in_long_line = True
                self.number += 1
                self.too_long += 1
        if rest:
            yield rest.rstrip(b"\r")

    def same_file(self) -> BinaryIO | None:
        """Open the file once more, from its start; None for a pipe and for a file that is another one by now."""
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return None
        try:
            again = open(self.path, "rb")  # noqa: SIM115 (the caller's)
        except OSError:
            return None
        if not os.path.samestat(found, os.fstat(again.fileno())):
            again.close()
            return None
        return again

    def unchanged(self, before: os.stat_result) -> bool:
        """Whether the file has still the size and the time of modification that it had."""
        now = os.fstat(self._file.fileno())
        return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def _report(self) -> None:
        """Tell how far the file has been read; a pipe has no end to tell."""
        if self._progress is not None and self._size:
            self._progress("reading", min(self._bytes, self._size), self._size)

    def _read(self) -> bytes:
        try:
            chunk = self._file.read(_CHUNK)
        except OSError as error:
            raise self._unreadable(error) from None
        self._bytes += len(chunk)
        self._report()
        if not self._started:
            self._started = True
            for magic, meaning in _MAGIC:
                if chunk.startswith(magic):
                    raise self._error(None, f"binary file ({meaning})")
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in chunk:
            raise self._error(
                self.number + chunk.count(b"\n", 0, chunk.index(b"\0")) + 1,
                "binary file (it has a NUL byte): give the text output of `perf kvm stat report`, "
                "`perf script` or `trace-cmd report`",
            )
        return chunk

    def _error(self, line: int | None, message: str) -> RecordingError:
        return RecordingError(self.path, line, message)

    def _unreadable(self, error: OSError | ValueError) -> RecordingError:
        why = getattr(error, "strerror", None) or str(error)
        return self._error(None, f"cannot be read ({one_line(why)}): give a text file that you may read")
