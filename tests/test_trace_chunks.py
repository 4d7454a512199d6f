"""Long traces: the lazy engine steps over whole chunks of exits and returns what the stepwise engine does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_runs import fast as run

import vpmu
from vpmu._plan import Plan, PlannedExit, Trace
from vpmu._scenario import plan
from vpmu_core.traceindex import CHUNK

KINDS = (
    PlannedExit("FAST", 0, 0, True, 500, 0),
    PlannedExit("KERNEL", 1, 3, False, 900, 0),
    PlannedExit("USER", 2, 0, True, 9000, 0),
    PlannedExit("HLT", 1, 0, True, 700, 0),
)


DESIGNS = ("none", "mediated", "mediated,scope=every-exit", "emulated", "direct-capture", "dedicated", "passthrough")
PERFS = ("stat:branches", "stat:instructions,cycles", "record:branches:period=300000", "stat:instructions:u,branches:k")


def planned(design: str, guest_perf: str, trace: Trace, end: int) -> Plan:
    given_perf = () if design == "none" else (guest_perf,)
    scenario = vpmu.Scenario(
        cpu="emeraldrapids", design=design, workload="fio-4k-read", guest_perf=given_perf, seconds="0.001"
    )
    return dataclasses.replace(plan(scenario), exits=KINDS, trace=trace, end=end)


def trace(seed: int, n: int, idles: bool, repeat: bool) -> Trace:
    random = np.random.default_rng(seed)
    kind = random.integers(0, 4 if idles else 3, n).astype(np.uint16)
    idle = np.where(kind == 3, random.integers(0, 2000, n), 0)
    return Trace(random.integers(0, 9000, n), kind, random.integers(0, 20_000, n), idle, repeat)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("guest_perf", PERFS)
@pytest.mark.parametrize("idles", [False, True])
def test_chunks_change_nothing(design: str, guest_perf: str, idles: bool) -> None:
    made = planned(design, guest_perf, trace(1, 5 * CHUNK + 17, idles, False), 10**12)
    assert run(made, "lazy") == run(made, "stepwise")


@given(
    st.sampled_from(DESIGNS),
    st.sampled_from(PERFS),
    st.integers(0, 99),
    st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 80_000_000),
)
@settings(max_examples=settings().max_examples // 2)
def test_chunks_of_any_length_and_end(
    design: str, guest_perf: str, seed: int, n: int, idles: bool, repeat: bool, end: int
) -> None:
    made = planned(design, guest_perf, trace(seed, n, idles, repeat), end)
    assert run(made, "lazy") == run(made, "stepwise")


def test_sums_are_made_once() -> None:
    one = trace(0, 3 * CHUNK + 5, True, False)
    one.handling[CHUNK + 7] = 2**43
    bounds = (700, 0, 1000, 0)
    sums = one.chunks(bounds)
    assert all(a is b for a, b in zip(sums, one.chunks(bounds), strict=True))
    gap, idle, count, handled, within = sums
    assert gap[1] == 2**62, "a chunk without sums"
    for chunk in (0, 2):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        assert gap[chunk] == one.gap[part].sum()
        assert idle[chunk] == one.idle[part].sum()
        for column in range(8):
            mine = (one.kind[part] == column % 4) & ((one.idle[part] > 0) == (column >= 4))
            assert count[chunk, column] == mine.sum()
            assert handled[chunk, column] == one.handling[part][mine].sum()
            assert within[chunk, column] == np.minimum(one.handling[part][mine], bounds[column % 4]).sum()
    assert one.chunks((700, 0, 999, 0))[4].sum() < within.sum()
