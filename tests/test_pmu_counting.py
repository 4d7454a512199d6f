"""What counters count: enables, privilege, codes; what happens when one wraps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pmu_models import (
    ACK,
    AMD_CLEAR,
    AMD_CTRL,
    AMD_STATUS,
    ANY,
    CTRL,
    EN,
    FIXED,
    FIXED_CTR_CTRL,
    GENOA,
    OS,
    STATUS,
    STATUS_SET,
    USR,
    YONAH,
    ZEN1,
    ctl,
    ctr,
    fixed,
    gp,
    make,
    model,
)

import vpmu


@pytest.mark.parametrize("name", vpmu.cpus())
def test_init(pmu_class, name):
    """kvm-unit-tests x86/pmu.c, pmu_init: everything may be cleared, for every preset."""
    cpu = vpmu.cpu(name)
    pmu = pmu_class(cpu)
    for x in (x for x in range(16) if cpu.gp_mask >> x & 1):
        core = cpu.vendor == "amd" and "perfctr_core" in cpu.features
        bases = (0x186, 0xC1) if cpu.vendor == "intel" else (0xC0010000, 0xC0010004)
        for base in bases if not core else ():
            pmu.wrmsr(base + x, 0)
        if core:
            pmu.wrmsr(ctl(x), 0)
            pmu.wrmsr(ctr(x), 0)
    if cpu.version >= 2:
        pmu.wrmsr(CTRL if cpu.vendor == "intel" else AMD_CTRL, 0)
    assert pmu.state()["global_ctrl"] == (0 if cpu.version >= 2 else cpu.gp_mask)
    for m in (m for m in range(16) if cpu.fixed_mask >> m & 1):
        pmu.wrmsr(0x309 + m, 0)


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_enable_equation(pmu_class, version):
    """SDM vol. 3B 18.2.1.1 and 18.2.2: all enables and privileges; with USR = OS = 0 nothing counts."""
    cpu = model(version=version)
    for globally, en, user, system, cpl in itertools.product((0, 1), (0, 1), (0, 1), (0, 1), range(4)):
        pmu = pmu_class(cpu)
        pmu.wrmsr(0x188, 0xC0 | en << 22 | user << 16 | system << 17)
        pmu.wrmsr(FIXED_CTR_CTRL, (system | user << 1) << 4)
        pmu.wrmsr(CTRL, globally << 2 | globally << 33)
        pmu.count({"instructions": 7}, cycles=9, cpl=cpl)
        privileged = system if cpl == 0 else user
        assert pmu.rdpmc(2) == (7 if globally and en and privileged else 0)
        assert pmu.rdpmc(FIXED | 1) == (9 if globally and privileged else 0)


@pytest.mark.parametrize("cpu", [YONAH, ZEN1, GENOA], ids=["yonah", "zen1", "genoa"])
def test_enable_equation_without_global_control(pmu_class, cpu):
    """Version 1 has no global control; AMD has one with PerfMonV2 only."""
    selector = 0x187 if cpu.vendor == "intel" else 0xC0010001
    for globally, en, user, system, cpl in itertools.product((0, 1), (0, 1), (0, 1), (0, 1), range(4)):
        pmu = make(pmu_class, cpu, (selector, 0xC0 | en << 22 | user << 16 | system << 17))
        if cpu.version == 2:
            pmu.wrmsr(AMD_CTRL, globally << 1 | 1)
        elif globally == 0:
            continue
        pmu.count({"instructions": 7}, cycles=9, cpl=cpl)
        assert pmu.rdpmc(1) == (7 if globally and en and (user if cpl else system) else 0)
        assert pmu.rdpmc(0) == 0


@pytest.mark.parametrize("version", [4, 5, 6])
def test_counter_freeze_bit(pmu_class, version):
    """SDM vol. 3B 18.2.4.1 and 18.2.4.2: CTR_FRZ stops every counter until software clears it."""
    writes = ((0x186, 0xC0 | OS | EN), (FIXED_CTR_CTRL, 1), (CTRL, 0x1_00000001), (STATUS_SET, 1 << 59))
    pmu = make(pmu_class, model(version=version), *writes)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == pmu.rdpmc(FIXED) == 0
    assert pmu.rdmsr(CTRL) == 0x1_00000001
    pmu.wrmsr(ACK, 1 << 58)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == 0
    pmu.wrmsr(ACK, 1 << 59)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == pmu.rdpmc(FIXED) == 5


@pytest.mark.parametrize("bits", [1 << 24, 0xFF << 24, 2 << 24 | 1 << 23, 1 << 18, 1 << 18 | 1 << 23, 1 << 21])
def test_counting_without_what_it_needs_is_refused(pmu_class, bits):
    """CMASK, edge detection and AnyThread need more than sums: no silently wrong count."""
    pmu = make(pmu_class, model(), (0x188, 0xC0 | OS | EN | bits), (0x186, 0xC0 | OS | EN))
    before = pmu.state()
    for events, cycles in (({"instructions": 1}, 0), ({}, 5), ({}, 0)):
        with pytest.raises(ValueError, match=r"(?<!\d)2(?!\d)"):  # the message names the counter
            pmu.count(events, cycles=cycles)
        assert pmu.state() == before
    if bits != ANY:
        pmu.count({"instructions": 1}, cpl=3)  # the counter is not enabled there
    pmu.wrmsr(STATUS_SET, 1 << 59)
    pmu.count({"instructions": 1})  # nor while it is frozen
    pmu.wrmsr(ACK, 1 << 59)
    pmu.wrmsr(CTRL, 3)
    pmu.count({"instructions": 1})
    assert gp(pmu) == (1, 0, 0, 0)


@pytest.mark.parametrize("width", [32, 40, 48])
def test_wraps(pmu_class, width):
    """SDM vol. 3B 18.2.2: the counter goes on from 0; each counter has its own width."""
    cpu = model("skylake", gp_width=width, fixed_width=80 - width if width != 32 else 48)
    numbers = (0, 1, 1 << width, 5 << width, (1 << 64) - 1)
    for start, number in itertools.product((0, 1, (1 << width) - 1), numbers):
        writes = ((0x4C1, start), (0x186, 0xC4 | OS | EN), (FIXED_CTR_CTRL, 1), (CTRL, 0x1_00000001))
        pmu = make(pmu_class, cpu, *writes)
        pmu.count({"branches": number, "instructions": number})
        assert pmu.rdpmc(0) == (start + number) % (1 << width)
        assert pmu.rdpmc(FIXED) == number % (1 << cpu.fixed_width)
        wrapped = (start + number) >> width != 0
        assert pmu.rdmsr(STATUS) == wrapped | (number >> cpu.fixed_width != 0) << 32


def test_amd_counters_wrap(pmu_class):
    """48 bits; the status is there with PerfMonV2 only."""
    for cpu, status in ((ZEN1, 0), (GENOA, 1 << 3)):
        pmu = make(pmu_class, cpu, (ctl(3), 0xC2 | USR | EN), (ctr(3), (1 << 48) - 3))
        pmu.count({"branches": 7}, cpl=3)
        assert pmu.rdpmc(3) == 4
        assert pmu.state()["global_status"] == status
    pmu.wrmsr(AMD_CLEAR, 1 << 2)
    assert pmu.rdmsr(AMD_STATUS) == 1 << 3
    pmu.wrmsr(AMD_CLEAR, 1 << 3)
    assert pmu.rdmsr(AMD_STATUS) == 0


def test_status_is_sticky(pmu_class):
    """SDM vol. 3B 18.2.2: a status bit stays until software clears it."""
    pmu = make(pmu_class, model(), (0xC1, 0xFFFFFFFF), (0x186, 0xC0 | OS | EN))
    pmu.count({"instructions": 1})
    for msr, value in ((0x186, 0), (CTRL, 0), (0xC1, 0), (ACK, 0xE)):
        pmu.wrmsr(msr, value)
    assert pmu.rdmsr(STATUS) == 1


def test_a_write_never_overflows(pmu_class):
    """SDM vol. 3B 18.2.2: the status is that of counting; what a WRMSR does to a counter is none."""
    pmu = make(pmu_class, model(), (0xC1, 0xFFFFFFFF), (0x186, 0xC0 | OS | EN), (0xC1, 0), (0xC1, 1 << 31), (0x309, 0))
    assert pmu.rdmsr(STATUS) == 0
    pmu.count({"instructions": 1})
    assert pmu.rdmsr(STATUS) == 0


def test_holes_in_both_bitmaps(pmu_class):
    """CPUID.23H.1: counters that exist count, wherever they are."""
    cpu = replace(model("icelake"), gp_mask=0b10100100, fixed_mask=0b1010)
    writes = [(0x186 + x, 0xC0 | OS | EN) for x in (2, 5, 7)]
    pmu = make(pmu_class, cpu, *writes, (FIXED_CTR_CTRL, 0x1010), (CTRL, 0xA_000000A0))
    pmu.count({"instructions": 3}, cycles=4)
    assert gp(pmu) == (0, 0, 0, 0, 0, 3, 0, 3)
    assert fixed(pmu) == (0, 4, 0, 20)
