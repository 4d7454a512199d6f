"""The event filter in designs that have one: what counts, what the switch loads, changes during a run, the ledger."""

from __future__ import annotations

import dataclasses

import machine_runs
import numpy as np
import pytest
from machine_plans import directed
from machine_runs import fast, finish
from test_machine import check_identities

import vpmu
from vpmu._plan import PlannedGuestEvent, Stream
from vpmu._scenario import plan

FILTERED = ["emulated", "emulated,reuse=false", "mediated", "mediated,scope=every-exit"]
CODES = {"instructions": (0, 0xC0), "branches": (6, 0xC4), "cache-references": (4, 0x4F2E), "cache-misses": (5, 0x412E)}
OTHERS = (0x003C, 0x412E, 0x4F2E, 0x00C5)
Filter = vpmu.EventFilter


def agreed(planned) -> dict:
    """What all three machines return."""
    result = machine_runs.agreed(planned)
    check_identities(result)
    return result


def on_gp_counters(design: str, event_filter, events=("branches", "instructions"), seconds="0.0003", **options):
    """A plan whose guest counts these events on general-purpose counters 0, 1, …"""
    made = dataclasses.replace(vpmu.design(design), event_filter=event_filter)
    base = plan(
        vpmu.Scenario(
            design=made,
            workload="fio-4k-read",
            guest_perf=("stat:branches",),
            seconds=seconds,
            cpu="emeraldrapids",
            **options,
        )
    )
    counted = [CODES[name] for name in events]
    return dataclasses.replace(
        base,
        guest_events=tuple(
            PlannedGuestEvent(event, code | 3 << 16 | 1 << 20, i, True, True, 0)
            for i, (event, code) in enumerate(counted)
        ),
    )


def counts(result: dict) -> list[bool]:
    """Which events are read as they should be; the others must read 0, all of it denied."""
    for row in result["counters"]:
        assert row["ideal"] > 0
        if row["value"] != row["ideal"]:
            assert (row["value"], row["losses"]) == (0, {"filtered": row["ideal"]})
    return [row["value"] == row["ideal"] for row in result["counters"]]


def exact(planned):
    """Without exits that emulate instructions, so that every design counts exactly what it is allowed to."""
    exits = tuple(dataclasses.replace(e, emulates=False) for e in planned.exits)
    return dataclasses.replace(planned, exits=exits, user_share=1 << 32)


def set_up(planned) -> int:
    """Wall cycles until guest perf is ready: without exits, all that is not workload."""
    alone = fast(dataclasses.replace(planned, work=Stream(0, (), (), ()), end=2_000_000))
    return alone["w"] - sum(alone["clocks"][:2])


# -- Linux's pmu_event_filter_test -----------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["emulated", "mediated"])
@pytest.mark.parametrize(
    ("event_filter", "counting"),
    [
        (None, True),
        (Filter("deny", [0xC0, 0xC4, *OTHERS]), False),
        (Filter("allow", [0xC0, 0xC4, *OTHERS]), True),
        (Filter("deny", OTHERS), True),
        (Filter("allow", OTHERS), False),
    ],
    ids=["none", "deny list", "allow list", "deny others", "allow others"],
)
def test_lists_of_the_selftest(design, event_filter, counting):
    planned = exact(on_gp_counters(design, event_filter))
    # The trapped write that enables a counter retires after it: one instruction that KVM counts for whom it may.
    result = agreed(planned)
    assert [row["value"] > 0 for row in result["counters"]] == [counting] * 2
    assert result["counters"][0]["value"] == (result["counters"][0]["ideal"] if counting else 0)
    assert ("filtered" in result["counters"][1]["losses"]) == (not counting)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("design", ["emulated", "mediated"])
def test_masked_events_of_the_selftest(design, padded):
    """As its table, on an event select with two unit masks: 2E/4F and 2E/41."""
    cases = [
        ([(0x4F, 0xFF, False)], [True, False]),
        ([(0x41, 0xFF, False)], [False, True]),
        ([(0x41, 0x41, False)], [True, True]),
        ([(0x41, 0x41, False), (0x4F, 0xFF, True)], [False, True]),
        ([(0x40, 0x40, False), (0x0E, 0x0E, True)], [False, True]),
        ([(0x42, 0x41, False)], [False, False]),  # a match outside the mask
        ([(0, 0, False)], [True, True]),
    ]
    pad = [vpmu.MaskedEvent(0x20 + i % 32, i % 256, exclude=i % 3 == 0) for i in range(296)] if padded else []
    pad = [entry for entry in pad if entry.event != 0x2E]
    for entries, counting in cases:
        made = [vpmu.MaskedEvent(0x2E, match, mask, exclude) for match, mask, exclude in entries]
        filter_ = Filter("allow", [*pad, *made], masked=True)
        planned = on_gp_counters(design, filter_, ("cache-references", "cache-misses"))
        assert counts(agreed(planned)) == counting


