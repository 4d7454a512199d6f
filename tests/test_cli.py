"""``vpmu compare``, ``run``, ``list`` and their help, as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from command_line import (
    HERE,
    SCENARIOS,
    SHORT,
    TABLE,
    call,
    good,
    process,
    rows,
    strict_json,
)

import vpmu

ROW_KEYS = {
    "design", "class", "passed_through", "overhead", "overhead_of_profiling", "assumed_share", "reason",
    "exits_per_s", "pmu_switches_per_s", "msr_ops_per_s", "guest", "host", "pmi", "host_blind_fraction", "violations",
    "notes", "assumed_share_of_profiling",
}  # fmt: skip
COUNTER_KEYS = {
    *("event", "value", "ideal", "error", "losses", "gains", "flags", "reason", "samples", "enabled", "running"),
}
PMI_KEYS = {"raised", "delivered", "coalesced", "lost", "pending", "skid_past_exit"}


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
    assert "slots" not in places("skylake")
    assert "fixed0" in places("skylake")["instructions"]


@pytest.mark.parametrize("what", ["cpus", "designs", "workloads", "sequences", "events"])
def test_list_prints_csv(what: str) -> None:
    text = good("list", what, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    named = [row["name"] for row in strict_json(good("list", what, "--format", "json"))]
    assert [line["name"] for line in lines] == named
    assert all(None not in line and None not in line.values() for line in lines)
    assert "\r" not in text
    assert text.count("\n") == len(named) + 1


def test_csv_of_lists_has_the_values_of_the_json() -> None:
    arguments = ("list", "events", "--cpu", "skylake", "--format")
    lines = list(csv.DictReader(io.StringIO(good(*arguments, "csv"))))
    for line, row in zip(lines, strict_json(good(*arguments, "json")), strict=True):
        assert line == {**row, "rates": "yes" if row["rates"] else "no"}
    workloads = csv.DictReader(io.StringIO(good("list", "workloads", "--format", "csv")))
    assert all(float(line["exits_per_s"]) >= 0 for line in workloads)  # no thousands separators


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
