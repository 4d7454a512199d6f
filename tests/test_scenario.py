"""Scenarios, in Python and as files: what is accepted, what is refused, and that nothing else happens."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import vpmu
from vpmu import testing
from vpmu._costs import COST_NAMES
from vpmu._workload import Exact
from vpmu.cli import main

RECORDINGS = Path(__file__).resolve().parent / "recordings"
TABLE = str(RECORDINGS / "table_report.txt")
TRACE = str(RECORDINGS / "ftrace_new.txt")


def run_file(path: Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["run", str(path), "--format", "json"])
    return status, out.getvalue(), err.getvalue()


def run(tmp_path: Path, text: str | bytes) -> tuple[int, str, str]:
    file = tmp_path / "scenario.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return run_file(file)


def refused(tmp_path: Path, text: str | bytes) -> str:
    status, out, err = run(tmp_path, text)
    assert (status, out) == (2, "")
    *messages, last = err.splitlines()
    assert all(line.startswith("vpmu: ") for line in [*messages, last])
    assert not messages or "recording" in str(text)
    return last


def toml(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def document(table: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in table.items())


# -- files ------------------------------------------------------------------------------------------------------------

KEYS = (
    *("cpu", "design", "workload", "recording", "guest_perf", "host_perf", "seconds", "seed", "guest_pmu", "costs"),
    *("vm_first", "what_if"),
)
WRONG = {
    "integer": 5,
    "negative": -1,
    "float": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "string": "x",
    "empty string": "",
    "true": True,
    "list of integers": [1],
    "list of strings": ["x"],
    "list of lists": [[["x"]]],
    "table": {"x": 1},
    "nested tables": {"x": {"y": {"z": 1}}},
    "date": datetime.date(2024, 2, 29),
    "time": datetime.time(7, 30),
}
RIGHT = {
    *((key, "true") for key in ("vm_first", "what_if")),
    *((key, name) for key in ("seconds",) for name in ("float", "integer")),
    ("seed", "integer"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("key", KEYS)
def test_wrong_types_are_refused(key: str, kind: str, tmp_path: Path) -> None:
    table = {"seconds": Decimal("0.0005"), key: WRONG[kind]}
    if (key, kind) in RIGHT:
        table["cpu"] = "skylake"
        status, _, err = run(tmp_path, document(table))
        assert (status, err) == (0, "")
    else:
        line = refused(tmp_path, document(table))
        named = {"cpu": "CPU", "recording": "[recording]", "guest_perf": "perf", "host_perf": "perf"}.get(key, key)
        by_name = key in ("workload", "design", "guest_perf", "host_perf", "cpu", "costs")
        assert named in line or key in line or (by_name and "'x'" in line)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("key", ["version", "gp", "fixed", "widths"])
def test_wrong_types_in_guest_pmu_are_refused(key: str, kind: str, tmp_path: Path) -> None:
    if (key, kind) in {("gp", "integer"), ("version", "integer")}:
        return  # 5 fits
    assert "guest_pmu" in refused(tmp_path, document({"guest_pmu": {key: WRONG[kind]}}))


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_types_in_costs_are_refused(kind: str, tmp_path: Path) -> None:
    if kind == "integer":
        return
    assert "wrmsr" in refused(tmp_path, document({"costs": {"wrmsr": WRONG[kind]}}))


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("key", ["path", "recorded_seconds", "table", "vcpus", "vcpu", "rates", "repeat"])
@pytest.mark.parametrize("path", [TABLE, TRACE])
def test_wrong_types_in_recording_are_refused(path: str, key: str, kind: str, tmp_path: Path) -> None:
    fine = {"seconds": 0.0005, "recording": {"path": path, key: WRONG[kind]}}
    if path == TABLE:
        fine["recording"] = {"recorded_seconds": 10, "table": 1} | fine["recording"]
    else:
        del fine["seconds"]
    right = {(TABLE, "recorded_seconds"): ("integer",), (TABLE, "vcpus"): ("integer",), (TRACE, "repeat"): ("true",)}
    if kind in right.get((path, key), ()):
        fine.setdefault("seconds", 0.0005)
        assert run(tmp_path, document(fine))[0] == 0
    else:
        line = refused(tmp_path, document(fine))
        # A value of the right type is refused for what it is.
        fits = {"path": ("empty string",), "recorded_seconds": ("float",), "vcpu": ("integer", "negative")}
        fits["rates"] = ("string", "empty string")
        assert kind in fits.get(key, ()) or key in line or key.replace("_", "-") in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seconds = ", "no TOML"),
        ("[[[", "no TOML"),
        ("a = " + "[" * 5000, "no TOML"),
        (b"\xff\xfe\x00", "no TOML"),
        ("seed = " + "9" * 5000, "no TOML"),
        ("seconds = 1e99999999999999999999999", "TOML"),
        ("seed = 0x" + "f" * 5000, "64 bits"),
        (f"costs = {{wrmsr = {1 << 64}}}", "64 bits"),
        ("seed = 18446744073709551616", "64 bits"),
        ('cpus = "skylake"', "did you mean vcpus or cpu"),
        ('desing = "none"', "did you mean design"),
        ('cpu = "skylakes"', "did you mean skylake"),
        ('design = "mediate"', "did you mean mediated"),
        ('workload = "sysbench"', "did you mean sysbench-cpu"),
        ('guest_perf = "stat:cycles"', "list of strings"),
        ('guest_perf = ["stat:cycle"]', "did you mean cycles"),
        ("host_hz = 240", "100, 250, 300, 1000"),
        ("seconds = 0", "more than 0"),
        ("seconds = -0.5", "more than 0"),
        ("seconds = 1e10", "less than"),
        ("seconds = 2933.0", "2**43 - 1"),
        ("costs = {wrmrs = 1}", "did you mean wrmsr"),
        ("costs = {wrmsr = -1}", "wrmsr -1"),
        ("costs = {wrmsr = 1099511627776}", "wrmsr"),
        ("costs = {wrmsr = {cycles = 1}}", "wrmsr"),
        ("guest_pmu = {gp = 9}", "9 GP"),
        ("guest_pmu = {gp = 0}", "0 GP"),
        ("guest_pmu = {fixed = 5}", "5 fixed"),
        ("guest_pmu = {version = 6}", "version 6"),
        ("guest_pmu = {version = 1}", "version 1"),
        ("guest_pmu = {counters = 4}", "version, gp and fixed"),
        ('guest_pmu = {gp = 1, fixed = 0}\nguest_perf = ["stat:{cycles,cycles}"]', "1 GP and 0 fixed"),
        ("[recording]\ntable = 1", "[recording] with a path"),
        ('workload = "idle"\n[recording]\npath = "x"', "workload, or [recording]"),
        ('[recording]\npath = "absent.txt"', "absent.txt"),
        ('[recording]\npath = "a\\u0000b"', "vpmu"),
        (f'[recording]\npath = "{TABLE}"\nseconds = 10', "recorded_seconds"),
        (f'[recording]\npath = "{TABLE}"', "recorded-seconds"),
        (f'seconds = 1\n[recording]\npath = "{TRACE}"', "repeat"),
    ],
)
def test_bad_files_are_refused_with_what_to_do(text: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, text)


def test_an_empty_file_is_the_default_scenario(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer["design"] == "mediated"
    provenance = answer["provenance"]
    assert (provenance["cpu"], provenance["seconds"], provenance["seed"]) == ("sapphirerapids", 1.0, 1)
    assert provenance["guest_perf"] == ["stat:instructions,cycles"]


ODD = st.one_of(
    st.none().map(lambda _: datetime.date(2024, 2, 29)),
    st.booleans(),
    st.sampled_from([-(1 << 63), -1, 0, 1, 2, 3, 1 << 31, (1 << 40) - 1, 1 << 47, 1 << 62, (1 << 63) - 1, 1 << 64]),
    st.sampled_from([0.0, -0.5, 0.001, 1e-9, 1e300, float("nan"), float("inf")]),
    st.text(max_size=6),
    st.sampled_from(["none", "sysbench-cpu", "skylake", "watchdog", "stat:cycles", "mediated,scope", TRACE, "\0"]),
)
NESTED = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
EVENTS = st.sampled_from(["cycles", "instructions:u", "slots", "r00c4", "ref-cycles", "branches:k", "cpu/event=0x3c/u"])
GUEST = st.one_of(
    st.builds("stat:{}".format, st.lists(EVENTS, max_size=13).map(",".join)),
    st.builds("record:{}:period={}".format, EVENTS, st.sampled_from([0, 1, 3, 1000, 1 << 20, (1 << 47) - 1, 1 << 47])),
)
HOST = st.builds("{}:pinned{}".format, EVENTS, st.sampled_from(["", ":exclude_guest", ":exclude_host"]))
SMALL = st.integers(-1, 9)
SIMULATED = [name for name in vpmu.cpus() if vpmu.cpu(name).costs]
SANE: dict[str, st.SearchStrategy[Any]] = {
    "cpu": st.sampled_from([*SIMULATED, "nehalem", "lunarlake-e", "genoa", "pentium"]),
    "design": st.sampled_from([*vpmu.designs(), "mediated,scope=every-exit", "emulated,reuse=false", "mediated,x=y"]),
    "workload": st.sampled_from(vpmu.workloads()),
    "recording": st.fixed_dictionaries(
        {"path": st.sampled_from([TABLE, TRACE, "absent.txt"])},
        optional={
            "recorded_seconds": st.sampled_from([0, 1, 10, 0.5]),
            "table": SMALL,
            "vcpus": SMALL,
            "vcpu": SMALL,
            "rates": st.sampled_from([*vpmu.workloads(), "generic", "x"]),
            "repeat": st.booleans(),
        },
    ),
    "guest_perf": st.lists(GUEST, max_size=3),
    "host_perf": st.lists(HOST | st.just("watchdog"), max_size=13),
    "seconds": st.sampled_from([1e-9, 1e-6, 0.0002, 0.001]),
    "seed": st.integers(-1, 1 << 64),
    "guest_pmu": st.fixed_dictionaries({}, optional={"version": SMALL, "gp": SMALL, "fixed": SMALL}),
    "costs": st.dictionaries(
        st.sampled_from([*COST_NAMES, "x"]), st.sampled_from([-1, 0, 1, 5000, 1 << 20, (1 << 40) - 1, 1 << 40])
    ),
    "vm_first": st.booleans(),
    "what_if": st.booleans(),
}


@given(
    st.fixed_dictionaries({"seconds": SANE["seconds"]}, optional={key: SANE[key] for key in KEYS if key != "seconds"}),
    st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=1),
)
@example({"seconds": 0.0005, "costs": dict.fromkeys(COST_NAMES, 0), "guest_perf": ["record:cycles:period=1"]}, {})
@example({"seconds": 0.0005, "costs": dict.fromkeys(COST_NAMES, (1 << 40) - 1), "workload": "fio-4k-read"}, {})
def test_any_scenario_runs_or_is_refused(sane: dict[str, Any], odd: dict[str, Any]) -> None:
    table = sane | odd
    with tempfile.TemporaryDirectory() as folder:
        status, out, err = run(Path(folder), document(table))
    assert status in (0, 2)
    assert all(line.startswith("vpmu: ") for line in err.splitlines())
    if status == 2:
        assert (out, bool(err)) == ("", True)
        return
    answer = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert not [violation for violation in answer["violations"] if not violation.startswith("no-progress")]
    for counter in answer["guest"] + answer["host"]:
        assert counter["value"] == counter["ideal"] - sum(counter["losses"].values()) + sum(counter["gains"].values())
    share = answer["assumed_share"]
    assert share is None or 0 <= share <= 1


# -- Python -----------------------------------------------------------------------------------------------------------


def test_names_and_objects_are_the_same_scenario() -> None:
    by_name = vpmu.Scenario(
        cpu="skylake",
        design="emulated,reuse=false",
        workload="hackbench",
        guest_perf=["stat:cycles", "record:instructions:period=1000"],
        host_perf=["watchdog", "branches:pinned:exclude_guest"],
        seconds="0.25",
        seed=3,
    )
    assert by_name == vpmu.Scenario(
        cpu=vpmu.cpu("skylake"),
        design=vpmu.Emulated(reuse=False),
        workload=vpmu.workload("hackbench"),
        guest_perf=(vpmu.PerfStat(["cycles"]), vpmu.PerfRecord(["instructions"], period=1000)),
        host_perf=(vpmu.WATCHDOG, vpmu.HostEvent("branches", pinned=True, exclude_guest=True)),
        seconds=0.25,
        seed=3,
    )
    assert dataclasses.replace(by_name, seed=4) != by_name


@pytest.mark.parametrize("seconds", ["0.1", 0.1, Decimal("0.1"), Fraction(1, 10), "1/10"])
def test_seconds_are_exact_however_they_are_written(seconds: Exact) -> None:
    scenario = vpmu.Scenario(seconds=seconds)
    assert scenario.seconds == Fraction(1, 10)
    assert scenario.end_cycles == vpmu.cpu("sapphirerapids").core_hz.value // 10


@pytest.mark.parametrize(
    "arguments",
    [
        {"cpu": 5},
        {"cpu": None},
        {"design": 5},
        {"design": vpmu.Mediated},
        {"workload": 5},
        {"workload": vpmu.parse_event("cycles")},
        {"guest_perf": "stat:cycles"},
        {"guest_perf": [5]},
        {"guest_perf": [vpmu.WATCHDOG]},
        {"host_perf": ["watchdog", 5]},
        {"host_perf": ["watchdog"] * 21},
        {"host_perf": [vpmu.PerfStat(["cycles"])]},
        {"seconds": True},
        {"seconds": float("nan")},
        {"seconds": []},
        {"seed": True},
        {"seed": 1.0},
        {"seed": None},
        {"guest_pmu": {"gp": 4}},
        {"guest_pmu": vpmu.GuestPmu(gp="4")},  # type: ignore[arg-type]  # what is refused
        {"guest_pmu": vpmu.GuestPmu(gp=True)},
        {"costs": [("wrmsr", 1)]},
        {"costs": {"wrmsr": 1.5}},
        {"vm_first": "no"},
        {"what_if": 0},
        {"host_hz": 200},
        {"host_hz": True},
    ],
)
def test_wrong_arguments_raise_our_errors(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(vpmu.VpmuError, match="perf" if "perf" in name else name):
        vpmu.Scenario(**arguments)


def test_what_is_not_simulated_yet_says_so() -> None:
    with pytest.raises(vpmu.ScenarioError, match="full-width"):
        vpmu.simulate(
            vpmu.Scenario(
                cpu=dataclasses.replace(vpmu.cpu("skylake"), perf_capabilities=0), design="emulated", seconds=0.001
            )
        )


def test_guest_pmu_changes_limits_and_placement() -> None:
    events = ["stat:instructions,cycles,ref-cycles,branches"]
    default = vpmu.Scenario(guest_perf=events)
    assert default.placement() == (32, 33, 34, 0)
    small = vpmu.Scenario(guest_perf=events[:1], guest_pmu=vpmu.GuestPmu(version=2, gp=2, fixed=3))
    assert (small.guest_cpu.gp_counters, small.guest_cpu.fixed_counters, small.guest_cpu.version) == (2, 3, 2)
    few = vpmu.Scenario(guest_perf=["stat:instructions,cycles"], guest_pmu=vpmu.GuestPmu(gp=2, fixed=0))
    assert few.placement() == (0, 1)
    with pytest.raises(vpmu.ScenarioError, match="ref-cycles"):
        vpmu.Scenario(guest_perf=["stat:ref-cycles"], guest_pmu=vpmu.GuestPmu(gp=2, fixed=2))
    four = vpmu.Scenario(guest_perf=["stat:slots"], guest_pmu=vpmu.GuestPmu(version=5, gp=8, fixed=4))
    assert four.placement() == (35,)
    with pytest.raises(vpmu.ScenarioError, match="9 GP"):
        vpmu.Scenario(guest_pmu=vpmu.GuestPmu(gp=9))
    with pytest.raises(vpmu.ScenarioError, match="version 5"):
        vpmu.Scenario(cpu="skylake", guest_pmu=vpmu.GuestPmu(version=5, gp=4, fixed=3))


def test_a_guest_with_all_counters_of_the_host_reads_them_directly() -> None:
    cpu = vpmu.cpu("sapphirerapids")
    whole = vpmu.GuestPmu(version=cpu.version, gp=cpu.gp_counters, fixed=cpu.fixed_counters)
    limited, full = (
        vpmu.simulate(vpmu.Scenario(guest_pmu=pmu, guest_perf=["record:cycles:period=100000"], seconds=0.002))
        for pmu in (None, whole)
    )
    assert "RDPMC" not in limited.to_dict()["passed_through"]
    assert {"RDPMC", "global registers"} <= set(full.to_dict()["passed_through"])
    assert limited.exits.get("RDPMC", 0) > 0
    assert full.exits.get("RDPMC", 0) == 0
    assert any("intercepts RDPMC" in note for note in limited.notes)
    assert not any("intercepts RDPMC" in note for note in full.notes)
    testing.assert_exact(limited)
    testing.assert_exact(full)


def test_costs_given_with_the_scenario_count_and_are_assumed() -> None:
    scenario = vpmu.Scenario(workload="fio-4k-read", seconds=0.003)
    plain = vpmu.simulate(scenario)
    model = scenario.cpu.costs
    dear = dataclasses.replace(scenario, costs={"wrmsr": 10 * model["wrmsr"].value})
    dearer = vpmu.simulate(dear)
    assert model["wrmsr"].quality != "assumed"
    assert dear.cost_model()["wrmsr"].quality == "assumed"
    assert dear.cost_model()["rdmsr"] == model["rdmsr"]
    assert plain.overhead is not None
    assert dearer.overhead is not None
    assert plain.assumed_share is not None
    assert dearer.assumed_share is not None
    assert dearer.overhead > 2 * plain.overhead
    assert dearer.assumed_share > plain.assumed_share
    assert dearer.deciding_assumption == "wrmsr"
    assert dearer.raw["spent"]["wrmsr"] > 5 * plain.raw["spent"]["wrmsr"]
    same = vpmu.simulate(dataclasses.replace(scenario, costs={"wrmsr": model["wrmsr"].value}))
    testing.assert_same_counts(plain, same)
    free = vpmu.simulate(dataclasses.replace(scenario, costs=dict.fromkeys(COST_NAMES, 0)))
    assert free.overhead == pytest.approx(0, abs=0.001)


def test_longest_run_is_below_2_43_cycles() -> None:
    hz = vpmu.cpu("sapphirerapids").core_hz.value
    assert vpmu.Scenario(seconds=Fraction((1 << 43) - 1, hz)).end_cycles == (1 << 43) - 1
    with pytest.raises(vpmu.ScenarioError, match="2\\*\\*43"):
        vpmu.Scenario(seconds=Fraction(1 << 43, hz))
    assert vpmu.Scenario(seconds=Fraction(1, hz)).end_cycles == 1
    with pytest.raises(vpmu.ScenarioError, match="0 cycles"):
        vpmu.Scenario(seconds=Fraction(1, 3 * hz))


def test_numpys_integers_are_integers():
    """What a sweep over an array of seeds passes."""
    given_ = vpmu.Scenario(seed=np.uint64(2**64 - 1), costs={"vm_exit": np.int32(700)}, seconds="0.001")
    assert given_ == vpmu.Scenario(seed=2**64 - 1, costs={"vm_exit": 700}, seconds="0.001")
    json.dumps([given_.seed, given_.costs])
    for odd in (np.int64(-1), np.float64(1), np.True_):
        with pytest.raises(vpmu.ScenarioError, match="seed"):
            vpmu.Scenario(seed=odd)
