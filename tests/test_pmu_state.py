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
from pmu_models import (
    COUGAR_COVE,
    CTRL,
    EN,
    GENOA,
    INT,
    LVTPC,
    NMI,
    OS,
    SAPPHIRERAPIDS,
    TREMONT,
    USR,
    capable,
    ctl,
    ctr,
    draws,
    have,
    make,
    quirky,
)

import vpmu

KEYS = {
    *("version", "cpu", "quirks", "counters", "fixed", "selectors", "fixed_ctr_ctrl", "global_ctrl", "global_status"),
    *("perf_metrics", "metrics_slots", "pebs_enable", "pebs_data_cfg", "pebs_base", "pebs_index", "ds_area"),
    *("debugctl", "tsx_force_abort", "uncore", "reload", "cfg_b", "cfg_c", "hwcr", "irperf", "lvtpc"),
    *("pmi_pending", "pmi_entry", "pmi_arrival", "skid", "svme", "guest", "smm", "smm_saved", "enable_hazard"),
    *("reftsc_latch", "in_flight", "cycles"),
}
#: Ice Lake with a skid of 40 cycles.
CPU = have(vpmu.cpu("icelake"), "tsx_force_abort", skid=vpmu.Skid(40, 40)).with_quirks(pmi_skid=True)
WRITES = {0xC1: 0xFFFFFFFF, 0x4C8: 123, 0x186: 0x5300C0, 0x18D: 0xC4, 0x309: 9, 0x30C: 11, 0x38D: 0xB}
WRITES |= {0x38F: 0x1_00000001, 0x329: 0xFF, 0x3F1: 1, 0x3F2: 3, 0x600: 0x1000, 0x1D9: 0x1800, 0x10F: 1}
WRITES |= {0x834: 0x4F5, 0x391: 1 << 62}


def busy(pmu_class):
    """Make a PMU with something in many fields of its state: a PMI is pending, its status frozen."""
    pmu = make(pmu_class, CPU, *WRITES.items(), seed=6)
    pmu.count({"instructions": 4}, cycles=1001, cpl=3)
    return pmu


def skid_words(seed, drawn):
    """The stream's state after some draws: a, b, c and the counter."""
    a, b, c, counter = seed, 0, 0, 1
    for _ in range(12 + drawn):
        output = (a + b + counter) % 2**64
        counter += 1
        a, b, c = b ^ b >> 11, (c + (c << 3)) % 2**64, ((c << 24 | c >> 40) + output) % 2**64
    return a, b, c, counter


def test_state(pmu_class):
    """Every field, by name: counter x at place x. The freeze left the counter at 0, and fixed counter 0 one further."""
    assert busy(pmu_class).state() == {
        "version": 2,
        "cpu": "icelake",
        "quirks": ",".join(sorted(CPU.quirks)),
        "counters": (0, 0, 0, 0, 0, 0, 0, 123),
        "fixed": (10, 0, 0, 11),
        "selectors": (0x5300C0, 0, 0, 0, 0, 0, 0, 0xC4),
        "fixed_ctr_ctrl": 0xB,
        "global_ctrl": 0x1_00000001,
        "global_status": 1 << 62 | 3 << 58 | 1,
        "perf_metrics": 0xFF,
        "metrics_slots": (11, 0, 0, 0, 0, 0, 0, 0),
        "pebs_enable": 1,
        "pebs_data_cfg": 3,
        "pebs_base": 0,
        "pebs_index": 0,
        "ds_area": 0x1000,
        "debugctl": 0x1800,
        "tsx_force_abort": 1,
        "uncore": (0, 0, 0),
        "reload": (0,) * 32,
        "cfg_b": (0,) * 32,
        "cfg_c": (0,) * 32,
        "hwcr": 0,
        "irperf": 0,
        "lvtpc": 0x104F5,
        "pmi_pending": 1,
        "pmi_entry": 0x4F5,
        "pmi_arrival": -1,
        "skid": skid_words(6, 1),
        "svme": 0,
        "guest": 0,
        "smm": 0,
        "smm_saved": (0, 0),
        "enable_hazard": 0,
        "reftsc_latch": 0,
        "in_flight": 0x1_0001,
        "cycles": 1001,
    }


def test_words_of_the_stream(pmu_class):
    """The four words of the state are SFC64's own; its outputs are the skids."""
    pmu = busy(pmu_class)
    a, b, _, counter = pmu.state()["skid"]
    stream = draws(6)
    next(stream)
    assert (a + b + counter) % 2**64 == next(stream)


def test_state_is_plain(pmu_class):
    """Integers, strings and tuples: it can be written as JSON, and is not a view."""
    pmu = busy(pmu_class)
    state = pmu.state()
    assert set(state) == KEYS
    for value in state.values():
        assert type(value) in (int, str, tuple)
        assert not isinstance(value, tuple) or all(type(item) is int for item in value)
    assert json.loads(json.dumps(state))["counters"] == [0, 0, 0, 0, 0, 0, 0, 123]
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


