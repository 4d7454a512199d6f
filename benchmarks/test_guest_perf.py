"""Reactions per second: PMI handlers and ticks of perf record, each with some twenty register accesses of the guest."""

import time

import pytest

import vpmu
from vpmu._plan import Plan
from vpmu._scenario import plan
from vpmu.reference import machine as slow
from vpmu_core.machine import Machine

RECORD = "record:" + ",".join(["instructions"] * 6) + ":freq=1000"


def recording(seconds: str, design: str = "mediated") -> Plan:
    return plan(vpmu.Scenario(design=design, workload="sysbench-cpu", guest_perf=(RECORD,), seconds=seconds))


def run(planned: Plan, engine: str = "lazy") -> dict:
    machine = Machine(planned, engine)
    while not machine.advance():
        pass
    return machine.result()


def reactions(result: dict) -> int:
    return result["handlers"] + sum(result["guest_timers"].values())


@pytest.mark.benchmark(group="reactions")
@pytest.mark.parametrize("design", ["bare-metal", "emulated", "mediated", "dedicated"])
def test_core(benchmark, report_rate, design):
    result = benchmark(run, recording("0.5", design))
    assert reactions(result) > 1500
    report_rate(reactions(result))


@pytest.mark.benchmark(group="reactions")
def test_pure_python(benchmark, report_rate):
    planned = recording("0.02")
    result = benchmark.pedantic(slow.run, (planned,), rounds=2)
    fast = run(planned)
    fast.pop("stray_counts")
    assert result == fast
    report_rate(reactions(result))


def test_ratio():
    """At least 100 times faster than Python on every design; minima of interleaved repeats."""
    for design in ("bare-metal", "emulated", "mediated", "dedicated"):
        fast_plan, slow_plan = recording("0.2", design), recording("0.02", design)
        best = {"core": float("inf"), "python": float("inf")}
        for repeat in range(10):
            for name in best:
                if name == "python" and repeat >= 2:
                    continue
                start = time.perf_counter()
                made = reactions(run(fast_plan) if name == "core" else slow.run(slow_plan))
                best[name] = min(best[name], (time.perf_counter() - start) / made)
        assert 100 * best["core"] < best["python"], (design, best)
