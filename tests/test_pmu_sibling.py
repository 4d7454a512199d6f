"""The other thread of the core: AnyThread, and events that leak from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    ANY,
    BONNELL,
    BROADWELL,
    CTRL,
    EDGE,
    EN,
    FIXED_CTR_CTRL,
    GOLDMONT,
    INT,
    LVTPC,
    NMI,
    OS,
    SANDYBRIDGE,
    SAPPHIRERAPIDS,
    SKYLAKE,
    STATUS,
    USR,
    capable,
    fixed,
    gp,
    make,
    quirky,
)

import vpmu

INSTRUCTIONS = 0xC0 | EN | ANY


@pytest.mark.parametrize("cpu", [BONNELL, BROADWELL, SKYLAKE], ids=["bonnell", "broadwell", "skylake"])
def test_privilege_of_both_threads(pmu_class, cpu):
    """SDM vol. 3B 18.2.3.1: the events of both threads, each filtered by its own privilege level."""
    for bits, wanted in ((OS, {0}), (USR, {1, 2, 3}), (OS | USR, {0, 1, 2, 3}), (0, set())):
        for cpl in range(4):
            for sibling_cpl in range(4):
                pmu = make(pmu_class, cpu, (0x186, INSTRUCTIONS | bits), (0x187, 0xC0 | EN | bits))
                pmu.count({"instructions": 5}, cpl=cpl, sibling={"instructions": 100}, sibling_cpl=sibling_cpl)
                this = 5 if cpl in wanted else 0
                assert gp(pmu)[:2] == (this + (100 if sibling_cpl in wanted else 0), this)


def test_fixed_counters(pmu_class):
    """SDM vol. 3B 18.2.3.1: bit 4m+2 of IA32_FIXED_CTR_CTRL; the sibling's clocks follow its own cycles."""
    pmu = make(pmu_class, SKYLAKE, (FIXED_CTR_CTRL, 0x577), (CTRL, 7 << 32))
    pmu.count({"instructions": 5}, cycles=10, sibling={"instructions": 100}, sibling_cycles=40)
    assert fixed(pmu) == (105, 50, 50)
    pmu.wrmsr(FIXED_CTR_CTRL, 0x353)  # only fixed counter 1, and that for OS only
    pmu.count({"instructions": 5}, cycles=10, sibling={"instructions": 100}, sibling_cycles=40, sibling_cpl=3)
    assert fixed(pmu) == (110, 60, 60)
    assert pmu.state()["cycles"] == 20


def test_clocks_of_the_sibling_start_at_this_thread(pmu_class):
    """Bus cycles of both threads are differences of N(rate, t), from the same t."""
    cpu = quirky(SKYLAKE, "ref_xclk")
    rate, start, mine, other = cpu.rate_of("bus-cycles"), 12_345, 777, 54_321

    def ticks(first, last):
        return (rate * last >> 32) - (rate * first >> 32)

    pmu = make(pmu_class, cpu, (0x186, 0x013C | EN | OS | ANY))
    pmu.count({}, cycles=start, sibling={})
    assert gp(pmu)[0] == ticks(0, start)
    pmu.wrmsr(0xC1, 0)
    pmu.count({}, cycles=mine, sibling={}, sibling_cycles=other)
    assert gp(pmu)[0] == ticks(start, start + mine) + ticks(start, start + other)
    pmu.wrmsr(0xC1, 0)
    pmu.count({}, cycles=mine, sibling={"bus-cycles": 9}, sibling_cycles=other)
    assert gp(pmu)[0] == ticks(start + mine, start + 2 * mine) + 9


def test_the_sibling_of_other_counters(pmu_class):
    """Without AnyThread the sibling's events change nothing, and its names are checked all the same."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0xC0 | EN | OS), (FIXED_CTR_CTRL, 0x11), (CTRL, 0x3_00000001))
    pmu.count({"instructions": 5}, cycles=6, sibling={"instructions": 100, "r01c2": 3}, sibling_cycles=40)
    assert gp(pmu)[0] == 5
    assert fixed(pmu)[:2] == (5, 6)
    before = pmu.state()
    for keywords, error in (
        ({"sibling": {"instruction": 1}}, vpmu.UnknownName),
        ({"sibling": {"instructions": -1}}, ValueError),
        ({"sibling": {}, "sibling_cycles": -1}, ValueError),
        ({"sibling_cycles": 1}, ValueError),
        ({"sibling": {}, "sibling_cpl": 4}, ValueError),
        ({"sibling": {"instructions": 1.5}}, TypeError),
        ({"sibling": {"instructions": 1, "r00c0": 1}}, ValueError),
    ):
        with pytest.raises(error):
            pmu.count({}, **keywords)
        assert pmu.state() == before


def test_raw_events_of_the_sibling(pmu_class):
    pmu = make(pmu_class, SKYLAKE, (0x186, 0x01C2 | EN | OS | ANY))
    pmu.count({"r01c2": 1}, sibling={"r1C2": 10})
    assert gp(pmu)[0] == 11


@pytest.mark.parametrize("bits", [1 << 24, EDGE, 1 << 24 | EDGE])
def test_cmask_and_edges_of_two_threads(pmu_class, bits):
    """AnyThread with CMASK or EDGE would need how the threads' cycles coincide: an error."""
    pmu = make(pmu_class, SKYLAKE, (0x187, INSTRUCTIONS | OS | bits))
    before = pmu.state()
    known = {"per_cycle": {"instructions": [5, 5]}, "edges": {"instructions": 1}}
    with pytest.raises(ValueError, match=r"(?<!\d)1(?!\d)"):
        pmu.count({}, cycles=10, sibling={"instructions": 1}, sibling_cycles=10, **known)
    assert pmu.state() == before


