"""Batches of scenarios: threads, sizes, sweeps, and what a scenario costs besides its exits."""

import dataclasses

import numpy as np
import pytest

import vpmu

BASE = vpmu.Scenario(
    cpu="emeraldrapids",
    design="mediated",
    workload="fio-4k-read",
    guest_perf=("stat:instructions,cycles",),
    seconds="0.0125",  # about 1,000 exits
)


def seeds(n):
    parameters = np.zeros(n, [("seed", "u8")])
    parameters["seed"] = np.arange(n)
    return parameters


def exits_of(batch):
    return int(batch.rows["exits"].sum())


def loop(scenarios):
    """One call a scenario, as one writes it without simulate_many."""
    return [vpmu.simulate(scenario) for scenario in scenarios]


@pytest.mark.benchmark(group="many")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_threads(measure, limits, size, threads):
    parameters = seeds(size)

    def many():
        return vpmu.simulate_many(BASE, parameters, threads=threads)

    batch = measure(many, operations=exits_of, limit=limits["draw"])
    assert (batch.rows == vpmu.simulate_many(BASE, parameters, threads=1, engine="stepwise").rows).all()


@pytest.mark.benchmark(group="many")
def test_one_by_one(measure, limits):
    scenarios = [dataclasses.replace(BASE, seed=seed) for seed in range(20)]
    rows = vpmu.simulate_many(BASE, seeds(20), engine="stepwise").rows
    results = measure(loop, scenarios, operations=int(rows["exits"].sum()), limit=limits["draw"])
    assert [result.counters[0].value for result in results] == rows["value"][:, 0].tolist()


def grid(side):
    """A sweep over what a transition and a register write cost, and the period of sampling."""
    axes = np.meshgrid(np.linspace(300, 3000, side), np.linspace(50, 400, side), [500_009, 1_000_003])
    parameters = np.zeros(axes[0].size, [("vm_exit", "u8"), ("wrmsr", "u8"), ("period", "u8")])
    for name, axis in zip(parameters.dtype.names, axes, strict=True):
        parameters[name] = axis.ravel().astype(np.uint64)
    return parameters


SAMPLED = dataclasses.replace(BASE, guest_perf=("record:instructions,cycles:period=1000003",))


@pytest.mark.benchmark(group="sweep")
@pytest.mark.parametrize("engine", ["lazy", "stepwise"])
def test_sweep(measure, limits, engine):
    parameters = grid(8)

    def sweep():
        return vpmu.simulate_many(SAMPLED, parameters, threads=1, engine=engine)

    batch = measure(sweep, operations=exits_of, limit=limits["draw"])
    other = "stepwise" if engine == "lazy" else "lazy"
    assert (batch.rows == vpmu.simulate_many(SAMPLED, parameters, engine=other).rows).all()
    assert batch.rows["samples"].sum() > 1000


@pytest.mark.benchmark(group="sweep")
def test_sweep_one_by_one(measure, limits):
    parameters = grid(3)
    batch = vpmu.simulate_many(SAMPLED, parameters, engine="stepwise")
    scenarios = [batch.scenario(i) for i in range(len(batch))]
    results = measure(loop, scenarios, operations=exits_of(batch), limit=limits["draw"])
    for result, row in zip(results, batch.rows, strict=True):
        assert [counter.value for counter in result.counters] == row["value"].tolist()
        assert [counter.samples for counter in result.counters] == row["samples"].tolist()


@pytest.mark.benchmark(group="sweep")
def test_sweep_numpy(measure, limits):
    """What one writes without a simulator, for clocks alone: gaps of all seeds at once, summed until the end.

    It draws from another distribution of the same mean, so only the mean of the exits is compared.
    """
    n, most = 64, 3000
    batch = vpmu.simulate_many(BASE, seeds(n), engine="stepwise")
    rows = batch.rows
    end, exits = int(rows["cycles"].mean()), rows["exits"].mean()
    guest = rows["guest_user"].mean() + rows["guest_kernel"].mean()
    mean_gap, busy = guest / exits, (end - guest) / exits

    def model():
        at = np.cumsum(np.random.default_rng(1).exponential(mean_gap, (n, most)) + busy, axis=1)
        return (at < end).sum(axis=1)

    found = measure(model, operations=int(exits * n), limit=limits["draw"])
    assert found.max() < most
    assert found.mean() == pytest.approx(exits, rel=0.02)


def test_overhead_of_a_scenario(fastest):
    """A scenario costs at most what 2,000 lazy exits cost, besides its own exits; minima of interleaved repeats."""
    tiny = dataclasses.replace(BASE, seconds="0.000001")
    long = dataclasses.replace(BASE, seconds="0.125")
    best = fastest(
        10,
        tiny=lambda: vpmu.simulate_many(tiny, seeds(500), threads=1),
        long=lambda: vpmu.simulate_many(long, seeds(50), threads=1),
    )
    exits = vpmu.simulate_many(long, seeds(50)).rows["exits"].mean()
    # What a long one takes beyond its exits shows in the tiny one, but for the summaries of its kinds of exits.
    assert best["tiny"] / 500 < 2000 * best["long"] / 50 / exits, best
