"""The count and period arithmetic of one perf event.

After Linux arch/x86/events/core.c, ``x86_perf_event_update`` and ``x86_perf_event_set_period``.
"""

from __future__ import annotations

from .._cpu import CpuModel


def max_period(model: CpuModel, counter: int) -> int:
    """The longest period that a counter can be armed with (Linux ``x86_pmu.max_period``)."""
    if not model.full_width_writes:
        return (1 << 31) - 1
    return (1 << ((model.fixed_width if counter >= 32 else model.gp_width) - 1)) - 1


class PerfCount:
    """Linux's ``hw_perf_event``: a 64-bit count of a narrower counter that is re-armed after each period.

    Parameters
    ----------
    period : int
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.left = period
        self.count = 0
        self.previous = 0

    def update(self, new: int, modulus: int) -> None:
        """Add what the counter has counted since it was last looked at."""
        delta = (new - self.previous) % modulus
        self.count += delta
        self.left -= delta
        self.previous = new

    def next_left(self, longest: int) -> tuple[int, bool]:
        """Find the distance to the next overflow.

        Returns
        -------
        left : int
            What to arm the counter with, negated; at least 2 and at most ``longest``.
        hit : bool
            Whether a period has ended, so that a sampling event takes a sample.
        """
        hit = False
        if self.left <= -self.period:
            self.left = self.period
            hit = True
        if self.left <= 0:
            self.left += self.period
            hit = True
        return min(max(self.left, 2), longest), hit
