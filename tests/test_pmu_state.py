"""Snapshots, copies and independence of PMUs."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu

KEYS = {
    *("version", "cpu", "counters", "fixed", "selectors", "fixed_ctr_ctrl", "global_ctrl", "global_status"),
    *("pebs_enable", "pebs_data_cfg", "ds_area", "debugctl", "tsx_force_abort", "perf_metrics", "lvtpc"),
    *("pmi_pending", "cycles"),
}


def busy(pmu_class, cpu=None):
    """Make a PMU with something in every field of its state."""
    pmu = pmu_class(cpu or vpmu.cpu("icelake"))
    writes = {0xC1: 0xFFFFFFFF, 0x4C8: 123, 0x186: 0x5300C0, 0x18D: 0xC4, 0x309: 9, 0x30C: 11, 0x38D: 0xB}
    writes |= {0x38F: 0x1_00000001, 0x329: 0xFF, 0x3F1: 1, 0x3F2: 3, 0x600: 0x1000, 0x1D9: 0x1800, 0x10F: 1}
    writes |= {0x834: 0x4F5, 0x391: 1 << 62}
    for msr, value in writes.items():
        pmu.wrmsr(msr, value)
    pmu.count({"instructions": 4}, cycles=1001, cpl=3)
    return pmu


def test_state(pmu_class):
    """Every field, by name: counter x at place x."""
    assert busy(pmu_class).state() == {
        "version": 1,
        "cpu": "icelake",
        "counters": (3, 0, 0, 0, 0, 0, 0, 123),
        "fixed": (13, 0, 0, 11),
        "selectors": (0x5300C0, 0, 0, 0, 0, 0, 0, 0xC4),
        "fixed_ctr_ctrl": 0xB,
        "global_ctrl": 0x1_00000001,
        "global_status": 1 << 62 | 1,
        "pebs_enable": 1,
        "pebs_data_cfg": 3,
        "ds_area": 0x1000,
        "debugctl": 0x1800,
        "tsx_force_abort": 1,
        "perf_metrics": 0xFF,
        "lvtpc": 0x4F5,
        "pmi_pending": 1,
        "cycles": 1001,
    }


def test_state_is_plain(pmu_class):
    """Integers, strings and tuples: it can be written as JSON, and is not a view."""
    pmu = busy(pmu_class)
    state = pmu.state()
    assert set(state) == KEYS
    for value in state.values():
        assert type(value) in (int, str, bool, tuple)
        assert not isinstance(value, tuple) or all(type(item) is int for item in value)
    assert json.loads(json.dumps(state))["counters"] == [3, 0, 0, 0, 0, 0, 0, 123]
    before = dict(state)
    pmu.wrmsr(0xC1, 0)
    pmu.take_pmi()
    assert state == before != pmu.state()


def test_holes_keep_their_place(pmu_class):
    """Where a bitmap has a hole, the tuple has a 0."""
    cpu = replace(vpmu.cpu("icelake"), gp_mask=0b101, fixed_mask=0b1010)
    pmu = pmu_class(cpu)
    pmu.wrmsr(0xC3, 5)
    pmu.wrmsr(0x30C, 7)
    state = pmu.state()
    assert state["counters"] == (0, 0, 5)
    assert state["selectors"] == (0, 0, 0)
    assert state["fixed"] == (0, 0, 0, 7)
    assert pmu_class.from_state(cpu, state).state() == state


COPIES = {
    "from_state": lambda pmu: type(pmu).from_state(pmu.cpu, pmu.state()),
    "pickle": lambda pmu: pickle.loads(pickle.dumps(pmu)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies(pmu_class, way):
    """A copy has the same state, behaves the same and is another PMU."""
    pmu = busy(pmu_class)
    twin = COPIES[way](pmu)
    assert type(twin) is pmu_class
    assert twin.cpu == pmu.cpu
    assert twin.state() == pmu.state()
    before = pmu.state()
    assert twin.pmi_pending
    assert twin.take_pmi() == ("nmi", 0xF5)
    twin.wrmsr(0x186, 0)
    twin.count({"instructions": 3}, cycles=77, cpl=3)
    assert pmu.state() == before
    assert pmu.take_pmi() == ("nmi", 0xF5)
    pmu.wrmsr(0x186, 0)
    pmu.count({"instructions": 3}, cycles=77, cpl=3)
    assert twin.state() == pmu.state()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_protocols(pmu_class, protocol):
    pmu = busy(pmu_class)
    assert pickle.loads(pickle.dumps(pmu, protocol)).state() == pmu.state()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"cpu": "skylake"},
        {"counters": (0,) * 4},
        {"counters": (0,) * 9},
        {"counters": (1 << 48,) + (0,) * 7},
        {"counters": (-1,) + (0,) * 7},
        {"counters": ("0",) * 8},
        {"counters": 5},
        {"fixed": (0,) * 3},
        {"selectors": ()},
        {"global_ctrl": 1 << 64},
        {"global_ctrl": -1},
        {"lvtpc": None},
        {"pmi_pending": 2},
        {"cycles": -1},
        {"cycles": 1 << 64},
        *({key: ...} for key in sorted(KEYS)),
    ],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
def test_foreign_states(pmu_class, change):
    """Another version, CPU or shape, a value out of range, a missing key (...): a ValueError naming it."""
    pmu = busy(pmu_class)
    state = {key: value for key, value in (pmu.state() | change).items() if value is not ...}
    (name,) = change
    with pytest.raises(ValueError, match=name):
        pmu_class.from_state(pmu.cpu, state)


def test_state_of_another_model(pmu_class):
    """A state is loaded only into the CPU that it is of, even if the names are the same."""
    state = busy(pmu_class).state()
    for cpu in (vpmu.cpu("skylake"), replace(vpmu.cpu("icelake"), gp_mask=0xF)):
        with pytest.raises(ValueError, match=r"cpu|counters"):
            pmu_class.from_state(cpu, state)


WRITES = st.tuples(
    st.one_of(
        st.sampled_from([0xC1, 0x4C1, 0x186, 0x188, 0x309, 0x38D, 0x38E, 0x38F, 0x390, 0x391, 0x3F1, 0x600, 0x834]),
        st.integers(0, (1 << 32) - 1),
    ),
    st.one_of(st.integers(0, 63).map(lambda bit: 1 << bit), st.integers(0, (1 << 64) - 1)),
)


@given(writes=st.lists(WRITES, max_size=20))
def test_a_fault_changes_nothing(pmu_class, writes):
    """SDM vol. 2: an instruction that raises #GP(0) has no effect; reads have none either."""
    pmu = busy(pmu_class)
    for msr, value in writes:
        before = pmu.state()
        for access, arguments in ((pmu.rdmsr, (msr,)), (pmu.rdpmc, (msr,)), (pmu.rdpmc, (msr, 3, False))):
            with contextlib.suppress(vpmu.GeneralProtectionFault):
                access(*arguments)
            assert pmu.state() == before
        try:
            pmu.wrmsr(msr, value)
        except vpmu.GeneralProtectionFault:
            assert pmu.state() == before


