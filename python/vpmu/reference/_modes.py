"""What the CPU is in besides its privilege level: EFER.SVME, guest mode, system management mode."""

from __future__ import annotations

from collections.abc import Mapping

from .._cpu import CpuModel
from .._errors import ScenarioError
from ._register import BTF, BTS, FREEZE_SMM, LBR, TR, bits, check_bits, check_integer, check_tuple
from .registers import RegisterFile


class Modes:
    """The modes of one logical CPU, as after RESET.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
        What system management mode saves, clears and restores.
    """

    def __init__(self, cpu: CpuModel, registers: RegisterFile) -> None:
        self._cpu = cpu
        self._registers = registers
        self.svme = False
        self.guest = False
        self.smm = False
        #: IA32_PERF_GLOBAL_CTRL and IA32_DEBUGCTL as they were, if SMI froze counting; else zeros.
        self._saved = (0, 0)

    def set(self, svme: bool | None, guest: bool | None) -> None:
        """Set EFER.SVME and guest mode, None leaving either as it is."""
        new_svme = self.svme if svme is None else bool(svme)
        new_guest = self.guest if guest is None else bool(guest)
        if "svm" not in self._cpu.features and (new_svme or new_guest):
            raise ScenarioError(f"{self._cpu.name} has no SVM; leave out svme and guest")
        if new_guest and not new_svme:
            raise ScenarioError("guest mode needs EFER.SVME: set svme=True as well, or guest=False")
        self.svme, self.guest = new_svme, new_guest

    def smi(self) -> None:
        """Enter SMM; IA32_DEBUGCTL.FREEZE_WHILE_SMM stops counters and branch recording (SDM vol. 3B 17.4.1)."""
        if self.smm:
            raise ScenarioError("smi(): the CPU is in system management mode already; leave it with rsm() first")
        self.smm = True
        registers = self._registers
        if registers.debugctl >> FREEZE_SMM & 1:
            self._saved = registers.global_ctrl, registers.debugctl
            if self._cpu.version >= 2:  # version 1 has no global control that could stop its counters
                registers.global_ctrl = 0
            registers.debugctl &= ~bits(LBR, BTF, TR, BTS)

    def rsm(self) -> None:
        """Leave SMM and restore what the SMI saved."""
        if not self.smm:
            raise ScenarioError("rsm(): the CPU is not in system management mode; enter it with smi() first")
        self.smm = False
        if self._saved[1] >> FREEZE_SMM & 1:
            self._registers.global_ctrl, self._registers.debugctl = self._saved
        self._saved = 0, 0

    def state(self) -> dict[str, object]:
        """Return every value by name."""
        modes = {"svme": int(self.svme), "guest": int(self.guest), "smm": int(self.smm)}
        return {**modes, "smm_saved": self._saved}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state` returned; raise ValueError for what cannot be."""
        self.svme = bool(check_integer("svme", state["svme"], 0, int("svm" in self._cpu.features)))
        self.guest = bool(check_integer("guest", state["guest"], 0, int(self.svme)))
        self.smm = bool(check_integer("smm", state["smm"], 0, 1))
        control, debugctl = check_tuple("smm_saved", state["smm_saved"], 2)
        if (control, debugctl) == (0, 0):
            self._saved = 0, 0
            return
        number = check_bits("smm_saved", debugctl, self._registers.stored["debugctl", None].legal)
        if not self.smm or not number >> FREEZE_SMM & 1:
            raise ScenarioError(
                f"state: smm_saved must be (0, 0) unless an SMI froze counting, not {state['smm_saved']!r}"
            )
        try:
            self._saved = self._registers.check("global_ctrl", None, control), number
        except ScenarioError as error:
            raise ScenarioError(f"{error} (in smm_saved)") from None