def test_a_guest_without_a_pmu_has_no_filter():
    with pytest.raises(vpmu.UnknownName, match="option of design none"):
        vpmu.design("none,event_filter=deny")


@pytest.mark.parametrize("design", ["emulated", "mediated"])
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_fixed_counters_of_the_selftest(design, action):
    """Each bitmap; a list that says the opposite does not matter."""
    for bitmap in range(8):
        for events in ((), (0xC0, 0x3C, 0x300)):
            made = dataclasses.replace(vpmu.design(design), event_filter=Filter(action, events, bitmap))
            scenario = vpmu.Scenario(
                design=made,
                guest_perf=("stat:instructions:u,cycles,ref-cycles",),
                seconds="0.0002",
                workload="fio-4k-read",
            )
            planned = plan(scenario)
            assert [event.counter for event in planned.guest_events] == [32, 33, 34]
            wanted = [bool(bitmap >> i & 1) == (action == "allow") for i in range(3)]
            assert counts(agreed(planned)) == wanted


# -- paragraphs of KVM's filter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", FILTERED)
def test_kvm_6_10_a_new_filter_has_every_counter_reprogrammed(design):
    before = agreed(on_gp_counters(design, Filter("deny"), seconds="0.001"))
    after = agreed(on_gp_counters(design, [(0, Filter("deny")), ("0.0005", Filter("deny"))], seconds="0.001"))
    guest = vpmu.Scenario(cpu="emeraldrapids", design=design).guest_cpu
    every = guest.gp_counters + guest.fixed_counters
    if design.startswith("mediated"):
        assert after["reprograms"] - before["reprograms"] == every
    else:
        assert after["reprograms"] - before["reprograms"] >= every - 2  # emulated instructions reprogram too
    kicks = after["pmu_exits"]["EXTERNAL_INTERRUPT"] - before["pmu_exits"]["EXTERNAL_INTERRUPT"]
    assert kicks == 1
    assert not any("filtered" in row["losses"] for row in after["counters"])


@pytest.mark.parametrize("design", FILTERED)
def test_kvm_6_10_changes_in_every_part_of_an_exit(design):
    """In guest mode it kicks the vCPU; in host mode the request is found before the next entry."""
    seen = set()
    planned = directed(design, gap=4001, wall=0, emulates=False, skid=2, costs={}, events=[(1, 0), (0, 0)])
    ready = set_up(planned)
    denied, allowed = Filter("deny", [0x3C]).planned(), Filter("deny", []).planned()
    for at in range(ready + 20_000, ready + 28_000, 250):
        changes = ((at, denied), (at + 300_000, allowed))
        result = agreed(dataclasses.replace(planned, end=at + 400_000, filter_changes=changes))
        seen.add(result["pmu_exits"]["EXTERNAL_INTERRUPT"])
        cycles, instructions = result["counters"]
        assert 100_000 < cycles["losses"].pop("filtered") < 300_000
        assert set(cycles["losses"]) | set(instructions["losses"]) <= {"not_scheduled", "emulated_instruction"}
    assert seen in ({0, 1}, {1, 2}, {0, 1, 2})  # kicks for two changes


def test_fastpath_exits_leave_a_change_to_a_kick():
    """Even those that end because an emulated instruction wants its counter reprogrammed."""
    planned = directed("emulated", gap=4001, wall=0, emulates=True, skid=2, costs={}, events=[(0, 0)])
    planned = dataclasses.replace(
        planned, exits=(dataclasses.replace(planned.exits[0], kind=0, handling=3000), planned.exits[1])
    )
    ready = set_up(planned)
    for at in range(ready + 20_000, ready + 40_000, 250):
        changes = ((at, Filter("deny", [0x3C]).planned()),)
        result = agreed(dataclasses.replace(planned, end=at + 60_000, filter_changes=changes))
        assert result["pmu_exits"]["EXTERNAL_INTERRUPT"] == 1


@pytest.mark.parametrize("design", FILTERED)
def test_the_read_out_makes_no_changes(design):
    planned = directed(design, gap=4001, wall=0, emulates=True, skid=2, costs={}, events=[(0, 0), (1, 0)])
    planned = dataclasses.replace(planned, end=900_000)
    result = agreed(planned)
    for at in range(result["w"], result["w"] + 30_000, 1500):
        assert result == agreed(dataclasses.replace(planned, filter_changes=((at + 1, Filter("allow").planned()),)))


