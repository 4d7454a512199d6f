"""RDPMC: types and indices, what it returns, who may execute it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vpmu

V64 = 0xFF0123456789


def faults(pmu, ecx, **keywords):
    before = pmu.state()
    with pytest.raises(vpmu.GeneralProtectionFault) as caught:
        pmu.rdpmc(ecx, **keywords)
    assert (caught.value.msr, caught.value.value) == (ecx, None)
    assert pmu.state() == before
    return True


@pytest.mark.parametrize("name", vpmu.cpus())
def test_index_64(pmu_class, name):
    """kvm-unit-tests x86/pmu.c, main: RDPMC(64) raises #GP on every CPU."""
    assert faults(pmu_class(vpmu.cpu(name)), 64)


@pytest.mark.parametrize("width", [40, 48])
def test_gp(pmu_class, width):
    """kvm-unit-tests x86/pmu.c, check_rdpmc: the old bank sign-extends EAX; there is no fast mode."""
    pmu = pmu_class(replace(vpmu.cpu("skylake"), gp_width=width))
    for i in range(4):
        pmu.wrmsr(0xC1 + i, V64)
        assert pmu.rdpmc(i) == 0x23456789
        pmu.wrmsr(0x4C1 + i, V64 & ((1 << width) - 1))
        assert pmu.rdpmc(i) == V64 & ((1 << width) - 1)
        assert faults(pmu, i | 1 << 31)
    assert faults(pmu, 4)


@pytest.mark.parametrize("width", [40, 48])
def test_fixed(pmu_class, width):
    """kvm-unit-tests x86/pmu.c, check_rdpmc: fixed counters have bit 30 set; there is no fast mode."""
    pmu = pmu_class(replace(vpmu.cpu("skylake"), fixed_width=width))
    for m in range(3):
        pmu.wrmsr(0x309 + m, V64 & ((1 << width) - 1))
        assert pmu.rdpmc(m | 1 << 30) == V64 & ((1 << width) - 1)
        assert faults(pmu, m | 1 << 30 | 1 << 31)
    assert faults(pmu, 3 | 1 << 30)


def test_perf_metrics(pmu_class):
    """SDM vol. 2B, RDPMC: type 2000H where IA32_PERF_CAPABILITIES.PERF_METRICS_AVAILABLE, bit 15, is set."""
    assert faults(pmu_class(vpmu.cpu("skylake")), 0x2000_0000)
    pmu = pmu_class(vpmu.cpu("icelake"))
    pmu.wrmsr(0x329, 0x8040201F)
    assert pmu.rdpmc(0x2000_0000) == 0x8040201F
    assert faults(pmu, 0x2000_0001)
    assert pmu.rdmsr(0x329) == 0x8040201F


def test_other_types(pmu_class):
    """SDM vol. 2B, RDPMC: ECX[31:16] is the type and all of its bits count."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    for kind in (*(1 << bit for bit in range(16)), 0x6000, 0xA000, 0xC000, 0xFFFF):
        for index in (0, 1, 7):
            known = (kind == 0x4000 and index < 4) or (kind == 0x2000 and index == 0)
            if known:
                assert pmu.rdpmc(kind << 16 | index) == 0
            else:
                assert faults(pmu, kind << 16 | index)
    for index in (8, 31, 32, 0x100, 0x8000, 0xFFFF):
        assert faults(pmu, index)
        assert faults(pmu, 0x4000_0000 | index)


def test_bitmaps_with_holes(pmu_class):
    """CPUID.0AH:ECX and CPUID.23H.1: counters are what the bitmaps say."""
    pmu = pmu_class(replace(vpmu.cpu("icelake"), gp_mask=0b10100100, fixed_mask=0b1010))
    for index in range(9):
        if index in (2, 5, 7):
            assert pmu.rdpmc(index) == 0
        else:
            assert faults(pmu, index)
        if index in (1, 3):
            assert pmu.rdpmc(0x4000_0000 | index) == 0
        else:
            assert faults(pmu, 0x4000_0000 | index)


def test_permission(pmu_class):
    """SDM vol. 2B, RDPMC: at CPL 0, or with CR4.PCE set; what the counter counts is no matter."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0xC1, 77)
    for cpl in range(4):
        assert pmu.rdpmc(0, cpl=cpl) == pmu.rdpmc(0, cpl, True) == 77
        if cpl == 0:
            assert pmu.rdpmc(0, cpl=cpl, cr4_pce=False) == 77
        else:
            assert faults(pmu, 0, cpl=cpl, cr4_pce=False)
    for cpl in (-1, 4):
        with pytest.raises(ValueError, match="cpl"):
            pmu.rdpmc(0, cpl=cpl)
