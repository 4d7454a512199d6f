"""Short vectors from the Intel SDM and from silicon masks: freezing, reserved bits, INV, write widths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    ACK,
    ALL_ONES,
    AMD_STATUS,
    BONNELL,
    BROADWELL,
    CTRL,
    DEBUGCTL,
    EDGE,
    EN,
    FULL,
    GENOA,
    ICELAKE,
    INT,
    INUSE,
    INV,
    LION_COVE,
    MEROM,
    NEHALEM,
    OS,
    PENRYN,
    SANDYBRIDGE,
    SILVERMONT,
    SKYLAKE,
    STATUS,
    STATUS_SET,
    make,
    model,
)


def frozen(pmu_class, cpu, interrupts):
    """Counter 0 is ten instructions before its overflow, and freeze-on-PMI is on."""
    return make(pmu_class, cpu, (DEBUGCTL, 1 << 12), (0xC1, 0xFFFFFFF6), (0x186, 0xC0 | OS | EN | interrupts))


@pytest.mark.parametrize("cpu", [SKYLAKE, ICELAKE, LION_COVE], ids=["skylake", "icelake", "lion-cove"])
def test_streamlined_freeze(pmu_class, cpu):
    """Vector 1, SDM vol. 3B 18.2.4.1: the counter stands at 0 until CTR_FRZ is acknowledged."""
    pmu = frozen(pmu_class, cpu, INT)
    pmu.count({"instructions": 30})
    assert pmu.rdpmc(0) == 0
    assert pmu.rdmsr(STATUS) == 1 << 59 | 1
    assert pmu.rdmsr(CTRL) == cpu.gp_mask
    pmu.count({"instructions": 5})
    pmu.wrmsr(DEBUGCTL, 0)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == 0
    pmu.wrmsr(ACK, pmu.rdmsr(STATUS))
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == 5


@pytest.mark.parametrize("cpu", [PENRYN, NEHALEM, BROADWELL], ids=["penryn", "nehalem", "broadwell"])
def test_legacy_freeze(pmu_class, accepts, cpu):
    """Vector 2, SDM vol. 3B 17.4.7: versions 2 and 3 clear GLOBAL_CTRL; there is no bit 59 and no 391H."""
    pmu = frozen(pmu_class, cpu, INT)
    pmu.count({"instructions": 30})
    assert pmu.rdpmc(0) == 0
    assert pmu.rdmsr(STATUS) == 1
    assert pmu.rdmsr(CTRL) == 0
    assert not accepts(pmu, STATUS_SET, 0)
    pmu.wrmsr(CTRL, 1)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == 5


@pytest.mark.parametrize("cpu", [NEHALEM, SKYLAKE], ids=["nehalem", "skylake"])
def test_no_freeze_without_an_interrupt(pmu_class, cpu):
    """Vector 3: an overflow of a counter without INT freezes nothing."""
    pmu = frozen(pmu_class, cpu, 0)
    pmu.count({"instructions": 30})
    assert pmu.rdpmc(0) == 20
    assert pmu.rdmsr(STATUS) == 1
    assert pmu.rdmsr(CTRL) == 0xF


def test_selector_bits(pmu_class, accepts):
    """Vector 4: AnyThread on Penryn, pin control on Sandy Bridge and Bonnell, IN_TXCP on counter 2 only."""
    assert not accepts(pmu_class(PENRYN), 0x186, 1 << 21)
    assert not accepts(pmu_class(SANDYBRIDGE), 0x186, 1 << 19)
    assert accepts(pmu_class(BONNELL), 0x186, 1 << 19)
    rtm, plain = pmu_class(model(features=frozenset({"rtm"}))), pmu_class(SANDYBRIDGE)
    assert accepts(rtm, 0x188, 1 << 33)
    assert not accepts(rtm, 0x186, 1 << 33)
    assert not accepts(plain, 0x188, 1 << 33)
    assert not accepts(plain, 0x186, 1 << 33)


def test_fixed_counter_width(pmu_class, accepts):
    """Vector 5: bits above the width fault, except on Merom."""
    for cpu in (BONNELL, SKYLAKE):
        pmu = pmu_class(cpu)
        assert not accepts(pmu, 0x309, 1 << cpu.fixed_width)
        assert accepts(pmu, 0x309, (1 << cpu.fixed_width) - 1)
    pmu = make(pmu_class, MEROM, (0x309, 1 << 40 | 5))
    assert pmu.rdmsr(0x309) == 5


def test_status_reset_bits(pmu_class, accepts):
    """Vector 6: no uncore bit in version 2, no freeze bit in version 3."""
    assert not accepts(pmu_class(replace(PENRYN, quirks=frozenset())), ACK, 1 << 61)
    assert not accepts(pmu_class(BROADWELL), ACK, 1 << 59)
    assert accepts(pmu_class(BROADWELL), ACK, 1 << 61)
    assert accepts(pmu_class(SKYLAKE), ACK, 1 << 59)


def test_inverted_comparison(pmu_class):
    """Vector 7: 100 cycles in which nothing retires count with CMASK 1 and INV, and are one rise."""
    m1 = 0xC0 | OS | EN | 1 << 24
    pmu = make(pmu_class, SKYLAKE, (0x186, m1 | INV), (0x187, m1), (0x188, m1 | INV | EDGE))
    pmu.count({"instructions": 0}, cycles=100, per_cycle={"instructions": [100]}, edges={"instructions": 1})
    assert [pmu.rdpmc(x) for x in range(3)] == [100, 0, 1]


def test_inversion_without_cmask(pmu_class):
    """Vector 8, SDM vol. 3B 18.2.1.1: INV is ignored when CMASK is 0."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0xC0 | OS | EN | INV), (0x187, 0xC0 | OS | EN))
    pmu.count({"instructions": 31}, cycles=100)
    assert pmu.rdpmc(0) == pmu.rdpmc(1) == 31


