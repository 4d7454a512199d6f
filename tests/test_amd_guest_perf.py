"""Guest perf on AMD CPUs: the accesses of Linux's handlers and brackets, with PerfMonV2 (genoa) and before (rome)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from guest_perfs import CLASSES, accesses, simulated, times
from machine_runs import fast

import vpmu
from vpmu import testing
from vpmu._scenario import plan
from vpmu.reference import machine as slow

#: Accesses by class in CLASSES' order: RDMSR, selectors, counters, global registers, RDPMC, LVTPC.
Row = tuple[int, int, int, int, int, int]


def run_accesses(result: vpmu.Result, *phases: str) -> Row:
    made = accesses(result, *(phases or ("run",)))
    return tuple(made[name] for name in CLASSES)  # type: ignore[return-value]  # there are six


def on(cpu: str, *perf: str, **more: Any) -> vpmu.Result:
    return simulated(*perf, **({"cpu": vpmu.cpu(cpu)} | more))


def total(*rows: tuple[int, Row]) -> Row:
    return tuple(sum(n * row[i] for n, row in rows) for i in range(6))  # type: ignore[return-value]  # there are six


@pytest.mark.parametrize(("cpu", "row"), [("genoa", (7, 6, 3, 10, 3, 2)), ("rome", (11, 11, 3, 0, 3, 2))])
def test_accesses_of_opening_and_closing_two_events(cpu: str, row: Row) -> None:
    """perf stat -a -e cycles,instructions: 31 accesses with PerfMonV2, where Intel has 22."""
    result = on(cpu, "stat:cycles,instructions", seconds="0.01")
    assert run_accesses(result, "setup", "readout") == row
    assert not any(run_accesses(result))
    testing.assert_exact(result)


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_accesses_of_a_context_switch(cpu: str, k: int) -> None:
    """A pair is 5 + 6k accesses with PerfMonV2 and 1 + 8k without."""
    result = on(cpu, times(k, "stat:{}:task=1000"), seconds="0.02")
    n = result.raw["guest_timers"]["switch"]
    out: Row = (2 * k, k, 0, 2, k, 0) if cpu == "genoa" else (3 * k, 2 * k, 0, 0, k, 0)
    into: Row = (0, k, k, 2, 0, 1) if cpu == "genoa" else (0, k, k, 0, 0, 1)
    assert sum(out) + sum(into) == (5 + 6 * k if cpu == "genoa" else 1 + 8 * k)
    assert run_accesses(result) == total(((n + 1) // 2, out), (n // 2, into))
    assert n > 15


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_accesses_of_a_switch_between_clones(cpu: str) -> None:
    """Two brackets without an event in between: a look at each active counter with PerfMonV2, all selectors without."""
    result = on(cpu, "stat:cycles,instructions:task=1000:threads", seconds="0.02")
    n = result.raw["guest_timers"]["switch"]
    assert run_accesses(result) == total((n, (4, 0, 0, 4, 0, 0) if cpu == "genoa" else (8, 8, 0, 0, 0, 0)))


@pytest.mark.parametrize(("n", "active"), [(1, 1), (1, 6), (6, 6)])
@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_accesses_of_a_pmi(cpu: str, n: int, active: int) -> None:
    """amd_pmu_v2_handle_irq(): 4 + active + n; x86_pmu_handle_irq(): 1 + active + n, and no global register."""
    group = ",".join(["instructions"] * n)
    others = [f"stat:{','.join(['branches'] * (active - n))}"] if active > n else []
    result = on(cpu, f"record:{{{group}}}:period=1000003", *others, seconds="0.02")
    handlers = result.raw["handlers"]
    row: Row = (1, 0, n, 3, active, 0) if cpu == "genoa" else (0, 0, n, 0, active, 1)
    assert sum(row) == {"genoa": 4, "rome": 1}[cpu] + active + n
    assert handlers > 30
    samples = sum(counter.samples for counter in result.counters)
    if cpu == "genoa" or n == 1:
        assert run_accesses(result) == total((handlers, row))
        assert samples == n * handlers
    else:
        # Selectors are enabled one by one, so that the counters do not overflow in the same cycle.
        assert run_accesses(result) == total((handlers, (0, 0, 0, 0, active, 1)), (samples, (0, 0, 1, 0, 0, 0)))
        assert samples / handlers > 1.5


def test_the_table_of_accesses_per_pmi() -> None:
    """AMD V2 beside AMD before it: 6 / 3, 11 / 8, 16 / 13."""
    for (n, active), sums in {(1, 1): (6, 3), (1, 6): (11, 8), (6, 6): (16, 13)}.items():
        assert (4 + active + n, 1 + active + n) == sums


#: One tick, and one rotation, of six events.
TICK: dict[str, Row] = {"genoa": (12, 12, 6, 2, 6, 0), "rome": (18, 18, 6, 0, 6, 0)}
ROTATION: dict[str, Row] = {"genoa": (12, 12, 6, 2, 6, 1), "rome": (18, 18, 6, 0, 6, 1)}


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
@pytest.mark.parametrize("hz", [250, 1000])
def test_accesses_of_a_rotation(cpu: str, hz: int) -> None:
    """Eight events on six counters: 39 accesses with PerfMonV2, 49 without."""
    result = on(cpu, times(8, "stat:{}"), hz=hz, seconds="0.05")
    rotations = result.raw["guest_timers"]["rotation"]
    assert sum(ROTATION[cpu]) == {"genoa": 39, "rome": 49}[cpu]
    assert run_accesses(result) == total((rotations, ROTATION[cpu]))
    assert rotations >= 11
    assert {counter.losses.keys() >= {"multiplexed"} for counter in result.counters} == {True}


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_accesses_of_a_tick(cpu: str) -> None:
    """38 accesses with PerfMonV2, 48 without, beside those of the PMIs; a pending overflow adds looks at it."""
    result = on(cpu, times(6, "record:{}:freq=1000"), hz=250, seconds="0.5")
    ticks, handlers = result.raw["guest_timers"]["tick"], result.raw["handlers"]
    samples = sum(counter.samples for counter in result.counters)
    pmi: Row = (1, 0, 0, 3, 6, 0) if cpu == "genoa" else (0, 0, 0, 0, 6, 1)
    expected = total((ticks, TICK[cpu]), (handlers, pmi), (samples, (0, 0, 1, 0, 0, 0)))
    made = run_accesses(result)
    spurious = (
        3 * handlers // 100 + 20
    )  # an NMI that finds its overflow handled; a tick in which an event did not count
    for name, n, usual in zip(CLASSES, made, expected, strict=True):
        assert abs(n - usual) <= 6 * spurious, name
    assert made[1] == expected[1]  # selectors: the ticks' alone
    assert ticks == 124


def test_first_period_of_a_frequency_is_1() -> None:
    """Intel's start period (Linux 6.14) is no business of AMD's driver; it takes some PMIs to grow."""
    scenario = vpmu.Scenario(cpu="genoa", guest_perf=["record:cycles:freq=1000"])
    assert plan(scenario).guest_events[0].period == 1
    assert plan(dataclasses.replace(scenario, cpu="sapphirerapids")).guest_events[0].period == 499_999
    result = vpmu.simulate(dataclasses.replace(scenario, design="bare-metal", seconds="0.1"))
    assert 300_000 < result.raw["counters"][0]["period"] < 3_000_000
    assert any("first period on AMD is 1" in note for note in result.notes)


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_who_stops_a_counter_waits_for_its_late_nmi(cpu: str) -> None:
    """amd_pmu_wait_on_overflow(): the NMI comes in the bracket that has found its overflow, and not after it."""

    def run(skid: int) -> vpmu.Result:
        model = dataclasses.replace(vpmu.cpu(cpu), skid=vpmu.Skid(skid, skid))
        return simulated("record:cycles:period=47777:task=5000", cpu=model, seconds="0.02")

    prompt, late = run(0), run(20_000)
    switches = prompt.raw["guest_timers"]["switch"]
    per_out = 2 if cpu == "genoa" else 3
    looks = run_accesses(prompt)[0] - (prompt.raw["handlers"] if cpu == "genoa" else 0)
    assert looks == per_out * ((switches + 1) // 2)
    # A microsecond apart: of 20,000 cycles of skid in 47,777 of a period, some are left when a switch comes.
    more = run_accesses(late)[0] - (late.raw["handlers"] if cpu == "genoa" else 0)
    assert more > looks + 10
    assert late.raw["spent"]["guest_perf_call"] > prompt.raw["spent"]["guest_perf_call"]
    # Whoever has waited has had it handled: no overflow is left to be found by nobody.
    assert late.raw["pmi"]["delivered"] == late.raw["handlers"]
    assert late.counters[0].samples >= late.raw["handlers"] - 1
    testing.assert_exact(late)


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_the_watchdog_and_groups_take_general_purpose_counters(cpu: str) -> None:
    """There are no others: with the watchdog five are left for six events, and a group of seven fails."""
    result = on(cpu, "watchdog", times(6, "stat:{}"), seconds="0.02")
    assert [("multiplexed" in counter.losses) for counter in result.counters].count(True) >= 5
    assert result.counters[0].flags == ("exact",)
    with pytest.raises(vpmu.ScenarioError, match="does not fit 6 GP and 0 fixed"):
        on(cpu, "stat:{" + ",".join(["cycles"] * 7) + "}")


PERFS = [
    ("record:instructions,cycles,branches:freq=20000",),
    (times(9, "record:{}:freq=5000"),),
    ("stat:" + ",".join(["branches,cycles,cache-misses,cache-references"] * 3) + ":interval=1",),
    ("stat:{branches,branch-misses,cycles},{instructions,cycles,branches,branches}:task=3000",),
    ("watchdog", times(7, "record:{}:freq=9000:task=2000", "cycles"), "stat:branches,branches:u"),
    ("record:{cycles,instructions},branches:period=20000:throttle",),
    ("record:{cycles,instructions,branches}:Su:freq=20000",),
]


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
@pytest.mark.parametrize("design", ["emulated", "mediated", "virtualized", "dedicated", "bare-metal"])
@pytest.mark.parametrize("perf", PERFS)
@pytest.mark.parametrize("kernel", ["6.14", "6.2"])
def test_all_machines_agree_on_amd_guests(cpu: str, design: str, perf: tuple[str, ...], kernel: str) -> None:
    if vpmu.design(design).refusal(vpmu.cpu(cpu), (), False):
        return
    scenario = vpmu.Scenario(
        cpu=cpu, design=design, workload="fio-4k-read", guest_perf=perf, seconds="0.006", guest_hz=1000,
        guest_kernel=kernel,
    )  # fmt: skip
    planned = plan(scenario)
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)
    for row in result["counters"]:
        assert row["value"] == row["ideal"] - sum(row["losses"].values()) + sum(row["gains"].values())
