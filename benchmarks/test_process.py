"""Import time and memory, each in a process of its own: what Python traces and what the kernel counts."""

import subprocess
import sys

import pytest

KIB = 1024
#: Peak resident bytes so far; ru_maxrss would show the parent's, which the child shared before it ran Python.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
"""
SCENARIOS = """
import sys, tracemalloc
import numpy as np
import vpmu
given = {"cpu": "emeraldrapids", "workload": "fio-4k-read", "guest_perf": ("stat:instructions,cycles",)}
base = vpmu.Scenario(**given, seconds="0.00001")
def batch(n):
    parameters = np.zeros(n, [("seed", "u8")])
    parameters["seed"] = np.arange(n)
    return vpmu.simulate_many(base, parameters, threads=1)
row = batch(100).rows.dtype.itemsize
"""
MACHINES = """
import sys, tracemalloc
import vpmu
from vpmu._scenario import plan
from vpmu_core.machine import Machine
planned = plan(vpmu.Scenario(cpu="emeraldrapids", workload="fio-4k-read", seconds="0.00001"))
kept = []
def make(n):
    for _ in range(n):
        machine = Machine(planned)
        machine.advance()
        kept.append(machine)
make(10)
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")


def child(script: str, *arguments: str) -> list[float]:
    """Numbers that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def seconds_of(statement: str) -> float:
    (seconds,) = child(f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)")
    return seconds


@pytest.mark.benchmark(group="import")
@pytest.mark.parametrize(
    ("statement", "bound"),
    [("import vpmu", 0.040), ("import vpmu; vpmu.simulate", None), ("import vpmu.cli", None)],
)
def test_import(benchmark, note, statement, bound):
    """Seconds, beside importing numpy; in turns, minima."""
    mine, numpy = [], []

    def turn():
        numpy.append(seconds_of("import numpy"))
        mine.append(seconds_of(statement))

    benchmark.pedantic(turn, rounds=5)
    note("seconds", min(mine), min(numpy))
    assert bound is None or min(mine) <= bound, mine


@pytest.mark.parametrize(
    ("use", "numpy"), [("pass", False), ("vpmu.simulate(vpmu.Scenario(seconds='0.0001'))", True)], ids=["import", "run"]
)
def test_what_an_import_brings_along(use, numpy):
    names = ("numpy", "pandas", "polars", "rich", "typer")
    script = f"import sys, vpmu\n{use}\nprint(*(int(name in sys.modules) for name in {names}))"
    assert child(script) == [numpy, 0, 0, 0, 0]


@linux
@pytest.mark.benchmark(group="memory")
def test_scenarios_resident(benchmark, note):
    """Bytes of a scenario of simulate_many beyond its result row, by the growth of peak RSS."""
    script = PEAK + SCENARIOS + "n = 20_000\nbefore = peak()\nbatch(n)\nprint((peak() - before) / n - row)"
    (bytes_each,) = benchmark.pedantic(child, (script,), rounds=1)
    note("bytes", max(bytes_each, 0), 8 * KIB)
    assert bytes_each < 8 * KIB


@pytest.mark.benchmark(group="memory")
def test_scenarios_traced(benchmark, note):
    """The same by tracemalloc, which sees numpy's arrays and Python's objects."""
    script = SCENARIOS + (
        "n = 2000\ntracemalloc.start()\nbatch(n)\nprint(tracemalloc.get_traced_memory()[1] / n - row)"
    )
    (bytes_each,) = benchmark.pedantic(child, (script,), rounds=1)
    note("bytes", max(bytes_each, 0), 8 * KIB)
    assert bytes_each < 8 * KIB


@linux
@pytest.mark.benchmark(group="memory")
def test_machine_resident(benchmark, note):
    """One machine with its lazy engine, which keeps a copy of it to try exits on."""
    script = PEAK + MACHINES + "n = 1000\nbefore = peak()\nmake(n)\nprint((peak() - before) / n)"
    (bytes_each,) = benchmark.pedantic(child, (script,), rounds=1)
    note("bytes", bytes_each, 128 * KIB)
    assert bytes_each < 128 * KIB


@pytest.mark.benchmark(group="memory")
def test_machine_traced(benchmark, note):
    script = MACHINES + "n = 300\ntracemalloc.start()\nmake(n)\nprint(tracemalloc.get_traced_memory()[0] / n)"
    (bytes_each,) = benchmark.pedantic(child, (script,), rounds=1)
    note("bytes", bytes_each, 64 * KIB)
    assert bytes_each < 64 * KIB


@linux
@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("statement", ["import vpmu", "import vpmu; vpmu.simulate"])
def test_import_resident(benchmark, note, statement):
    """Peak RSS over that of the interpreter, beside numpy's."""

    def over(what: str) -> float:
        return child(f"{PEAK}\nbefore = peak()\n{what}\nprint(peak() - before)")[0]

    mine = benchmark.pedantic(over, (statement,), rounds=1)
    numpy = over("import numpy")
    note("bytes", mine, numpy)
    assert mine < 2 * numpy
