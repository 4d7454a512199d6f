"""Several vCPUs on one logical CPU (docs/machine.md, section 15): the engines agree, and guests do not meet."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_plans import DESIGNS, programs
from vcpu_plans import SHARED, Planned, assert_engines_agree, check, is_safe, planned, run, vcpus

import vpmu
from vpmu._plan import Plan, PlannedAccess, PlannedExit, Stream
from vpmu_core.machine import Machine
from vpmu_core.vcpus import LogicalCpu

LAX = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ALL = ("stepwise", "lazy", "reference")
TICK = 100_000
GUESTS = (
    ("sysbench-cpu", ["record:instructions:period=100003"]),
    ("hackbench", ["stat:cycles,branches"]),
    ("fio-4k-read", []),
)
SAFE = [design for design in SHARED if design in DESIGNS]
TRAPPING = tuple(design for design in SHARED if not vpmu.design(design).backed_by_host_events)


# -- the engines ------------------------------------------------------------------------------------------------------


@given(vcpus())
@settings(LAX, max_examples=settings().max_examples // 4)  # an example is several runs in Python
def test_all_engines_agree_on_random_plans(drawn):
    result = assert_engines_agree(drawn, *ALL)
    check(result, is_safe(result))


@pytest.mark.parametrize("design", SAFE)
@pytest.mark.parametrize("host_perf", [(), ("cycles:pinned:exclude_guest", "branches:exclude_guest"), ("watchdog",)])
def test_all_engines_agree_on_workloads(design, host_perf):
    given_ = planned(design, *GUESTS, end=1_500_000, tick=TICK, time_slice=TICK, host_perf=host_perf)
    result = assert_engines_agree(given_, *ALL)
    check(result)
    assert all(row["turns"] > 1 for row in result["vcpus"])


def test_overflows_are_where_a_cycle_by_cycle_run_finds_them():
    for design in ("emulated", "mediated", "mediated,scope=vcpu-sched"):
        given_ = planned(design, *GUESTS[:2], end=60_000, tick=9_000, time_slice=9_000)
        assert run(given_, "reference") == run(given_, "cycle-by-cycle")


BRANCHES, CACHE_MISSES = 0x5300C4, 0x53412E


def test_an_access_is_not_done_as_before_under_another_event_filter():
    """What a guest's program has written to a selector is allowed, and then denied."""
    (alone,) = planned("mediated", ("fio-4k-read", ()), end=2_000_000, tick=TICK, time_slice=TICK).vcpus
    program = [PlannedAccess(10, "global_ctrl", 0, 0)]
    program += [PlannedAccess(100, "selector", 0, code) for code in (BRANCHES, CACHE_MISSES) * 10 + (BRANCHES,)]
    program += [PlannedAccess(100, "global_ctrl", 0, 1), PlannedAccess(50_000, "rdpmc", 0, 0)]
    all_allowed, denied = (vpmu.EventFilter("deny", codes).planned() for codes in ([], [0xC4]))
    made = dataclasses.replace(alone, program=tuple(program), filter_changes=((5000, all_allowed), (40_000, denied)))
    result = assert_engines_agree(Planned((made,), TICK), *ALL)
    counted, ideal = result["vcpus"][0]["program"][0]
    assert (counted, ideal > 0) == (0, True)


@given(programs(designs=TRAPPING), st.sampled_from([3, 10, 40]), st.integers(0, 1 << 32), st.booleans())
@LAX
def test_what_a_program_does_before_it_does_it_again(planned_, times, seed, calm):
    """Accesses of any kind in any order, many times: what is noted of one holds for the same one in the same state."""
    kinds = tuple(dataclasses.replace(kind, idle=0) for kind in planned_.exits)
    steps, random = planned_.program, np.random.default_rng(seed)
    program = tuple(steps[i] for _ in range(times) for i in random.permutation(len(steps)))
    made = dataclasses.replace(planned_, exits=kinds, host_events=(), program=program)
    if calm:
        made = dataclasses.replace(made, wall=dataclasses.replace(made.wall, mean_gap=0, rates=()))
    assert_engines_agree(Planned((made,), TICK), "stepwise", "lazy")


