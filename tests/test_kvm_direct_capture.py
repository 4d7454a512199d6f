"""Direct capture (Like Xu, 2019): what it saves, and what a counter does that cannot count what is written to it."""

from __future__ import annotations

import dataclasses

import pytest
from guest_programs import BRANCHES, CYCLES, EN, FIXED, INSTRUCTIONS, ON, OS, Step, enable, program, read, run, select

import vpmu
from vpmu import testing
from vpmu._plan import GuestKernel, PlannedGuestEvent

GUEST, HOST = "direct-capture,constraints=guest", "direct-capture,constraints=host"


def narrow(planned):
    """A CPU on which branches can be counted by general counter 1 only, and cache misses by 0 only."""
    masks = list(planned.gp_constraint)
    masks[6], masks[5] = 0b10, 0b01
    return dataclasses.replace(planned, gp_constraint=tuple(masks))


@pytest.mark.parametrize("design", [GUEST, HOST])
def test_kvm_8_7_the_event_was_placed_by_the_selector_that_it_was_created_with(design: str) -> None:
    """Instructions go to the host's fixed counter 0, which counts instructions whatever is written to it later."""
    steps: list[Step] = [select(0, INSTRUCTIONS | ON), select(0, BRANCHES | ON), 5000, read(0)]
    planned = program(design, steps)
    rates = [list(row) for row in planned.rates]
    for row in rates[:3]:
        row[6] = 1 << 30  # a branch in four cycles, an instruction in each
    planned = dataclasses.replace(planned, rates=tuple(tuple(row) for row in rates))
    ((value, ideal),) = run(planned)["program"]
    if design == HOST:
        assert value - ideal == 0
    else:
        assert value - ideal > 3500  # instructions, where it should be branches


@pytest.mark.parametrize(("design", "counts"), [(GUEST, False), (HOST, True)])
def test_kvm_8_7_a_general_counter_that_cannot_count_the_new_event_counts_nothing(design: str, counts: bool) -> None:
    """Cache misses were placed on counter 0; branches, which only counter 1 can count, are written there."""
    steps: list[Step] = [select(3, 0x412E | ON), select(3, BRANCHES | ON), 5000, read(3)]
    result = run(narrow(program(design, steps)))
    ((value, ideal),) = result["program"]
    # What the old event counted before is in the counter in both.
    assert ideal - value == (0 if counts else 5000)
    assert result["creates"] == (2 if counts else 1)


def test_mail_004_variant_b_writes_directly_exactly_what_toggles_the_enable_bit() -> None:
    """diff == ENABLE is direct; any other, and as it was written also none, goes through host perf."""
    on, off = BRANCHES | ON, BRANCHES | ON & ~EN
    cases = {
        "toggle": [off, on],
        "redundant": [on, on],
        "level": [on & ~OS, on],
        "event and enable": [CYCLES | ON & ~EN, on],
    }
    done = {
        (design, name): run(program(design, [select(0, on), *[select(0, value) for value in values]]))
        for name, values in cases.items()
        for design in (GUEST, HOST)
    }
    first = run(program(HOST, [select(0, on)]))
    assert [done[GUEST, name]["reprograms"] - first["reprograms"] for name in cases] == [0, 0, 0, 0]
    assert [done[HOST, name]["reprograms"] - first["reprograms"] for name in cases] == [0, 2, 2, 2]
    assert [done[HOST, name]["creates"] for name in cases] == [1, 1, 3, 1]
    # A direct write is one WRMSR of the hypervisor's; a value that changes nothing is none in variant A.
    assert [done[GUEST, name]["ops"]["run"]["hypervisor"]["wrmsr_selector"] for name in cases] == [2, 0, 2, 2]
    assert [done[HOST, name]["ops"]["run"]["hypervisor"]["wrmsr_selector"] for name in cases] == [2, 0, 0, 0]


@pytest.mark.parametrize("design", [GUEST, HOST])
def test_kvm_8_7_fixed_counters_and_global_ctrl_are_captured_too(design: str) -> None:
    steps: list[Step] = [(FIXED, 0, 0xB0), enable(2 << 32), 1000, (FIXED, 0, 0), 500, (FIXED, 0, 0xB0), 1000, read(33)]
    result = run(program(design, [*steps, enable(0), 500, read(33), enable(2 << 32), 1000, read(33)]))
    assert [value for value, _ in result["program"]] == [ideal for _, ideal in result["program"]] == [2000, 2000, 3000]
    assert result["creates"] == 1
    assert result["ops"]["run"]["hypervisor"]["wrmsr_selector"] == 4


@pytest.mark.parametrize("design", [GUEST, HOST])
def test_kvm_8_7_a_captured_stop_outlives_host_perfs_rescheduling(design: str) -> None:
    """Another counter's event makes host perf take all events out and in; one that the guest has stopped stays off."""
    steps: list[Step] = [
        select(0, BRANCHES | ON), 1000, select(0, BRANCHES | ON & ~EN), select(1, CYCLES | ON), 2000, read(0),
        select(0, BRANCHES | ON), 700, read(0),
    ]  # fmt: skip
    result = run(program(design, steps, blocking=40_000))
    assert [value for value, _ in result["program"]] == [ideal for _, ideal in result["program"]] == [1000, 1700]


def test_the_ledger_names_what_the_wrong_counter_did() -> None:
    """Two events of the guest take turns on one counter; host perf placed what backs it for the first alone."""
    planned = program(GUEST, [])
    rates = [list(row) for row in planned.rates]
    for row in rates[:3]:
        row[6] = 1 << 30
    planned = dataclasses.replace(
        planned,
        rates=tuple(tuple(row) for row in rates),
        guest_events=(
            PlannedGuestEvent(0, INSTRUCTIONS | 3 << 16 | 1 << 20, -1, True, True, 0, gp_mask=1),
            PlannedGuestEvent(6, BRANCHES | 3 << 16 | 1 << 20, -1, True, True, 0, gp_mask=1),
        ),
        guest_kernel=GuestKernel(core_hz=10_000_000, rotation_ms=1),
    )
    first, second = run(planned)["counters"]
    for row in (first, second):
        assert row["value"] == row["ideal"] - sum(row["losses"].values()) + sum(row["gains"].values())
    assert set(second["losses"]) == {"multiplexed", "wrong_counter"}
    assert set(second["gains"]) == {"wrong_counter"}
    assert second["gains"]["wrong_counter"] > 3 * second["losses"]["wrong_counter"] > 1000


@pytest.mark.parametrize("design", [GUEST, HOST])
def test_linux_perf_in_the_guest_counts_exactly(design: str) -> None:
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=design,
        workload="hackbench",
        guest_perf=["record:instructions,branches:period=100003", "stat:cycles"],
        host_perf=["cycles:pinned:exclude_guest"],
        seconds="0.02",
    )
    result = vpmu.simulate(scenario)
    testing.assert_exact(result)
    testing.assert_isolated(result)
    emulated = vpmu.simulate(dataclasses.replace(scenario, design="emulated"))
    per_handler = {r.scenario.design.name: r.raw["reprograms"] / r.raw["handlers"] for r in (result, emulated)}
    assert per_handler["direct-capture"] < per_handler["emulated"]
    assert result.raw["creates"] == 3
