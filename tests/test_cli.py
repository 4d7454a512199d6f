"""The command line as people use it: what it prints, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

import vpmu
from vpmu.cli import main

HERE = Path(__file__).resolve().parent
RECORDINGS = HERE / "recordings"
SCENARIOS = HERE / "scenarios"
TABLE = str(RECORDINGS / "table_report.txt")
TRACE = str(RECORDINGS / "ftrace_new.txt")

ROW_KEYS = {
    "design", "class", "passed_through", "overhead", "overhead_of_profiling", "assumed_share", "reason",
    "exits_per_s", "pmu_switches_per_s", "msr_ops_per_s", "guest", "host", "pmi", "host_blind_fraction", "violations",
    "notes", "assumed_share_of_profiling",
}  # fmt: skip
COUNTER_KEYS = {"event", "value", "ideal", "error", "losses", "gains", "flags", "reason", "samples"}
PMI_KEYS = {"raised", "delivered", "coalesced", "lost", "pending", "skid_past_exit"}


def call(*arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; anything but an exit status is an error of the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = main(arguments)
        except SystemExit as leaving:
            status = leaving.code
    return status, out.getvalue(), err.getvalue()


def good(*arguments: str) -> str:
    status, out, err = call(*arguments)
    assert status == 0, err
    return out


def refused(*arguments: str) -> str:
    """Run what must be refused and return the one line that says why; lines about a recording may come before it."""
    status, out, err = call(*arguments)
    assert status == 2
    assert out == ""
    lines = err.splitlines()
    assert err.endswith("\n")
    assert all(line.startswith("vpmu") for line in lines)
    assert "Traceback" not in err
    recorded = any(option in arguments for option in (TABLE, TRACE))
    assert len(lines) == 1 or recorded
    return lines[-1]


def process(*arguments: str, code: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: the module, or a piece of code before it."""
    start = ["-c", code] if code else ["-m", "vpmu.cli"]
    return subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, check=False, **options)


def rows(*arguments: str) -> dict[str, dict[str, Any]]:
    answer = json.loads(good("compare", *arguments, "--format", "json"))
    return {row["design"]: row for row in answer["rows"]}


def strict_json(text: str) -> Any:
    def no_constant(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=no_constant)


SHORT = ("sysbench-cpu", "--seconds", "0.002")


# -- compare ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", vpmu.workloads())
def test_compare_prints_json_of_every_workload_with_exactly_the_specified_keys(workload: str) -> None:
    answer = strict_json(
        good(
            *("compare", workload, "--seconds", "0.003", "--seed", "5", "--format", "json"),
            *("--host-perf", "cycles:pinned:exclude_guest", "--guest-perf", "record:cycles:period=200000"),
        )
    )
    assert set(answer) == {"vpmu", "scenario", "rows"}
    assert answer["vpmu"] == vpmu.__version__
    scenario = answer["scenario"]
    assert scenario["workload"] == workload
    assert (scenario["cpu"], scenario["seconds"], scenario["seed"]) == ("sapphirerapids", 0.003, 5)
    assert scenario["guest_perf"] == ["record:cycles:period=200000"]
    assert scenario["host_perf"] == ["cycles:pinned:exclude_guest"]
    assert tuple(row["design"] for row in answer["rows"]) == vpmu.designs()
    for row in answer["rows"]:
        assert set(row) == ROW_KEYS
        assert set(row["pmi"]) == PMI_KEYS
        assert set(row["msr_ops_per_s"]) == {"rdmsr", "wrmsr", "rdpmc"}
        assert row["class"] in (None, "emulated", "mediated", "virtualized")
        for number in (row["overhead"], row["overhead_of_profiling"], row["assumed_share"], row["exits_per_s"]):
            assert type(number) is float
        assert 0 <= row["assumed_share"] <= 1
        assert -1 < row["overhead"] < 1
        for counter in row["guest"] + row["host"]:
            assert set(counter) == COUNTER_KEYS
            for key in ("value", "ideal", "samples"):
                assert type(counter[key]) is int
            assert all(type(n) is int and n > 0 for n in [*counter["losses"].values(), *counter["gains"].values()])
            assert counter["value"] == (
                counter["ideal"] - sum(counter["losses"].values()) + sum(counter["gains"].values())
            )
            assert ("exact" in counter["flags"]) == (counter["value"] == counter["ideal"])
        pmi = row["pmi"]
        assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
    by_name = {row["design"]: row for row in answer["rows"]}
    assert by_name["none"]["overhead"] == 0
    assert by_name["none"]["guest"] == []
    assert by_name["bare-metal"]["host"] == []
    assert by_name["bare-metal"]["host_blind_fraction"] is None
    assert all(by_name[name]["guest"][0]["event"] == "cycles" for name in vpmu.designs() if name != "none")


