"""VM-exits per second of the engines, a full switch of 8 GP + 3 fixed live counters at every exit."""

import pytest

from vpmu.reference import machine as slow

pytestmark = pytest.mark.benchmark(group="full-switch")


@pytest.mark.parametrize("live", [True, False], ids=["live", "idle"])
def test_stepwise(measure, run, limits, exits_of, switching_plan, live):
    planned = switching_plan("0.5", live)
    result = measure(run, planned, "stepwise", operations=exits_of, limit=limits["switch"])
    assert result["switches"] >= sum(result["exits"]) > 30_000
    assert all(row["value"] == row["ideal"] for row in result["counters"])


def test_lazy(measure, run, limits, exits_of, switching_plan):
    planned = switching_plan("3")
    result = measure(run, planned, operations=exits_of, limit=limits["switch"])
    assert result == run(planned, "stepwise")


def test_pure_python(measure, run, limits, exits_of, switching_plan):
    planned = switching_plan("0.002")
    result = measure(slow.run, planned, operations=exits_of, limit=limits["switch"])
    assert result["exits"] == run(planned)["exits"]


def test_ratios(run, limits, fastest, switching_plan):
    """Within 2.2 times of the limit (1.9 measured) and 30 times faster than Python; minima of interleaved repeats."""
    fast_plan, slow_plan = switching_plan("0.5"), switching_plan("0.001")
    exits, few = sum(run(fast_plan)["exits"]), sum(run(slow_plan)["exits"])
    limit = limits["switch"]
    best = dict.fromkeys(("stepwise", "limit"), float("inf"))
    for _ in range(20):  # until the core's other hyperthread is idle for once: it slows this loop, not the limit's
        more = fastest(15, stepwise=lambda: run(fast_plan, "stepwise"), limit=limit.call)
        best = {name: min(seconds, more[name]) for name, seconds in best.items()}
        if best["stepwise"] / exits < 2.2 * best["limit"] / limit.operations:
            break
    python = fastest(3, python=lambda: slow.run(slow_plan))["python"] / few
    assert best["stepwise"] / exits < 2.2 * best["limit"] / limit.operations, best
    assert 30 * best["stepwise"] / exits < python, best
