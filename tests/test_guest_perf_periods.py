"""Guest perf: periods that adapt, samples that are limited, the watchdog."""

from __future__ import annotations

import dataclasses

import pytest
from guest_perfs import accesses, cpu, simulated, times
from hypothesis import given
from hypothesis import strategies as st

from vpmu import testing
from vpmu._guest_perf import planned_events, requests
from vpmu._perf import parse_guest_perf
from vpmu.reference import _guestperiod as slow_period
from vpmu_core import guestperiod

# -- periods ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 1 << 61),
    st.integers(1, 1 << 40) | st.just(4_000_000),
    st.integers(1, 1 << 34) | st.integers(1, 1 << 62),
    st.integers(1, 100_000),
)
def test_period_arithmetic_of_both_machines(period: int, nsec: int, count: int, frequency: int) -> None:
    target = guestperiod.target_period(nsec, count, frequency)
    assert target == slow_period.target_period(nsec, count, frequency)
    exact = count * 10**9 // (nsec * frequency)
    if count < 1 << 34:
        assert target == exact
    elif exact > 1 << 10 and exact < 1 << 63:
        assert target == pytest.approx(exact, rel=0.01)
    if target < 1 << 61:
        new = guestperiod.adjusted_period(period, nsec, count, frequency)
        assert new == slow_period.adjusted_period(period, nsec, count, frequency) >= 1
        assert abs(new - target) <= abs(period - target) or new == 1


def test_periods_by_hand() -> None:
    # 12,000,000 in a tick of 4 ms at 1000 samples a second: 3,000,000.
    assert guestperiod.target_period(4_000_000, 12_000_000, 1000) == 3_000_000
    assert guestperiod.adjusted_period(499_999, 4_000_000, 12_000_000, 1000) == 499_999 + (2_500_001 + 7) // 8
    assert guestperiod.adjusted_period(3_000_008, 4_000_000, 12_000_000, 1000) == 3_000_007
    assert guestperiod.adjusted_period(1, 4_000_000, 1, 100_000) == 1


@pytest.mark.parametrize(
    ("event", "start"),
    [("instructions", 499_999), ("cycles:u", 499_999), ("branches", 124_999), ("cache-misses", 24_999), ("rc4", 255)],
)
def test_first_periods(event: str, start: int) -> None:
    """Linux 6.14 on: 500, 125 and 25 million, or 256,000, by the frequency, less one."""
    asked = requests([parse_guest_perf(f"record:{event}:freq=1000")])
    assert planned_events(asked, cpu(), 3 * 10**9, "6.14")[0].period == start
    assert planned_events(asked, cpu(), 3 * 10**9, "6.13")[0].period == 1


@pytest.mark.parametrize(("freq", "hz"), [(1000, 250), (1000, 1000), (4000, 250), (99, 250)])
def test_the_period_settles_at_rate_by_frequency(freq: int, hz: int) -> None:
    """After ten time constants of 7.5 / (freq + CONFIG_HZ) seconds; each overflow and each tick goes an eighth."""
    result = simulated(f"record:cycles:freq={freq}", hz=hz, seconds="1.5")
    (row,) = result.raw["counters"]
    assert row["period"] == pytest.approx(cpu().core_hz.value / freq, rel=0.03)
    assert row["samples"] == pytest.approx(1.5 * freq, rel=0.06)


def test_samples_are_late_by_skid_and_handler() -> None:
    result = simulated("record:cycles:period=1000003", seconds="0.1")
    (counter,) = result.counters
    skid, costs = cpu().skid, result.scenario.cost_model()
    # NMI entry, GLOBAL_CTRL, STATUS, acknowledge, RDPMC and the counter write.
    way = sum(costs[name].value for name in ("guest_nmi_entry", "rdmsr", "rdpmc")) + 3 * costs["wrmsr"].value
    assert counter.samples == counter.samples_expected > 200
    assert way + skid.minimum <= counter.samples_late / counter.samples <= way + skid.maximum


# -- the watchdog and throttling --------------------------------------------------------------------------------------


