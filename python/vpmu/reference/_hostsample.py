"""Host perf samples: at PMIs, by a period or a frequency, with throttling, and looks after it on the tick.

After Linux arch/x86/events/intel/core.c (``intel_pmu_handle_irq``) and kernel/events/core.c
(``__perf_event_account_interrupt``, ``perf_adjust_period``, ``perf_adjust_freq_unthr_context``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clocks import HYPERVISOR
from ._counters import is_fixed
from ._hostevents import ACTIVE, INACTIVE, HostEvent
from ._hostsched import HostScheduler
from ._perfcount import max_period
from ._random import NEVER
from ._tally import add

if TYPE_CHECKING:
    from .machine import Machine

_MOST = 1 << 62


def adjust_period(event: HostEvent, nanoseconds: int, count: int) -> None:
    """Take an eighth of the way to the period that would have met the frequency (perf_adjust_period())."""
    wanted = min(count * 10**9 // (nanoseconds * event.freq), _MOST)
    away = abs(wanted - event.perf.period) + 7 >> 3
    event.perf.period += away if wanted >= event.perf.period else -away
    event.perf.period = event.perf.period or 1
    if event.perf.left > 8 * event.perf.period:
        event.taken += event.perf.left
        event.perf.left = 0


class HostSampler(HostScheduler):
    """Host perf with its NMI handler and its tick.

    Parameters
    ----------
    machine : Machine
    own : list of HostEvent
    """

    def __init__(self, machine: Machine, own: list[HostEvent]) -> None:
        super().__init__(machine, own)
        self.next_tick = NEVER
        self.samples = any(event.sampling for event in own)

    def start(self, possible: bool) -> None:
        """Place and arm the host's own events, and start the tick that looks after them."""
        super().start(possible)
        self._set_tick(0)

    @property
    def next_timer(self) -> int:
        """The earlier of the two timers."""
        return min(self.next_mux, self.next_tick)

    def serve_timers(self) -> None:
        """Serve those that are due now."""
        clocks = self._machine.clocks
        now, began = clocks.wall, clocks.running
        if now >= self.next_mux:
            self.rotate()
        if now >= self.next_tick:
            self._serve_tick()
        if self._asleep:
            self._ran_asleep += clocks.running - began

    def _set_tick(self, after: int) -> None:
        busy = any(event.throttled or (event.freq and event.state in (ACTIVE, INACTIVE)) for event in self.own)
        if busy and self.next_tick == NEVER:
            self.next_tick = (after // self._machine.plan.tick + 1) * self._machine.plan.tick

    # Samples.

    def _nanoseconds(self, wall: int) -> int:
        return wall * 10**9 // self._machine.plan.cpu.core_hz.value

    def _reload(self, event: HostEvent) -> bool:
        """x86_perf_event_set_period(): write the counter anew; whether a period has ended."""
        c = event.counter
        assert c is not None
        left, hit = event.perf.next_left(max_period(self._machine.plan.cpu, c))
        event.perf.previous = self._hardware.counter[c] = -left % self._hardware.modulus(c)
        return hit

    def _switch(self, event: HostEvent, on: bool, activity: int) -> None:
        """Let its counter count or not; fixed counters are written when the bracket ends."""
        if not is_fixed(event.counter or 0):
            self._access("wrmsr_selector", activity)
        self._enable(event, on)

    def _take_sample(self, event: HostEvent, wall: int) -> None:
        """perf_event_overflow()."""
        plan = self._machine.plan
        self._machine.pay(HYPERVISOR, "host_sample")
        event.samples += 1
        tick = wall // plan.tick
        event.interrupts = event.interrupts + 1 if event.sample_tick == tick else 1
        event.sample_tick = tick
        if event.throttles and event.interrupts >= plan.max_samples_per_tick:
            event.throttled = True
            event.throttlings += 1
            self._switch(event, False, HYPERVISOR)
            self._set_tick(wall)
        if event.freq:
            now = self._nanoseconds(wall)
            if event.samples > 1 and 0 < now - event.sample_time < 2 * plan.tick_ns:
                adjust_period(event, now - event.sample_time, event.perf.period)
            event.sample_time = now

    def handle_nmi(self) -> list[int]:
        """intel_pmu_handle_irq(): re-arm what overflowed; return the guest counters that it backs."""
        machine, hardware = self._machine, self._hardware
        began = machine.clocks.wall
        machine.pay(HYPERVISOR, "host_nmi")
        if machine.amd:
            return self._handle_amd_nmi(began)
        self._access("wrmsr_global", HYPERVISOR)
        hardware.global_ctrl = 0
        stopped = machine.clocks.wall
        self._access("rdmsr", HYPERVISOR)
        status = hardware.status
        self._access("wrmsr_global", HYPERVISOR)
        hardware.status &= ~status
        fixed_ctr_ctrl = self._fixed_ctr_ctrl
        holders = {event.counter: event for event in self.events if event.in_hardware}
        overflowed = []
        for c in hardware.all:
            event = holders.get(c)
            if status >> c & 1 and event is not None:
                self._access("rdpmc", HYPERVISOR)
                self._update(event)
                self._access("wrmsr_counter", HYPERVISOR)
                event.expect()
                hit = self._reload(event)
                if event.backs is not None:
                    overflowed.append(event.backs)
                elif hit and event.sampling:
                    self._take_sample(event, began)
                    event.late += stopped - event.overflowed_at
        self._access("rdmsr", HYPERVISOR)
        if self._fixed_ctr_ctrl != fixed_ctr_ctrl:
            self._access("wrmsr_selector", HYPERVISOR)
            self.write_fixed_ctr_ctrl()
        self._access("wrmsr_global", HYPERVISOR)
        hardware.global_ctrl = self.host_global_ctrl()
        self._access("wrmsr_lvtpc", HYPERVISOR)
        machine.lvtpc.set_host()
        return overflowed

    def _handle_amd_nmi(self, began: int) -> list[int]:
        """amd_pmu_v2_handle_irq() or amd_pmu_handle_irq(): every counter that is on is read."""
        machine, hardware = self._machine, self._hardware
        has_status = machine.plan.cpu.version >= 2
        status = stopped = 0
        if has_status:
            self._access("wrmsr_global", HYPERVISOR)
            hardware.global_ctrl = 0
            stopped = machine.clocks.wall
            self._access("rdmsr", HYPERVISOR)
            status, hardware.status = hardware.status, 0
        else:
            self._access("wrmsr_lvtpc", HYPERVISOR)
            machine.lvtpc.set_host()
        holders = {event.counter: event for event in self.events if event.in_hardware and not event.throttled}
        overflowed = []
        for c in hardware.gp if status or not has_status else []:
            event = holders.get(c)
            if event is None:
                continue
            self._access("rdpmc", HYPERVISOR)
            self._update(event)
            half = hardware.modulus(c) // 2
            if not status >> c & 1 if has_status else event.perf.previous >= half:
                continue
            self._access("wrmsr_counter", HYPERVISOR)
            # Without a global register counters run on.
            add(event.losses, "overwritten", (hardware.counter[c] - event.perf.previous) % hardware.modulus(c))
            event.expect()
            hit = self._reload(event)
            if event.backs is not None:
                overflowed.append(event.backs)
            elif hit and event.sampling:
                event.late += (stopped if has_status else machine.clocks.wall) - event.overflowed_at
                self._take_sample(event, began)
        if status:
            self._access("wrmsr_global", HYPERVISOR)  # the acknowledgement, at the end
        if has_status:
            self._access("wrmsr_global", HYPERVISOR)
            hardware.global_ctrl = self.host_global_ctrl()
        return overflowed

    # The tick.

    def _serve_tick(self) -> None:
        """perf_event_task_tick()."""
        began = self._machine.clocks.wall
        self.next_tick = NEVER
        self._machine.pay(self._machine.design.host_activity, "perf_tick")
        for task in (False, True):
            looked_after = [
                event
                for event in self.own
                if event.task == task and event.in_hardware and (event.freq or event.throttled)
            ]
            if looked_after and not (task and self._asleep):
                self._look_after(looked_after)
        self._set_tick(began)

    def _look_after(self, events: list[HostEvent]) -> None:
        """perf_adjust_freq_unthr_context() of one context."""
        activity = self._machine.design.host_activity
        self._driver.disable(activity, activity)
        fixed_ctr_ctrl = self._fixed_ctr_ctrl
        for event in events:
            if event.freq:
                if not event.throttled:
                    self._switch(event, False, activity)
                    self._driver.stopped(activity)
                self._access("rdpmc", activity)
                self._update(event)
                counted, event.tick_count = event.perf.count - event.tick_count, event.perf.count
                if counted:
                    event.expect()
                    adjust_period(event, self._machine.plan.tick_ns, counted)
                    event.taken = 0
                    self._access("wrmsr_counter", activity)
                    self._reload(event)
            if not is_fixed(event.counter or 0):
                self._driver.start(activity)
            self._enable(event, True)
            self._unthrottle(event)
        if self._fixed_ctr_ctrl != fixed_ctr_ctrl:
            self._access("wrmsr_selector", activity)
            self.write_fixed_ctr_ctrl()
        self._driver.enable(activity)
