"""Long traces: time linear and memory constant from reading to the last exit of the replay, up to two million exits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpmu._errors import ScenarioError
from vpmu.recordings import TraceRecording, parse_recording
from vpmu.recordings._generate import generate

SMALL, LARGE = 500_000, 2_000_000

# Read, convert and replay: CPU seconds, the most anonymous memory, and the most memory with what is mapped from files.
CODE = """
import json, sys, time, vpmu

most = all = 0

def look(*_):
    global most, all
    with open("/proc/self/status") as status:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "VmHWM:"))}
    most, all = max(most, kib["RssAnon"]), kib["VmHWM"]

started = time.process_time()
recorded = vpmu.read_recording(sys.argv[1], progress=look)
scenario = vpmu.Scenario(workload=recorded, design="none", guest_perf=())
recorded.trace(scenario.cpu, scenario.cost_model(), look)
look()
result = vpmu.simulate(scenario, progress=look)
look()
seconds = time.process_time() - started
raw = json.dumps(result.raw, sort_keys=True)
print(json.dumps({"seconds": seconds, "kib": most, "all_kib": all, "exits": sum(result.exits.values()), "raw": raw}))
"""


def replay(path: Path, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "VPMU_CACHE_DIR": str(cache), "VPMU_CACHE_MIB": "1000"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_two_million_exits_take_linear_time_and_constant_memory(tmp_path: Path) -> None:
    first, second = {}, {}
    for exits in (SMALL, LARGE):
        path = tmp_path / f"{exits}.txt"
        with path.open("wb") as file:
            file.writelines(generate(exits, 1))
        first[exits] = replay(path, tmp_path / "cache")
        assert exits - 1 <= first[exits]["exits"] <= exits  # the last may fall on the end
        second[exits] = replay(path, tmp_path / "cache")
        path.unlink()
        assert second[exits]["raw"] == first[exits]["raw"]
        assert second[exits]["seconds"] < first[exits]["seconds"]
    for runs in (first, second):
        few, many = runs[SMALL], runs[LARGE]
        # The text of 1,500,000 exits is 282 MB, their columns are 82 MB.
        assert many["kib"] - few["kib"] < 4096, (few["kib"], many["kib"])
        assert many["all_kib"] - few["all_kib"] < 8192, (few["all_kib"], many["all_kib"])
        assert many["seconds"] < 2 * LARGE / SMALL * few["seconds"] + 0.5, (few["seconds"], many["seconds"])


def test_many_vcpus_share_the_buffers(tmp_path: Path) -> None:
    vcpus, exits = 300, 600  # more rows than a share of the buffers, more bytes than the spool has in memory
    blocks = [b"".join(generate(exits, seed)).replace(b"-4242", b"-%d" % (1000 + seed)) for seed in range(vcpus)]
    texts = [
        block.replace(b"CPU 0", b"CPU %d" % n).replace(b"vcpu 0", b"vcpu %d" % n) for n, block in enumerate(blocks)
    ]
    by_time = sorted((line for text in texts for line in text.splitlines(True)), key=lambda line: line.split()[4])
    (tmp_path / "all.txt").write_bytes(b"".join(by_time))
    for vcpu in (0, 7, 299):
        (tmp_path / "one.txt").write_bytes(texts[vcpu])
        one, among = (parse_recording(tmp_path / name, vcpu=vcpu) for name in ("one.txt", "all.txt"))
        assert isinstance(one, TraceRecording)
        assert isinstance(among, TraceRecording)
        assert len(among.vcpus) == vcpus
        assert len(among) == exits
        for column in ("exit_ns", "entry_ns", "msr", "msr_write", "handled"):
            assert np.array_equal(getattr(one, column), getattr(among, column))
        assert [one.reasons[i] for i in one.reason] == [among.reasons[i] for i in among.reason]


# -- the synthetic text -----------------------------------------------------------------------------------------------


def test_the_text_is_the_same_everywhere(tmp_path: Path) -> None:
    text = b"".join(generate(20_000, 3))
    assert hashlib.sha256(text).hexdigest() == "e97801c39aba80cfd819741410f2913752cd3e37088b954cea3c1cf4a99b43a6"
    assert text == b"".join(generate(20_000, 3)) != b"".join(generate(20_000, 4))
    assert b"".join(generate(20_000, 3)).startswith(b"".join(generate(16_384, 3)))
    (tmp_path / "t.txt").write_bytes(text)
    recording = parse_recording(tmp_path / "t.txt")
    assert len(recording) == 20_000  # type: ignore[arg-type]  # a trace has a length
    assert recording.messages == ()
    assert recording.skipped_lines == 0


def command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "vpmu.recordings", *arguments], capture_output=True, check=False)


def test_command_that_generates() -> None:
    done = command("generate", "1000", "--seed", "5")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(generate(1000, 5))
    assert command("generate", "1_000").stdout == b"".join(generate(1000, 1))


@pytest.mark.parametrize("arguments", [("0",), ("-3",), ("1000000001",), ("10", "--seed", "-1"), ("ten",), ()])
def test_command_refuses_in_one_line(arguments: tuple[str, ...]) -> None:
    done = command("generate", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(b"python -m vpmu.recordings")
    if arguments and arguments[0] != "ten":
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_command_says_that_it_cannot_write() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vpmu.recordings", "generate", "1000"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"python -m vpmu.recordings: cannot write: No space left on device\n"


def test_arguments_are_checked_before_the_first_block() -> None:
    with pytest.raises(ScenarioError, match="exits 0"):
        generate(0, 1)
