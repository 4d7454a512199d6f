"""Freeze on PMI: what the other counters get, what each version sets, and what old microcode does."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from pmu_models import (
    ACK,
    AMD_CLEAR,
    AMD_CTRL,
    AMD_STATUS,
    BROADWELL,
    CTRL,
    DEBUGCTL,
    EN,
    FIXED_CTR_CTRL,
    FULL,
    GENOA,
    GOLDMONT,
    ICELAKE,
    INT,
    LION_COVE,
    LVTPC,
    MEROM,
    METRICS,
    NEHALEM,
    NMI,
    OS,
    PENRYN,
    SKYLAKE,
    STATUS,
    STATUS_SET,
    YONAH,
    but,
    ctl,
    ctr,
    fixed,
    gp,
    make,
    quirky,
)

from vpmu import Skid

C0, C4 = 0xC0 | OS | EN, 0xC4 | OS | EN
FREEZE, FREEZE_LBR = 1 << 12, 1 << 11
LEGACY, STREAMLINED = (MEROM, PENRYN, NEHALEM, BROADWELL), (SKYLAKE, ICELAKE, LION_COVE)


def needs(number, width=48):
    """A counter that wraps at this occurrence."""
    return (1 << width) - number


@pytest.mark.parametrize("cpu", [NEHALEM, SKYLAKE, ICELAKE], ids=["version-3", "version-4", "version-5"])
def test_other_counters_get_their_share(pmu_class, cpu):
    """Everything advances evenly, and stops when the counter wraps: floor(got * p / q) with p/q = 10/30."""
    writes = ((DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(10, 32)), (0x187, C4), (0x188, 0x3C | OS | EN))
    pmu = make(pmu_class, cpu, *writes, (FIXED_CTR_CTRL, 0x111), (CTRL, 0x7_00000007))
    pmu.count({"instructions": 30, "branches": 8, "ref-cycles": 50}, cycles=100)
    assert gp(pmu)[:3] == (0, 2, 33)
    assert fixed(pmu)[:3] == (10, 33, 16)
    assert pmu.state()["cycles"] == 100
    assert pmu.rdmsr(STATUS) & 0xF_0000000F == 1


def test_the_first_to_wrap_decides(pmu_class):
    """The least (2**width - old) / got, compared exactly; the one that has not wrapped has no status."""
    # 2/7 = 0.2857, 4/13 = 0.3077: instructions first.
    writes = ((DEBUGCTL, FREEZE), (0x187, C0 | INT), (0xC2, needs(4, 32)), (0x186, C4 | INT), (0xC1, needs(4, 32)))
    pmu = make(pmu_class, SKYLAKE, *writes)
    pmu.count({"instructions": 14, "branches": 13}, cycles=7)
    assert gp(pmu)[:2] == (FULL + 1 - 4 + 13 * 4 // 14, 0)
    assert pmu.rdmsr(STATUS) == 1 << 59 | 2


def test_equal_shares_wrap_together(pmu_class):
    """Two counters that wrap at the same moment both do."""
    writes = ((DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(6, 32)), (0x187, C4 | INT), (0xC2, needs(3, 32)))
    pmu = make(pmu_class, SKYLAKE, *writes, (LVTPC, NMI))
    pmu.count({"instructions": 8, "branches": 4})
    assert gp(pmu)[:2] == (0, 0)
    assert pmu.rdmsr(STATUS) == 1 << 59 | 3
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.take_pmi() is None


def test_counters_without_interrupt_wrap_on_the_way(pmu_class):
    """They decide nothing; their status is set if their share reaches the end, and only then."""
    for preset, status in ((needs(2, 32), 3), (needs(3, 32), 1)):
        writes = ((DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(10, 32)), (0x187, C4), (0xC2, preset))
        pmu = make(pmu_class, SKYLAKE, *writes)
        pmu.count({"instructions": 30, "branches": 8})
        assert gp(pmu)[:2] == (0, 0 if status == 3 else FULL)
        assert pmu.rdmsr(STATUS) == 1 << 59 | status


def test_shares_of_large_numbers(pmu_class):
    """Products beyond 64 bits; the counter that wraps first has exactly 0."""
    old, first, second = 12_345_678_901, (1 << 63) + 12_345, (1 << 64) - 77
    writes = ((DEBUGCTL, FREEZE), (0x186, C0 | INT), (0x4C1, old), (0x187, C4))
    pmu = make(pmu_class, SKYLAKE, *writes)
    pmu.count({"instructions": first, "branches": second})
    share = int(second * Fraction((1 << 48) - old, first))
    assert share > 1 << 48
    assert gp(pmu)[:2] == (0, share % (1 << 48))
    assert pmu.rdmsr(STATUS) == 1 << 59 | 3


def test_exactly_at_the_end(pmu_class):
    """p/q = 1: everything is counted, and the freeze is on."""
    pmu = make(pmu_class, SKYLAKE, (DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(30, 32)), (0x187, C4))
    pmu.count({"instructions": 30, "branches": 8})
    assert gp(pmu)[:2] == (0, 8)
    assert pmu.rdmsr(STATUS) == 1 << 59 | 1


@pytest.mark.parametrize("cpu", LEGACY, ids=["merom", "penryn", "nehalem", "broadwell"])
def test_legacy(pmu_class, cpu):
    """SDM vol. 3B 17.4.7: versions 2 and 3 clear GLOBAL_CTRL and DEBUGCTL.LBR."""
    for bits, control, debug in (
        (FREEZE, 0, FREEZE | 1),
        (FREEZE_LBR, 3, FREEZE_LBR),
        (FREEZE | FREEZE_LBR, 0, FREEZE | FREEZE_LBR),
        (0, 3, 1),
    ):
        pmu = make(pmu_class, cpu, (DEBUGCTL, bits | 1), (CTRL, 3), (0x186, C0 | INT), (0xC1, needs(10, 32)))
        pmu.count({"instructions": 30})
        assert gp(pmu)[0] == (0 if bits & FREEZE else 20)
        assert pmu.rdmsr(CTRL) == control
        assert pmu.rdmsr(DEBUGCTL) == debug
        assert pmu.rdmsr(STATUS) == 1


@pytest.mark.parametrize("cpu", STREAMLINED, ids=["skylake", "icelake", "lion-cove"])
def test_streamlined(pmu_class, cpu):
    """SDM vol. 3B 18.2.4.1: version 4 on sets CTR_FRZ and LBR_FRZ, and leaves GLOBAL_CTRL and DEBUGCTL."""
    for bits, status in ((FREEZE, 1 << 59), (FREEZE_LBR, 1 << 58), (FREEZE | FREEZE_LBR, 3 << 58), (0, 0)):
        pmu = make(pmu_class, cpu, (DEBUGCTL, bits | 1), (CTRL, 3), (0x186, C0 | INT), (0xC1, needs(10, 32)))
        pmu.count({"instructions": 30})
        assert gp(pmu)[0] == (0 if bits & FREEZE else 20)
        assert pmu.rdmsr(CTRL) == 3
        assert pmu.rdmsr(DEBUGCTL) == bits | 1
        assert pmu.rdmsr(STATUS) == status | 1


def test_amd(pmu_class):
    """CPUID.80000022H:EAX[2]: DebugCtl[12:11] and GlobalStatus[59:58]; without it the bits cannot be set."""
    for bits, status in ((FREEZE, 1 << 59), (FREEZE_LBR, 1 << 58), (FREEZE | FREEZE_LBR, 3 << 58)):
        writes = ((DEBUGCTL, bits), (ctl(0), C0 | INT), (ctr(0), needs(10)), (ctl(1), 0xC2 | OS | EN))
        pmu = make(pmu_class, GENOA, *writes)
        pmu.count({"instructions": 30, "branches": 8})
        assert gp(pmu)[:2] == ((0, 2) if bits & FREEZE else (20, 8))
        assert pmu.rdmsr(AMD_STATUS) == status | 1
        assert pmu.rdmsr(AMD_CTRL) == 0x3F
        pmu.wrmsr(AMD_CLEAR, 3 << 58)
        pmu.count({"instructions": 1})
        assert pmu.rdmsr(AMD_STATUS) == 1
        without = make(pmu_class, but(GENOA, "perfmon_v2_freeze"), *writes)
        without.count({"instructions": 30, "branches": 8})
        assert gp(without)[:2] == (20, 8)
        assert without.rdmsr(AMD_STATUS) == 1


def test_version_1_does_not_freeze(pmu_class, accepts):
    """There is nothing that could be cleared or set."""
    assert not accepts(pmu_class(YONAH), DEBUGCTL, FREEZE)


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_fixed_counters_freeze(pmu_class, m):
    """Bit 4m+3 of IA32_FIXED_CTR_CTRL is the fixed counters' INT."""
    writes = ((DEBUGCTL, FREEZE), (0x309 + m, needs(5)), (CTRL, 0xF_00000001), (0x186, C4))
    pmu = make(pmu_class, ICELAKE, *writes, (FIXED_CTR_CTRL, 0x1111 | 8 << 4 * m))
    pmu.count({"instructions": 20, "ref-cycles": 20, "slots": 20, "branches": 11}, cycles=20)
    assert fixed(pmu) == tuple(0 if i == m else 5 for i in range(4))
    assert gp(pmu)[0] == 2
    assert pmu.rdmsr(STATUS) == 1 << 59 | 1 << (32 + m)


