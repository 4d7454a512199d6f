"""How fast traces are read, converted, and replayed; from text, and from the cache."""

import time

import numpy as np
import pytest

import vpmu
from vpmu._scenario import plan
from vpmu.recordings import parse_recording
from vpmu.recordings._generate import generate
from vpmu.recordings._trace_reader import TraceReader
from vpmu_core.machine import Machine

EXITS = 100_000


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A synthetic ftrace, about 19 MB."""
    path = tmp_path_factory.mktemp("trace") / "trace.txt"
    with path.open("wb") as file:
        file.writelines(generate(EXITS, 1))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that is empty at first."""
    monkeypatch.setenv("VPMU_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("VPMU_CACHE_MIB", "1000")


@pytest.fixture
def no_cache(cache, monkeypatch):
    monkeypatch.setenv("VPMU_CACHE_MIB", "0")


def look_at_lines(path):
    """What Python needs only to look at every line."""
    with path.open() as file:
        return sum(len(line.split()) for line in file)


def find_line_ends(path):
    """What must be done at least: look at every byte once."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 18):
            found += block.count(b"\n")
    return found


def feed_lines(path):
    """The reader in Python, which decides what a line means, for every line."""
    reader = TraceReader("trace.txt")
    with path.open() as file, reader:
        for number, line in enumerate(file, 1):
            reader.feed(number, line.rstrip("\n"))
        return len(reader.finish(None))


@pytest.mark.benchmark(group="recording-read")
def test_read(benchmark, trace, no_cache, report_rate):
    assert len(benchmark.pedantic(parse_recording, (trace,), rounds=5)) == EXITS
    report_rate(EXITS)


@pytest.mark.benchmark(group="recording-read")
def test_read_from_cache(benchmark, trace, cache, report_rate):
    parse_recording(trace)
    assert len(benchmark.pedantic(parse_recording, (trace,), rounds=5)) == EXITS
    report_rate(EXITS)


@pytest.mark.benchmark(group="recording-read")
def test_read_in_python(benchmark, trace, report_rate):
    assert benchmark.pedantic(feed_lines, (trace,), rounds=2) == EXITS
    report_rate(EXITS)


@pytest.mark.benchmark(group="recording-read")
def test_read_and_split_lines(benchmark, trace, report_rate):
    assert benchmark.pedantic(look_at_lines, (trace,), rounds=2) > EXITS
    report_rate(EXITS)


@pytest.mark.benchmark(group="recording-read")
def test_read_limit(benchmark, trace, report_rate):
    assert benchmark.pedantic(find_line_ends, (trace,), rounds=5) > 2 * EXITS
    report_rate(EXITS, limit=True)


def converted(trace):
    """Gaps of a recording that was just read: nothing is left from before but the cache."""
    return vpmu.read_recording(trace).trace(vpmu.cpu("sapphirerapids"))[1].gap


@pytest.mark.benchmark(group="recording-convert")
@pytest.mark.parametrize("kept", [False, True], ids=["anew", "from-cache"])
def test_convert(benchmark, trace, cache, kept, report_rate, monkeypatch):
    if kept:
        converted(trace)
    cpu = vpmu.cpu("sapphirerapids")

    def setup():
        recorded = vpmu.read_recording(trace)
        if not kept:
            object.__setattr__(recorded.recording, "key", None)
        return (recorded,), {}

    _, columns = benchmark.pedantic(lambda recorded: recorded.trace(cpu), setup=setup, rounds=5)
    assert len(columns.gap) == EXITS
    report_rate(EXITS)


@pytest.mark.benchmark(group="recording-convert")
def test_convert_limit(benchmark, trace, cache, report_rate):
    """What must be done at least: take every exit in once, and put every result out once."""
    recording = parse_recording(trace)
    columns = ("exit_ns", "entry_ns", "kind", "handled")

    def copy():
        read = [np.array(getattr(recording, name)) for name in columns]
        return [np.array(read[0]) for _ in range(3)]

    assert len(benchmark(copy)[0]) == EXITS
    report_rate(EXITS, limit=True)


@pytest.mark.benchmark(group="recording-replay")
@pytest.mark.parametrize("mapped", [False, True], ids=["memory", "mapped"])
def test_replay(benchmark, trace, cache, mapped, report_rate):
    """Mapped columns are read in place: replaying them costs what replaying memory costs."""
    recorded = vpmu.read_recording(trace)
    planned = plan(vpmu.Scenario(workload=recorded, design="none", guest_perf=()))
    if not mapped:
        for name in ("gap", "kind", "handling", "idle"):
            object.__setattr__(planned.trace, name, np.array(getattr(planned.trace, name)))

    def replay():
        machine = Machine(planned, "lazy")
        while not machine.advance():
            pass
        return machine.result()

    assert sum(benchmark(replay)["exits"]) >= EXITS - 1
    report_rate(EXITS, limit=not mapped)


def fastest(function, *arguments):
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        function(*arguments)
        best = min(best, time.perf_counter() - start)
    return best


def test_ratios(trace, no_cache, monkeypatch):
    """Reading is faster than splitting lines in Python, and five times than reading them there; the cache beats it."""
    read, python, split = (fastest(function, trace) for function in (parse_recording, feed_lines, look_at_lines))
    assert read < split, f"{read / split:.2f} x splitting lines"
    assert 5 * read < python, f"{python / read:.1f} x faster than Python"
    monkeypatch.setenv("VPMU_CACHE_MIB", "1000")
    parse_recording(trace)
    cached = fastest(parse_recording, trace)
    assert cached < read, f"{cached / read:.2f} x reading the text"
