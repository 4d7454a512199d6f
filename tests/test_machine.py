"""The compiled machine: agreement with the slow one, conservation, prefixes, switches, PMIs."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from machine_plans import DESIGNS, directed, plans, programs, traces
from machine_runs import fast, finish

import vpmu
import vpmu_core.random
from vpmu import testing
from vpmu._plan import Trace
from vpmu._scenario import plan
from vpmu.reference import machine as slow
from vpmu_core.machine import Machine

ALL_EVENTS = "instructions,cycles,ref-cycles,branches,branch-misses,cache-references,cache-misses"


def check_identities(result: dict) -> None:
    assert sum(result["clocks"]) == result["w"]
    pmi = result["pmi"]
    assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
    pmi = result["host_pmi"]
    assert pmi["raised"] == pmi["handled"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
    # An unsafe sequence changes counters behind everybody's back, and is reported for it.
    for row in (*result["counters"], *result["host"]) if not any(result["breaches"].values()) else ():
        assert row["value"] == row["ideal"] - sum(row["losses"].values()) + sum(row["gains"].values())


# -- both machines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("cpu", ["emeraldrapids", "skylake"])
@pytest.mark.parametrize(
    "guest_perf",
    [(), (f"stat:{ALL_EVENTS}",), ("record:instructions,cycles:period=20011", "stat:branches:u")],
    ids=["nobody", "stat", "record"],
)
@pytest.mark.parametrize(
    "host_perf", [(), ("cycles:pinned:exclude_guest", "branches:pinned:exclude_guest:u"), ("watchdog",)]
)
def test_compiled_and_slow_machine_agree(design, cpu, guest_perf, host_perf):
    if cpu == "skylake" and guest_perf == (f"stat:{ALL_EVENTS}",):
        guest_perf = ("stat:instructions,cycles,ref-cycles,branches,branch-misses",)
    for workload in ("fio-4k-read", "windows-legacy-io"):
        scenario = vpmu.Scenario(
            cpu=cpu,
            design=design,
            workload=workload,
            guest_perf=guest_perf,
            host_perf=host_perf,
            seconds="0.0006",
            what_if=True,
        )
        planned = plan(scenario)
        result = fast(planned)
        assert result == slow.run(planned) == fast(planned, "lazy")
        check_identities(result)


@given(plans())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_compiled_and_slow_machine_agree_on_random_plans(planned):
    result = fast(planned)
    assert result == slow.run(planned)
    check_identities(result)


@given(programs())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_all_machines_agree_on_random_programs(planned):
    """Guest software that reprograms running counters, forgets acknowledgements and leaves counters alone."""
    result = fast(planned)
    assert result == slow.run(planned) == fast(planned, "lazy")


@given(plans(), traces())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_all_machines_agree_on_random_traces(planned, trace):
    if planned.design == "bare-metal":
        return  # has no exits
    planned = dataclasses.replace(planned, trace=trace)
    assert fast(planned, "lazy") == fast(planned) == slow.run(planned)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    "workload", ["fio-4k-read", "sysbench-cpu", "pause-storm", "windows-legacy-io", "idle-nohz-off"]
)
def test_lazy_and_stepwise_agree_on_workloads(design, workload):
    for guest_perf in ((), ("stat:cycles,branches",), ("record:instructions,cycles:period=1000003",)):
        scenario = vpmu.Scenario(design=design, workload=workload, guest_perf=guest_perf, seconds="0.05")
        planned = plan(scenario)
        assert fast(planned, "lazy") == fast(planned)


# -- directed plans: what random ones meet once in thousands -----------------------------------------------------------


@pytest.mark.parametrize("design", ["emulated", "mediated", "mediated,scope=every-exit", "dedicated"])
@pytest.mark.parametrize("emulates", [False, True])
def test_exits_in_every_cycle(design, emulates):
    """An exit meets the cycle of every overflow, of every host interrupt and of the end."""
    for period in (50, 51, 97, 128, 1001):
        for wall in (0, 7, 16):
            events = [(1, period), (0, 2 * period + 1)]
            planned = directed(design, gap=1, wall=wall, emulates=emulates, skid=2, costs=None, events=events)
            planned = dataclasses.replace(planned, end=1000 + 3 * period)
            result = fast(planned)
            assert result == fast(planned, "lazy") == slow.run(planned)
            check_identities(result)


@pytest.mark.parametrize("design", ["emulated", "mediated", "mediated,scope=every-exit", "dedicated"])
def test_pmis_that_arrive_in_every_part_of_an_exit(design):
    """Skids from none to longer than an exit: before and after put, around the LVTPC writes, in load."""
    seen = set()
    for skid in range(0, 9000, 250):
        planned = directed(design, gap=911, wall=0, emulates=False, skid=skid, costs={}, events=[(1, 5003)])
        planned = dataclasses.replace(planned, end=500_000)
        result = fast(planned)
        assert result == fast(planned, "lazy") == slow.run(planned)
        check_identities(result)
        seen.add((result["pmi"]["skid_past_exit"] > 0, result["pmu_exits"]["EXTERNAL_INTERRUPT"] > 0))
    if design.startswith("mediated"):
        assert {(False, True), (True, True)} <= seen


@pytest.mark.parametrize("design", ["emulated", "mediated", "mediated,scope=every-exit", "dedicated"])
@pytest.mark.parametrize("free", [False, True])
def test_blocking_that_takes_no_time_of_its_own(design, free):
    """When registers cost nothing, only the accesses tell that the host switched the vCPU thread out and in."""
    planned = directed(
        design, gap=20, wall=0, emulates=False, skid=2, costs=None if free else {}, events=[(1, 0), (1, 100_003)]
    )
    blocking = dataclasses.replace(planned.exits[0], reason="HLT", idle=3)
    planned = dataclasses.replace(planned, exits=(blocking, planned.exits[1]), end=50_000)
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)
    check_identities(result)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("design", ["emulated", "mediated", "dedicated"])
def test_blocking_exits_of_a_trace(design, free):
    """Every other exit blocks, and only blocking makes the host switch the vCPU's events out and in."""
    planned = directed(
        design, gap=20, wall=0, emulates=False, skid=2, costs=None if free else {}, events=[(1, 0), (1, 100_003)]
    )
    n = 400
    idle = np.arange(n) % 2 * 5
    trace = Trace(np.full(n, 20), np.zeros(n, np.uint16), np.full(n, 7), idle, repeat=True)
    planned = dataclasses.replace(planned, trace=trace, end=400_000)
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_recorded_times_of_refused_fastpaths(kind):
    """With instructions counted a fastpath exit takes at least what the slow path does, whatever was recorded."""
    planned = directed("mediated", gap=500, wall=0, emulates=True, skid=2, costs={}, events=[(0, 0)])
    least = planned.costs["fastpath_refused"]
    n = 300
    handling = np.array([0, 1, least - 1, least, least + 1, 3 * least])[np.arange(n) % 6]
    trace = Trace(np.full(n, 3_000), np.zeros(n, np.uint16), handling, np.zeros(n, np.int64), repeat=True)
    exits = (dataclasses.replace(planned.exits[0], kind=kind), planned.exits[1])
    planned = dataclasses.replace(planned, exits=exits, trace=trace, end=6_000_000)
    result = fast(planned)
    assert result["refused"] == (0 if kind else sum(result["exits"]))
    assert result == fast(planned, "lazy") == slow.run(planned)


