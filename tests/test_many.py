"""Many scenarios in one call: each row is what the scenario alone gives, whatever is around it."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc

import numpy as np
import pytest
from command_line import process
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu._many import _pieces
from vpmu.recordings._generate import generate
from vpmu_core.batch import TOTALS
from vpmu_core.random import derived
from vpmu_core.traceindex import CHUNK

BASE = vpmu.Scenario(
    cpu="emeraldrapids",
    design="mediated",
    workload="fio-4k-read",
    guest_perf=("record:instructions,cycles:period=100003", "stat:branches:u"),
    host_perf=(),
    seconds="0.002",
)


def parameters(n, **columns):
    array = np.zeros(n, [(name, np.asarray(values).dtype) for name, values in columns.items()])
    for name, values in columns.items():
        array[name] = values
    return array


def same(row, result):
    """Compare everything that a row and a full result both have."""
    raw = result.raw
    expected = {"cycles": raw["w"], "exits": sum(raw["exits"]), "pmu_exits": sum(raw["pmu_exits"].values())}
    expected |= dict(
        zip(
            ("guest_user", "guest_kernel", "guest_handler", "hypervisor", "blind", "host_task", "idle"),
            raw["clocks"],
            strict=True,
        )
    )
    expected |= {name: raw[name] for name in ("host_interrupts", "switches", "refused", "handlers", "reprograms")}
    expected |= raw["pmi"] | {"stopped": int(raw["stopped"] is not None)}
    by_class = [origin for phase in raw["ops"].values() for origin in phase.values()]
    expected |= {name: sum(ops[name] for ops in by_class) for name in ("rdmsr", "rdpmc")}
    expected["wrmsr"] = sum(n for ops in by_class for name, n in ops.items() if name.startswith("wrmsr"))
    assert {name: int(row[name]) for name in TOTALS} == expected
    for prefix, counters in (("", result.counters), ("host_", result.host_events)):
        n = len(counters)
        assert row[prefix + "value"].tolist()[:n] == [counter.value for counter in counters]
        assert row[prefix + "ideal"].tolist()[:n] == [counter.ideal for counter in counters]
        assert row[prefix + "losses"].tolist()[:n] == [sum(counter.losses.values()) for counter in counters]
        assert row[prefix + "gains"].tolist()[:n] == [sum(counter.gains.values()) for counter in counters]
        assert not row[prefix + "value"][n:].any()
    assert row["samples"].tolist()[: len(result.counters)] == [counter["samples"] for counter in raw["counters"]]


@given(seed=st.integers(0, (1 << 64) - 1), purpose=st.integers(0, 2))
def test_seeds_are_numpys(seed, purpose):
    """numpy.random.SeedSequence(seed, spawn_key=(scenario, vCPU, purpose)), hashed in C."""
    sequence = np.random.SeedSequence(seed, spawn_key=(0, 0, purpose))
    assert derived(seed, purpose) == tuple(sequence.generate_state(3, np.uint64).tolist())


@pytest.mark.parametrize("engine", ["lazy", "stepwise"])
@pytest.mark.parametrize(
    "design",
    [
        *("none", "bare-metal", "emulated", "mediated,scope=every-exit", "dedicated"),
        *("mediated,sequence=rfc-v1-2024", "mediated,sequence=rfc-v1-reviewed"),  # done step by step
    ],
)
def test_a_row_is_what_the_scenario_alone_gives(design, engine):
    host = ("cycles:pinned:exclude_guest",) if design.startswith("mediated") else ()
    base = dataclasses.replace(BASE, design=vpmu.design(design), host_perf=host)
    n = 5
    batch = vpmu.simulate_many(
        base,
        parameters(
            n,
            seed=np.array([0, 1, 2, 1 << 32, (1 << 64) - 1], np.uint64),
            cycles=[1, 100_000, 3_000_001, 5_800_000, 2_000_000],
            period=[100_003, 5_000, 1 << 40, 70_001, 100_003],
            skid_minimum=[0, 5, 0, 100, 0],
            skid_maximum=[0, 5, 900, 100, 50],
            wrmsr=[0, 100, 140, 1000, 1],
            vm_exit=[500, 0, 1, 2, 3],
        ),
        engine=engine,
    )
    assert len(batch) == n
    for i in range(n):
        same(batch.rows[i], batch.result(i))
    assert batch.scenario(4).costs == {"wrmsr": 1, "vm_exit": 3}
    assert batch.scenario(3).end_cycles == 5_800_000


@pytest.mark.parametrize("arrivals", ["exponential", "regular"])
def test_neither_threads_nor_order_nor_neighbours_change_a_row(arrivals):
    source = dataclasses.replace(vpmu.workload("fio-4k-read"), arrivals=arrivals)
    base = dataclasses.replace(BASE, workload=source, seconds="0.0005")
    given = parameters(333, seed=np.arange(333), rdpmc=np.arange(333) % 7 * 20)
    rows = vpmu.simulate_many(base, given, threads=1).rows
    assert len(np.unique(rows["value"][:, 0])) > (150 if arrivals == "exponential" else 6)
    for threads in (2, 3, 7):
        assert (vpmu.simulate_many(base, given, threads=threads).rows == rows).all()
    assert (vpmu.simulate_many(base, given[::-1]).rows[::-1] == rows).all()
    assert (vpmu.simulate_many(base, given[100:103]).rows == rows[100:103]).all()
    assert (vpmu.simulate_many(base, given, engine="stepwise").rows == rows).all()


def test_scenarios_of_all_kinds():
    """One row each; events and hosts of their own."""
    scenarios = [
        dataclasses.replace(BASE, design=vpmu.design(design), guest_perf=perf, host_perf=host, seed=seed)
        for design in ("none", "mediated", "emulated", "dedicated")
        for perf, host in ((("stat:cycles",), ()), (BASE.guest_perf, ("instructions:pinned:exclude_guest",)))
        for seed in (1, 2)
        if not (design == "dedicated" and host)
    ]
    batch = vpmu.simulate_many(scenarios)
    assert batch.rows["value"].shape == (len(scenarios), 3)
    assert batch.rows["host_value"].shape == (len(scenarios), 1)
    for i, scenario in enumerate(scenarios):
        assert batch.scenario(i) is scenario
        same(batch.rows[i], batch.result(i))


def test_no_rows_and_no_parameters():
    assert len(vpmu.simulate_many([])) == 0
    assert len(vpmu.simulate_many(BASE, parameters(0, seed=np.zeros(0, int)))) == 0
    batch = vpmu.simulate_many(BASE)
    same(batch.rows[0], vpmu.simulate(BASE))
    with pytest.raises(IndexError, match="row 1 of 1"):
        batch.result(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (parameters(1, sead=[1]), "unknown parameter 'sead'; did you mean seed"),
        (parameters(2, seed=[1, -1]), "seed: -1 must be"),
        (parameters(2, cycles=[1, 0]), "cycles: 0 must be an integer from 1"),
        (parameters(1, cycles=[1 << 43]), "cycles: 8796093022208 must be"),
        (parameters(1, wrmsr=[1 << 40]), "wrmsr: 1099511627776 must be"),
        (parameters(1, wrmsr=[1.5]), "wrmsr: must be integers, not float64"),
        (parameters(1, period=[0]), "period: 0 must be"),
        (parameters(1, handling_kernel=[5]), "handling_kernel: handling times are planned"),
        (parameters(2, skid_minimum=[0, 61]), "row 1: skid_minimum 61 is above skid_maximum"),
        (np.zeros(3), "structured array"),
        ([(1,)], "structured array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        vpmu.simulate_many(BASE, given)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (([BASE], parameters(1, seed=[1])), {}, "parameters belong to one scenario"),
        (([BASE, "fio"],), {}, "scenario 1 must be a Scenario"),
        ((BASE,), {"threads": 0}, "threads 0 must be"),
        ((BASE,), {"threads": 2.0}, "threads 2.0 must be"),
        ((BASE,), {"engine": "reference"}, "unknown engine 'reference'"),
        ((dataclasses.replace(BASE, guest_perf=("stat:cycles",)), parameters(1, period=[5])), {}, "is recorded"),
    ],
)
def test_calls_that_cannot_be(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        vpmu.simulate_many(*arguments, **keywords)


def test_a_design_that_cannot_be_had():
    refused = dataclasses.replace(BASE, host_perf=("cycles:pinned",))
    assert refused.refusal()
    with pytest.raises(ValueError, match="scenario 1: "):
        vpmu.simulate_many([BASE, refused])


@pytest.mark.parametrize("given", [None, 5, vpmu.Mediated()])
def test_what_is_no_scenario(given):
    for call in (vpmu.simulate, vpmu.simulate_many, vpmu.compare):
        with pytest.raises(vpmu.ScenarioError, match=r"[Ss]cenario.* not (None|5|Mediated)"):
            call(given)
    with pytest.raises(vpmu.ScenarioError, match="list of designs, not 'mediated'"):
        vpmu.compare(BASE, "mediated")
    with pytest.raises(vpmu.UnknownName, match="unknown engine None"):
        vpmu.simulate(BASE, None)


def test_parameters_that_could_not_be_told_apart_later():
    masked = np.ma.masked_array(parameters(3, seed=[1, 2, 3]), mask=[False, True, False])
    with pytest.raises(vpmu.ScenarioError, match="masked"):
        vpmu.simulate_many(BASE, masked)
    changing = dataclasses.replace(BASE, design="mediated,event_filter=deny;deny:branches@0.001")
    with pytest.raises(vpmu.ScenarioError, match="1000 is not after the last change"):
        vpmu.simulate_many(changing, parameters(2, cycles=[1000, 5_000_000]))
    batch = vpmu.simulate_many(BASE, parameters(2, seed=[1, 2]))
    assert batch.scenario(np.int64(1)).seed == 2
    for odd in (True, 1.5, "a"):
        with pytest.raises(vpmu.ScenarioError, match=f"row {odd!r} must be an integer from 0 to 1"):
            batch.scenario(odd)


def test_few_long_rows_are_shared_out():
    """Every thread has something to do as soon as there are as many rows."""
    assert [len(list(_pieces(n, workers))) for n, workers in ((1, 8), (8, 8), (64, 2), (1000, 2))] == [1, 8, 8, 16]
    for n in range(200):
        assert [i for piece in _pieces(n, 3) for i in range(n)[piece]] == list(range(n))


def test_rows_of_a_trace(tmp_path):
    """Whole chunks of exits are stepped over in batches too, unless a row has other costs than their sums."""
    path = tmp_path / "trace.txt"
    path.write_bytes(b"".join(generate(5 * CHUNK, 1)))
    looped = vpmu.read_recording(path, repeat=True)
    base = dataclasses.replace(BASE, workload=looped, guest_perf=("stat:instructions,branches",), seconds="0.5")
    array = parameters(3, seed=[1, 2, 3], fastpath_refused=[0, 2190, 9000])
    assert sum(vpmu.simulate(base).raw["exits"]) > 2 * CHUNK
    for given_ in (parameters(3, seed=[1, 2, 3]), array):
        batch = vpmu.simulate_many(base, given_)
        assert (batch.rows == vpmu.simulate_many(base, given_, engine="stepwise").rows).all()
        for i in range(3):
            same(batch.rows[i], vpmu.simulate(batch.scenario(i)))


def test_memory_of_a_list_of_scenarios():
    """Below 8 KiB each beyond its row: plans hold what they have in common only once."""
    n = 300
    scenarios = [dataclasses.replace(BASE, seed=seed) for seed in range(n)]
    vpmu.simulate_many(scenarios[:2])
    tracemalloc.start()
    try:
        batch = vpmu.simulate_many(scenarios, threads=1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most / n < 8192 + batch.rows.dtype.itemsize


# A process of its own: here a callback of another package's (hypothesis has one at each garbage collection) may be what
# the signal interrupts, and swallow it.
INTERRUPTED = """
import os, signal, threading
import numpy, vpmu

endless = vpmu.Scenario(
    cpu="emeraldrapids", design="mediated", workload="fio-4k-read", guest_perf=("stat:branches:u",), seconds="900"
)
seeds = numpy.zeros(50, [("seed", int)])
seeds["seed"] = range(50)
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    vpmu.simulate_many(*{given}, threads=2, engine="stepwise")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent by POSIX means")
@pytest.mark.parametrize("given", ["([endless] * 50,)", "(endless, seeds)"])
def test_an_interrupt_ends_a_batch_at_once(given):
    """Rows that would take minutes, in threads that Python cannot interrupt."""
    done = process(code=INTERRUPTED.format(given=given), timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
