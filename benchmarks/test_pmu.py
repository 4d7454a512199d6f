"""The architectural PMU from Python: scalar and batched MSR accesses, and counting."""

import numpy as np
import pytest

import vpmu
import vpmu.reference
from vpmu_core.limit import Empty
from vpmu_core.pmu import Pmu

PMUS = {"core": Pmu, "python": vpmu.reference.Pmu}


def thousand(pmu):
    rdmsr = pmu.rdmsr
    for _ in range(1000):
        value = rdmsr(0x38F)
    return value


@pytest.fixture(scope="module")
def empty(limits):
    pmu = Empty()
    return limits["limit"](lambda: thousand(pmu), 1000)


@pytest.mark.benchmark(group="rdmsr-scalar")
@pytest.mark.parametrize("implementation", PMUS)
def test_rdmsr(measure, empty, implementation):
    pmu = PMUS[implementation](vpmu.cpu("sapphirerapids"))
    assert measure(thousand, pmu, operations=1000, limit=empty, unit="access") == 0xFF


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


@pytest.fixture(scope="module")
def copy(limits):
    """Copying the batch."""
    return limits["limit"](batch(False, 20_000).copy, 20_000)


@pytest.mark.benchmark(group="batch")
@pytest.mark.parametrize("mixed", [False, True], ids=["uniform", "mixed"])
@pytest.mark.parametrize("implementation", PMUS)
def test_batch(measure, copy, implementation, mixed):
    ops = batch(mixed, 20_000)
    pmu = PMUS[implementation](vpmu.cpu("sapphirerapids"))
    results = measure(pmu.execute, ops, operations=20_000, limit=copy, unit="access")
    assert len(results) == 20_000
    assert mixed or (results["value"] == 0xFF).all()


@pytest.mark.benchmark(group="count")
@pytest.mark.parametrize("implementation", PMUS)
def test_count(measure, empty, implementation):
    pmu = PMUS[implementation](vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0x186, 0x4300C0)
    pmu.wrmsr(0x187, 0x4300C4)

    def hundred():
        for _ in range(100):
            pmu.count({"instructions": 1000, "branches": 100}, cycles=1500, cpl=3)

    measure(hundred, operations=100, limit=empty, unit="call")
    assert pmu.rdpmc(0) == 10 * pmu.rdpmc(1)
    assert pmu.rdpmc(0) % 100_000 == 0


def test_ratios(fastest):
    """Scalar reads within 2 of an empty compiled method; batches within 3 and 12 of copying their array."""
    pmu = Pmu(vpmu.cpu("sapphirerapids"))
    best = fastest(60, scalar=lambda: thousand(pmu), empty=lambda: thousand(Empty()))
    assert best["scalar"] < 2 * best["empty"], best
    uniform, mixed = batch(False, 20_000), batch(True, 20_000)
    best = fastest(60, uniform=lambda: pmu.execute(uniform), mixed=lambda: pmu.execute(mixed), copied=uniform.copy)
    assert best["uniform"] < 3 * best["copied"], best
    assert best["mixed"] < 12 * best["copied"], best
