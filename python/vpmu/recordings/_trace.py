"""The recording of one vCPU's exits, put together from the time lines of a trace."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vpmu._errors import RecordingError
from vpmu.recordings._lines import counted, one_line
from vpmu.recordings._pmu_exits import MSR_REASONS
from vpmu.recordings._timeline import HANDLED, MSR_WRITE, USERSPACE, VcpuTimeline

_LISTED = 16

_Number = TypeVar("_Number", np.int64, np.uint8, np.uint16)
_Any = TypeVar("_Any", bound=np.generic)


@dataclass(frozen=True, eq=False)
class TraceRecording:
    """The exits of one vCPU, in the order in which they happened.

    All arrays have one element per exit, shape ``(n,)``, n >= 1, and are read-only. Times are integer ns
    since the vCPU's first event (an exit or an entry), with the gaps between segments and the handling of
    dropped exits removed: ``0 <= exit_ns[i] <= entry_ns[i] <= exit_ns[i + 1]`` and
    ``entry_ns[-1] <= length_ns``.

    An exit whose entry is missing (lost or cut, or an MSR access recorded without its exit) is kept with
    ``handled`` False and ``entry_ns == exit_ns``: that it happened is known, how long it took is not.
    An entry without an exit only ends an unknown time.

    Attributes
    ----------
    path : str
        The file.
    dialect : str
        ``"ftrace"`` (also for ``trace-cmd report``) or ``"perf-script"``.
    vcpu : int
        The vCPU.
    vcpus : tuple of int
        All vCPUs in the file that have exits, ascending.
    reasons : tuple of str
        Names of the exit reasons that occur, as recorded.
    exit_ns, entry_ns : ndarray of int64
        When the guest was left and entered again, in ns.
    reason : ndarray of uint16
        Index into `reasons`.
    msr : ndarray of int64
        Address of the MSR accessed; -1 for other exits and when it is unknown.
    msr_write : ndarray of bool
        True if an MSR is written.
    userspace : ndarray of bool
        True if the exit returned to user space (kvm_userspace_exit).
    handled : ndarray of bool
        True if the handling time ``entry_ns - exit_ns`` is recorded; False if it is to be taken from the
        cost model.
    skipped_lines : int
        Lines of the whole file that mention an event of KVM and cannot be read, or are out of order.
    dropped_pmu : int
        Exits of this vCPU left out because the PMU caused them.
    segments : int
        Pieces between gaps of more than a second, at least 1.
    dropped_ns : int
        Time of these gaps.
    preempted_ns : int
        Part of the recorded handling during which the preempted vCPU thread waited for a CPU
        (sched_switch); it is *not* subtracted.
    length_ns : int
        From the first to the last event of the vCPU.
    messages : tuple of str
        Lines for standard error.
    """

    path: str
    dialect: str
    vcpu: int
    vcpus: tuple[int, ...]
    reasons: tuple[str, ...]
    exit_ns: npt.NDArray[np.int64]
    entry_ns: npt.NDArray[np.int64]
    reason: npt.NDArray[np.uint16]
    msr: npt.NDArray[np.int64]
    msr_write: npt.NDArray[np.bool_]
    userspace: npt.NDArray[np.bool_]
    handled: npt.NDArray[np.bool_]
    skipped_lines: int
    dropped_pmu: int
    segments: int
    dropped_ns: int
    preempted_ns: int
    length_ns: int
    messages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.exit_ns)


def recording_of(
    *,
    path: str,
    dialect: str,
    timelines: Sequence[VcpuTimeline],
    reasons: Sequence[str],
    vcpu: int | None,
    skipped_lines: int,
    messages: list[str],
) -> TraceRecording:
    """Choose a vCPU and put its exits into arrays.

    Parameters
    ----------
    path, dialect, skipped_lines
        As in `TraceRecording`.
    timelines : sequence of VcpuTimeline
        All of the trace, finished.
    reasons : sequence of str
        What the time lines' reasons mean.
    vcpu : int or None
        The vCPU's number; None for the one with most exits.
    messages : list of str
        What is to be said already.

    Returns
    -------
    TraceRecording
        The exits.

    Raises
    ------
    RecordingError
        When there is no exit at all, or none of this vCPU.
    """
    by_vcpu = _by_vcpu(timelines, messages)
    if not by_vcpu:
        dropped = sum(timeline.dropped for timeline in timelines)
        why = f"only {counted(dropped, 'exit')} of the PMU itself" if dropped else "no kvm_exit and no kvm_msr"
        raise RecordingError(path, None, f"no exits left: {why}; record kvm_exit and kvm_entry")
    exits = {number: sum(len(part.exit_at) for part in parts) for number, parts in by_vcpu.items()}
    if vcpu is None:
        vcpu = min(exits, key=lambda number: (-exits[number], number))
        if len(exits) > 1:
            messages.append(
                f"{len(exits)} vCPUs in {one_line(path)}, using vCPU {vcpu} ({exits[vcpu]} of "
                f"{sum(exits.values())} exits); choose with --vcpu N"
            )
    elif vcpu not in by_vcpu:
        known = sorted(exits)
        listed = ", ".join(map(str, known[:_LISTED])) + (", …" if len(known) > _LISTED else "")
        raise RecordingError(path, None, f"no exits of vCPU {vcpu}; those with exits: {listed}")
    parts = by_vcpu[vcpu]

    # Threads that follow each other on one vCPU: each begins where the one before it ended.
    starts = accumulate((part.last - part.first for part in parts), initial=0)
    offsets = [start - part.first for start, part in zip(starts, parts, strict=False)]
    exit_ns = _joined([_column(p.exit_at, np.int64) + o for p, o in zip(parts, offsets, strict=True)])
    entry_ns = _joined([_column(p.entry_at, np.int64) + o for p, o in zip(parts, offsets, strict=True)])
    msr = _joined([_column(part.msr, np.int64) for part in parts])
    flags = _joined([_column(part.flags, np.uint8) for part in parts])
    used, reason = np.unique(_joined([_column(p.reason, np.uint16) for p in parts]), return_inverse=True)
    recording = TraceRecording(
        path=path,
        dialect=dialect,
        vcpu=vcpu,
        vcpus=tuple(sorted(exits)),
        reasons=tuple(reasons[index] for index in used.tolist()),
        exit_ns=_frozen(exit_ns),
        entry_ns=_frozen(entry_ns),
        reason=_frozen(reason.astype(np.uint16)),
        msr=_frozen(msr),
        msr_write=_frozen(flags & MSR_WRITE != 0),
        userspace=_frozen(flags & USERSPACE != 0),
        handled=_frozen(flags & HANDLED != 0),
        skipped_lines=skipped_lines,
        dropped_pmu=sum(part.dropped for part in parts),
        segments=sum(1 + part.breaks for part in parts),
        dropped_ns=sum(part.gap_ns for part in parts)
        + sum(max(0, after.begin_absolute - before.end_absolute) for before, after in pairwise(parts)),
        preempted_ns=sum(part.preempted_ns for part in parts),
        length_ns=sum(part.last - part.first for part in parts),
        messages=(),
    )
    return replace(recording, messages=(*messages, *_remarks(recording)))


def _remarks(recording: TraceRecording) -> list[str]:
    """Say what was left out of a recording and what it cannot tell."""
    messages = []
    if recording.segments > 1:
        messages.append(
            f"{counted(recording.segments - 1, 'gap')} (more than a second, or another thread): "
            f"{_seconds(recording.dropped_ns)} dropped, {_seconds(recording.length_ns)} left"
        )
    if recording.dropped_pmu:
        messages.append(f"{counted(recording.dropped_pmu, 'exit')} of the PMU (its MSRs, RDPMC, PMI) dropped")
    if unhandled := int(np.count_nonzero(~recording.handled)):
        messages.append(
            f"{unhandled} of {counted(len(recording), 'exit')} without an entry: handling time from the cost model"
        )
    msr_reasons = [index for index, name in enumerate(recording.reasons) if name in MSR_REASONS]
    if unknown := int(np.count_nonzero(np.isin(recording.reason, msr_reasons) & (recording.msr < 0))):
        messages.append(
            f"{counted(unknown, 'MSR exit')} without the MSR's number (record kvm_msr too): any PMU access "
            "among them is kept"
        )
    if recording.preempted_ns:
        messages.append(f"the vCPU thread, preempted, waited {_seconds(recording.preempted_ns)} while handling exits")
    return messages


def _by_vcpu(every: Sequence[VcpuTimeline], messages: list[str]) -> dict[int, list[VcpuTimeline]]:
    """Give every time line with exits a vCPU number.

    Threads of one number that follow each other are one vCPU in several segments; threads of one
    number at the same time are vCPUs of several VMs, and all but the first get new numbers.
    """
    timelines = sorted((t for t in every if t.exit_at), key=lambda t: t.begin)
    wanted = [t.hint if t.number is None else t.number for t in timelines]
    taken = {number for number in wanted if number is not None}
    by_vcpu: dict[int, list[VcpuTimeline]] = {}
    spare = 0
    renamed: list[tuple[int, int]] = []
    highest = max(taken, default=-1)
    for timeline, asked in zip(timelines, wanted, strict=True):
        if asked is None:
            while spare in taken:
                spare += 1
            number = spare
            taken.add(number)
            highest = max(highest, number)
        elif asked in by_vcpu and by_vcpu[asked][-1].end > timeline.begin:
            number = highest = highest + 1
            taken.add(number)
            renamed.append((asked, number))
        else:
            number = asked
        by_vcpu.setdefault(number, []).append(timeline)
    if renamed:
        old, new = renamed[0]
        more = f" (and {len(renamed) - 1} more)" if len(renamed) > 1 else ""
        messages.append(
            f"several threads run a vCPU {old} at the same time (several VMs?): the second one is called "
            f"vCPU {new} here{more}"
        )
    return by_vcpu


def _column(values: array[int], dtype: type[_Number]) -> npt.NDArray[_Number]:
    """Make an array of a column's memory, which is not copied and not empty."""
    return np.frombuffer(values, dtype=dtype)


def _joined(columns: list[npt.NDArray[_Number]]) -> npt.NDArray[_Number]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _frozen(values: npt.NDArray[_Any]) -> npt.NDArray[_Any]:
    values.flags.writeable = False
    return values


def _seconds(ns: int) -> str:
    """Format a time exactly, without trailing zeros."""
    return f"{ns // 10**9}.{ns % 10**9:09d}".rstrip("0").rstrip(".") + " s"
