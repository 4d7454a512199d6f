"""Running the command line in tests."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vpmu.cli import main

HERE = Path(__file__).resolve().parent
RECORDINGS = HERE / "recordings"
SCENARIOS = HERE / "scenarios"
TABLE = str(RECORDINGS / "table_report.txt")
TRACE = str(RECORDINGS / "ftrace_new.txt")


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
