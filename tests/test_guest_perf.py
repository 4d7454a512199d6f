"""Guest perf as Linux does it: frequencies, turns, groups, tasks, the watchdog, throttling, and their accesses."""

from __future__ import annotations

import dataclasses

import pytest
from guest_perfs import CLASSES, accesses, cpu, simulated, times
from hypothesis import HealthCheck, given, settings
from machine_plans import plans_with_clock
from machine_runs import fast, finish

import vpmu
from vpmu import testing
from vpmu._plan import Plan
from vpmu._scenario import plan
from vpmu.reference import machine as slow
from vpmu_core.machine import Machine

# -- all machines -----------------------------------------------------------------------------------------------------


@given(plans_with_clock())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_all_machines_agree_on_random_guests(planned: Plan) -> None:
    result = fast(planned)
    assert result == slow.run(planned)
    assert result == fast(planned, "lazy")
    for row in result["counters"]:
        assert row["value"] == row["ideal"] - sum(row["losses"].values()) + sum(row["gains"].values())
        assert row["samples"] <= row["expected"]
        assert row["running"] <= row["enabled"]


PERFS = [
    ("record:instructions,cycles,branches:freq=20000",),
    (times(12, "record:{}:freq=5000"),),
    ("stat:" + ",".join(["branches,cycles,cache-misses,ref-cycles"] * 4) + ":interval=1",),
    (
        "stat:{branches,branch-misses,cycles},{instructions,cycles,branches,branches,branches,branches,branches}:task=3000",
    ),
    ("watchdog", times(12, "record:{}:freq=9000:task=2000", "cycles"), "stat:branches,branches:u"),
    ("record:{cycles,instructions},branches:period=20000:throttle",),
    ("record:{cycles,instructions,branches}:Su:freq=20000",),
]


@pytest.mark.parametrize("design", vpmu.designs())
@pytest.mark.parametrize("perf", PERFS)
@pytest.mark.parametrize("kernel", ["6.14", "6.2"])
def test_all_machines_agree_on_guests(design: str, perf: tuple[str, ...], kernel: str) -> None:
    scenario = vpmu.Scenario(
        design=design, workload="fio-4k-read", guest_perf=perf, seconds="0.011", guest_hz=1000, guest_kernel=kernel
    )
    planned = plan(scenario)
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)


