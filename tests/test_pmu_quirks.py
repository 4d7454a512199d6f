"""Quirks of counting, each on and off: overcounts, first enables, sticky overflows, reads that miss an event."""

from __future__ import annotations

import itertools

import pytest
from pmu_models import (
    ACK,
    CTRL,
    EN,
    FIXED,
    FIXED_CTR_CTRL,
    FULL,
    GENOA,
    GOLDMONT,
    ICELAKE,
    INT,
    K10,
    LVTPC,
    NEHALEM,
    NMI,
    OS,
    SILVERMONT,
    SKYLAKE,
    STATUS,
    USR,
    ZEN1,
    ZEN3,
    ctl,
    fixed,
    gp,
    make,
    quirky,
)

import vpmu

FLOWS = {"interrupt-return": 1000, "far-transfer": 20_000, "vmrun": 300_000, "erratum-1292": 4_000_000}
GIVEN = {"instructions": 5, "branches": 6, "branch-misses": 7, "cache-references": 8}
INTEL_CODES = (0xC0, 0xC4, 0xC5, 0x4F2E)


def intel(pmu_class, cpu, bits=0):
    """Counters of four events and fixed counter 0, at every CPL."""
    writes = [(0x186 + i, code | OS | USR | EN | bits) for i, code in enumerate(INTEL_CODES)]
    return make(pmu_class, cpu, *writes, (FIXED_CTR_CTRL, 3), (CTRL, 0x1_0000000F))


@pytest.mark.parametrize("cpl", range(4))
@pytest.mark.parametrize("quirk", [None, "irq_overcount"])
def test_interrupt_returns(pmu_class, quirk, cpl):
    """V. Weaver: each return from an interrupt is one more instruction of user code."""
    pmu = intel(pmu_class, quirky(SKYLAKE, quirk) if quirk else SKYLAKE)
    pmu.count(GIVEN, cpl=cpl, flows=FLOWS)
    more = 1000 if quirk and cpl > 0 else 0
    assert gp(pmu) == (5 + more, 6, 7, 8)
    assert fixed(pmu)[0] == 5 + more


def test_interrupt_returns_of_amd(pmu_class):
    """Both vendors; a counter of kernel code does not see them."""
    writes = ((ctl(0), 0xC0 | USR | EN), (ctl(1), 0xC0 | OS | EN), (ctl(2), 0xC2 | USR | EN))
    pmu = make(pmu_class, quirky(ZEN1, "irq_overcount"), *writes)
    pmu.count(GIVEN, cpl=3, flows=FLOWS)
    assert gp(pmu)[:3] == (1005, 0, 6)


@pytest.mark.parametrize(
    ("quirk", "instructions", "branches"),
    [(None, 0, 0), ("atom_far_overcount", 20_000, 20_000), ("atom_far_overcount_instructions", 20_000, 0)],
)
def test_far_transfers(pmu_class, quirk, instructions, branches):
    """kvm-unit-tests x86/pmu.c, errata of Atoms; Clearwater Forest's SRF7 is about instructions only."""
    for cpl in (0, 3):
        pmu = intel(pmu_class, quirky(ICELAKE, quirk) if quirk else ICELAKE)
        pmu.count(GIVEN, cpl=cpl, flows=FLOWS)
        assert gp(pmu)[:4] == (5 + instructions, 6 + branches, 7, 8)
        assert fixed(pmu)[0] == 5 + instructions


def test_overcounts_add_up(pmu_class):
    """Two quirks are two overcounts; counters with CMASK or EDGE have none."""
    cpu = quirky(SKYLAKE, "irq_overcount", "atom_far_overcount")
    pmu = intel(pmu_class, cpu)
    pmu.count(GIVEN, cpl=3, flows=FLOWS)
    assert gp(pmu)[:2] == (21_005, 20_006)
    pmu = intel(pmu_class, cpu, 1 << 24)
    per_cycle = {name: [10] for name in GIVEN}
    pmu.count({}, cycles=10, cpl=3, per_cycle=per_cycle, flows=FLOWS)
    assert gp(pmu) == (0, 0, 0, 0)
    pmu = intel(pmu_class, cpu, 1 << 18)
    pmu.count(GIVEN, cpl=3, edges=dict.fromkeys(GIVEN, 2), flows=FLOWS)
    assert gp(pmu) == (2, 2, 2, 2)


