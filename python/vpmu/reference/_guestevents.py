"""One event of the guest's perf, and the guest's timers."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from .._cpu import CpuModel
from .._plan import NO_EVENT, PlannedGuestEvent
from ._clocks import GUEST, Rates
from ._counters import INSTRUCTIONS, full_selector, nibble
from ._perfcount import PerfCount, max_period
from ._random import NEVER
from ._tally import add

#: An event and whether it is counted in user and kernel code.
Meant = tuple[int, bool, bool]


class State(enum.IntEnum):
    """Linux ``enum perf_event_state``, as far as it matters here."""

    OFF = 0
    AWAY = 1  # its task is not on the CPU
    WAITING = 2  # no counter is free
    ON = 3


def _choices(planned: PlannedGuestEvent) -> tuple[int, ...]:
    """Counters that may count it, in the order in which they are tried: fixed ones first."""
    if not planned.gp_mask and not planned.fixed_mask:
        return (planned.counter,)
    fixed = [32 + i for i in range(32) if planned.fixed_mask >> i & 1]
    return (*fixed, *(i for i in range(32) if planned.gp_mask >> i & 1))


class GuestEvent:
    """One event of the guest's perf, with the reading of the ideal PMU beside its own.

    Parameters
    ----------
    planned : PlannedGuestEvent
    model : CpuModel
        The guest's PMU.
    index : int
        Its place among the events.
    backed : bool
        Host events count for it, which may find no counter (``emulated``).
    """

    def __init__(self, planned: PlannedGuestEvent, model: CpuModel, index: int, backed: bool) -> None:
        self.index = index
        self.event = planned.event
        self.user, self.kernel = planned.user, planned.kernel
        self.choices = _choices(planned)
        self.samples_wanted = planned.period > 0
        self.selector = full_selector(planned.selector, planned.user, planned.kernel)
        self.nibble = nibble(planned.user, planned.kernel)
        self.longest = max_period(model, self.choices[-1])
        self.perf = PerfCount(planned.period or self.longest)
        self.ideal = PerfCount(0)
        self.frequency = planned.frequency
        self.leader = index if planned.leader < 0 else planned.leader
        self.pinned, self.task, self.interval = planned.pinned, planned.task, planned.interval
        self.reads_group = planned.reads_group

        self.state = State.OFF
        #: Where it counts, or counted last; None before it ever has.
        self.counter: int | None = None
        self.assigned: int | None = None
        #: It counts; its counter holds its value.
        self.active = self.armed = False
        self.throttled = False
        #: Cause for which it does not count although it is enabled, and the guest's clocks since then.
        self.absent = ""
        self._absent_since: tuple[Sequence[int], tuple[int, int]] | None = None
        #: Clocks since which its counter has not been counting what it should, why, what that is and what it counts
        #: instead.
        self._missing_since: Sequence[int] | None = None
        self._missing: tuple[str, Meant, Meant | None] = ("", (NO_EVENT, False, False), None)

        self.samples = self.expected = self.late = self.throttles = 0
        self.interrupts = self.interrupts_tick = 0
        self.last_period = self.perf.period
        self.count_stamp = 0
        self.time_stamp: int | None = None
        self.updated = self.enabled = self.running = 0
        self.backed = backed
        self.scheduled = not backed and planned.counter >= 0
        self.losses: dict[str, int] = {}
        self.gains: dict[str, int] = {}

    def expect_samples(self) -> None:
        """Note the periods that have ended since the counter was armed."""
        if self.samples_wanted and self.perf.left <= 0:
            self.expected += 1 + -self.perf.left // self.perf.period

    def pass_time(self, now: int) -> None:
        """Let the context's time in ns go on."""
        if self.state >= State.WAITING:
            self.enabled += now - self.updated
        if self.state == State.ON:
            self.running += now - self.updated
        self.updated = now

    # The ledger.

    def meter_absence(self, on: bool, cycles: Sequence[int], retired: tuple[int, int], rates: Rates) -> None:
        """GLOBAL_CTRL turns: meter what a counter of its own would count while it has none."""
        if on:
            if self.absent and self._absent_since is None:
                self._absent_since = list(cycles), retired
        elif self._absent_since is not None:
            before, (kernel_before, user_before) = self._absent_since
            step = [(a, before[a], cycles[a]) for a in GUEST]
            n = rates.count(self.event, step, self.user, self.kernel)
            if self.event == INSTRUCTIONS:
                n += (retired[0] - kernel_before) * self.kernel + (retired[1] - user_before) * self.user
            self._absent_since = None
            self.ideal.count += n
            add(self.losses, self.absent, n)

    def meter_missing(
        self, cause: str, meant: Meant, instead: Meant | None, cycles: Sequence[int], rates: Rates
    ) -> None:
        """Meter what its counter misses for a cause, and what it counts instead; an empty cause ends that."""
        if (cause, meant, instead) != self._missing and self._missing_since is not None:
            step = [(a, self._missing_since[a], cycles[a]) for a in GUEST]
            before, (event, user, kernel), other = self._missing
            add(self.losses, before, rates.count(event, step, user, kernel))
            if other is not None:
                event, user, kernel = other
                add(self.gains, before, rates.count(event, step, user, kernel))
            self._missing_since = None
        if cause and self._missing_since is None:
            self._missing_since = list(cycles)
        self._missing = (cause, meant, instead)

    def report(self) -> dict[str, object]:
        """Its part of the output."""
        return {
            "value": self.perf.count,
            "ideal": self.ideal.count,
            "losses": self.losses,
            "gains": self.gains,
            "samples": self.samples,
            "expected": self.expected,
            "late": self.late,
            "throttles": self.throttles,
            "period": self.perf.period,
            "enabled": self.enabled,
            "running": self.running,
            "scheduled": self.scheduled,
        }


class GuestTimer:
    """A periodic timer on the wall clock; after ``base`` it is due ``second`` times in ``periods`` * core_hz cycles.

    Parameters
    ----------
    core_hz, periods, second : int
        It has no period, and never fires, if one of the last two is 0.
    """

    def __init__(self, core_hz: int, periods: int, second: int) -> None:
        self._period = core_hz * periods
        self._second = second
        self._base = 0
        self.due = NEVER
        self.fired = 0

    def start(self, base: int, now: int) -> None:
        """Count its multiples from ``base``."""
        self._base = base
        if self._period and self._second:
            self.restart(now)

    def restart(self, now: int) -> None:
        """Be due at the first multiple after now."""
        n = (now - self._base) * self._second // self._period + 1
        self.due = self._base - (-n * self._period // self._second)