def test_metrics_share(pmu_class):
    """The slots of PERF_METRICS are cut like counters."""
    writes = ((DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(10, 32)), (FIXED_CTR_CTRL, 0x1000))
    pmu = make(pmu_class, ICELAKE, *writes, (CTRL, 0x10008_00000001))
    pmu.count({"instructions": 40, "topdown-retiring": 50, "topdown-be-bound": 51}, cycles=40)
    assert fixed(pmu)[3] == 50
    assert pmu.state()["metrics_slots"] == (12, 0, 0, 12, 0, 0, 0, 0)
    assert pmu.rdmsr(METRICS) == 61 << 24 | 61  # 255 * 12 / 50 = 61.2


def test_disabled_counters_do_not_freeze(pmu_class):
    """Neither one that is off, nor one that does not get anything, nor one at another privilege level."""
    for selector in (0xC0 | OS | INT, 0xC4 | OS | INT | EN, 0xC0 | EN | INT | 1 << 16):
        pmu = make(pmu_class, SKYLAKE, (DEBUGCTL, FREEZE), (0x186, selector), (0xC1, needs(1, 32)), (0x187, C0))
        pmu.count({"instructions": 9})
        assert gp(pmu)[:2] == (FULL, 9)
        assert pmu.rdmsr(STATUS) == 0


