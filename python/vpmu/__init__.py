"""vpmu: exact simulation of an x86 PMU while a hypervisor shares it between guests and host.

>>> import vpmu
>>> result = vpmu.simulate(vpmu.Scenario(design="dedicated", workload="sysbench-cpu", seconds=0.01))
>>> result.counters[0].value == result.counters[0].ideal
True
"""

from __future__ import annotations

from vpmu_core.pmu import OP_DTYPE, RESULT_DTYPE, Pmu

from ._costs import CostModel, Figure
from ._cpu import Constraint, CpuModel, Skid, cpu, cpus
from ._designs import BareMetal, Dedicated, Design, Emulated, GuestPmu, Mediated, NoPmu, design, designs
from ._errors import GeneralProtectionFault, RecordingError, ScenarioError, UnknownName, VpmuError
from ._events import Event, parse_event
from ._perf import WATCHDOG, HostEvent, PerfRecord, PerfStat
from ._pmi import Pmi
from ._recorded import Recorded, read_recording
from ._result import Counter, Result
from ._scenario import Scenario
from ._sequences import Sequence, sequence, sequences
from ._simulate import compare, simulate
from ._version import VERSION as __version__
from ._workload import EventRates, ExitSource, Workload, workload, workloads

__all__ = [
    "OP_DTYPE",
    "RESULT_DTYPE",
    "WATCHDOG",
    "BareMetal",
    "Constraint",
    "CostModel",
    "Counter",
    "CpuModel",
    "Dedicated",
    "Design",
    "Emulated",
    "Event",
    "EventRates",
    "ExitSource",
    "Figure",
    "GeneralProtectionFault",
    "GuestPmu",
    "HostEvent",
    "Mediated",
    "NoPmu",
    "PerfRecord",
    "PerfStat",
    "Pmi",
    "Pmu",
    "Recorded",
    "RecordingError",
    "Result",
    "Scenario",
    "ScenarioError",
    "Sequence",
    "Skid",
    "UnknownName",
    "VpmuError",
    "Workload",
    "__version__",
    "compare",
    "cpu",
    "cpus",
    "design",
    "designs",
    "parse_event",
    "read_recording",
    "sequence",
    "sequences",
    "simulate",
    "workload",
    "workloads",
]
