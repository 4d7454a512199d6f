"""What one count() says has occurred: the arguments, checked, and what follows from the clock."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from .._cpu import CpuModel
from .._errors import ScenarioError, UnknownName
from ._register import RTM_FORCE_ABORT, indices
from ._selection import Events
from .registers import RegisterFile

#: Bound of the cycle clock.
MAX_CYCLES = 1 << 58
#: Most occurrences per cycle that a distribution can tell, plus one.
MAX_ENTRIES = 16
FLOWS = ("interrupt-return", "far-transfer", "vmrun", "erratum-1292")
#: Events that follow the core clock unless they are given.
CLOCKED = {"intel": ("cycles", "ref-cycles", "bus-cycles", "slots"), "amd": ("cycles", "ref-cycles")}

Numbers = Mapping[str, SupportsIndex]


@dataclass(frozen=True)
class Occasion:
    """The arguments of one count(), every event spelled in one way.

    Parameters
    ----------
    amounts : dict
        Occurrences by event, those that follow the clock included.
    cycles, cpl : int
        Core cycles that pass, and the privilege level.
    distributions : dict
        By event, {occurrences per cycle: number of such cycles}, where it is known.
    edges : dict
        Rises by event.
    sibling : dict or None
        Occurrences in the other thread, None if nobody says.
    sibling_cpl : int
    transaction : str or None
        None, "commit" or "abort", after a forced abort.
    flows : dict
        By name.
    leaks : dict
        By counter.
    """

    amounts: dict[str, int]
    cycles: int
    cpl: int
    distributions: dict[str, dict[int, int]]
    edges: dict[str, int]
    sibling: dict[str, int] | None
    sibling_cpl: int
    transaction: str | None
    flows: dict[str, int]
    leaks: dict[int, int]


class Reader:
    """Checks the arguments of count() for one PMU.

    Parameters
    ----------
    cpu : CpuModel
    events : Events
    registers : RegisterFile
        MSR_TSX_FORCE_ABORT turns commits into aborts.
    """

    def __init__(self, cpu: CpuModel, events: Events, registers: RegisterFile) -> None:
        self._cpu = cpu
        self._events = events
        self._registers = registers

    def read(
        self,
        now: int,
        events: Numbers,
        cycles: SupportsIndex,
        cpl: SupportsIndex,
        per_cycle: Mapping[str, Sequence[SupportsIndex]] | None,
        edges: Numbers | None,
        sibling: Numbers | None,
        sibling_cycles: SupportsIndex,
        sibling_cpl: SupportsIndex,
        transaction: str | None,
        flows: Numbers | None,
        leaks: Mapping[SupportsIndex, SupportsIndex] | None,
    ) -> Occasion:
        """Return what occurs from cycle `now` on; raise what :meth:`.pmu.Pmu.count` says."""
        given = self._by_event("events", events)
        elapsed = self._elapsed(now, given, cycles, "cycles")
        level = privilege(cpl, "cpl")
        distributions = self._distributions(per_cycle, given, elapsed)
        given |= {name: sum(k * n for k, n in spread.items()) for name, spread in distributions.items()}
        rises = self._by_event("edges", {} if edges is None else edges)
        others = None if sibling is None else self._by_event("sibling", sibling)
        other_cycles = self._elapsed(now, others or {}, sibling_cycles, "sibling_cycles")
        if others is None and other_cycles:
            raise ScenarioError(f"sibling_cycles={other_cycles} needs sibling={{…}}")
        other_level = privilege(sibling_cpl, "sibling_cpl")
        if others is not None:
            others = self._clocked(now, other_cycles) | others
        distributions = self._evident(given, elapsed) | distributions
        return Occasion(
            amounts=self._clocked(now, elapsed) | given,
            cycles=elapsed,
            cpl=level,
            distributions=distributions,
            edges=rises,
            sibling=others,
            sibling_cpl=other_level,
            transaction=self._transaction(transaction),
            flows=_flows({} if flows is None else flows),
            leaks=self._leaks({} if leaks is None else leaks),
        )

    def _by_event(self, argument: str, numbers: Numbers) -> dict[str, int]:
        if not isinstance(numbers, Mapping):
            raise TypeError(f"{argument} must map events to integers, not {numbers!r}")
        found: dict[str, int] = {}
        for name, number in numbers.items():
            event = self._resolve(argument, name, found)
            found[event] = occurrences(number, f"{argument}: {name}")
        return found

    def _resolve(self, argument: str, name: str, found: Mapping[str, object]) -> str:
        event = self._events.resolve(name)
        if event in found:
            raise ScenarioError(f"{argument}: {name!r} is {event!r}, which is given twice; give it once")
        return event

    def _elapsed(self, now: int, given: Mapping[str, int], cycles: SupportsIndex, argument: str) -> int:
        elapsed = occurrences(cycles, argument)
        if "cycles" in given:
            if elapsed:
                raise ScenarioError(f"cycles are given twice: as an event and as {argument}={elapsed}; give one")
            elapsed = given["cycles"]
        if now + elapsed >= MAX_CYCLES:
            raise OverflowError(f"a PMU counts fewer than 2**58 cycles in all; {argument}={elapsed} after {now}")
        return elapsed

    def _distributions(
        self, per_cycle: Mapping[str, Sequence[SupportsIndex]] | None, given: Mapping[str, int], elapsed: int
    ) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        if per_cycle is None:
            return found
        if not isinstance(per_cycle, Mapping):
            raise TypeError(f"per_cycle must map events to sequences of integers, not {per_cycle!r}")
        for name, entries in per_cycle.items():
            event = self._resolve("per_cycle", name, found)
            if isinstance(entries, (str, Mapping)) or not hasattr(entries, "__len__"):
                raise TypeError(f"per_cycle: {name} must have a sequence of integers, not {entries!r}")
            if not 1 <= len(entries) <= MAX_ENTRIES:
                raise ScenarioError(f"per_cycle: {name} must have 1 to {MAX_ENTRIES} numbers, not {len(entries)}")
            numbers = [occurrences(entry, f"per_cycle: {name}") for entry in entries]
            if sum(numbers) != elapsed:
                raise ScenarioError(f"per_cycle: {name} is about {sum(numbers)} cycles; it must be cycles={elapsed}")
            total = sum(k * n for k, n in enumerate(numbers))
            expected = elapsed if event == "cycles" else given.get(event, total)
            if total != expected:
                raise ScenarioError(f"per_cycle: {name} adds up to {total} occurrences, but {expected} are given")
            found[event] = dict(enumerate(numbers))
        return found

    def _evident(self, given: Mapping[str, int], elapsed: int) -> dict[str, dict[int, int]]:
        """Distributions that need not be told: every cycle is one cycle, and has all of the CPU's slots."""
        spread = {"cycles": {1: elapsed}}
        if "slots" not in given and self._cpu.vendor == "intel":
            spread["slots"] = {self._cpu.slots_per_cycle: elapsed}
        return spread

    def _clocked(self, now: int, elapsed: int) -> dict[str, int]:
        """Occurrences of the events that follow the core clock while it advances by `elapsed`.

        They are differences of a function of the clock, so that however cycles are cut the sums are equal.
        """
        rates = {event: self._cpu.rate_of(event) for event in CLOCKED[self._cpu.vendor]}
        return {event: (rate * (now + elapsed) >> 32) - (rate * now >> 32) for event, rate in rates.items()}

    def _transaction(self, transaction: str | None) -> str | None:
        if transaction is None:
            return None
        if transaction not in ("commit", "abort"):
            raise ScenarioError(f"transaction must be None, 'commit' or 'abort', not {transaction!r}")
        if not self._cpu.features & {"rtm", "hle"}:
            raise ScenarioError(f"{self._cpu.name} has no transactions: leave out transaction={transaction!r}")
        forced = self._registers.tsx_force_abort >> RTM_FORCE_ABORT & 1
        return "abort" if forced else transaction

    def _leaks(self, leaks: Mapping[SupportsIndex, SupportsIndex]) -> dict[int, int]:
        if not isinstance(leaks, Mapping):
            raise TypeError(f"leaks must map counters to integers, not {leaks!r}")
        found = {}
        for counter, number in leaks.items():
            x = operator.index(counter)
            if x not in indices(self._cpu.gp_mask):
                raise ScenarioError(f"leaks: {self._cpu.name} has no counter {x}; it has {indices(self._cpu.gp_mask)}")
            found[x] = occurrences(number, f"leaks: {x}")
        return found


