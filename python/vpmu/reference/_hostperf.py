"""Host perf: the host's own events and, in the emulated design, those that back guest counters.

After Linux kernel/events/core.c (``ctx_resched``, ``perf_event_pause``, ``perf_event_period``),
arch/x86/events/core.c (``x86_pmu_enable``, ``x86_pmu_stop``) and
arch/x86/events/intel/core.c (``intel_pmu_handle_irq``, ``intel_guest_get_msrs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._clocks import HYPERVISOR, Step
from ._counters import ARCHITECTURAL, EN, is_fixed, nibble
from ._hostevents import ACTIVE, ERROR, OFF, HostEvent, place
from ._perfcount import max_period
from ._tally import COST_OF_CLASS, add

if TYPE_CHECKING:
    from .machine import Machine


class HostPerf:
    """Host perf of one logical CPU.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._hardware = machine.hardware
        plan = machine.plan
        longest = max_period(plan.cpu, 0)
        self.own = [
            HostEvent(
                event.event,
                event.selector,
                event.gp_mask & plan.cpu.gp_mask,
                event.fixed_mask & plan.cpu.fixed_mask,
                user=event.user,
                kernel=event.kernel,
                exclude_guest=event.exclude_guest,
                exclude_host=event.exclude_host,
                period=longest,
            )
            for event in plan.host_events
        ]
        self.tasks: list[HostEvent] = []
        self._blocked: list[HostEvent] = []
        self._ever_placed = False

    # Where the events are.

    def active(self, events: Sequence[HostEvent]) -> list[HostEvent]:
        """Those of some events that are active."""
        return [event for event in events if event.state == ACTIVE]

    def _global_ctrl(self, exclude: str) -> int:
        if not self._ever_placed:
            return 0
        value = self._hardware.all_bits
        for event in (*self.own, *self.tasks):
            if event.in_hardware and event.counter is not None and getattr(event, exclude):
                value &= ~(1 << event.counter)
        return value

    def host_global_ctrl(self) -> int:
        """GLOBAL_CTRL in host mode."""
        return self._global_ctrl("exclude_host")

    def guest_global_ctrl(self) -> int:
        """GLOBAL_CTRL that VM entry loads (Linux ``intel_guest_get_msrs``)."""
        return self._global_ctrl("exclude_guest")

    def start(self, possible: bool) -> None:
        """Place and arm the host's own events; nothing is spent or counted.

        Parameters
        ----------
        possible : bool
            False if the hardware belongs to the guest.
        """
        accepted: list[HostEvent] = []
        for event in self.own:
            if possible and place([*accepted, event]) is not None:
                accepted.append(event)
                event.state = ACTIVE
            else:
                event.state = ERROR
        for event, counter in zip(accepted, place(accepted) or [], strict=True):
            event.counter = counter
            self._arm(event)
        if accepted:
            self._ever_placed = True
            self._hardware.global_ctrl = self.host_global_ctrl()

    # Moving events in and out of counters.

    def _arm(self, event: HostEvent) -> None:
        """x86_perf_event_set_period() and x86_pmu_enable_event()."""
        c = event.counter
        assert c is not None
        hardware = self._hardware
        left, _ = event.perf.next_left(max_period(self._machine.plan.cpu, c))
        event.perf.previous = -left % hardware.modulus(c)
        hardware.counter[c] = event.perf.previous
        event.in_hardware = True
        self.write_control(event)

    def write_control(self, event: HostEvent) -> None:
        """The selector or nibble of the counter that an event is in."""
        c, hardware = event.counter, self._hardware
        assert c is not None
        if is_fixed(c):
            self._set_nibble(c, 0 if event.held else nibble(event.user, event.kernel))
            return
        hardware.selector[c] = event.selector if event.held else event.selector | EN
        # Whoever put it there: a counter that cannot count an event counts nothing.
        possible = self._machine.plan.gp_constraint[hardware.event(c)] >> c & 1
        if event.backs is not None and not possible:
            hardware.mute.add(c)
        else:
            hardware.mute.discard(c)

    def _stop(self, event: HostEvent) -> None:
        """x86_pmu_stop() with PERF_EF_UPDATE."""
        c = event.counter
        assert c is not None
        if is_fixed(c):
            self._set_nibble(c, 0)
        else:
            self._hardware.selector[c] = event.selector
        self._update(event)
        event.in_hardware = False

    def _update(self, event: HostEvent) -> None:
        c = event.counter
        assert c is not None
        event.perf.update(self._hardware.counter[c], self._hardware.modulus(c))

    def _set_nibble(self, c: int, value: int) -> None:
        shift = 4 * (c - 32)
        self._hardware.fixed_ctr_ctrl = self._hardware.fixed_ctr_ctrl & ~(15 << shift) | value << shift

    def bracket(
        self,
        out: Sequence[HostEvent],
        into: Sequence[HostEvent],
        *,
        lvtpc: bool,
        counters: Sequence[int] | None = None,
        inner: int | None = None,
        period: int | None = None,
    ) -> None:
        """perf_pmu_disable() .. perf_pmu_enable(): some events leave their counters, some enter theirs.

        Parameters
        ----------
        out, into : sequences of HostEvent
            In the order in which perf walks them.
        lvtpc : bool
            Whether an event was added, so that perf_events_lapic_init() writes LVTPC.
        counters : sequence of int, optional
            New counters of ``into``; otherwise each has its own.
        inner : int, optional
            The activity after GLOBAL_CTRL=0, if it is not that before.
        period : int, optional
            New period of ``into``, which begins now.
        """
        machine, hardware = self._machine, self._hardware
        before = machine.design.host_activity
        after = before if inner is None else inner
        self._access("wrmsr_global", before)
        hardware.global_ctrl = 0
        old_fixed_ctr_ctrl = hardware.fixed_ctr_ctrl
        # Nothing counts from here to the end: when the registers change meanwhile does not matter.
        for event in out:
            if event.counter is not None and not is_fixed(event.counter):
                self._access("wrmsr_selector", after)
            self._access("rdpmc", after)
            self._stop(event)
        if counters is not None:
            for event, counter in zip(into, counters, strict=True):
                event.counter = counter
        for event in into:
            if period is not None:
                event.perf.period, event.perf.left = period, 0
            self._access("wrmsr_counter", after)
            if event.counter is not None and not is_fixed(event.counter):
                self._access("wrmsr_selector", after)
            self._arm(event)
            event.state = ACTIVE
            self._ever_placed = True
        if lvtpc:
            self._access("wrmsr_lvtpc", after)
            machine.lvtpc.set_host()
        if hardware.fixed_ctr_ctrl != old_fixed_ctr_ctrl:
            self._access("wrmsr_selector", after)
        self._access("wrmsr_global", after)
        hardware.global_ctrl = self.host_global_ctrl()

    def _access(self, kind: str, activity: int) -> None:
        self._machine.pay(activity, COST_OF_CLASS[kind])
        self._machine.tally.op("host", kind)

    # What KVM asks of perf for the events that back guest counters.

    def create(self, event: HostEvent) -> None:
        """perf_event_create_kernel_counter()."""
        self._machine.pay(HYPERVISOR, "perf_create")
        self._machine.tally.creates += 1
        self.tasks.append(event)
        self._reschedule(event)

    def enable(self, event: HostEvent) -> None:
        """perf_event_enable()."""
        self._machine.pay(HYPERVISOR, "perf_enable")
        self._reschedule(event)

    def _reschedule(self, wanted: HostEvent) -> None:
        """ctx_resched(): the task's events go out and come back with one more."""
        others = [event for event in self.tasks if event.state == ACTIVE and event is not wanted]
        for _ in others:
            self._machine.pay(HYPERVISOR, "perf_resched_event")
        accepted = self.active(self.own)
        own = len(accepted)
        for event in self.tasks:
            if event is wanted or event in others:
                if place([*accepted, event]) is None:
                    event.state = ERROR
                else:
                    accepted.append(event)
        counters = place(accepted)
        assert counters is not None
        moved = [i for i in range(own) if accepted[i].counter != counters[i]]
        entering = [*moved, *range(own, len(accepted))]
        self.bracket(
            [*(accepted[i] for i in moved), *others],
            [accepted[i] for i in entering],
            lvtpc=bool(entering),
            counters=[counters[i] for i in entering],
        )

    def pause(self, event: HostEvent) -> int:
        """perf_event_pause() with reset: returns the count."""
        self._machine.pay(HYPERVISOR, "perf_pause")
        if event.state == ACTIVE:
            self.bracket([event], [], lvtpc=False)
        event.state = OFF
        count, event.perf.count = event.perf.count, 0
        return count

    def change_period(self, event: HostEvent, period: int) -> None:
        """perf_event_period()."""
        self._machine.pay(HYPERVISOR, "perf_period")
        if event.state == ACTIVE:
            self.bracket([event], [event], lvtpc=False, period=period)
        else:
            event.perf.period, event.perf.left = period, 0

    def read(self, event: HostEvent) -> int:
        """perf_event_read_value()."""
        if event.state == ACTIVE:
            self._access("rdpmc", HYPERVISOR)
            self._update(event)
        return event.perf.count

    def release(self, event: HostEvent) -> None:
        """perf_event_release_kernel() of an event that is off."""
        self._machine.pay(HYPERVISOR, "perf_release")
        self.tasks.remove(event)

    def block(self) -> None:
        """The vCPU's task blocks: perf_event_task_sched_out()."""
        self._blocked = self.active(self.tasks)
        if self._blocked:
            self._machine.pay(HYPERVISOR, "perf_task_switch")
            self.bracket(self._blocked, [], lvtpc=False)

    def wake(self) -> None:
        """The vCPU's task runs again: perf_event_task_sched_in()."""
        if self._blocked:
            self._machine.pay(HYPERVISOR, "perf_task_switch")
            self.bracket([], self._blocked, lvtpc=True)
        self._blocked = []

    def handle_nmi(self) -> list[int]:
        """intel_pmu_handle_irq(): re-arm what overflowed; return the guest counters that it backs."""
        machine, hardware = self._machine, self._hardware
        machine.pay(HYPERVISOR, "host_nmi")
        self._access("wrmsr_global", HYPERVISOR)
        hardware.global_ctrl = 0
        self._access("rdmsr", HYPERVISOR)
        status = hardware.status
        self._access("wrmsr_global", HYPERVISOR)
        hardware.status &= ~status
        holders = {event.counter: event for event in (*self.own, *self.tasks) if event.in_hardware}
        overflowed = []
        for c in hardware.all:
            event = holders.get(c)
            if status >> c & 1 and event is not None:
                self._access("rdpmc", HYPERVISOR)
                self._update(event)
                self._access("wrmsr_counter", HYPERVISOR)
                self._arm(event)
                if event.backs is not None:
                    overflowed.append(event.backs)
        self._access("rdmsr", HYPERVISOR)
        self._access("wrmsr_global", HYPERVISOR)
        hardware.global_ctrl = self.host_global_ctrl()
        self._access("wrmsr_lvtpc", HYPERVISOR)
        machine.lvtpc.set_host()
        return overflowed

    # The ledger of the host's own events.

    def account(self, step: Step) -> None:
        """Compare, before a step happens, what each event ought to count in it with what it will count."""
        rates, design = self._machine.rates, self._machine.design
        for event in self.own:
            c = event.counter
            counting = event.in_hardware and c is not None and self._hardware.enabled(c)
            for one in step:
                activity = one[0]
                n = rates.count(event.event, [one], event.user, event.kernel)
                if event.counts_level(activity) and not design.host_excluded(
                    activity, event.exclude_guest, event.exclude_host
                ):
                    event.ideal += n
                    if not counting:
                        add(event.losses, design.host_loss(activity, event.state == ERROR), n)
                elif counting:
                    add(event.gains, "host_stale", n)

    def finish(self) -> list[dict[str, object]]:
        """Read the counters a last time, at no cost, and report."""
        for event in self.own:
            if event.in_hardware:
                self._update(event)
        return [
            {
                "value": event.perf.count,
                "ideal": event.ideal,
                "losses": dict(event.losses),
                "gains": dict(event.gains),
                "state": event.state,
            }
            for event in self.own
        ]


def backing_event(machine: Machine, c: int, period: int) -> HostEvent:
    """The perf event that KVM creates for guest counter c (Linux ``pmc_reprogram_counter``)."""
    plan = machine.plan
    guest = machine.design.guest
    event = guest.event(c)
    user, kernel = guest.levels(c)
    code = ARCHITECTURAL[event] if is_fixed(c) else guest.selector[c]
    return HostEvent(
        event,
        code,
        plan.gp_constraint[event] & plan.cpu.gp_mask,
        plan.fixed_constraint[event] & plan.cpu.fixed_mask,
        user=user,
        kernel=kernel,
        exclude_guest=False,
        exclude_host=True,
        period=period,
        backs=c,
    )
