"""What an overflow requests, what LVTPC lets through, what is delivered."""

from __future__ import annotations

import itertools

import pytest

import vpmu

OS, USR, INT, EN = 1 << 17, 1 << 16, 1 << 20, 1 << 22
GLOBAL_STATUS, GLOBAL_CTRL = 0x38E, 0x38F
NMI = 0x400


def overflowing(pmu_class, lvtpc, interrupts=INT):
    """A PMU whose counter 0 wraps at the next instruction."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x834, lvtpc)
    pmu.wrmsr(0xC1, 0xFFFFFFFF)
    pmu.wrmsr(0x186, 0xC0 | OS | USR | EN | interrupts)
    return pmu


@pytest.mark.parametrize(("mode", "number"), [("fixed", 0), ("smi", 2), ("nmi", 4)])
def test_pmi_masks_lvtpc(pmu_class, mode, number):
    """SDM vol. 3A 10.5.1: the mask bit is set when the PMI is delivered, and the handler clears it."""
    pmu = overflowing(pmu_class, number << 8 | 0xF5)
    pmu.count({"instructions": 1})
    assert pmu.pmi_pending is True
    assert pmu.rdmsr(0x834) == number << 8 | 0xF5
    pmi = pmu.take_pmi()
    assert pmi == (mode, 0xF5)
    assert (pmi.mode, pmi.vector) == (mode, 0xF5)
    assert pmu.rdmsr(0x834) == 1 << 16 | number << 8 | 0xF5
    assert pmu.pmi_pending is False
    assert pmu.take_pmi() is None


def test_masked_pmi_is_dropped(pmu_class):
    """SDM vol. 3A 10.5.1: a masked entry delivers nothing; the status bit is there all the same."""
    pmu = overflowing(pmu_class, 1 << 16 | NMI)
    pmu.count({"instructions": 1})
    assert not pmu.pmi_pending
    assert pmu.rdmsr(GLOBAL_STATUS) == 1
    pmu.wrmsr(0x834, NMI)
    assert not pmu.pmi_pending
    pmu.wrmsr(0xC1, 0xFFFFFFFF)
    pmu.count({"instructions": 1})  # the status bit is still set, yet the overflow is a new one
    assert pmu.pmi_pending


def test_pending_pmi_survives_masking(pmu_class):
    """A request that was latched is delivered, in the mode that LVTPC has then."""
    pmu = overflowing(pmu_class, 0xF5)
    pmu.count({"instructions": 1})
    pmu.wrmsr(0x834, 1 << 16 | NMI | 0x02)
    assert pmu.pmi_pending
    assert pmu.take_pmi() == ("nmi", 0x02)


def test_overflows_coalesce(pmu_class):
    """kvm-unit-tests x86/pmu.c: several overflows, one interrupt."""
    pmu = overflowing(pmu_class, NMI)
    pmu.wrmsr(0xC2, 0xFFFFFFFF)
    pmu.wrmsr(0x187, 0xC0 | OS | EN | INT)
    pmu.wrmsr(0x309, (1 << 48) - 1)
    pmu.wrmsr(0x38D, 0x9)
    pmu.wrmsr(GLOBAL_CTRL, 0x1_0000000F)
    pmu.count({"instructions": 1})
    pmu.wrmsr(0xC1, 0xFFFFFFFF)
    pmu.count({"instructions": 1})
    assert pmu.rdmsr(GLOBAL_STATUS) == 0x1_00000003
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.take_pmi() is None


def test_no_pmi_without_the_interrupt_bit(pmu_class):
    """SDM vol. 3B 18.2.2: INT, and bit 3 of the fixed counter's field, enable the PMI."""
    pmu = overflowing(pmu_class, NMI, interrupts=0)
    pmu.count({"instructions": 1})
    assert pmu.rdmsr(GLOBAL_STATUS) == 1
    assert not pmu.pmi_pending
    for m, (control, pending) in itertools.product(range(3), ((0x3, False), (0xB, True))):
        pmu = pmu_class(vpmu.cpu("skylake"))
        pmu.wrmsr(0x834, NMI)
        pmu.wrmsr(0x309 + m, (1 << 48) - 1)
        pmu.wrmsr(0x38D, control << 4 * m)
        pmu.wrmsr(GLOBAL_CTRL, 7 << 32)
        pmu.count({"instructions": 1, "ref-cycles": 1}, cycles=1, cpl=3)
        assert pmu.rdmsr(GLOBAL_STATUS) == 1 << (32 + m)
        assert pmu.pmi_pending is pending
