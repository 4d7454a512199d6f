"""What all tests share: the two implementations of the PMU and the hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

import vpmu
import vpmu.reference

pytest.register_assert_rewrite(
    "command_line", "guest_perfs", "kvm_unit_tests", "pmu_models", "plan_files", "pmu_pair", "recorded_files"
)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile(
    "nightly",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",  # see docs/development.md: the engines, by night
    max_examples=100_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "mutants",  # whether a difference is found, not the smallest one
    settings.get_profile("ci"),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    database=None,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def _no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep nothing between tests, nor in the user's own cache; tests of the cache make their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPMU_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VPMU_CACHE_MIB", "0")
        yield


@pytest.fixture(scope="session", params=["core", "reference"])
def pmu_class(request: pytest.FixtureRequest) -> Any:
    """Both implementations of the PMU, one after the other."""
    return vpmu.Pmu if request.param == "core" else vpmu.reference.Pmu


def _accepts(pmu: Any, msr: int, value: int) -> bool:
    before = pmu.state()
    fault = None
    try:
        pmu.wrmsr(msr, value)
    except vpmu.GeneralProtectionFault as error:
        fault = error
    if fault is None:
        return True
    assert (fault.msr, fault.value) == (msr, value)
    assert fault.reason
    assert pmu.state() == before
    return False


@pytest.fixture(scope="session")
def accepts() -> Callable[[Any, int, int], bool]:
    """Tell whether a WRMSR goes through; one that faults must leave everything as it was."""
    return _accepts


@pytest.fixture(scope="session")
def legal_bits() -> Callable[[Any, int], int]:
    """Find the bits of an MSR that may be written as 1, each alone."""
    return lambda pmu, msr: sum(1 << bit for bit in range(64) if _accepts(pmu, msr, 1 << bit))


@pytest.fixture(scope="session")
def exists() -> Callable[[Any, int], bool]:
    """Tell whether an MSR can be read."""

    def tell(pmu: Any, msr: int) -> bool:
        fault = None
        try:
            pmu.rdmsr(msr)
        except vpmu.GeneralProtectionFault as error:
            fault = error
        assert fault is None or (fault.msr, fault.value) == (msr, None)
        return fault is None

    return tell