def test_overheads_are_fractions_of_guest_work_per_wall_cycle(tmp_path: Path) -> None:
    def work(design: str, guest_perf: str) -> float:
        file = tmp_path / "s.toml"
        file.write_text(
            f'workload = "fio-4k-read"\nseconds = 0.01\ndesign = "{design}"\nguest_perf = [{guest_perf}]\n',
            encoding="utf-8",
        )
        cycles = json.loads(good("run", str(file), "--format", "json"))["ledger"]["cycles"]
        return (cycles["guest_user"] + cycles["guest_kernel"]) / sum(cycles.values())

    compared = rows("fio-4k-read", "--seconds", "0.01")
    baseline = work("none", "")
    for design in ("emulated", "mediated", "dedicated"):
        perf = work(design, '"stat:instructions,cycles"')
        assert compared[design]["overhead"] == pytest.approx(1 - perf / baseline, rel=1e-9)
        assert compared[design]["overhead_of_profiling"] == pytest.approx(1 - perf / work(design, ""), rel=1e-9)
        assert compared[design]["overhead"] > 0


def test_table_shows_every_row_grouped_counts_and_marks_what_is_assumed() -> None:
    arguments = ("sysbench-cpu", "--seconds", "0.05")
    text = good("compare", *arguments)
    compared = rows(*arguments)
    lines = text.splitlines()
    for name, row in compared.items():
        cost = next(line for line in lines if re.match(rf"\s*{name}\s", line))
        shown = abs(row["overhead"]) >= 1e-4
        assert ("~" in cost) == (row["assumed_share"] > 0.5 and shown)
        if "~" not in cost and row["overhead"] > 1e-4:
            assert f"{100 * row['overhead']:.2f} %" in cost
        for counter in row["guest"]:
            assert f"{counter['value']:,}" in text
            assert counter["value"] >= 1000
    assert "~" in text
    assumed = {name for name, figure in vpmu.cpu("sapphirerapids").costs.items() if figure.quality == "assumed"}
    legend = text[text.index("What decides") :]
    assert any(name in legend for name in assumed)
    assert "merged KVM then intercepts RDPMC" in text
    assert "\x1b" not in text


def test_table_says_whose_rates_a_recording_got() -> None:
    out = good(
        "compare", TABLE, "--table", "2", "--recorded-seconds", "10", "--seconds", "0.002", "--rates", "hackbench"
    )
    assert "--rates" in out
    assert "'hackbench'" in out
    out = good("compare", TABLE, "--table", "2", "--recorded-seconds", "10", "--seconds", "0.002")
    assert "'generic'" in out


def test_csv_has_one_line_per_design_side_and_event() -> None:
    arguments = (
        *("sysbench-cpu", "--seconds", "0.005", "--cpu", "skylake", "--guest-perf", "stat:instructions,branches:u"),
        *("--host-perf", "cycles:pinned:exclude_guest", "--host-perf", "watchdog"),
    )
    compared = rows(*arguments)
    lines = list(csv.DictReader(io.StringIO(good("compare", *arguments, "--format", "csv"))))
    expected = []
    for name, row in compared.items():
        sides = [("guest", c) for c in row["guest"]] + [("host", c) for c in row["host"]]
        expected += [(name, side, c["event"], str(c["value"]), str(c["ideal"])) for side, c in sides]
        if not sides:
            expected.append((name, "", "", "", ""))
    assert [(r["design"], r["side"], r["event"], r["value"], r["ideal"]) for r in lines] == expected
    for line in lines:
        row = compared[line["design"]]
        assert (float(line["overhead"]) if line["overhead"] else None) == row["overhead"]
        if line["value"]:
            losses = sum(int(cause.partition("=")[2]) for cause in line["losses"].split())
            gains = sum(int(cause.partition("=")[2]) for cause in line["gains"].split())
            assert int(line["value"]) == int(line["ideal"]) - losses + gains
    refusal = next(line for line in lines if line["design"] == "mediated")
    assert "EBUSY" in refusal["reason"]
    assert refusal["overhead"] == ""


