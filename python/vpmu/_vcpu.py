"""One of several vCPUs of a scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._designs import Design, GuestPmu
from ._errors import ScenarioError
from ._perf import GuestPerf
from ._recorded import Recorded
from ._workload import Workload

#: Most vCPUs of one logical CPU; vpmu_core.logicalcpu has room for as many.
MAX_VCPUS = 64


@dataclass(frozen=True)
class Vcpu:
    """A vCPU that shares its logical CPU; what is None is the scenario's.

    KVM has an event filter and a guest's PMU (CPUID) for each VM. All other options of a design are the host kernel's:
    they may differ here from vCPU to vCPU, to be compared side by side.

    Parameters
    ----------
    workload : str, Workload or Recorded, optional
    guest_perf : sequence of PerfStat, PerfRecord, GuestWatchdog or str, optional
        ``()`` for nobody.
    design : str or Design, optional
        The scenario's design with options of this VM's own, its event filter above all.
    guest_pmu : GuestPmu, optional
    guest_hz : int, optional
    guest_kernel : str, optional

    Raises
    ------
    UnknownName, ScenarioError
        When the scenario is made.
    """

    workload: str | Workload | Recorded | None = None
    guest_perf: Sequence[GuestPerf | str] | None = None
    design: str | Design | None = None
    guest_pmu: GuestPmu | None = None
    guest_hz: int | None = None
    guest_kernel: str | None = None

    def given(self) -> dict[str, Any]:
        """What this vCPU has of its own."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def without(self, names: set[str]) -> Vcpu:
        """The same vCPU with the scenario's values for some names."""
        return Vcpu(**{name: value for name, value in self.given().items() if name not in names})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        plain: dict[str, Any] = {}
        for name, value in self.given().items():
            if name == "guest_perf":
                plain[name] = [str(perf) for perf in value]
            elif isinstance(value, (Workload, Recorded)):
                plain[name] = value.name
            elif isinstance(value, GuestPmu):
                plain[name] = dataclasses.asdict(value)
            else:
                plain[name] = value if isinstance(value, int) else str(value)
        return plain


def check_vcpus(given: object) -> tuple[Vcpu, ...]:
    """The vCPUs of a scenario: a sequence of them, or how many equal ones."""
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= MAX_VCPUS:
            raise ScenarioError(f"vcpus {given} must be in 1 to {MAX_VCPUS}")
        return (Vcpu(),) * given
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ScenarioError(f"vcpus is a list of vpmu.Vcpu or a number, not {given!r}")
    for vcpu in given:
        if not isinstance(vcpu, Vcpu):
            raise ScenarioError(f"vcpus is a list of vpmu.Vcpu or a number; {vcpu!r} is none")
    if len(given) > MAX_VCPUS:
        raise ScenarioError(f"{len(given)} vcpus: one logical CPU has at most {MAX_VCPUS} here")
    return tuple(given)
