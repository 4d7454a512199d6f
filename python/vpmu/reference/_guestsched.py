"""Which of the guest's events are on which counters, and what brings them there.

After Linux kernel/events/core.c (``ctx_resched``, ``perf_rotate_context``, ``perf_adjust_freq_unthr_context``) and
arch/x86/events/core.c (``x86_schedule_events``, ``x86_pmu_enable``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._guestaccess import Accesses
from ._guestevents import GuestEvent, GuestTimer, State
from ._guestperiod import NSEC_PER_SEC, SampleLimit, adjusted_period

if TYPE_CHECKING:
    from .machine import Machine


class Scheduler(Accesses):
    """Perf's contexts of one CPU: the CPU's own and that of one task."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        kernel = machine.plan.guest_kernel
        self._kernel = kernel
        #: Events on the CPU in the order in which they came; how many of them since the bracket began.
        self._listed: list[GuestEvent] = []
        self._added = 0
        #: Leaders in the order in which they are tried.
        self._order = [event for event in self.events if event.leader == event.index]
        #: Linux ``rotate_necessary`` of the CPU's context and of the task's.
        self._rotates = {False: False, True: False}
        self._away = False
        self._ticks = 0
        self._throttled = False
        hz = kernel.core_hz
        self.timers = {
            "tick": GuestTimer(hz, 1, kernel.hz),
            "rotation": GuestTimer(hz, kernel.rotation_ms, 1000),
            "switch": GuestTimer(hz, 1, kernel.switches),
            "interval": GuestTimer(hz, kernel.interval_ms, 1000),
        }
        self.limit: SampleLimit | None = None
        if kernel.hz:
            self.limit = SampleLimit(kernel.hz, kernel.max_sample_rate, kernel.cpu_time_max_percent)

    @property
    def _tick_nsec(self) -> int:
        return (NSEC_PER_SEC + self._kernel.hz // 2) // self._kernel.hz

    def _call(self) -> None:
        """Perf code of the guest's kernel, accesses apart."""
        self._machine.run_handler("guest_perf_call")

    def _pass_time(self) -> None:
        now = self.now()
        for event in self.events:
            event.pass_time(now)

    def _group(self, leader: GuestEvent) -> list[GuestEvent]:
        return [event for event in self.events if event.leader == leader.index]

    def _on_cpu(self, task: bool) -> Iterator[GuestEvent]:
        return (event for event in list(self._listed) if event.task == task)

    # Placement.

    @staticmethod
    def _placement(events: list[GuestEvent]) -> list[int] | None:
        """A counter for each event: those they had if that works, else anew, the most constrained first."""
        previous = [event.counter for event in events]
        if None not in previous and len(set(previous)) == len(previous):
            return [c for c in previous if c is not None]
        found: dict[int, int] = {}
        for i in sorted(range(len(events)), key=lambda i: len(events[i].choices)):
            free = [c for c in events[i].choices if c not in found.values()]
            if not free:
                return None
            found[i] = free[0]
        return [found[i] for i in range(len(events))]

    def _group_fits(self, leader: GuestEvent) -> bool:
        group = self._group(leader)
        events = self._listed + group
        counters = self._placement(events)
        if counters is None:
            return False
        for event, counter in zip(events, counters, strict=True):
            event.assigned = counter
        self._listed = events
        self._added += len(group)
        for event in group:
            event.state = State.ON
            event.absent = ""
            if event.throttled:
                event.throttled = False
                event.interrupts = 0
        return True

    def _events_in(self, task: bool) -> None:
        """Try every group that waits, in order; after the first that does not fit no other is tried."""
        full = False
        for leader in self._order:
            if leader.task != task or leader.state != State.WAITING:
                continue
            full = full or not self._group_fits(leader)
            if full:
                self._rotates[task] = True
                for event in self._group(leader):
                    event.absent = "multiplexed"

    def _events_out(self, task: bool, state: State) -> None:
        """All flexible events of a context leave their counters."""
        for event in self._on_cpu(task):
            if not event.pinned:
                self._stop(event, update=True)
                self._leave(event, state)

    def _leave(self, event: GuestEvent, state: State) -> None:
        event.state = state
        event.armed = False
        event.absent = ""
        if event in self._listed:
            self._listed.remove(event)

    def _program(self) -> None:
        """x86_pmu_enable(): what moves stops where it was; then everything new is started in order."""
        if not self._added:
            return
        running = self._listed[: len(self._listed) - self._added]
        for event in running:
            if event.counter != event.assigned:
                self._stop(event, update=True)
                event.armed = False
        for event in list(self._listed):
            if event in running and event.counter == event.assigned:
                continue
            event.counter = event.assigned
            if event.throttled:
                continue
            event.expect_samples()
            event.scheduled = event.scheduled or not event.backed
            self._start(event, reload=True)
        self._added = 0
        self.write("lvtpc", 0)

    def _start_rotation(self) -> None:
        timer = self.timers["rotation"]
        wall = self._machine.clocks.wall
        if any(self._rotates.values()) and timer.due > 1 << 62:
            timer.start(wall, wall)

    def enable_events(self, events: list[GuestEvent]) -> None:
        """An ioctl for one group of the CPU's context, or exec for all events of a task."""
        self._call()
        self._pass_time()
        for event in events:
            event.state = State.WAITING
        self._disable()
        if not events[0].task and not events[0].pinned:
            self._events_out(False, State.WAITING)
        self._events_in(events[0].task)
        self._program()
        self._enable()
        self._start_rotation()

    def close_events(self, events: list[GuestEvent]) -> None:
        """An ioctl that disables one group, or the exit of a task."""
        self._call()
        self._pass_time()
        self._disable()
        for event in list(self._listed) if events[0].task else events:
            if event in events and event.state == State.ON:
                self._stop(event, update=True)
        for event in events:
            event.expect_samples()
            self._leave(event, State.OFF)
        self._enable()

    # The tick.

    def throttle(self, event: GuestEvent) -> None:
        """Stop the group of an event that has had too many samples since the tick."""
        event.throttles += 1
        self._throttled = True
        for other in self._group(self.events[event.leader]):
            if other.state == State.ON:
                other.throttled = True
                other.absent = "throttled"
                self._stop(other, update=False)

    def _unthrottle(self, event: GuestEvent) -> None:
        for other in self._group(self.events[event.leader]):
            if other.throttled:
                other.throttled = False
                other.interrupts = 0
                # A frequency event is started by its adjustment.
                if other is not event or not event.frequency:
                    self._start(other, reload=False)

    def adjust(self, event: GuestEvent, nsec: int, count: int) -> None:
        """perf_adjust_period()."""
        period = adjusted_period(event.perf.period, nsec, count, event.frequency)
        event.perf.period = period

    def _adjust_at_tick(self, event: GuestEvent) -> None:
        self._stop(event, update=True)
        counted = event.perf.count - event.count_stamp
        event.count_stamp = event.perf.count
        if counted:
            event.expect_samples()
            self.adjust(event, self._tick_nsec, counted)
            if event.perf.left > 8 * event.perf.period:
                event.perf.left = 0
        self._start(event, reload=counted > 0)

    def _tick_context(self, task: bool, throttled: bool) -> None:
        events = list(self._on_cpu(task))
        if not events or not (throttled or any(event.frequency for event in events)):
            return
        self._call()
        each = self._kernel.tick_per_event
        if not each:
            self._disable()
        for event in events:
            if each:
                self._disable()
            if event.throttled:
                self._unthrottle(event)
            if event.frequency:
                self._adjust_at_tick(event)
            if each:
                self._enable()
        if not each:
            self._enable()

    def tick(self) -> None:
        """perf_event_task_tick()."""
        throttled, self._throttled = self._throttled, False
        self._ticks += 1
        self._tick_context(False, throttled)
        self._tick_context(True, throttled)

    # Rotation and context switches.

    def _next_out(self, task: bool) -> GuestEvent | None:
        """The group that has been on the CPU for longest; without any, the first that waits."""
        if not self._rotates[task]:
            return None
        self._rotates[task] = False
        flexible = [self.events[event.leader] for event in self._on_cpu(task) if not event.pinned]
        waiting = [leader for leader in self._order if leader.task == task and not leader.pinned]
        return (flexible or waiting)[0]

    def _to_tail(self, leader: GuestEvent) -> None:
        self._order.remove(leader)
        self._order.append(leader)

    def rotate(self) -> None:
        """perf_rotate_context()."""
        if not any(self._rotates.values()):
            self.timers["rotation"].due = 1 << 80
            return
        self._call()
        self._pass_time()
        self._disable()
        task, cpu = self._next_out(True), self._next_out(False)
        if not self._away:
            self._events_out(True, State.WAITING)
        if cpu is not None:
            self._events_out(False, State.WAITING)
            self._to_tail(cpu)
            self._events_in(False)
        if task is not None:
            self._to_tail(task)
        self._events_in(True)
        self._program()
        self._enable()

    def switch_task(self) -> None:
        """A context switch: the task's events leave, or return; those of a thread's clone stay."""
        self._call()
        if self._kernel.clones:
            for _ in ("out", "in"):
                self._disable()
                self._enable()
            return
        self._pass_time()
        self._disable()
        mine = [event for event in self.events if event.task]
        if self._away:
            for event in mine:
                event.state = State.WAITING
            self._events_in(True)
            self._program()
        else:
            self._events_out(True, State.AWAY)
            for event in mine:
                event.state = State.AWAY
                event.absent = ""
            self._rotates[True] = False
        self._away = not self._away
        self._enable()
        self._start_rotation()