def test_overcounts_can_wrap(pmu_class):
    pmu = make(
        pmu_class, quirky(SKYLAKE, "irq_overcount"), (LVTPC, NMI), (0xC1, 0xFFFFFFF0), (0x186, 0xC0 | USR | EN | INT)
    )
    pmu.count({}, cpl=3, flows={"interrupt-return": 20})
    assert gp(pmu)[0] == 4
    assert pmu.rdmsr(STATUS) == 1
    assert pmu.pmi_pending


@pytest.mark.parametrize("quirk", [False, True])
def test_vmrun_is_a_branch_of_the_guest(pmu_class, quirk):
    """kvm-unit-tests x86/pmu.c."""
    cpu = quirky(GENOA, "amd_vmrun_branch") if quirk else GENOA
    for guest in (False, True):
        pmu = make(pmu_class, cpu, (ctl(0), 0xC2 | OS | EN), (ctl(1), 0xC0 | OS | EN))
        pmu.set_mode(svme=True, guest=guest)
        pmu.count(GIVEN, flows=FLOWS)
        assert gp(pmu)[:2] == (6 + (300_000 if quirk and guest else 0), 5)


ERRATUM_1292 = (*range(0xC0, 0xC6), 0xC8, 0xC9, 0xCA, 0xCC, 0xD1, 0x1C7, 0x1D0)


@pytest.mark.parametrize("quirk", [False, True])
def test_erratum_1292(pmu_class, quirk):
    """Revision guides of Zen 1 to 3: twelve-bit selects of retire events, any unit mask."""
    cpu = quirky(ZEN3, "amd_1292") if quirk else ZEN3
    for select, umask in itertools.product(
        (*ERRATUM_1292, 0xC6, 0xC7, 0xCB, 0xCD, 0xD0, 0x1C0, 0x1D1, 0x76), (0, 0x55)
    ):
        code = (select & 0xF00) << 24 | umask << 8 | select & 0xFF
        pmu = make(pmu_class, cpu, (ctl(3), code | OS | EN))
        pmu.count({}, flows=FLOWS)
        assert gp(pmu)[3] == (4_000_000 if quirk and select in ERRATUM_1292 else 0)


@pytest.mark.parametrize(("bit_43", "interrupts", "exact"), [(1, 0, True), (1, 1, False), (0, 0, False), (0, 1, False)])
def test_erratum_1292_does_not_show_on_counter_2(pmu_class, bit_43, interrupts, exact):
    """With bit 43 set and INT clear counter 2 is exact, and only counter 2; the bit must stick for that."""
    cpu = quirky(ZEN3, "amd_1292", "evtsel_sticky")
    value = 0xC0 | OS | EN | bit_43 << 43 | interrupts << 20
    pmu = make(pmu_class, cpu, (ctl(2), value), (ctl(1), value))
    pmu.count({"instructions": 5}, flows=FLOWS)
    assert gp(pmu)[1:3] == (4_000_005, 5 if exact else 4_000_005)


@pytest.mark.parametrize(
    ("flows", "error"),
    [
        ({"interrupt-returns": 1}, vpmu.UnknownName),
        ({"": 0}, vpmu.UnknownName),
        ({"vmrun": -1}, ValueError),
        ({"vmrun": 1.5}, TypeError),
        ({"vmrun": "1"}, TypeError),
    ],
)
def test_flows_that_cannot_be(pmu_class, flows, error):
    """Their names are checked with every model."""
    for cpu in (SKYLAKE, K10):
        pmu = pmu_class(cpu)
        before = pmu.state()
        with pytest.raises(error):
            pmu.count({}, flows=flows)
        assert pmu.state() == before


def test_unknown_flow_names_the_nearest(pmu_class):
    with pytest.raises(vpmu.UnknownName, match="far-transfer"):
        pmu_class(SKYLAKE).count({}, flows={"far-transfers": 1})


