"""The progress bar: on a terminal, on standard error only, with and without rich."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vpmu import _progress
from vpmu.recordings import parse_recording
from vpmu.recordings._generate import generate

EXITS = 20_000
CODE = "import sys; {}; import vpmu._progress as p; p.PATIENCE = 0; from vpmu.cli import main; sys.exit(main())"
WAYS = {"rich": "pass", "plain": "sys.modules['rich'] = None"}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.txt"
    path.write_bytes(b"".join(generate(EXITS, 1)))
    return path


def compare(trace: Path, way: str, stderr: int) -> subprocess.CompletedProcess[bytes]:
    """Compare on the CSV's way out, for which rich is not needed; a cache makes the file be hashed."""
    environment = {**os.environ, "VPMU_CACHE_DIR": str(trace.parent / "cache"), "VPMU_CACHE_MIB": "100"}
    arguments = ["compare", str(trace), "--design", "none", "--format", "csv"]
    code = CODE.format(WAYS[way])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**environment, "TERM": "xterm", "COLUMNS": "80"},
        check=True,
    )


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals")
@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_shows_every_step(trace: Path, way: str) -> None:
    ours, theirs = os.openpty()
    pieces: list[bytes] = []

    def look() -> None:
        with contextlib.suppress(OSError):  # how Linux tells the end
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        done = compare(trace, way, theirs)
    finally:
        os.close(theirs)
        looking.join()
        os.close(ours)
    shown = b"".join(pieces)
    assert re.search(rb"100 ?%", shown)
    if way == "plain":
        for step in (b"hashing", b"reading", b"sorting", b"converting"):
            assert b"\r" + step + b" 100 %" in shown
        assert shown.count(b"\n") == 0
        assert shown.endswith(b"\r")
        assert b"\x1b" not in shown
    assert done.stdout.startswith(b"design,")
    assert b"\r" not in done.stdout.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("way", WAYS)
def test_a_pipe_shows_nothing(trace: Path, way: str) -> None:
    assert compare(trace, way, subprocess.PIPE).stderr == b""


def test_steps_are_told_to_their_end_and_never_backwards(trace: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    parse_recording(trace, progress=lambda what, at, end: told.setdefault(what, []).append((at, end)))
    size = trace.stat().st_size
    assert list(told) == ["reading", "sorting"]  # without a cache nothing is hashed
    assert told["sorting"][-1] == (2 * EXITS, 2 * EXITS)
    assert [end for _, end in told["reading"]] == [size] * len(told["reading"])
    ats = [at for at, _ in told["reading"]]
    assert ats == sorted(ats)
    assert ats[-1] == size
    assert len(ats) > 5


def test_the_line_is_shown_late_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with _progress.progress_bar() as report:
        report("reading", 1, 2)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    with _progress.progress_bar() as report:
        report("reading", 1, 2)
        report("reading", 1, 2)
        report("on", 3, 2)
        report("on", 0, 0)
    assert terminal.getvalue() == "\rreading 50 %\ron 100 %    \ron 0 %  \r      \r\r"
