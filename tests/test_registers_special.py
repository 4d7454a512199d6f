"""Registers that are more than storage, and what optional features bring."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import ALL_ONES, MEROM, SANDYBRIDGE, SILVERMONT, have, model

import vpmu


def test_global_status_is_read_only(pmu_class, accepts):
    """SDM vol. 3B 18.2.2: the register is read-only."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    for value in (0, 1, ALL_ONES):
        assert not accepts(pmu, 0x38E, value)
        assert not accepts(pmu, 0x392, value)


def test_status_set_and_reset(pmu_class):
    """SDM vol. 3B 18.2.4.2: ones set and clear; both registers read 0, and setting raises no PMI."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0x834, 0xF5)
    pmu.wrmsr(0x186, 0x5300C0)
    everything = 0xFC81000F_000000FF
    pmu.wrmsr(0x391, everything)
    assert pmu.rdmsr(0x38E) == everything
    assert pmu.rdmsr(0x390) == pmu.rdmsr(0x391) == 0
    pmu.wrmsr(0x390, 1 << 63 | 0x81)
    assert pmu.rdmsr(0x38E) == everything & ~(1 << 63 | 0x81)
    pmu.wrmsr(0x391, 0)
    pmu.wrmsr(0x391, 0x80)
    assert pmu.rdmsr(0x38E) == everything & ~(1 << 63 | 0x01)
    pmu.wrmsr(0x390, everything)
    assert pmu.rdmsr(0x38E) == 0
    assert not pmu.pmi_pending


def test_status_bits_of_absent_counters(pmu_class, accepts):
    """SDM vol. 3B, Sandy Bridge: with four counters, ones in bits 7:4 of the global registers raise #GP."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    for msr in (0x38F, 0x390, 0x391):
        assert [accepts(pmu, msr, 1 << bit) for bit in range(8)] == [True] * 4 + [False] * 4


def test_global_in_use(pmu_class):
    """SDM vol. 3B 18.2.4.3: event selects, fixed enables, and anything that interrupts."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0x189, 0xC0)
    assert pmu.rdmsr(0x392) == 1 << 3
    pmu.wrmsr(0x186, 0x43FF00)  # the event select alone decides
    assert pmu.rdmsr(0x392) == 1 << 3
    pmu.wrmsr(0x38D, 0x0120)
    assert pmu.rdmsr(0x392) == 1 << 3 | 1 << 33 | 1 << 34
    for msr, value in ((0x186, 1 << 20), (0x38D, 0x8000), (0x3F1, 1 << 7)):
        assert not pmu.rdmsr(0x392) >> 63
        before = pmu.rdmsr(msr)
        pmu.wrmsr(msr, before | value)
        assert pmu.rdmsr(0x392) == 1 << 3 | 1 << 33 | 1 << 34 | 1 << 63
        pmu.wrmsr(msr, before)
    pmu.wrmsr(0x3F1, 1 << 32)  # PEBS on a fixed counter does not set PMI_InUse
    assert not pmu.rdmsr(0x392) >> 63


def test_full_width_writes_need_the_capability(pmu_class, accepts, exists):
    """IA32_PERF_CAPABILITIES.FW_WRITE, bit 13."""
    pmu = pmu_class(model(perf_capabilities=vpmu.cpu("skylake").perf_capabilities & ~(1 << 13)))
    assert not exists(pmu, 0x4C1)
    assert not accepts(pmu, 0x4C1, 0)
    assert exists(pmu, 0xC1)


def test_debugctl_bits(pmu_class, legal_bits):
    """SDM vol. 3B 17.4.1 and IA32_PERF_CAPABILITIES.FREEZE_WHILE_SMM, bit 12."""
    bare = model(perf_capabilities=0, features=frozenset())
    assert legal_bits(pmu_class(bare), 0x1D9) == 0x07C3
    assert legal_bits(pmu_class(have(bare, "uncore_pmi")), 0x1D9) == 0x27C3
    assert legal_bits(pmu_class(have(bare, "pdcm")), 0x1D9) == 0x1FC3
    assert legal_bits(pmu_class(have(bare, "pdcm", version=1, fixed_mask=0)), 0x1D9) == 0x07C3
    assert legal_bits(pmu_class(replace(bare, perf_capabilities=1 << 12)), 0x1D9) == 0x47C3
    assert legal_bits(pmu_class(have(bare, "rtm")), 0x1D9) == 0x87C3
    assert legal_bits(pmu_class(have(bare, "hle")), 0x1D9) == 0x07C3
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x1D9, 0x5801)
    assert pmu.rdmsr(0x1D9) == 0x5801


@pytest.mark.parametrize("cpu", [MEROM, SILVERMONT, SANDYBRIDGE], ids=["merom", "silvermont", "sandybridge"])
def test_misc_enable(pmu_class, accepts, legal_bits, cpu):
    """VirtualBox's CPU database: bits 7 and 12 are write-ignored; bit 11 only on Core 2, else it raises #GP."""
    pmu = pmu_class(cpu)
    ignored = cpu.misc_enable_ignored
    for value in (0, 1 << 7, 1 << 12, ignored):
        assert accepts(pmu, 0x1A0, value)
        assert pmu.rdmsr(0x1A0) == 1 << 7
    assert legal_bits(pmu, 0x1A0) == ignored
    assert accepts(pmu, 0x1A0, 1 << 7 | 1 << 11) is (cpu is MEROM)


