"""The perf events that back guest counters in the emulated design (pmc_reprogram_counter())."""

from __future__ import annotations

import dataclasses

import pytest
from test_host_sampling import quiet, run, sampler

import vpmu
from vpmu import testing


def emulated(*guest_perf: str, seconds: float = 0.01, **changes: object) -> vpmu.Result:
    scenario = vpmu.Scenario(design="emulated", workload="fio-4k-read", guest_perf=guest_perf, seconds=seconds)
    return vpmu.simulate(dataclasses.replace(scenario, **changes))


def test_kvm_3_4_exclude_host_counts_in_guest_mode_only() -> None:
    """Cycles of the guest are those of its own clocks, from set-up on, whatever the hypervisor does in between."""
    result = emulated("stat:cycles")
    testing.assert_exact(result)
    guest = sum(result.cycles[a] for a in ("guest_user", "guest_kernel", "guest_handler"))
    assert 0.98 * guest < result.counters[0].value <= guest + 10_000
    assert result.cycles["hypervisor"] > 2_000_000


@pytest.mark.parametrize(("modifier", "clocks"), [("u", ["guest_user"]), ("k", ["guest_kernel", "guest_handler"])])
def test_kvm_3_4_exclude_user_and_exclude_kernel_are_what_the_selector_leaves_out(modifier: str, clocks: list) -> None:
    result = emulated(f"stat:cycles:{modifier}")
    testing.assert_exact(result)
    expected = sum(result.cycles[a] for a in clocks)
    assert abs(result.counters[0].value - expected) < 20_000 + expected // 50


def test_kvm_3_4_pinned_events_do_not_take_turns() -> None:
    """Five for four counters: the fifth is in ERROR, no timer runs and nobody else loses a count."""
    result = emulated(
        "stat:branches,branch-misses,cache-references,cache-misses",
        cpu=vpmu.cpu("skylake"),
        host_perf=(vpmu.HostEvent("bus-cycles"),),
    )
    assert result.raw["rotations"] == 0
    assert [("exact" in c.flags) for c in result.counters] == [True, True, True, False]


@pytest.mark.parametrize("period", [1_000, 20_011, 300_007])
def test_kvm_3_4_sample_period_is_the_way_to_the_wrap(period: int) -> None:
    """The backing event overflows when the guest's counter would: as many samples as periods."""
    result = emulated(f"record:instructions:period={period}", seconds=0.02)
    (counter,) = result.counters
    assert counter.value == counter.ideal
    assert counter.samples > 2
    if period > 10_000:
        assert abs(counter.samples - counter.value // period) <= 1


def test_kvm_3_4_int_is_latched_with_the_event_and_reuse_keeps_it() -> None:
    result = emulated("record:cycles:period=50021", seconds=0.02)
    assert result.raw["creates"] == 1
    assert result.pmis["delivered"] > 50
    assert result.pmis["raised"] == sum(result.pmis[k] for k in ("delivered", "coalesced", "lost", "pending"))


def test_kvm_3_4_creation_costs_what_perf_takes_for_it() -> None:
    kept = emulated("record:cycles:period=50021", seconds=0.02)
    anew = emulated("record:cycles:period=50021", seconds=0.02, design=vpmu.Emulated(reuse=False))
    for result in (kept, anew):
        cost = result.scenario.cost_model()["perf_create"].value
        assert result.raw["spent"]["perf_create"] == cost * result.raw["creates"]
    assert anew.raw["creates"] > 50
    assert anew.raw["clocks"][0] < kept.raw["clocks"][0]


def test_kvm_3_4_limits_of_periods_touch_none_of_the_cpus_that_scenarios_run_on() -> None:
    """perf refuses periods below a CPU's minimum; Nehalem to Broadwell have one, these four have none."""
    for name in ("skylake", "icelake", "sapphirerapids", "emeraldrapids"):
        assert vpmu.cpu(name).limit_period("instructions", 1) == 1
    assert vpmu.cpu("haswell").limit_period("instructions", 1) > 1


def test_kvm_3_4_no_counter_is_armed_closer_than_two_to_its_wrap() -> None:
    """A period of 1 is served by arming at -2: a PMI, and a sample, for every second occurrence."""
    result = run(quiet(sampler(1), end=2_000))
    (row,) = result["host"]
    assert row["value"] == row["ideal"] == 2_000
    assert row["samples"] == result["host_pmi"]["handled"] == 999


def test_kvm_3_4_a_period_beyond_the_counter_is_clipped_and_no_sample_comes_early() -> None:
    """2**47 - 1 is the longest that 48 bits can be armed with."""
    result = run(quiet(sampler((1 << 47) - 1), end=5_000))
    assert (result["host"][0]["samples"], result["host"][0]["value"]) == (0, 5_000)


def test_kvm_3_4_kvm_starts_a_counter_again_before_throttling_could_cost_it_anything() -> None:
    """Each overflow makes KVM pause and enable the event, which also takes it out of throttling: no count is lost."""
    result = emulated("record:instructions:period=2000", seconds=0.02)
    (counter,) = result.counters
    # Far more than the 400 samples that one tick of 4 ms allows.
    assert result.pmis["raised"] > 5 * 400 // 4
    assert counter.value == counter.ideal
