"""The lazy engine: exits that change nothing, by live counters, by number; replayed ones; and their limit loops."""

import dataclasses
import time

import numpy as np
import pytest

import vpmu_core.limit
from vpmu._plan import Trace
from vpmu.reference import machine as slow


@pytest.mark.benchmark(group="uneventful-exits")
@pytest.mark.parametrize("counters", [1, 2, 4, 8, 12])
def test_counters(measure, run, limits, exits_of, quiet, counters):
    planned = quiet(counters=counters)
    result = measure(run, planned, operations=exits_of, limit=limits["draw"])
    assert len(result["counters"]) == counters
    assert all(row["value"] == row["ideal"] > 0 for row in result["counters"])
    short = quiet(counters=counters, seconds="0.2")
    assert run(short) == run(short, "stepwise")


@pytest.mark.benchmark(group="uneventful-exits")
@pytest.mark.parametrize("exits", [10**5, 10**6, 10**7, 10**8, 10**9])
def test_number(measure, run, limits, exits_of, quiet, one_kind, exits):
    """Drawn arrivals: the cost of an exit does not depend on how many there are."""
    planned = many(quiet, one_kind, exits, "exponential")
    rounds = 1 if exits > 10**8 else None
    if exits <= 10**6:
        assert run(planned) == run(planned, "stepwise")
    result = measure(run, planned, operations=exits_of, limit=limits["draw"], rounds=rounds)
    assert sum(result["exits"]) == pytest.approx(exits, rel=0.2)


@pytest.mark.benchmark(group="uneventful-exits")
def test_stepwise(measure, run, limits, exits_of, quiet):
    measure(run, quiet(seconds="0.5"), "stepwise", operations=exits_of, limit=limits["draw"])


def traced(quiet, n):
    """A trace of one kind of exit with times of its own."""
    random = np.random.default_rng(1)
    trace = Trace(
        gap=random.integers(1_000, 60_000, n),
        kind=np.zeros(n, np.uint16),
        handling=random.integers(500, 5_000, n),
        idle=np.zeros(n, np.int64),
        repeat=False,
    )
    base = quiet(seconds="1")
    return dataclasses.replace(base, trace=trace, end=int(trace.gap.sum() + trace.handling.sum()) + 8_000 * n)


def columns(limits, trace):
    return limits["limit"](lambda: vpmu_core.limit.replay(trace.gap, trace.handling), len(trace.gap))


@pytest.mark.benchmark(group="replayed-exits")
@pytest.mark.parametrize("engine", ["lazy", "stepwise"])
def test_replay(measure, run, limits, quiet, engine):
    """The lazy engine sums a trace up by chunks when it is replayed first; every other machine has the sums."""
    n = 1_000_000 if engine == "lazy" else 100_000
    planned = traced(quiet, n)
    result = measure(run, planned, engine, operations=n, limit=columns(limits, planned.trace))
    assert sum(result["exits"]) == n
    assert result["spent"]["handling"] == planned.trace.handling.sum()
    if engine == "lazy":
        assert result == run(planned, "stepwise")


@pytest.mark.benchmark(group="replayed-exits")
def test_replay_numpy(measure, run, limits, quiet):
    """What one writes for clocks alone, when nothing overflows: cumulative sums over the columns."""
    planned = traced(quiet, 100_000)
    trace = planned.trace
    result = run(planned, "stepwise")
    busy = (result["w"] - sum(result["clocks"][:3]) - int(trace.handling.sum())) // 100_000  # of a transition

    def model():
        exit_at = np.cumsum(trace.gap + trace.handling + busy)
        n = int(np.searchsorted(exit_at, planned.end))
        return n, int(trace.gap[:n].sum()), int(trace.handling[:n].sum())

    n, work, handling = measure(model, operations=100_000, limit=columns(limits, trace))
    assert (n, handling) == (sum(result["exits"]), result["spent"]["handling"])
    assert work <= result["clocks"][0] + result["clocks"][1] < planned.end


@pytest.mark.benchmark(group="replayed-exits")
def test_replay_python(measure, run, limits, quiet):
    planned = traced(quiet, 500)
    result = measure(slow.run, planned, operations=500, limit=columns(limits, traced(quiet, 100_000).trace))
    assert result["exits"] == run(planned)["exits"]


def many(quiet, one_kind, exits, arrivals="regular", counters=2):
    """So many exits of a quiet mediated guest, at 450,000 a second."""
    seconds = exits / 380_000
    return quiet("mediated", counters, f"{seconds:.6f}", one_kind(450_000, arrivals=arrivals))


def test_replay_within_its_limit(run, quiet):
    planned = traced(quiet, 1_000_000)
    trace = planned.trace
    run(planned, "lazy")
    best = {"lazy": float("inf"), "limit": float("inf")}
    for _ in range(20):
        start = time.perf_counter()
        run(planned, "lazy")
        middle = time.perf_counter()
        vpmu_core.limit.replay(trace.gap, trace.handling)
        best["lazy"] = min(best["lazy"], middle - start)
        best["limit"] = min(best["limit"], time.perf_counter() - middle)
    assert best["lazy"] < 2.5 * best["limit"], best


@pytest.mark.benchmark(group="regular-exits")
@pytest.mark.parametrize("counters", [1, 12])
@pytest.mark.parametrize("exits", [10**5, 10**6, 10**7, 10**8, 10**9])
def test_regular(measure, run, limits, exits_of, quiet, one_kind, exits, counters):
    planned = many(quiet, one_kind, exits, counters=counters)
    result = measure(run, planned, operations=exits_of, limit=limits["draw"])
    # The more counters are switched, the longer an exit takes in simulated time.
    assert sum(result["exits"]) == pytest.approx(exits if counters == 1 else 0.6 * exits, rel=0.2)
    if exits <= 10**6:
        assert result == run(planned, "stepwise")


def test_ratios(run, limits, fastest, quiet, one_kind):
    """Ten times faster than stepwise with 11 live counters, within 2 of the limit; a billion regular exits in 50 ms."""
    planned, short = quiet(counters=11), quiet(counters=11, seconds="0.3")
    exits, short_exits = sum(run(planned)["exits"]), sum(run(short)["exits"])
    billion = many(quiet, one_kind, 10**9)
    best = fastest(
        12,
        lazy=lambda: run(planned),
        stepwise=lambda: run(short, "stepwise"),
        limit=limits["draw"].call,
        billion=lambda: run(billion),
    )
    lazy, stepwise = best["lazy"] / exits, best["stepwise"] / short_exits
    limit = best["limit"] / limits["draw"].operations
    assert lazy < 2 * limit, f"lazy {lazy / limit:.2f} x limit"
    assert stepwise > 10 * lazy, f"stepwise {stepwise / lazy:.1f} x lazy"
    assert best["billion"] < 0.05


def test_cost_grows_linearly_and_not_with_counters(run, fastest, quiet):
    """Per exit, ten times as many cost the same, and 12 counters no more than 1; minima of interleaved repeats."""
    plans = {
        "few": quiet(counters=1, seconds="2"),
        "many": quiet(counters=1, seconds="20"),
        **{f"counters{n}": quiet(counters=n, seconds="2") for n in (2, 4, 8, 12)},
    }
    exits = {name: sum(run(planned)["exits"]) for name, planned in plans.items()}
    best = fastest(6, **{name: lambda planned=planned: run(planned) for name, planned in plans.items()})
    per_exit = {name: seconds / exits[name] for name, seconds in best.items()}
    assert per_exit["many"] < 1.3 * per_exit["few"], per_exit
    assert all(each < 1.5 * per_exit["few"] for each in per_exit.values()), per_exit
