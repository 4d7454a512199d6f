"""Plans: that a scenario becomes the right integers, and closed forms of what a machine makes of them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import vpmu
from vpmu import testing
from vpmu._plan import Plan
from vpmu._scenario import plan

ONE = 1 << 32
ENGINES = ("lazy", "stepwise")
#: As the order of indices is written down in docs/machine.md, section 1.
EVENTS = (
    "instructions",
    "cycles",
    "ref-cycles",
    "bus-cycles",
    "cache-references",
    "cache-misses",
    "branches",
    "branch-misses",
    "slots",
)
USER, KERNEL, HANDLER, HYPERVISOR, BLIND, HOST_TASK, IDLE = range(7)


def source(**changes: Any) -> vpmu.ExitSource:
    """A kernel exit that emulates nothing."""
    fields: dict[str, Any] = {
        "reason": "EPT_VIOLATION",
        "count": 1,
        "seconds": 1,
        "vcpus": 1,
        "handling_ns": None,
        "kind": "kernel",
        "clock": "work",
        "cpl": 3,
        "emulates": False,
        "blocks": False,
    }
    return vpmu.ExitSource(**fields | changes)


def rates(first: int) -> vpmu.EventRates:
    """Five rates that differ from each other and from those of any other `first`."""
    return vpmu.EventRates(
        instructions=first * 10,
        branches=first * 10 + 1,
        branch_misses=first * 10 + 2,
        cache_references=first * 10 + 3,
        cache_misses=first * 10 + 4,
    )


def made(*exits: vpmu.ExitSource, **changes: Any) -> vpmu.Workload:
    """A workload with other rates for every activity, and exits at regular intervals."""
    fields: dict[str, Any] = {
        "name": "made",
        "summary": "made for a test",
        "exits": exits,
        "user_share": 3_000_000_019,
        "user": rates(1001),
        "kernel": rates(2003),
        "handler": rates(3001),
        "hypervisor": rates(4001),
        "host_task": rates(5003),
        "arrivals": "regular",
    }
    return vpmu.Workload(**fields | changes)


def counted(rate: int, cycles: int) -> int:
    return rate * cycles // ONE


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, (1 << 64) - 1])
def test_seeds_are_those_of_numpys_seed_sequence(seed: int) -> None:
    seeds = plan(vpmu.Scenario(seed=seed)).seeds
    assert list(seeds) == ["work", "wall", "skid"]
    for purpose, name in ((0, "work"), (1, "wall"), (2, "skid")):
        state = np.random.SeedSequence(seed, spawn_key=(0, 0, purpose)).generate_state(3, np.uint64)
        assert seeds[name] == tuple(int(word) for word in state)


def test_streams_differ_from_each_other_and_between_seeds() -> None:
    streams = [words for seed in range(20) for words in plan(vpmu.Scenario(seed=seed)).seeds.values()]
    assert len(set(streams)) == 60
    assert len({word for words in streams for word in words}) == 180


def test_seeds_depend_on_nothing_but_the_seed() -> None:
    """Semantics, rule 51: no design shifts another's draws."""
    expected = plan(vpmu.Scenario(seed=7)).seeds
    for design in vpmu.designs():
        other = vpmu.Scenario(seed=7, cpu="skylake", design=design, workload="idle", guest_perf=(), seconds=2)
        assert plan(other).seeds == expected


# -- event rates ------------------------------------------------------------------------------------------------------

#: Rates per core cycle of cycles, ref-cycles (TSC), bus-cycles (25 MHz crystal, or TSC from Golden Cove on) and slots.
CLOCKED = {
    "skylake": (ONE, ONE, (ONE * 25, 2100), 4 * ONE),
    "icelake": (ONE, (ONE * 23, 30), (ONE * 25, 3000), 5 * ONE),
    "sapphirerapids": (ONE, (ONE * 2, 3), (ONE * 2, 3), 6 * ONE),
    "emeraldrapids": (ONE, (ONE * 19, 29), (ONE * 19, 29), 6 * ONE),
    **dict.fromkeys(("genoa", "milan", "rome"), (ONE, ONE, ONE, 6 * ONE)),
}


