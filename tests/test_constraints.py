"""Counters that an event may use: Linux's tables, a perfmon file, and what is said of events that find none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vpmu
from vpmu._cpu_model import CpuModel
from vpmu._event_files import with_event_file
from vpmu._events import allowed_counters


def gp(cpu: CpuModel, code: int) -> int:
    """Counters of the first row that a code (UUEE) matches, all if none does."""
    for row in cpu.constraints:
        if row.matches(code & 0xFF, code >> 8):
            return row.gp_mask & cpu.gp_mask
    return cpu.gp_mask


@pytest.mark.parametrize(
    ("cpu", "codes", "mask"),
    [
        ("conroe", [0x0010, 0x0014, 0x0018, 0x01A1, 0x00C9, 0x00CB], 0b01),
        ("penryn", [0x0011, 0x0012, 0x0013, 0x0019], 0b10),
        ("nehalem", [0x0040, 0x0143, 0x0048, 0x004E, 0x0151, 0x0263], 0b11),
        ("nehalem", [0x0044, 0x00B3], 0b1111),
        ("westmere", [0x0051, 0x0063], 0b11),
        ("westmere", [0x0160, 0x00B3], 0b01),
        ("sandybridge", [0x02A3, 0x06A3, 0x0148], 0b100),
        ("sandybridge", [0x01C0], 0b10),
        ("sandybridge", [0x01CD], 0b1000),
        ("ivybridge", [0x0148, 0x08A3, 0x0CA3], 0b100),
        ("ivybridge", [0x02A3, 0x06A3, 0x0279], 0b1111),
        ("haswell", [0x01CD], 0b1000),
        ("haswell", [0x0148, 0x08A3, 0x0CA3], 0b100),
        ("broadwell", [0x0148, 0x08A3, 0x0CA3, 0x0FA3], 0b100),
        ("broadwell", [0x04A3, 0x02A3], 0b1111),
        ("skylake", [0x01C0], 0b10),
        ("skylake-client", [0x01C0], 0b10),
        ("tigerlake", [0x0003, 0x0128, 0x0148, 0x08A3], 0xF),
        ("tigerlake", [0x04A3, 0x10A3, 0x14A3], 0xFF),
        ("graniterapids", [0x0048, 0x01A3, 0x01D0], 0xF),
        ("alderlake-p", [0x04A4, 0x02CD, 0x00CE], 0x1),
        ("lunarlake-p", [0x0148, 0x0175, 0x08A3], 0b100),
        ("lunarlake-p", [0x04A4, 0x08A4, 0x10A4], 0b1),
        ("lunarlake-p", [0x01CD], 0x3FC),
        ("arrowlake-p", [0x02CD], 0b11),
        ("arrowlake-p", [0x01B1], 0b1000),
        ("arrowlake-p", [0x412E, 0x003C], 0x3FF),
        ("genoa", [0x0010, 0x00C0, 0x0076], 0b111111),
    ],
)
def test_kvm_7_3_tables_are_those_of_linux(cpu: str, codes: list[int], mask: int) -> None:
    model = vpmu.cpu(cpu)
    assert {gp(model, code) for code in codes} == {mask & model.gp_mask}


def event_file(folder: Path, **counters: str) -> str:
    names = {"branches": ("0xC4", "0x00"), "cache_misses": ("0x2E", "0x41"), "loads": ("0xD0", "0x81")}
    events: list[dict[str, Any]] = [
        {"EventName": name.upper(), "EventCode": names[name][0], "UMask": names[name][1], "Counter": counter}
        for name, counter in counters.items()
    ]
    path = folder / "events.json"
    path.write_text(json.dumps({"Header": {}, "Events": events}))
    return str(path)


def test_a_perfmon_file_goes_before_the_table(tmp_path: Path) -> None:
    cpu = vpmu.cpu("skylake")
    with_file = with_event_file(cpu, event_file(tmp_path, branches="0,1", cache_misses="3", loads="2"))
    assert allowed_counters("branches", with_file) == (0b11, 0)
    assert allowed_counters("cache-misses", with_file) == (0b1000, 0)
    assert gp(with_file, 0x81D0) == 0b100
    assert gp(with_file, 0x82D0) == gp(cpu, 0x82D0)
    assert allowed_counters("branch-misses", with_file) == allowed_counters("branch-misses", cpu)


@pytest.mark.parametrize("engine", ["lazy", "reference"])
def test_events_of_a_scenario_obey_the_file(tmp_path: Path, engine: str) -> None:
    """One counter for two events: without the file they count beside each other, with it they cannot."""

    def run(events_file: str) -> vpmu.Result:
        scenario = vpmu.Scenario(
            cpu="skylake",
            design="none",
            guest_perf=[],
            host_perf=["branches:pinned", "cache-misses:pinned"],
            events_file=events_file,
            seconds=0.0005,
        )
        return vpmu.simulate(scenario, engine)

    assert [event.flags for event in run("").host_events] == [("exact",), ("exact",)]
    first, second = run(event_file(tmp_path, branches="2", cache_misses="2")).host_events
    assert first.flags == ("exact",)
    assert "never-scheduled" in second.flags
    assert "may use GP 2; at the end branches:pinned has GP 2" in second.reason


def test_a_file_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(vpmu.EventFileError, match=r"absent\.json"):
        vpmu.Scenario(events_file=str(tmp_path / "absent.json"))
    with pytest.raises(vpmu.ScenarioError, match="name of a file"):
        vpmu.Scenario(events_file=5)  # type: ignore[arg-type]  # what is refused


# -- in words ---------------------------------------------------------------------------------------------------------


def test_a_guest_event_without_counter_says_who_has_them_and_how_long() -> None:
    scenario = vpmu.Scenario(
        cpu="skylake",
        design="emulated",
        guest_perf=["stat:branches,branch-misses,cache-references,cache-misses"],
        host_perf=["branches:pinned", "cache-misses:pinned", "watchdog"],
        seconds=0.01,
    )
    result = vpmu.simulate(scenario)
    reason = result.counters[3].reason
    for words in (
        "went to ERROR, which the guest is never told",
        "% of what it should have counted",
        "may use GP 0-3",
        "branches:pinned has GP 0",
        "cache-misses:pinned has GP 1",
        "guest branches has GP 2",
        "guest branch-misses has GP 3",
    ):
        assert words in reason
    assert result.counters[0].reason == ""


def test_host_events_say_why_they_wait() -> None:
    scenario = vpmu.Scenario(
        cpu="skylake",
        design="none",
        guest_perf=[],
        host_perf=["ref-cycles:pinned", "ref-cycles:pinned", "ref-cycles", *["branches"] * 5, "slots:pinned"],
        seconds=0.012,
    )
    events = vpmu.simulate(scenario).host_events
    assert "ERROR, for the whole run; it may use fixed 2; at the end ref-cycles:pinned has fixed 2" in events[1].reason
    assert "waited for its turn for 12 ms of 12 ms" in events[2].reason
    waited = [event for event in events[3:8] if event.running < event.enabled]
    assert len(waited) >= 2
    for event in waited:
        ms = 1000 * (event.enabled - event.running) / scenario.cpu.core_hz.value
        assert f"for {ms:.3g} ms of 12 ms; it may use GP 0-3" in event.reason
    # Skylake has no fixed counter 3.
    assert events[8].reason == "no counter of skylake can count it"
