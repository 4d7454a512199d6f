"""The guest's perf: Linux's driver for version 2 to 5 on CPUs that unmask LVTPC late.

After Linux arch/x86/events/intel/core.c (``intel_pmu_handle_irq``) and kernel/events/core.c
(``__perf_event_overflow``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clocks import Step
from ._guestevents import GuestEvent, State
from ._guestsched import Scheduler
from ._tally import add

if TYPE_CHECKING:
    from .machine import Machine

#: Linux gives up on a PMU that keeps overflowing while it is disabled.
MAX_LOOPS = 100


class GuestPerf(Scheduler):
    """Perf of the one vCPU.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.nmi_pending = False
        self.in_service = False
        #: Wall clock at the last overflow of each guest counter.
        self.overflow_at = dict.fromkeys(machine.ideal.all, 0)

    def set_up(self) -> None:
        """``perf stat -a`` or ``perf record -a``: one IOC_ENABLE for each group; a task's events at exec."""
        if not self.events:
            return
        leaders = list(self._order)
        pinned = [event for event in leaders if event.pinned]
        flexible = [event for event in leaders if not event.pinned and not event.task]
        tasks = [event for event in self.events if event.task]
        for event in pinned:
            self.enable_events([event])
        if flexible and not pinned:
            # The installation of the CPU context's first event.
            self._call()
            self._disable()
            self._enable()
        for event in flexible:
            self.enable_events(self._group(event))
        if tasks:
            self.enable_events(tasks)
        wall = self._machine.clocks.wall
        self.timers["tick"].start(0, wall)
        self.timers["switch"].start(wall, wall)
        self.timers["interval"].start(wall, wall)

    def read_out(self) -> None:
        """One IOC_DISABLE for each group, and nmi_watchdog=0; the final reads find events that are off."""
        for event in self.events:
            if event.leader == event.index and not event.task:
                self.close_events(self._group(event))
        tasks = [event for event in self.events if event.task]
        if tasks:
            self.close_events(tasks)
        self._pass_time()

    # Timers.

    @property
    def next_timer(self) -> int:
        """Wall clock at which the next timer is due."""
        return min(timer.due for timer in self.timers.values())

    def serve_timer(self) -> None:
        """Do the work of the first timer that is due, and arm it again."""
        wall = self._machine.clocks.wall
        work = {
            "tick": self.tick,
            "rotation": self.rotate,
            "switch": self.switch_task,
            "interval": self._read_interval,
        }
        name = next(name for name, timer in self.timers.items() if timer.due <= wall)
        timer = self.timers[name]
        timer.fired += 1
        work[name]()
        if timer.due < 1 << 62:
            timer.restart(self._machine.clocks.wall)

    def _read_interval(self) -> None:
        """``perf stat -I``."""
        for event in self.events:
            if event.interval:
                self._call()
                if event.state == State.ON:
                    self._update(event)

    # The PMI.

    def handle_nmi(self) -> None:
        """intel_pmu_handle_irq(), with the NMI's entry and return."""
        machine = self._machine
        self.nmi_pending = False
        self.in_service = True
        machine.tally.handlers += 1
        was_enabled = self._enabled
        machine.run_handler("guest_nmi_entry")
        began = self.now()
        self._disable()
        status = self.read_status()
        loops = 0
        while status and loops < MAX_LOOPS:
            loops += 1
            self.write("global_ovf_ctrl", status)
            for c in machine.ideal.all:
                if status >> c & 1:
                    self._overflowed(c)
            status = self.read_status()
        if was_enabled:
            self._enable()
        self.write("lvtpc", 0)
        if self.limit is not None:
            self.limit.handler_took(self.now() - began)
        machine.run_handler("guest_nmi_exit")
        self.in_service = False

    def _overflowed(self, c: int) -> None:
        for event in self.events:
            if event.active and event.counter == c:
                self._update(event)
                event.expect_samples()
                if self._arm(event) and event.samples_wanted:
                    self._sample(event, c)
                return

    def _sample(self, event: GuestEvent, c: int) -> None:
        """__perf_event_overflow()."""
        event.samples += 1
        event.late += self._machine.clocks.wall - self.overflow_at[c]
        if event.pinned:
            return
        if self.limit is not None:
            if event.interrupts_tick != self._ticks:
                event.interrupts_tick, event.interrupts = self._ticks, 0
            event.interrupts += 1
            if event.interrupts >= self.limit.per_tick:
                self.throttle(event)
        if event.frequency:
            now = self.now()
            # Before a first overflow there is none: the guest has been up for long.
            if event.time_stamp is not None and 0 < now - event.time_stamp < 2 * self._tick_nsec:
                self.adjust(event, now - event.time_stamp, event.last_period)
            event.time_stamp = now
        if event.reads_group:
            for other in self._group(self.events[event.leader]):
                if other is not event and other.state == State.ON:
                    self._update(other)
        self._machine.run_handler("guest_sample")

    # The ledger.

    def account(self, step: Step) -> None:
        """Note, before a step happens, what it makes counters miss that the event filter denies."""
        machine = self._machine
        for event in self.events:
            c = event.counter
            if c is not None and event.active and machine.ideal.enabled(c) and not machine.design.allows(c):
                user, kernel = machine.ideal.levels(c)
                add(event.losses, "filtered", machine.rates.count(machine.ideal.event(c), step, user, kernel))

    def account_instruction(self, cpl: int, ideal: set[int], design: set[int]) -> None:
        """Note an emulated instruction, and one that only one of the ideal PMU and the design has counted."""
        kernel, user = self.retired
        self.retired = (kernel + (cpl == 0), user + (cpl > 0))
        for event in self.events:
            if event.active and event.counter in ideal - design:
                allowed = self._machine.design.allows(event.counter)
                add(event.losses, "emulated_instruction" if allowed else "filtered", 1)
            elif event.active and event.counter in design - ideal:
                add(event.gains, "emulated_instruction", 1)
