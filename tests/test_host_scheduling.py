"""Host perf schedules: order, placement, rotation, sleep, times (the numbers are those of what KVM and perf do)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from machine_plans import directed
from machine_runs import fast
from test_machine import check_identities

import vpmu
from vpmu import testing
from vpmu._plan import Plan, PlannedExit, PlannedHostEvent, Stream
from vpmu.reference import machine as slow

GP, FIXED = 0xFF, 0xF
ORIGINS = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")


def host(
    event: int = 1, gp: int = GP, fixed: int = 0, *, pinned: bool = False, task: bool = False, **sides: bool
) -> PlannedHostEvent:
    exclude = {"exclude_guest": False, "exclude_host": False, **sides}
    return PlannedHostEvent(event, 0x3C, gp, fixed, True, True, **exclude, pinned=pinned, task=task)


def run(planned: Plan) -> dict[str, Any]:
    """On all machines, which agree."""
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)
    check_identities(result)
    return result


def quiet(*events: PlannedHostEvent, design: str = "none", end: int = 400_000, interval: int = 1000, **changes) -> Plan:
    """One event per cycle, everything free of cost, no exits but the timer's."""
    planned = directed(design, gap=0, wall=0, emulates=False, skid=2, costs=None, events=[])
    return dataclasses.replace(planned, host_events=events, end=end, mux_interval=interval, **changes)


def accesses(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result["ops"]["run"]["host"][c] for c in ORIGINS)


# -- order ------------------------------------------------------------------------------------------------------------


def test_kvm_3_5_order_is_cpu_pinned_task_pinned_cpu_flexible_task_flexible() -> None:
    """Four events want one counter, in every order in which they may have been created: the class decides."""
    classes = [{"pinned": True}, {"pinned": True, "task": True}, {}, {"task": True}]
    for given in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        for first in range(4):
            order = [c for c in given if c >= first]
            result = run(quiet(*(host(gp=1, **classes[c]) for c in order), end=900))
            states = {c: row["state"] for c, row in zip(order, result["host"], strict=True)}
            assert states[first] == "active"
            for c in states.keys() - {first}:
                assert states[c] == ("error" if classes[c].get("pinned") else "inactive")


def test_kvm_3_5_a_guest_event_is_task_pinned_and_loses_only_to_pinned_host_events() -> None:
    def guest(*host_perf: str) -> vpmu.Counter:
        scenario = vpmu.Scenario(
            cpu="skylake", design="emulated", guest_perf=["stat:branches"], host_perf=host_perf, seconds=0.001
        )
        result = vpmu.simulate(scenario)
        testing.assert_conserved(result)
        return result.counters[0]

    taken = ("branch-misses", "cache-misses", "cache-references", "bus-cycles", "branches:u", "branches:k")
    assert "never-scheduled" not in guest(*taken).flags
    assert "never-scheduled" not in guest(*(f"{event}:task" for event in taken)).flags
    pinned = guest(*(f"{event}:pinned" for event in taken[:4]))
    assert "never-scheduled" in pinned.flags
    assert pinned.losses["not_scheduled"] > 0.9 * pinned.ideal


def test_kvm_3_5_a_pinned_event_that_fails_is_in_error_and_stops_counting_silently() -> None:
    result = run(quiet(host(gp=1, pinned=True), host(gp=1, pinned=True)))
    first, second = result["host"]
    assert (first["state"], first["value"]) == ("active", first["ideal"])
    assert (second["state"], second["value"], second["losses"]) == ("error", 0, {"not_scheduled": second["ideal"]})
    assert (second["enabled"], second["running"]) == (0, 0)
    assert result["rotations"] == 0


def test_kvm_3_5_error_is_left_by_the_next_reprogramming_of_the_counter() -> None:
    """Reprogramming others leaves it in ERROR; at the read-out the guest reprograms it when a counter is free."""
    base = vpmu.Scenario(
        cpu="skylake",
        design="emulated",
        guest_perf=["record:cycles:period=20000", *["stat:branches"] * 4],
        host_perf=["watchdog"],
        seconds=0.001,
    )
    result = vpmu.simulate(base)
    testing.assert_conserved(result)
    # The watchdog has fixed 1, so the cycles of the guest and its four branches want four GP counters between them.
    starved = [c for c in result.counters if "never-scheduled" in c.flags]
    assert len(starved) == 1
    assert result.raw["reprograms"] > 200
    assert result.counters[0].samples > 10
    # What it counts is the time from the first guest event's end to its own: perf calls and the accesses around them.
    assert 0 < starved[0].value < starved[0].ideal // 50