@pytest.mark.parametrize("cpu", CLOCKED)
@pytest.mark.parametrize("design", vpmu.designs())
def test_each_activity_counts_at_its_own_rates(cpu: str, design: str) -> None:
    if vpmu.cpu(cpu).vendor == "amd" and vpmu.design(design).refusal(vpmu.cpu(cpu), (), False):
        return
    table = plan(vpmu.Scenario(cpu=cpu, design=design, workload=made(), guest_perf=(), what_if=True)).rates
    clocked = [
        value if isinstance(value, int) else round(Fraction(*value))  # no ratio lies halfway
        for value in CLOCKED[cpu]
    ]
    firsts = (1001, 2003, 3001, 4001, 4001, 5003)  # guest user, kernel, handler; hypervisor, blind; host task
    expected = [
        dict(
            zip(
                EVENTS,
                (first * 10, *clocked[:3], first * 10 + 3, first * 10 + 4, first * 10 + 1, first * 10 + 2, clocked[3]),
                strict=True,
            )
        )
        for first in firsts
    ]
    assert [dict(zip(EVENTS, row, strict=True)) for row in table[:6]] == expected
    assert table[6:] == ((0,) * 9,)


def test_clocks_of_every_cpu_with_costs_are_looked_at() -> None:
    assert set(CLOCKED) == {name for name in vpmu.cpus() if vpmu.cpu(name).costs}


def test_share_of_user_code_is_that_of_the_workload() -> None:
    assert plan(vpmu.Scenario(workload=made())).user_share == 3_000_000_019


# -- guest events -----------------------------------------------------------------------------------------------------

CODES = {
    "instructions": 0x00C0,  # C0/00
    "cycles": 0x003C,  # 3C/00
    "ref-cycles": 0x0300,  # 00/03, the pseudo encoding of fixed counter 2
    "bus-cycles": 0x013C,  # 3C/01
    "cache-references": 0x4F2E,  # 2E/4F
    "cache-misses": 0x412E,  # 2E/41
    "branches": 0x00C4,  # C4/00
    "branch-misses": 0x00C5,  # C5/00
    "slots": 0x01A4,  # A4/01
}
USR, OS, INT, EN = 1 << 16, 1 << 17, 1 << 20, 1 << 22
FIXED = {"instructions": 32, "cycles": 33, "ref-cycles": 34, "slots": 35}


def plan_of(event: str, design: str = "mediated", **changes: Any) -> Plan:
    """On Ice Lake with all its counters in the guest, so that every event has one."""
    fields: dict[str, Any] = {
        "cpu": "icelake",
        "design": design,
        "workload": made(),
        "guest_perf": [f"stat:{event}"],
        "guest_pmu": vpmu.GuestPmu(version=5, gp=8, fixed=4),
    }
    return plan(vpmu.Scenario(**fields | changes))


@pytest.mark.parametrize("design", ["bare-metal", "emulated", "mediated", "dedicated"])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    ("modifier", "user", "kernel"),
    [("", True, True), (":u", True, False), (":k", False, True), (":uk", True, True), (":ku", True, True)],
)
def test_guest_selectors(event: str, design: str, modifier: str, user: bool, kernel: bool) -> None:
    (planned,) = plan_of(event + modifier, design).guest_events
    assert planned.event == EVENTS.index(event)
    assert planned.selector == CODES[event] | USR * user | OS * kernel | INT
    assert not planned.selector & EN
    assert (planned.user, planned.kernel, planned.period) == (user, kernel, 0)
    assert planned.counter == FIXED.get(event, 0)


def test_the_period_is_of_the_event_that_was_given_it() -> None:
    planned = plan_of("", guest_perf=["stat:cycles", "record:branches,cycles:u:period=12345", "stat:instructions:k"])
    assert [(e.event, e.period, e.user, e.kernel) for e in planned.guest_events] == [
        (1, 0, True, True),
        (6, 12345, True, True),
        (1, 12345, True, False),
        (0, 0, False, True),
    ]


