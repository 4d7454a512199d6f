"""MSRs of AMD's PMUs: reserved bits are dropped, almost nothing faults."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    ALL_ONES,
    AMD_CLEAR,
    AMD_CTRL,
    AMD_MODELS,
    AMD_SET,
    AMD_STATUS,
    BULLDOZER,
    CTRL,
    DEBUGCTL,
    EN,
    FULL,
    GENOA,
    HWCR,
    K8,
    K10,
    LVTPC,
    NMI,
    OS,
    TURIN,
    USR,
    ZEN1,
    ZEN3,
    but,
    ctl,
    ctr,
    gp,
    have,
    legal_bits,
    make,
    quirky,
    stored,
)

import vpmu

#: Bits of PERF_CTL that stick (write-ignore masks probed on K8, family 10H, 15H and Zen 1).
PLAIN, EXTENDED = 0xFFDFFFFF, 0x30F_FFDFFFFF


@pytest.mark.parametrize(
    ("cpu", "kept"),
    [
        (K8, PLAIN),
        (K10, EXTENDED),
        (BULLDOZER, EXTENDED),
        (ZEN1, EXTENDED),
        (ZEN3, EXTENDED),
        (quirky(ZEN3, "evtsel_sticky"), EXTENDED | 0xC00_00000000),
        (GENOA, EXTENDED),
        (TURIN, EXTENDED),
    ],
    ids=["k8", "k10", "bulldozer", "zen1", "zen3", "zen3-sticky", "genoa", "turin"],
)
def test_selectors(pmu_class, accepts, cpu, kept):
    """VirtualBox's CPU database: no bit faults; with 12-bit event selects 35:32 and 41:40 stick besides 31:22, 20:0."""
    pmu = pmu_class(cpu)
    for n in range(4):
        assert accepts(pmu, 0xC0010000 + n, ALL_ONES)
        assert pmu.rdmsr(0xC0010000 + n) == kept
    assert pmu.state()["selectors"][:4] == (kept,) * 4
    assert legal_bits(pmu, 0xC0010001) == ALL_ONES


@pytest.mark.parametrize("name", AMD_MODELS)
def test_addresses(pmu_class, exists, accepts, name):
    """Four counters at C0010000H; with PERFCTR_CORE six at C0010200H, whose first four are the same ones."""
    cpu = AMD_MODELS[name]
    pmu = pmu_class(cpu)
    core = cpu.gp_mask == 0x3F
    expected = {*range(0xC0010000, 0xC0010008), DEBUGCTL, LVTPC}
    expected |= {*range(0xC0010200, 0xC001020C)} if core else set()
    expected |= {HWCR, 0xC00000E9} if "irperf" in cpu.features else set()
    expected |= {AMD_STATUS, AMD_CTRL, AMD_CLEAR, AMD_SET} if cpu.version == 2 else set()
    candidates = {*range(0xC000FFF0, 0xC0010020), *range(0xC00101F0, 0xC0010250), *range(0xC00002F0, 0xC0000310)}
    candidates |= {*range(0xC00000E0, 0xC00000F0), DEBUGCTL, LVTPC, *range(0xC0, 0xD0), *range(0x180, 0x190)}
    candidates |= {*range(0x300, 0x400), *range(0x4C0, 0x4D0), *range(0x1900, 0x1990), 0x10F, 0x600}
    assert {msr for msr in candidates if exists(pmu, msr)} == expected
    assert {msr for msr in candidates if accepts(pmu, msr, 0)} == expected - {0xC00000E9}


@pytest.mark.parametrize("cpu", [ZEN1, GENOA], ids=["zen1", "genoa"])
def test_legacy_addresses_are_aliases(pmu_class, cpu):
    """Linux selftests: C0010000H+n and C0010004H+n are the first four of the core counters."""
    pmu = pmu_class(cpu)
    for n in range(4):
        pmu.wrmsr(ctl(n), 0xC0 + n)
        pmu.wrmsr(ctr(n), 0x1234 + n)
        assert (pmu.rdmsr(0xC0010000 + n), pmu.rdmsr(0xC0010004 + n)) == (0xC0 + n, 0x1234 + n)
        pmu.wrmsr(0xC0010000 + n, 0x76)
        pmu.wrmsr(0xC0010004 + n, 0x4321)
        assert (pmu.rdmsr(ctl(n)), pmu.rdmsr(ctr(n)), pmu.rdpmc(n)) == (0x76, 0x4321, 0x4321)