def test_an_access_is_done_as_before_in_the_same_state_only():
    """A program takes some selectors through all their states, again and again, and lets them count now and then."""
    (alone,) = planned("mediated", ("fio-4k-read", ()), end=50_000_000, tick=TICK, time_slice=TICK).vcpus
    random = np.random.default_rng(1)
    program = [PlannedAccess(10, "global_ctrl", 0, 0)]
    for slot, code in zip(random.integers(0, 5, 3000), random.choice([0, BRANCHES, CACHE_MISSES], 3000), strict=True):
        program.append(PlannedAccess(20, "selector", int(slot), int(code)))
    for slot in range(5):
        program += [PlannedAccess(100, "global_ctrl", 0, 31), PlannedAccess(9000, "rdpmc", slot, 0)]
    made = dataclasses.replace(alone, program=tuple(program))
    result = assert_engines_agree(Planned((made,), TICK), "stepwise", "lazy")
    assert sum(counted for counted, _ideal in result["vcpus"][0]["program"]) > 0


@pytest.mark.parametrize("interrupt", [0, 1 << 20])
def test_an_access_is_not_done_as_before_where_its_instruction_wraps_a_counter(interrupt):
    """The hypervisor counts the instruction that it emulates: a wrap sets a bit in STATUS, and may ask for a PMI."""
    (alone,) = planned("mediated", ("fio-4k-read", ()), end=50_000_000, tick=TICK, time_slice=TICK).vcpus
    top = 1 << alone.guest_cpu.gp_width
    program = []
    for start in (*[top - 1000] * 5, *range(top - 14, top)):
        program += [PlannedAccess(20, "global_ctrl", 0, 0), PlannedAccess(20, "global_ovf_ctrl", 0, 1)]
        program += [PlannedAccess(20, "selector", 0, 0x4200C0 | interrupt), PlannedAccess(0, "counter", 0, start)]
        program += [PlannedAccess(0, "global_ctrl", 0, 1), *[PlannedAccess(0, "lvtpc", 0, 0x400)] * 12]
        program += [PlannedAccess(0, "rdpmc", 0, 0)]
    quiet = tuple((0,) * 9 for _ in alone.rates)  # nothing but what is emulated
    made = dataclasses.replace(alone, program=tuple(program), rates=quiet)
    result = assert_engines_agree(Planned((made,), TICK), "stepwise", "lazy")
    assert [counted for counted, _ideal in result["vcpus"][0]["program"]][4:7] == [top - 987, top - 1, 0]


def test_a_result_before_the_first_step_has_all_of_a_guests_program():
    (alone,) = planned("mediated", ("fio-4k-read", ()), end=2_000_000, tick=TICK, time_slice=TICK).vcpus
    program = (PlannedAccess(10, "global_ctrl", 0, 0), *[PlannedAccess(10, "lvtpc", 0, 0x400)] * 8)
    made = dataclasses.replace(alone, program=program)
    results = [LogicalCpu((made,), engine, time_slice=TICK).result() for engine in ("lazy", "stepwise")]
    assert results[0] == results[1]
    assert results[0]["vcpus"][0]["switches"] == 9


@pytest.mark.parametrize("design", SAFE)
def test_one_vcpu_among_one_is_a_machine_of_its_own(design):
    """Without anybody to give way to and without idling, section 15 adds nothing."""
    given_ = planned(design, ("fio-4k-read", GUESTS[0][1]), end=3_000_000, tick=TICK, time_slice=1)
    (row,) = run(given_)["vcpus"]
    machine = Machine(given_.vcpus[0], "stepwise")
    while not machine.advance():
        pass
    alone = machine.result()
    assert alone.pop("stray_counts") == 0
    assert {name: row[name] for name in alone} == alone
    assert (row["others"], row["preemptions"], row["turns"]) == (0, 0, 1)


