"""Host perf samples: periods, frequencies, PMIs, throttling, the watchdog."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import good
from machine_plans import directed
from machine_runs import fast
from test_machine import check_identities

import vpmu
from vpmu import testing
from vpmu._plan import Plan, PlannedExit, PlannedHostEvent, Stream
from vpmu._scenario import plan
from vpmu.reference import machine as slow

ORIGINS = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")


def run(planned: Plan) -> dict[str, Any]:
    """On all machines, which agree."""
    result = fast(planned)
    assert result == fast(planned, "lazy") == slow.run(planned)
    check_identities(result)
    return result


def sampler(period: int, freq: int = 0, *, gp: int = 0xFF, throttles: bool = False, **sides: bool) -> PlannedHostEvent:
    exclude = {"exclude_guest": False, "exclude_host": False, **sides}
    return PlannedHostEvent(
        1, 0x3C, gp, 0, True, True, **exclude, pinned=True, period=period, freq=freq, throttles=throttles
    )


def quiet(*events: PlannedHostEvent, design: str = "none", end: int = 400_000, skid: int = 0, **changes: Any) -> Plan:
    """One event per cycle in every activity, everything free of cost, no exits but those of PMIs and timers."""
    planned = directed(design, gap=0, wall=0, emulates=False, skid=skid, costs=None, events=[])
    return dataclasses.replace(planned, host_events=events, end=end, **changes)


def accesses(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result["ops"]["run"]["host"][c] for c in ORIGINS)


def test_a_sample_after_every_period() -> None:
    result = run(quiet(sampler(1000), end=400_500))
    (row,) = result["host"]
    assert row["samples"] == result["host_pmi"]["handled"] == result["pmu_exits"]["EXCEPTION_NMI"] == 400
    assert row["value"] == row["ideal"] == 400_500


def test_the_skid_counts_towards_the_next_period() -> None:
    """A PMI 30 cycles late finds 30 occurrences in the counter: the period stays what it was."""
    result = run(quiet(sampler(1000), skid=30))
    assert result["host"][0]["samples"] == 399
    assert result["host_pmi"] == {"raised": 400, "handled": 399, "coalesced": 0, "lost": 0, "pending": 1}


def test_samples_expected_and_how_late_they_come() -> None:
    """A period that has ended is due a sample; its PMI comes after the skid, and its handler costs nothing here."""
    for skid in (0, 30, 400):
        (row,) = run(quiet(sampler(1000), end=400_500, skid=skid))["host"]
        assert row["late"] == skid * row["samples"]
        assert row["expected"] == 400
        assert row["samples"] == 400
    # What the handler's entry takes is part of it, and a period shorter than that loses samples.
    planned = quiet(sampler(1000), end=400_500)
    slow_entry = dataclasses.replace(planned, costs=planned.costs | {"host_nmi": 4500, "wrmsr": 100})
    (row,) = run(slow_entry)["host"]
    assert row["late"] == 4600 * row["samples"]
    # 4600 past its end: four more periods have ended, and perf starts anew (x86_perf_event_set_period()).
    assert row["expected"] == 5 * row["samples"] == 340


def test_a_longer_period_by_frequency_does_not_make_expected_samples_of_the_old_one() -> None:
    """perf_adjust_period() takes what is left of a long period away: it is still one period that ends."""
    for freq in (1000, 5000, 20_000):
        (row,) = run(quiet(sampler(40_000_000 // freq, freq), end=2_000_000))["host"]
        assert row["expected"] - row["samples"] in (0, 1)
        assert row["samples"] > 3


def test_a_pmi_that_is_raised_in_the_last_cycles_of_a_handler_is_handled_before_what_it_interrupted() -> None:
    """GLOBAL_CTRL is on again when LVTPC is unmasked; with two samplers one can wrap there."""
    scenario = vpmu.Scenario(
        design="emulated",
        cpu="skylake",
        workload="fio-4k-read",
        guest_perf=(),
        host_perf=["cycles:pinned:exclude_guest:period=10007", "instructions:period=10007:exclude_guest"],
        seconds="0.001",
    )
    first, second = run(plan(scenario))["host"]
    assert (first["samples"], second["samples"]) == (first["expected"], second["expected"])
    assert second["late"] < 3600 * second["samples"]


def test_what_a_host_pmi_writes() -> None:
    """Per PMI: GLOBAL_CTRL=0, STATUS read, acked and read again, RDPMC, the counter, GLOBAL_CTRL, LVTPC."""
    n = 400
    assert accesses(run(quiet(sampler(1000), end=400_500))) == (2 * n, n, n, 0, 3 * n, n)


def test_an_event_that_excludes_the_host_has_its_pmis_in_guest_mode() -> None:
    """exclude_guest: in host mode, where the NMI comes while the host's code runs; exclude_host: each is an exit."""
    exits = (PlannedExit("IO_INSTRUCTION", 2, 0, False, 20_000, 0),)
    work = Stream(5000, (0xFFFFFFFF,), (0,), (0,), (-(-(1 << 48) // 5000),))
    costs = dict.fromkeys(quiet().costs, 0) | {"handling_kernel": 3000}
    planned = quiet(
        sampler(900, exclude_guest=True), sampler(900, exclude_host=True), exits=exits, work=work, costs=costs
    )
    host, guest = run(planned)["host"]
    result = run(planned)
    assert guest["samples"] == result["pmu_exits"]["EXCEPTION_NMI"]
    assert host["samples"] + guest["samples"] == result["host_pmi"]["handled"]
    # Host code is cut where a PMI arrives, so each period has its sample however long the handling.
    for row in (host, guest):
        assert row["value"] == row["ideal"] > 50_000
        assert row["samples"] == row["value"] // 900


def test_pmis_of_host_and_guest_are_told_apart() -> None:
    """A guest and a host that both sample beside each other: each finds its own, and the guest's identity holds."""
    for period in (5003, 20_011):
        scenario = vpmu.Scenario(
            design="emulated",
            workload="fio-4k-read",
            guest_perf=[f"record:instructions:period={period}"],
            host_perf=["cycles:pinned:period=30011", "branches:pinned:period=2003:exclude_guest"],
            seconds=0.01,
        )
        result = vpmu.simulate(scenario)
        assert result.violations == ()
        assert result.counters[0].samples > 50
        assert result.counters[0].value == result.counters[0].ideal
        assert all(event.samples > 10 for event in result.host_events)
        assert result.host_pmis["handled"] >= max(event.samples for event in result.host_events)


@pytest.mark.parametrize("freq", [250, 1000, 4000, 20_000])
@pytest.mark.parametrize("event", ["cycles", "branches"])
def test_a_frequency_finds_its_period(freq: int, event: str) -> None:
    """Samples per second of wall time come to what was asked for, from below: a stopped PMU counts nothing."""
    scenario = vpmu.Scenario(
        design="none", workload="sysbench-cpu", guest_perf=[], host_perf=[f"{event}:freq={freq}"], seconds=0.5
    )
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    assert 0.9 * freq * 0.5 < result.host_events[0].samples < 1.15 * freq * 0.5 + 20


def test_the_tick_adjusts_what_pmis_cannot() -> None:
    """Below half the tick rate overflows are too far apart to adjust by; the tick alone does."""

    def samples(host_hz: int) -> int:
        scenario = vpmu.Scenario(
            design="none",
            workload="sysbench-cpu",
            guest_perf=[],
            host_perf=["branches:pinned:freq=50"],
            host_hz=host_hz,
            seconds=1,
        )
        return vpmu.simulate(scenario).host_events[0].samples

    # From 2.5 million branches a sample towards a fiftieth of a second's.
    assert all(45 <= samples(hz) <= 60 for hz in (250, 1000))


def test_what_a_tick_writes() -> None:
    """Per frequency event: selector off, RDPMC, counter, selector on, in one bracket of GLOBAL_CTRL (2 + 4 k)."""
    planned = quiet(sampler(1 << 40, 1), sampler(1 << 40, 1), sampler(1 << 40), tick=10_000)
    n = 39
    assert accesses(run(planned)) == (0, 2 * n, 2 * n, 4 * n, 2 * n, 0)


def test_throttling_stops_the_counter_until_the_tick() -> None:
    """Three samples in a tick are one too many: what comes until the next tick is not counted."""
    planned = quiet(sampler(1000, throttles=True), tick=10_000, max_samples_per_tick=3)
    result = run(planned)
    (row,) = result["host"]
    assert row["throttled"] == 40
    assert row["samples"] == 120
    assert row["value"] == 120_000
    assert row["losses"] == {"not_scheduled": 280_000}
    assert row["running"] == row["enabled"] == 400_000
    n = 40
    # A throttled selector is written off at the PMI and on at the tick; the counter is not reloaded.
    assert accesses(result)[2:4] == (3 * n, 2 * n - 1)


def test_kvm_3_4_throttled_events_of_the_host_lose_counts_and_say_so() -> None:
    scenario = vpmu.Scenario(
        design="none", workload="sysbench-cpu", guest_perf=[], host_perf=["cycles:pinned:period=2000"], seconds=0.1
    )
    (event,) = vpmu.simulate(scenario).host_events
    # perf_event_max_sample_rate: 100,000 per second.
    assert event.samples == 10_000
    assert "throttled 25 times" in event.reason
    assert event.losses["not_scheduled"] > event.value


def test_kvm_4_6_a_host_pmi_never_counts_for_the_guests_window() -> None:
    """Samples of a mediated host are of host code; a PMI that comes too late for its event is lost, and said to be."""
    scenario = vpmu.Scenario(
        design="mediated",
        workload="fio-4k-read",
        host_perf=["cycles:pinned:exclude_guest:period=20011"],
        seconds=0.05,
    )
    result = vpmu.simulate(scenario)
    testing.assert_isolated(result)
    assert result.violations == ()
    (event,) = result.host_events
    pmi = result.host_pmis
    assert event.samples > 100
    assert pmi["handled"] >= event.samples
    assert pmi["lost"] < pmi["handled"] // 10
    late = dataclasses.replace(scenario, cpu=dataclasses.replace(scenario.cpu, skid=vpmu.Skid(3000, 9000)))
    assert vpmu.simulate(late).host_pmis["lost"] > pmi["lost"]


def test_the_watchdog_is_an_nmi_in_ten_seconds_of_cycles() -> None:
    def watchdog(seconds: float) -> vpmu.Counter:
        scenario = vpmu.Scenario(
            cpu="skylake",
            design="none",
            workload="sysbench-cpu",
            guest_perf=[],
            host_perf=["watchdog"],
            seconds=seconds,
        )
        (event,) = vpmu.simulate(scenario).host_events
        return event

    assert [watchdog(seconds).samples for seconds in (9.9, 10.1, 30.1)] == [0, 1, 3]
    assert watchdog(30.1).value > 30 * 2_100_000_000


def test_host_sampling_costs_the_guest_time() -> None:
    def overhead(*host_perf: str) -> int:
        scenario = vpmu.Scenario(design="none", workload="sysbench-cpu", host_perf=host_perf, seconds=0.05)
        result = vpmu.simulate(scenario)
        return result.raw["clocks"][0] + result.raw["clocks"][1]

    assert overhead() > overhead("cycles:freq=1000") > overhead("cycles:freq=20000")


def test_vpmu_run_shows_what_the_host_did(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        'design = "emulated"\nworkload = "sysbench-cpu"\nhost_hz = 1000\nseconds = 0.01\n'
        'host_perf = ["cycles:freq=4000:pinned", ' + '"branches:exclude_guest", ' * 12 + "]\n"
    )
    out = good("run", str(file), "--format", "table")
    assert "Host PMIs: raised" in out
    assert "Rotations of host events: 9" in out
    answer = json.loads(good("run", str(file), "--format", "json"))
    sampled = answer["host"][0]
    assert sampled["event"] == "cycles:pinned:freq=4000"
    assert sampled["samples"] > 10
    assert answer["ledger"]["host_pmi"]["handled"] >= sampled["samples"]
    assert answer["ledger"]["host_rotations"] == 9


def test_a_throttled_event_in_a_bracket_misses_nothing_by_throttling() -> None:
    """It is thrown out and in again by a rotation while it is throttled: the PMU is disabled then for everybody."""
    throttled = dataclasses.replace(sampler(5000, throttles=True), pinned=False)
    others = [dataclasses.replace(sampler(0), pinned=False)] * 8
    costs = vpmu.cpu("emeraldrapids").costs
    assert costs is not None
    planned = quiet(
        throttled,
        *others,
        end=60_000,
        mux_interval=3_000,
        tick=20_000,
        max_samples_per_tick=1,
        costs={name: figure.value for name, figure in costs.items()},
    )
    row = run(planned)["host"][0]
    assert row["throttled"] > 0
    assert row["losses"].keys() == {"not_scheduled", "pmu_disabled"}
