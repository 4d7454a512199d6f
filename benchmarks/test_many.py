"""Batches of scenarios: threads, and what a scenario costs besides its exits."""

import time

import numpy as np
import pytest

import vpmu

BASE = vpmu.Scenario(
    cpu="emeraldrapids",
    design="mediated",
    workload="fio-4k-read",
    guest_perf=("stat:instructions,cycles",),
    seconds="0.125",  # about 10,000 exits
)


def seeds(n):
    parameters = np.zeros(n, [("seed", "u8")])
    parameters["seed"] = np.arange(n)
    return parameters


@pytest.mark.benchmark(group="many")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, report_rate, threads):
    batch = benchmark(vpmu.simulate_many, BASE, seeds(400), threads=threads)
    assert (batch.rows == vpmu.simulate_many(BASE, seeds(400), threads=1).rows).all()
    report_rate(int(batch.rows["exits"].sum()))


@pytest.mark.benchmark(group="many")
def test_one_by_one(benchmark, report_rate):
    def loop():
        return [vpmu.simulate(vpmu.Scenario(**vars(BASE) | {"seed": seed})) for seed in range(40)]

    results = benchmark(loop)
    rows = vpmu.simulate_many(BASE, seeds(40)).rows
    assert [result.counters[0].value for result in results] == rows["value"][:, 0].tolist()
    report_rate(int(rows["exits"].sum()))


def test_overhead_of_a_scenario():
    """A scenario costs at most what 2,000 lazy exits cost, besides its own exits; minima of interleaved repeats."""
    tiny = vpmu.Scenario(**vars(BASE) | {"seconds": "0.000001"})
    best = {"tiny": float("inf"), "long": float("inf")}
    for _ in range(10):
        for name, scenario, n in (("tiny", tiny, 500), ("long", BASE, 100)):
            start = time.perf_counter()
            batch = vpmu.simulate_many(scenario, seeds(n), threads=1)
            best[name] = min(best[name], (time.perf_counter() - start) / n)
    exits = batch.rows["exits"].mean()
    # What a long one takes beyond its exits shows in the tiny one, but for the summaries of its kinds of exits.
    per_exit = best["long"] / exits
    assert best["tiny"] < 2000 * per_exit, best
