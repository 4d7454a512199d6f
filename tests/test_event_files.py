"""Intel's event files: an excerpt of real ones, every trap of the format, and files that are none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from command_line import good, refused, strict_json
from hypothesis import given
from hypothesis import strategies as st

import vpmu

RAPIDS = vpmu.cpu("sapphirerapids")
SKYLAKE = vpmu.cpu("skylake")

# From github.com/intel/perfmon (BSD-3-Clause), SPR/events/sapphirerapids_core.json V1.25; descriptions shortened, keys
# that repeat left out.
COMMON = {
    "MSRIndex": "0x00",
    "MSRValue": "0x00",
    "TakenAlone": "0",
    "CounterMask": "0",
    "Invert": "0",
    "EdgeDetect": "0",
    "Errata": "null",
    "Deprecated": "0",
}


def entry(code: str, umask: str, name: str, counter: str, sample: str, **other: str) -> dict[str, str]:
    """One entry as the files of perfmon have it."""
    return COMMON | {
        "EventCode": code,
        "UMask": umask,
        "EventName": name,
        "BriefDescription": f"{name}.",
        "Counter": counter,
        "SampleAfterValue": sample,
        **other,
    }


EIGHT = "0,1,2,3,4,5,6,7"
EXCERPT = [
    entry("0x00", "0x01", "INST_RETIRED.ANY", "Fixed counter 0", "2000003"),
    entry("0x00", "0x04", "TOPDOWN.SLOTS", "Fixed counter 3", "10000003"),
    entry("0x11", "0x10", "ITLB_MISSES.WALK_ACTIVE", "0,1,2,3", "100003", CounterMask="1"),
    entry("0xb0", "0x09", "ARITH.DIVIDER_ACTIVE", EIGHT, "1000003", CounterMask="1", Deprecated="1"),
    entry("0xb0", "0x09", "ARITH.DIV_ACTIVE", EIGHT, "1000003", CounterMask="1"),
    entry("0xec", "0x40", "CPU_CLK_UNHALTED.PAUSE_INST", EIGHT, "2000003", CounterMask="1", EdgeDetect="1"),
    entry(
        *("0xc6", "0x01", "FRONTEND_RETIRED.LATENCY_GE_2", EIGHT, "100007"),
        MSRIndex="0x3F7",
        MSRValue="0x600206",
        TakenAlone="1",
    ),
    entry(
        *("0x2A,0x2B", "0x01", "OCR.HWPF_L2.ANY_RESPONSE", "0,1,2,3", "100003"),
        MSRIndex="0x1a6,0x1a7",
        MSRValue="0x10070",
        Offcore="1",
    ),
]
# The same events as Linux has them (tools/perf/pmu-events/arch/x86/sapphirerapids, 6.9): what is 0 is left out.
LINUX = [
    {"EventName": "CPU_CLK_UNHALTED.REF_TSC", "SampleAfterValue": "2000003", "UMask": "0x3"},
    {"EventName": "BR_INST_RETIRED.ALL_BRANCHES", "EventCode": "0xc4", "PEBS": "1", "SampleAfterValue": "400009"},
    {"BriefDescription": "C1 residency", "MetricExpr": "cstate_core@c1\\-residency@ / TSC", "MetricName": "C1_Core"},
    {
        "EventName": "OCR.DEMAND_DATA_RD.PMM",
        "EventCode": "0x2A,0x2B",
        "MSRIndex": "0x1a6,0x1a7",
        "MSRValue": "0x703C00001",
        "UMask": "0x1",
    },
]


def write(directory: Path, content: object) -> str:
    path = directory / "events.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def read(directory: Path, *entries: Any, cpu: vpmu.CpuModel | None = None) -> tuple[vpmu.FileEvent, ...]:
    return vpmu.read_events(write(directory, list(entries)), cpu)


# -- real files -------------------------------------------------------------------------------------------------------


def test_both_layouts_of_a_file_are_the_same(tmp_path: Path) -> None:
    events = read(tmp_path, *EXCERPT)
    header = {"Info": "Events for Sapphire Rapids - V1.25", "Version": "1.25", "Legend": ""}
    assert vpmu.read_events(Path(write(tmp_path, {"Header": header, "Events": EXCERPT}))) == events
    assert vpmu.read_events(write(tmp_path, "\ufeff" + json.dumps(EXCERPT))) == events
    assert [event.name for event in events] == [row["EventName"] for row in EXCERPT]


def test_events_of_sapphire_rapids(tmp_path: Path) -> None:
    events = {event.name: event for event in read(tmp_path, *EXCERPT, cpu=RAPIDS)}
    slots = events["TOPDOWN.SLOTS"]
    assert slots == vpmu.FileEvent(
        "TOPDOWN.SLOTS", "TOPDOWN.SLOTS.", (0,), (4,), fixed_counters=8, sample_after_value=10000003
    )
    assert events["INST_RETIRED.ANY"].fixed_counters == 1
    assert events["ITLB_MISSES.WALK_ACTIVE"].gp_counters == 0xF
    assert events["ITLB_MISSES.WALK_ACTIVE"].selector() == 0x01031011
    assert events["CPU_CLK_UNHALTED.PAUSE_INST"].selector(user=False, kernel=False) == 0x010440EC
    assert events["CPU_CLK_UNHALTED.PAUSE_INST"].selector(kernel=False) == 0x010540EC
    old, new = events["ARITH.DIVIDER_ACTIVE"], events["ARITH.DIV_ACTIVE"]
    assert (old.deprecated, new.deprecated, old.selector()) == (True, False, new.selector())
    frontend = events["FRONTEND_RETIRED.LATENCY_GE_2"]
    assert (frontend.taken_alone, frontend.msr_index, frontend.msr_value) == (True, (0x3F7,), (0x600206,))
    assert frontend.gp_counters == 0xFF
    offcore = events["OCR.HWPF_L2.ANY_RESPONSE"]
    assert offcore.codes == (0x2A, 0x2B)
    assert (offcore.msr_index, offcore.msr_value) == ((0x1A6, 0x1A7), (0x10070, 0x10070))
    assert [offcore.selector(i) for i in range(offcore.positions)] == [0x3012A, 0x3012B]
    for position in (2, -1):
        with pytest.raises(IndexError, match=r"OCR.HWPF_L2.ANY_RESPONSE has 2 selectors"):
            offcore.selector(position)
    assert not any(event.taken_alone or event.msr_index for event in (slots, old, new))


def test_files_of_linux_leave_out_what_is_zero(tmp_path: Path) -> None:
    tsc, branches, pmm = read(tmp_path, *LINUX)
    assert (tsc.codes, tsc.umasks, tsc.gp_counters, tsc.fixed_counters) == ((0,), (3,), 0, 4)
    assert (branches.selector(), branches.gp_counters, branches.description) == (0x300C4, 0xFFFF, "")
    assert (pmm.codes, pmm.sample_after_value) == ((0x2A, 0x2B), 0)
    assert [event.gp_counters for event in read(tmp_path, *LINUX, cpu=RAPIDS)] == [0, 0xFF, 0xFF]


def test_selectors_of_a_file_are_those_of_perfs_terms(tmp_path: Path) -> None:
    for event in read(tmp_path, *EXCERPT, cpu=RAPIDS):
        if event.gp_counters:
            terms = f"event={event.codes[0]},umask={event.umasks[0]},cmask={event.cmask},edge={event.edge:d}"
            assert vpmu.event(f"cpu/{terms},inv={event.inv:d}/u", RAPIDS).selector == event.selector(kernel=False)


# -- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "value"),
    [("0x3C", 60), ("0X3c", 60), ("60", 60), (" 0x3c ", 60), (60, 60), ("0x0", 0), ("0", 0), ("007", 7)],
)
def test_numbers_in_any_radix_and_case(tmp_path: Path, code: Any, value: int) -> None:
    (event,) = read(tmp_path, COMMON | {"EventName": "X", "EventCode": code, "Counter": "0"})
    assert event.codes == (value,)


@pytest.mark.parametrize("none", ["", "null", "NULL", "NA", "n/a", "None", None, "0", "0x00"])
def test_many_ways_to_write_none(tmp_path: Path, none: Any) -> None:
    keys = ("UMask", "CounterMask", "Invert", "EdgeDetect", "AnyThread", "Equal", "UMaskExt", "SampleAfterValue")
    keys += ("MSRIndex", "MSRValue", "TakenAlone", "Deprecated")
    (event,) = read(tmp_path, {"EventName": "X", "EventCode": "0x3c", "Counter": "0,1"} | dict.fromkeys(keys, none))
    assert event == vpmu.FileEvent("X", "", (0x3C,), (0,), gp_counters=3)


def test_every_bit_of_a_selector(tmp_path: Path) -> None:
    flags = dict.fromkeys(("Invert", "EdgeDetect", "AnyThread", "Equal"), "1")
    full = entry("0xC0", "0x01", "X", "0", "1", CounterMask="0xFF", UMaskExt="0x80") | flags
    (event,) = read(tmp_path, full)
    assert event.selector() == 0x8010_FFA701C0
    assert (event.inv, event.edge, event.any_thread, event.equal, event.umask2) == (True, True, True, True, 0x80)
    for key, selector in (
        ("Invert", 0x8300C0),
        ("EdgeDetect", 0x700C0),
        ("AnyThread", 0x2300C0),
        ("Equal", 0x10_000300C0),
    ):
        (event,) = read(tmp_path, entry("0xC0", "0", "X", "0", "1", **{key: "1"}))
        assert event.selector() == selector


def test_umask2_has_three_spellings(tmp_path: Path) -> None:
    for other in ({"UMaskExt": "0x12"}, {"UMask2": "0x12"}, {"UMask": "0x1234"}, {"UMask": "0x1234", "UMaskExt": "18"}):
        (event,) = read(tmp_path, entry("0xD1", "0x34", "X", "0", "1") | other)
        assert event.selector() == 0x1200_000334D1


@pytest.mark.parametrize(
    ("code", "umask", "name", "other", "gp", "fixed"),
    [
        ("0xC0", "0", "X", {"Counter": "0,1,2,3"}, 0xF, 0),
        ("0xC0", "0", "X", {"Counter": " 0, 2 "}, 0x5, 0),
        ("0xC0", "0", "X", {"Counter": "1-3,7"}, 0x8E, 0),
        ("0xC0", "0", "X", {"Counter": 2}, 0x4, 0),
        ("0xC0", "0", "X", {"Counter": "0,1,Fixed counter 0"}, 0x3, 1),
        ("0xC0", "0", "X", {"Counter": "0,32"}, 0x1, 1),
        ("0xC0", "0", "X", {"Counter": "33", "CounterType": "FIXED"}, 0, 2),
        ("0x00", "2", "X", {"Counter": "1", "CounterType": "FIXED"}, 0, 2),
        ("0x00", "0x03", "X", {"Counter": "FIXED"}, 0, 4),
        ("0x00", "0x04", "X", {"Counter": "Fixed"}, 0, 8),
        ("0x00", "7", "X", {"Counter": "fixed counter"}, 0, 0x40),
        ("0xC0", "0", "INST_RETIRED.ANY", {"Counter": "Fixed"}, 0, 1),
        ("0x3C", "0", "CPU_CLK_UNHALTED.CORE", {"Counter": "FIXED"}, 0, 2),
        ("0x00", "1", "X", {"Counter": "FIXED COUNTER 2"}, 0, 4),
        ("0x00", "2", "X", {}, 0, 2),
        ("0xC0", "2", "X", {}, 0xFFFF, 0),
        ("0xC0", "2", "X", {"Counter": "NA"}, 0xFFFF, 0),
    ],
)
def test_counters(tmp_path: Path, code: str, umask: str, name: str, other: dict[str, Any], gp: int, fixed: int) -> None:
    (event,) = read(tmp_path, {"EventName": name, "EventCode": code, "UMask": umask, **other})
    assert (event.gp_counters, event.fixed_counters) == (gp, fixed)


def test_an_event_that_is_there_twice_has_both_kinds_of_counters(tmp_path: Path) -> None:
    fixed = entry("0x00", "0x02", "CYCLES", "Fixed counter 1", "2000003")
    general = entry("0x3C", "0x00", "CYCLES", "0,1", "1000003")
    between = entry("0xC0", "0x00", "OTHER", "0,1", "1")
    for first, second in ((fixed, general), (general, fixed)):
        merged, other = read(tmp_path, first, between, second)
        assert (merged.gp_counters, merged.fixed_counters, merged.selector()) == (3, 2, 0x3003C)
        assert (merged.sample_after_value, other.name) == (1000003, "OTHER")
    (same,) = read(tmp_path, general, general | {"Counter": "3", "BriefDescription": "again"})
    assert (same.gp_counters, same.description) == (0b1011, "CYCLES.")
    # What is not the same event stays: other codes, a deprecated duplicate, the other kind of core.
    assert len(read(tmp_path, general, general | {"UMask": "1"})) == 2
    assert [event.deprecated for event in read(tmp_path, general, general | {"Deprecated": "1"})] == [False, True]
    cores = read(tmp_path, general | {"Unit": "cpu_atom"}, fixed | {"Unit": "cpu_core"})
    assert [event.unit for event in cores] == ["cpu_atom", "cpu_core"]


def test_lists_of_unit_masks_pair_with_registers(tmp_path: Path) -> None:
    lists = entry("0xB7", "0x01,0x02", "X", "0", "1", MSRIndex="0x1a6,0x1a7", MSRValue="1,2")
    (event,) = read(tmp_path, lists | {"ProgrammingRestriction": "MSRIndex-UMask"})
    assert [event.selector(i) for i in range(2)] == [0x301B7, 0x302B7]
    assert (event.msr_value, event.restriction) == ((1, 2), "MSRIndex-UMask")
    (none,) = read(tmp_path, entry("0xB7", "1", "X", "0", "1") | {"ProgrammingRestriction": "None"})
    assert none.restriction == ""


def test_errata_are_kept(tmp_path: Path) -> None:
    for text, errata in (("HSD29, HSM30", "HSD29, HSM30"), ("0", ""), ("null", "")):
        (event,) = read(tmp_path, entry("0xD0", "1", "X", "0", "1", Errata=text))
        assert event.errata == errata


def test_a_cpu_keeps_its_own_counters_and_refuses_other_selectors(tmp_path: Path) -> None:
    slots, itlb = read(tmp_path, EXCERPT[1], EXCERPT[2], cpu=SKYLAKE)
    assert (slots.fixed_counters, itlb.gp_counters) == (0, 0xF)
    halved = dataclasses.replace(RAPIDS, gp_mask=0b101)
    assert read(tmp_path, EXCERPT[4], cpu=halved)[0].gp_counters == 0b101
    with pytest.raises(
        vpmu.EventFileError, match=r"entry 2 \('X'\): selectors of skylake have no bits 0x120000000000;"
    ):
        read(tmp_path, EXCERPT[0], entry("0xC0", "0", "X", "0", "1", UMaskExt="0x12"), cpu=SKYLAKE)
    amd = dataclasses.replace(
        SKYLAKE, name="zen-four", vendor="amd", version=2, fixed_mask=0, features=frozenset({"zen4"})
    )
    with pytest.raises(vpmu.EventFileError, match="zen-four is a CPU of amd"):
        read(tmp_path, *EXCERPT, cpu=amd)


# -- files that are none ----------------------------------------------------------------------------------------------

GOOD = entry("0xC0", "0", "GOOD", "0", "1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "this is no JSON"),
        ("[1,", "this is no JSON"),
        ("[" * 100_000, "this is no JSON"),
        ("[" + "1" * 5000 + "]", "this is no JSON"),
        ("\\ud800", "this is no JSON"),
        ("5", "needs a list"),
        ('"EventName"', "needs a list"),
        ({}, "needs a list"),
        ({"Events": {}}, "needs a list"),
        ({"Events": None}, "needs a list"),
        ([], "there is no event in it"),
        ({"Header": {}, "Events": []}, "there is no event in it"),
        ([LINUX[2]], "there is no event in it"),
        ([GOOD, 7], "entry 2: must be an object, not 7"),
        ([GOOD, {}], "entry 2: has no EventName"),
        ([GOOD | {"EventName": ["x"]}], "EventName must be a string"),
        ([GOOD | {"EventName": "null"}], "has no EventName"),
        ([GOOD, {"EventName": "BAD", "Counter": "0"}], r"entry 2 \('BAD'\): has no EventCode"),
        ([{"EventName": "BAD", "UMask": "0x80"}], "has no EventCode"),
        ([{"EventName": "BAD", "Counter": "0,1", "UMask": "1"}], "has no EventCode"),
        ([GOOD | {"EventCode": "C0"}], "EventCode 'C0' is no number, such as 0x3C or 60"),
        ([GOOD | {"EventCode": "0x"}], "EventCode '0x' is no number"),
        ([GOOD | {"EventCode": "-1"}], "is no number"),
        ([GOOD | {"EventCode": "1_0"}], "is no number"),
        ([GOOD | {"EventCode": "9" * 5000}], "is no number"),
        ([GOOD | {"EventCode": "0x1C0"}], "EventCode '0x1C0' is above 0xff"),
        ([GOOD | {"EventCode": 1.5}], "EventCode must be a string, not 1.5"),
        ([GOOD | {"UMask": {"a": 1}}], "UMask must be a string"),
        ([GOOD | {"UMask": "0x10000"}], "UMask '0x10000' is above 0xffff"),
        ([GOOD | {"UMask": "0x100,0x200"}], "more than one UMaskExt"),
        ([GOOD | {"UMask": "0x101", "UMaskExt": "2"}], "more than one UMaskExt"),
        ([GOOD | {"EventCode": "1,2,3", "UMask": "1,2"}], "EventCode has 3 values and UMask 2"),
        ([GOOD | {"Invert": "2"}], "Invert '2' is above 0x1"),
        ([GOOD | {"CounterMask": "256"}], "CounterMask '256' is above 0xff"),
        ([GOOD | {"SampleAfterValue": "many"}], "SampleAfterValue 'many' is no number"),
        ([GOOD | {"MSRIndex": "0x1a6,0x1a7", "MSRValue": "1,2,3"}], "MSRIndex has 2 values and MSRValue 3"),
        ([GOOD | {"Counter": "Fixed"}], "Counter 'Fixed' does not say which fixed counter"),
        ([GOOD | {"Counter": "16"}], "there is no such counter"),
        ([GOOD | {"Counter": "3-1"}], "there is no such counter"),
        ([GOOD | {"Counter": "48"}], "there is no such counter"),
        ([GOOD | {"Counter": "0,,1"}], "is no list of counters"),
        ([GOOD | {"Counter": "counter"}], "is no list of counters"),
        ([GOOD | {"Counter": "FREERUN"}], "Counter 'FREERUN' is no list of counters"),
        ([GOOD | {"Unit": "CHA"}], "uncore unit 'cha'; give a core event file"),
    ],
)
def test_what_is_no_event_file_is_refused_in_one_line(tmp_path: Path, content: object, said: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(vpmu.EventFileError, match=said) as caught:
        vpmu.read_events(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 400
    assert isinstance(caught.value, vpmu.VpmuError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.entry) == (text, caught.value.entry)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(vpmu.EventFileError, match="No such file"):
        vpmu.read_events(tmp_path / "absent.json")
    with pytest.raises(vpmu.EventFileError, match="directory"):
        vpmu.read_events(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'["\xff"]')
    with pytest.raises(vpmu.EventFileError, match="no JSON"):
        vpmu.read_events(tmp_path / "latin.json")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 300),
    st.floats(),
    st.sampled_from(["0", "1", "0x3C", "Fixed counter 1", "FIXED", "0,1,2", "0x2A,0x2B", "0x1a6,0x1a7", "null", "x"]),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@given(
    st.lists(st.dictionaries(st.sampled_from([*EXCERPT[0], "UMaskExt", "Unit", "MetricName"]), VALUES), max_size=3),
    st.booleans(),
)
def test_any_entries_are_events_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], from_good: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps([GOOD | row if from_good else row for row in entries]), encoding="utf-8")
    with contextlib.suppress(vpmu.EventFileError):
        for event in vpmu.read_events(path):
            assert event.name
            assert event.gp_counters or event.fixed_counters
            assert all(event.selector(i) < 1 << 48 for i in range(event.positions))
            assert len(event.msr_index) == len(event.msr_value)


# -- the command line -------------------------------------------------------------------------------------------------


def test_list_events_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, [*EXCERPT, entry("0xd0", "0x81", "E", "0", "0", Errata="SKX1", Unit="cpu_atom")])
    rows = {row["name"]: row for row in strict_json(good("list", "events", "--events-file", path, "--format", "json"))}
    assert rows["OCR.HWPF_L2.ANY_RESPONSE"] == {
        "name": "OCR.HWPF_L2.ANY_RESPONSE",
        "raw": "r012a r012b",
        "counters": "GP 0xf",
        "sample_after": 100003,
        "notes": "MSR 0x1a6=0x10070 or 0x1a7=0x10070",
    }
    assert rows["FRONTEND_RETIRED.LATENCY_GE_2"]["notes"] == "taken alone; MSR 0x3f7=0x600206"
    assert rows["ARITH.DIVIDER_ACTIVE"]["notes"] == "deprecated"
    assert rows["E"]["notes"] == "cpu_atom; errata SKX1"
    assert (rows["TOPDOWN.SLOTS"]["raw"], rows["TOPDOWN.SLOTS"]["counters"]) == ("r0400", "fixed3")
    table = good("list", "events", "--events-file", path)
    assert all(name in table for name in rows)
    on_skylake = strict_json(good("list", "events", "--events-file", path, "--cpu", "skylake", "--format", "json"))
    counters = {row["name"]: row["counters"] for row in on_skylake}
    assert (counters["TOPDOWN.SLOTS"], counters["ARITH.DIV_ACTIVE"]) == ("none", "GP 0xf")


def test_list_events_of_a_cpu() -> None:
    def rows(cpu: str) -> dict[str, dict[str, Any]]:
        listed = strict_json(good("list", "events", "--cpu", cpu, "--format", "json"))
        return {row["name"]: row for row in listed}

    spr = rows("sapphirerapids")
    assert spr["cache-misses"] == {
        "name": "cache-misses",
        "raw": "r412e",
        "counters_on_sapphirerapids": "GP 0xff",
        "rates": True,
        "notes": "",
    }
    slots = spr["slots"]
    assert (slots["raw"], slots["counters_on_sapphirerapids"]) == ("r0400 r01a4", "fixed3 GP 0xff")
    lion = rows("lunarlake-p")["topdown-be-bound"]
    assert (lion["raw"], lion["counters_on_lunarlake-p"]) == ("r8300 r02a4", "PERF_METRICS GP 0x3ff")
    assert spr["topdown-fetch-lat"]["counters_on_sapphirerapids"] == "PERF_METRICS"
    assert spr["topdown-fetch-lat"]["rates"] is False
    skylake = rows("skylake")
    assert not {"slots", "lbr-inserts"} & set(skylake)
    assert skylake["mem_inst_retired.any"] == {
        "name": "mem_inst_retired.any",
        "raw": "r83d0",
        "counters_on_skylake": "GP 0xf",
        "rates": False,
        "notes": "code only",
    }
    milan = rows("milan")
    assert (milan["ex_ret_ops"]["raw"], milan["ex_ret_ops"]["notes"]) == ("r00c1", "code only")
    assert milan["merge"]["raw"] == "rf000000ff"
    text = good("list", "events", "--cpu", "skylake")
    for line in text.splitlines():
        if line.startswith(("cycles", "mem_inst_retired.any")):
            assert line.endswith("yes" if line.startswith("cycles") else "no     code only")
    assert "code only: " in text


@pytest.mark.parametrize("name", vpmu.cpus())
def test_no_cpu_has_rates_that_runs_nothing(name: str) -> None:
    rows = strict_json(good("list", "events", "--cpu", name, "--format", "json"))
    assert any(row["rates"] for row in rows) == (vpmu.cpu(name).costs is not None)


@pytest.mark.parametrize("name", vpmu.cpus())
def test_every_preset_has_a_list_of_events(name: str) -> None:
    rows = strict_json(good("list", "events", "--cpu", name, "--format", "json"))
    cpu = vpmu.cpu(name)
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["raw"]
        for raw in row["raw"].split():
            assert vpmu.event(raw, cpu).name == row["name"]
        assert row[f"counters_on_{name}"] != "none"


def test_bad_event_files_are_one_line_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD | {"EventCode": "C0"}])
    assert "entry 1 ('GOOD'): EventCode 'C0' is no number" in refused("list", "events", "--events-file", path)
    assert "No such file" in refused("list", "events", "--events-file", str(tmp_path / "absent.json"))
    assert "--events-file belongs to events" in refused("list", "cpus", "--events-file", path)
    assert "skylake" in refused("list", "events", "--events-file", path, "--cpu", "skylak")
    assert "--events-file" in good("list", "--help")


def test_an_empty_file_name_is_said(tmp_path: Path) -> None:
    assert refused("list", "events", "--events-file", "") == "vpmu: --events-file needs the name of a file, not ''"
    with pytest.raises(vpmu.EventFileError, match="the name of the file is empty"):
        vpmu.read_events("")


def test_tables_escape_what_a_terminal_would_obey(tmp_path: Path) -> None:
    wild = "A\x1b[31m\nB\x9b2J\u202eC\ud800é"
    path = write(tmp_path, [entry("0xd0", "0x81", wild, "0", "0", Errata="X\rY\x00")])
    table = good("list", "events", "--events-file", path)
    assert table.replace("\n", "").isprintable()
    assert r"A\x1b[31m\nB\x9b2J\u202eC\ud800é" in table
    assert r"errata X\rY\x00" in table
    (row,) = strict_json(good("list", "events", "--events-file", path, "--format", "json"))
    assert row["name"] == wild
    assert "\x1b" not in good("list", "events", "--events-file", path, "--format", "json")
