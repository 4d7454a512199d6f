"""The recording of one vCPU's exits, put together from the time lines of a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vpmu._errors import RecordingError
from vpmu.recordings import _cache, _trace_columns
from vpmu.recordings._columns import Append, Stored, in_memory
from vpmu.recordings._lines import counted, one_line
from vpmu.recordings._spool import Spool
from vpmu.recordings._trace_columns import COLUMNS, Survey
from vpmu_core.vcpu_trace import VcpuTimeline

_LISTED = 16
_IN_MEMORY = 1 << 16  # exits that need no file
_PATH = "\0"  # stands for the file's name in what is kept, for the same content may have another one


@dataclass(frozen=True, eq=False)
class TraceRecording:
    """The exits of one vCPU, in the order in which they happened.

    All arrays have one element per exit, shape ``(n,)``, n >= 1, and are read-only; those of a long trace are mapped
    files and take no memory. Times are integer ns
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
    kind : ndarray of uint16
        Index into `kinds`.
    kinds : tuple of (int, int, bool), or None
        The combinations of reason, MSR and userspace exit that occur, ascending; None if there are more than 65,536.
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
    key : str or None
        Name of the content, of the choice of vCPU and of vpmu's version, if the exits are kept in the cache.
    """

    path: str
    dialect: str
    vcpu: int
    vcpus: tuple[int, ...]
    reasons: tuple[str, ...]
    exit_ns: npt.NDArray[np.int64]
    entry_ns: npt.NDArray[np.int64]
    reason: npt.NDArray[np.uint16]
    kind: npt.NDArray[np.uint16]
    kinds: tuple[tuple[int, int, bool], ...] | None
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
    key: str | None

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
    spool: Spool,
    key: str | None,
    progress: Callable[[str, int, int], None] | None,
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
    spool : Spool
        Has the time lines' exits.
    key : str or None
        What to keep the exits under; with None, few stay in memory, and many on disk for as long as they are used.
    progress : callable, optional
        Called with (what is done, exits so far, exits to do).

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
    exits = {number: sum(part.count for part in parts) for number, parts in by_vcpu.items()}
    if vcpu is None:
        vcpu = min(exits, key=lambda number: (-exits[number], number))
        if len(exits) > 1:
            messages.append(
                f"{len(exits)} vCPUs in {_PATH}, using vCPU {vcpu} ({exits[vcpu]} of "
                f"{sum(exits.values())} exits); choose with --vcpu N"
            )
    elif vcpu not in by_vcpu:
        known = sorted(exits)
        listed = ", ".join(map(str, known[:_LISTED])) + (", …" if len(known) > _LISTED else "")
        raise RecordingError(path, None, f"no exits of vCPU {vcpu}; those with exits: {listed}")
    parts = by_vcpu[vcpu]

    def fill(append: Append) -> dict[str, Any]:
        survey = _trace_columns.fill(append, parts, spool, reasons, progress)
        values = {
            "dialect": dialect,
            "vcpu": vcpu,
            "vcpus": sorted(exits),
            "reasons": survey.reasons,
            "kinds": survey.kinds,
            "skipped_lines": skipped_lines,
            "dropped_pmu": sum(part.dropped for part in parts),
            "segments": sum(1 + part.breaks for part in parts),
            "dropped_ns": sum(part.gap_ns for part in parts)
            + sum(max(0, after.begin_absolute - before.end_absolute) for before, after in pairwise(parts)),
            "preempted_ns": sum(part.preempted_ns for part in parts),
            "length_ns": sum(part.last - part.first for part in parts),
        }
        return {**values, "messages": [*messages, *_remarks(values, exits[vcpu], survey)]}

    if key is None and exits[vcpu] <= _IN_MEMORY:
        return recording_from(path, None, in_memory(COLUMNS, fill))
    return recording_from(path, key, _cache.keep(key, COLUMNS, fill))


def recording_from(path: str, key: str | None, stored: Stored) -> TraceRecording:
    """Make a recording of its stored exits.

    Parameters
    ----------
    path : str
        The file.
    key : str or None
        What they are kept under, if they are.
    stored : Stored
        What `recording_of` stored.
    """
    values = {**stored.columns, **stored.values}
    messages = [message.replace(_PATH, one_line(path)) for message in values.pop("messages")]
    if stored.note:
        messages.append(stored.note)
    for name in ("vcpus", "reasons"):
        values[name] = tuple(values[name])
    if values["kinds"] is not None:
        values["kinds"] = tuple((reason, msr, bool(userspace)) for reason, msr, userspace in values["kinds"])
    return TraceRecording(path=path, key=key, messages=tuple(messages), **values)


def _remarks(values: Mapping[str, Any], count: int, survey: Survey) -> list[str]:
    """Say what was left out of a recording and what it cannot tell."""
    messages = []
    if values["segments"] > 1:
        messages.append(
            f"{counted(values['segments'] - 1, 'gap')} (more than a second, or another thread): "
            f"{_seconds(values['dropped_ns'])} dropped, {_seconds(values['length_ns'])} left"
        )
    if values["dropped_pmu"]:
        messages.append(f"{counted(values['dropped_pmu'], 'exit')} of the PMU (its MSRs, RDPMC, PMI) dropped")
    if survey.unhandled:
        messages.append(
            f"{survey.unhandled} of {counted(count, 'exit')} without an entry: handling time from the cost model"
        )
    if survey.unknown_msr:
        messages.append(
            f"{counted(survey.unknown_msr, 'MSR exit')} without the MSR's number (record kvm_msr too): any PMU access "
            "among them is kept"
        )
    if values["preempted_ns"]:
        messages.append(f"the vCPU thread, preempted, waited {_seconds(values['preempted_ns'])} while handling exits")
    return messages


def _by_vcpu(every: Sequence[VcpuTimeline], messages: list[str]) -> dict[int, list[VcpuTimeline]]:
    """Give every time line with exits a vCPU number.

    Threads of one number that follow each other are one vCPU in several segments; threads of one
    number at the same time are vCPUs of several VMs, and all but the first get new numbers.
    """
    timelines = sorted((t for t in every if t.count), key=lambda t: t.begin)
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


def _seconds(ns: int) -> str:
    """Format a time exactly, without trailing zeros."""
    return f"{ns // 10**9}.{ns % 10**9:09d}".rstrip("0").rstrip(".") + " s"