def test_overflow_instants_by_counting_cycle_by_cycle():
    """Semantics, rule 22: jumping to an overflow and looking at every cycle find the same instants."""
    scenario = vpmu.Scenario(
        design="mediated",
        workload="fio-4k-read",
        guest_perf=("record:instructions,branches,cycles:period=5003",),
        seconds="0.00015",
    )
    planned = plan(scenario)
    result = fast(planned)
    assert result["pmi"]["raised"] > 5
    assert result == slow.run(planned, cycle_by_cycle=True)


# -- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_sfc64_known_answers_of_numpy(seed):
    sequence = np.random.SeedSequence(seed, spawn_key=(0, 0, 1))
    words = sequence.generate_state(3, np.uint64).tolist()
    assert vpmu_core.random.raw(words, 1000) == np.random.SFC64(sequence).random_raw(1000).tolist()


def test_gaps_are_exponential():
    assert vpmu_core.random.logarithms() == tuple(round(math.log(1 + i / 256) * 2**32) for i in range(257))
    gaps = np.array(vpmu_core.random.gaps((1, 2, 3), 10_000, 200_000), dtype=float)
    # Five standard errors of an exponential distribution of mean 10,000.
    assert abs(gaps.mean() - 10_000) < 5 * 10_000 / math.sqrt(200_000)
    for quantile in (0.1, 0.5, 0.9, 0.999):
        share = (gaps < -10_000 * math.log(1 - quantile)).mean()
        assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / 200_000)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("engine", ["lazy", "stepwise"])
