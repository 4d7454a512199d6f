"""Design ``mediated-semi``: mediated on a PMU whose GLOBAL_STATUS cannot be written back."""

from __future__ import annotations

from dataclasses import dataclass

from ._consent import admit
from ._cpu import CpuModel
from ._designs import Mediated
from ._perf import HostEvent
from ._sequences import Sequence


@dataclass(frozen=True)
class MediatedSemi(Mediated):
    """Like :class:`Mediated` without IA32_PERF_GLOBAL_STATUS_SET: GLOBAL_STATUS is emulated, the rest passes through.

    Proposed for PMU versions 2 and 3 (Jim Mattson, April 2024); it works on later ones, too.

    Parameters
    ----------
    scope : {"fastpath-loop", "every-exit"}
    sequence : str or Sequence
        The switch sequence.
    exclude_guest : {"guest-mode", "window"}
    """

    name = "mediated-semi"
    summary = "mediated on PMU versions 2 and 3: GLOBAL_STATUS is emulated"
    options_help = "scope=fastpath-loop|every-exit, sequence=NAME|FILE.toml, exclude_guest=guest-mode|window"
    host_version = 2
    scopes = ("fastpath-loop", "every-exit")
    sequence: str | Sequence = "semi-v2"

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """What mediated traps, and GLOBAL_STATUS with its acknowledgement."""
        return super().traps(cpu, guest) | {"global_status", "global_ovf_ctrl"}

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """Counters must be restored in full width and be enabled by one register."""
        if cpu.vendor == "amd":
            return (
                "proposed for Intel's PMU versions 2 and 3: AMD's PerfMonV2 can set GLOBAL_STATUS, and without it "
                "there are no global registers"
            )
        if cpu.version < 2:
            return f"version {cpu.version} of {cpu.name} has no IA32_PERF_GLOBAL_CTRL, which entry and exit switch"
        if not cpu.full_width_writes:
            return f"counters above 2**31 cannot be restored without full-width writes, which {cpu.name} lacks"
        if cpu.version < 4 and self.switch().needs_status_set:
            return f"sequence {self.sequence} writes IA32_PERF_GLOBAL_STATUS_SET, which {cpu.name} lacks"
        return self._missing_control(cpu) or admit(host_perf, vm_first)[0]
