"""What an overflow requests, what LVTPC lets through, what is delivered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pmu_models import (
    ACK,
    CTRL,
    EN,
    FIXED_CTR_CTRL,
    FULL,
    GENOA,
    INT,
    K8,
    LVTPC,
    NEHALEM,
    NMI,
    OS,
    SKYLAKE,
    STATUS,
    STATUS_SET,
    TURIN,
    YONAH,
    ZEN3,
    gp,
    make,
    model,
    quirky,
)

MASKED = 1 << 16
C0 = 0xC0 | OS | EN
CPUS = {"yonah": YONAH, "nehalem": NEHALEM, "skylake": SKYLAKE, "k8": K8, "zen3": ZEN3, "genoa": GENOA}


def overflowing(pmu_class, entry, cpu=SKYLAKE, interrupts=INT):
    """A PMU whose counter 0 wraps at the next instruction."""
    selector, counter = (0x186, 0xC1) if cpu.vendor == "intel" else (0xC0010000, 0xC0010004)
    all_ones = (1 << cpu.gp_width) - 1
    return make(pmu_class, cpu, (LVTPC, entry), (counter, all_ones), (selector, C0 | interrupts))


def overflow(pmu):
    """Let counter 0 wrap again."""
    intel = pmu.cpu.vendor == "intel"
    pmu.wrmsr(0xC1 if intel else 0xC0010004, (1 << pmu.cpu.gp_width) - 1)
    pmu.count({"instructions": 1})


@pytest.mark.parametrize(("mode", "number"), [("fixed", 0), ("smi", 2), ("nmi", 4)])
@pytest.mark.parametrize("name", CPUS)
def test_accepted_pmi_masks_lvtpc(pmu_class, name, mode, number):
    """SDM vol. 3A 10.5.1: the mask bit is set when the PMI is accepted, on Intel; AMD does not set it."""
    pmu = overflowing(pmu_class, number << 8 | 0xF5, CPUS[name])
    pmu.count({"instructions": 1})
    assert pmu.pmi_pending is True
    expected = number << 8 | 0xF5 | (MASKED if pmu.cpu.vendor == "intel" else 0)
    assert pmu.rdmsr(LVTPC) == expected
    assert pmu.state()["pmi_entry"] == number << 8 | 0xF5
    pmi = pmu.take_pmi()
    assert pmi == (mode, 0xF5)
    assert (pmi.mode, pmi.vector) == (mode, 0xF5)
    assert pmu.rdmsr(LVTPC) == expected
    assert pmu.pmi_pending is False
    assert pmu.state()["pmi_entry"] == 0
    assert pmu.take_pmi() is None


def test_masked_pmi_is_dropped(pmu_class):
    """SDM vol. 3A 10.5.1: a masked entry delivers nothing; the status bit is there all the same."""
    pmu = overflowing(pmu_class, MASKED | NMI)
    pmu.count({"instructions": 1})
    assert not pmu.pmi_pending
    assert pmu.rdmsr(STATUS) == 1
    pmu.wrmsr(LVTPC, NMI)
    pmu.count({}, cycles=1000)
    assert not pmu.pmi_pending
    overflow(pmu)  # the status bit is still set, yet the overflow is a new one
    assert pmu.pmi_pending


def test_entry_after_reset_is_masked(pmu_class):
    for cpu in CPUS.values():
        pmu = pmu_class(cpu)
        assert pmu.rdmsr(LVTPC) == MASKED
        pmu.wrmsr(0x186 if cpu.vendor == "intel" else 0xC0010000, C0 | INT)
        overflow(pmu)
        assert gp(pmu)[0] == 0
        assert not pmu.pmi_pending


def test_overflow_between_acceptance_and_unmasking(pmu_class):
    """On Intel it is dropped, because the entry is masked until the handler clears it; on AMD it is not."""
    for cpu, again in ((SKYLAKE, False), (YONAH, False), (GENOA, True)):
        pmu = overflowing(pmu_class, NMI, cpu)
        pmu.count({"instructions": 1})
        assert pmu.take_pmi() == ("nmi", 0)
        overflow(pmu)
        assert pmu.pmi_pending is again
        pmu.wrmsr(LVTPC, NMI)
        assert pmu.pmi_pending is again


def test_mode_and_vector_are_latched(pmu_class):
    """What LVTPC had when the PMI was accepted counts, not what it has when it is taken."""
    pmu = overflowing(pmu_class, 0xF5)
    pmu.count({"instructions": 1})
    pmu.wrmsr(LVTPC, NMI | 0x02)
    assert pmu.take_pmi() == ("fixed", 0xF5)
    overflow(pmu)
    pmu.wrmsr(LVTPC, MASKED | 0x44)
    assert pmu.take_pmi() == ("nmi", 0x02)


@pytest.mark.parametrize("cpu", [SKYLAKE, GENOA], ids=["intel", "amd"])
def test_pending_pmi_is_joined(pmu_class, cpu):
    """A later one replaces its mode and vector; there is one interrupt."""
    pmu = overflowing(pmu_class, 0xF5, cpu)
    pmu.count({"instructions": 1})
    pmu.wrmsr(LVTPC, NMI | 0x12)
    overflow(pmu)
    assert pmu.state()["pmi_pending"] == 1
    assert pmu.take_pmi() == ("nmi", 0x12)
    assert pmu.take_pmi() is None
    assert not pmu.pmi_pending


def test_fixed_mode_waits_for_interrupts(pmu_class):
    """kvm-unit-tests x86/pmu.c: an overflow with IF = 0 is one interrupt after STI, however many there were."""
    pmu = overflowing(pmu_class, 0xF5)
    pmu.count({"instructions": 1})
    for nmi_blocked in (False, True):
        assert pmu.take_pmi(interrupts_enabled=False, nmi_blocked=nmi_blocked) is None
        assert pmu.pmi_pending
    pmu.wrmsr(LVTPC, 0xF5)
    overflow(pmu)
    assert pmu.take_pmi(False) is None
    assert pmu.take_pmi(interrupts_enabled=True, nmi_blocked=True) == ("fixed", 0xF5)
    assert pmu.take_pmi() is None


def test_nmi_mode_waits_for_iret(pmu_class):
    """One NMI is latched while NMIs are blocked; IF does not matter to it."""
    pmu = overflowing(pmu_class, NMI)
    pmu.count({"instructions": 1})
    assert pmu.take_pmi(nmi_blocked=True) is None
    assert pmu.take_pmi(True, True) is None
    assert pmu.pmi_pending
    assert pmu.take_pmi(interrupts_enabled=False) == ("nmi", 0)


def test_smi_mode_waits_for_nothing(pmu_class):
    pmu = overflowing(pmu_class, 0x200)
    pmu.count({"instructions": 1})
    assert pmu.take_pmi(interrupts_enabled=False, nmi_blocked=True) == ("smi", 0)


def test_overflows_coalesce(pmu_class):
    """kvm-unit-tests x86/pmu.c: several overflows, one interrupt."""
    pmu = overflowing(pmu_class, NMI)
    for msr, value in ((0xC2, 0xFFFFFFFF), (0x187, C0 | INT), (0x309, FULL), (FIXED_CTR_CTRL, 0x9)):
        pmu.wrmsr(msr, value)
    pmu.wrmsr(CTRL, 0x1_0000000F)
    pmu.count({"instructions": 1})
    overflow(pmu)
    assert pmu.rdmsr(STATUS) == 0x1_00000003
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.take_pmi() is None


def test_no_pmi_without_the_interrupt_bit(pmu_class):
    """SDM vol. 3B 18.2.2: INT, and bit 3 of the fixed counter's field, enable the PMI."""
    pmu = overflowing(pmu_class, NMI, interrupts=0)
    pmu.count({"instructions": 1})
    assert pmu.rdmsr(STATUS) == 1
    assert not pmu.pmi_pending
    for m, (control, pending) in itertools.product(range(3), ((0x3, False), (0xB, True))):
        writes = ((LVTPC, NMI), (0x309 + m, FULL), (FIXED_CTR_CTRL, control << 4 * m), (CTRL, 7 << 32))
        pmu = make(pmu_class, model(), *writes)
        pmu.count({"instructions": 1, "ref-cycles": 1}, cycles=1, cpl=3)
        assert pmu.rdmsr(STATUS) == 1 << (32 + m)
        assert pmu.pmi_pending is pending