def test_the_watchdog_makes_eight_accesses_in_ten_seconds() -> None:
    result = simulated("watchdog", seconds="10.5")
    assert sum(accesses(result, "run").values()) == 8
    assert (result.counters[0].event, result.counters[0].samples) == ("watchdog", 1)
    narrow = dataclasses.replace(cpu(), perf_capabilities=cpu().perf_capabilities & ~(1 << 13))
    partial = simulated("watchdog", seconds="10.5", cpu=narrow)
    # Armed with 2**31 - 1 at most: 14 PMIs in 3 * 10**10 cycles, of which the last is the watchdog's.
    assert partial.raw["handlers"] == 14
    assert partial.counters[0].samples == 1


def test_a_tick_has_so_many_samples_and_no_more() -> None:
    """400 at 100,000 a second and CONFIG_HZ=250; then one SEL off, and SEL on in the tick."""
    result = simulated("record:branches:period=400:throttle", workload="sysbench-cpu", seconds="0.4")
    (counter,) = result.counters
    testing.assert_conserved(result)
    ticks = result.raw["guest_timers"]["tick"]
    assert counter.throttled == ticks + 1
    assert counter.samples == 400 * (ticks + 1)
    assert set(counter.losses) == {"throttled"}
    assert {"lost", "throttled"} <= set(counter.flags)
    assert accesses(result, "run")["wrmsr_selector"] == 2 * ticks + 1


def test_throttling_ends_a_storm() -> None:
    """Without a tick 300 instructions are over before the handler is; with one the workload goes on."""
    storm = simulated("record:instructions:period=300", seconds="0.004")
    assert any("no-progress" in violation for violation in storm.violations)
    throttled = simulated("record:instructions:period=300:throttle", seconds="0.1", hz=1000)
    assert not throttled.violations
    assert throttled.counters[0].throttled > 50


@pytest.mark.parametrize(
    ("nsec", "hz", "lowered_at", "steps", "per_tick"),
    [
        (3_000, 250, 229, 1, 319),
        (3_000, 1000, 229, 1, 79),
        (10_000, 250, 37, 7, 81),
        (20_000, 250, 18, 9, 49),
        (50_000, 250, 7, 13, 17),
        (100_000, 250, 4, 14, 9),
        (300_000, 250, 2, 16, 3),
        (300_000, 1000, 2, 16, 1),
    ],
)
def test_slow_handlers_lower_the_limit(nsec: int, hz: int, lowered_at: int, steps: int, per_tick: int) -> None:
    """A quarter of the time at most; averaged over 128 handlers, and never raised again."""
    limits = guestperiod.lowered_limits(hz, [nsec] * 2000)
    assert limits == slow_period.lowered_limits(hz, [nsec] * 2000)
    first = -(-100_000 // hz)
    changes = [i for i, (a, b) in enumerate(zip([first, *limits], limits, strict=False)) if a != b]
    assert changes[0] + 1 == lowered_at
    assert limits[-1] == per_tick
    if hz == 250:
        # At 1000 Hz some steps do not show in whole samples.
        assert abs(len(changes) - steps) <= 1


def test_slow_designs_are_throttled_first() -> None:
    """Handlers whose accesses all exit are long, so fewer samples may come."""
    limits = {
        design: simulated(times(6, "record:{}:freq=1000"), design=design, seconds="0.2").raw["samples_per_tick"]
        for design in ("bare-metal", "emulated")
    }
    assert limits["bare-metal"] == 400
    assert limits["emulated"] < 40


def test_the_handlers_own_work_is_counted() -> None:
    """Kernel code in ticks and handlers shows in an event that counts the kernel, up to the brackets."""
    quiet = simulated("stat:cycles", seconds="0.2")
    busy = simulated("record:branches:freq=4000", "stat:cycles", seconds="0.2")
    handler = busy.cycles["guest_handler"] - quiet.cycles["guest_handler"]
    workload = busy.cycles["guest_user"] + busy.cycles["guest_kernel"]
    counted = busy.counters[1]
    assert handler > 1_000_000
    assert workload < counted.value < workload + handler
    assert counted.value - workload > handler // 10
