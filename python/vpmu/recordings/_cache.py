"""The cache of recordings: directories of columns, by content, in the user's cache directory.

An entry is written aside and renamed when it is complete, so that processes never see half of one; what is damaged
all the same is told by checksums, and made anew.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from vpmu._errors import ScenarioError
from vpmu._version import __version__
from vpmu.recordings._columns import Fill, Stored, last_used, map_files, touch, write_files

DEFAULT_MIB = 8192
"""How much the cache holds unless VPMU_CACHE_MIB says otherwise."""

_NEW, _OLD = ".vpmu-new-", ".vpmu-old-"
_NAME = re.compile("[0-9a-f]{64}")  # of an entry: nothing else is ever removed
_ABANDONED = 24 * 3600  # seconds after which nobody works on an unfinished entry any more
_PIECE = 1 << 20


def directory() -> str:
    """Where the cache is: VPMU_CACHE_DIR, or ``vpmu`` in the user's cache directory of this system."""
    if given := os.environ.get("VPMU_CACHE_DIR"):
        return given
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # the XDG specification has relative paths ignored
            base = os.path.expanduser("~/.cache")
    return os.path.join(base, "vpmu")


def limit() -> int:
    """Bytes that the cache may hold; 0 keeps nothing."""
    given = os.environ.get("VPMU_CACHE_MIB") or str(DEFAULT_MIB)
    if not (given.isascii() and given.isdigit() and len(given) < 12):
        raise ScenarioError(f"VPMU_CACHE_MIB {given!r} must be a number of MiB, such as {DEFAULT_MIB}; 0 keeps nothing")
    return int(given) << 20


def directory_to_write() -> tuple[str, str]:
    """Where large things may be written: the cache's directory, else the system's for temporary files.

    Returns
    -------
    folder : str
        The directory, which exists.
    why : str
        Why it is not the cache's; or empty.
    """
    folder = os.path.join(directory(), "recordings")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder, ""
        why = "not writable"
    except OSError as error:
        why = error.strerror or str(error)
    return tempfile.gettempdir(), why


def content_of(file: BinaryIO, progress: Callable[[str, int, int], None] | None) -> str:
    """Tell the content of a file.

    Parameters
    ----------
    file : binary file
        Read to its end.
    progress : callable, optional
        Called with ("hashing", bytes so far, bytes to read).

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    seen, size = 0, os.fstat(file.fileno()).st_size
    content = hashlib.sha256()
    while piece := file.read(_PIECE):
        content.update(piece)
        seen += len(piece)
        if progress is not None:
            progress("hashing", min(seen, size), size)
    return content.hexdigest()


def key_of(*parts: object) -> str:
    """Name an entry after all that decides what is in it; the version of vpmu is a part of itself."""
    return hashlib.sha256(repr((__version__, *parts)).encode()).hexdigest()


def find(key: str, dtypes: Mapping[str, str]) -> Stored | None:
    """Look an entry up; a damaged one is removed.

    Parameters
    ----------
    key : str
        Its name.
    dtypes : mapping of str to str
        Its columns.
    """
    folder = os.path.join(directory(), "recordings", key)
    if not limit() or not os.path.isdir(folder):
        return None
    stored = map_files(folder, dtypes, verify=True)
    with contextlib.suppress(OSError):
        if stored is None:
            _remove(folder)
        else:
            touch(folder)
    return stored


def keep(key: str | None, dtypes: Mapping[str, str], fill: Fill) -> Stored:
    """Write columns to disk and map them.

    Parameters
    ----------
    key : str or None
        Where to find them again; None, or a cache that is too small or cannot be written, and they are gone with this
        process.
    dtypes : mapping of str to str
        The columns.
    fill : callable
        Appends the rows; called again if they do not fit where they should be.
    """
    most = limit()
    folder, why = directory_to_write()
    if not why:
        try:
            return _keep(folder, key if most else None, most, dtypes, fill)
        except OSError as error:
            why = error.strerror or str(error)
    elsewhere = tempfile.gettempdir()
    note = f"the cache {directory()} cannot be written ({why}): using {elsewhere} for this run; set VPMU_CACHE_DIR"
    return _keep(elsewhere, None, most, dtypes, fill)._replace(note=note)


def _keep(folder: str, key: str | None, most: int, dtypes: Mapping[str, str], fill: Fill) -> Stored:
    made = tempfile.mkdtemp(prefix=_NEW, dir=folder)
    try:
        size = write_files(made, dtypes, fill)
        # What is mapped stays mapped, whoever removes the files; but Windows does not move or remove mapped files.
        stored = None if os.name == "nt" else map_files(made, dtypes, verify=False)
        if key is not None and size <= most:
            final = os.path.join(folder, key)
            if _publish(made, final, dtypes):
                with contextlib.suppress(OSError):
                    _evict(folder, final, most)
            stored = stored or map_files(final, dtypes, verify=False)
        stored = stored or map_files(made, dtypes, verify=False)
        if stored is None:
            raise OSError(f"columns just written to {made} cannot be read")
        return stored
    finally:
        _discard(made)


def _publish(made: str, final: str, dtypes: Mapping[str, str]) -> bool:
    """Give a complete entry its name; false if another process was first."""
    for _ in range(2):
        try:
            os.rename(made, final)
            return True
        except OSError:
            if map_files(final, dtypes, verify=True) is not None:
                return False
            with contextlib.suppress(OSError):
                _remove(final)
    return False


def _evict(folder: str, newest: str, most: int) -> None:
    """Remove what was not used for longest, until the rest fits; and what others have left unfinished."""
    sizes: dict[str, int] = {}
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if entry.name.startswith((_NEW, _OLD)):
                if time.time() - entry.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(entry.path, ignore_errors=True)
            elif _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                sizes[entry.path] = sum(file.stat().st_size for file in os.scandir(entry.path))
    total = sum(sizes.values())
    for path in sorted(sizes, key=last_used):
        if total <= most:
            return
        if path != newest:
            with contextlib.suppress(OSError):
                _remove(path)
                total -= sizes[path]


def _remove(path: str) -> None:
    """Remove an entry, all of it at once for those who look."""
    aside = tempfile.mkdtemp(prefix=_OLD, dir=os.path.dirname(path))
    try:
        os.rename(path, os.path.join(aside, "entry"))
    finally:
        _discard(aside)


def _discard(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        atexit.register(shutil.rmtree, path, ignore_errors=True)
