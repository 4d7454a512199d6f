"""One event of host perf, and the placement of events on counters.

After Linux arch/x86/events/core.c, ``x86_schedule_events``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._clocks import CPL
from ._counters import full_selector
from ._perfcount import PerfCount

ACTIVE, OFF, ERROR = "active", "off", "error"


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
        backs: int | None = None,
    ) -> None:
        self.event = event
        self.selector = full_selector(code, user, kernel)
        self.allowed = gp_mask | fixed_mask << 32
        self.user, self.kernel = user, kernel
        self.exclude_guest, self.exclude_host = exclude_guest, exclude_host
        self.perf = PerfCount(period)
        self.backs = backs
        self.state = OFF
        #: The counter that it has or had last (Linux ``hwc->idx``).
        self.counter: int | None = None
        #: Whether it is in that counter now; an active event is not while guest state is loaded.
        self.in_hardware = False
        #: In its counter with the enable bits off (direct-capture).
        self.held = False
        self.ideal = 0
        self.losses: dict[str, int] = {}
        self.gains: dict[str, int] = {}

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