def test_guest_counters_go_to_the_most_constrained_first_and_fixed_before_general() -> None:
    """Linux x86_schedule_events(): by weight ascending; 1 for ref-cycles, 4 for branches, 5 for the other two."""
    events = "branches,instructions,branches:u,cycles,ref-cycles,instructions:u,cycles:k"
    planned = plan(vpmu.Scenario(cpu="skylake", workload=made(), guest_perf=[f"stat:{events}"]))
    assert [event.counter for event in planned.guest_events] == [0, 32, 1, 33, 34, 2, 3]


def test_design_none_has_no_guest_events() -> None:
    assert plan_of("cycles", "none").guest_events == ()


# -- host events ------------------------------------------------------------------------------------------------------

#: General-purpose and fixed counters of each CPU.
COUNTERS = {"skylake": (0xF, 0x7), "icelake": (0xFF, 0xF), "sapphirerapids": (0xFF, 0xF), "emeraldrapids": (0xFF, 0xF)}


@pytest.mark.parametrize("cpu", COUNTERS)
@pytest.mark.parametrize("design", ["none", "emulated"])
@pytest.mark.parametrize(
    ("event", "general", "fixed"),
    [
        ("instructions", True, 0x1),
        ("cycles", True, 0x2),
        ("ref-cycles", False, 0x4),
        ("slots", False, 0x8),
        ("cache-references", True, 0),
        ("cache-misses", True, 0),
        ("branches", True, 0),
        ("branch-misses", True, 0),
    ],
)
def test_counters_that_host_events_may_use(cpu: str, design: str, event: str, general: bool, fixed: int) -> None:
    planned = plan(vpmu.Scenario(cpu=cpu, design=design, workload=made(), host_perf=[f"{event}:pinned"]))
    gp_mask, fixed_mask = COUNTERS[cpu]
    expected = (gp_mask if general else 0, fixed & fixed_mask)
    (host,) = planned.host_events
    assert (host.gp_mask, host.fixed_mask) == expected
    assert (host.event, host.selector) == (EVENTS.index(event), CODES[event])
    index = EVENTS.index(event)
    assert (planned.gp_constraint[index], planned.fixed_constraint[index]) == expected


@pytest.mark.parametrize("cpu", COUNTERS)
def test_constraints_of_the_plan_have_a_row_for_no_event(cpu: str) -> None:
    planned = plan(vpmu.Scenario(cpu=cpu, workload=made(), guest_perf=(), what_if=True))
    assert len(planned.gp_constraint) == len(planned.fixed_constraint) == 10
    assert (planned.gp_constraint[9], planned.fixed_constraint[9]) == (COUNTERS[cpu][0], 0)


def test_first_row_of_the_constraint_table_that_matches_wins() -> None:
    table = (
        vpmu.Constraint(0xC4, 0xC4, 0x01, 0x01, 0),  # another unit mask
        vpmu.Constraint(0xC0, 0xC4, None, 0x06, 0),
        vpmu.Constraint(0xC4, 0xC4, 0x00, 0x08, 0),  # too late
        vpmu.Constraint(0x2E, 0x2E, 0x41, 0xF00, 0xF4),  # cut to what the CPU has
    )
    cpu = dataclasses.replace(vpmu.cpu("icelake"), constraints=table)
    events = ("branches", "branch-misses", "cache-misses", "cache-references", "instructions", "cycles")
    planned = plan(
        vpmu.Scenario(cpu=cpu, design="none", workload=made(), host_perf=[f"{event}:pinned" for event in events])
    )
    assert [(host.gp_mask, host.fixed_mask) for host in planned.host_events] == [
        (0x06, 0),
        (0xFF, 0),
        (0, 0x4),
        (0xFF, 0),
        (0xFF, 0x1),  # events of a fixed counter go to any other one (Linux FIXED_EVENT_CONSTRAINT)
        (0xFF, 0x2),
    ]


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        (":pinned", (True, True, False, False)),
        (":u:pinned:exclude_guest", (True, False, True, False)),
        (":k:pinned:exclude_host", (False, True, False, True)),
    ],
)
def test_attributes_of_host_events(options: str, attributes: tuple[bool, ...]) -> None:
    (host,) = plan(vpmu.Scenario(design="none", workload=made(), host_perf=[f"branches{options}"])).host_events
    assert (host.user, host.kernel, host.exclude_guest, host.exclude_host) == attributes
    assert host.selector == 0xC4