@pytest.mark.parametrize("engine", ["lazy", "stepwise"])
@pytest.mark.parametrize("perf", PERFS)
def test_a_shorter_run_with_timers_is_a_prefix(perf: tuple[str, ...], engine: str) -> None:
    whole = plan(vpmu.Scenario(workload="windows-legacy-io", guest_perf=perf, seconds="0.05", guest_hz=1000))
    machine = Machine(dataclasses.replace(whole, end=whole.end // 7), engine)
    for part in range(2, 9):
        while not machine.advance():
            pass
        machine.extend(max(whole.end * part // 7, machine.progress[1]) if part < 8 else whole.end)
    machine.extend(whole.end * 8 // 7)
    assert finish(machine) == fast(dataclasses.replace(whole, end=whole.end * 8 // 7))


def test_the_issues_comparison_is_the_same_on_both_engines() -> None:
    scenario = vpmu.Scenario(guest_perf=(times(6, "record:{}:freq=1000"),), seconds=1)
    for design in vpmu.designs():
        chosen = dataclasses.replace(scenario, design=design)
        testing.assert_same_counts(vpmu.simulate(chosen), vpmu.simulate(chosen, "stepwise"))


# -- accesses per second: Linux 6.10 and later, a busy vCPU, 8 GP + 3 fixed counters -----------------------------------


def test_counting_makes_no_accesses_and_interval_one_rdpmc_an_event() -> None:
    """perf stat -a -e cycles,instructions."""
    assert not any(accesses(simulated("stat:cycles,instructions"), "run").values())
    result = simulated("stat:cycles,instructions:interval=100", seconds="1.01")
    assert accesses(result, "run") == dict.fromkeys(CLASSES, 0) | {"rdpmc": 20}
    assert result.raw["guest_timers"] == {"tick": 0, "rotation": 0, "switch": 0, "interval": 10}
    ends = accesses(result, "setup", "readout")
    assert list(ends.values()) == [0, 4, 3, 10, 3, 2]
    assert sum(ends.values()) == 22


#: (events, CONFIG_HZ, all overflows apart, all of a period together): accesses per second by class, in CLASSES' order.
TABLE = [
    (6, 250, (12000, 2500, 7500, 18500, 7500, 6000), (2000, 2500, 7500, 3500, 7500, 1000)),
    (6, 1000, (12000, 10000, 12000, 20000, 12000, 6000), (2000, 10000, 12000, 5000, 12000, 1000)),
    (10, 250, (18000, 8000, 13500, 28000, 13500, 9250), (2000, 8000, 13500, 4000, 13500, 1250)),
    (10, 1000, (18000, 32000, 27000, 31000, 27000, 10000), (2000, 32000, 27000, 7000, 27000, 2000)),
]


@pytest.mark.parametrize(("events", "hz", "apart", "together"), TABLE)
def test_accesses_of_sampling_by_frequency(
    events: int, hz: int, apart: tuple[int, ...], together: tuple[int, ...]
) -> None:
    """perf record -a -F 1000: between every overflow on its own and all in one PMI, near the former."""
    result = simulated(times(events, "record:{}:freq=1000"), hz=hz, seconds=1)
    made = accesses(result, "run")
    # Partial ticks after a rotation lower the period: up to 4 % more samples.
    for (name, n), most, least in zip(made.items(), apart, together, strict=True):
        assert 0.99 * least <= n <= 1.04 * most, name
    lowest = {(6, 250): 44_000, (6, 1000): 60_000, (10, 250): 87_000, (10, 1000): 145_000}[events, hz]
    assert lowest <= sum(made.values()) <= 1.02 * sum(apart)
    # Each of them by its cause.
    ticks, rotations = result.raw["guest_timers"]["tick"], result.raw["guest_timers"]["rotation"]
    samples, handlers = sum(c.samples for c in result.counters), result.raw["handlers"]
    on = min(events, 9)
    assert ticks == hz - 1
    assert rotations == (ticks if events > 9 else 0)
    assert made["wrmsr_selector"] == 2 * (on - 1) * (ticks + rotations)
    assert made["wrmsr_lvtpc"] == handlers + rotations
    # A tick or a rotation may reload a counter whose PMI is under way: that one brings no sample.
    assert 0 <= made["rdpmc"] - samples - on * (ticks + rotations) < 20
    assert made["wrmsr_counter"] == made["rdpmc"]
    acknowledged = made["rdmsr"] - handlers  # one for each status that was not 0
    assert handlers - 20 <= acknowledged < 1.01 * handlers
    # A handler within a bracket leaves GLOBAL_CTRL off.
    assert 0 <= 2 * handlers + acknowledged + 2 * (ticks + rotations) - made["wrmsr_global"] < 20
    assert samples == pytest.approx(1000 * on, rel=0.04)


def test_a_group_overflows_in_lock_step() -> None:
    """Its events start at once and have the same ticks: 1000 PMIs with six overflows each, 42,000 accesses."""
    result = simulated("record:{" + ",".join(["instructions"] * 6) + "}:freq=1000", hz=1000)
    assert sum(c.samples for c in result.counters) == 6 * result.raw["handlers"]
    assert sum(accesses(result, "run").values()) == pytest.approx(42_000, rel=0.01)


def test_a_leader_that_samples_reads_its_group() -> None:
    """One RDPMC more of each other event in each sample."""
    result = simulated("record:{cycles,branches,instructions}:S:period=3000017", seconds="0.1")
    leader, *others = result.counters
    assert leader.samples == leader.samples_expected == result.raw["handlers"] > 90
    assert [counter.samples_expected for counter in others] == [0, 0]
    made = accesses(result, "run")
    assert made["rdpmc"] == 3 * leader.samples
    assert made["wrmsr_counter"] == leader.samples


@pytest.mark.parametrize(("kernel", "pairs"), [("6.2", 3), ("6.9", 3), ("6.10", 1), ("6.14", 1)])
def test_brackets_of_a_tick(kernel: str, pairs: int) -> None:
    """Before 6.10 each event of a tick disables and enables the PMU."""
    result = simulated("record:cycles,branches,ref-cycles:freq=10", guest_kernel=kernel, seconds="0.5")
    ticks, handlers = result.raw["guest_timers"]["tick"], result.raw["handlers"]
    made = accesses(result, "run")
    acknowledged = made["rdmsr"] - handlers
    assert ticks == 124
    # A handler within a bracket leaves GLOBAL_CTRL off.
    assert 0 <= 2 * handlers + acknowledged + 2 * pairs * ticks - made["wrmsr_global"] <= handlers < 20
    assert made["wrmsr_selector"] == 2 * ticks


def test_context_switches_of_perf_stat() -> None:
    """5 + 4k + 2f + 2 accesses an OUT and IN with k GP and f fixed events."""
    result = simulated("stat:cycles,instructions,branches,branch-misses:task=1000", seconds="0.2005")
    assert result.raw["guest_timers"]["switch"] == 200
    assert sum(accesses(result, "run").values()) == 100 * (5 + 4 * 2 + 2 * 2 + 2)
    whole = simulated("stat:cycles,instructions,branches,branch-misses:task", seconds="0.2005")
    assert not any(accesses(whole, "run").values())
    for part, all_ in zip(result.counters, whole.counters, strict=True):
        assert "exact" in part.flags
        assert part.value == pytest.approx(all_.value / 2, rel=0.02)
        assert part.enabled == part.running == pytest.approx(all_.enabled / 2, rel=0.01)


def test_threads_swap_their_contexts() -> None:
    """Contexts that are clones are not reprogrammed: four writes of GLOBAL_CTRL a switch, and nothing is missed."""
    result = simulated("stat:cycles,branches:task=1000:threads", seconds="0.1005")
    assert accesses(result, "run") == dict.fromkeys(CLASSES, 0) | {"wrmsr_global": 400}
    for counter in result.counters:
        assert counter.running == counter.enabled
        assert "exact" in counter.flags


def test_a_task_starts_at_once_and_ends_at_once() -> None:
    """exec: GC=0; CTR and SEL of each; LVTPC; FCC; GC=ALL. Exit: GC=0; SEL, RDPMC of each; FCC; GC=ALL."""
    result = simulated("stat:cycles,branches:task", seconds="0.001")
    assert list(accesses(result, "setup").values()) == [0, 2, 2, 2, 0, 1]
    assert list(accesses(result, "readout").values()) == [0, 2, 0, 2, 2, 0]


# -- turns ------------------------------------------------------------------------------------------------------------


def test_more_events_than_counters_take_turns() -> None:
    result = simulated(times(10, "stat:{}"))
    testing.assert_conserved(result)
    one = simulated("stat:instructions")
    for counter in result.counters:
        assert set(counter.losses) == {"multiplexed"}
        assert "multiplexed" in counter.flags
        assert "90%" in counter.reason
        assert counter.running / counter.enabled == pytest.approx(0.9, abs=0.005)
        assert counter.scaled == pytest.approx(counter.ideal, rel=0.001)
        assert counter.ideal == pytest.approx(one.counters[0].ideal, rel=0.001)
    assert result.raw["guest_timers"]["rotation"] == 249
    # 3 + 4k + 2f accesses a rotation.
    assert sum(accesses(result, "run").values()) == 249 * (3 + 4 * 8 + 2)


def test_emulated_instructions_belong_to_what_an_event_would_have_read() -> None:
    """An event that waits would have counted them on a counter of its own."""
    scenario = vpmu.Scenario(
        cpu=cpu(), design="mediated", workload="fio-4k-read", guest_perf=(times(12, "stat:{}"),), seconds="0.05"
    )
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    testing.assert_same_counts(result, vpmu.simulate(scenario, "stepwise"))
    ideals = [counter.ideal for counter in result.counters]
    # They differ by the instructions of their own set-up alone.
    assert max(ideals) - min(ideals) < 200_000
    assert min(counter.losses["multiplexed"] for counter in result.counters) > 0


def test_a_group_is_on_as_a_whole_and_the_first_that_does_not_fit_stops_the_rest() -> None:
    """Linux tries no event after one that does not fit, although the last would."""
    result = simulated("stat:{" + ",".join(["branches"] * 5) + "},{" + ",".join(["branches"] * 4) + "},branches")
    first, second, last = (result.counters[i] for i in (0, 5, 9))
    for group in (result.counters[:5], result.counters[5:9]):
        assert len({(c.running, c.enabled) for c in group}) == 1
    # In turn: the first alone; the second and the last, and then the first no more; the last and the first.
    assert first.running / first.enabled == pytest.approx(2 / 3, abs=0.01)
    assert second.running / second.enabled == pytest.approx(1 / 3, abs=0.01)
    assert last.running / last.enabled == pytest.approx(2 / 3, abs=0.01)


def test_pinned_events_do_not_take_turns() -> None:
    result = simulated("watchdog", times(10, "stat:{}", "cycles"), seconds="0.5")
    watchdog, *others = result.counters
    assert watchdog.running == watchdog.enabled
    assert "exact" in watchdog.flags
    assert all("multiplexed" in counter.flags for counter in others)
    # The watchdog has fixed counter 1, so eight of ten have a counter.
    assert sum(c.running for c in others) / sum(c.enabled for c in others) == pytest.approx(0.8, abs=0.01)