def exercise(pmu, seed):
    """Do something random and return what came of it."""
    draw = random.Random(seed)
    outcomes = []
    for _ in range(3000):
        msr = draw.choice((0xC1, 0xC2, 0x186, 0x187, 0x38D, 0x38F, 0x390, 0x834, 0x309))
        value = draw.choice((draw.getrandbits(48), 0xFFFFFFFF, 0x5300C0, 0x5300C4, 0x1_00000003, 0xB, 0x400))
        try:
            pmu.wrmsr(msr, value)
            pmu.count({"instructions": draw.randrange(5), "branches": 1}, cycles=draw.randrange(99))
        except (vpmu.GeneralProtectionFault, ValueError) as error:
            outcomes.append(type(error).__name__)
        outcomes.append((pmu.rdmsr(msr), pmu.take_pmi()))
    return outcomes, pmu.state()


def test_two_threads(pmu_class):
    """Two PMUs in two threads do what they do one after the other."""
    cpu = vpmu.cpu("sapphirerapids")
    expected = [exercise(pmu_class(cpu), seed) for seed in (1, 2)]
    start = threading.Barrier(2)
    got = {}

    def run(seed):
        pmu = pmu_class(cpu)
        start.wait()
        got[seed] = exercise(pmu, seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[1], got[2]] == expected


def test_interleaved(pmu_class):
    """PMUs share nothing: what one does in between does not show in another."""
    alone, first, second = (pmu_class(vpmu.cpu("icelake")) for _ in range(3))
    for step in range(200):
        for pmu in (alone, first):
            pmu.wrmsr(0x186 + step % 8, 0x5300C0)
            pmu.count({"instructions": step}, cycles=step)
        second.wrmsr(0x4C1 + step % 8, step)
        second.count({}, cycles=7)
    assert first.state() == alone.state() != second.state()