# -- threads ----------------------------------------------------------------------------------------------------------


def spinning(one: Plan, gap: int = 0, idle: int = 0, handling: int = 0) -> Plan:
    """A vCPU that exits (and idles) every ``gap`` cycles, or never."""
    kind = PlannedExit("HLT", 1, 0, False, handling, idle)
    rates = (-(-(1 << 48) // gap),) if gap else ()
    never = Stream(0, (), (), ())
    work = Stream(gap, (0xFFFFFFFF,), (0,), (0,), rates) if gap else never
    return dataclasses.replace(one, exits=(kind,), work=work, wall=never, costs=dict.fromkeys(one.costs, 0))


def threads(
    *each: tuple[int, int], design: str = "none", end: int = 1000, tick: int = 10, time_slice: int = 25
) -> Planned:
    made = planned(design, *[("fio-4k-read", ())] * len(each), end=end, tick=tick, time_slice=time_slice)
    return dataclasses.replace(
        made, vcpus=tuple(spinning(p, *times) for p, times in zip(made.vcpus, each, strict=True))
    )


def work(result: dict, vcpu: int) -> int:
    return sum(result["vcpus"][vcpu]["clocks"][:2])


def test_a_turn_ends_with_the_tick_at_which_the_slice_is_over():
    """A slice of 25 and a tick of 10: turns of 30 from any tick on."""
    result = assert_engines_agree(threads((), (), ()), *ALL)
    assert [work(result, i) for i in range(3)] == [340, 330, 330]
    assert [row["turns"] for row in result["vcpus"]] == [12, 11, 11]
    assert [row["preemptions"] for row in result["vcpus"]] == [11, 11, 11]
    assert [row["stolen"] for row in result["vcpus"]] == [660, 670, 670]
    assert result["current"] == 0


def test_who_halts_gives_the_cpu_away_at_once():
    """One vCPU works for 7 cycles and sleeps for 100; the other has all the rest, in whole slices."""
    result = assert_engines_agree(threads((7, 100), ()), *ALL)
    first, second = result["vcpus"]
    # Asleep from 7 to 107; the other's deadlines are 40, 70, 100, 130: so it goes every 130 cycles.
    assert (work(result, 0), work(result, 1)) == (8 * 7, 1000 - 8 * 7)
    assert (first["turns"], first["preemptions"], first["stolen"]) == (8, 0, 7 * 23)
    assert first["slept"] == 7 * 100 + 1000 - 917
    assert (second["turns"], second["preemptions"], second["stolen"]) == (8, 7, 8 * 7)


def test_the_cpu_is_idle_only_while_everybody_sleeps():
    result = assert_engines_agree(threads((50, 100), (20, 30)), *ALL)
    rows = result["vcpus"]
    assert rows[0]["clocks"][6] == rows[1]["clocks"][6] > 0
    assert work(result, 0) + work(result, 1) + rows[0]["clocks"][6] == rows[0]["w"]


def test_who_wakes_waits_for_the_end_of_the_slice_or_preempts():
    patient = threads((7, 100), ())
    eager = dataclasses.replace(patient, wakeups_preempt=True)
    waits = assert_engines_agree(patient, *ALL)["vcpus"][0]
    preempts = assert_engines_agree(eager, *ALL)["vcpus"][0]
    assert waits["stolen"] > 0
    assert preempts["stolen"] == 0
    assert preempts["turns"] > waits["turns"]


def test_an_exit_of_the_workload_serves_as_the_ticks():
    """Handling goes past the end of the turn: no exit is made for it, and the exit is still ended in its own turn."""
    given_ = threads((20, 0, 15), ())
    result = assert_engines_agree(given_, *ALL)
    first = result["vcpus"][0]
    assert first["preemptions"] == first["turns"] - (result["current"] == 0)
    assert first["spent"]["handling"] == 15 * first["exits"][0]
    costly = tuple(
        dataclasses.replace(p, costs=p.costs | {"interrupt_exit": 3, "vcpu_switch": 4}) for p in given_.vcpus
    )
    priced = assert_engines_agree(dataclasses.replace(given_, vcpus=costly), *ALL)
    for row in priced["vcpus"]:
        assert row["spent"]["interrupt_exit"] <= 3 * row["preemptions"]
        assert row["spent"]["vcpu_switch"] in (4 * row["turns"], 4 * (row["turns"] - 1))
    assert priced["vcpus"][0]["spent"]["interrupt_exit"] < 3 * priced["vcpus"][0]["preemptions"]


def test_whoever_never_had_the_cpu_counted_nothing():
    given_ = planned("mediated", *GUESTS, end=50_000, tick=TICK, time_slice=TICK)
    result = assert_engines_agree(given_, *ALL)
    assert [row["turns"] for row in result["vcpus"]] == [1, 0, 0]
    assert [event["ideal"] for event in result["vcpus"][1]["counters"]] == [0, 0]
    assert result["vcpus"][1]["stolen"] == result["vcpus"][1]["others"] == result["vcpus"][0]["w"]


def test_a_storm_does_not_keep_the_others_from_the_cpu():
    """A guest whose PMIs leave it no time is preempted like any other."""
    storm = ("fio-4k-read", ["record:cycles:period=2"])
    given_ = planned("mediated", storm, GUESTS[1], end=3_000_000, tick=TICK, time_slice=TICK)
    result = assert_engines_agree(given_, *ALL)
    check(result)
    assert work(result, 1) > 1_000_000
    assert result["vcpus"][1]["counters"][0]["value"] == result["vcpus"][1]["counters"][0]["ideal"]


# -- isolation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", SAFE)
def test_a_guests_counts_are_its_own(design):
    """What a guest reads is what it did, whatever the others count, and nothing comes from them."""
    for others in ((), ["stat:instructions,branches"], ["record:cycles:period=5003"]):
        guests = (GUESTS[0], ("hackbench", others), ("pause-storm", others))
        result = run(planned(design, *guests, end=3_000_000, tick=TICK, time_slice=TICK))
        check(result)
        for row in result["vcpus"]:
            for event in row["counters"]:
                assert event["gains"] == {}
                assert event["value"] <= event["ideal"]
                if not design.startswith(("emulated", "direct-capture")):
                    assert event["value"] == event["ideal"]


@pytest.mark.parametrize("design", [design for design in SAFE if design != "none"])
def test_a_guest_is_the_same_whoever_its_neighbours_are(design):
    """Where what the others do takes no time, a guest's time line is not altered; then nothing of its row is."""
    rows = []
    for perf in ((), ["stat:instructions,cycles"], ["record:instructions,branches:period=30011"]):
        guests = (GUESTS[0], ("hackbench", perf), ("fio-4k-read", perf))
        given_ = planned(design, *guests, end=3_000_000, tick=TICK, time_slice=TICK)
        free = tuple(dataclasses.replace(p, costs=dict.fromkeys(p.costs, 0)) for p in given_.vcpus)
        result = run(dataclasses.replace(given_, vcpus=free))
        check(result)
        assert all(row["turns"] > 3 for row in result["vcpus"])
        rows.append(result["vcpus"][0])
    assert rows[0]["counters"][0]["samples"] > 5
    assert rows[0] == rows[1] == rows[2]


def test_a_pmi_does_not_outlive_the_turn_of_its_thread():
    """Skids longer than any switch: at sched-out the PMI arrives, so that none reaches the next guest's handler."""
    for design in ("mediated", "mediated,scope=vcpu-sched", "virtualized", "emulated"):
        guests = (("fio-4k-read", ["record:instructions:period=3001"]), ("hackbench", ()))
        given_ = planned(design, *guests, end=2_000_000, tick=20_000, time_slice=20_000)
        slow_pmi = dataclasses.replace(given_.vcpus[0].cpu, skid=vpmu.Skid(30_000, 30_000))
        late = tuple(dataclasses.replace(p, cpu=slow_pmi) for p in given_.vcpus)
        result = assert_engines_agree(dataclasses.replace(given_, vcpus=late), *ALL)
        check(result)
        first, second = result["vcpus"]
        assert first["turns"] > 10
        assert first["pmi"]["raised"] > 0
        assert second["handlers"] == 0
        assert set(second["pmi"].values()) == {0}


@pytest.mark.parametrize("left", ["selectors", "fixed"])
def test_a_put_that_leaves_counters_enabled_is_caught(left):
    """The next guest's activity moves the counters that the last one left: its row says so, and the check does."""
    good = vpmu.sequence("linux-7.0")
    keep = [step for step in good.put if not _zeroes(step, left)]
    assert len(keep) < len(good.put)
    bad = vpmu.Sequence("bad", "", "", good.load, tuple(keep))
    guests = (("sysbench-cpu", ["stat:cycles,branches"]), ("hackbench", ()))
    given_ = planned("mediated", *guests, end=2_000_000, tick=TICK, time_slice=TICK, sequence=bad)
    result = run(given_)
    assert result["vcpus"][0]["leftovers"] > 0
    with pytest.raises(AssertionError):
        check(result)


def test_a_load_that_leaves_counters_as_they_are_shows_one_guest_the_others_counts():
    """No counter is written at load: the next guest reads what the last one counted, and the ledger does not close."""
    good = vpmu.sequence("linux-7.0")
    load = [step for step in good.load if "wrmsr" not in str(dict(step)) or "counter" not in str(dict(step))]
    assert len(load) < len(good.load)
    leaky = vpmu.Sequence("leaky", "", "", tuple(load), good.put)
    guests = (("sysbench-cpu", ["stat:branches"]), ("hackbench", ["stat:branches"]))
    result = run(planned("mediated", *guests, end=2_000_000, tick=TICK, time_slice=TICK, sequence=leaky))
    assert any(event["value"] != event["ideal"] for row in result["vcpus"] for event in row["counters"])
    with pytest.raises(AssertionError):
        check(result)


def _zeroes(step, left):
    if left == "fixed":
        return "fixed_ctr_ctrl" in str(dict(step)) and "zero" in str(dict(step))
    return "selector" in str(dict(step)) and "zero" in str(dict(step))


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["bare-metal", "dedicated"])
def test_designs_that_leave_the_pmu_to_one_guest(design):
    made = planned(design, *GUESTS[:1], end=1000, tick=10, time_slice=10)
    with pytest.raises(ValueError, match="leaves the PMU to one guest"):
        LogicalCpu(made.vcpus * 2, time_slice=10)


def test_vcpus_of_one_cpu_have_one_host():
    one, two = planned("mediated", *GUESTS[:2], end=1000, tick=10, time_slice=10).vcpus
    for name, value in (("end", 7), ("tick", 11), ("design", "emulated")):
        with pytest.raises(ValueError, match=f"have one {name}"):
            LogicalCpu((one, dataclasses.replace(two, **{name: value})), time_slice=10)
    with pytest.raises(ValueError, match="1 to 64"):
        LogicalCpu((), time_slice=10)
    with pytest.raises(ValueError, match="at least one cycle"):
        LogicalCpu((one, two), time_slice=0)
    with pytest.raises(ValueError, match="'lazy' or 'stepwise'"):
        LogicalCpu((one, two), "eager", time_slice=1)
    noisy = dataclasses.replace(one, exits=tuple(dataclasses.replace(e, idle=5) for e in one.exits))
    with pytest.raises(ValueError, match="does not idle"):
        LogicalCpu((noisy, two), time_slice=1)