def test_host_events_that_cannot_be_created_have_no_counter() -> None:
    def masks(**arguments: Any) -> list[tuple[int, int]]:
        events = ["cycles:pinned", "cycles:pinned:exclude_guest"]
        planned = plan(vpmu.Scenario(workload=made(), host_perf=events, **arguments))
        return [(host.gp_mask, host.fixed_mask) for host in planned.host_events]

    free = (0xFF, 0x2)
    assert masks(design="mediated", vm_first=True) == [(0, 0), free]  # EOPNOTSUPP
    assert masks(design="mediated", vm_first=True, what_if=True) == [free, free]
    assert masks(design="emulated", vm_first=True) == [free, free]
    assert masks(design="dedicated") == [(0, 0), (0, 0)]
    assert masks(design="bare-metal") == []


# -- exits of a plan --------------------------------------------------------------------------------------------------


def every(gap: int, handling: int = 0, **changes: Any) -> vpmu.ExitSource:
    """An exit after each `gap` cycles of guest work or running time, on Sapphire Rapids (3 GHz).

    A recorded rate R becomes a gap of 1/R - handling - bare transition (semantics, rule 13).
    """
    costs = vpmu.cpu("sapphirerapids").costs
    around = handling + costs["vm_exit"].value + costs["vm_entry"].value
    given = {"seconds": Fraction(gap + around, 3_000_000_000), "handling_ns": Fraction(handling, 3)}
    return source(**given | changes)


@pytest.mark.parametrize("clock", ["work", "wall"])
@pytest.mark.parametrize("gap", [1, 7, 10_000, (1 << 26) + 1, 9_000_000_000])
def test_gap_is_what_the_recorded_rate_leaves(clock: str, gap: int) -> None:
    planned = plan(vpmu.Scenario(design="none", workload=made(every(gap, 999, clock=clock))))
    streams = {"work": planned.work, "wall": planned.wall}
    assert (streams[clock].mean_gap, streams[clock].kinds) == (gap, (0,))
    (rate,) = streams[clock].rates
    assert (rate - 1) * gap < 1 << 48 <= rate * gap
    del streams[clock]
    assert [stream.mean_gap for stream in streams.values()] == [0]
    (planned_exit,) = planned.exits
    assert (planned_exit.reason, planned_exit.handling, planned_exit.idle) == ("EPT_VIOLATION", 999, 0)


@pytest.mark.parametrize(("kind", "index"), [("fastpath", 0), ("kernel", 1), ("userspace", 2)])
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("emulates", [False, True])
def test_kind_level_and_emulation_of_an_exit_reach_the_plan(kind: str, index: int, cpl: int, emulates: bool) -> None:
    (found,) = plan(vpmu.Scenario(workload=made(source(kind=kind, cpl=cpl, emulates=emulates)))).exits
    assert (found.kind, found.cpl, found.emulates) == (index, cpl, emulates)
    assert found.handling == vpmu.cpu("sapphirerapids").costs[f"handling_{kind}"].value


def test_designs_without_a_hypervisor_have_no_exits() -> None:
    planned = plan(vpmu.Scenario(design="bare-metal", workload=made(every(1000), every(1000, clock="wall"))))
    assert (planned.exits, planned.work.mean_gap, planned.wall.mean_gap, planned.trace) == ((), 0, 0, None)


