"""The command line among pipes, disks, terminals, signals and packages that are missing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import (
    SCENARIOS,
    SHORT,
    process,
    strict_json,
)


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
    assert not {"rich", "pandas", "polars", "typer", "matplotlib", "scipy", "argparse"} & set(done.stdout.split())


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
