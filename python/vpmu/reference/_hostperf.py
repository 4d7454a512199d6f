"""Host perf: the host's own events and, in the emulated design, those that back guest counters.

After Linux kernel/events/core.c (``ctx_resched``, ``perf_event_pause``, ``perf_event_period``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clocks import BLIND, CPL, HYPERVISOR, Step
from ._counters import ARCHITECTURAL, is_fixed
from ._hostevents import ACTIVE, ERROR, INACTIVE, OFF, HostEvent
from ._hostsample import HostSampler
from ._perfcount import max_period
from ._tally import add

if TYPE_CHECKING:
    from .machine import Machine


class HostPerf(HostSampler):
    """Host perf of one logical CPU.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        plan = machine.plan
        longest = max_period(plan.cpu, 0)
        own = [
            HostEvent(
                event.event,
                event.selector,
                event.gp_mask & plan.cpu.gp_mask,
                event.fixed_mask & plan.cpu.fixed_mask,
                user=event.user,
                kernel=event.kernel,
                exclude_guest=event.exclude_guest,
                exclude_host=event.exclude_host,
                period=event.period or longest,
                sampling=event.period > 0,
                freq=event.freq,
                throttles=event.throttles,
                pinned=event.pinned,
                task=event.task,
            )
            for event in plan.host_events
        ]
        super().__init__(machine, own)

    # Several vCPUs.

    def share(self, other: HostPerf) -> None:
        """The CPU's own events are those of another vCPU's machine."""
        self.own = other.own

    def take_over(self, before: HostPerf) -> None:
        """The CPU's context goes on as another vCPU's machine left it."""
        self.next_mux, self.next_tick = before.next_mux, before.next_tick
        self.rotations = before.rotations
        self._positions = before._positions
        self._ever_placed = before._ever_placed
        self._fixed_ctr_ctrl = before._fixed_ctr_ctrl
        self._must_rotate[False] = before._must_rotate[False]

    def slept_through(self, cycles: int) -> None:
        """The host ran before the vCPU's thread was on the CPU again."""
        if self._asleep:
            self._ran_asleep += cycles

    # The guest's window.

    def load_guest_context(self) -> None:
        """perf_load_guest_context(): own events leave."""
        own = [event for event in self.own if event.state in (ACTIVE, INACTIVE)]
        if own:
            self.bracket([event for event in own if event.in_hardware], [], lvtpc=False, inner=BLIND)

    def put_guest_context(self) -> None:
        """perf_put_guest_context(): own events come back."""
        own = [event for event in self.own if event.state in (ACTIVE, INACTIVE)]
        if own:
            self.reschedule([], own)

    # What KVM asks of perf for the events that back guest counters.

    def create(self, event: HostEvent) -> None:
        """perf_event_create_kernel_counter()."""
        self._machine.pay(HYPERVISOR, "perf_create")
        self._machine.tally.creates += 1
        self._enqueue(event)
        self.backing.append(event)
        self._reschedule(event)

    def enable(self, event: HostEvent) -> None:
        """perf_event_enable()."""
        self._machine.pay(HYPERVISOR, "perf_enable")
        self._reschedule(event)

    def _reschedule(self, wanted: HostEvent) -> None:
        """ctx_resched(): all but CPU-pinned events go out and come back with one more."""
        out = [event for event in self.events if event.state == ACTIVE and (event.task or not event.pinned)]
        waiting = [event for event in self.events if event.state == INACTIVE]
        self.reschedule_at_cost(out, [*out, *waiting, wanted])

    def pause(self, event: HostEvent) -> int:
        """perf_event_pause() with reset: returns the count."""
        self._machine.pay(HYPERVISOR, "perf_pause")
        if event.state == ACTIVE:
            self.bracket([event], [], lvtpc=False)
        self.set_state(event, OFF)
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
        self.backing.remove(event)

    # The ledger of the host's own events.

    def account(self, step: Step) -> None:
        """Compare, before a step happens, what each event ought to count in it with what it will count."""
        rates, design = self._machine.rates, self._machine.design
        for event in self.own:
            c = event.counter
            for one in step:
                activity = one[0]
                counting = (
                    event.in_hardware
                    and c is not None
                    and self._hardware.enabled(c)
                    and self._hardware.counts_level(c, CPL[activity])
                )
                n = rates.count(event.event, [one], True, True)
                if (
                    event.counts_level(activity)
                    and not design.host_excluded(activity, event.exclude_guest, event.exclude_host)
                    and self.runs(event)
                ):
                    event.ideal += n
                    if not counting:
                        enabled = event.in_hardware and c is not None and self._hardware.global_ctrl >> c & 1
                        kept_out = event.state in (ERROR, INACTIVE) or bool(event.throttled and enabled)
                        add(event.losses, design.host_loss(activity, kept_out), n)
                elif counting:
                    add(event.gains, "host_stale", n)

    def finish(self) -> list[dict[str, object]]:
        """Read the counters a last time, at no cost, and report."""
        for event in self.own:
            if event.in_hardware:
                self._update(event)
            event.expect()
            self.set_state(event, event.state)
        return [
            {
                "value": event.perf.count,
                "ideal": event.ideal,
                "losses": dict(event.losses),
                "gains": dict(event.gains),
                "state": event.state,
                "enabled": event.enabled,
                "running": event.running,
                "samples": event.samples,
                "expected": event.expected,
                "late": event.late,
                "throttled": event.throttlings,
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
        task=True,
        backs=c,
    )