def test_kvm_3_5_guest_events_may_sit_on_other_counters_than_the_guests() -> None:
    """The watchdog has fixed counter 1, so the guest's fixed cycles counter is backed by a GP counter."""
    scenario = vpmu.Scenario(
        cpu="skylake", design="emulated", guest_perf=["stat:cycles"], host_perf=["watchdog"], seconds=0.001
    )
    result = vpmu.simulate(scenario)
    testing.assert_exact(result)
    # A fixed counter is switched through FIXED_CTR_CTRL alone; each GP counter has a selector of its own.
    alone = vpmu.simulate(dataclasses.replace(scenario, host_perf=()))
    selectors = [r.raw["ops"]["setup"]["host"]["wrmsr_selector"] for r in (result, alone)]
    assert selectors[0] >= selectors[1] > 0
    assert result.raw["ops"]["readout"]["host"]["wrmsr_selector"] >= 1


def test_kvm_3_5_constraints_are_the_hosts_whatever_the_guests_counter_is() -> None:
    """ref-cycles has one counter on this host, fixed 2; the guest's own fixed counter 2 gets no other."""
    scenario = vpmu.Scenario(
        cpu="skylake",
        design="emulated",
        guest_perf=["stat:ref-cycles"],
        host_perf=["ref-cycles:pinned"],
        seconds=0.001,
    )
    (counter,) = vpmu.simulate(scenario).counters
    assert (counter.value, "never-scheduled" in counter.flags) == (0, True)


def test_kvm_3_5_reading_an_active_event_is_one_rdpmc_of_the_host() -> None:
    scenario = vpmu.Scenario(design="emulated", guest_perf=["stat:cycles"], workload="fio-4k-read", seconds=0.001)
    result = vpmu.simulate(scenario)
    # Disabling the guest's counter pauses the event (RDPMC); the guest's RDPMC then needs none of the host.
    assert result.raw["guest_accesses"]["readout"]["trapped"]["rdpmc"] == 1
    assert result.raw["ops"]["readout"]["host"]["rdpmc"] == 1


# -- placement --------------------------------------------------------------------------------------------------------


def test_kvm_7_4_most_constrained_first_and_fixed_counters_before_gp() -> None:
    """Two selectors of the lot: the event for GP 0 only, and the one that then finds GP 1; cycles goes to fixed 1."""
    wide, narrow, cycles = host(6, gp=0b11), host(7, gp=0b1), host(1, gp=GP, fixed=2)
    for events in ([wide, narrow, cycles], [cycles, wide, narrow], [narrow, cycles, wide]):
        result = run(quiet(*(dataclasses.replace(e, pinned=True) for e in events)))
        assert [row["state"] for row in result["host"]] == ["active"] * 3
    # Two that want what three need: no assignment exists, and the last of the order is left out.
    result = run(quiet(*(host(6, gp=0b11, pinned=True) for _ in range(3))))
    assert [row["state"] for row in result["host"]] == ["active", "active", "error"]


