"""The emulated vPMU with control writes captured to hardware (Like Xu, "Intel Virtual PMU Optimization" v2, 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._counters import ARCHITECTURAL, EN, INSTRUCTIONS, full_selector, is_fixed
from ._emulated import Emulated

if TYPE_CHECKING:
    from .machine import Machine

_CONTROLS = ("selector", "fixed_ctr_ctrl", "global_ctrl")


class DirectCapture(Emulated):
    """A guest counter whose event has a hardware counter gets its controls without host perf.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._host_constraints = self.plan.options.get("constraints") == "host"

    def _assigned(self, c: int) -> bool:
        """intel_pmc_is_assigned(), and nothing is about to reprogram it."""
        backed = self._backed[c]
        event = backed.event
        return event is not None and not backed.paused and event.in_hardware and c not in self._requests

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """Controls go to hardware if they can."""
        if register not in _CONTROLS:
            super().guest_write(register, c, value, trapped)
            return
        self._mark_in_use(register, c)
        before = {i: self.guest.control(i) for i in self.guest.all}
        changed = self.guest.changed(register, c, value)
        if register == "selector" and self._host_constraints and self._assigned(c) and not changed:
            changed = [c]  # diff is 0, and 0 is not ENABLE: the long way
        assigned = {i for i in changed if self._assigned(i)}
        self.guest.write(register, c, value)
        for i in changed:
            if i in assigned and (register == "global_ctrl" or self._may_capture(i, before[i])):
                self._capture(i)
                self._note_instructions(i)
            else:
                self._requests.add(i)

    def _may_capture(self, c: int, before: int) -> bool:
        if not self._host_constraints:
            return True
        after = self.guest.control(c)
        if is_fixed(c):
            return (before & 3 == 0) != (after & 3 == 0)
        return before ^ after == EN

    def _capture(self, c: int) -> None:
        """The hardware control of the event's counter, wherever host perf has placed it."""
        backed, guest = self._backed[c], self.guest
        event = backed.event
        assert event is not None
        self.access("wrmsr_selector")
        event.held = not guest.enabled(c)
        event.event = guest.event(c)
        event.user, event.kernel = guest.levels(c)
        code = ARCHITECTURAL[event.event] if is_fixed(c) else guest.selector[c] & 0xFFFF
        event.selector = full_selector(code, event.user, event.kernel)
        if not event.held:
            backed.key = guest.control(c)
        self.machine.host.write_control(event)
        self.machine.host.write_fixed_ctr_ctrl()

    def _note_instructions(self, c: int) -> None:
        if self.guest.locally_enabled(c) and self.guest.event(c) == INSTRUCTIONS:
            self._counting_instructions.add(c)
        else:
            self._counting_instructions.discard(c)