@pytest.mark.parametrize("design", FILTERED)
def test_changes_in_every_cycle(design):
    for at in range(0, 60):
        planned = directed(design, gap=7, wall=16, emulates=True, skid=2, costs=None, events=[(1, 51), (0, 103)])
        planned = dataclasses.replace(
            planned,
            end=300,
            event_filter=Filter("deny", [0xC0]).planned() if at % 2 else None,
            filter_changes=(
                (at, Filter("allow", [0xC0]).planned()),
                (at + 90, Filter("deny", [0x3C]).planned()),
                (at + 90, Filter("deny", []).planned()),
            ),
        )
        agreed(planned)


@pytest.mark.parametrize("design", FILTERED)
@pytest.mark.parametrize("engine", ["stepwise", "lazy"])
def test_kvm_6_10_a_counter_goes_on_where_it_stopped(design, engine):
    """Denied for the middle half of the run: half is missing, under its cause, and the rest is where it should be."""
    changes = [("0.005", Filter("deny", ["branches"])), ("0.015", Filter("deny"))]
    scenario = vpmu.Scenario(
        design=dataclasses.replace(vpmu.design(design), event_filter=changes),
        workload="fio-4k-read",
        guest_perf=("stat:branches,cycles",),
        seconds="0.02",
    )
    branches, cycles = vpmu.simulate(scenario, engine).counters
    assert set(branches.losses) == {"filtered"}
    assert branches.value == branches.ideal - branches.losses["filtered"]
    assert 0.48 < branches.value / branches.ideal < 0.52
    assert branches.flags == ("lost", "filtered")
    assert branches.reason == "the VM's event filter denies its event, which the guest is never told"
    assert cycles.flags == ("exact",)


def test_kvm_6_11_an_emulated_instruction_is_not_added_to_a_denied_counter():
    for design in FILTERED:
        planned = directed(design, gap=500, wall=0, emulates=True, skid=2, costs=None, events=[(0, 0), (1, 0)])
        planned = dataclasses.replace(planned, end=20_000, event_filter=Filter("deny", [0xC0]).planned())
        result = agreed(planned)
        instructions, cycles = result["counters"]
        assert instructions["value"] == 0
        assert instructions["losses"] == {"filtered": instructions["ideal"]}
        assert cycles["value"] == cycles["ideal"]
        assert instructions["ideal"] - cycles["ideal"] > 30  # one for each exit


def test_kvm_6_11_rdpmc_counter_writes_and_global_registers_do_not_know_the_filter():
    """The same accesses trap and are executed; what a counter had counted can be read after it was denied."""
    for design in ("emulated", "mediated"):
        free = agreed(on_gp_counters(design, None))
        denied = agreed(on_gp_counters(design, Filter("allow")))
        assert free["guest_accesses"] == denied["guest_accesses"]
        late = agreed(on_gp_counters(design, [("0.0002", Filter("allow"))], ("branches", "cache-misses")))
        for row in late["counters"]:
            assert 0 < row["value"] == row["ideal"] - row["losses"]["filtered"]


def test_kvm_6_11_fastpaths_are_refused_for_denied_counters_too():
    """The bitmap of counters that count instructions does not know the filter."""
    planned = directed("mediated", gap=500, wall=0, emulates=True, skid=2, costs={}, events=[(0, 0)])
    exits = (dataclasses.replace(planned.exits[0], kind=0), planned.exits[1])
    planned = dataclasses.replace(planned, exits=exits, end=200_000, event_filter=Filter("allow").planned())
    result = agreed(planned)
    assert 0 < result["refused"] == result["exits"][0]
    assert result["counters"][0]["value"] == 0


# -- what each design does with a denied counter ---------------------------------------------------------------------


def test_kvm_3_3_a_denied_counter_gets_no_perf_event():
    """Step 2 of reprogram_counter(): it is paused; reprogramming costs what it costs, and nothing is created."""
    free = agreed(on_gp_counters("emulated", None))
    denied = agreed(on_gp_counters("emulated", Filter("allow")))
    half = agreed(on_gp_counters("emulated", Filter("allow", [0xC4])))
    assert (free["creates"] > 1, half["creates"], denied["creates"]) == (True, 1, 0)
    assert denied["reprograms"] > 0
    assert denied["ops"]["run"]["host"] == dict.fromkeys(denied["ops"]["run"]["host"], 0)


@pytest.mark.parametrize(("reuse", "creates"), [(True, 1), (False, 3)])
def test_kvm_3_3_a_denied_counter_keeps_its_perf_event(reuse, creates):
    """Denied and allowed again twice: with reuse the paused event goes on."""
    changes = [(f"0.000{i}", Filter("deny", ["branches"] * (i % 2))) for i in (1, 2, 3, 4)]
    planned = exact(on_gp_counters(f"emulated,reuse={reuse}".lower(), changes, ("branches",), seconds="0.0005"))
    result = agreed(planned)
    assert result["creates"] == creates
    assert set(result["counters"][0]["losses"]) == {"filtered"}


