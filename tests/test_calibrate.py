"""Calibration: the integers are the exact fractions, rounded once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpmu._calibrate import ExitPlan, alias_table, calibrate, choose
from vpmu._errors import ScenarioError
from vpmu._workload import ExitSource, Workload, round_half_up
from vpmu._workload_file import workload, workloads

HANDLING = {"fastpath": 300, "kernel": 600, "userspace": 23000, "hlt": 600}


def source(reason: str, count: int, handling_ns: Any = None, **changes: Any) -> ExitSource:
    """Make an exit source of one second and one vCPU."""
    fields: dict[str, Any] = {"kind": "kernel", "clock": "work", "cpl": 0, "emulates": True, "blocks": False}
    return ExitSource(
        reason=reason, count=count, seconds=Fraction(1), vcpus=1, handling_ns=handling_ns, **fields | changes
    )


def made(*exits: ExitSource, **changes: Any) -> Workload:
    """Make a workload of these exits."""
    return replace(workload("generic"), name="made", exits=exits, **changes)


def probabilities(threshold: tuple[int, ...], alias: tuple[int, ...]) -> list[Fraction]:
    """Exact probability of each slot under a uniform draw of 64 bits, by counting draws."""
    n = len(threshold)
    edges = [-(-(i << 32) // n) for i in range(n + 1)]
    mass = [0] * n
    for i in range(n):
        width = edges[i + 1] - edges[i]
        assert ((edges[i] * n) >> 32, ((edges[i + 1] - 1) * n) >> 32) == (i, i)
        mass[i] += width * threshold[i]
        mass[alias[i]] += width * ((1 << 32) - threshold[i])
    assert sum(mass) == 1 << 64
    return [Fraction(item, 1 << 64) for item in mass]


@given(st.lists(st.fractions("1/1000000000000", 10**18), min_size=1, max_size=40))
def test_alias_table_gives_every_weight_within_one_unit(weights: list[Fraction]) -> None:
    threshold, alias = alias_table(weights)
    assert all(0 <= item < 1 << 32 for item in threshold)
    total = sum(weights)
    half = Fraction(1, 1 << 33) * (1 + Fraction(len(weights), 1 << 32))  # a rounding in every slot
    for probability, weight in zip(probabilities(threshold, alias), weights, strict=True):
        assert abs(probability - weight / total) <= half < Fraction(1, 1 << 32)


@given(st.integers(1, 300), st.integers(0, 4))
def test_alias_table_of_nearly_equal_weights(n: int, odd: int) -> None:
    weights = [Fraction(10**15 + (1 if i % 5 == odd else 0)) for i in range(n)]
    threshold, alias = alias_table(weights)
    for probability in probabilities(threshold, alias):
        assert abs(probability - Fraction(1, n)) <= Fraction(1, 1 << 32) + Fraction(1, 10**15)


def test_alias_table_small_cases() -> None:
    assert alias_table([]) == ((), ())
    assert alias_table([Fraction(7)]) == (((1 << 32) - 1,), (0,))
    assert alias_table([Fraction(1), Fraction(3)]) == ((1 << 31, (1 << 32) - 1), (1, 1))
    with pytest.raises(ScenarioError, match="too many"):
        alias_table([Fraction(1)] * 65537)


def test_choose_uses_the_upper_half_for_the_slot_and_the_lower_for_the_alias() -> None:
    threshold, alias = alias_table([Fraction(1), Fraction(3)])
    assert choose(0, threshold, alias) == 0
    assert choose((1 << 31) - 1, threshold, alias) == 0
    assert choose(1 << 31, threshold, alias) == 1
    assert choose(1 << 63, threshold, alias) == 1
    assert choose((1 << 64) - 1, threshold, alias) == 1


def test_handling_is_recorded_or_the_default_of_its_kind() -> None:
    plan = calibrate(
        made(
            source("CPUID", 1, "0.5"),  # 1.5 cycles at 3 GHz
            source("MSR_WRITE", 1, kind="fastpath"),
            source("IO_INSTRUCTION", 1, kind="userspace"),
            source("CR_ACCESS", 1, quality="published"),
            source("HLT", 1, 1000, blocks=True),
            source("HLT", 1, 100, blocks=True, quality="derived"),
            source("HLT", 1, blocks=True),
        ),
        core_hz=3 * 10**9,
        transition=1000,
        handling=HANDLING,
    )
    shape = [(item.handling, item.idle, item.handling_quality) for item in plan.kinds]
    assert shape == [
        (2, 0, "assumed"),
        (300, 0, "model"),
        (23000, 0, "model"),
        (600, 0, "model"),
        (600, 2400, "model"),
        (300, 0, "derived"),
        (600, 0, "model"),
    ]


def test_gaps_by_hand() -> None:
    exits = (
        source("CPUID", 1000, 1000),  # 3,000 cycles
        source("HLT", 500, 1_000_000, blocks=True),  # 3,000,000 cycles
        source("EXTERNAL_INTERRUPT", 300, 2000, clock="wall"),  # 6,000 cycles
    )
    plan = calibrate(made(*exits), core_hz=3 * 10**9, transition=1000, handling=HANDLING)
    guest = 3 * 10**9 - 1000 * 4000 - 500 * 3_001_000 - 300 * 7000
    assert plan.guest_cycles_per_second == guest
    assert plan.work_mean_gap == round_half_up(Fraction(guest, 1500))
    assert plan.wall_mean_gap == round_half_up(Fraction(guest, 300))
    assert plan.work_kinds == (0, 1)
    assert plan.wall_kinds == (2,)
    assert plan.wall_threshold == ((1 << 32) - 1,)
    assert plan.wall_alias == (0,)
    assert (plan.work_rates, plan.wall_rates) == ((), ())


def test_streams_without_sources_are_empty() -> None:
    plan = calibrate(workload("generic"), core_hz=10**9, transition=1000, handling=HANDLING)
    assert plan.kinds == ()
    assert plan.guest_cycles_per_second == 10**9
    assert (plan.work_mean_gap, plan.work_threshold, plan.work_alias, plan.work_kinds) == (0, (), (), ())
    assert (plan.wall_mean_gap, plan.wall_threshold, plan.wall_alias, plan.wall_kinds) == (0, (), (), ())


def test_regular_arrivals_are_carried() -> None:
    regular = made(source("CPUID", 1), arrivals="regular")
    plan = calibrate(regular, core_hz=10**9, transition=0, handling=HANDLING)
    assert (plan.work_rates, plan.wall_rates) == ((-(-(1 << 48) // (10**9 - 600)),), ())
    exponential = calibrate(made(source("CPUID", 1)), core_hz=10**9, transition=0, handling=HANDLING)
    assert (exponential.work_rates, exponential.wall_rates) == ((), ())


def test_overfull_second_says_by_how_much() -> None:
    crowded = made(source("CPUID", 500_000, 2000))
    words = r"workload 'made': its exits take 116\.7 % of a second at 3,000,000,000 Hz, 166\.667 ms too much"
    with pytest.raises(ScenarioError, match=words) as caught:
        calibrate(crowded, core_hz=3 * 10**9, transition=1000, handling=HANDLING)
    assert "vCPUs" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_second_filled_to_the_last_cycle_leaves_nothing_for_the_guest() -> None:
    machine: dict[str, Any] = {"core_hz": 3 * 10**9, "transition": 1000, "handling": HANDLING}
    exactly = made(source("CPUID", 1_000_000, Fraction(2000, 3)))  # 2,000 + 1,000 cycles each
    with pytest.raises(ScenarioError, match=r"100\.0 % .* 0\.000 ms too much"):
        calibrate(exactly, **machine)
    plan = calibrate(made(source("CPUID", 999_999, Fraction(2000, 3))), **machine)
    assert plan.guest_cycles_per_second == 3000
    assert plan.work_mean_gap == 1  # 3000 / 999999, at least 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"core_hz": 3e9}, "core_hz"),
        ({"core_hz": 10}, "core_hz"),
        ({"transition": -1}, "transition"),
        ({"handling": {"fastpath": 1, "kernel": 1, "userspace": 1}}, "default handling of hlt"),
    ],
)
def test_machine_is_validated(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"core_hz": 3 * 10**9, "transition": 1000, "handling": HANDLING}
    with pytest.raises(ScenarioError, match=words):
        calibrate(workload("idle"), **arguments | changes)


def test_extreme_times_and_rates_are_errors() -> None:
    rare = replace(source("CPUID", 1), seconds=Fraction(10**9))
    with pytest.raises(ScenarioError, match="work exits are days apart"):
        calibrate(made(rare), core_hz=3 * 10**9, transition=0, handling=HANDLING)
    long = replace(source("HLT", 1, 10**15, blocks=True), seconds=Fraction(10**9))
    with pytest.raises(ScenarioError, match=r"one HLT of 1,000,000\.000 s is too long"):
        calibrate(made(long), core_hz=3 * 10**9, transition=0, handling=HANDLING)


def check_plan(plan: ExitPlan, load: Workload, core_hz: int, transition: int) -> None:
    """Every number of the plan, from the definitions."""
    taken = sum(
        (item.per_second * (kind.handling + kind.idle + transition))
        for item, kind in zip(load.exits, plan.kinds, strict=True)
    )
    assert plan.guest_cycles_per_second == core_hz - taken > 0
    for item, kind in zip(load.exits, plan.kinds, strict=True):
        if item.handling_ns is not None:
            assert kind.handling + kind.idle == round_half_up(item.handling_ns * core_hz / 10**9)
        assert kind.idle == 0 or (kind.blocks and kind.handling == HANDLING["hlt"])
    for clock, gap, threshold, alias, kinds in (
        ("work", plan.work_mean_gap, plan.work_threshold, plan.work_alias, plan.work_kinds),
        ("wall", plan.wall_mean_gap, plan.wall_threshold, plan.wall_alias, plan.wall_kinds),
    ):
        rates = [load.exits[k].per_second for k in kinds]
        assert all(load.exits[k].clock == clock for k in kinds)
        assert len(kinds) == len(threshold) == len(alias)
        if not kinds:
            assert gap == 0
            continue
        exact_gap = plan.guest_cycles_per_second / sum(rates)
        assert gap >= 1
        assert abs(gap - exact_gap) <= max(Fraction(1, 2), 1 - exact_gap)
        for probability, rate in zip(probabilities(threshold, alias), rates, strict=True):
            assert abs(probability - rate / sum(rates)) <= Fraction(1, 1 << 32)


@pytest.mark.parametrize("name", workloads())
@pytest.mark.parametrize("core_hz", [2 * 10**9, 3 * 10**9, 38 * 10**8])
@pytest.mark.parametrize("transition", [700, 1400])
def test_built_in_workloads_fit_into_a_second(name: str, core_hz: int, transition: int) -> None:
    load = workload(name)
    plan = calibrate(load, core_hz=core_hz, transition=transition, handling=HANDLING)
    check_plan(plan, load, core_hz, transition)
    if name == "fio-4k-read":  # the recorded rate again, within half a cycle of the gap
        per_exit = plan.guest_cycles_per_second / (79744 + Fraction(3672, 10))
        assert abs(plan.work_mean_gap - per_exit) <= Fraction(1, 2)


sources = st.builds(
    ExitSource,
    reason=st.sampled_from(["CPUID", "HLT", "X"]),
    count=st.integers(1, 10**6),
    seconds=st.fractions("1/10", 100),
    vcpus=st.integers(1, 8),
    handling_ns=st.none() | st.fractions(0, 10**5),
    kind=st.sampled_from(["fastpath", "kernel", "userspace"]),
    clock=st.sampled_from(["work", "wall"]),
    cpl=st.sampled_from([0, 3]),
    emulates=st.booleans(),
    blocks=st.booleans(),
)


@settings(max_examples=200)
@given(st.lists(sources, max_size=8), st.integers(10**6, 10**10), st.integers(0, 5000))
def test_random_workloads_are_exact_or_do_not_fit(exits: list[ExitSource], core_hz: int, transition: int) -> None:
    load = made(*exits)
    taken = Fraction(0)
    for item in exits:
        default = HANDLING["hlt" if item.blocks else item.kind]
        time = default if item.handling_ns is None else round_half_up(item.handling_ns * core_hz / 10**9)
        taken += item.per_second * (time + transition)
    if taken >= core_hz:
        with pytest.raises(ScenarioError, match="too much"):
            calibrate(load, core_hz=core_hz, transition=transition, handling=HANDLING)
    else:
        plan = calibrate(load, core_hz=core_hz, transition=transition, handling=HANDLING)
        check_plan(plan, load, core_hz, transition)
