"""One event of host perf, and the placement of events on counters.

After Linux arch/x86/events/core.c, ``x86_schedule_events``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._clocks import CPL
from ._counters import full_selector
from ._perfcount import PerfCount

ACTIVE, INACTIVE, OFF, ERROR = "active", "inactive", "off", "error"


class HostEvent:
    """One event of host perf.

    Parameters
    ----------
    event, code : int
        Index of the event and the event part of its selector.
    gp_mask, fixed_mask : int
        Counters that it may use.
    user, kernel, exclude_guest, exclude_host : bool
    period : int
    sampling, freq, throttles : bool, int and bool
        Takes a sample after each period; samples per second that the period follows, or 0; may be throttled.
    pinned, task : bool
        Goes to ERROR rather than wait; belongs to the vCPU's thread.
    backs : int or None
        The guest counter that it backs.
    """

    def __init__(
        self,
        event: int,
        code: int,
        gp_mask: int,
        fixed_mask: int,
        *,
        user: bool,
        kernel: bool,
        exclude_guest: bool,
        exclude_host: bool,
        period: int,
        sampling: bool = False,
        freq: int = 0,
        throttles: bool = True,
        pinned: bool = True,
        task: bool = False,
        backs: int | None = None,
    ) -> None:
        self.event = event
        self.selector = full_selector(code, user, kernel)
        self.allowed = gp_mask | fixed_mask << 32
        self.user, self.kernel = user, kernel
        self.exclude_guest, self.exclude_host = exclude_guest, exclude_host
        self.perf = PerfCount(period)
        self.sampling, self.freq, self.throttles = sampling, freq, throttles
        self.samples = 0
        #: Samples in one tick, which tick, and the instant of the last one in nanoseconds.
        self.interrupts, self.sample_tick, self.sample_time = 0, 0, 0
        self.throttled = False
        self.throttlings = 0
        #: Periods that have ended; cycles from overflows to the handler; when its counter last overflowed.
        self.expected, self.late, self.overflowed_at = 0, 0, 0
        #: What perf_adjust_period() has taken from what is left of the period under way.
        self.taken = 0
        #: Its count when the tick last looked.
        self.tick_count = 0
        self.pinned, self.task = pinned, task
        #: Place in its class; less comes first.
        self.position = 0
        self.backs = backs
        self.state = OFF
        #: The counter that it has or had last (Linux ``hwc->idx``).
        self.counter: int | None = None
        #: Whether it is in that counter now; an active event is not while guest state is loaded.
        self.in_hardware = False
        #: Cycles of its context in which it was enabled and in which it ran, up to ``since``.
        self.enabled = self.running = self.since = 0
        #: In its counter with the enable bits off (direct-capture).
        self.held = False
        #: Backs a guest counter without a period: its overflows are nobody's.
        self.unsampled = False
        self.ideal = 0
        self.losses: dict[str, int] = {}
        self.gains: dict[str, int] = {}

    def expect(self) -> None:
        """A period that has ended is due a sample; the counter is about to be written anew."""
        left, self.taken = self.perf.left + self.taken, 0
        if self.sampling and left <= 0:
            self.expected += 1 + -left // self.perf.period

    def counts_level(self, activity: int) -> bool:
        """Whether it counts at the privilege level of an activity."""
        return self.user if CPL[activity] else self.kernel


def place(events: Sequence[HostEvent]) -> list[int] | None:
    """Find a counter for each event, or None if one cannot be placed (Linux ``x86_schedule_events``).

    Previous counters are kept if all still fit. Otherwise the most constrained event goes first, to a fixed
    counter if it can.
    """
    previous = [event.counter for event in events]
    if len(set(previous)) == len(previous) and all(
        c is not None and event.allowed >> c & 1 for event, c in zip(events, previous, strict=True)
    ):
        return [c for c in previous if c is not None]
    placed: dict[int, int] = {}
    used = 0
    for i in sorted(range(len(events)), key=lambda i: events[i].allowed.bit_count()):
        free = events[i].allowed & ~used
        if not free:
            return None
        first = free >> 32 << 32 or free
        placed[i] = (first & -first).bit_length() - 1
        used |= 1 << placed[i]
    return [placed[i] for i in range(len(events))]
