"""RDPMC: types and indices, what it returns, who may execute it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    BULLDOZER,
    COUGAR_COVE,
    CTRL,
    EN,
    FIXED,
    FIXED_CTR_CTRL,
    FULL,
    GENOA,
    INTEL_MODELS,
    K8,
    K10,
    LION_COVE,
    METRICS,
    OS,
    SKYMONT,
    USER_DISABLE,
    YONAH,
    ZEN1,
    ctr,
    have,
    make,
    model,
)

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
    pmu = pmu_class(model(gp_width=width))
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
    pmu = pmu_class(model(fixed_width=width))
    for m in range(3):
        pmu.wrmsr(0x309 + m, V64 & ((1 << width) - 1))
        assert pmu.rdpmc(m | 1 << 30) == V64 & ((1 << width) - 1)
        assert faults(pmu, m | 1 << 30 | 1 << 31)
    assert faults(pmu, 3 | 1 << 30)


def test_perf_metrics(pmu_class):
    """SDM vol. 2B, RDPMC: type 2000H where IA32_PERF_CAPABILITIES.PERF_METRICS_AVAILABLE, bit 15, is set."""
    assert faults(pmu_class(model()), 0x2000_0000)
    pmu = make(pmu_class, model("icelake"), (METRICS, 0x8040201F))
    assert pmu.rdpmc(0x2000_0000) == 0x8040201F
    assert faults(pmu, 0x2000_0001)
    assert pmu.rdmsr(METRICS) == 0x8040201F


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


@pytest.mark.parametrize("name", INTEL_MODELS)
def test_which_counters_there_are(pmu_class, name):
    """CPUID.0AH and CPUID.23H.1: counters are what the bitmaps say; version 1 has no fixed counters."""
    cpu = INTEL_MODELS[name]
    pmu = pmu_class(cpu)
    for index in range(18):
        for ecx, mask in ((index, cpu.gp_mask), (FIXED | index, cpu.fixed_mask)):
            if mask >> index & 1:
                assert pmu.rdpmc(ecx) == 0
            else:
                assert faults(pmu, ecx)


def test_bitmaps_with_holes(pmu_class):
    """Numbers are those of the counters, not places in a list."""
    pmu = pmu_class(replace(SKYMONT, gp_mask=0b10100100, fixed_mask=0b1010))
    pmu.wrmsr(0xC8, 77)
    pmu.wrmsr(0x30C, 88)
    for index in range(9):
        if index in (2, 5, 7):
            assert pmu.rdpmc(index) == (77 if index == 7 else 0)
        else:
            assert faults(pmu, index)
        if index in (1, 3):
            assert pmu.rdpmc(FIXED | index) == (88 if index == 3 else 0)
        else:
            assert faults(pmu, FIXED | index)


@pytest.mark.parametrize("cpu", [YONAH, model(), K8, GENOA], ids=["yonah", "skylake", "k8", "genoa"])
def test_permission(pmu_class, cpu):
    """SDM vol. 2B, RDPMC: at CPL 0, with CR4.PCE, or in real mode (CR0.PE = 0)."""
    pmu = make(pmu_class, cpu, (0xC1 if cpu.vendor == "intel" else 0xC0010004, 77))
    for cpl in range(4):
        assert pmu.rdpmc(0, cpl=cpl) == pmu.rdpmc(0, cpl, True) == pmu.rdpmc(0, cpl, True, False) == 77
        assert pmu.rdpmc(0, cpl=cpl, cr4_pce=False, cr0_pe=False) == 77
        if cpl == 0:
            assert pmu.rdpmc(0, cpl=cpl, cr4_pce=False) == 77
        else:
            assert faults(pmu, 0, cpl=cpl, cr4_pce=False)
            assert faults(pmu, 0, cpl=cpl, cr4_pce=False, cr0_pe=True)
    for cpl in (-1, 4):
        with pytest.raises(ValueError, match="cpl"):
            pmu.rdpmc(0, cpl=cpl)


def test_user_disable(pmu_class):
    """CPUID.23H.0:EBX.RDPMC_USR_DISABLE: at CPL > 0 such a counter reads 0, and does not fault."""
    writes = [(0x1900, 11), (0x1904, 12), (0x1980, 13), (0x1988, 14), (0x187, USER_DISABLE), (FIXED_CTR_CTRL, 2 << 40)]
    pmu = make(pmu_class, COUGAR_COVE, *writes)
    for cpl in range(4):
        reads = [pmu.rdpmc(ecx, cpl=cpl) for ecx in (0, 1, FIXED, FIXED | 2)]
        assert reads == ([11, 12, 13, 14] if cpl == 0 else [11, 0, 13, 0])
    assert pmu.rdmsr(0xC2) == 12
    assert faults(pmu, 1, cpl=3, cr4_pce=False)
    without = make(pmu_class, LION_COVE, *writes[:4])
    assert [without.rdpmc(ecx, cpl=3) for ecx in (0, 1, FIXED, FIXED | 2)] == [11, 12, 13, 14]


def test_user_disable_does_not_stop_the_counter(pmu_class):
    cpu = have(model(), "rdpmc_user_disable")
    pmu = make(
        pmu_class, cpu, (0x186, 0xC0 | OS | EN | USER_DISABLE), (FIXED_CTR_CTRL, 1 | 2 << 32), (CTRL, 0x1_00000001)
    )
    pmu.count({"instructions": 5})
    assert (pmu.rdpmc(0, cpl=3), pmu.rdpmc(FIXED, cpl=3)) == (0, 0)
    assert (pmu.rdpmc(0), pmu.rdpmc(FIXED)) == (5, 5)


@pytest.mark.parametrize(
    ("cpu", "counters", "shared"),
    [
        (K8, range(4), ()),
        (K10, range(4), range(6, 10)),
        (BULLDOZER, range(6), range(6, 10)),
        (ZEN1, range(6), range(6, 16)),
        (GENOA, range(6), range(6, 28)),
        (replace(GENOA, df_counters=6), range(6), range(6, 18)),
        (replace(GENOA, df_counters=4), range(6), range(6, 16)),
        (replace(GENOA, features=GENOA.features - {"perfctr_llc"}), range(6), (*range(6, 10), *range(16, 28))),
        (replace(GENOA, features=GENOA.features - {"perfctr_nb"}), range(6), range(10, 16)),
        (replace(ZEN1, gp_mask=0b101001), (0, 3, 5), range(6, 16)),
    ],
    ids=["k8", "k10", "bulldozer", "zen1", "genoa", "six-df", "four-df", "no-l3", "no-df", "holes"],
)
def test_amd_indices(pmu_class, cpu, counters, shared):
    """Linux arch/x86/events/amd/uncore.c: core 0 to 5, data fabric 6 to 9 and from 16 on, L3 10 to 15."""
    pmu = pmu_class(cpu)
    core = "perfctr_core" in cpu.features
    for n in counters:
        pmu.wrmsr(ctr(n) if core else 0xC0010004 + n, FULL - n)
    for index in (*range(70), 1 << 30, 1 << 31, 0x2000_0000, 0x4000_0001, 0xFFFF_FFFF):
        if index in counters:
            assert pmu.rdpmc(index) == FULL - index
        elif index in shared:
            assert pmu.rdpmc(index) == 0
        else:
            assert faults(pmu, index)