def test_designs_can_be_chosen_with_options() -> None:
    chosen = ["mediated,scope=every-exit", "emulated,reuse=false", "mediated,sequence=linux-7.0-no-elision"]
    compared = rows(*SHORT, *(part for name in chosen for part in ("--design", name)))
    assert list(compared) == chosen
    assert list(rows(*SHORT, "--design", "mediated,scope=fastpath-loop")) == ["mediated"]


def test_seed_and_cpu_are_used() -> None:
    first, second, other = (
        rows("hackbench", "--seconds", "0.003", "--seed", seed, "--design", "mediated") for seed in ("1", "1", "2")
    )
    assert first == second
    assert first["mediated"]["guest"] != other["mediated"]["guest"]
    skylake = rows("hackbench", "--seconds", "0.003", "--cpu", "skylake", "--design", "mediated")
    assert skylake["mediated"]["guest"] != first["mediated"]["guest"]


def test_all_engines_print_the_same() -> None:
    arguments = ("fio-4k-read", "--seconds", "0.0005", "--format", "json")
    printed = {good("compare", *arguments, "--engine", engine) for engine in ("lazy", "stepwise", "reference")}
    assert printed == {good("compare", *arguments)}


def test_messages_about_a_recording_go_to_standard_error() -> None:
    status, out, err = call("compare", TABLE, "--recorded-seconds", "10", "--seconds", "0.002", "--format", "json")
    assert status == 0
    strict_json(out)
    assert "2 tables" in err
    assert "--table N" in err
    assert all(line.startswith("vpmu: ") for line in err.splitlines())


# -- run and list -----------------------------------------------------------------------------------------------------


def test_run_prints_the_row_of_compare_and_the_ledger() -> None:
    answer = strict_json(good("run", str(SCENARIOS / "mediated.toml"), "--format", "json"))
    assert set(answer) == ROW_KEYS | {"ledger", "provenance"}
    assert answer["design"] == "mediated,scope=every-exit"
    assert [c["event"] for c in answer["guest"]] == ["cycles", "instructions:u"]
    provenance = answer["provenance"]
    assert (provenance["cpu"], provenance["workload"], provenance["seed"]) == ("emeraldrapids", "hackbench", 7)
    assert provenance["costs"] == {"wrmsr": 140}
    cycles = answer["ledger"]["cycles"]
    end = int(0.0025 * vpmu.cpu("emeraldrapids").core_hz.value)
    assert end <= sum(cycles.values()) < 2 * end
    assert cycles["blind"] > 0


@pytest.mark.parametrize("name", ["mediated", "table", "trace"])
def test_run_shows_where_everything_went(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = good("run", str(SCENARIOS / f"{name}.toml"))
    for title in ("Cost", "Time", "Cycles by cost", "Exits", "PMIs:"):
        assert title in text
    ledger = strict_json(good("run", str(SCENARIOS / f"{name}.toml"), "--format", "json"))["ledger"]
    shown = [*ledger["cycles"].values(), *ledger["spent"].values(), *ledger["exits"].values()]
    printed = set(re.findall(r"[\d,]+", text))
    assert {f"{number:,}" for number in shown if number} <= printed


def test_recording_of_a_scenario_is_found_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    relative = json.loads(good("run", "scenarios/table.toml", "--format", "json"))
    monkeypatch.chdir("/")
    absolute = json.loads(good("run", str(SCENARIOS / "table.toml"), "--format", "json"))
    paths = [answer["provenance"]["recording"].pop("path") for answer in (relative, absolute)]
    assert absolute == relative
    assert all(path.endswith("table_report.txt") for path in paths)
    assert relative["provenance"]["workload"] == "table_report.txt"
    assert relative["provenance"]["recording"]["table"] == 2


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("cpus", vpmu.cpus()),
        ("designs", vpmu.designs()),
        ("workloads", vpmu.workloads()),
        ("sequences", vpmu.sequences()),
        ("events", ("instructions", "cycles", "ref-cycles", "branches", "cache-misses", "slots")),
    ],
)
def test_list_names_what_can_be_named(what: str, names: tuple[str, ...]) -> None:
    text = good("list", what)
    listed = [row["name"] for row in strict_json(good("list", what, "--format", "json"))]
    assert set(names) <= set(listed)
    assert all(name in text for name in names)
    assert text.count("\n") > len(names)


def test_list_events_shows_the_counters_of_a_cpu() -> None:
    def places(cpu: str) -> dict[str, str]:
        listed = strict_json(good("list", "events", "--format", "json", "--cpu", cpu))
        return {row["name"]: row[f"counters_on_{cpu}"] for row in listed}

    assert "fixed3" in places("sapphirerapids")["slots"]
    assert "fixed3" not in places("skylake")["slots"]
    assert "fixed0" in places("skylake")["instructions"]


