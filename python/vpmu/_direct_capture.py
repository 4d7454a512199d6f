"""Design ``direct-capture``: controls of an emulated PMU go straight to the counter of the host event."""

from __future__ import annotations

from dataclasses import dataclass

from ._cpu import CpuModel
from ._designs import Design
from ._errors import UnknownName
from ._perf import HostEvent


@dataclass(frozen=True)
class DirectCapture(Design):
    """Emulated, but a write of a control goes to the hardware counter on which the host event of a guest counter is.

    After "Intel Virtual PMU Optimization" v2 (Like Xu, March 2019): a guest that stops and starts its counters costs no
    reprogramming.

    Parameters
    ----------
    constraints : {"guest", "host"}
        Any value goes there, and host perf's check of which counter may count it is bypassed; or only values that
        toggle the enable bit do, and others are reprogrammed through host perf.
    """

    name = "direct-capture"
    class_ = "emulated"
    summary = "emulated, but control writes go to the hardware counter of the host event"
    options_help = "constraints=guest|host"
    backed_by_host_events = True
    host_version = 1
    constraints: str = "guest"

    def __post_init__(self) -> None:
        if self.constraints not in ("guest", "host"):
            raise UnknownName("constraint policy", self.constraints, ("guest", "host"))

    def options(self) -> dict[str, str | bool]:
        """Whose constraints."""
        return {"constraints": self.constraints}

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """The series is for VMX."""
        if cpu.vendor == "amd":
            return f"the series was posted for Intel CPUs, which {cpu.name} is not"
        return super().refusal(cpu, host_perf, vm_first)

    def note(self, cpu: CpuModel, guest: CpuModel) -> str:
        """Say what nobody checks."""
        if self.constraints == "host":
            return ""
        return "host perf has checked only the selector that a guest counter was first enabled with"
