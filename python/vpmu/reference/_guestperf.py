"""The guest's perf: Linux's driver for version 2 to 5 on CPUs that unmask LVTPC late.

After Linux arch/x86/events/core.c (``x86_pmu_enable``, ``x86_pmu_start``, ``x86_pmu_stop``) and
arch/x86/events/intel/core.c (``intel_pmu_handle_irq``, ``__intel_pmu_enable_all``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._plan import PlannedGuestEvent
from ._clocks import Step
from ._counters import EN, full_selector, is_fixed, nibble
from ._perfcount import PerfCount, max_period
from ._tally import COST_OF_CLASS, add

if TYPE_CHECKING:
    from .machine import Machine

#: Linux gives up on a PMU that keeps overflowing while it is disabled.
MAX_LOOPS = 100

#: register: (what a design may trap, class of the instruction).
_WRITES = {
    "counter": ("counter", "wrmsr_counter"),
    "selector": ("selector", "wrmsr_selector"),
    "fixed_ctr_ctrl": ("fixed_ctr_ctrl", "wrmsr_selector"),
    "global_ctrl": ("global_ctrl", "wrmsr_global"),
    "global_ovf_ctrl": ("global_ovf_ctrl", "wrmsr_global"),
    "lvtpc": ("lvtpc", "wrmsr_lvtpc"),
}


class GuestEvent:
    """One event of the guest's perf, with the reading of the ideal PMU beside its own.

    Parameters
    ----------
    planned : PlannedGuestEvent
    longest : int
        The longest period that its counter can be armed with.
    scheduled : bool
        Something counts for it from the start; in the emulated design that depends on host perf.
    """

    def __init__(self, planned: PlannedGuestEvent, longest: int, scheduled: bool) -> None:
        self.counter = planned.counter
        self.event = planned.event
        self.samples_wanted = planned.period > 0
        self.selector = full_selector(planned.selector, planned.user, planned.kernel)
        self.nibble = nibble(planned.user, planned.kernel)
        self.longest = longest
        self.perf = PerfCount(planned.period or longest)
        self.ideal = PerfCount(0)
        self.active = False
        self.samples = 0
        self.scheduled = scheduled
        self.losses: dict[str, int] = {}
        self.gains: dict[str, int] = {}

    def report(self) -> dict[str, object]:
        """Its part of the output."""
        return {
            "value": self.perf.count,
            "ideal": self.ideal.count,
            "losses": self.losses,
            "gains": self.gains,
            "samples": self.samples,
            "scheduled": self.scheduled,
        }


class GuestPerf:
    """Perf of the one vCPU.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        model = machine.guest_model
        self.events = [
            GuestEvent(e, max_period(model, e.counter), not machine.plan.backed_by_host_events)
            for e in machine.plan.guest_events
        ]
        self.nmi_pending = False
        self.in_service = False
        #: Linux ``cpuc->enabled``; 0 inside a bracket, and while perf has no events.
        self._enabled = False
        self._fixed_ctr_ctrl = 0

    # Accesses.

    def _access(self, trap: str, kind: str, reason: str, effect: Callable[[bool], None]) -> None:
        """Execute one instruction; its effect is at the end of its cost, or in the exit that it causes."""
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
        modulus = self._machine.ideal.modulus(event.counter)

        def read(value: int, ideal: int) -> None:
            event.perf.update(value, modulus)
            event.ideal.update(ideal, modulus)

        self.read_counter(event.counter, read)

    def _arm(self, event: GuestEvent) -> bool:
        """x86_perf_event_set_period(); return whether a period has ended."""
        left, hit = event.perf.next_left(event.longest)
        value = -left % self._machine.ideal.modulus(event.counter)

        def armed() -> None:
            # With the write and not before: an NMI in between must still find what the register holds.
            event.perf.previous = event.ideal.previous = value
            event.active = True

        self.write("counter", value, event.counter, armed)
        return hit

    # Brackets.

    def _disable(self) -> None:
        """perf_pmu_disable()."""
        self._enabled = False
        self.write("global_ctrl", 0)

    def _enable(self) -> None:
        """The end of perf_pmu_enable(); Linux sets ``cpuc->enabled`` before it writes GLOBAL_CTRL."""
        self._enabled = True
        self.write("global_ctrl", self._machine.ideal.all_bits)

    def _write_fixed_ctr_ctrl(self, value: int) -> None:
        if value != self._fixed_ctr_ctrl:
            self.write("fixed_ctr_ctrl", value)
            self._fixed_ctr_ctrl = value

    def _fixed_nibbles(self, events: list[GuestEvent]) -> int:
        return sum(event.nibble << 4 * (event.counter - 32) for event in events if is_fixed(event.counter))

    def _take_out(self, event: GuestEvent) -> None:
        """x86_pmu_stop(): a GP selector keeps its event and loses EN."""
        if not is_fixed(event.counter):
            self.write("selector", event.selector, event.counter)
        self._update(event)

    def set_up(self) -> None:
        """``perf stat -a``: the first event's installation and one IOC_ENABLE for each event."""
        machine = self._machine
        if not self.events:
            return
        machine.run_handler("guest_perf_call")
        self._disable()
        self._enable()
        for j in range(len(self.events)):
            machine.run_handler("guest_perf_call")
            self._disable()
            for event in self.events[:j]:
                self._take_out(event)
            running = self.events[: j + 1]
            for event in running:
                self._arm(event)
                if not is_fixed(event.counter):
                    self.write("selector", event.selector | EN, event.counter)
            self.write("lvtpc", 0)
            self._write_fixed_ctr_ctrl(self._fixed_nibbles(running))
            self._enable()

    def read_out(self) -> None:
        """One IOC_DISABLE for each event; the final reads find events that are off."""
        for event in self.events:
            self._machine.run_handler("guest_perf_call")
            self._disable()
            self._take_out(event)
            if is_fixed(event.counter):
                self._write_fixed_ctr_ctrl(self._fixed_ctr_ctrl & ~(15 << 4 * (event.counter - 32)))
            self._enable()
            event.active = False

    # The PMI.

    def handle_nmi(self) -> None:
        """intel_pmu_handle_irq(), with the NMI's entry and return."""
        machine = self._machine
        self.nmi_pending = False
        self.in_service = True
        machine.tally.handlers += 1
        machine.run_handler("guest_nmi_entry")
        was_enabled = self._enabled
        self._disable()
        status = self.read_status()
        loops = 0
        while status and loops < MAX_LOOPS:
            loops += 1
            self.write("global_ovf_ctrl", status)
            for event in sorted(self.events, key=lambda event: event.counter):
                if event.active and status >> event.counter & 1:
                    self._update(event)
                    hit = self._arm(event)
                    if hit and event.samples_wanted:
                        event.samples += 1
                        machine.run_handler("guest_sample")
            status = self.read_status()
        if was_enabled:
            self._enable()
        self.write("lvtpc", 0)
        machine.run_handler("guest_nmi_exit")
        self.in_service = False

    # The ledger.

    def account(self, step: Step) -> None:
        """Note, before a step happens, what it makes counters miss that the event filter denies."""
        machine = self._machine
        for event in self.events:
            c = event.counter
            if event.active and machine.ideal.enabled(c) and not machine.design.allows(c):
                user, kernel = machine.ideal.levels(c)
                add(event.losses, "filtered", machine.rates.count(event.event, step, user, kernel))

    def account_instruction(self, ideal: set[int], design: set[int]) -> None:
        """Note an emulated instruction that only one of the ideal PMU and the design has counted."""
        for event in self.events:
            if event.active and event.counter in ideal - design:
                allowed = self._machine.design.allows(event.counter)
                add(event.losses, "emulated_instruction" if allowed else "filtered", 1)
            elif event.active and event.counter in design - ideal:
                add(event.gains, "emulated_instruction", 1)