def test_kvm_7_4_previous_counters_are_kept_while_they_fit() -> None:
    """Everything goes out and in at a sleep; nobody changes his counter, so nothing else is written."""
    hlt = (PlannedExit("HLT", 1, 0, False, 0, 500),)
    planned = quiet(
        *(host(6, pinned=True, task=True) for _ in range(4)),
        host(7, pinned=True),
        exits=hlt,
        work=Stream(5000, (0xFFFFFFFF,), (0,), (0,), (-(-(1 << 48) // 5000),)),
    )
    result = run(planned)
    n = result["exits"][0]
    assert n > 50
    # Each sleep: RDPMC and selector of four; each wake: counter and selector of four, LVTPC; GLOBAL_CTRL twice each.
    assert accesses(result) == (0, 4 * n, 4 * n, 8 * n, 4 * n, n)


def test_kvm_7_4_an_event_that_cannot_be_placed_is_not_added() -> None:
    """Pinned: ERROR. Flexible: it waits for a rotation; what counts already goes on."""
    result = run(quiet(host(gp=1, pinned=True), host(gp=1), host(gp=2), end=500))
    assert [row["state"] for row in result["host"]] == ["active", "inactive", "inactive"]
    result = run(quiet(host(gp=1, pinned=True), host(gp=1), host(gp=2), end=1500))
    # perf tries no later flexible event after one that failed; the rotation puts it first.
    assert [row["state"] for row in result["host"]] == ["active", "inactive", "active"]


# -- rotation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "counters"), [(5, 4), (10, 4), (7, 3), (2, 1)])
def test_flexible_events_share_counters_evenly(events: int, counters: int) -> None:
    """A whole number of turns: each event has its counter in counters/events of the intervals, and counts just that."""
    mask = (1 << counters) - 1
    planned = quiet(*(host(gp=mask) for _ in range(events)), interval=1000, end=1000 * events * 8)
    result = run(planned)
    for row in result["host"]:
        assert row["enabled"] == result["w"] == row["ideal"]
        assert row["running"] == row["value"] == result["w"] * counters // events
        assert row["losses"] == {"not_scheduled": row["ideal"] - row["value"]}
        # What perf stat prints.
        assert row["value"] * row["enabled"] // row["running"] == row["ideal"]
    assert result["rotations"] == events * 8 - 1


def test_a_rotation_costs_what_perf_writes() -> None:
    """Per rotation: GLOBAL_CTRL twice, selector and RDPMC out, counter and selector in, LVTPC: 3 + 4 GP + 2 fixed."""
    result = run(quiet(*(host(gp=0b111) for _ in range(5))))
    n = result["rotations"]
    assert n == 399
    assert accesses(result) == (0, 3 * n, 3 * n, 6 * n, 2 * n, n)
    with_fixed = run(quiet(*(host(6, gp=0b11) for _ in range(3)), host(1, gp=0, fixed=2, pinned=True)))
    # Pinned events are untouched.
    assert accesses(with_fixed) == (0, 2 * n, 2 * n, 4 * n, 2 * n, n)


def test_nobody_waits_and_no_timer_runs() -> None:
    result = run(quiet(*(host(gp=0b1111) for _ in range(4))))
    assert (result["rotations"], result["pmu_exits"]["EXTERNAL_INTERRUPT"]) == (0, 0)
    assert all(row["value"] == row["ideal"] == row["running"] for row in result["host"])


def test_the_timer_is_an_exit_in_guest_mode() -> None:
    result = run(quiet(host(gp=1), host(gp=1)))
    assert result["pmu_exits"]["EXTERNAL_INTERRUPT"] == result["rotations"] == 399


def test_rotation_goes_on_while_the_thread_sleeps_but_not_for_its_events() -> None:
    hlt = (PlannedExit("HLT", 1, 0, False, 0, 9_500),)
    planned = quiet(
        *(host(gp=1) for _ in range(2)),
        *(host(gp=2, task=True) for _ in range(2)),
        exits=hlt,
        work=Stream(500, (0xFFFFFFFF,), (0,), (0,), (-(-(1 << 48) // 500),)),
    )
    result = run(planned)
    cpu, task = result["host"][:2], result["host"][2:]
    assert all(row["enabled"] == result["w"] for row in cpu)
    assert all(row["enabled"] == result["w"] - result["clocks"][6] for row in task)
    # Nine of ten timers fire while the CPU is idle; those of the CPU context rotate all the same.
    assert result["rotations"] > 0.9 * result["w"] / planned.mux_interval
    for one, other in (cpu, task):
        assert one["running"] + other["running"] == one["enabled"]
        assert one["value"] + other["value"] == one["ideal"]


@pytest.mark.parametrize("design", ["emulated", "mediated", "mediated,scope=every-exit", "none"])
def test_flexible_events_beside_every_design(design: str) -> None:
    """exclude_guest events in turns, in a whole scenario with costs: conserved, isolated, nobody left out."""
    taken = ("branches", "branch-misses", "cache-misses", "cache-references", "bus-cycles", "cycles", "ref-cycles:task")
    scenario = vpmu.Scenario(
        cpu="skylake",
        design=design,
        workload="fio-4k-read",
        host_perf=[f"{event}:exclude_guest" for event in taken],
        host_hz=1000,
        seconds=0.02,
    )
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    testing.assert_isolated(result)
    assert result.raw["rotations"] >= 15
    for event in result.host_events:
        assert event.value > 0
        assert ("multiplexed" in event.flags) == (event.running < event.enabled)
    assert sum("multiplexed" in event.flags for event in result.host_events) >= 5
    assert all("waited for its turn" in e.reason for e in result.host_events if "multiplexed" in e.flags)


def test_kvm_4_6_enabled_and_running_time_leave_the_guest_out() -> None:
    """Context time without the window, so that enabled/running scales what the host did outside it."""
    scenario = vpmu.Scenario(
        design="mediated",
        workload="fio-4k-read",
        host_perf=["cycles:pinned:exclude_guest", *["branches:exclude_guest"] * 12],
        host_hz=1000,
        seconds=0.02,
    )
    result = vpmu.simulate(scenario)
    outside = sum(result.cycles[a] for a in ("hypervisor", "host_task", "idle"))
    pinned, *flexible = result.host_events
    assert pinned.enabled == pinned.running == outside
    assert all(event.enabled == outside for event in flexible)
    busy = outside - result.cycles["idle"]
    for event in flexible:
        assert 0 < event.running < outside
        assert event.value <= busy


def test_kvm_4_6_no_host_event_is_scheduled_in_the_window() -> None:
    """A timer that is due while guest state is loaded is served after the put; the window itself loses every count."""
    scenario = vpmu.Scenario(
        design="mediated",
        workload="sysbench-cpu",
        host_perf=["cycles:exclude_guest"] * 12,
        host_hz=1000,
        seconds=0.02,
    )
    result = vpmu.simulate(scenario)
    testing.assert_isolated(result)
    assert result.raw["rotations"] >= 15
    assert sum(event.value for event in result.host_events) <= 9 * (
        result.cycles["hypervisor"] + result.cycles["host_task"]
    )
    for event in result.host_events:
        assert event.losses["window"] > 0


def test_host_hz_decides_how_often_events_take_turns() -> None:
    def rotations(host_hz: int) -> int:
        scenario = vpmu.Scenario(
            design="none",
            host_perf=["branches"] * 10,
            guest_perf=[],
            host_hz=host_hz,
            seconds=0.06,
            workload="sysbench-cpu",
        )
        return vpmu.simulate(scenario).raw["rotations"]

    assert [rotations(hz) for hz in (100, 250, 300, 1000)] == [5, 14, 19, 59]


# -- what is said of guests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", vpmu.workloads())
@pytest.mark.parametrize("cpu", ["skylake", "sapphirerapids"])
def test_with_a_quiet_host_the_emulated_pmu_errs_by_less_than_half_a_percent(workload: str, cpu: str) -> None:
    scenario = vpmu.Scenario(
        cpu=cpu,
        design="emulated",
        workload=workload,
        guest_perf=["stat:instructions,cycles,branches,branch-misses,cache-references,cache-misses"],
        seconds=0.5,
    )
    result = vpmu.simulate(scenario)
    for counter in result.counters:
        assert counter.ideal > 1000
        assert abs(counter.error or 0) < 0.005


def test_two_pinned_host_events_and_the_watchdog_leave_a_guest_of_four_events_short() -> None:
    """Skylake with hyper-threading has four GP counters; the guest wants them all and is never told."""
    scenario = vpmu.Scenario(
        cpu="skylake",
        design="emulated",
        guest_perf=["stat:branches,branch-misses,cache-references,cache-misses"],
        host_perf=["branches:pinned", "cache-misses:pinned", "watchdog"],
        seconds=0.05,
    )
    assert scenario.cpu.gp_counters == 4
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    starved = [c for c in result.counters if "never-scheduled" in c.flags]
    assert [c.event for c in starved] == ["cache-references", "cache-misses"]
    for counter in starved:
        assert counter.value < counter.ideal // 100
        assert counter.ideal - counter.value == counter.losses["not_scheduled"]
    assert all("exact" in c.flags for c in result.counters if c not in starved)