# -- help and version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compare", "run", "list"])
def test_help_has_an_example(command: str) -> None:
    text = good(command, "--help")
    assert re.search(r"examples?:", text)
    assert text.count(f"vpmu {command} ") >= 2


def test_examples_of_the_help_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kvm-stat.txt").write_bytes(Path(TABLE).read_bytes())
    text = good("compare", "--help").partition("examples:")[2].replace("\\\n", " ")
    examples = [line.split()[1:] for line in text.splitlines() if line.strip().startswith("vpmu ")]
    assert len(examples) == 3
    for example in examples:
        good(*example, "--seconds", "0.002")
    assert "vpmu list workloads" in good("list", "--help")
    good("list", "workloads")


def test_scenario_of_the_help_of_run_works(tmp_path: Path) -> None:
    text = good("run", "--help").partition("as keys:")[2].partition("A recording")[0]
    (tmp_path / "scenario.toml").write_text(text.replace("1.0", "0.002"), encoding="utf-8")
    assert strict_json(good("run", str(tmp_path / "scenario.toml"), "--format", "json"))["guest"]


def test_version() -> None:
    assert good("--version") == f"vpmu {vpmu.__version__}\n"


def test_module_and_script_are_the_same_program() -> None:
    arguments = ["compare", *SHORT, "--format", "json"]
    module = process(*arguments)
    script = Path(sysconfig.get_path("scripts")) / "vpmu"
    if not script.exists():
        pytest.skip("the script is not beside this Python")
    installed = subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False)
    assert (module.returncode, module.stderr) == (0, "")
    assert (installed.returncode, installed.stderr, installed.stdout) == (0, "", module.stdout)
    assert module.stdout == good(*arguments)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--design", "medated"], "mediated"),
        (["--design", ""], "known: "),
        (["--design", "mediated,scop=every-exit"], "scope"),
        (["--design", "mediated,scope=every"], "every-exit"),
        (["--design", "mediated,scope"], "fastpath-loop"),
        (["--design", "mediated,sequence=linux7"], "linux-7.0"),
        (["--design", "emulated,reuse=maybe"], "true or false"),
        (["--design", "none,reuse=true"], "option of design none"),
        (["--cpu", "saphirerapids"], "sapphirerapids"),
        (["--engine", "stepwize"], "stepwise"),
        (["--engine", "lasy"], "lazy"),
        (["--guest-perf", "stat:instuctions"], "instructions"),
        (["--guest-perf", "stet:instructions"], "stat"),
        (["--guest-perf", "record:cycles:perod=5"], "period"),
        (["--guest-perf", "record:cycles"], "period=1000000"),
        (["--guest-perf", "record:cycles:freq=1000"], "not simulated yet"),
        (["--guest-perf", "stat:cycles:interval=100"], "not simulated yet"),
        (["--guest-perf", "record:cycles:period=0"], "from 1 to"),
        (["--guest-perf", "record:cycles:period=-5"], "from 1 to"),
        (["--guest-perf", f"record:cycles:period={1 << 47}"], "2**47 - 1"),
        (["--guest-perf", "record:cycles:period=1e6"], "no integer"),
        (["--guest-perf", "stat:" + ",".join(["cycles"] * 13)], "multiplexing is not simulated yet"),
        (["--design", "mediated", "--guest-perf", "stat:slots"], "'slots'"),
        (["--guest-perf", ""], "stat"),
        (["--host-perf", "cycles"], "add :pinned"),
        (["--host-perf", "cycles:pined"], "pinned"),
        (["--host-perf", "cycls:pinned"], "cycles"),
        (["--host-perf", "cycles:pinned:freq=99"], "not simulated yet"),
        (["--host-perf", "cycles:pinned:exclude_host:exclude_guest"], "count nothing"),
        (["--seconds", "0"], "more than 0"),
        (["--seconds=-1"], "more than 0"),
        (["--seconds", "nan"], "number"),
        (["--seconds", "inf"], "number"),
        (["--seconds", "soon"], "number"),
        (["--seconds", "1/0"], "number"),
        (["--seconds", "1e-15"], "1 to 2**43 - 1"),
        (["--seconds", "1e8"], "1 to 2**43 - 1"),
        (["--seconds", "1e12"], "less than"),
        (["--seconds", "1e999999999"], "number"),
        (["--seed=-1"], "0 to 2**64 - 1"),
        (["--seed", str(1 << 64)], "0 to 2**64 - 1"),
        (["--seed", "1.5"], "--seed"),
        (["--table", "1"], "--table belongs to recordings"),
        (["--vcpus", "2"], "--vcpus belongs to recordings"),
        (["--vcpus", "0"], "--vcpus belongs to recordings"),
        (["--vcpu", "0"], "--vcpu belongs to recordings"),
        (["--recorded-seconds", "10"], "--recorded-seconds belongs to recordings"),
        (["--rates", "hackbench"], "--rates belongs to recordings"),
        (["--repeat"], "--repeat belongs to recordings"),
        (["--desing", "none"], "--help"),
        (["--format", "xml"], "'json'"),
        (["surplus\nargument"], "surplus"),
    ],
)
def test_bad_options_of_compare_are_refused_in_one_line_that_helps(arguments: list[str], said: str) -> None:
    seconds = [] if any("--seconds" in argument for argument in arguments) else ["--seconds", "0.001"]
    assert said in refused("compare", "sysbench-cpu", *seconds, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "0"], "2 tables"),
        (["--table", "3"], "2 tables"),
        (["--table", "1.5"], "--table"),
        (["--table", "2"], "--recorded-seconds"),
        (["--table", "2", "--recorded-seconds", "0"], "recorded-seconds"),
        (["--table", "2", "--recorded-seconds=-3"], "recorded-seconds"),
        (["--table", "2", "--recorded-seconds", "nan"], "recorded-seconds"),
        (["--table", "1", "--recorded-seconds", "0.5"], "--vcpus 3"),
        (["--table", "2", "--recorded-seconds", "10", "--vcpus", "0"], "vcpus"),
        (["--table", "2", "--recorded-seconds", "10", "--vcpus", str(10**30)], "vcpus"),
        (["--recorded-seconds", "10", "--vcpu", "0"], "--vcpu"),
        (["--table", "2", "--recorded-seconds", "10", "--repeat"], "belong to traces"),
        (["--table", "2", "--recorded-seconds", "10", "--rates", "hackbnch"], "hackbench"),
    ],
)
def test_bad_options_of_a_table_are_refused(arguments: list[str], said: str) -> None:
    assert said in refused("compare", TABLE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "1"], "no table"),
        (["--vcpu", "9"], "0, 1"),
        (["--vcpu=-1"], "0, 1"),
        (["--vcpus", "2"], "belong to tables"),
        (["--recorded-seconds", "1"], "belong to tables"),
        (["--seconds", "1"], "--repeat"),
    ],
)
def test_bad_options_of_a_trace_are_refused(arguments: list[str], said: str) -> None:
    assert said in refused("compare", TRACE, *arguments)


