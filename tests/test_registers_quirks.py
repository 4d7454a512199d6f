"""Quirks that change what a register accepts or returns, each on and off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    ALL_ONES,
    AMD_CTRL,
    AMD_SET,
    AMD_STATUS,
    CTRL,
    EN,
    FIXED_CTR_CTRL,
    GENOA,
    MEROM,
    OS,
    PENRYN,
    SKYLAKE,
    YONAH,
    ZEN3,
    ctl,
    ctr,
    fixed,
    gp,
    legal_bits,
    make,
    quirky,
    stored,
)

import vpmu

#: Merom and Penryn with a PEBS record format, so that PEBS_ENABLE exists.
MEROM_PEBS = replace(MEROM, perf_capabilities=0x182)
PENRYN_PEBS = replace(PENRYN, perf_capabilities=0x11C2)


def test_merom_drops_reserved_bits(pmu_class):
    """VirtualBox's CPU database, Core 2 (Merom): the upper halves and reserved bits are ignored."""
    pmu = pmu_class(MEROM_PEBS)
    assert stored(pmu, 0x186) == stored(pmu, 0x187) == 0xFFDFFFFF
    assert stored(pmu, 0x309) == stored(pmu, 0x30B) == (1 << 40) - 1
    assert stored(pmu, FIXED_CTR_CTRL) == 0xBBB
    assert stored(pmu, 0x3F1) == 1
    assert stored(pmu, CTRL) == ALL_ONES
    assert pmu.state()["global_ctrl"] == ALL_ONES
    assert pmu.rdmsr(0x390) == 0x7_00000007
    without = pmu_class(replace(MEROM_PEBS, quirks=frozenset()))
    assert legal_bits(without, 0x186) == 0xFFDFFFFF
    assert legal_bits(without, 0x309) == (1 << 40) - 1
    assert legal_bits(without, FIXED_CTR_CTRL) == 0xBBB
    assert legal_bits(without, 0x3F1) == 1
    assert legal_bits(without, CTRL) == 0x7_00000003
    assert without.rdmsr(0x390) == 0


def test_merom_keeps_other_faults(pmu_class, accepts):
    """Only those registers: the status is read-only, its reset register and DEBUGCTL check their bits."""
    pmu = pmu_class(MEROM)
    assert not accepts(pmu, 0x38E, 0)
    assert legal_bits(pmu, 0x390) == 0xC0000007_00000003
    assert legal_bits(pmu, 0x1D9) == 0x1FC3
    assert not accepts(pmu, 0xC3, 0)


def test_penryn_global_control(pmu_class, accepts):
    """VirtualBox's CPU database, Penryn: GLOBAL_CTRL holds anything, 390H reads all ones, the rest faults."""
    pmu = pmu_class(PENRYN_PEBS)
    assert stored(pmu, CTRL) == ALL_ONES
    assert pmu.rdmsr(0x390) == ALL_ONES
    assert stored(pmu, 0x3F1) == 1
    assert not accepts(pmu, 0x186, 1 << 32)
    assert not accepts(pmu, 0x309, 1 << 40)
    assert not accepts(pmu, FIXED_CTR_CTRL, 1 << 2)
    without = pmu_class(replace(PENRYN_PEBS, quirks=frozenset()))
    assert not accepts(without, CTRL, ALL_ONES)
    assert not accepts(without, 0x3F1, 3)
    assert without.rdmsr(0x390) == 0


@pytest.mark.parametrize("cpu", [MEROM, PENRYN], ids=["merom", "penryn"])
def test_stored_enables_of_absent_counters_do_nothing(pmu_class, cpu):
    """All ones in GLOBAL_CTRL enable the counters that exist."""
    pmu = make(pmu_class, cpu, (CTRL, ALL_ONES), (0x187, 0xC0 | OS | EN), (FIXED_CTR_CTRL, 0x111))
    pmu.count({"instructions": 6, "ref-cycles": 8}, cycles=7)
    assert gp(pmu) == (0, 6)
    assert fixed(pmu) == (6, 7, 8)
    pmu.wrmsr(CTRL, ALL_ONES ^ 2)
    pmu.count({"instructions": 6})
    assert gp(pmu) == (0, 6)