def test_first_enable(pmu_class):
    """Errata AAK100, AAP53, BD53: until GLOBAL_CTRL was once 0, GP counters count core cycles."""
    for quirk in (False, True):
        cpu = quirky(NEHALEM, "nhm_enable") if quirk else NEHALEM
        pmu = make(pmu_class, cpu, (0x186, 0xC0 | OS | EN), (0x187, 0xC4 | OS | EN), (FIXED_CTR_CTRL, 1))
        assert pmu.state()["enable_hazard"] == int(quirk)
        pmu.count({"instructions": 5, "branches": 6}, cycles=70)
        assert gp(pmu)[:2] == ((70, 70) if quirk else (5, 6))
        pmu.wrmsr(CTRL, 0x1_00000003)
        pmu.count({"instructions": 5, "branches": 6}, cycles=70)
        assert gp(pmu)[:2] == ((140, 140) if quirk else (10, 12))
        assert fixed(pmu)[0] == 5
        pmu.wrmsr(CTRL, 0)
        assert pmu.state()["enable_hazard"] == 0
        pmu.wrmsr(CTRL, 3)
        pmu.count({"instructions": 5, "branches": 6}, cycles=70)
        assert gp(pmu)[:2] == ((145, 146) if quirk else (15, 18))


def test_first_enable_spares_thresholds(pmu_class):
    """Counters with CMASK or EDGE count what they should."""
    cpu = quirky(NEHALEM, "nhm_enable")
    pmu = make(pmu_class, cpu, (0x186, 0xC0 | OS | EN | 2 << 24), (0x187, 0xC0 | OS | EN | 1 << 18))
    pmu.count({}, cycles=10, per_cycle={"instructions": [4, 3, 3]}, edges={"instructions": 4})
    assert gp(pmu)[:2] == (3, 4)


@pytest.mark.parametrize("quirk", [False, True])
def test_sticky_overflow_of_reference_cycles(pmu_class, quirk):
    """Intel's event files, REF_TSC: after software clears bit 34 and reloads, it may set once more, with a PMI."""
    cpu = quirky(SKYLAKE, "reftsc_sticky_ovf") if quirk else SKYLAKE
    writes = ((LVTPC, NMI), (0x30B, FULL), (FIXED_CTR_CTRL, 0x900), (CTRL, 4 << 32))
    pmu = make(pmu_class, cpu, *writes)
    pmu.count({"ref-cycles": 2}, cycles=2)
    assert pmu.rdmsr(STATUS) == 1 << 34
    assert pmu.state()["reftsc_latch"] == int(quirk)
    assert pmu.take_pmi() == ("nmi", 0)
    pmu.count({"ref-cycles": 2}, cycles=2)  # the bit is still set
    assert pmu.state()["reftsc_latch"] == int(quirk)
    pmu.wrmsr(ACK, 1 << 34)
    pmu.wrmsr(0x30B, 5)
    pmu.wrmsr(LVTPC, NMI)
    pmu.count({"instructions": 9, "ref-cycles": 0}, cycles=9)  # the counter does not move
    assert pmu.rdmsr(STATUS) == 0
    pmu.count({"ref-cycles": 2}, cycles=2)
    assert pmu.rdmsr(STATUS) == (1 << 34 if quirk else 0)
    assert pmu.take_pmi() == (("nmi", 0) if quirk else None)
    assert fixed(pmu)[2] == 7
    assert pmu.state()["reftsc_latch"] == 0
    pmu.wrmsr(ACK, 1 << 34)
    pmu.wrmsr(LVTPC, NMI)
    pmu.count({"ref-cycles": 2}, cycles=2)
    assert pmu.rdmsr(STATUS) == 0
    assert pmu.take_pmi() is None


def test_sticky_overflow_without_a_pmi(pmu_class):
    """Its PMI is enabled by the counter's bit, as ever."""
    cpu = quirky(SKYLAKE, "reftsc_sticky_ovf")
    pmu = make(pmu_class, cpu, (LVTPC, NMI), (0x30B, FULL), (FIXED_CTR_CTRL, 0x100), (CTRL, 4 << 32))
    pmu.count({"ref-cycles": 2}, cycles=2)
    pmu.wrmsr(ACK, 1 << 34)
    pmu.count({"ref-cycles": 2}, cycles=2)
    assert pmu.rdmsr(STATUS) == 1 << 34
    assert not pmu.pmi_pending


