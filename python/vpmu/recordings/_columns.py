"""Columns of numbers that grow block by block: in memory, or as .npy files that are mapped when they are complete."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from vpmu._mapped import map_column

Column = npt.NDArray[Any]
Append = Callable[[Mapping[str, Column]], None]
"""Takes the next rows of every column."""

Fill = Callable[[Append], dict[str, Any]]
"""Appends all rows and returns what else there is to know, in plain values."""

_HEADER = 128
_PIECE = 1 << 20
_META = "meta.json"


class Stored(NamedTuple):
    """Complete columns.

    Attributes
    ----------
    columns : dict of str to ndarray
        Read-only, all of one length.
    values : dict
        What else there is to know.
    note : str
        Why they are not where they should be, for standard error; or empty.
    """

    columns: dict[str, Column]
    values: dict[str, Any]
    note: str = ""


def in_memory(dtypes: Mapping[str, str], fill: Fill) -> Stored:
    """Collect few rows.

    Parameters
    ----------
    dtypes : mapping of str to str
        The columns.
    fill : callable
        Appends the rows.
    """
    pieces: dict[str, list[Column]] = {name: [] for name in dtypes}

    def append(rows: Mapping[str, Column]) -> None:
        for name, piece in pieces.items():
            piece.append(rows[name].astype(dtypes[name]))

    values = fill(append)
    columns = {name: np.concatenate(piece) for name, piece in pieces.items()}
    for column in columns.values():
        column.flags.writeable = False
    return Stored(columns, values)


def write_files(folder: str, dtypes: Mapping[str, str], fill: Fill) -> int:
    """Write columns as files; what tells that they are complete is written last.

    Parameters
    ----------
    folder : str
        An empty directory.
    dtypes : mapping of str to str
        The columns.
    fill : callable
        Appends the rows.

    Returns
    -------
    int
        Bytes written.
    """
    files: dict[str, BinaryIO] = {}
    checks = dict.fromkeys(dtypes, 0)
    count = 0

    def append(rows: Mapping[str, Column]) -> None:
        nonlocal count
        for name, file in files.items():
            data = np.ascontiguousarray(rows[name], dtype=dtypes[name]).tobytes()
            checks[name] = zlib.crc32(data, checks[name])
            file.write(data)
        count += len(rows[next(iter(dtypes))])

    try:
        for name in dtypes:
            files[name] = open(_file(folder, name), "xb")  # noqa: SIM115 (closed below)
            files[name].write(bytes(_HEADER))
        values = fill(append)
        for name, file in files.items():
            file.seek(0)
            file.write(_header(dtypes[name], count))
    finally:
        for file in files.values():
            file.close()
    body = json.dumps({"count": count, "dtypes": dict(dtypes), "crc32": checks, "values": values})
    with open(os.path.join(folder, _META), "x", encoding="utf-8") as meta:
        json.dump({"body": body, "crc32": zlib.crc32(body.encode())}, meta)
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def map_files(folder: str, dtypes: Mapping[str, str], verify: bool) -> Stored | None:
    """Map complete columns.

    Parameters
    ----------
    folder : str
        Where ``write_files`` wrote them.
    dtypes : mapping of str to str
        The columns.
    verify : bool
        Read all of them and compare checksums.

    Returns
    -------
    Stored or None
        None if anything is missing, of another kind or damaged.
    """
    try:
        with open(os.path.join(folder, _META), encoding="utf-8") as file:
            meta = json.load(file)
        if zlib.crc32(meta["body"].encode()) != meta["crc32"]:
            return None
        body = json.loads(meta["body"])
        if body["dtypes"] != dict(dtypes):
            return None
        for name, dtype in dtypes.items():
            if not _intact(_file(folder, name), dtype, body["count"], body["crc32"][name] if verify else None):
                return None
        columns = {
            name: map_column(_file(folder, name), dtype, _HEADER, body["count"]) for name, dtype in dtypes.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Stored(columns, body["values"])


def touch(folder: str) -> None:
    """Note that the columns were used now."""
    os.utime(os.path.join(folder, _META))


def last_used(folder: str) -> float:
    """When the columns were written or used; the oldest of times if they are not complete."""
    try:
        return os.stat(os.path.join(folder, _META)).st_mtime
    except OSError:
        return 0.0


def _file(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.npy")


def _header(dtype: str, count: int) -> bytes:
    """NPY format 1.0, of the same length for every count."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (count,)}
    magic = np.lib.format.magic(1, 0)
    length = _HEADER - len(magic) - 2
    return magic + length.to_bytes(2, "little") + repr(described).ljust(length - 1).encode() + b"\n"


def _intact(path: str, dtype: str, count: int, crc32: int | None) -> bool:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != _HEADER + count * np.dtype(dtype).itemsize:
            return False
        if file.read(_HEADER) != _header(dtype, count):
            return False
        if crc32 is None:
            return True
        found = 0
        while piece := file.read(_PIECE):
            found = zlib.crc32(piece, found)
        return found == crc32