@pytest.mark.parametrize("cpu", [K8, ZEN1, GENOA], ids=["k8", "zen1", "genoa"])
def test_counter_writes(pmu_class, cpu):
    """VirtualBox's CPU database: 48 bits are kept, the rest is dropped, and nothing is sign-extended."""
    pmu = pmu_class(cpu)
    for value in (ALL_ONES, 0xFFFFFFFF, 0x80000000, 1 << 48, 0xFFFF0123_456789AB):
        pmu.wrmsr(0xC0010005, value)
        assert pmu.rdmsr(0xC0010005) == pmu.rdpmc(1) == value & FULL


@pytest.mark.parametrize("cpu", [replace(ZEN1, gp_mask=0b100101), replace(K8, gp_mask=0b1010)], ids=["zen1", "k8"])
def test_holes(pmu_class, exists, accepts, cpu):
    """A counter that is not in the bitmap has neither address."""
    pmu = pmu_class(cpu)
    for n in range(6):
        there = bool(cpu.gp_mask >> n & 1)
        core = "perfctr_core" in cpu.features
        for msr in (ctl(n), ctr(n)):
            assert exists(pmu, msr) is accepts(pmu, msr, 1) is (there and core)
        if n < 4:
            for msr in (0xC0010000 + n, 0xC0010004 + n):
                assert exists(pmu, msr) is accepts(pmu, msr, 1) is there


def test_reset(pmu_class):
    """GlobalCtl enables all counters after RESET on AMD too (S. Das, KVM list, March 2024)."""
    pmu = pmu_class(GENOA)
    assert pmu.rdmsr(AMD_CTRL) == 0x3F
    assert pmu.rdmsr(LVTPC) == 0x10000
    zero = [AMD_STATUS, AMD_CLEAR, AMD_SET, DEBUGCTL, HWCR, 0xC00000E9, *range(0xC0010200, 0xC001020C)]
    assert {msr: pmu.rdmsr(msr) for msr in zero} == dict.fromkeys(zero, 0)
    pmu.wrmsr(0xC0010003, 0xC0 | OS | EN)
    pmu.count({"instructions": 42})  # legacy software works without ever writing GlobalCtl
    assert gp(pmu) == (0, 0, 0, 42, 0, 0)


@pytest.mark.parametrize(
    ("cpu", "ctrl", "status"),
    [
        (GENOA, 0x3F, 0x0C000000_0000003F),
        (but(GENOA, "perfmon_v2_freeze"), 0x3F, 0x3F),
        (quirky(TURIN, "amd_status_set_extra"), 0xFF, 0x0C000000_000000FF),
        (quirky(but(TURIN, "perfmon_v2_freeze"), "amd_status_set_extra"), 0xFF, 0x0C000000_000000FF),
        (replace(GENOA, gp_mask=0b100110), 0b100110, 0x0C000000_00000026),
    ],
    ids=["genoa", "without-freeze", "turin", "turin-without-freeze", "holes"],
)
def test_global_registers(pmu_class, accepts, cpu, ctrl, status):
    """S. Das, KVM list: nothing faults; GlobalStatusSet has bits 59:58 and 7:6 on Turin only."""
    pmu = pmu_class(cpu)
    settable = status if "amd_status_set_extra" in cpu.quirks else cpu.gp_mask
    assert stored(pmu, AMD_CTRL) == ctrl
    for value in (ALL_ONES, 0, 5):
        assert accepts(pmu, AMD_STATUS, value)
        assert pmu.rdmsr(AMD_STATUS) == 0
    assert accepts(pmu, AMD_SET, ALL_ONES)
    assert pmu.rdmsr(AMD_STATUS) == settable
    assert pmu.rdmsr(AMD_SET) == pmu.rdmsr(AMD_CLEAR) == 0
    lowest = cpu.gp_mask & -cpu.gp_mask
    assert accepts(pmu, AMD_CLEAR, lowest)
    assert pmu.rdmsr(AMD_STATUS) == settable & ~lowest
    pmu.wrmsr(AMD_SET, 0)
    assert pmu.rdmsr(AMD_STATUS) == settable & ~lowest
    pmu.wrmsr(AMD_CLEAR, ALL_ONES)
    assert pmu.rdmsr(AMD_STATUS) == 0