def test_sticky_overflow_is_at_the_end(pmu_class):
    """Its request is made after counting: at the cycle at which the count ends."""
    cpu = quirky(SKYLAKE, "reftsc_sticky_ovf", "pmi_skid", skid=vpmu.Skid(10, 10))
    writes = ((LVTPC, NMI), (0x30B, FULL), (FIXED_CTR_CTRL, 0x900), (CTRL, 4 << 32))
    pmu = make(pmu_class, cpu, *writes, seed=1)
    pmu.count({"ref-cycles": 2}, cycles=20)
    assert pmu.state()["pmi_arrival"] == -1  # 10 + 10: it is there
    assert pmu.take_pmi() == ("nmi", 0)
    pmu.wrmsr(ACK, 1 << 34)
    pmu.wrmsr(LVTPC, NMI)
    pmu.count({"ref-cycles": 2}, cycles=20)
    assert pmu.state()["pmi_arrival"] == 40 + 10


def test_other_counters_have_no_sticky_overflow(pmu_class):
    cpu = quirky(SKYLAKE, "reftsc_sticky_ovf")
    pmu = make(pmu_class, cpu, (0x309, FULL), (0x30A, FULL), (FIXED_CTR_CTRL, 0x11), (CTRL, 3 << 32))
    pmu.count({"instructions": 2}, cycles=2)
    pmu.wrmsr(ACK, 3 << 32)
    pmu.count({"instructions": 2}, cycles=2)
    assert pmu.rdmsr(STATUS) == 0
    assert pmu.state()["reftsc_latch"] == 0


def test_rdpmc_misses_the_event_in_flight(pmu_class):
    """SDM vol. 2B: RDPMC is not ordered; a counter that has just moved reads one less, until a WRMSR."""
    for quirk in (False, True):
        cpu = quirky(SILVERMONT, "rdpmc_ooo") if quirk else SILVERMONT
        writes = ((0x186, 0xC0 | OS | EN), (0x187, 0xC4 | OS | EN), (FIXED_CTR_CTRL, 0x11), (CTRL, 0x3_00000003))
        pmu = make(pmu_class, cpu, (0xC1, 0xFFFFFFFD), (0x309, 10), *writes)
        pmu.count({"instructions": 3}, cycles=0)
        less = int(quirk)
        assert pmu.rdpmc(0) == pmu.rdpmc(0) == -less % (1 << 40)
        assert pmu.rdpmc(FIXED) == 13 - less
        assert (pmu.rdpmc(1), pmu.rdpmc(FIXED | 1)) == (0, 0)
        assert (pmu.rdmsr(0xC1), pmu.rdmsr(0x309)) == (0, 13)
        assert pmu.state()["in_flight"] == (0x1_0001 if quirk else pmu.state()["in_flight"])
        pmu.wrmsr(LVTPC, NMI)
        assert pmu.state()["in_flight"] == 0
        assert (pmu.rdpmc(0), pmu.rdpmc(FIXED)) == (0, 13)
        pmu.count({"branches": 1})
        assert (pmu.rdpmc(0), pmu.rdpmc(1)) == (0, 1 - less)
        pmu.count({})
        assert pmu.rdpmc(1) == 1


def test_a_fault_does_not_serialize(pmu_class):
    """Only a WRMSR that does not fault."""
    pmu = make(pmu_class, quirky(GOLDMONT, "rdpmc_ooo"), (0x186, 0xC0 | OS | EN))
    pmu.count({"instructions": 3})
    with pytest.raises(vpmu.GeneralProtectionFault):
        pmu.wrmsr(0x38E, 0)
    assert pmu.rdpmc(0) == 2
    pmu.rdmsr(0xC1)
    assert pmu.rdpmc(0) == 2


@pytest.mark.parametrize("quirk", [False, True])
def test_bus_cycles_of_the_crystal(pmu_class, quirk):
    """Intel's event files: 3CH/01H is the crystal clock before Golden Cove, and then the TSC's."""
    cpu = quirky(ICELAKE, "ref_xclk") if quirk else ICELAKE
    pmu = make(pmu_class, cpu, (0x186, 0x013C | OS | EN))
    pmu.count({}, cycles=4_200_000)
    # 25 MHz against 2.1 GHz: 2**32 / 84 is rounded down, so one less; without the quirk it is the TSC, 2.1 GHz too.
    assert gp(pmu)[0] == (49_999 if quirk else 4_200_000)