def test_freezing_without_an_interrupt_that_arrives(pmu_class):
    """LVTPC does not matter: the freeze acts at the overflow (S. Eranian on Linux 3daa96d67274)."""
    for entry in (0x10000, NMI):
        writes = ((LVTPC, entry), (DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(10, 32)))
        pmu = make(pmu_class, SKYLAKE, *writes)
        pmu.count({"instructions": 30})
        assert gp(pmu)[0] == 0
        assert pmu.rdmsr(STATUS) == 1 << 59 | 1
        assert pmu.pmi_pending is (entry == NMI)


def late(cpu, **changes):
    return quirky(cpu, "freeze_late", **changes)


def test_late_freeze_cuts_nothing(pmu_class):
    """Old microcode: it takes effect with the PMI, so that the whole step is counted."""
    writes = ((LVTPC, NMI), (DEBUGCTL, FREEZE | FREEZE_LBR | 1), (0x186, C0 | INT), (0xC1, needs(10, 32)), (0x187, C4))
    pmu = make(pmu_class, late(GOLDMONT), *writes)
    pmu.count({"instructions": 30, "branches": 8})
    assert gp(pmu)[:2] == (20, 8)
    assert pmu.rdmsr(STATUS) == 3 << 58 | 1
    pmu.count({"instructions": 30})
    assert gp(pmu)[0] == 20
    old = make(pmu_class, late(NEHALEM), *writes)
    old.count({"instructions": 30, "branches": 8})
    assert gp(old)[:2] == (20, 8)
    assert (old.rdmsr(STATUS), old.rdmsr(CTRL), old.rdmsr(DEBUGCTL)) == (1, 0, FREEZE | FREEZE_LBR)


def test_late_freeze_of_a_masked_interrupt(pmu_class):
    """A PMI that is dropped freezes nothing."""
    writes = ((DEBUGCTL, FREEZE | FREEZE_LBR), (0x186, C0 | INT), (0xC1, needs(10, 32)))
    pmu = make(pmu_class, late(GOLDMONT), *writes)
    pmu.count({"instructions": 30})
    pmu.count({"instructions": 30})
    assert gp(pmu)[0] == 50
    assert pmu.rdmsr(STATUS) == 1


def test_late_freeze_with_skid(pmu_class):
    """The counters go on in the skid window; without the quirk they have stopped before."""
    writes = ((LVTPC, NMI), (DEBUGCTL, FREEZE), (0x186, C0 | INT), (0xC1, needs(10, 32)))
    for quirk, counts in ((True, (0, 20, 50, 50)), (False, (0, 0, 0, 0))):
        cpu = quirky(GOLDMONT, "pmi_skid", skid=Skid(150, 150))
        pmu = make(pmu_class, late(cpu) if quirk else cpu, *writes, seed=1)
        values = []
        for instructions, cycles in ((10, 0), (20, 100), (30, 100), (30, 100)):
            pmu.count({"instructions": instructions}, cycles=cycles)
            values.append(gp(pmu)[0])
        assert tuple(values) == counts
        assert pmu.rdmsr(STATUS) == 1 << 59 | 1


@pytest.mark.parametrize("version", [4, 5, 6])
def test_only_an_acknowledgement_unfreezes(pmu_class, version):
    """SDM vol. 3B 18.2.4.2: GLOBAL_CTRL and DEBUGCTL do not; 391H freezes as an overflow does."""
    pmu = make(pmu_class, replace(SKYLAKE, version=version), (0x186, C0), (STATUS_SET, 1 << 59))
    for msr, value in ((CTRL, 0), (CTRL, 0xF), (DEBUGCTL, FREEZE), (DEBUGCTL, 0), (ACK, 0xF), (0x186, C0)):
        pmu.wrmsr(msr, value)
        pmu.count({"instructions": 5})
        assert gp(pmu)[0] == 0
    pmu.wrmsr(ACK, 1 << 59)
    pmu.count({"instructions": 5})
    assert gp(pmu)[0] == 5
