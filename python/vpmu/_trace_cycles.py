"""A recorded trace in cycles of a CPU, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ._costs import CostModel
from ._cpu import CpuModel
from ._exits import KINDS, ExitKind, exit_kind
from ._mapped import BLOCK, release
from ._plan import PlannedExit, Trace
from .recordings import TraceRecording, _cache
from .recordings._columns import Append, in_memory

_COLUMNS = {"gap": "<i8", "handling": "<i8", "idle": "<i8"}
_BLOCK = 1 << 15
_IN_MEMORY = 1 << 16  # exits that need no file

Converted = tuple[tuple[PlannedExit, ...], Trace]
Progress = Callable[[str, int, int], None]

# What was converted last, of each recording that is in use: designs are compared on one and the same.
_LAST: WeakKeyDictionary[TraceRecording, tuple[object, Converted]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Costs:
    """What decides the cycles of the exits of one CPU.

    Parameters
    ----------
    hz : int
        Its clock.
    transition : int
        Cycles of the bare transition, both ways.
    took : tuple of int
        By kind, handling of an exit without an entry on the machine that was recorded.
    default : tuple of int
        The same on the machine that replays, and what a blocking exit takes besides sleeping.
    blocks : tuple of bool
        By kind.
    """

    hz: int
    transition: int
    took: tuple[int, ...]
    default: tuple[int, ...]
    blocks: tuple[bool, ...]


def convert(
    recording: TraceRecording,
    kinds: Sequence[tuple[int, int, bool]],
    cpu: CpuModel,
    costs: CostModel | None,
    repeat: bool,
    progress: Progress | None,
) -> Converted:
    """Make the exits of a plan; those of a long trace are kept in the cache like the recording.

    Absolute times are rounded to cycles, then subtracted. A gap is what lies between two tracepoints less the bare
    transition, which the tracepoints do not see; exits without an entry took what the CPU's own costs say. What is
    then too long for a gap is taken from the next ones, so that the length stays what was recorded.

    Parameters
    ----------
    recording : TraceRecording
    kinds : sequence of (int, int, bool)
        Its kinds.
    cpu, costs, repeat, progress
        As in ``Recorded.trace``.
    """
    own = cpu.known_costs()
    found = [
        exit_kind(recording.reasons[reason], msr=None if msr < 0 else msr, userspace=userspace)
        for reason, msr, userspace in kinds
    ]
    names = [_cost_name(kind) for kind in found]
    model = _Costs(
        hz=cpu.core_hz.value,
        transition=own["vm_exit"].value + own["vm_entry"].value,
        took=tuple(own[name].value for name in names),
        default=tuple((costs or own)[name].value for name in names),
        blocks=tuple(kind.blocks for kind in found),
    )
    planned = tuple(
        PlannedExit(kind.reason, KINDS.index(kind.kind), kind.cpl, kind.emulates, default, 0)
        for kind, default in zip(found, model.default, strict=True)
    )
    wanted = (planned, model, repeat)
    last = _LAST.get(recording)
    if last is not None and last[0] == wanted:
        return last[1]
    columns = _columns(recording, model, progress)
    converted = planned, Trace(columns["gap"], recording.kind, columns["handling"], columns["idle"], repeat)
    _LAST[recording] = wanted, converted
    return converted


def _cost_name(kind: ExitKind) -> str:
    return "handling_hlt" if kind.blocks else f"handling_{kind.kind}"


def _columns(recording: TraceRecording, model: _Costs, progress: Progress | None) -> dict[str, npt.NDArray[Any]]:
    def fill(append: Append) -> dict[str, Any]:
        _fill(append, recording, model, progress)
        return {}

    if recording.key is None:
        few = len(recording) <= _IN_MEMORY
        return (in_memory(_COLUMNS, fill) if few else _cache.keep(None, _COLUMNS, fill)).columns
    key = _cache.key_of("cycles", recording.key, model)
    stored = _cache.find(key, _COLUMNS)
    return (_cache.keep(key, _COLUMNS, fill) if stored is None else stored).columns


def _fill(append: Append, recording: TraceRecording, model: _Costs, progress: Progress | None) -> None:
    took_default = np.array(model.took, dtype=np.int64)
    handling_default = np.array(model.default, dtype=np.int64)
    blocking = np.array(model.blocks, dtype=bool)
    # Of the exits before this block: end of the last one, sum of their gaps, the greatest such sum so far.
    end = total = work = 0
    read = (recording.kind, recording.handled, recording.exit_ns, recording.entry_ns)
    for start in range(0, len(recording), _BLOCK):
        rows = slice(start, start + _BLOCK)
        if start % BLOCK == 0:
            release(*read)
        kind, handled = recording.kind[rows], recording.handled[rows]
        exit_at = _cycles(recording.exit_ns[rows], model.hz)
        recorded = _cycles(recording.entry_ns[rows], model.hz) - exit_at
        default = handling_default[kind]
        blocks = blocking[kind]
        took = np.where(handled, recorded, took_default[kind])
        handling = np.where(handled, recorded, default)
        idle = np.where(blocks, np.maximum(handling - default, 0), 0)
        handling = np.where(blocks, np.minimum(handling, default), handling)
        ends = exit_at + took
        sums = total + np.cumsum(exit_at - np.concatenate([[end], ends[:-1]]) - model.transition)
        works = np.maximum.accumulate(np.maximum(sums, work))
        append({"gap": np.diff(works, prepend=work), "handling": handling, "idle": idle})
        end, total, work = int(ends[-1]), int(sums[-1]), int(works[-1])
        if progress is not None:
            progress("converting", min(start + _BLOCK, len(recording)), len(recording))
    release(*read)


def _cycles(ns: npt.NDArray[np.int64], hz: int) -> npt.NDArray[np.int64]:
    """Nanoseconds to cycles, rounded half up, in integers (whole seconds apart, so that nothing overflows)."""
    seconds, rest = np.divmod(ns.astype(np.int64), 10**9)
    cycles: npt.NDArray[np.int64] = seconds * hz + (rest * hz + 5 * 10**8) // 10**9
    return cycles
