"""The guest's accesses to its PMU, and what starts and stops one event.

After Linux arch/x86/events/core.c (``x86_pmu_start``, ``x86_pmu_stop``) and arch/x86/events/intel/core.c
(``__intel_pmu_enable_all``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ._counters import EN, is_fixed
from ._guestevents import GuestEvent
from ._tally import COST_OF_CLASS

if TYPE_CHECKING:
    from .machine import Machine

#: register: (what a design may trap, class of the instruction).
_WRITES = {
    "counter": ("counter", "wrmsr_counter"),
    "selector": ("selector", "wrmsr_selector"),
    "fixed_ctr_ctrl": ("fixed_ctr_ctrl", "wrmsr_selector"),
    "global_ctrl": ("global_ctrl", "wrmsr_global"),
    "global_ovf_ctrl": ("global_ovf_ctrl", "wrmsr_global"),
    "lvtpc": ("lvtpc", "wrmsr_lvtpc"),
}


class Accesses:
    """Accesses of the guest's perf, each of which takes effect at the end of its cost or in the exit that it causes.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        backed = machine.plan.backed_by_host_events
        self.events = [GuestEvent(e, machine.guest_model, i, backed) for i, e in enumerate(machine.plan.guest_events)]
        #: Linux ``cpuc->enabled``; 0 inside a bracket, and while perf has no events.
        self._enabled = False
        self._fixed_ctr_ctrl = 0
        self._fixed_wanted = 0
        #: Instructions that the hypervisor emulated, at CPL 0 and above.
        self.retired = (0, 0)

    def now(self) -> int:
        """The guest's clock in ns."""
        return self._machine.clocks.wall * 10**9 // self._machine.plan.guest_kernel.core_hz

    def _access(self, trap: str, kind: str, reason: str, effect: Callable[[bool], None]) -> None:
        machine = self._machine
        if machine.design.traps(trap):

            def emulated() -> None:
                machine.tally.guest_access(kind, trapped=True)
                effect(True)

            machine.trapped_access(reason, emulated)
        else:
            machine.run_handler(COST_OF_CLASS[kind])
            machine.tally.guest_access(kind, trapped=False)
            effect(False)

    def write(self, register: str, value: int, c: int = 0, then: Callable[[], None] = lambda: None) -> None:
        """WRMSR; ``then`` happens together with its effect."""
        machine = self._machine
        trap, kind = _WRITES[register]

        def effect(trapped: bool) -> None:
            machine.design.guest_write(register, c, value, trapped)
            if register != "lvtpc":
                machine.ideal.write(register, c, value)
            if register == "global_ctrl":
                self._meter(value != 0)
            then()

        self._access(trap, kind, "MSR_WRITE", effect)

    def read_status(self) -> int:
        """RDMSR of GLOBAL_STATUS."""
        values: list[int] = []
        self._access(
            "global_status",
            "rdmsr",
            "MSR_READ",
            lambda trapped: values.append(self._machine.design.guest_status(trapped)),
        )
        return values[0]

    def read_counter(self, c: int, then: Callable[[int, int], None]) -> None:
        """RDPMC; ``then`` gets what it reads and what the ideal PMU shows."""
        machine = self._machine
        modulus = machine.ideal.modulus(c)

        def effect(trapped: bool) -> None:
            then(machine.design.guest_counter(c, trapped) % modulus, machine.ideal.counter[c])

        self._access("rdpmc", "rdpmc", "RDPMC", effect)

    def _update(self, event: GuestEvent) -> None:
        """RDPMC and x86_perf_event_update()."""
        c = event.counter
        if c is None or not event.armed:
            return
        modulus = self._machine.ideal.modulus(c)

        def read(value: int, ideal: int) -> None:
            event.perf.update(value, modulus)
            event.ideal.update(ideal, modulus)

        self.read_counter(c, read)

    def _arm(self, event: GuestEvent) -> bool:
        """x86_perf_event_set_period(); return whether a period has ended."""
        assert event.counter is not None
        left, hit = event.perf.next_left(event.longest)
        if hit:
            event.last_period = event.perf.period
        value = -left % self._machine.ideal.modulus(event.counter)

        def armed() -> None:
            # With the write and not before: an NMI in between must still find what the register holds.
            event.perf.previous = event.ideal.previous = value
            event.active = event.armed = True

        self.write("counter", value, event.counter, armed)
        return hit

    # Brackets.

    def _meter(self, on: bool) -> None:
        machine = self._machine
        for event in self.events:
            event.meter_absence(on, machine.clocks.cycles, self.retired, machine.rates)

    def _disable(self) -> None:
        """perf_pmu_disable()."""
        self._enabled = False
        self.write("global_ctrl", 0)

    def _enable(self) -> None:
        """The end of perf_pmu_enable(): a changed FIXED_CTR_CTRL, then all counters."""
        wanted = self._fixed_wanted
        if wanted != self._fixed_ctr_ctrl:
            self.write("fixed_ctr_ctrl", wanted)
            self._fixed_ctr_ctrl = wanted
        self._enabled = True
        self.write("global_ctrl", self._machine.ideal.all_bits)

    def _start(self, event: GuestEvent, reload: bool) -> None:
        """x86_pmu_start()."""
        if reload or not event.armed:
            self._arm(event)
        assert event.counter is not None
        event.active = True
        event.absent = ""
        if is_fixed(event.counter):
            self._fixed_wanted |= event.nibble << 4 * (event.counter - 32)
        else:
            self.write("selector", event.selector | EN, event.counter)

    def _stop(self, event: GuestEvent, update: bool) -> None:
        """x86_pmu_stop(): a GP selector keeps its event and loses EN."""
        if event.active:
            assert event.counter is not None
            if is_fixed(event.counter):
                self._fixed_wanted &= ~(15 << 4 * (event.counter - 32))
            else:
                self.write("selector", event.selector, event.counter)
            event.active = False
        if update:
            self._update(event)
