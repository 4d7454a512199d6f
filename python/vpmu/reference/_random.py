"""Random draws from raw 64-bit outputs and integer arithmetic only, so that every machine draws the same."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from heapq import heapify, heappop, heappush

from .._plan import Stream, Trace

MASK64 = (1 << 64) - 1

#: Farther away than any clock of a run: "never".
NEVER = 1 << 80


def _logarithms() -> tuple[int, ...]:
    """ln(1 + i/256) * 2**32 rounded to nearest, for i = 0..256; decimal, because libm differs by platform."""
    with localcontext() as context:
        context.prec = 50
        scale = Decimal(1 << 32)
        exact = [(Decimal(256 + i) / 256).ln() * scale for i in range(257)]
        return tuple(int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN)) for value in exact)


LOGARITHMS = _logarithms()


class Sfc64:
    """Chris Doty-Humphrey's SFC64 as seeded by numpy: three seeds, counter 1, twelve outputs discarded.

    Parameters
    ----------
    seeds : tuple of int
        Three 64-bit words.
    """

    def __init__(self, seeds: tuple[int, int, int]) -> None:
        self._a, self._b, self._c = (seed & MASK64 for seed in seeds)
        self._counter = 1
        for _ in range(12):
            self.draw()

    def draw(self) -> int:
        """Return the next 64 bits."""
        output = (self._a + self._b + self._counter) & MASK64
        self._counter = (self._counter + 1) & MASK64
        self._a = self._b ^ (self._b >> 11)
        self._b = (self._c + (self._c << 3)) & MASK64
        rotated = ((self._c << 24) | (self._c >> 40)) & MASK64
        self._c = (rotated + output) & MASK64
        return output


def exponential_gap(x: int, mean: int) -> int:
    """Turn 64 random bits into an exponential gap: -ln of x / 2**64 from a table, times the mean."""
    x = x or 1
    zeros = 64 - x.bit_length()
    mantissa = x << zeros
    index = (mantissa >> 55) & 255
    fraction = (mantissa >> 39) & 65535
    low, high = LOGARITHMS[index], LOGARITHMS[index + 1]
    ln_mantissa = low + ((high - low) * fraction >> 16)
    return mean * ((zeros + 1) * LOGARITHMS[256] - ln_mantissa) >> 32


def uniform(x: int, minimum: int, maximum: int) -> int:
    """Turn 64 random bits into an integer of [minimum, maximum]."""
    return minimum + ((x >> 32) * (maximum - minimum + 1) >> 32)


def _reaches(rate: int, n: int) -> int:
    """The first clock at which rate * clock / 2**48, rounded down, is n."""
    return -(-(n << 48) // rate)


class Arrivals:
    """One stream of exits: its next gap and its next kind.

    Parameters
    ----------
    stream : Stream
    seeds : tuple of int
    """

    def __init__(self, stream: Stream, seeds: tuple[int, int, int]) -> None:
        self._stream = stream
        self._random = Sfc64(seeds)
        #: Of regular arrivals, the clock at the next exit of each slot, and which exit of the slot it is.
        self._due = [(_reaches(rate, 1), slot, 1) for slot, rate in enumerate(stream.rates)]
        self._clock = 0
        heapify(self._due)

    def draw(self) -> tuple[int, int]:
        """Return (gap, index of the exit kind in the plan); the gap is ``NEVER`` without sources."""
        stream = self._stream
        if stream.mean_gap == 0 or not stream.kinds:
            return NEVER, 0
        if stream.rates:
            clock, slot, n = heappop(self._due)
            heappush(self._due, (_reaches(stream.rates[slot], n + 1), slot, n + 1))
            gap, self._clock = clock - self._clock, clock
            return gap, stream.kinds[slot]
        gap = exponential_gap(self._random.draw(), stream.mean_gap)
        x = self._random.draw()
        slot = (x >> 32) * len(stream.kinds) >> 32
        if (x & 0xFFFFFFFF) >= stream.threshold[slot]:
            slot = stream.alias[slot]
        return gap, stream.kinds[slot]


class Replay:
    """Recorded exits in order, once or again and again.

    Parameters
    ----------
    trace : Trace
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._next = 0

    def draw(self) -> tuple[int, int, int, int]:
        """Return (gap, kind, handling, idle) of the next recorded exit; the gap is ``NEVER`` at the end."""
        trace = self._trace
        if self._next == len(trace.gap) and trace.repeat:
            self._next = 0
        if self._next >= len(trace.gap):
            return NEVER, 0, 0, 0
        i = self._next
        self._next += 1
        return int(trace.gap[i]), int(trace.kind[i]), int(trace.handling[i]), int(trace.idle[i])