# -- clocks of design none (docs/machine.md, section 4) ---------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("arguments", "in_kernel", "in_task", "idle"),
    [
        ({"handling": 29_999, "kind": "userspace"}, 600, 29_399, 0),
        ({"handling": 601, "kind": "userspace"}, 600, 1, 0),
        ({"handling": 600, "kind": "userspace"}, 600, 0, 0),
        ({"handling": 599, "kind": "userspace"}, 599, 0, 0),
        ({"handling": 29_999, "kind": "kernel"}, 29_999, 0, 0),
        ({"handling": 29_999, "kind": "fastpath"}, 29_999, 0, 0),
        ({"handling": 29_999, "kind": "kernel", "blocks": True}, 700, 0, 29_299),
    ],
)
def test_handling_goes_to_the_clock_of_who_does_it(
    arguments: dict[str, Any], in_kernel: int, in_task: int, idle: int, engine: str
) -> None:
    """Handling in userspace is KVM's way out and back first, then the virtual machine monitor's."""
    costs = vpmu.cpu("sapphirerapids").costs.override({"handling_kernel": 600, "handling_hlt": 700})
    cpu = dataclasses.replace(vpmu.cpu("sapphirerapids"), costs=costs)
    workload = made(every(50_000, **arguments))
    result = vpmu.simulate(vpmu.Scenario(cpu=cpu, design="none", workload=workload, seconds="0.01"), engine)
    out, back = costs["vm_exit"].value, costs["vm_entry"].value
    clocks = result.raw["clocks"]
    (exits,) = result.raw["exits"]
    assert exits > 300
    assert exits == (clocks[USER] + clocks[KERNEL]) // 50_000
    assert clocks[USER] == (clocks[USER] + clocks[KERNEL]) * 3_000_000_019 // ONE
    assert clocks[HANDLER:] == [0, back + exits * (out + in_kernel + back), 0, exits * in_task, exits * idle]
    spent = result.raw["spent"]
    assert (spent["vm_exit"], spent["vm_entry"]) == (exits * out, (exits + 1) * back)
    assert (spent["handling"], spent["idle"]) == (exits * (in_kernel + in_task), exits * idle)
    assert result.raw["w"] == sum(clocks)


@pytest.mark.parametrize("design", ["emulated", "mediated", "mediated,scope=every-exit", "dedicated"])
def test_exits_per_unit_of_work_are_the_same_in_every_design(design: str) -> None:
    workload = made(every(50_000, 29_999, kind="userspace"))
    result = vpmu.simulate(vpmu.Scenario(design=design, workload=workload, seconds="0.01"))
    clocks = result.raw["clocks"]
    (exits,) = result.raw["exits"]
    assert exits == (clocks[USER] + clocks[KERNEL]) // 50_000
    in_kernel = vpmu.cpu("sapphirerapids").costs["handling_kernel"].value
    assert clocks[HOST_TASK] == exits * (29_999 - in_kernel)


# -- long segments ----------------------------------------------------------------------------------------------------