def amd(pmu_class):
    """An AMD PMU in a guest, with two PMIs pending and IRPerfCount running."""
    cpu = quirky(GENOA, "amd_late_nmi")
    pmu = make(pmu_class, cpu, (LVTPC, NMI | 0x21), (ctl(0), 0xC0 | OS | USR | EN | INT), (0xC0010015, 1 << 30))
    pmu.set_mode(svme=True, guest=True)
    for _ in range(2):
        pmu.wrmsr(ctr(0), (1 << 48) - 1)
        pmu.count({"instructions": 3}, cycles=10)
    return pmu


def in_smm(pmu_class):
    """A PMU in system management mode, with what it saved."""
    pmu = make(pmu_class, SAPPHIRERAPIDS, (CTRL, 0xF_000000FF), (0x1D9, 0x4001))
    pmu.smi()
    return pmu


def in_flight(pmu_class):
    """A PMU with a PMI in flight, reload values, and an armed latch."""
    cpu = quirky(capable(TREMONT, 15), "reftsc_sticky_ovf", "pmi_skid", skid=vpmu.Skid(100, 200))
    writes = ((0x14C2, 5), (0x130B, 6), (0x30B, (1 << 48) - 1), (0x38D, 0x900), (CTRL, 4 << 32))
    pmu = make(pmu_class, cpu, (LVTPC, NMI), *writes, seed=1)
    pmu.count({"ref-cycles": 2}, cycles=2)
    return pmu


def configured(pmu_class):
    """A PMU of version 6 with arch-PEBS registers in use."""
    return make(pmu_class, COUGAR_COVE, (0x190A, 3), (0x190B, 1 << 35), (0x1986, 1), (0x3F4, 0x1000), (0x3F5, 0x40))


def first_enable(pmu_class):
    """Nehalem's hazard, with the uncore's registers."""
    cpu = have(vpmu.cpu("skylake"), "client_uncore", version=3)
    return make(pmu_class, quirky(cpu, "nhm_enable"), (0x391, 3), (0x393, 1))


MAKERS = [busy, amd, in_smm, in_flight, configured, first_enable]
#: What is particular about each.
PARTICULAR = {
    "busy": {"lvtpc": 0x104F5},
    "amd": {"svme": 1, "guest": 1, "pmi_pending": 2, "pmi_entry": 0x421, "hwcr": 1 << 30, "irperf": 6},
    "in_smm": {"smm": 1, "smm_saved": (0xF_000000FF, 0x4001), "global_ctrl": 0, "debugctl": 0x4000},
    "in_flight": {"reftsc_latch": 1, "pmi_pending": 0, "reload": (0, 5, *[0] * 16, 6, *[0] * 13)},
    "configured": {"pebs_base": 0x1000, "pebs_index": 0x40, "cfg_b": (0, 0, 3, *[0] * 14, 1, *[0] * 14)},
    "first_enable": {"enable_hazard": 1, "uncore": (3, 0, 1)},
}


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def used(request, pmu_class):
    """A PMU that was used."""
    pmu = request.param(pmu_class)
    state = pmu.state()
    assert {key: state[key] for key in PARTICULAR[request.param.__name__]} == PARTICULAR[request.param.__name__]
    return pmu


COPIES = {
    "from_state": lambda pmu: type(pmu).from_state(pmu.cpu, pmu.state()),
    "pickle": lambda pmu: pickle.loads(pickle.dumps(pmu)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def go_on(pmu):
    """Use a PMU further; what comes of it."""
    pmis = [pmu.take_pmi()]
    if pmu.state()["smm"]:
        pmu.rsm()
    lvtpc = pmu.rdmsr(LVTPC) & 0x7FF
    for _ in range(5):
        pmu.count({"instructions": 3, "ref-cycles": 5}, cycles=77)
        pmis.append(pmu.take_pmi())
        pmu.wrmsr(LVTPC, lvtpc)
    return pmis, pmu.state()


@pytest.mark.parametrize("way", COPIES)
def test_copies(used, way):
    """A copy has the same state, behaves the same and is another PMU."""
    twin = COPIES[way](used)
    assert type(twin) is type(used)
    assert twin.cpu == used.cpu
    before = used.state()
    assert twin.state() == before
    outcome = go_on(twin)
    assert used.state() == before != twin.state()
    assert go_on(used) == outcome


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_protocols(used, protocol):
    assert pickle.loads(pickle.dumps(used, protocol)).state() == used.state()


ACCESSES = st.tuples(
    st.one_of(
        st.sampled_from([0xC1, 0x4C1, 0x186, 0x188, 0x309, 0x38D, 0x38E, 0x38F, 0x390, 0x391, 0x3F1, 0x600, 0x834]),
        st.integers(0, (1 << 32) - 1),
    ),
    st.one_of(st.integers(0, 63).map(lambda bit: 1 << bit), st.integers(0, (1 << 64) - 1)),
)


@given(writes=st.lists(ACCESSES, max_size=20))
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