def test_smallest_number_of_vcpus_that_is_named_fits() -> None:
    short = ["compare", TABLE, "--table", "1", "--recorded-seconds", "0.5", "--seconds", "0.002"]
    named = re.search(r"--vcpus (\d+)", refused(*short))
    assert named is not None
    assert "--vcpus" in refused(*short, "--vcpus", str(int(named[1]) - 1))
    good(*short, "--vcpus", named[1])


def test_workloads_that_are_none() -> None:
    assert "sysbench-cpu" in refused("compare", "sysbench")
    assert "'/no/such/file'" in refused("compare", "/no/such/file")
    assert "'kvm.txt'" in refused("compare", "kvm.txt")
    assert "known: " in refused("compare", "")
    assert "--rates generic" in refused("compare", "generic")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x7fELF\0\0\0\xff\xfe", "binary"),
        (b"one two three\n" * 20, "no recording"),
        (Path(TABLE).read_bytes().partition(b"HLT")[0], ""),
    ],
)
@pytest.mark.parametrize("command", ["compare", "run"])
def test_files_that_hold_nothing(command: str, content: bytes, said: str, tmp_path: Path) -> None:
    if command == "run" and not content:
        return  # an empty scenario has all defaults
    file = tmp_path / "recording.txt"
    file.write_bytes(content)
    line = refused(command, str(file))
    assert str(file) in line
    assert said in line or command == "run"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed = 1.5", "seed 1.5 must be an integer from 0 to 2**64 - 1"),
        ("[costs]\nperf_enable = 1.5", "perf_enable 1.5 must be an integer from 0 to 2**40 - 1"),
    ],
)
def test_numbers_of_a_scenario_are_named_as_they_were_written(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(f'workload = "idle"\n{line}\n', encoding="utf-8")
    assert said in refused("run", str(file))


def test_directories_and_unreadable_paths_are_no_files(tmp_path: Path) -> None:
    assert "directory" in refused("compare", str(tmp_path))
    assert "directory" in refused("run", str(tmp_path)).lower()
    assert str(tmp_path / "absent.toml") in refused("run", str(tmp_path / "absent.toml"))
    assert "null" in refused("run", "scenario\0.toml")
    refused("compare", "recording\0.txt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["comapre"], "'compare'"),
        (["compare"], "WORKLOAD"),
        (["run"], "SCENARIO.toml"),
        (["list"], "what"),
        (["list", "cpu"], "'cpus'"),
        (["list", "events", "--cpu", "skylak"], "skylake"),
        (["list", "cpus", "--format", "csv"], "'json'"),
        (["run", "--format", "csv", "x.toml"], "'json'"),
    ],
)
def test_bad_commands_are_refused(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


def test_refusal_in_a_process_of_its_own() -> None:
    done = process("compare", "sysbench-cpu", "--design", "medated")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"vpmu: unknown design 'medated'; did you mean mediated\b.*\n", done.stderr)