FAST = dataclasses.replace(rates(0), instructions=0xF_EDCB_A987, branches=1_234_567_891)
SLOW = dataclasses.replace(rates(0), instructions=3_333_333_333, branches=3)
CALL = dataclasses.replace(rates(0), instructions=2_222_222_221, branches=5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("design", ["bare-metal", "emulated", "mediated", "dedicated"])
@pytest.mark.parametrize("clock", ["work", "wall"])
def test_exits_seconds_apart_are_counted_exactly(design: str, clock: str, engine: str) -> None:
    workload = made(source(seconds=3, clock=clock), user=FAST, kernel=SLOW, handler=CALL)
    events = "instructions:u,branches:u,instructions,branches,cycles,ref-cycles"
    scenario = vpmu.Scenario(design=design, workload=workload, guest_perf=[f"stat:{events}"], seconds=4)
    result = vpmu.simulate(scenario, engine)
    testing.assert_exact(result)
    testing.assert_conserved(result)
    assert result.violations == ()
    assert result.raw["exits"] == ([] if design == "bare-metal" else [1])
    clocks = result.raw["clocks"]
    # The guest's user code runs between the set-up of its perf and the read-out only.
    by_name = {counter.event: counter.value for counter in result.counters}
    assert clocks[USER] == (clocks[USER] + clocks[KERNEL]) * 3_000_000_019 // ONE > 1 << 32
    assert by_name["instructions:u"] == counted(0xF_EDCB_A987, clocks[USER])
    assert by_name["branches:u"] == counted(1_234_567_891, clocks[USER])
    # The rest has guest kernel code and the set-up itself, of at most 10 calls and 100 accesses.
    few = 17 * clocks[HANDLER] + 1_000_000
    work = clocks[USER] + clocks[KERNEL]
    for event, ideal in (
        ("instructions", counted(0xF_EDCB_A987, clocks[USER]) + counted(3_333_333_333, clocks[KERNEL])),
        ("cycles", work),
        ("ref-cycles", work * 2 // 3),
    ):
        assert 0 <= by_name[event] - ideal <= few


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cycles", [30_000, 1 << 26, 3_000_000_000, 12_000_000_000])
def test_bare_metal_counts_the_closed_form(cycles: int, engine: str) -> None:
    """One counting event on fixed counter 0: the accesses of ``perf stat -a``, then work up to the last cycle."""
    workload = made(user=FAST, kernel=SLOW, handler=CALL)
    seconds = Fraction(cycles, 3_000_000_000)
    scenario = vpmu.Scenario(design="bare-metal", workload=workload, guest_perf=["stat:instructions"], seconds=seconds)
    result = vpmu.simulate(scenario, engine)
    costs = {name: figure.value for name, figure in scenario.cpu.costs.items()}
    # Call, GLOBAL_CTRL off and on; call, GLOBAL_CTRL off, counter, LVTPC, FIXED_CTR_CTRL, GLOBAL_CTRL on.
    start = 2 * costs["guest_perf_call"] + 6 * costs["wrmsr"] + costs["wrmsr_lvtpc"]
    stop = start + costs["guest_perf_call"] + costs["wrmsr"]  # call, GLOBAL_CTRL off
    work = cycles - start
    user = work * 3_000_000_019 // ONE
    assert result.raw["clocks"] == [user, work - user, start, 0, 0, 0, 0]
    assert result.raw["w"] == cycles
    expected = (
        counted(0xF_EDCB_A987, user)
        + counted(3_333_333_333, work - user)
        + counted(2_222_222_221, stop)
        - counted(2_222_222_221, start)
    )
    (counter,) = result.counters
    assert (counter.value, counter.ideal) == (expected, expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("design", ["emulated", "mediated", "dedicated"])
@pytest.mark.parametrize("gap", [(1 << 26) - 1, 1 << 26, (1 << 26) + 1, (1 << 27) + 12_345, (1 << 32) + 1])
def test_segments_about_2_26_cycles_long_are_counted_exactly(design: str, gap: int, engine: str) -> None:
    """Between regular exits of exactly that distance, at the highest rate and at rates of all low bits."""
    fastest = vpmu.EventRates(
        instructions=1 << 36, branches=(1 << 36) - 1, branch_misses=ONE - 1, cache_references=ONE + 1, cache_misses=1
    )
    workload = made(every(gap), user=fastest, kernel=fastest, user_share=ONE)
    names = {
        "instructions": 1 << 36,
        "branches": (1 << 36) - 1,
        "branch-misses": ONE - 1,
        "cache-references": ONE + 1,
        "cache-misses": 1,
    }
    guest_perf = ["stat:" + ",".join(f"{name}:u" for name in names)]
    seconds = Fraction(9 * gap // 2, 3_000_000_000)
    result = vpmu.simulate(
        vpmu.Scenario(design=design, workload=workload, guest_perf=guest_perf, seconds=seconds), engine
    )
    work, kernel = result.raw["clocks"][:2]
    assert (kernel, work // gap, result.raw["exits"]) == (0, 4, [4])
    assert [counter.value for counter in result.counters] == [counted(rate, work) for rate in names.values()]
    testing.assert_exact(result)


@pytest.mark.parametrize("engine", ENGINES)
def test_host_events_count_long_segments_exactly(engine: str) -> None:
    workload = made(source(seconds=3), user=FAST, kernel=SLOW, hypervisor=CALL)
    events = ["instructions:u:pinned:exclude_host", "instructions:k:pinned:exclude_host", "cycles:pinned"]
    scenario = vpmu.Scenario(design="none", workload=workload, host_perf=events, seconds=4)
    result = vpmu.simulate(scenario, engine)
    user, kernel = result.raw["clocks"][:2]
    assert [counter.value for counter in result.host_events] == [
        counted(0xF_EDCB_A987, user),
        counted(3_333_333_333, kernel),
        result.raw["w"],
    ]
    testing.assert_conserved(result)