def test_kvm_3_5_a_denied_counter_leaves_its_place_to_others():
    """Two pinned host events hold what there is; a filter decides who of the guest's counters finds no counter."""
    hosts = tuple(f"r4f2e:pinned:exclude_guest{level}" for level in (":u", ":k") * 3)
    assert len(hosts) == 6
    events = ("cache-references", "cache-misses", "branches")
    free = agreed(on_gp_counters("emulated", None, events, host_perf=hosts))
    denied = agreed(on_gp_counters("emulated", Filter("deny", [0x4F2E]), events, host_perf=hosts))
    assert [set(row["losses"]) for row in free["counters"]] == [set(), set(), {"not_scheduled"}]
    assert [set(row["losses"]) for row in denied["counters"]] == [{"filtered"}, set(), set()]


def test_kvm_4_7_the_switch_loads_denied_controls_with_their_enable_bits_clear():
    """Other bits of a selector stay, so put still clears it; a fixed counter's field becomes 0, nothing to clear."""
    made = {
        name: directed("mediated", gap=500, wall=0, emulates=False, skid=2, costs=None, events=events)
        for name, events in (("gp", [(1, 0)]), ("fixed", []))
    }
    fixed = PlannedGuestEvent(1, 0x3C | 3 << 16 | 1 << 20, 33, True, True, 0)
    made["fixed"] = dataclasses.replace(made["fixed"], guest_events=(fixed,))
    for name, planned in made.items():
        planned = dataclasses.replace(planned, end=50_000)
        free = agreed(planned)
        denied = agreed(dataclasses.replace(planned, event_filter=Filter("allow").planned()))
        assert free["switches"] == denied["switches"] > 90
        writes = [result["ops"]["run"]["hypervisor"]["wrmsr_selector"] for result in (free, denied)]
        assert writes[0] - writes[1] == (sum(free["exits"]) if name == "fixed" else 0)
        # It keeps the value that perf has armed it with, which is saved, cleared and restored like any other.
        counters = [result["ops"]["run"]["hypervisor"]["wrmsr_counter"] for result in (free, denied)]
        assert counters[0] == counters[1] > 2 * 90
        assert denied["counters"][0]["losses"] == {"filtered": denied["counters"][0]["ideal"]}


def test_kvm_4_7_no_perf_event_and_no_constraint():
    denied = agreed(on_gp_counters("mediated", Filter("allow", [0xC4])))
    assert denied["creates"] == 0
    assert denied["reprograms"] > 0


# -- results, plans, many runs ---------------------------------------------------------------------------------------


def test_flags_tell_the_filter_from_host_perf():
    scenario = vpmu.Scenario(
        design=vpmu.Emulated(event_filter=Filter("deny", [], 0b10)),
        workload="fio-4k-read",
        guest_perf=("stat:instructions,cycles",),
        seconds="0.01",
    )
    _, cycles = vpmu.simulate(scenario).counters
    assert cycles.flags == ("lost", "filtered")
    assert cycles.reason == "the VM's event filter denies its fixed counter, which the guest is never told"
    assert (cycles.value, cycles.losses) == (0, {"filtered": cycles.ideal})


def test_many_runs_have_the_filter_too():
    changes = [(0, Filter("deny", ["branches"])), ("0.004", Filter("deny"))]
    scenario = vpmu.Scenario(
        design=vpmu.Mediated(event_filter=changes),
        workload="fio-4k-read",
        guest_perf=("stat:branches",),
        seconds="0.01",
    )
    given = np.array([(1,), (2,), (3,)], dtype=[("seed", np.uint64)])
    rows = vpmu.simulate_many(scenario, given, threads=2).rows
    for row, seed in zip(rows, (1, 2, 3), strict=True):
        alone = vpmu.simulate(dataclasses.replace(scenario, seed=seed)).counters[0]
        assert 0 < alone.value < alone.ideal
        assert row["value"][0] == alone.value
        assert row["losses"][0] == alone.losses["filtered"]


def test_a_longer_run_goes_on_from_a_shorter_one():
    from vpmu_core.machine import Machine

    planned = on_gp_counters("mediated", [("0.0001", Filter("allow", [0xC4])), ("0.0002", Filter("deny"))])
    for engine in ("lazy", "stepwise"):
        machine = Machine(dataclasses.replace(planned, end=planned.end // 2), engine)
        finish(machine)
        machine.extend(planned.end)
        assert finish(machine) == fast(planned)


def test_the_ledger_knows_the_causes_of_the_machine():
    from vpmu._result import CAUSES
    from vpmu_core.machine import CAUSE_NAMES

    assert CAUSE_NAMES[1:] == tuple(CAUSES)