def test_no_privilege_level(pmu_class):
    """Vector 9: with USR = OS = 0 nothing counts."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0xC0 | EN))
    for cpl in range(4):
        pmu.count({"instructions": 10}, cycles=10, cpl=cpl)
    assert pmu.rdpmc(0) == 0


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_addresses_of_later_parts(pmu_class, accepts, exists, version):
    """Vector 10: 4C1H needs the capability, 1900H needs version 6."""
    pmu = pmu_class(model(version=version, perf_capabilities=0))
    for msr in (0x4C1, 0x1900, 0x1901):
        assert not exists(pmu, msr)
        assert not accepts(pmu, msr, 0)


def test_status_writes(pmu_class, accepts):
    """Vector 11: a write of the status faults on Intel and is ignored on AMD."""
    assert not accepts(pmu_class(SKYLAKE), STATUS, 0)
    pmu = pmu_class(GENOA)
    assert accepts(pmu, AMD_STATUS, ALL_ONES)
    assert pmu.rdmsr(AMD_STATUS) == 0


@pytest.mark.parametrize("cpu", [SILVERMONT, SKYLAKE], ids=["40-bit", "48-bit"])
def test_all_ones_by_the_old_address(pmu_class, cpu):
    """Vector 12: FFFFFFFFH becomes all ones of the width; the next event overflows."""
    pmu = make(pmu_class, cpu, (0xC1, 0xFFFFFFFF), (0x186, 0xC0 | OS | EN))
    assert pmu.rdmsr(0xC1) == FULL & (1 << cpu.gp_width) - 1
    pmu.count({"instructions": 1})
    assert pmu.rdpmc(0) == 0
    assert pmu.rdmsr(STATUS) == 1


def test_in_use(pmu_class):
    """Vector 13: an event select is in use whether or not its counter is enabled."""
    assert make(pmu_class, SKYLAKE, (0x189, 0xC0)).rdmsr(INUSE) == 1 << 3
