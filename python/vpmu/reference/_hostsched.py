"""Host perf's scheduler: which events are in counters, in what order they come in, and how they take turns.

After Linux kernel/events/core.c (``merge_sched_in``, ``perf_rotate_context``, ``perf_event_task_sched_in``) and
arch/x86/events/core.c (``x86_pmu_enable``, ``x86_pmu_stop``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._clocks import IDLE, Step
from ._counters import EN, is_fixed, nibble
from ._hostdriver import driver
from ._hostevents import ACTIVE, ERROR, INACTIVE, HostEvent, place
from ._perfcount import max_period
from ._random import NEVER
from ._tally import COST_OF_CLASS

if TYPE_CHECKING:
    from .machine import Machine


def in_order(events: Iterable[HostEvent]) -> list[HostEvent]:
    """As ctx_sched_in() walks them: pinned before flexible, CPU before task, then by position."""
    return sorted(events, key=lambda event: (not event.pinned, event.task, event.position))


class HostScheduler:
    """The events of host perf, in and out of counters.

    Parameters
    ----------
    machine : Machine
    own : list of HostEvent
        The host's own events.
    """

    def __init__(self, machine: Machine, own: list[HostEvent]) -> None:
        self._machine = machine
        self._hardware = machine.hardware
        self._driver = driver(machine, self)
        self.own = own
        #: Those that back guest counters.
        self.backing: list[HostEvent] = []
        self._ever_placed = False
        #: FIXED_CTR_CTRL as perf last wrote it, with what it is about to write (Linux cpuc->fixed_ctrl_val).
        self._fixed_ctr_ctrl = 0
        self._positions = 0
        for event in own:
            self._enqueue(event)
        #: Contexts, by whether they are the task's, in which a flexible event waits.
        self._must_rotate = {False: False, True: False}
        self.next_mux = NEVER
        self.rotations = 0
        #: Whether the vCPU's thread sleeps, and what others ran meanwhile.
        self._asleep = False
        self._ran_asleep = 0

    @property
    def events(self) -> list[HostEvent]:
        """All events."""
        return [*self.own, *self.backing]

    def _enqueue(self, event: HostEvent) -> None:
        """The event becomes the last of its class."""
        event.position = self._positions
        self._positions += 1

    def runs(self, event: HostEvent) -> bool:
        """Whether the event's context is on the CPU."""
        return not (event.task and self._asleep)

    # GLOBAL_CTRL.

    def _global_ctrl(self, exclude: str) -> int:
        if not self._ever_placed:
            return 0
        value = self._hardware.all_bits
        for event in self.events:
            if event.in_hardware and event.counter is not None and getattr(event, exclude):
                value &= ~(1 << event.counter)
        return value

    def host_global_ctrl(self) -> int:
        """GLOBAL_CTRL in host mode."""
        return self._global_ctrl("exclude_host")

    def guest_global_ctrl(self) -> int:
        """GLOBAL_CTRL that VM entry loads (Linux ``intel_guest_get_msrs``)."""
        return self._global_ctrl("exclude_guest")

    # Times.

    def _context_clock(self, event: HostEvent) -> int:
        """The clock of the event's context."""
        clocks = self._machine.clocks
        now = clocks.wall
        if self._machine.design.has_put:
            now -= clocks.all_windows
        if event.task:
            now -= clocks.cycles[IDLE] + self._ran_asleep + clocks.others
        return now

    def set_state(self, event: HostEvent, state: str) -> None:
        """perf_event_set_state(): the time up to now belongs to the old state."""
        now = self._context_clock(event)
        if event.state in (ACTIVE, INACTIVE):
            event.enabled += now - event.since
        if event.state == ACTIVE:
            event.running += now - event.since
        event.since = now
        event.state = state

    # Moving events in and out of counters.

    def _arm(self, event: HostEvent) -> None:
        """x86_perf_event_set_period() and x86_pmu_enable_event()."""
        c = event.counter
        assert c is not None
        hardware = self._hardware
        event.expect()
        left, _ = event.perf.next_left(max_period(self._machine.plan.cpu, c))
        event.perf.previous = -left % hardware.modulus(c)
        hardware.counter[c] = event.perf.previous
        self.write_control(event)
        self._unthrottle(event)
        event.in_hardware = True
        self._ever_placed = True

    def _unthrottle(self, event: HostEvent) -> None:
        """Who is scheduled in, or met by the tick, may sample again."""
        if event.throttled:
            event.throttled = False
            event.interrupts = 0

    def write_control(self, event: HostEvent) -> None:
        """The selector or nibble of the counter that an event is in."""
        c = event.counter
        assert c is not None
        self._enable(event, not event.held)
        if is_fixed(c):
            return
        # Whoever put it there: a counter that cannot count an event counts nothing.
        possible = self._machine.plan.gp_constraint[self._hardware.event(c)] >> c & 1
        if event.backs is not None and not possible:
            self._hardware.mute.add(c)
        else:
            self._hardware.mute.discard(c)

    def _enable(self, event: HostEvent, on: bool) -> None:
        """x86_pmu_enable_event() or x86_pmu_disable_event(), without cost."""
        c = event.counter
        assert c is not None
        if is_fixed(c):
            self._set_nibble(c, nibble(event.user, event.kernel) if on else 0)
        else:
            self._hardware.selector[c] = event.selector | EN if on else event.selector

    def _stop(self, event: HostEvent) -> None:
        """x86_pmu_stop() with PERF_EF_UPDATE."""
        self._enable(event, False)
        self._update(event)
        event.in_hardware = False

    def _update(self, event: HostEvent) -> None:
        c = event.counter
        assert c is not None
        event.perf.update(self._hardware.counter[c], self._hardware.modulus(c))

    def _set_nibble(self, c: int, value: int) -> None:
        shift = 4 * (c - 32)
        self._fixed_ctr_ctrl = self._fixed_ctr_ctrl & ~(15 << shift) | value << shift

    def write_fixed_ctr_ctrl(self) -> None:
        """Let the hardware have perf's value; the cost is the caller's."""
        self._hardware.fixed_ctr_ctrl = self._fixed_ctr_ctrl

    def strays(self, step: Step) -> int:
        """What counters are about to count, in host code, that no event of the host's has."""
        hardware = self._hardware
        if not hardware.global_ctrl:
            return 0
        held = {event.counter for event in self.events if event.in_hardware}
        return sum(
            hardware.counted(c, step, self._machine.rates)
            for c in hardware.all
            if hardware.enabled(c) and c not in held
        )

    def _access(self, kind: str, activity: int) -> None:
        self._machine.pay(activity, COST_OF_CLASS[kind])
        self._machine.tally.op("host", kind)

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
        machine = self._machine
        before = machine.design.host_activity
        after = before if inner is None else inner
        self._driver.disable(before, after)
        old_fixed_ctr_ctrl = self._fixed_ctr_ctrl
        # Nothing counts from here to the end: when the registers change meanwhile does not matter.
        for event in out:
            if event.counter is not None and not is_fixed(event.counter) and not event.throttled:
                self._access("wrmsr_selector", after)
            if not event.throttled:
                self._driver.stopped(after)
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
                self._driver.start(after)
            self._arm(event)
        if lvtpc:
            self._access("wrmsr_lvtpc", after)
            machine.lvtpc.set_host()
        if self._fixed_ctr_ctrl != old_fixed_ctr_ctrl:
            self._access("wrmsr_selector", after)
            self.write_fixed_ctr_ctrl()
        self._driver.enable(after)

    # Scheduling.

    def _choose(self, staying: list[HostEvent], candidates: Iterable[HostEvent]) -> list[HostEvent]:
        """Find out which candidates get a counter beside those that stay; the others are told."""
        chosen = list(staying)
        full = {False: False, True: False}
        for event in in_order(candidates):
            if not event.pinned and full[event.task]:
                # Nothing is tried any more, so that who waits longest comes first when it is his turn.
                self.set_state(event, INACTIVE)
            elif place([*chosen, event]) is not None:
                chosen.append(event)
            elif event.pinned:
                self.set_state(event, ERROR)
            else:
                full[event.task] = True
                self._must_rotate[event.task] = True
                if self.next_mux == NEVER:
                    self._forward_timer()
                self.set_state(event, INACTIVE)
        return chosen

    def start(self, possible: bool) -> None:
        """Place and arm the host's own events; nothing is spent or counted.

        Parameters
        ----------
        possible : bool
            False if the hardware belongs to the guest.
        """
        candidates = []
        for event in self.own:
            if possible and event.allowed:
                candidates.append(event)
            else:
                event.state = ERROR
        chosen = self._choose([], candidates)
        for event, counter in zip(chosen, place(chosen) or [], strict=True):
            event.counter = counter
            self._arm(event)
            self.set_state(event, ACTIVE)
        if chosen:
            self.write_fixed_ctr_ctrl()
        if possible and self._machine.design.has_host:
            self._hardware.global_ctrl = self.host_global_ctrl()

    def reschedule(self, out: Sequence[HostEvent], candidates: Iterable[HostEvent]) -> None:
        """Some events leave, candidates come in, and those that stay may have to move."""
        leaving = set(out)
        staying = in_order(event for event in self.events if event.in_hardware and event not in leaving)
        chosen = self._choose(staying, candidates)
        counters = place(chosen)
        assert counters is not None
        moved = [event for event, counter in zip(staying, counters, strict=False) if event.counter != counter]
        entering = [*moved, *chosen[len(staying) :]]
        where = dict(zip(chosen, counters, strict=True))
        for event in chosen[len(staying) :]:
            self.set_state(event, ACTIVE)
        self.bracket([*moved, *out], entering, lvtpc=bool(entering), counters=[where[event] for event in entering])

    def reschedule_at_cost(self, out: Sequence[HostEvent], candidates: Iterable[HostEvent]) -> None:
        """The same with the software's part for each event that leaves."""
        for _ in out:
            self._machine.pay(self._machine.design.host_activity, "perf_resched_event")
        self.reschedule(out, candidates)

    # Taking turns.

    def _forward_timer(self) -> None:
        """hrtimer_forward_now(): the next multiple of the interval."""
        interval = self._machine.plan.mux_interval
        self.next_mux = (self._machine.clocks.wall // interval + 1) * interval

    def _flexible(self, task: bool) -> list[HostEvent]:
        """Flexible events of a context that perf would let count, in order."""
        return in_order(
            event
            for event in self.events
            if not event.pinned and event.task == task and event.state in (ACTIVE, INACTIVE)
        )

    def rotate(self) -> None:
        """perf_mux_hrtimer_handler(): of each context in which an event waits, the first that counts goes last."""
        self._forward_timer()
        self._machine.pay(self._machine.design.host_activity, "perf_rotate")
        if self._machine.design.guest_state_loaded:
            return
        cpu, task = self._must_rotate[False], self._must_rotate[True] and not self._asleep
        if cpu or task:
            self.rotations += 1
            for context, rotates in ((False, cpu), (True, task)):
                if rotates:
                    waiting = self._flexible(context)
                    counting = [event for event in waiting if event.state == ACTIVE]
                    self._enqueue((counting or waiting)[0])
                    self._must_rotate[context] = False
            candidates = self._flexible(False) if cpu else []
            if task or not self._asleep:
                candidates += self._flexible(True)
            self.reschedule_at_cost([event for event in candidates if event.in_hardware], candidates)
        else:
            self.next_mux = NEVER

    # The vCPU's thread.

    def block(self) -> None:
        """The vCPU's thread is scheduled out: perf_event_task_sched_out()."""
        leaving = self._task_events()
        if leaving:
            self._machine.pay(self._machine.design.host_activity, "perf_task_switch")
            self.bracket([event for event in leaving if event.in_hardware], [], lvtpc=False)
        self._asleep = True

    def wake(self) -> None:
        """The vCPU's thread is scheduled in: perf_event_task_sched_in()."""
        self._asleep = False
        entering = self._task_events()
        if not entering:
            return
        self._machine.pay(self._machine.design.host_activity, "perf_task_switch")
        giving_way = self._flexible(False) if any(event.task and event.pinned for event in self.events) else []
        self.reschedule([event for event in giving_way if event.in_hardware], [*giving_way, *entering])

    def _task_events(self) -> list[HostEvent]:
        return [event for event in self.events if event.task and event.state in (ACTIVE, INACTIVE)]
