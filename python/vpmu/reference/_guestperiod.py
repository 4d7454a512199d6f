"""Sampling by frequency: the next period, and how many samples the guest's kernel lets come.

After Linux kernel/events/core.c, ``perf_calculate_period``, ``perf_adjust_period`` and ``perf_sample_event_took``.
"""

from __future__ import annotations

NSEC_PER_SEC = 10**9
#: Handlers over which Linux averages their duration.
AVERAGED = 128


def target_period(nsec: int, count: int, frequency: int) -> int:
    """Find the period at which a rate of ``count`` in ``nsec`` is sampled ``frequency`` times a second.

    It is count * 10**9 / (nsec * frequency) with both products in 64 bits: factors lose their lowest bits until the
    lengths of the two factors of each product add up to 64 at most.
    """
    numerator, denominator = [count, NSEC_PER_SEC], [nsec, frequency]

    def long(factors: list[int]) -> bool:
        return factors[0].bit_length() + factors[1].bit_length() > 64

    def halve(factors: list[int], tie: int) -> None:
        first, second = factors[0].bit_length(), factors[1].bit_length()
        factors[tie if first == second else int(second > first)] >>= 1

    while long(numerator) and long(denominator):
        halve(denominator, 1)
        halve(numerator, 0)
    lost = [0, 0]
    while long(numerator):
        halve(numerator, 1)
        lost[1] += 1
    while long(denominator):
        halve(denominator, 1)
        lost[0] += 1
    above = numerator[0] * numerator[1] >> lost[0]
    below = denominator[0] * denominator[1] >> lost[1]
    return above // below if below else above


def adjusted_period(period: int, nsec: int, count: int, frequency: int) -> int:
    """Go an eighth of the way to the target, at least one; never to 0."""
    difference = target_period(nsec, count, frequency) - period
    step = (abs(difference) + 7) // 8
    return period + (step if difference >= 0 else -step) or 1


class SampleLimit:
    """How many samples an event may have from tick to tick.

    Parameters
    ----------
    hz : int
        CONFIG_HZ.
    rate, percent : int
        Sysctls ``kernel.perf_event_max_sample_rate`` and ``kernel.perf_cpu_time_max_percent``.
    """

    def __init__(self, hz: int, rate: int, percent: int) -> None:
        self._hundredth = (NSEC_PER_SEC + hz // 2) // hz // 100
        self._percent = percent
        self._allowed = NSEC_PER_SEC // rate * percent // 100
        self._sum = 0
        self.per_tick = -(-rate // hz)

    def handler_took(self, nsec: int) -> None:
        """Lower the limit if PMI handlers take longer than they may; it never rises again."""
        if not self._allowed:
            return
        self._sum += nsec - self._sum // AVERAGED
        average = self._sum // AVERAGED
        if average > self._allowed:
            self._allowed = average + average // 4
            time = self._hundredth * self._percent
            self.per_tick = time // self._allowed if self._allowed < time else 1


def lowered_limits(hz: int, durations: list[int], rate: int = 100_000, percent: int = 25) -> list[int]:
    """Samples per tick after handlers of these durations in ns."""
    limit = SampleLimit(hz, rate, percent)
    limits = []
    for nsec in durations:
        limit.handler_took(nsec)
        limits.append(limit.per_tick)
    return limits
