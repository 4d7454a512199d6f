"""Turn a workload into the integers of one machine: handling cycles, gaps between exits, and alias tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import ceil, lcm
from typing import Literal

from ._costs import Quality
from ._errors import ScenarioError
from ._exits import Clock, Kind
from ._workload import ExitSource, Workload, check_integer, decimal_text, round_half_up

NS_PER_SECOND = 10**9
HANDLING: tuple[str, ...] = ("fastpath", "kernel", "userspace", "hlt")
MAX_CYCLES = 1 << 50  #: longest gap, and longest single exit: days


@dataclass(frozen=True)
class PlannedExit:
    """One exit source in cycles of one machine.

    Parameters
    ----------
    reason, kind, clock, cpl, emulates, blocks
        As in :class:`ExitSource`.
    handling : int
        Cycles in the hypervisor between the two transitions.
    idle : int
        Cycles that the vCPU then sleeps; 0 unless it blocks.
    handling_quality : {"published", "derived", "assumed", "model"}
        Quality of the recorded time, or ``"model"`` where the cost model's default decides.
    """

    reason: str
    kind: Kind
    clock: Clock
    cpl: int
    emulates: bool
    blocks: bool
    handling: int
    idle: int
    handling_quality: Quality | Literal["model"]


@dataclass(frozen=True)
class ExitPlan:
    """All exits of a workload, in cycles of one machine.

    Parameters
    ----------
    kinds : tuple of PlannedExit
        In the order of the workload's exits.
    work_mean_gap, wall_mean_gap : int
        Mean gap between exits of the stream: in cycles of guest work, and in wall cycles without idle. 0 if
        the stream has no source.
    work_threshold, wall_threshold : tuple of int
        Thresholds of the alias table, below 2**32; see :func:`choose`.
    work_alias, wall_alias : tuple of int
        Aliases: slots of the same table.
    work_kinds, wall_kinds : tuple of int
        Index into `kinds` of each slot.
    guest_cycles_per_second : Fraction
        Cycles of guest work in a second of the recording, on this machine.
    work_rates, wall_rates : tuple of int
        With regular arrivals, exits of each slot per cycle, in 2**-48; else empty.
    """

    kinds: tuple[PlannedExit, ...]
    work_mean_gap: int
    work_threshold: tuple[int, ...]
    work_alias: tuple[int, ...]
    work_kinds: tuple[int, ...]
    wall_mean_gap: int
    wall_threshold: tuple[int, ...]
    wall_alias: tuple[int, ...]
    wall_kinds: tuple[int, ...]
    guest_cycles_per_second: Fraction
    work_rates: tuple[int, ...]
    wall_rates: tuple[int, ...]


def alias_table(weights: Sequence[Fraction]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Make an alias table that draws slot k with a probability within 2**-32 of its share.

    Parameters
    ----------
    weights : sequence of Fraction
        Positive weights, at most 2**16.

    Returns
    -------
    threshold, alias : tuple of int
        For :func:`choose`. Slots are as wide as `choose` makes them, which is not quite equal when their
        number does not divide 2**32.
    """
    n = len(weights)
    if not n:
        return (), ()
    if n > 1 << 16:
        raise ScenarioError(f"{n} exit sources are too many; merge them to 65536 or fewer")
    common = lcm(*(weight.denominator for weight in weights))
    counts = [weight.numerator * (common // weight.denominator) for weight in weights]
    total = sum(counts)
    edges = [-(-(i << 32) // n) for i in range(n + 1)]
    width = [edges[i + 1] - edges[i] for i in range(n)]  # upper halves of a draw that lead to slot i
    capacity = [item * total << 32 for item in width]  # all in units of 2**-64 / total
    left = [count << 64 for count in counts]
    threshold, alias = [(1 << 32) - 1] * n, list(range(n))
    small = [i for i in range(n) if left[i] < capacity[i]]
    large = [(capacity[i] - left[i], i) for i in range(n) if left[i] > capacity[i]]
    heapify(large)  # the largest surplus first: it can always fill a slot, however unequal the widths
    while small:
        low, (_, high) = small.pop(), heappop(large)
        cut = round_half_up(Fraction(left[low], width[low] * total))
        if cut < 1 << 32:
            threshold[low], alias[low] = cut, high
        left[high] -= capacity[low] - left[low]
        if left[high] > capacity[high]:
            heappush(large, (capacity[high] - left[high], high))
        elif left[high] < capacity[high]:
            small.append(high)
    return tuple(threshold), tuple(alias)


def choose(draw: int, threshold: Sequence[int], alias: Sequence[int]) -> int:
    """Pick a slot of an alias table with a draw of 64 random bits."""
    slot = ((draw >> 32) * len(threshold)) >> 32
    return slot if (draw & 0xFFFFFFFF) < threshold[slot] else alias[slot]


def _planned(source: ExitSource, core_hz: int, handling: Mapping[str, int], where: str) -> PlannedExit:
    default = handling["hlt" if source.blocks else source.kind]
    quality: Quality | Literal["model"] = "model"
    cycles, idle = default, 0
    if source.handling_ns is not None:
        cycles = round_half_up(source.handling_ns * core_hz / NS_PER_SECOND)
        if cycles > MAX_CYCLES:
            long = f"one {source.reason} of {decimal_text(source.handling_ns / NS_PER_SECOND)} s"
            raise ScenarioError(f"{where}: {long} is too long; check its unit (ns)")
        if source.blocks and cycles > default:
            cycles, idle = default, cycles - default
        else:
            quality = source.handling_quality or source.quality
    return PlannedExit(
        reason=source.reason,
        kind=source.kind,
        clock=source.clock,
        cpl=source.cpl,
        emulates=source.emulates,
        blocks=source.blocks,
        handling=cycles,
        idle=idle,
        handling_quality=quality,
    )


_Stream = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _stream(clock: Clock, workload: Workload, guest: Fraction) -> _Stream:
    """Mean gap, alias table and kinds of one stream."""
    members = [k for k, source in enumerate(workload.exits) if source.clock == clock]
    rates = [workload.exits[k].per_second for k in members]
    if not rates:
        return 0, (), (), ()
    gap = max(1, round_half_up(guest / sum(rates)))
    if gap > MAX_CYCLES:
        raise ScenarioError(f"workload {workload.name!r}: its {clock} exits are days apart; leave them out")
    threshold, alias = alias_table(rates)
    return gap, threshold, alias, tuple(members)


def _regular_rates(clock: Clock, workload: Workload, guest: Fraction) -> tuple[int, ...]:
    """Exits per cycle in 2**-48: the n-th comes where floor(rate * clock / 2**48) reaches n."""
    if workload.arrivals != "regular":
        return ()
    rates = []
    for source in workload.exits:
        if source.clock == clock:
            # Rounded up, the first exits come at whole multiples of a gap that is whole.
            rate = ceil(source.per_second * (1 << 48) / guest)
            if not 0 < rate <= 1 << 48:
                every = decimal_text(guest / source.per_second)
                raise ScenarioError(
                    f"workload {workload.name!r}: a regular {source.reason} every {every} cycles; use 1 to 2**48"
                )
            rates.append(rate)
    return tuple(rates)


def calibrate(workload: Workload, *, core_hz: int, transition: int, handling: Mapping[str, int]) -> ExitPlan:
    """Calibrate a workload on the machine and design that it was recorded on.

    With handling_k and idle_k in cycles, the exits of a second take sum R_k (handling_k + idle_k +
    transition) cycles; the rest of the second, G, is guest work. A stream of rate R has a mean gap of
    G / R, rounded.

    Parameters
    ----------
    workload : Workload
        Exits of one vCPU.
    core_hz : int
        Core clock.
    transition : int
        Cycles of a bare VM-exit and VM-entry.
    handling : mapping of str to int
        Cycles of handling where none was recorded, by kind: ``fastpath``, ``kernel``, ``userspace``; and
        ``hlt``, the part of a blocking exit that is not idle.

    Returns
    -------
    ExitPlan

    Raises
    ------
    ScenarioError
        If the exits leave no time for the guest.
    """
    where = f"workload {workload.name!r}"
    check_integer(core_hz, 10**6, 10**10, f"{where}: core_hz")
    check_integer(transition, 0, MAX_CYCLES, f"{where}: transition (cycles)")
    for key in HANDLING:
        check_integer(handling.get(key), 0, MAX_CYCLES, f"{where}: default handling of {key} (cycles)")
    kinds = tuple(_planned(source, core_hz, handling, where) for source in workload.exits)
    taken = Fraction(0)
    for source, kind in zip(workload.exits, kinds, strict=True):
        taken += source.per_second * (kind.handling + kind.idle + transition)
    guest = core_hz - taken
    if guest <= 0:
        share = decimal_text(100 * taken / core_hz, 1)
        over = decimal_text(-guest * 1000 / core_hz)
        raise ScenarioError(
            f"{where}: its exits take {share} % of a second at {core_hz:,} Hz, {over} ms too much; "
            "lower the counts, or divide them by more vCPUs or recorded seconds"
        )
    work_gap, work_threshold, work_alias, work_kinds = _stream("work", workload, guest)
    wall_gap, wall_threshold, wall_alias, wall_kinds = _stream("wall", workload, guest)
    return ExitPlan(
        kinds=kinds,
        work_mean_gap=work_gap,
        work_threshold=work_threshold,
        work_alias=work_alias,
        work_kinds=work_kinds,
        wall_mean_gap=wall_gap,
        wall_threshold=wall_threshold,
        wall_alias=wall_alias,
        wall_kinds=wall_kinds,
        guest_cycles_per_second=guest,
        work_rates=_regular_rates("work", workload, guest),
        wall_rates=_regular_rates("wall", workload, guest),
    )