def test_status_alone_raises_nothing(pmu_class):
    """391H sets bits and no PMI; acknowledging or not does not take one back."""
    pmu = overflowing(pmu_class, NMI)
    pmu.wrmsr(STATUS_SET, 0xF)
    pmu.count({}, cycles=10)
    assert not pmu.pmi_pending
    pmu.count({"instructions": 1})
    pmu.wrmsr(ACK, 0xF)
    assert pmu.pmi_pending


@pytest.mark.parametrize("quirk", [False, True])
def test_late_nmi(pmu_class, quirk):
    """Linux arch/x86/events/amd/core.c: an overflow while a PMI is pending raises another, which finds nothing."""
    pmu = overflowing(pmu_class, NMI, quirky(TURIN, "amd_late_nmi") if quirk else TURIN)
    for overflows in range(1, 4):  # a third is not a third interrupt
        overflow(pmu)
        assert pmu.state()["pmi_pending"] == (min(overflows, 2) if quirk else 1)
    assert pmu.pmi_pending is True
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.pmi_pending is quirk
    assert pmu.take_pmi() == (("nmi", 0) if quirk else None)
    assert pmu.take_pmi() is None
    overflow(pmu)
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.take_pmi() is None


def test_two_overflows_of_one_count(pmu_class):
    """All requests of one count() are one, also with that quirk."""
    cpu = replace(TURIN, quirks=frozenset({"amd_late_nmi"}))
    pmu = overflowing(pmu_class, NMI, cpu)
    pmu.wrmsr(0xC0010005, FULL)
    pmu.wrmsr(0xC0010001, C0 | INT)
    pmu.count({"instructions": 1})
    assert pmu.state()["global_status"] == 3
    assert pmu.state()["pmi_pending"] == 1
