"""Design ``virtualized``: the CPU switches guest PMU state and delivers PMIs."""

from __future__ import annotations

from dataclasses import dataclass

from ._consent import admit
from ._cpu import CpuModel
from ._designs import Design
from ._errors import UnknownName
from ._perf import HostEvent
from ._sequences import Sequence

_SCOPES = ("fastpath-loop", "every-exit")
#: Not one to choose: it moves nothing of the guest's.
_HOST_PERF_ONLY = Sequence(
    "host-perf-only",
    "host perf leaves and returns; hardware switches the guest's state",
    "[RFC PATCH 0/7] KVM: SVM: Support for PMC virtualization, 13 November 2025",
    load=({"op": "perf_load_guest_context"},),
    put=({"op": "perf_put_guest_context"},),
    by_hardware=True,
)


@dataclass(frozen=True)
class Virtualized(Design):
    """Hardware saves and restores the guest's PMU at entry and exit, in memory that the hypervisor can edit.

    As AMD proposed for SVM in November 2025 ("PMC virtualization"). Host perf still leaves and returns around the run
    loop; selectors stay intercepted for the event filter; a PMI reaches the guest without an exit.

    Parameters
    ----------
    scope : {"fastpath-loop", "every-exit"}
        Where host perf's events leave and return.
    """

    name = "virtualized"
    class_ = "virtualized"
    summary = "hardware itself switches guest state and delivers PMIs (on no CPU yet)"
    options_help = "scope=fastpath-loop|every-exit"
    excludes_include_guest = True
    scope: str = "fastpath-loop"

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES:
            raise UnknownName("switch scope", self.scope, _SCOPES)

    def options(self) -> dict[str, str | bool]:
        """Scope."""
        return {"scope": self.scope}

    def switch(self) -> Sequence:
        """Host perf out and in, nothing else."""
        return _HOST_PERF_ONLY

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """Selectors, and LVTPC of the virtual APIC; RDPMC if the guest has fewer counters than the hardware."""
        traps = {"selector", "fixed_ctr_ctrl", "lvtpc"}
        if guest.gp_mask != cpu.gp_mask or guest.fixed_mask != cpu.fixed_mask:
            traps.add("rdpmc")
        return frozenset(traps)

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """Host events that include guests cannot be beside it; on AMD it is about the registers of PerfMonV2."""
        if cpu.vendor == "amd" and cpu.version < 2:
            return f"AMD's proposal switches the registers of PerfMonV2, which {cpu.name} lacks"
        return admit(host_perf, vm_first)[0]

    def note(self, cpu: CpuModel, guest: CpuModel) -> str:
        """No CPU has it."""
        return (
            f"hardware that switches guest PMU state is proposed (AMD, November 2025) and not in {cpu.name}; what it "
            "adds to an exit and an entry is the assumed cost hardware_pmu_switch"
        )
