"""What a scenario says about its guest's perf, and what results show of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import good

import vpmu
from vpmu._scenario import plan


@pytest.mark.parametrize(
    ("perf", "more", "said"),
    [
        (["stat:cycles:interval=10", "stat:branches:interval=20"], {}, "interval=10 and interval=20"),
        (["stat:cycles:task=10", "record:branches:freq=9:task=20"], {}, "task=10 and task=20"),
        (["stat:cycles:task=10", "stat:cycles:task=10:threads"], {}, "threads=False and threads=True"),
        (["watchdog", "watchdog"], {}, "one watchdog"),
        (["stat:" + ",".join(["cycles"] * 25)], {}, "at most 24"),
        (["stat:{" + ",".join(["branches"] * 9) + "}"], {}, "does not fit 8 GP and 3 fixed.*EINVAL"),
        (["stat:cycles"], {"guest_hz": 500}, "guest_hz 500 must be one of 100, 250, 300, 1000"),
        (["stat:cycles"], {"guest_hz": True}, "guest_hz True"),
        (["stat:cycles"], {"guest_kernel": "6.1"}, "before 6.2"),
        (["stat:cycles"], {"guest_kernel": "6"}, "guest_kernel '6' must be a version"),
        (["stat:cycles"], {"guest_kernel": 6.14}, "guest_kernel 6.14 must be a version"),
    ],
)
def test_what_one_guest_cannot_have(perf: list[str], more: dict[str, object], said: str) -> None:
    with pytest.raises(vpmu.ScenarioError, match=said):
        vpmu.Scenario(guest_perf=perf, **more)  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: vpmu.PerfRecord(["cycles"], 5, freq=6), "not both"),
        (lambda: vpmu.PerfRecord(["cycles"]), "period 0 must be an integer from 1 to"),
        (lambda: vpmu.PerfRecord(["cycles"], 5, throttle=1), "throttle must be true or false"),  # type: ignore[arg-type]  # what is refused
        (lambda: vpmu.PerfRecord(["cycles"], freq=100_001), "max_sample_rate"),
        (lambda: vpmu.PerfStat(["cycles"], interval=True), "interval True"),
        (lambda: vpmu.PerfStat(["cycles"], task=-1), "task -1"),
        (lambda: vpmu.PerfStat(["cycles"], threads=True), "give task"),
        (lambda: vpmu.PerfStat(["cycles"], task=1, threads=1), "threads must be"),  # type: ignore[arg-type]  # what is refused
        (lambda: vpmu.PerfStat(["{cycles", "branches}"]), "must be written"),
        (lambda: vpmu.PerfStat([7]), "7 is no event"),  # type: ignore[list-item]  # what is refused
    ],
)
def test_wrong_arguments_of_perf(build: Callable[[], object], said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        build()


def test_groups_and_their_modifiers() -> None:
    perf = vpmu.PerfStat(["{cycles,cpu/event=0xc0/}:u", "branches"])
    assert perf.groups == (("cycles:u", "cpu/event=0xc0/u"), ("branches",))
    planned = plan(vpmu.Scenario(guest_perf=[perf, "stat:{branches,branch-misses}"])).guest_events
    assert [event.leader for event in planned] == [-1, 0, -1, -1, 3]
    assert [event.kernel for event in planned] == [False, False, True, True, True]


def test_only_scenarios_that_need_one_have_a_tick() -> None:
    for perf, hz in (
        ("stat:cycles", 0),
        ("record:cycles:period=100000", 0),
        ("stat:cycles:interval=1:task=100", 0),
        ("watchdog", 0),
        ("record:cycles:freq=10", 300),
        ("record:cycles:period=100000:throttle", 300),
    ):
        kernel = plan(vpmu.Scenario(guest_perf=[perf], guest_hz=300)).guest_kernel
        assert (kernel.hz, kernel.rotation_ms) == (hz, 0)
        assert plan(vpmu.Scenario(guest_perf=[perf], design="none")).guest_kernel.hz == 0
    turns = plan(vpmu.Scenario(guest_perf=["stat:" + ",".join(["cycles"] * 10)], guest_hz=300))
    assert (turns.guest_kernel.hz, turns.guest_kernel.rotation_ms) == (0, 3)
    assert {event.counter for event in turns.guest_events} == {-1}


def test_a_run_shows_what_perf_did(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    events = ",".join(["branches"] * 9)
    file.write_text(
        f'guest_perf = ["stat:{events}:interval=5", "record:cycles:freq=5000", "watchdog"]\n'
        'seconds = 0.05\nguest_hz = 1000\nguest_kernel = "6.10"\n'
    )
    answer = json.loads(good("run", str(file), "--format", "json"))
    assert answer["provenance"]["guest_hz"] == 1000
    assert answer["provenance"]["guest_kernel"] == "6.10"
    ledger = answer["ledger"]
    assert ledger["guest_timers"] == {"tick": 49, "rotation": 49, "switch": 0, "interval": 9}
    *turns, record, watchdog = ledger["guest_perf"]
    assert all(0 < row["running"] < row["enabled"] for row in turns)
    assert record["samples"] <= record["samples_expected"]
    assert record["samples_late"] > 500 * record["samples"] > 0
    assert (watchdog["event"], watchdog["samples"]) == ("watchdog", 0)
    table = good("run", str(file))
    assert "multiplexed" in table
    assert "more events than counters" in table


def test_lost_samples_by_frequency_are_said() -> None:
    """Linux before 6.14 starts at a period of 1, of which most end within one handler."""
    scenario = vpmu.Scenario(
        design="dedicated", guest_perf=["record:cycles:freq=1000"], guest_kernel="6.10", seconds=0.1
    )
    result = vpmu.simulate(scenario)
    (counter,) = result.counters
    assert counter.samples_expected > 10 * counter.samples
    assert any(f"{counter.samples} samples where {counter.samples_expected} periods" in note for note in result.notes)


def test_many_runs_with_timers() -> None:
    perf = ["record:instructions,cycles:freq=4000", "stat:" + ",".join(["branches"] * 12) + ":interval=3"]
    scenario = vpmu.Scenario(guest_perf=perf, seconds="0.03")
    parameters = np.zeros(3, [("seed", "u8")])
    parameters["seed"] = [1, 2, 3]
    batch = vpmu.simulate_many(scenario, parameters)
    for i, row in enumerate(batch.rows):
        result = batch.result(i)
        assert row["handlers"] == result.raw["handlers"] > 0
        assert row["value"].tolist() == [counter.value for counter in result.counters]
        assert row["losses"].tolist() == [sum(counter.losses.values()) for counter in result.counters]
    with pytest.raises(vpmu.ScenarioError, match="by frequency"):
        vpmu.simulate_many(scenario, np.array([(5,)], [("period", "u8")]))
