"""The architectural PMU from Python: scalar and batched MSR accesses, and counting."""

import time

import numpy as np
import pytest

import vpmu
import vpmu.reference
from vpmu_core.limit import Empty
from vpmu_core.pmu import Pmu

PMUS = {"core": Pmu, "python": vpmu.reference.Pmu}


@pytest.mark.benchmark(group="rdmsr-scalar")
@pytest.mark.parametrize("implementation", [*PMUS, "empty-compiled-method"])
def test_rdmsr(benchmark, report_rate, implementation):
    pmu = Empty() if implementation not in PMUS else PMUS[implementation](vpmu.cpu("sapphirerapids"))
    rdmsr = pmu.rdmsr

    def thousand():
        for _ in range(1000):
            value = rdmsr(0x38F)
        return value

    value = benchmark(thousand)
    assert value == (0 if implementation not in PMUS else 0xFF)
    report_rate(1000, limit=implementation not in PMUS)


def batch(mixed: bool, n: int) -> np.ndarray:
    ops = np.zeros(n, vpmu.OP_DTYPE)
    ops["address"] = 0x38F
    if mixed:
        random = np.random.default_rng(1)
        ops["op"] = random.integers(0, 3, n)
        address = random.choice([0xC1, 0x186, 0x309, 0x38D, 0x38E, 0x390, 0x4C1], n)
        ops["address"] = np.where(ops["op"] == 2, random.integers(0, 8, n), address)
        ops["value"] = random.integers(0, 2**20, n)
    return ops


@pytest.mark.benchmark(group="batch")
@pytest.mark.parametrize("mixed", [False, True], ids=["uniform", "mixed"])
@pytest.mark.parametrize("implementation", PMUS)
def test_batch(benchmark, report_rate, implementation, mixed):
    n = 20_000
    ops = batch(mixed, n)
    pmu = PMUS[implementation](vpmu.cpu("sapphirerapids"))
    results = benchmark(pmu.execute, ops)
    assert len(results) == n
    if not mixed:
        assert (results["value"] == 0xFF).all()
    report_rate(n)


@pytest.mark.benchmark(group="batch")
def test_copy_of_the_batch(benchmark, report_rate):
    ops = batch(False, 20_000)
    copied = benchmark(ops.copy)
    assert (copied == ops).all()
    report_rate(20_000, limit=True)


@pytest.mark.benchmark(group="count")
@pytest.mark.parametrize("implementation", PMUS)
def test_count(benchmark, report_rate, implementation):
    pmu = PMUS[implementation](vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0x186, 0x4300C0)
    pmu.wrmsr(0x187, 0x4300C4)

    def hundred():
        for _ in range(100):
            pmu.count({"instructions": 1000, "branches": 100}, cycles=1500, cpl=3)

    benchmark(hundred)
    assert pmu.rdpmc(0) % 100_000 == 0
    report_rate(100)


def fastest(*functions, repeats=60):
    """Nanoseconds of each, the minimum of interleaved repeats."""
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter_ns()
            function()
            taken.append(time.perf_counter_ns() - start)
    return [min(taken) for taken in times]


def test_ratios():
    """Scalar reads within 2 of an empty compiled method; batches within 3 and 12 of copying their array."""

    def thousand(pmu):
        rdmsr = pmu.rdmsr
        for _ in range(1000):
            rdmsr(0x38F)

    pmu = Pmu(vpmu.cpu("sapphirerapids"))
    scalar, empty = fastest(lambda: thousand(pmu), lambda: thousand(Empty()))
    assert scalar < 2 * empty, f"rdmsr takes {scalar / empty:.2f} times an empty compiled method"
    uniform, mixed = batch(False, 20_000), batch(True, 20_000)
    alike, various, copied = fastest(lambda: pmu.execute(uniform), lambda: pmu.execute(mixed), uniform.copy)
    assert alike < 3 * copied, f"a uniform batch takes {alike / copied:.2f} times a copy"
    assert various < 12 * copied, f"a random mix takes {various / copied:.2f} times a copy"