def test_lvtpc(pmu_class, accepts):
    """SDM vol. 3A 10.5.1: vector, delivery mode but not INIT or ExtINT, mask; the status is read-only."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    for mode in range(8):
        assert accepts(pmu, 0x834, mode << 8 | 0xF5) is (mode in (0, 2, 4))
        assert accepts(pmu, 0x834, 1 << 16 | mode << 8) is (mode in (0, 2, 4))
    pmu.wrmsr(0x834, 0x1_14F5)
    assert pmu.rdmsr(0x834) == 0x1_04F5
    for bit in (*range(17, 64), 11, 13, 14, 15):
        assert not accepts(pmu, 0x834, 1 << bit)


def test_tsx_force_abort(pmu_class, exists, legal_bits):
    """Linux msr-index.h: RTM_FORCE_ABORT, TSX_CPUID_CLEAR, SDV_ENABLE_RTM; absent without the microcode."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    assert legal_bits(pmu, 0x10F) == 7
    pmu.wrmsr(0x10F, 5)
    assert pmu.rdmsr(0x10F) == 5
    assert not exists(pmu_class(model(features=vpmu.cpu("skylake").features - {"tsx_force_abort"})), 0x10F)


def test_ds_area(pmu_class, accepts, exists):
    """SDM vol. 3B 17.4.9: a linear address; one that is not canonical raises #GP."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    for value in (0, 0x7FFF_FFFFFFFF, 0xFFFF8000_00000000, ALL_ONES):
        assert accepts(pmu, 0x600, value)
        assert pmu.rdmsr(0x600) == value
    for value in (1 << 47, 1 << 63, 0x7FFF8000_00000000, 0xFFFF0000_00000000, 0xFFFF7FFF_FFFFFFFF):
        assert not accepts(pmu, 0x600, value)
    assert not exists(pmu_class(model(features=frozenset({"pdcm"}))), 0x600)


def test_perf_metrics(pmu_class, accepts, exists):
    """SDM, PERF_METRICS: IA32_PERF_CAPABILITIES bit 15 brings MSR 329H and bit 48 of the global registers."""
    without = pmu_class(vpmu.cpu("skylake"))
    assert not exists(without, 0x329)
    assert not accepts(without, 0x38F, 1 << 48)
    pmu = pmu_class(vpmu.cpu("icelake"))
    for value in (ALL_ONES, 0x80_40_20_1F):
        pmu.wrmsr(0x329, value)
        assert pmu.rdmsr(0x329) == value
    assert accepts(pmu, 0x38F, 1 << 48)
    assert accepts(pmu, 0x391, 1 << 48)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1, 0), OverflowError),
        ((1 << 32, 0), OverflowError),
        ((0xC1, -1), OverflowError),
        ((0xC1, 1 << 64), OverflowError),
        (("0xC1", 0), TypeError),
        ((0xC1, 1.0), TypeError),
        ((0xC1, None), TypeError),
    ],
)
def test_arguments_that_are_no_msr_and_value(pmu_class, arguments, error):
    pmu = pmu_class(vpmu.cpu("skylake"))
    before = pmu.state()
    with pytest.raises(error):
        pmu.wrmsr(*arguments)
    if arguments[0] != 0xC1:
        with pytest.raises(error):
            pmu.rdmsr(arguments[0])
        with pytest.raises(error):
            pmu.rdpmc(arguments[0])
    assert pmu.state() == before