def _flows(flows: Numbers) -> dict[str, int]:
    if not isinstance(flows, Mapping):
        raise TypeError(f"flows must map names to integers, not {flows!r}")
    found = dict.fromkeys(FLOWS, 0)
    for name, number in flows.items():
        if name not in FLOWS:
            raise UnknownName("flow", str(name), FLOWS)
        found[name] = occurrences(number, f"flows: {name}")
    return found


def unsigned(number: SupportsIndex, width: int, name: str) -> int:
    """Return an integer of `width` bits; raise TypeError for what is none, OverflowError for others."""
    value = operator.index(number)
    if not 0 <= value < 1 << width:
        raise OverflowError(f"{name} must be an integer in [0, 2**{width}), not {value}")
    return value


def occurrences(number: SupportsIndex, name: str) -> int:
    """Return how often something occurs; raise ValueError if that is negative, OverflowError from 2**64 on."""
    value = operator.index(number)
    if value < 0:
        raise ScenarioError(f"{name} must not be negative: {value}")
    return unsigned(value, 64, name)


def privilege(cpl: SupportsIndex, name: str) -> int:
    """Return a privilege level; raise ValueError for one that does not exist."""
    level = operator.index(cpl)
    if not 0 <= level <= 3:
        raise ScenarioError(f"{name} must be 0 to 3, not {level}")
    return level