def test_a_shorter_run_is_a_prefix(design, engine):
    scenario = vpmu.Scenario(
        design=design,
        workload="windows-legacy-io",
        guest_perf=("record:instructions:period=30011", "stat:cycles,branches:k"),
        host_perf=("cycles:pinned:exclude_guest",) if design != "bare-metal" else (),
        seconds="0.004",
    )
    whole = plan(scenario)
    machine = Machine(dataclasses.replace(whole, end=whole.end // 7), engine)
    first = finish(machine)
    for part in range(2, 8):
        machine.extend(whole.end * part // 7)
        result = finish(machine)
    assert result == fast(whole)
    assert first["w"] < result["w"]
    with pytest.raises(ValueError, match="before the end"):
        machine.extend(1)


def test_reading_a_result_changes_nothing():
    machine = Machine(plan(vpmu.Scenario(workload="fio-4k-read", seconds="0.001")))
    first = finish(machine)
    assert finish(machine) == first


def test_same_seed_same_integers_other_seed_others():
    scenario = vpmu.Scenario(workload="fio-4k-read", seconds="0.01")
    testing.assert_same_counts(vpmu.simulate(scenario), vpmu.simulate(scenario))
    other = vpmu.simulate(dataclasses.replace(scenario, seed=2))
    with pytest.raises(AssertionError, match="clocks"):
        testing.assert_same_counts(vpmu.simulate(scenario), other)


def test_unknown_engine():
    with pytest.raises(ValueError, match="lazy"):
        Machine(plan(vpmu.Scenario(seconds="0.001")), "eager")


def test_machine_is_initialised_once():
    planned = plan(vpmu.Scenario(seconds="0.001"))
    machine = Machine(planned)
    with pytest.raises(RuntimeError):
        machine.__init__(planned)


# -- the mediated switch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "live", "wrmsr", "rdpmc", "rdmsr"),
    [
        ("linux-7.0-no-elision", False, 21, 11, 2),
        ("linux-7.0", False, 10, 22, 2),
        ("linux-7.0-no-elision", True, 41, 11, 2),
        ("linux-7.0", True, 41, 22, 2),
    ],
)
def test_accesses_of_one_switch(sequence, live, wrmsr, rdpmc, rdmsr):
    """KVM's accesses per load and put, 8 GP + 3 fixed, LVTPC apart (Linux commits 56bb27369750 and b0b6a8d3be16)."""
    events = "instructions,cycles,ref-cycles," + ",".join(["branches", "branch-misses"] * 4)
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=f"mediated,scope=every-exit,sequence={sequence}",
        workload="fio-4k-read",
        guest_perf=(f"stat:{events}",) if live else (),
        seconds="0.02",
    )
    raw = vpmu.simulate(scenario).raw
    ops = raw["ops"]["run"]["hypervisor"]
    switches = raw["switches"] - (raw["ops"]["setup"]["hypervisor"]["rdmsr"] - 1) // 2
    assert switches > 1000
    if not live:
        assert ops["rdpmc"] == rdpmc * switches
        assert ops["rdmsr"] == rdmsr * switches
    wrmsrs = ops["wrmsr_counter"] + ops["wrmsr_selector"] + ops["wrmsr_global"]
    # Live counters may read 0 or equal to hardware once in a while, so their switches are counted in the long run.
    assert wrmsrs == pytest.approx(wrmsr * switches, rel=1e-3 if live else 0)
    assert ops["rdpmc"] == pytest.approx(rdpmc * switches, rel=1e-3)
    assert ops["wrmsr_lvtpc"] == pytest.approx(2 * switches, rel=1e-3)


def test_switches_follow_the_scope():
    scenario = vpmu.Scenario(cpu="emeraldrapids", workload="sysbench-cpu", guest_perf=(), seconds="0.2")
    inner = vpmu.simulate(dataclasses.replace(scenario, design=vpmu.Mediated()))
    every = vpmu.simulate(dataclasses.replace(scenario, design=vpmu.Mediated(scope="every-exit")))
    fastpath = inner.exits["MSR_WRITE"] + inner.exits["PREEMPTION_TIMER"]
    assert inner.raw["switches"] == sum(inner.exits.values()) - fastpath
    assert every.raw["switches"] == sum(every.exits.values())


def test_counting_instructions_refuses_fastpaths_that_skip_one():
    """Linux kvm_pmu_is_fastpath_emulation_allowed(): WRMSR fastpaths, not the preemption timer."""
    scenario = vpmu.Scenario(design=vpmu.Mediated(), workload="sysbench-cpu", seconds="0.2")
    cycles = vpmu.simulate(dataclasses.replace(scenario, guest_perf=("stat:cycles",)))
    instructions = vpmu.simulate(dataclasses.replace(scenario, guest_perf=("stat:instructions",)))
    assert cycles.raw["refused"] == 0
    planned = dict(zip(instructions.raw["exit_reasons"], instructions.raw["exits"], strict=True))
    assert instructions.raw["refused"] == planned["MSR_WRITE"] > 0


# -- guest perf -------------------------------------------------------------------------------------------------------


def test_accesses_of_perf_stat():
    """Linux perf stat -a -e cycles,instructions: 22 accesses from open to close (arch/x86/events/core.c)."""
    raw = vpmu.simulate(
        vpmu.Scenario(design="bare-metal", guest_perf=("stat:cycles,instructions",), seconds="0.001")
    ).raw
    total = {}
    for phase in ("setup", "readout"):
        for ways in raw["guest_accesses"][phase].values():
            for name, n in ways.items():
                total[name] = total.get(name, 0) + n
    assert total == {
        "rdmsr": 0,
        "rdpmc": 3,
        "wrmsr_counter": 3,
        "wrmsr_selector": 4,
        "wrmsr_global": 10,
        "wrmsr_lvtpc": 2,
    }
    assert not any(raw["guest_accesses"]["run"]["direct"].values())


@pytest.mark.parametrize("design", ["bare-metal", "emulated", "mediated", "dedicated"])
def test_accesses_of_a_pmi_handler(design):
    """Linux intel_pmu_handle_irq() with one overflow: 8 accesses."""
    scenario = vpmu.Scenario(
        design=design, workload="sysbench-cpu", guest_perf=("record:branches:period=1000003",), seconds="0.05"
    )
    result = vpmu.simulate(scenario)
    ways = result.raw["guest_accesses"]["run"]
    total = sum(n for way in ways.values() for n in way.values())
    assert result.raw["handlers"] > 10
    assert total == 8 * result.raw["handlers"]
    assert result.counters[0].samples == result.raw["handlers"]
    assert result.counters[0].samples == result.counters[0].value // 1000003
    trapped = {"bare-metal": 0, "emulated": 8, "dedicated": 1}.get(design)
    if trapped is not None:
        assert sum(ways["trapped"].values()) == trapped * result.raw["handlers"]


def test_bare_metal_is_the_closed_form():
    scenario = vpmu.Scenario(
        design="bare-metal", workload="sysbench-cpu", guest_perf=("stat:branches:u",), seconds="0.05"
    )
    planned = plan(scenario)
    result = vpmu.simulate(scenario)
    user = result.raw["clocks"][0]
    rate = planned.rates[0][6]
    assert user == planned.user_share * (user + result.raw["clocks"][1]) >> 32
    # Workload code runs only after set-up, and user code only in the workload.
    assert result.counters[0].value == rate * user >> 32
    testing.assert_exact(result)


# -- emulated ---------------------------------------------------------------------------------------------------------


def test_host_events_that_take_all_counters_starve_the_guest():
    host = ("cycles:pinned",) * 3 + ("instructions:pinned",) * 3
    scenario = vpmu.Scenario(cpu="skylake", design="emulated", workload="sysbench-cpu", host_perf=host, seconds="0.01")
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    for counter in result.counters:
        assert "never-scheduled" in counter.flags
        # What the hypervisor emulated is added in software, even to a counter that never counts.
        assert counter.value == counter.ideal - counter.losses["not_scheduled"] < 1000
        assert counter.losses["not_scheduled"] > 10**6
        assert "cycles:pinned" in counter.reason


def test_reuse_saves_creations():
    scenario = vpmu.Scenario(workload="fio-4k-read", guest_perf=("record:cycles:period=100003",), seconds="0.01")
    kept = vpmu.simulate(dataclasses.replace(scenario, design=vpmu.Emulated()))
    anew = vpmu.simulate(dataclasses.replace(scenario, design=vpmu.Emulated(reuse=False)))
    assert kept.raw["creates"] == 1
    assert anew.raw["creates"] > anew.raw["handlers"] > 0


def test_a_storm_ends_with_no_progress():
    for design in ("bare-metal", "emulated", "mediated", "dedicated"):
        # 300 instructions are over before the handler's way back to the workload is.
        scenario = vpmu.Scenario(
            design=design, workload="sysbench-cpu", guest_perf=("record:instructions:period=300",), seconds="0.001"
        )
        result = vpmu.simulate(scenario)
        assert any("no-progress" in violation for violation in result.violations), design


@pytest.mark.parametrize("period", [1, 2])
def test_a_storm_of_pmis_that_cost_nothing_ends(period):
    """Each trapped access retires an instruction, which overflows: PMI follows PMI while no time passes."""
    scenario = vpmu.Scenario(
        design="mediated",
        workload="fio-4k-read",
        guest_perf=(f"record:instructions:period={period}",),
        seconds="0.0001",
    )
    timed = plan(scenario)
    planned = dataclasses.replace(
        timed,
        costs=dict.fromkeys(timed.costs, 0),
        cpu=dataclasses.replace(timed.cpu, skid=vpmu.Skid(0, 0)),
    )
    found = slow.run(planned)
    assert found["stopped"] == "no-progress"
    assert found["handlers"] == 1000
    assert fast(planned) == found
    assert fast(planned, "lazy") == found


def test_a_lost_pmi_ends_sampling_and_is_said():
    """An overflow between the handler's GLOBAL_CTRL and LVTPC writes finds LVTPC masked: dropped (SDM 10.5.1)."""
    scenario = vpmu.Scenario(
        design="bare-metal", workload="sysbench-cpu", guest_perf=("record:instructions:period=10",), seconds="0.001"
    )
    result = vpmu.simulate(scenario)
    assert result.pmis["lost"] == 1
    assert result.counters[0].samples == 1
    assert any("a PMI was lost" in note for note in result.notes)
    testing.assert_exact(result)


# -- isolation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["fastpath-loop", "every-exit"])
def test_exclude_guest_event_never_sees_the_guest(scope):
    scenario = vpmu.Scenario(
        design=vpmu.Mediated(scope=scope),
        workload="fio-4k-read",
        host_perf=("instructions:pinned:exclude_guest", "cycles:pinned:exclude_guest"),
        seconds="0.01",
    )
    result = vpmu.simulate(scenario)
    testing.assert_isolated(result)
    testing.assert_conserved(result)
    testing.assert_exact(result)
    cycles = result.host_events[1]
    # It counts exactly the host's time outside the window, but for perf's own brackets.
    visible = result.cycles["hypervisor"] + result.cycles["host_task"]
    assert cycles.value == visible
    assert cycles.losses == {"window": result.cycles["blind"]}
