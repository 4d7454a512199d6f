"""Columns that are mapped from files: read in place, and given back when they have been read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 19
"""Rows after which pages are given back: as many exits as a machine skips between two returns to Python."""


def map_column(path: str, dtype: str, offset: int, count: int) -> npt.NDArray[Any]:
    """Map the numbers of a file, read-only.

    Parameters
    ----------
    path : str
        The file.
    dtype : str
        What is in it.
    offset : int
        Where they begin.
    count : int
        How many there are.
    """
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray((count,), dtype, mapping, offset)


def release(*columns: npt.NDArray[Any]) -> None:
    """Take the pages of mapped columns from this process; they come back from the file when they are read again.

    Without this, what has been read of a long column would count as memory of the process until somebody else needs it.

    Parameters
    ----------
    *columns : ndarray
        Those that ``map_column`` did not make are left alone.
    """
    for column in columns:
        owner: object = column.base
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)


def blocks(length: int, *columns: npt.NDArray[Any]) -> Iterator[slice]:
    """Go through the first rows of columns, and give back what has been read.

    Parameters
    ----------
    length : int
        How many rows.
    *columns : ndarray
        What is read.
    """
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))
        release(*columns)