def test_fixed_counter_without_a_sibling(pmu_class):
    """An error that names what is missing, and nothing has changed."""
    pmu = make(pmu_class, SKYLAKE, (FIXED_CTR_CTRL, 0x70), (CTRL, 7 << 32))
    before = pmu.state()
    with pytest.raises(ValueError, match="sibling"):
        pmu.count({"instructions": 1}, cycles=5)
    assert pmu.state() == before
    pmu.wrmsr(CTRL, 5 << 32)
    pmu.count({"instructions": 1}, cycles=5)
    assert fixed(pmu) == (0, 0, 0)


def test_goldmont_ignores_it(pmu_class):
    """SDM: Goldmont accepts AnyThread bits, which have no effect; no sibling is needed."""
    pmu = make(pmu_class, GOLDMONT, (0x186, INSTRUCTIONS | OS), (FIXED_CTR_CTRL, 0x5), (CTRL, 0x1_00000001))
    assert pmu.rdmsr(0x186) == INSTRUCTIONS | OS
    pmu.count({"instructions": 5})
    pmu.count({"instructions": 5}, sibling={"instructions": 100})
    assert gp(pmu)[0] == fixed(pmu)[0] == 10
    off = make(pmu_class, replace(GOLDMONT, quirks=frozenset()), (0x186, INSTRUCTIONS | OS))
    off.count({"instructions": 5}, sibling={"instructions": 100})
    assert gp(off)[0] == 105


def test_metrics_clear_is_not_any_thread(pmu_class):
    """Bit 14 of IA32_FIXED_CTR_CTRL with IA32_PERF_CAPABILITIES.RDPMC_METRICS_CLEAR, bit 19."""
    cpu = replace(SAPPHIRERAPIDS, anythread_deprecated=False)
    writes = ((FIXED_CTR_CTRL, 0x7000), (CTRL, 1 << 35))
    pmu = make(pmu_class, capable(cpu, 19), *writes)
    pmu.count({}, cycles=10)
    assert fixed(pmu)[3] == 60
    pmu = make(pmu_class, cpu, *writes)
    pmu.count({}, cycles=10, sibling={}, sibling_cycles=5)
    assert fixed(pmu)[3] == 90


def test_the_sibling_can_wrap_the_counter(pmu_class):
    """The overflow is of the sum."""
    pmu = make(pmu_class, SKYLAKE, (LVTPC, NMI), (0xC1, 0xFFFFFFFF), (0x186, INSTRUCTIONS | OS | INT))
    pmu.count({}, sibling={"instructions": 3})
    assert gp(pmu)[0] == 2
    assert pmu.rdmsr(STATUS) == 1
    assert pmu.take_pmi() == ("nmi", 0)


def test_sums_beyond_64_bits(pmu_class):
    """What one counter gets in one call is below 2**64: an OverflowError, and nothing has changed."""
    most = (1 << 64) - 1
    pmu = make(pmu_class, quirky(SKYLAKE, "irq_overcount", "ht_leak"), (0x186, INSTRUCTIONS | OS | USR), (CTRL, 1))
    before = pmu.state()
    for keywords in (
        {"sibling": {"instructions": 1}},
        {"sibling": {}, "cpl": 3, "flows": {"interrupt-return": 1}},
        {"sibling": {}, "leaks": {0: 1}},
    ):
        with pytest.raises(OverflowError):
            pmu.count({"instructions": most}, **keywords)
        assert pmu.state() == before
    pmu.count({"instructions": most - 3}, sibling={"instructions": 1}, leaks={0: 2})
    assert gp(pmu)[0] == (1 << 48) - 1


def test_leaks(pmu_class):
    """Errata BJ122, BV98, HSD29: what the sibling's counter of the same index counted of D0H to D3H comes on top."""
    writes = ((0x186, 0xC0 | EN | OS), (0x187, 0x81D0 | EN | USR), (CTRL, 7))
    pmu = make(pmu_class, quirky(SANDYBRIDGE, "ht_leak"), *writes)
    pmu.count({"instructions": 10}, leaks={0: 3, 1: 4, 2: 5})
    assert gp(pmu) == (13, 0, 0, 0)
    pmu.count({"r81d0": 7}, cpl=3, leaks={1: 4})
    assert gp(pmu) == (13, 11, 0, 0)
    pmu.count({"r81d0": 7}, cpl=3)
    assert gp(pmu) == (13, 18, 0, 0)
    pmu.wrmsr(0x186, 0xC0 | EN | OS | 2 << 24)  # it is the counter that is corrupted, whatever it compares
    pmu.count({}, cycles=4, per_cycle={"instructions": [1, 1, 2]}, leaks={0: 5})
    assert gp(pmu) == (20, 18, 0, 0)
    without = make(pmu_class, SANDYBRIDGE, *writes)
    without.count({"instructions": 10}, leaks={0: 3, 1: 4})
    assert gp(without) == (10, 0, 0, 0)


@pytest.mark.parametrize("leaks", [{4: 1}, {-1: 1}, {0: 1, 7: 0}, {0: -1}])
def test_leaks_of_counters_that_do_not_exist(pmu_class, leaks):
    """With the quirk or without."""
    for cpu in (SANDYBRIDGE, quirky(SANDYBRIDGE, "ht_leak")):
        pmu = pmu_class(cpu)
        before = pmu.state()
        with pytest.raises((ValueError, OverflowError)):
            pmu.count({}, leaks=leaks)
        assert pmu.state() == before
