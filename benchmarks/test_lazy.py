"""The lazy engine: exits that change nothing, by design, by live counters, by number; and its limit loop."""

import dataclasses
import time

import numpy as np
import pytest

import vpmu
import vpmu_core.limit
from vpmu._plan import Trace
from vpmu._scenario import plan
from vpmu_core.machine import Machine

FIXED, ANY = ["instructions", "cycles", "ref-cycles"], ["branches", "branch-misses", "cache-references", "cache-misses"]
MEDIATED = "mediated,scope=every-exit"


def run(planned, engine="lazy"):
    machine = Machine(planned, engine)
    while not machine.advance():
        pass
    return machine.result()


def one_kind(per_second=80_000, **changes):
    """Kernel exits of one kind."""
    fio = vpmu.workload("fio-4k-read")
    (source,) = (e for e in fio.exits if e.reason == "EPT_MISCONFIG")
    count = per_second * source.seconds * source.vcpus
    return dataclasses.replace(fio, exits=(dataclasses.replace(source, count=int(count)),), **changes)


def quiet(design=MEDIATED, counters=2, seconds="3", workload=None):
    events = [*FIXED, *ANY, *ANY][:counters]
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=design,
        workload=workload or one_kind(),
        guest_perf=("stat:" + ",".join(events),) if counters else (),
        seconds=seconds,
    )
    return plan(scenario)


@pytest.mark.benchmark(group="uneventful-exits")
@pytest.mark.parametrize("design", ["none", "emulated", MEDIATED, "dedicated"])
def test_design(benchmark, report_rate, design):
    planned = quiet(design, counters=1 if design == "emulated" else 2)
    result = benchmark(run, planned)
    assert result == run(planned, "stepwise")
    report_rate(sum(result["exits"]))


@pytest.mark.benchmark(group="uneventful-exits")
@pytest.mark.parametrize("counters", [1, 2, 4, 8, 11])
def test_counters(benchmark, report_rate, counters):
    planned = quiet(counters=counters)
    result = benchmark(run, planned)
    assert all(row["value"] == row["ideal"] > 0 for row in result["counters"])
    report_rate(sum(result["exits"]))


@pytest.mark.benchmark(group="uneventful-exits")
def test_stepwise(benchmark, report_rate):
    planned = quiet(seconds="0.5")
    report_exits = sum(benchmark(run, planned, "stepwise")["exits"])
    report_rate(report_exits)


@pytest.mark.benchmark(group="uneventful-exits")
def test_limit(benchmark, report_rate):
    benchmark(vpmu_core.limit.lazy, 200_000, 1)
    report_rate(200_000, limit=True)


def traced(n):
    """A trace of one kind of exit with times of its own."""
    random = np.random.default_rng(1)
    base = quiet(seconds="1")
    trace = Trace(
        gap=random.integers(1_000, 60_000, n),
        kind=np.zeros(n, np.uint16),
        handling=random.integers(500, 5_000, n),
        idle=np.zeros(n, np.int64),
        repeat=False,
    )
    return dataclasses.replace(base, trace=trace, end=int(trace.gap.sum() + trace.handling.sum()) + 8_000 * n)


@pytest.mark.benchmark(group="replayed-exits")
@pytest.mark.parametrize("first", [False, True], ids=["again", "first"])
def test_replay(benchmark, report_rate, first):
    """A trace is summed up by chunks once, when it is replayed first; every other machine has the sums."""
    planned = traced(1_000_000)

    def replay():
        if first:
            return run(dataclasses.replace(planned, trace=dataclasses.replace(planned.trace)))
        return run(planned)

    result = benchmark(replay)
    assert sum(result["exits"]) == 1_000_000
    report_rate(1_000_000)


@pytest.mark.benchmark(group="replayed-exits")
def test_replay_limit(benchmark, report_rate):
    trace = traced(1_000_000).trace
    benchmark(vpmu_core.limit.replay, trace.gap, trace.handling)
    report_rate(1_000_000, limit=True)


def test_replay_within_its_limit():
    planned = traced(1_000_000)
    trace = planned.trace
    run(planned)
    best = fastest(20, lazy=lambda: run(planned), limit=lambda: vpmu_core.limit.replay(trace.gap, trace.handling))
    assert best["lazy"] < 2.5 * best["limit"], best


@pytest.mark.benchmark(group="regular-exits")
@pytest.mark.parametrize("exits", [10**5, 10**7, 10**9])
def test_regular(benchmark, report_rate, exits):
    planned = regular(exits)
    result = benchmark(run, planned)
    assert sum(result["exits"]) == pytest.approx(exits, rel=0.2)
    report_rate(sum(result["exits"]))


def regular(exits):
    """So many exits of a quiet mediated guest, at 450,000 a second."""
    seconds = exits / 380_000
    return quiet("mediated", seconds=f"{seconds:.6f}", workload=one_kind(450_000, arrivals="regular"))


def fastest(repeats, **functions):
    """Seconds of each, the minimum of interleaved repeats."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def test_ratios():
    """Ten times faster than stepwise with 11 live counters, within 2 of the limit; a billion regular exits in 50 ms."""
    planned, short = quiet(counters=11), quiet(counters=11, seconds="0.3")
    exits, short_exits = sum(run(planned)["exits"]), sum(run(short)["exits"])
    billion = regular(10**9)
    best = fastest(
        12,
        lazy=lambda: run(planned),
        stepwise=lambda: run(short, "stepwise"),
        limit=lambda: vpmu_core.limit.lazy(200_000, 1),
        billion=lambda: run(billion),
    )
    lazy, stepwise, limit = best["lazy"] / exits, best["stepwise"] / short_exits, best["limit"] / 200_000
    assert lazy < 2 * limit, f"lazy {lazy / limit:.2f} x limit"
    assert stepwise > 10 * lazy, f"stepwise {stepwise / lazy:.1f} x lazy"
    assert best["billion"] < 0.05
    assert run(regular(10**6)) == run(regular(10**6), "stepwise")


def test_cost_grows_linearly_and_not_with_counters():
    """Per exit, ten times as many cost the same, and 11 counters no more than 1; minima of interleaved repeats."""
    few, many, wide = quiet(counters=1, seconds="2"), quiet(counters=1, seconds="20"), quiet(counters=11, seconds="2")
    exits = {name: sum(run(planned)["exits"]) for name, planned in (("few", few), ("many", many), ("wide", wide))}
    best = fastest(6, few=lambda: run(few), many=lambda: run(many), wide=lambda: run(wide))
    per_exit = {name: seconds / exits[name] for name, seconds in best.items()}
    assert per_exit["many"] < 1.3 * per_exit["few"], per_exit
    assert per_exit["wide"] < 1.5 * per_exit["few"], per_exit
