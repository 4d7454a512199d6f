"""The assertions of vpmu.testing: each passes where it should, and says why where it should not."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import vpmu
from vpmu import testing
from vpmu._result import CAUSES


@pytest.fixture(scope="module")
def fine() -> vpmu.Result:
    return vpmu.simulate(
        vpmu.Scenario(
            design="mediated", workload="fio-4k-read", seconds=0.002, host_perf=["cycles:pinned:exclude_guest"]
        )
    )


@pytest.fixture(scope="module")
def starved() -> vpmu.Result:
    return vpmu.simulate(
        vpmu.Scenario(
            cpu="skylake",
            design="emulated",
            seconds=0.002,
            guest_perf=["stat:branches,cycles"],
            host_perf=["branches:pinned"] * 4,
        )
    )


@pytest.fixture(scope="module")
def refused() -> vpmu.Result:
    return vpmu.simulate(vpmu.Scenario(host_perf=["watchdog"], seconds=0.001))


def falsify(result: vpmu.Result, side: str = "counters", index: int = 0, **changes: Any) -> vpmu.Result:
    """The same result with one counter changed."""
    counters = list(getattr(result, side))
    counters[index] = dataclasses.replace(counters[index], **changes)
    return dataclasses.replace(result, **{side: tuple(counters)})


def failure(check: Callable[..., None], *arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check(*arguments, **options)
    assert caught.type is AssertionError
    return str(caught.value)


def test_every_assertion_passes_on_a_fine_result(fine: vpmu.Result) -> None:
    assert fine.host_events[0].losses["window"] > 0
    testing.assert_exact(fine)
    testing.assert_exact(fine, ["cycles"])
    testing.assert_conserved(fine)
    testing.assert_isolated(fine)
    testing.assert_overhead_below(fine, 1)
    testing.assert_overhead_below(fine, 1, of_profiling=True)
    testing.assert_same_counts(fine, vpmu.simulate(fine.scenario))


def test_all_of_them_are_public_and_refuse_a_result_that_is_none(refused: vpmu.Result) -> None:
    assert refused.reason
    more: dict[str, tuple[Any, ...]] = {"assert_overhead_below": (1,), "assert_same_counts": (refused,)}
    checks = [name for name, _ in inspect.getmembers(testing, inspect.isfunction) if name.startswith("assert_")]
    assert sorted(testing.__all__) == checks
    for name in checks:
        message = failure(getattr(testing, name), refused, *more.get(name, ()))
        assert "mediated gave no result" in message
        assert refused.reason in message


def test_exact_prints_the_ledger_of_what_is_off(starved: vpmu.Result) -> None:
    branches, cycles = starved.counters
    assert branches.losses["not_scheduled"] > 0
    assert "exact" in cycles.flags
    message = failure(testing.assert_exact, starved)
    assert "emulated on skylake, sysbench-cpu" in message
    assert f"guest branches: value {branches.value:,}, ideal {branches.ideal:,}" in message
    assert f"-{branches.losses['not_scheduled']:,} not_scheduled: {CAUSES['not_scheduled']}" in message
    assert f"because {branches.reason}" in message
    assert "guest cycles" not in message
    testing.assert_exact(starved, ["cycles"])
    assert "guest branches" in failure(testing.assert_exact, starved, ["branches"])


def test_exact_looks_at_values_and_not_at_flags(fine: vpmu.Result) -> None:
    value = fine.counters[0].ideal + 7
    wrong = falsify(fine, value=value, gains={"emulated_instruction": 7})
    message = failure(testing.assert_exact, wrong)
    assert f"value {value:,}" in message
    assert "+7 emulated_instruction" in message


def test_exact_needs_something_to_look_at(fine: vpmu.Result) -> None:
    assert "['branches']" in failure(testing.assert_exact, fine, ["branches"])
    nobody = vpmu.simulate(vpmu.Scenario(guest_perf=[], seconds=0.001))
    assert "counts none" in failure(testing.assert_exact, nobody)
    assert "counts none" in failure(testing.assert_exact, vpmu.simulate(vpmu.Scenario(design="none", seconds=0.001)))


@pytest.mark.parametrize("side", ["counters", "host_events"])
def test_conserved_finds_what_does_not_add_up(side: str, fine: vpmu.Result) -> None:
    counter = getattr(fine, side)[0]
    name = {"counters": "guest", "host_events": "host"}[side]
    off = falsify(fine, side, value=counter.value + 1)
    assert f"{name} {counter.event}: value {counter.value + 1:,}" in failure(testing.assert_conserved, off)
    losing = falsify(fine, side, losses={**counter.losses, "ceded": 5})
    assert "-5 ceded" in failure(testing.assert_conserved, losing)
    gaining = falsify(fine, side, gains={"host_stale": 5})
    assert "+5 host_stale" in failure(testing.assert_conserved, gaining)
    # Adding up is not enough: causes are known and never negative.
    magic = falsify(fine, side, ideal=counter.ideal + 3, losses={**counter.losses, "magic": 3}, flags=("lost",))
    assert "-3 magic" in failure(testing.assert_conserved, magic)
    negative = falsify(fine, side, ideal=counter.ideal - 3, losses={**counter.losses, "ceded": -3}, flags=("lost",))
    assert "--3 ceded" in failure(testing.assert_conserved, negative)


def test_conserved_checks_the_flag_exact(fine: vpmu.Result) -> None:
    assert "instructions" in failure(testing.assert_conserved, falsify(fine, flags=()))
    event = fine.host_events[0]
    assert event.value != event.ideal
    assert "window" in failure(testing.assert_conserved, falsify(fine, "host_events", flags=("exact",)))


def test_conserved_names_only_what_is_wrong(fine: vpmu.Result) -> None:
    message = failure(testing.assert_conserved, falsify(fine, index=1, value=1))
    assert "guest cycles" in message
    assert "guest instructions" not in message


def test_isolated_finds_gains_and_violations(fine: vpmu.Result) -> None:
    counter = fine.counters[0]
    gaining = falsify(fine, value=counter.value + 9, gains={"emulated_instruction": 9}, flags=("overcounted",))
    testing.assert_conserved(gaining)
    message = failure(testing.assert_isolated, gaining)
    assert "+9 emulated_instruction" in message
    assert "guest cycles" not in message
    event = fine.host_events[0]
    stale = falsify(fine, "host_events", value=event.value + 9, gains={"host_stale": 9})
    assert f"+9 host_stale: {CAUSES['host_stale']}" in failure(testing.assert_isolated, stale)
    broken = dataclasses.replace(fine, violations=("isolation: something leaked",))
    assert "violation: isolation: something leaked" in failure(testing.assert_isolated, broken)


def test_losses_are_no_breach_of_isolation(starved: vpmu.Result) -> None:
    testing.assert_isolated(starved)
    testing.assert_conserved(starved)


def test_overhead_below_is_strict_and_shows_what_costs_most(fine: vpmu.Result) -> None:
    overhead, profiling = fine.overhead, fine.overhead_of_profiling
    assert overhead is not None
    assert profiling is not None
    assert profiling < overhead
    testing.assert_overhead_below(fine, overhead * 1.001)
    message = failure(testing.assert_overhead_below, fine, overhead)
    assert f"overhead {overhead:.4%} is not below {overhead:.4%}" in message
    assert f"{fine.assumed_share:.0%}" in message
    spent = fine.raw["spent"]
    dearest = max(spent, key=lambda name: spent[name])
    assert f"{spent[dearest]:,} cycles {dearest}" in message
    # Between the two overheads only one of them is too much.
    between = (overhead + profiling) / 2
    failure(testing.assert_overhead_below, fine, between)
    testing.assert_overhead_below(fine, between, of_profiling=True)
    failure(testing.assert_overhead_below, fine, profiling, of_profiling=True)


def test_overhead_below_fails_without_guest_work() -> None:
    nothing = vpmu.simulate(vpmu.Scenario(seconds=1e-9))
    assert nothing.overhead is None
    assert "no guest work at all" in failure(testing.assert_overhead_below, nothing, 1)


def test_same_counts_names_the_totals_and_counters_that_differ(fine: vpmu.Result) -> None:
    other = vpmu.simulate(dataclasses.replace(fine.scenario, seed=2))
    message = failure(testing.assert_same_counts, fine, other)
    assert message.startswith("results differ")
    for result in (fine, other):
        assert f"{result.counters[0].value:,}" in message
        assert str(result.raw["exits"]) in message
    hidden = dataclasses.replace(fine, raw={**fine.raw, "switches": fine.raw["switches"] + 1})
    message = failure(testing.assert_same_counts, fine, hidden)
    assert f"switches: {fine.raw['switches']} != {fine.raw['switches'] + 1}" in message
    assert "w:" not in message
    missing = dataclasses.replace(fine, raw={key: value for key, value in fine.raw.items() if key != "pmi"})
    for pair in ((fine, missing), (missing, fine)):
        assert "pmi: " in failure(testing.assert_same_counts, *pair)


def test_same_counts_of_the_two_engines() -> None:
    scenario = vpmu.Scenario(design="emulated", guest_perf=["record:cycles:period=50021"], seconds=0.0003)
    testing.assert_same_counts(vpmu.simulate(scenario), vpmu.simulate(scenario, "reference"))