@pytest.mark.parametrize("mask", [0b0001, 0b0010, 0b1100])
def test_old_counters_that_do_not_exist(pmu_class, exists, accepts, mask):
    """Linux selftests, pmu_counters_test: KVM drops writes of C1H and C2H and reads 0; hardware faults."""
    cpu = replace(SKYLAKE, gp_mask=mask)
    kvm, hardware = pmu_class(quirky(cpu, "p6_perfctr_raz")), pmu_class(cpu)
    for x in range(4):
        there = bool(mask >> x & 1)
        assert accepts(hardware, 0xC1 + x, 0xFFFF) is exists(hardware, 0xC1 + x) is there
        assert accepts(kvm, 0xC1 + x, 0xFFFF) is exists(kvm, 0xC1 + x) is (there or x < 2)
        if there or x < 2:
            assert kvm.rdmsr(0xC1 + x) == (0xFFFF if there else 0)
        for pmu in (kvm, hardware):
            assert exists(pmu, 0x4C1 + x) is exists(pmu, 0x186 + x) is there
            if not there:
                with pytest.raises(vpmu.GeneralProtectionFault):
                    pmu.rdpmc(x)
    assert kvm.state()["counters"] == hardware.state()["counters"]


def test_version_1_with_the_kvm_quirk(pmu_class, accepts):
    pmu = pmu_class(quirky(YONAH, "p6_perfctr_raz", gp_mask=1))
    assert accepts(pmu, 0xC2, ALL_ONES)
    assert pmu.rdmsr(0xC2) == 0


def test_sticky_selector_bits(pmu_class):
    """Zen 3: reserved bits 43:42 hold what is written, and change nothing that is counted."""
    bits = 0xC00_00000000
    pmu = make(pmu_class, quirky(ZEN3, "evtsel_sticky"), (ctl(0), bits | 0xC0 | OS | EN))
    assert pmu.rdmsr(ctl(0)) == bits | 0xC0 | OS | EN
    pmu.count({"instructions": 7})
    assert gp(pmu)[0] == 7
    assert make(pmu_class, ZEN3, (ctl(0), bits | 0xC0)).rdmsr(ctl(0)) == 0xC0


def test_reserved_status_bit_of_zen_4(pmu_class):
    """Linux 599522d9: with old microcode an overflow sets bit 7 of the status too; it can be cleared."""
    for quirk, expected in (((), 2), (("zen4_status_rsvd",), 0x82)):
        pmu = make(pmu_class, quirky(GENOA, *quirk), (ctl(1), 0xC0 | OS | EN), (ctr(1), (1 << 48) - 1))
        pmu.count({"instructions": 1})
        assert pmu.rdmsr(AMD_STATUS) == expected
        pmu.wrmsr(0xC0000302, 0x80)
        assert pmu.rdmsr(AMD_STATUS) == 2
        pmu.wrmsr(AMD_SET, 0x80)
        assert pmu.rdmsr(AMD_STATUS) == 2


def test_extra_bits_of_turin(pmu_class):
    """S. Das, KVM list: GlobalCtl stores the internal bits 7:6, which enable nothing."""
    pmu = make(pmu_class, quirky(GENOA, "amd_status_set_extra"), (AMD_CTRL, 0xC1), (ctl(1), 0xC0 | OS | EN))
    assert pmu.rdmsr(AMD_CTRL) == 0xC1
    pmu.count({"instructions": 5})
    assert gp(pmu) == (0,) * 6
    assert make(pmu_class, GENOA, (AMD_CTRL, 0xC1)).rdmsr(AMD_CTRL) == 1


def test_counters_halved_by_hyper_threading(pmu_class, exists):
    """SDM vol. 3B, Sandy Bridge: eight GP counters per core, four per thread."""
    cpu = replace(vpmu.cpu("skylake"), core_gp_mask=0xFF, gp_mask=0xFF)
    for on, number in ((True, 4), (False, 8)):
        pmu = pmu_class(cpu.with_quirks(ht_halves_gp=on))
        assert [exists(pmu, 0xC1 + x) for x in range(9)] == [x < number for x in range(9)]
        assert pmu.rdmsr(CTRL) == (1 << number) - 1
