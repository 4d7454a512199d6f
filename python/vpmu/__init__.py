"""vpmu: exact simulation of an x86 PMU while a hypervisor shares it between guests and host.

>>> import vpmu
>>> result = vpmu.simulate(vpmu.Scenario(design="dedicated", workload="sysbench-cpu", seconds=0.01))
>>> result.counters[0].value == result.counters[0].ideal
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpmu_core.pmu import OP_DTYPE as OP_DTYPE
    from vpmu_core.pmu import RESULT_DTYPE as RESULT_DTYPE
    from vpmu_core.pmu import Pmu as Pmu

    from ._costs import CostModel as CostModel
    from ._costs import Figure as Figure
    from ._counter import Counter as Counter
    from ._cpu import Constraint as Constraint
    from ._cpu import CpuModel as CpuModel
    from ._cpu import Skid as Skid
    from ._cpu import cpu as cpu
    from ._cpu import cpus as cpus
    from ._cpuid import Cpuid as Cpuid
    from ._designs import BareMetal as BareMetal
    from ._designs import Dedicated as Dedicated
    from ._designs import Design as Design
    from ._designs import Emulated as Emulated
    from ._designs import GuestPmu as GuestPmu
    from ._designs import Mediated as Mediated
    from ._designs import NoPmu as NoPmu
    from ._direct_capture import DirectCapture as DirectCapture
    from ._errors import EventFileError as EventFileError
    from ._errors import EventFilterError as EventFilterError
    from ._errors import GeneralProtectionFault as GeneralProtectionFault
    from ._errors import RecordingError as RecordingError
    from ._errors import ScenarioError as ScenarioError
    from ._errors import UnknownName as UnknownName
    from ._errors import VpmuError as VpmuError
    from ._event_files import FileEvent as FileEvent
    from ._event_files import read_events as read_events
    from ._event_filter import EventFilter as EventFilter
    from ._event_filter import MaskedEvent as MaskedEvent
    from ._events import Event as Event
    from ._events import EventSpec as EventSpec
    from ._events import event as event
    from ._events import parse_event as parse_event
    from ._filter_schedule import read_event_filter as read_event_filter
    from ._many import Batch as Batch
    from ._many import simulate_many as simulate_many
    from ._mediated_semi import MediatedSemi as MediatedSemi
    from ._passthrough import Passthrough as Passthrough
    from ._perf import WATCHDOG as WATCHDOG
    from ._perf import GuestWatchdog as GuestWatchdog
    from ._perf import HostEvent as HostEvent
    from ._perf import PerfRecord as PerfRecord
    from ._perf import PerfStat as PerfStat
    from ._pmi import Pmi as Pmi
    from ._quirks import quirks as quirks
    from ._recorded import Recorded as Recorded
    from ._recorded import read_recording as read_recording
    from ._registry import design as design
    from ._registry import designs as designs
    from ._result import Result as Result
    from ._scenario import Scenario as Scenario
    from ._sequences import Sequence as Sequence
    from ._sequences import read_sequence as read_sequence
    from ._sequences import sequence as sequence
    from ._sequences import sequences as sequences
    from ._simulate import compare as compare
    from ._simulate import simulate as simulate
    from ._vcpu import Vcpu as Vcpu
    from ._vcpu_result import VcpuResult as VcpuResult
    from ._version import __version__ as __version__
    from ._virtualized import Virtualized as Virtualized
    from ._workload import EventRates as EventRates
    from ._workload import ExitSource as ExitSource
    from ._workload import Workload as Workload
    from ._workload_file import parse_workload as parse_workload
    from ._workload_file import rates_names as rates_names
    from ._workload_file import workload as workload
    from ._workload_file import workloads as workloads

# Where each public name lives; it is imported on first use, so that importing vpmu costs next to nothing.
_HOME = {
    "OP_DTYPE": "vpmu_core.pmu",
    "Pmu": "vpmu_core.pmu",
    "RESULT_DTYPE": "vpmu_core.pmu",
    "CostModel": "vpmu._costs",
    "Figure": "vpmu._costs",
    "Constraint": "vpmu._cpu",
    "CpuModel": "vpmu._cpu",
    "Skid": "vpmu._cpu",
    "cpu": "vpmu._cpu",
    "cpus": "vpmu._cpu",
    "Cpuid": "vpmu._cpuid",
    "BareMetal": "vpmu._designs",
    "Dedicated": "vpmu._designs",
    "DirectCapture": "vpmu._direct_capture",
    "Design": "vpmu._designs",
    "Emulated": "vpmu._designs",
    "GuestPmu": "vpmu._designs",
    "Mediated": "vpmu._designs",
    "MediatedSemi": "vpmu._mediated_semi",
    "Passthrough": "vpmu._passthrough",
    "Virtualized": "vpmu._virtualized",
    "NoPmu": "vpmu._designs",
    "design": "vpmu._registry",
    "designs": "vpmu._registry",
    "EventFileError": "vpmu._errors",
    "EventFilterError": "vpmu._errors",
    "GeneralProtectionFault": "vpmu._errors",
    "RecordingError": "vpmu._errors",
    "ScenarioError": "vpmu._errors",
    "UnknownName": "vpmu._errors",
    "VpmuError": "vpmu._errors",
    "FileEvent": "vpmu._event_files",
    "read_events": "vpmu._event_files",
    "EventFilter": "vpmu._event_filter",
    "MaskedEvent": "vpmu._event_filter",
    "read_event_filter": "vpmu._filter_schedule",
    "Event": "vpmu._events",
    "EventSpec": "vpmu._events",
    "event": "vpmu._events",
    "parse_event": "vpmu._events",
    "Batch": "vpmu._many",
    "simulate_many": "vpmu._many",
    "HostEvent": "vpmu._perf",
    "GuestWatchdog": "vpmu._perf",
    "PerfRecord": "vpmu._perf",
    "PerfStat": "vpmu._perf",
    "WATCHDOG": "vpmu._perf",
    "Pmi": "vpmu._pmi",
    "quirks": "vpmu._quirks",
    "Recorded": "vpmu._recorded",
    "read_recording": "vpmu._recorded",
    "Counter": "vpmu._counter",
    "Result": "vpmu._result",
    "Scenario": "vpmu._scenario",
    "Vcpu": "vpmu._vcpu",
    "VcpuResult": "vpmu._vcpu_result",
    "Sequence": "vpmu._sequences",
    "read_sequence": "vpmu._sequences",
    "sequence": "vpmu._sequences",
    "sequences": "vpmu._sequences",
    "compare": "vpmu._simulate",
    "simulate": "vpmu._simulate",
    "__version__": "vpmu._version",
    "EventRates": "vpmu._workload",
    "ExitSource": "vpmu._workload",
    "Workload": "vpmu._workload",
    "parse_workload": "vpmu._workload_file",
    "rates_names": "vpmu._workload_file",
    "workload": "vpmu._workload_file",
    "workloads": "vpmu._workload_file",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vpmu' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
