"""Mediated with the selectors passed through: only the hardware knows them until put reads them."""

from __future__ import annotations

from ._counters import INSTRUCTIONS, Counters, is_fixed
from ._mediated import Mediated


class Passthrough(Mediated):
    """A sole tenant's PMU."""

    def _read_selectors(self, counters: list[int]) -> None:
        """One RDMSR for each GP counter, one for all fixed counters."""
        for c in counters:
            if not is_fixed(c):
                self.access("rdmsr")
        if any(is_fixed(c) for c in counters):
            self.access("rdmsr")

    def refuses_fastpath(self) -> bool:
        """The selectors of the counters that GLOBAL_CTRL enables tell whether an instruction must be counted."""
        hardware = self.machine.hardware
        on = [c for c in hardware.all if self.guest.global_ctrl >> c & 1]
        self._read_selectors(on)
        return any(
            hardware.event(c) == INSTRUCTIONS and hardware.locally_enabled(c) and any(hardware.levels(c)) for c in on
        )

    def retire(self, cpl: int) -> set[int]:
        """In the fastpath nothing counts instructions, or it would have been refused."""
        return set() if self.loaded else super().retire(cpl)

    def put(self) -> None:
        """Read what the guest has written, then put as mediated does."""
        hardware, guest = self.machine.hardware, self.guest
        self._read_selectors(guest.all)
        guest.selector = dict(hardware.selector)
        guest.fixed_ctr_ctrl = hardware.fixed_ctr_ctrl
        super().put()
        self._counting_instructions = self._counters_of_instructions(guest)

    @staticmethod
    def _counters_of_instructions(guest: Counters) -> set[int]:
        return {c for c in guest.all if guest.locally_enabled(c) and guest.event(c) == INSTRUCTIONS}
