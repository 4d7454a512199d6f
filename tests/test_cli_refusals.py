"""Bad input on the command line: one line that says what to do, and status 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import (
    TABLE,
    TRACE,
    good,
    process,
    refused,
)


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
        (["--guest-perf", "record:cycles:freq=1000000"], "1 to 100000"),
        (["--guest-perf", "stat:cycles:interval=ever"], "no integer"),
        (["--guest-hz", "500"], "100, 250, 300, 1000"),
        (["--guest-kernel", "5.15"], "before 6.2"),
        (["--guest-kernel", "new"], "'6.14'"),
        (["--guest-perf", "record:cycles:period=0"], "from 1 to"),
        (["--guest-perf", "record:cycles:period=-5"], "from 1 to"),
        (["--guest-perf", f"record:cycles:period={1 << 47}"], "2**47 - 1"),
        (["--guest-perf", "record:cycles:period=1e6"], "no integer"),
        (["--guest-perf", "stat:" + ",".join(["cycles"] * 25)], "at most 24"),
        (["--guest-perf", "stat:{" + ",".join(["branches"] * 9) + "}"], "EINVAL"),
        (["--design", "mediated", "--guest-perf", "stat:slots"], "'slots'"),
        (["--guest-perf", ""], "stat"),
        (["--host-perf", "cycles:flexible"], "unknown host perf option"),
        (["--host-perf", "cycles:period=1:freq=1"], "not both"),
        (["--host-hz", "200"], "100, 250, 300, 1000"),
        (["--events-file", ""], "--events-file needs the name of a file"),
        (["--events-file", "/absent.json"], "/absent.json"),
        (["--host-perf", "cycles:pined"], "pinned"),
        (["--host-perf", "cycls:pinned"], "cycles"),
        (["--host-perf", "cycles:pinned:freq=0"], "1 to 100000"),
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
        (["list", "cpus", "--format", "xml"], "'csv'"),
        (["list", "cpus", "--cpu", "skylake"], "--cpu belongs to events and sequences, not to cpus"),
        (["list", "designs", "--cpu", "x"], "--cpu belongs to events and sequences, not to designs"),
        (["run", "--format", "csv", "x.toml"], "'json'"),
    ],
)
def test_bad_commands_are_refused(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


def test_messages_escape_what_a_terminal_would_obey() -> None:
    assert refused("compare", "a\x1b[2J.txt").isprintable()
    assert refused("run", "a\x1b[2J.toml") == r"vpmu: a\x1b[2J.toml: No such file or directory"


def test_refusal_in_a_process_of_its_own() -> None:
    done = process("compare", "sysbench-cpu", "--design", "medated")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"vpmu: unknown design 'medated'; did you mean mediated\b.*\n", done.stderr)