# -- the surroundings -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes break differently here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", *SHORT],
        ["compare", *SHORT, "--format", "json"],
        ["compare", *SHORT, "--format", "csv"],
        ["list", "workloads"],
        ["compare", "--help"],
    ],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    if not buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "vpmu.cli", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["compare", *SHORT], ["compare", *SHORT, "--format", "json"], ["--help"]])
def test_a_full_disk_is_said_in_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vpmu.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        )
    assert done.returncode == 1
    assert re.fullmatch(r"vpmu: cannot write: .+\n", done.stderr)


@pytest.mark.parametrize("arguments", [["compare", *SHORT], ["list", "designs"], ["compare", "--help"]])
def test_a_terminal_without_typography_loses_characters_only(arguments: list[str]) -> None:
    done = process(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "mediated" in done.stdout


# Runs the command line and says on standard error when the simulation has first returned from a slice of work.
TELLS = """
import sys, vpmu._simulate
from vpmu.cli import main
machine, told = vpmu._simulate.Machine, []
class Telling:
    def __init__(self, *arguments):
        self.machine = machine(*arguments)
    def advance(self):
        done = self.machine.advance()
        if not told:
            told.append(print("ended" if done else "simulating", file=sys.stderr, flush=True))
        return done
    def __getattr__(self, name):
        return getattr(self.machine, name)
vpmu._simulate.Machine = Telling
sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent by POSIX means")
@pytest.mark.parametrize("form", ["table", "json"])
def test_interrupting_a_long_run_ends_it_at_once(form: str) -> None:
    long_run = ["compare", "fio-4k-read", "--seconds", "2000", "--engine", "stepwise", "--format", form]
    with subprocess.Popen(
        [sys.executable, "-c", TELLS, *long_run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stderr is not None
            assert running.stderr.readline() == "simulating\n"
            started = time.monotonic()
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
            assert time.monotonic() - started < 5  # the run itself takes minutes
            assert (running.returncode, out, err) == (130, "", "vpmu: interrupted\n")
        finally:
            running.kill()


NO_RICH = "import sys; sys.modules['rich'] = None; from vpmu.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    "arguments", [["compare", *SHORT], ["run", str(SCENARIOS / "mediated.toml")], ["list", "cpus"]]
)
def test_without_rich_tables_say_what_to_install(arguments: list[str]) -> None:
    done = process(*arguments, code=NO_RICH)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"vpmu: .*pip install 'vpmu\[cli\]'.*\n", done.stderr)
    done = process(*arguments, "--format", "json", code=NO_RICH)
    assert (done.returncode, done.stderr) == (0, "")
    strict_json(done.stdout)


def test_importing_vpmu_imports_no_optional_package() -> None:
    done = process(code="import sys, vpmu; print(*{name.partition('.')[0] for name in sys.modules})")
    assert done.returncode == 0, done.stderr
    assert not {"rich", "pandas", "matplotlib", "scipy", "argparse"} & set(done.stdout.split())


def test_importing_vpmu_costs_little_beside_numpy(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    code = (
        "import time, numpy; start = time.process_time(); import {module}; print(1000 * (time.process_time() - start))"
    )

    def milliseconds() -> float:
        done = process(code=code.format(module="vpmu"), env=environment)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    milliseconds()  # compiles the bytecode
    assert min(milliseconds() for _ in range(5)) <= 40
