"""The cache of recordings: found by content, never wrong, never in the way."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_files import SYNTHETIC, said, trace_of

import vpmu
from vpmu import _trace_cycles
from vpmu._scenario import plan
from vpmu.cli import main
from vpmu.recordings import TraceRecording, _cache
from vpmu.recordings._generate import generate
from vpmu.recordings._lines import LineReader
from vpmu.recordings._trace_reader import TraceReader
from vpmu_core.machine import Machine

EXITS = 6000  # more than the 1 MiB from which a file's exits are kept
COLUMNS = ("exit_ns", "entry_ns", "reason", "msr", "msr_write", "userspace", "handled", "kind")
CPU = vpmu.cpu("sapphirerapids")


def write(path: Path, exits: int = EXITS, seed: int = 1) -> Path:
    path.write_bytes(b"".join(generate(exits, seed)))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VPMU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("VPMU_CACHE_MIB", raising=False)
    return tmp_path / "cache" / "recordings"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been done since: "parsed", "converted"."""
    done = []

    def noting(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any, **options: Any) -> Any:
            done.append(what)
            return function(*arguments, **options)

        return note

    monkeypatch.setattr(TraceReader, "finish", noting("parsed", TraceReader.finish))
    monkeypatch.setattr(_trace_cycles, "_fill", noting("converted", _trace_cycles._fill))
    return done


def same(one: TraceRecording, other: TraceRecording) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS) and (
        one.reasons,
        one.kinds,
        one.vcpus,
        one.length_ns,
    ) == (other.reasons, other.kinds, other.vcpus, other.length_ns)


def entries(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir()) if cache.exists() else []


def run(path: Path) -> dict[str, Any]:
    return vpmu.simulate(vpmu.Scenario(workload=vpmu.read_recording(path), design="mediated")).raw


# -- hits -------------------------------------------------------------------------------------------------------------


