"""Design ``passthrough``: mediated, with the selectors passed through as well."""

from __future__ import annotations

from dataclasses import dataclass

from ._cpu import CpuModel
from ._designs import GuestPmu, Mediated
from ._errors import ScenarioError
from ._perf import HostEvent


@dataclass(frozen=True)
class Passthrough(Mediated):
    """A sole tenant's PMU: all its registers are passed through, LVTPC apart, and switched around the run loop.

    There is no event filter and no limit to what the guest sees of the PMU. The hypervisor does not know what counts,
    so every put reads the selectors.

    Parameters
    ----------
    scope : {"fastpath-loop", "every-exit"}
    sequence : str or Sequence
        The switch sequence, after the selectors have been read.
    exclude_guest : {"guest-mode", "window"}
    erratum : bool
        Selectors are intercepted again, on all vCPUs, as for an erratum of the CPU: the design is then ``mediated``
        with the hardware's counters.
    """

    name = "passthrough"
    class_ = "virtualized"
    summary = "mediated with the selectors passed through: a sole tenant, no event filter"
    options_help = (
        "scope=fastpath-loop|every-exit, sequence=NAME|FILE.toml, exclude_guest=guest-mode|window, erratum=true|false"
    )
    scopes = ("fastpath-loop", "every-exit")
    owns_hardware = True
    erratum: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.event_filter and not self.erratum:
            raise ScenarioError("design passthrough has no event filter: the guest writes its selectors without exits")

    @property
    def reactions(self) -> str:
        """With interception back on, those of mediated."""
        return "vpmu_core.designs.mediated" if self.erratum else super().reactions

    @property
    def reference(self) -> str:
        """With interception back on, that of mediated."""
        return "vpmu.reference._mediated:Mediated" if self.erratum else super().reference

    def guest_cpu(self, cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
        """The hardware."""
        return cpu

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """On AMD somebody has to set GuestOnly in the selectors."""
        if cpu.vendor == "amd":
            return (
                "SVM does not switch GLOBAL_CTL at entry and exit: with its selectors passed through, no hypervisor "
                "could set GuestOnly in them, and the guest's counters would count the host"
            )
        return super().refusal(cpu, host_perf, vm_first)

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """LVTPC; the selectors, too, if they are intercepted for an erratum."""
        return frozenset({"lvtpc", "selector", "fixed_ctr_ctrl"} if self.erratum else {"lvtpc"})