def test_debugctl(pmu_class, legal_bits, accepts):
    """VirtualBox's CPU database: bits from 7 on are ignored, bit 6 faults; the freeze bits came with PerfMonV2."""
    assert make(pmu_class, K8, (DEBUGCTL, ALL_ONES & ~(1 << 6))).rdmsr(DEBUGCTL) == 0x3F
    pmu = make(pmu_class, GENOA, (DEBUGCTL, ALL_ONES & ~(1 << 6)))
    assert pmu.rdmsr(DEBUGCTL) == 0x183F
    assert legal_bits(pmu, DEBUGCTL) == ALL_ONES & ~(1 << 6)
    assert not accepts(pmu, DEBUGCTL, ALL_ONES)


def test_instructions_retired_counter(pmu_class, accepts):
    """IRPerfCount: HWCR[30] lets it run at every CPL; it cannot be written."""
    pmu = pmu_class(ZEN1)
    pmu.count({"instructions": 9})
    assert pmu.rdmsr(0xC00000E9) == 0
    assert stored(pmu, HWCR) == pmu.state()["hwcr"] == 1 << 30
    for cpl in range(4):
        pmu.count({"instructions": 10}, cycles=5, cpl=cpl)
    assert pmu.rdmsr(0xC00000E9) == pmu.state()["irperf"] == 40
    pmu.count({"branches": 3}, cycles=7)
    assert pmu.rdmsr(0xC00000E9) == 40
    for value in (0, 40, ALL_ONES):
        assert not accepts(pmu, 0xC00000E9, value)
    pmu.wrmsr(HWCR, 0)
    pmu.count({"instructions": 10})
    assert pmu.rdmsr(0xC00000E9) == 40


def test_local_apic_entry(pmu_class, accepts):
    """LVTPC is the local APIC's and the same for both vendors: its reserved bits do fault."""
    pmu = pmu_class(ZEN1)
    assert not accepts(pmu, LVTPC, 1 << 11)
    assert not accepts(pmu, LVTPC, 0x500)
    assert accepts(pmu, LVTPC, NMI | 0x1000)
    assert pmu.rdmsr(LVTPC) == NMI


def test_intel_registers_are_absent(pmu_class, exists):
    """And AMD's on Intel."""
    pmu = pmu_class(have(GENOA))
    assert not any(exists(pmu, msr) for msr in (0xC1, 0x186, 0x309, 0x345, CTRL, 0x38D, 0x1A0, 0x3F1, 0x600))
    other = pmu_class(vpmu.cpu("skylake"))
    assert not any(exists(other, msr) for msr in (0xC0010000, 0xC0010200, AMD_CTRL, HWCR, 0xC00000E9))


def test_extended_selects_select_other_events(pmu_class):
    """Twelve bits of event select: 1C0H is not 0C0H (Linux selftests, pmu_event_filter_test, for 1C2H)."""
    pmu = make(pmu_class, ZEN1, (ctl(0), 0xC2 | OS | USR | EN), (ctl(1), 1 << 32 | 0xC2 | OS | USR | EN))
    pmu.count({"branches": 42, "r1000000c2": 5})
    assert gp(pmu)[:2] == (42, 5)
    pmu = make(pmu_class, K8, (0xC0010000, 1 << 32 | 0xC2 | OS | EN))  # bit 32 is dropped
    pmu.count({"branches": 42})
    assert gp(pmu)[0] == 42
