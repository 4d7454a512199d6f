"""Benchmarks: each has its limit, measured in turns with it; only ratios within one run mean anything."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

import vpmu
import vpmu_core.limit
from vpmu._plan import Plan
from vpmu._scenario import plan
from vpmu_core.machine import Machine

FIXED = ["instructions", "cycles", "ref-cycles", "slots"]
ANY = ["branches", "branch-misses", "cache-references", "cache-misses"]
MEDIATED = "mediated,scope=every-exit"
LIVE = "stat:instructions,cycles,ref-cycles," + ",".join(ANY * 2)
#: Seconds that a benchmark may take, its limit included, and its repeats.
ENOUGH, FEWEST, MOST = 0.3, 3, 30


def _run(planned: Plan, engine: str = "lazy") -> dict[str, Any]:
    """A plan's result."""
    machine = Machine(planned, engine)
    while not machine.advance():
        pass
    return machine.result()


def _one_kind(per_second: int = 80_000, reason: str = "EPT_MISCONFIG", **changes: Any) -> vpmu.Workload:
    """Exits of one kind."""
    fio = vpmu.workload("fio-4k-read")
    (source,) = (e for e in fio.exits if e.reason == "EPT_MISCONFIG")
    count = int(per_second * source.seconds * source.vcpus)
    return dataclasses.replace(fio, exits=(dataclasses.replace(source, count=count, reason=reason),), **changes)


def _quiet(
    design: str = MEDIATED, counters: int = 2, seconds: str = "3", workload: vpmu.Workload | None = None
) -> Plan:
    """Exits that change nothing; with more than 11 counters the guest has the CPU's fourth fixed one too."""
    events = [*FIXED, *ANY, *ANY] if counters > 11 else [*FIXED[:3], *ANY, *ANY][:counters]
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=design,
        workload=workload or _one_kind(),
        guest_perf=("stat:" + ",".join(events),) if counters else (),
        guest_pmu=vpmu.GuestPmu(2, 8, 4) if counters > 11 else None,
        seconds=seconds,
    )
    return plan(scenario)


def _switching_plan(seconds: str, live: bool = True) -> Plan:
    """A full switch of 8 GP + 3 fixed counters at every exit: one kind of kernel exit, 80,000 a second.

    The hypervisor emulates no instruction in it, as the limit does not.
    """
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=MEDIATED,
        workload=_one_kind(),
        guest_perf=(LIVE,) if live else (),
        seconds=seconds,
    )
    planned = plan(scenario)
    return dataclasses.replace(planned, exits=tuple(dataclasses.replace(e, emulates=False) for e in planned.exits))


@dataclasses.dataclass(frozen=True)
class Limit:
    """A loop that does only what cannot be left out, and how many operations one call does."""

    call: Callable[[], object]
    operations: int

    def seconds(self) -> float:
        """Seconds of an operation in one call."""
        start = time.perf_counter()
        self.call()
        return (time.perf_counter() - start) / self.operations


#: One full switch of 11 counters an exit; drawing an exit and adding it to two clocks.
SWITCH = Limit(lambda: vpmu_core.limit.full(20_000), 20_000)
DRAW = Limit(lambda: vpmu_core.limit.lazy(50_000, 1), 50_000)


@pytest.fixture
def report_rate(benchmark):
    """Put nanoseconds per operation into the report of a benchmark that cannot take turns with its limit."""

    def report(operations: int, limit: bool = False) -> None:
        if benchmark.stats is not None:
            seconds = benchmark.stats.stats.min / operations
            benchmark.extra_info.update({"unit": "exit", "operations": operations, "ns_per_exit": seconds * 1e9})
            if limit:
                benchmark.extra_info["x_limit"] = 1.0

    return report


@pytest.fixture
def measure(benchmark):
    """Measure a call: repeats in turns with its limit, minima of both, their ratio in ``extra_info``.

    ``operations``: of one call, or a function of its result. ``unit``: what an operation is.
    """

    def measured(function, *arguments, operations, limit: Limit | None = None, unit="exit", rounds=None):
        if not benchmark.enabled:
            return benchmark.pedantic(function, arguments)
        start = time.perf_counter()
        function(*arguments)
        taken = time.perf_counter() - start
        rounds = rounds or min(MOST, max(FEWEST, int(ENOUGH / (taken + 1e-4))))
        limits = []

        def turn():
            if limit is not None:
                limits.append(limit.seconds())

        result = benchmark.pedantic(function, arguments, setup=turn, rounds=rounds)
        number = operations(result) if callable(operations) else operations
        seconds = benchmark.stats.stats.min / number
        benchmark.extra_info.update({"unit": unit, "operations": number, f"ns_per_{unit}": seconds * 1e9})
        if limits:
            benchmark.extra_info.update({f"limit_ns_per_{unit}": min(limits) * 1e9, "x_limit": seconds / min(limits)})
        return result

    return measured


@pytest.fixture
def note(benchmark):
    """Put a figure that is not a time into the record; ``bound``: what it must stay below, its limit."""

    def noted(unit: str, value: float, bound: float) -> None:
        benchmark.extra_info.update({"unit": unit, f"{unit}": value, f"limit_{unit}": bound, "x_limit": value / bound})

    return noted


@pytest.fixture(scope="session")
def fastest():
    """CPU seconds of each function, the minimum of interleaved repeats; what others do meanwhile counts less so."""

    def of(repeats: int, **functions: Callable[[], object]) -> dict[str, float]:
        best = dict.fromkeys(functions, float("inf"))
        for _ in range(repeats):
            for name, function in functions.items():
                start = time.process_time()
                function()
                best[name] = min(best[name], time.process_time() - start)
        return best

    return of


@pytest.fixture(scope="session")
def exits_of():
    """Exits of a result."""
    return lambda result: sum(result["exits"])


@pytest.fixture(scope="session")
def run():
    """Run a plan."""
    return _run


@pytest.fixture(scope="session")
def quiet():
    """Make plans of exits that change nothing."""
    return _quiet


@pytest.fixture(scope="session")
def one_kind():
    """Make workloads of one kind of exit."""
    return _one_kind


@pytest.fixture(scope="session")
def switching_plan():
    """Make plans with a full switch at every exit."""
    return _switching_plan


@pytest.fixture(scope="session")
def limits():
    """The limit loops by name."""
    return {"switch": SWITCH, "draw": DRAW, "limit": Limit}