def test_the_second_run_neither_parses_nor_converts_and_counts_the_same(
    cache: Path, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.txt")
    first = run(path)
    assert parsed == ["parsed", "converted"]
    assert len(entries(cache)) == 2
    moved = path.rename(tmp_path / "another name.txt")
    assert run(moved) == first
    assert parsed == ["parsed", "converted"]
    monkeypatch.setenv("VPMU_CACHE_MIB", "0")
    assert run(moved) == first
    assert parsed == ["parsed", "converted"] * 2


def test_a_comparison_converts_once(cache: Path, tmp_path: Path, parsed: list[str]) -> None:
    vpmu.compare(vpmu.Scenario(workload=vpmu.read_recording(write(tmp_path / "t.txt"))))
    assert parsed == ["parsed", "converted"]


def test_the_clock_and_the_costs_decide_the_cycles(cache: Path, tmp_path: Path, parsed: list[str]) -> None:
    recorded = vpmu.read_recording(write(tmp_path / "t.txt"))
    _, fast = recorded.trace(CPU)
    _, slow = recorded.trace(vpmu.cpu("skylake"))
    assert parsed == ["parsed", "converted", "converted"]
    assert not np.array_equal(fast.gap, slow.gap)
    _, again = vpmu.read_recording(tmp_path / "t.txt").trace(CPU)
    assert np.array_equal(fast.gap, again.gap)
    assert parsed == ["parsed", "converted", "converted"]


def test_content_decides_not_size_or_time(cache: Path, tmp_path: Path, parsed: list[str]) -> None:
    path = write(tmp_path / "t.txt")
    before, times = trace_of(path), path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-200] + content[-200:].replace(b"kvm_entry", b"kvm_inlet"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = trace_of(path)
    assert parsed == ["parsed", "parsed"]
    assert int(after.handled.sum()) == int(before.handled.sum()) - 1
    path.write_bytes(content)
    assert same(trace_of(path), before)
    assert parsed == ["parsed", "parsed"]


def test_each_vcpu_has_its_own_and_messages_name_the_file(cache: Path, tmp_path: Path, parsed: list[str]) -> None:
    other = b"".join(generate(100, 2)).replace(b"KVM-4242", b"KVM-4343").replace(b"vcpu 0", b"vcpu 1")
    path = tmp_path / "{0}%s.txt"
    path.write_bytes(b"".join(generate(EXITS, 1)) + other.replace(b"CPU 0", b"CPU 1"))
    assert said(trace_of(path), f"2 vCPUs in {path}")
    path = path.rename(tmp_path / "b.txt")
    assert said(trace_of(path), f"2 vCPUs in {path}")
    assert parsed == ["parsed"]
    assert [len(trace_of(path, vcpu=vcpu)) for vcpu in (0, 1, 1)] == [EXITS, 100, 100]
    assert parsed == ["parsed"] * 3
    with pytest.raises(vpmu.RecordingError, match="no exits of vCPU 2"):
        trace_of(path, vcpu=2)
    assert len(entries(cache)) == 3


def test_small_files_and_tables_leave_no_cache(cache: Path, tmp_path: Path) -> None:
    run(SYNTHETIC / "ftrace_new.txt")
    write(tmp_path / "small.txt", 1000)
    run(tmp_path / "small.txt")
    table = (SYNTHETIC / "table_report.txt").read_text()
    (tmp_path / "table.txt").write_text(table + "prose\n" * (1 << 18))
    vpmu.read_recording(tmp_path / "table.txt")
    assert entries(cache) == []


def test_columns_are_mapped_and_never_copied(cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", 100_000)
    recorded = vpmu.read_recording(path)
    tracemalloc.start()
    try:
        scenario = vpmu.Scenario(workload=vpmu.read_recording(path), design="none", guest_perf=())
        planned = plan(scenario)
        machine = Machine(planned, "lazy")
        while not machine.advance():
            pass
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(machine.result()["exits"]) >= 99_999
    assert held < 2**20  # one column of times is 800,000 bytes
    assert peak < 16 * 2**20  # blocks, whatever the length (test_recordings_scale.py)
    for name in COLUMNS:
        assert not getattr(recorded.recording, name).flags.owndata
        assert not getattr(recorded.recording, name).flags.writeable
    assert planned.trace is not None
    assert not planned.trace.gap.flags.owndata


# -- damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def other_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"False", b"True ", 1))


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def other_meta(path: Path) -> None:
    (path.parent / "meta.json").write_text(json.dumps({"body": "[1]", "crc32": 1}))


def bare_meta(path: Path) -> None:
    (path.parent / "meta.json").write_text("[]")


def deep_meta(path: Path) -> None:
    (path.parent / "meta.json").write_text("[" * 100_000)


def no_meta(path: Path) -> None:
    (path.parent / "meta.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [flip, cut, lengthen, other_header, garbage, Path.unlink, other_meta, bare_meta, deep_meta, no_meta],
    ids=lambda damage: damage.__name__,
)
@pytest.mark.parametrize("column", ["kind", "gap"])
def test_damaged_entries_are_made_anew(
    damage: Callable[[Path], None], column: str, cache: Path, tmp_path: Path, parsed: list[str]
) -> None:
    path = write(tmp_path / "t.txt")
    first = run(path)
    [victim] = cache.glob(f"*/{column}.npy")
    damage(victim)
    assert run(path) == first
    again = "parsed" if column == "kind" else "converted"
    assert parsed == ["parsed", "converted", again]
    assert run(path) == first
    assert parsed == ["parsed", "converted", again]
    assert len(entries(cache)) == 2


def test_an_entry_that_is_a_file_is_in_the_way_of_nobody(cache: Path, tmp_path: Path, parsed: list[str]) -> None:
    path = write(tmp_path / "t.txt")
    first = trace_of(path)
    [name] = entries(cache)
    _cache._remove(str(cache / name))
    (cache / name).write_text("x")
    assert same(trace_of(path), first)
    assert same(trace_of(path), first)
    assert parsed == ["parsed", "parsed"]


# -- no room ----------------------------------------------------------------------------------------------------------


def test_an_unwritable_directory_is_said_once_and_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.txt")
    first = run(path)
    (tmp_path / "file").write_text("x")
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setenv("VPMU_CACHE_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("VPMU_CACHE_MIB", "100")
    monkeypatch.setattr(_cache.tempfile, "tempdir", str(spare))
    assert run(path) == first
    assert main(["compare", str(path), "--design", "none", "--format", "csv"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "cache" in line]
    assert len(said) == 1
    assert said[0].startswith(
        f"vpmu: the cache {tmp_path}/file/below cannot be written (Not a directory): using {spare}"
    )
    if os.name == "posix":
        assert list(spare.iterdir()) == []


def test_a_full_disk_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.txt")
    full = OSError(errno.ENOSPC, "No space left on device")
    really = _cache.write_files

    def write_files(folder: str, *arguments: Any) -> int:
        if folder.startswith(str(cache)) or everywhere:
            raise full
        return really(folder, *arguments)

    monkeypatch.setattr(_cache, "write_files", write_files)
    everywhere = False
    recording = trace_of(path)
    assert (len(recording), said(recording, "No space left on device")) == (EXITS, True)
    everywhere = True
    with pytest.raises(vpmu.RecordingError, match=r"no room .*No space left on device.*VPMU_CACHE_DIR"):
        trace_of(path)
    assert entries(cache) == []


def test_the_oldest_are_removed_first_and_nothing_else(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPMU_CACHE_MIB", "1")
    paths = [write(tmp_path / f"{seed}.txt", seed=seed) for seed in range(7)]
    cache.mkdir(parents=True)
    (cache / "not ours").mkdir()
    (cache / "not ours" / "big").write_bytes(bytes(2 << 20))
    used: list[str] = []
    for age, path in enumerate(paths):
        key = trace_of(path).key
        assert key is not None
        used.append(key)
        assert trace_of(paths[0]).key == used[0]  # used every time
        os.utime(cache / used[0] / "meta.json", (10**9 + age, 10**9 + age))
        os.utime(cache / key / "meta.json", (10**9 + age, 10**9 + age))
    left = [name for name in entries(cache) if name != "not ours"]
    size = sum(file.stat().st_size for name in left for file in (cache / name).iterdir())
    assert size <= 1 << 20
    assert set(left) == {used[0], *used[-4:]}  # five of 187 KB
    assert (cache / "not ours" / "big").exists()


def test_an_entry_beyond_the_limit_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPMU_CACHE_MIB", "1")
    assert len(trace_of(write(tmp_path / "t.txt", 40_000))) == 40_000
    assert entries(cache) == []


@pytest.mark.parametrize("limit", ["-1", "1e3", "many", "1" * 20])
def test_a_limit_that_is_none(limit: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPMU_CACHE_MIB", limit)
    with pytest.raises(vpmu.ScenarioError, match=f"VPMU_CACHE_MIB '{limit}' must be"):
        trace_of(write(tmp_path / "t.txt"))


def test_what_others_left_unfinished_is_removed_after_a_day(cache: Path, tmp_path: Path) -> None:
    for name, age in ((".vpmu-new-old", 2), (".vpmu-new-young", 0)):
        (cache / name).mkdir(parents=True)
        (cache / name / "gap.npy").write_bytes(b"x")
        then = (cache / name).stat().st_mtime - age * 86400
        os.utime(cache / name, (then, then))
    trace_of(write(tmp_path / "t.txt"))
    assert [name for name in entries(cache) if name.startswith(".")] == [".vpmu-new-young"]


# -- others -----------------------------------------------------------------------------------------------------------


def test_processes_at_the_same_time(cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", 20_000)
    code = (
        "import hashlib, sys, vpmu\n"
        "recorded = vpmu.read_recording(sys.argv[1])\n"
        "_, trace = recorded.trace(vpmu.cpu('sapphirerapids'))\n"
        "print(hashlib.sha256(recorded.recording.exit_ns.tobytes() + trace.gap.tobytes()).hexdigest())\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert {err for _, err in outputs} == {b""}
    assert len({out for out, _ in outputs}) == 1
    assert len(entries(cache)) == 2


def test_the_first_to_finish_wins_unless_it_is_damaged(cache: Path, tmp_path: Path) -> None:
    column = {"x": "<i8"}

    damaged = False

    def fill(append: Any) -> dict[str, Any]:
        _cache.keep("a" * 64, column, lambda append: append({"x": np.arange(3)}) or {})
        if damaged:
            cut(cache / ("a" * 64) / "x.npy")
        append({"x": np.arange(9)})
        return {}

    for kept in (3, 9):
        assert len(_cache.keep("a" * 64, column, fill).columns["x"]) == 9
        found = _cache.find("a" * 64, column)
        assert found is not None
        assert len(found.columns["x"]) == kept
        assert entries(cache) == ["a" * 64]
        damaged = True


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.txt")
    really = LineReader.blocks

    def blocks(lines: LineReader) -> Any:
        for number, block in enumerate(really(lines)):
            if number == 1:
                with path.open("ab") as file:
                    file.write(b"".join(generate(10, 2)).replace(b" 100.", b" 200."))
            yield block

    monkeypatch.setattr(LineReader, "blocks", blocks)
    assert len(trace_of(path)) == EXITS + 10
    assert entries(cache) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_long_trace_from_a_pipe_is_mapped_and_not_kept(cache: Path, tmp_path: Path) -> None:
    path, pipe = write(tmp_path / "t.txt", 70_000), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(path.read_bytes(),))
    writer.start()
    piped = vpmu.read_recording(pipe)
    writer.join()
    assert isinstance(piped.recording, TraceRecording)
    assert piped.recording.key is None
    assert not piped.recording.exit_ns.flags.owndata
    _, one = piped.trace(CPU)
    assert entries(cache) == []
    recorded = vpmu.read_recording(path)
    assert isinstance(recorded.recording, TraceRecording)
    assert same(piped.recording, recorded.recording)
    _, other = recorded.trace(CPU)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("gap", "handling", "idle"))


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"VPMU_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": "/y"}, "/y/vpmu"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/vpmu"),
        ("linux", {"VPMU_CACHE_DIR": ""}, "/home/me/.cache/vpmu"),
        ("darwin", {"XDG_CACHE_HOME": "/y"}, "/home/me/Library/Caches/vpmu"),
        ("win32", {"LOCALAPPDATA": "/z"}, "/z/vpmu"),
    ],
)
def test_where_it_is(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VPMU_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert _cache.directory() == expected
