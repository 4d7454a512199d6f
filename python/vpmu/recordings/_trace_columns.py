"""From spooled exits of a trace to columns, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vpmu.recordings._columns import Append
from vpmu.recordings._pmu_exits import MSR_REASONS
from vpmu.recordings._spool import Spool
from vpmu_core.vcpu_trace import FLAGS, ROW, VcpuTimeline

COLUMNS = {
    "exit_ns": "<i8",
    "entry_ns": "<i8",
    "reason": "<u2",
    "msr": "<i8",
    "msr_write": "|b1",
    "userspace": "|b1",
    "handled": "|b1",
    "kind": "<u2",
}
"""The columns of a recording and their types."""

MAX_KINDS = 1 << 16
"""Kinds that their index can tell apart."""

_ROW = np.dtype(list(ROW))
_BLOCK = 1 << 15


class Survey(NamedTuple):
    """What is known of the exits when all of them have been seen.

    Attributes
    ----------
    reasons : list of str
        Those that occur.
    kinds : list of (int, int, int), or None
        Reason, MSR and userspace of those that occur, ascending; None if they are too many.
    unhandled : int
        Exits without an entry.
    unknown_msr : int
        Exits that access an MSR of unknown address.
    """

    reasons: list[str]
    kinds: list[tuple[int, int, int]] | None
    unhandled: int
    unknown_msr: int


def fill(
    append: Append,
    parts: Sequence[VcpuTimeline],
    spool: Spool,
    reasons: Sequence[str],
    progress: Callable[[str, int, int], None] | None,
) -> Survey:
    """Append the exits of the time lines of one vCPU, one after the other.

    Parameters
    ----------
    append : callable
        Takes rows of `COLUMNS`.
    parts : sequence of VcpuTimeline
        Threads that follow each other, finished.
    spool : Spool
        Has their exits.
    reasons : sequence of str
        What the time lines' reasons mean.
    progress : callable, optional
        Called with ("sorting", exits so far, exits to do); every exit is looked at twice.
    """
    done, to_do = 0, 2 * sum(part.count for part in parts)

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("sorting", done, to_do)

    accesses = np.array([name in MSR_REASONS for name in reasons], dtype=bool)
    used = np.zeros(len(reasons), dtype=bool)
    known = np.zeros(0, dtype=np.int64)
    unhandled = unknown_msr = 0
    for part in parts:
        for rows in _blocks(part, spool):
            used[rows["reason"]] = True
            unhandled += len(rows) - int(np.count_nonzero(rows["flags"] & FLAGS["handled"]))
            unknown_msr += int(np.count_nonzero(accesses[rows["reason"]] & (rows["msr"] < 0)))
            if len(known) <= MAX_KINDS:
                known = _with(known, _kind_keys(rows))
            report(len(rows))
    number = np.cumsum(used) - 1
    countable = len(known) <= MAX_KINDS

    # Each thread begins where the one before it ended.
    starts = accumulate((part.last - part.first for part in parts), initial=0)
    for part, start in zip(parts, starts, strict=False):
        for rows in _blocks(part, spool):
            append(_columns(rows, start - part.first, number, known if countable else None))
            report(len(rows))
    kinds = [(int(number[key >> 34]), (key >> 1 & (1 << 33) - 1) - 1, key & 1) for key in known.tolist()]
    return Survey(
        [name for name, occurs in zip(reasons, used.tolist(), strict=True) if occurs],
        kinds if countable else None,
        unhandled,
        unknown_msr,
    )


def _columns(
    rows: npt.NDArray[np.void], offset: int, number: npt.NDArray[np.int64], known: npt.NDArray[np.int64] | None
) -> dict[str, npt.NDArray[Any]]:
    flags = rows["flags"]
    return {
        "exit_ns": rows["exit_at"] + offset,
        "entry_ns": rows["entry_at"] + offset,
        "reason": number[rows["reason"]],
        "msr": rows["msr"],
        "msr_write": flags & FLAGS["msr_write"] != 0,
        "userspace": flags & FLAGS["userspace"] != 0,
        "handled": flags & FLAGS["handled"] != 0,
        "kind": np.zeros(len(rows), np.int64) if known is None else np.searchsorted(known, _kind_keys(rows)),
    }


def _kind_keys(rows: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Reason, MSR (-1 below all others) and userspace in one number, in this order."""
    keys: npt.NDArray[np.int64] = rows["reason"].astype(np.int64) << 34
    keys |= rows["msr"] + 1 << 1
    keys |= rows["flags"] & FLAGS["userspace"] != 0
    return keys


def _with(known: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add keys to ascending ones; most blocks have no new ones, which is told without sorting them."""
    if len(known):
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        keys = keys[known[place] != keys]
        if not len(keys):
            return known
    return np.union1d(known, keys)


def _blocks(part: VcpuTimeline, spool: Spool) -> Iterator[npt.NDArray[np.void]]:
    """The exits of a time line in blocks of some tens of thousands."""
    pieces: list[bytes] = []
    waiting = 0
    for at, count in zip(part.chunks[::2], part.chunks[1::2], strict=True):
        pieces.append(spool.read(at, count * _ROW.itemsize))
        waiting += count
        if waiting >= _BLOCK:
            yield np.frombuffer(b"".join(pieces), dtype=_ROW)
            pieces.clear()
            waiting = 0
    if waiting:
        yield np.frombuffer(b"".join(pieces), dtype=_ROW)
