"""Registers of PEBS, arch-PEBS and auto-counter-reload, and the MSR block of version 6."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pmu_models import (
    ALL_ONES,
    BONNELL,
    COUGAR_COVE,
    EN,
    FULL,
    GOLDMONT,
    LION_COVE,
    NEHALEM,
    OS,
    SANDYBRIDGE,
    SAPPHIRERAPIDS,
    SILVERMONT,
    SKYLAKE,
    SKYMONT,
    TREMONT,
    but,
    capable,
    gp,
    make,
    model,
)

import vpmu


def test_pebs_registers_exist(pmu_class, exists, legal_bits):
    """IA32_PERF_CAPABILITIES.PEBS_REC_FMT, bits 11:8, and PEBS_BASELINE, bit 14; format 15 is arch-PEBS."""
    for pebs_format, baseline, ds in itertools.product(range(16), (0, 1 << 14), (False, True)):
        features = frozenset({"ds"} if ds else {"pdcm"})
        cpu = model(gp_mask=3, perf_capabilities=pebs_format << 8 | baseline, features=features)
        pmu = pmu_class(cpu)
        arch = pebs_format == 15
        assert exists(pmu, 0x3F1) is (0 < pebs_format < 15 and ds)
        assert exists(pmu, 0x3F2) is (4 <= pebs_format < 15 and baseline != 0 and ds)
        assert exists(pmu, 0x3F4) is exists(pmu, 0x3F5) is arch
        if exists(pmu, 0x3F1):
            assert legal_bits(pmu, 0x3F1) == (0x7_00000003 if baseline else 0xF_00000003)
        if exists(pmu, 0x3F2):
            assert legal_bits(pmu, 0x3F2) == (0x00FFFFFF_FF00003F if pebs_format >= 6 else 0xFF00000F)
        if arch:
            assert legal_bits(pmu, 0x3F4) == ALL_ONES
            assert legal_bits(pmu, 0x3F5) == 0x07FFFFF1_87FFFFF0
        assert bool(legal_bits(pmu, 0x390) >> 54 & 1) is arch


@pytest.mark.parametrize(
    ("cpu", "legal"),
    [
        (NEHALEM, 0xF_0000000F),
        (SANDYBRIDGE, 0x8000000F_0000000F),
        (SILVERMONT, 1),
        (GOLDMONT, 0xF),
        (SKYLAKE, 0xF_0000000F),
        (replace(SANDYBRIDGE, gp_mask=0b10101), 0x8000000F_00000005),
        (TREMONT, 0x7_0000000F),
        (SKYMONT, 0x77_000000FF),
    ],
    ids=["nehalem", "sandybridge", "silvermont", "goldmont", "skylake", "holes", "tremont", "skymont"],
)
def test_pebs_enable(pmu_class, legal_bits, cpu, legal):
    """VirtualBox's CPU database: PEBS_ENABLE before the baseline; then it has the bits of GLOBAL_CTRL's counters."""
    pmu = pmu_class(cpu)
    assert legal_bits(pmu, 0x3F1) == legal
    pmu.wrmsr(0x3F1, legal)
    assert pmu.rdmsr(0x3F1) == pmu.state()["pebs_enable"] == legal


def test_pebs_storage(pmu_class):
    """What is written is read, and is in the state."""
    values = {0x3F4: 0x1234_5678_9ABC_D000, 0x3F5: 0x07FFFFF1_87FFFFF0, 0x600: 0x7FFF_FFFFF000}
    pmu = make(pmu_class, COUGAR_COVE, *values.items())
    assert {msr: pmu.rdmsr(msr) for msr in values} == values
    state = pmu.state()
    assert (state["pebs_base"], state["pebs_index"], state["ds_area"]) == tuple(values.values())
    pmu = make(pmu_class, SAPPHIRERAPIDS, (0x3F2, 0x0300000B))
    assert pmu.rdmsr(0x3F2) == pmu.state()["pebs_data_cfg"] == 0x0300000B


def test_reload_registers(pmu_class, exists, legal_bits):
    """IA32_PERF_CAPABILITIES.PEBS_OUTPUT_PT_AVAIL, bit 16: a reload value per counter, as wide as it."""
    cpu = replace(TREMONT, gp_mask=0b1010, fixed_mask=0b101, gp_width=40, fixed_width=44)
    pmu = pmu_class(cpu)
    assert [x for x in range(16) if exists(pmu, 0x14C1 + x)] == [1, 3]
    assert [m for m in range(16) if exists(pmu, 0x1309 + m)] == [0, 2]
    assert legal_bits(pmu, 0x14C2) == (1 << 40) - 1
    assert legal_bits(pmu, 0x130B) == (1 << 44) - 1
    pmu = make(pmu_class, cpu, (0x14C4, 77), (0x130B, 88))
    assert (pmu.rdmsr(0x14C4), pmu.rdmsr(0x130B)) == (77, 88)
    assert pmu.state()["reload"] == (0, 0, 0, 77, *[0] * 14, 88, *[0] * 13)
    assert pmu.rdpmc(3) == 0
    without = pmu_class(replace(cpu, perf_capabilities=cpu.perf_capabilities & ~(1 << 16)))
    assert not any(exists(without, base + i) for base in (0x14C1, 0x1309) for i in range(4))


BLOCKS = {
    "lion-cove": (LION_COVE, set(range(10)), set(range(4)), set(), set(), set(), set()),
    "skymont": (SKYMONT, set(range(8)), {0, 1, 2, 4, 5, 6}, {*range(2, 8)}, {*range(2, 8)}, {0, 1}, {0, 1}),
    "cougar-cove": (COUGAR_COVE, set(range(10)), set(range(4)), {*range(2, 10)}, {*range(10)}, {0, 1}, {0, 1, 2, 3}),
    "holes": (
        replace(SKYMONT, gp_mask=0b1010, fixed_mask=0b100, acr=(0b1000, 0, 0b1010, 0b100)),
        *({1, 3}, {2}, {3}, {3}, set(), set()),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_version_6_block(pmu_class, exists, accepts, name):
    """CPUID.23H: 1900H for every GP, 1980H for every fixed counter; CFG_B with ACR, CFG_C with ACR or PEBS."""
    cpu, gps, fixeds, gp_b, gp_c, fixed_b, fixed_c = BLOCKS[name]
    pmu = pmu_class(cpu)
    expected = {0x1900 + 4 * x for x in gps} | {0x1901 + 4 * x for x in gps}
    expected |= {0x1902 + 4 * x for x in gp_b} | {0x1903 + 4 * x for x in gp_c}
    expected |= {0x1980 + 4 * m for m in fixeds}
    expected |= {0x1982 + 4 * m for m in fixed_b} | {0x1983 + 4 * m for m in fixed_c}
    assert {msr for msr in range(0x18F0, 0x1A10) if exists(pmu, msr)} == expected
    assert {msr for msr in range(0x18F0, 0x1A10) if accepts(pmu, msr, 0)} == expected
    before = pmu_class(replace(cpu, version=5))
    assert not any(exists(before, msr) for msr in range(0x18F0, 0x1A10))


def test_version_6_aliases(pmu_class, accepts, legal_bits):
    """The counter is written with its full width there, whatever IA32_PERF_CAPABILITIES.FW_WRITE says."""
    cpu = replace(LION_COVE, perf_capabilities=LION_COVE.perf_capabilities & ~(1 << 13), fixed_width=40)
    pmu = pmu_class(cpu)
    for x in range(10):
        value = 0x8765_4321_0000 + x
        pmu.wrmsr(0x1900 + 4 * x, value)
        assert pmu.rdmsr(0xC1 + x) == pmu.rdmsr(0x1900 + 4 * x) == pmu.rdpmc(x) == value
        pmu.wrmsr(0xC1 + x, 0x8000_0000)
        assert pmu.rdmsr(0x1900 + 4 * x) == 0xFFFF_8000_0000
        pmu.wrmsr(0x1901 + 4 * x, 0x4300C0 + (x << 8))
        assert pmu.rdmsr(0x186 + x) == 0x4300C0 + (x << 8)
        pmu.wrmsr(0x186 + x, 0x3C)
        assert pmu.rdmsr(0x1901 + 4 * x) == 0x3C
    assert legal_bits(pmu, 0x1900) == FULL
    assert legal_bits(pmu, 0x1905) == legal_bits(pmu, 0x187)
    assert legal_bits(pmu, 0x1909) == legal_bits(pmu, 0x188)
    for m in range(4):
        pmu.wrmsr(0x1980 + 4 * m, 0x7654_3210 + m)
        assert pmu.rdmsr(0x309 + m) == pmu.rdmsr(0x1980 + 4 * m) == 0x7654_3210 + m
    assert legal_bits(pmu, 0x1984) == (1 << 40) - 1
    assert not accepts(pmu, 0x1980, 1 << 40)


def test_configuration_registers(pmu_class, legal_bits):
    """Bits of CFG_B are counters; CFG_C has a reload value and, with arch-PEBS, what a record holds."""
    skymont, cougar = pmu_class(SKYMONT), pmu_class(COUGAR_COVE)
    assert legal_bits(skymont, 0x190A) == legal_bits(skymont, 0x1986) == 0x77_000000FF
    assert legal_bits(cougar, 0x190A) == legal_bits(cougar, 0x1982) == 0xF_000003FF
    assert legal_bits(skymont, 0x190B) == legal_bits(skymont, 0x1987) == 0xFFFFFFFF
    # Bits 38:35, 41:40 and 63:49 besides the reload value; 34:32, 39 and 48:42 are reserved.
    assert legal_bits(cougar, 0x1903) == legal_bits(cougar, 0x190B) == legal_bits(cougar, 0x1983) == 0xFFFE0378_FFFFFFFF
    writes = {0x190A: 0x1_00000004, 0x1927: 5 << 49, 0x1986: 9, 0x198F: 0x300}
    pmu = make(pmu_class, COUGAR_COVE, *writes.items())
    assert {msr: pmu.rdmsr(msr) for msr in writes} == writes
    state = pmu.state()
    assert state["cfg_b"] == (0, 0, 0x1_00000004, *[0] * 14, 9, *[0] * 14)
    assert state["cfg_c"] == (*[0] * 9, 5 << 49, *[0] * 9, 0x300, *[0] * 12)


def test_auto_counter_reload_is_not_simulated(pmu_class):
    """A counter that would be reloaded by another one cannot be counted: an error, and nothing has changed."""
    pmu = make(pmu_class, SKYMONT, (0x188, 0xC0 | OS | EN), (0x190A, 1))
    before = pmu.state()
    with pytest.raises(ValueError, match="auto-counter-reload is not simulated"):
        pmu.count({"instructions": 1})
    assert pmu.state() == before
    pmu.count({"instructions": 1}, cpl=3)  # not enabled there
    pmu.wrmsr(0x190A, 0)
    pmu.count({"instructions": 3})
    assert gp(pmu)[2] == 3
    pmu = make(pmu_class, SKYMONT, (0x38D, 1), (0x38F, 1 << 32), (0x1982, 1))
    with pytest.raises(ValueError, match="auto-counter-reload is not simulated"):
        pmu.count({"instructions": 1})


def test_selectors_of_counters_beyond_eight(pmu_class, exists):
    """Ten GP counters keep the old addresses: C1H to CAH, 4C1H to 4CAH and 186H to 18FH."""
    pmu = pmu_class(LION_COVE)
    for base in (0xC1, 0x4C1, 0x186):
        assert [exists(pmu, base + x) for x in range(11)] == [True] * 10 + [False]
    pmu.wrmsr(0x18F, 0xC0 | OS | EN)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(9) == pmu.rdmsr(0xCA) == pmu.rdmsr(0x4CA) == 5
    assert pmu.rdmsr(0x392) == 1 << 9


def test_no_pebs_without_the_debug_store(pmu_class, exists):
    """CPUID.1:EDX.DS brings IA32_DS_AREA and, before arch-PEBS, the PEBS registers."""
    for cpu in (SKYLAKE, SAPPHIRERAPIDS, BONNELL):
        pmu = pmu_class(but(cpu, "ds"))
        assert not any(exists(pmu, msr) for msr in (0x600, 0x3F1, 0x3F2))
    pmu = pmu_class(but(COUGAR_COVE, "ds"))
    assert exists(pmu, 0x3F4)
    assert exists(pmu, 0x3F5)
    with pytest.raises(vpmu.GeneralProtectionFault):
        pmu.rdmsr(0x600)


def test_in_use_counts_pebs_of_gp_counters(pmu_class):
    """SDM vol. 3B 18.2.4.3: PMI_InUse is set by any GP bit of IA32_PEBS_ENABLE, not by a fixed one."""
    for bit, expected in ((0, 1), (3, 1), (32, 0), (35, 0)):
        assert make(pmu_class, capable(SKYLAKE), (0x3F1, 1 << bit)).rdmsr(0x392) == expected << 63
