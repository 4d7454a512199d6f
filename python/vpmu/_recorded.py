"""A recording bound to what it does not say itself: duration, vCPUs, event rates."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ._costs import CostModel
from ._cpu import CpuModel
from ._errors import ScenarioError
from ._plan import PlannedExit, Trace
from ._trace_cycles import Progress, convert
from ._workload import Exact, Workload, check_integer, exact, table_workload
from ._workload_file import workload
from .recordings import TableRecording, TraceRecording, parse_recording
from .recordings._trace_columns import MAX_KINDS


@dataclass(frozen=True, eq=False)
class Recorded:
    """A recording ready to be simulated; made by :func:`read_recording`.

    Parameters
    ----------
    recording : TableRecording or TraceRecording
    rates : Workload
        Gives the event rates and the user share, which no recording holds.
    recorded_seconds : Fraction or None
        Length of a table.
    vcpus : int
        vCPUs that a table's counts and times add up.
    repeat : bool
        Loop a trace.
    """

    recording: TableRecording | TraceRecording
    rates: Workload
    recorded_seconds: Fraction | None = None
    vcpus: int = 1
    repeat: bool = False

    @property
    def name(self) -> str:
        """File name."""
        return os.path.basename(self.recording.path)

    @property
    def messages(self) -> tuple[str, ...]:
        """What the reader chose, skipped or dropped, one line each."""
        return self.recording.messages

    @property
    def trace_seconds(self) -> Fraction | None:
        """Length of a trace that is replayed once; None for a table or a loop."""
        if isinstance(self.recording, TableRecording) or self.repeat:
            return None
        return Fraction(max(self.recording.length_ns, 1), 10**9)

    def to_dict(self) -> dict[str, Any]:
        """What was read and how, and what was left out; plain values."""
        recording = self.recording
        table = isinstance(recording, TableRecording)
        return {
            "path": recording.path,
            "table": recording.table if isinstance(recording, TableRecording) else None,
            "vcpu": recording.vcpu if isinstance(recording, TraceRecording) else None,
            "recorded_seconds": None if self.recorded_seconds is None else float(self.recorded_seconds),
            "vcpus": self.vcpus if table else None,
            "rates": self.rates.name,
            "repeat": self.repeat,
            "skipped_lines": recording.skipped_lines,
            "dropped_pmu_exits": recording.dropped_pmu,
        }

    def workload(self) -> Workload:
        """The table as a workload of one vCPU."""
        if not isinstance(self.recording, TableRecording):
            raise ScenarioError(f"{self.name} is a trace, which is replayed and has no rates")
        if self.recorded_seconds is None:
            raise ScenarioError(f"{self.name} is a table and has no duration; give --recorded-seconds S")
        return table_workload(
            self.recording.rows,
            recorded_seconds=self.recorded_seconds,
            vcpus=self.vcpus,
            rates=self.rates,
            name=self.name,
        )

    def trace(
        self, cpu: CpuModel, costs: CostModel | None = None, progress: Progress | None = None
    ) -> tuple[tuple[PlannedExit, ...], Trace]:
        """The trace in cycles of a CPU: its kinds of exit, and the exits.

        Parameters
        ----------
        cpu : CpuModel
            Clock, and the costs of the machine that was recorded.
        costs : CostModel, optional
            Costs of the machine that replays; those of the CPU by default.
        progress : callable, optional
            Called with (what is done, exits so far, exits to do) now and then.
        """
        recording = self.recording
        if not isinstance(recording, TraceRecording):
            raise ScenarioError(f"{self.name} is a table, which has rates and is not replayed")
        if recording.kinds is None:
            raise ScenarioError(f"{self.name}: more than {MAX_KINDS} kinds of exit are too many; cut the trace")
        return convert(recording, recording.kinds, cpu, costs, self.repeat, progress)


def read_recording(
    path: str | os.PathLike[str],
    *,
    recorded_seconds: Exact | None = None,
    table: int | None = None,
    vcpus: int = 1,
    vcpu: int | None = None,
    rates: str | Workload = "generic",
    repeat: bool = False,
    progress: Progress | None = None,
) -> Recorded:
    """Read what people really have: a table of ``perf kvm stat``, or a text trace of kvm_exit and kvm_entry.

    Parameters
    ----------
    path : path-like
        The file; what it holds is found out by looking.
    recorded_seconds : number, optional
        How long a table was recorded; a table does not say.
    table : int, optional
        Which table of the file, from 1; the first by default.
    vcpus : int
        How many vCPUs a table's counts and times add up.
    vcpu : int, optional
        Which vCPU of a trace; the one with most exits by default.
    rates : str or Workload
        Event rates and user share, which no recording holds.
    repeat : bool
        Loop a trace.
    progress : callable, optional
        Called with (what is done, so far, to do) now and then while the file is read.

    Returns
    -------
    Recorded
        To be given to a Scenario as its workload.

    Raises
    ------
    RecordingError
        If the file cannot be read; with file and line.
    ScenarioError, UnknownName
        For an option that does not fit.
    """
    check_integer(vcpus, 1, 1 << 20, "vcpus")
    for what, number in (("table", table), ("vcpu", vcpu)):
        if isinstance(number, bool) or not isinstance(number, int | None):
            raise ScenarioError(f"{what} {number!r} must be an integer")
    if not isinstance(repeat, bool):
        raise ScenarioError(f"repeat {repeat!r} must be true or false")
    if not isinstance(rates, str | Workload):
        raise ScenarioError(f"rates {rates!r} must be the name of a workload, such as 'generic'")
    length = None
    if recorded_seconds is not None:
        length = positive_seconds(recorded_seconds, "recorded-seconds")
    recording = parse_recording(os.fspath(path), table=table, vcpu=vcpu, progress=progress)
    if isinstance(recording, TraceRecording):
        if length is not None or table is not None or vcpus != 1:
            raise ScenarioError(f"{path} is a trace; recorded-seconds, table and vcpus belong to tables")
    elif vcpu is not None or repeat:
        raise ScenarioError(f"{path} is a table; vcpu and repeat belong to traces")
    bound = workload(rates) if isinstance(rates, str) else rates
    return Recorded(recording, bound, length, vcpus, repeat)


def positive_seconds(value: Exact, what: str) -> Fraction:
    """A positive, finite number of seconds, exactly as it was written; raises ScenarioError."""
    seconds = exact(value, what)
    if not 0 < seconds < 10**9:
        raise ScenarioError(f"{what} {value} must be more than 0 and less than 10**9")
    return seconds
