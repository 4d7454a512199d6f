"""System management mode: what SMI and RSM do to the PMU, and counters that see it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pmu_models import (
    CTRL,
    DEBUGCTL,
    EN,
    FIXED_CTR_CTRL,
    ICELAKE,
    OS,
    SILVERMONT,
    SKYLAKE,
    USR,
    YONAH,
    ZEN1,
    ctl,
    fixed,
    gp,
    make,
    quirky,
)

FREEZE_WHILE_SMM = 1 << 14


@pytest.mark.parametrize("cpu", [YONAH, SKYLAKE, ZEN1], ids=["yonah", "skylake", "zen1"])
def test_enter_and_leave(pmu_class, cpu):
    """Only from the other side; nothing is saved without FREEZE_WHILE_SMM."""
    pmu = pmu_class(cpu)
    before = pmu.state()
    assert (before["smm"], before["smm_saved"]) == (0, (0, 0))
    with pytest.raises(ValueError, match=r"(?i)smm|rsm"):
        pmu.rsm()
    assert pmu.state() == before
    pmu.smi()
    assert pmu.state() == before | {"smm": 1}
    with pytest.raises(ValueError, match=r"(?i)smm|smi"):
        pmu.smi()
    assert pmu.state() == before | {"smm": 1}
    pmu.rsm()
    assert pmu.state() == before


@pytest.mark.parametrize("cpu", [SILVERMONT, SKYLAKE, ICELAKE], ids=["silvermont", "skylake", "icelake"])
def test_freeze_while_smm(pmu_class, cpu):
    """IA32_DEBUGCTL[14], SDM vol. 3B 17.4.1: GLOBAL_CTRL is cleared, LBR, BTF, TR and BTS too, until RSM."""
    everything = 0x5FC3
    pmu = make(pmu_class, cpu, (DEBUGCTL, everything), (CTRL, 0x3_00000003), (0x186, 0xC0 | OS | EN))
    pmu.wrmsr(FIXED_CTR_CTRL, 0x11)
    pmu.smi()
    assert pmu.rdmsr(CTRL) == 0
    assert pmu.rdmsr(DEBUGCTL) == everything & ~0xC3
    assert pmu.state()["smm_saved"] == (0x3_00000003, everything)
    pmu.count({"instructions": 50}, cycles=60)
    assert gp(pmu)[0] == fixed(pmu)[0] == fixed(pmu)[1] == 0
    assert pmu.state()["cycles"] == 60
    pmu.wrmsr(CTRL, 1)  # what the handler writes is lost
    pmu.wrmsr(DEBUGCTL, 0)
    pmu.count({"instructions": 5})
    assert gp(pmu)[0] == 5
    pmu.rsm()
    assert pmu.rdmsr(CTRL) == 0x3_00000003
    assert pmu.rdmsr(DEBUGCTL) == everything
    assert pmu.state()["smm_saved"] == (0, 0)
    pmu.count({"instructions": 7}, cycles=9)
    assert (gp(pmu)[0], fixed(pmu)[:2]) == (12, (7, 9))


def test_version_1_has_nothing_to_clear(pmu_class):
    """Its counters have no global control; DEBUGCTL is saved all the same."""
    pmu = make(pmu_class, replace(YONAH, perf_capabilities=1 << 12), (DEBUGCTL, 0x4001), (0x186, 0xC0 | OS | EN))
    pmu.smi()
    pmu.count({"instructions": 5})
    assert gp(pmu)[0] == 5
    assert pmu.rdmsr(DEBUGCTL) == 0x4000
    pmu.rsm()
    assert pmu.rdmsr(DEBUGCTL) == 0x4001


def test_without_the_freeze(pmu_class):
    """SMM is code at a privilege level like any other; registers that its handler writes stay."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0xC0 | OS | EN), (0x187, 0xC0 | USR | EN))
    pmu.smi()
    pmu.count({"instructions": 5})
    pmu.wrmsr(CTRL, 1)
    pmu.rsm()
    assert gp(pmu)[:2] == (5, 0)
    assert pmu.rdmsr(CTRL) == 1


def test_setting_the_freeze_inside_is_too_late(pmu_class):
    """It is looked at when SMM is entered."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0xC0 | OS | EN), (CTRL, 1))
    pmu.smi()
    pmu.wrmsr(DEBUGCTL, FREEZE_WHILE_SMM)
    pmu.count({"instructions": 5})
    pmu.rsm()
    assert gp(pmu)[0] == 5
    assert (pmu.rdmsr(CTRL), pmu.rdmsr(DEBUGCTL)) == (1, FREEZE_WHILE_SMM)


@pytest.mark.parametrize("quirk", [False, True])
def test_user_counters_see_smm(pmu_class, quirk):
    """Linux: on some parts counters of user code count SMM; the quirk is only about SMM."""
    cpu = quirky(ICELAKE, "smm_user") if quirk else ICELAKE
    for (usr, system), cpl in itertools.product(((0, 1), (1, 0), (1, 1), (0, 0)), range(4)):
        pmu = make(pmu_class, cpu, (0x186, 0xC0 | EN | usr << 16 | system << 17), (FIXED_CTR_CTRL, usr << 1 | system))
        pmu.wrmsr(CTRL, 0x1_00000001)
        normally = bool(usr if cpl else system)
        pmu.count({"instructions": 3}, cpl=cpl)
        assert gp(pmu)[0] == fixed(pmu)[0] == 3 * normally
        pmu.smi()
        pmu.count({"instructions": 10}, cpl=cpl)
        assert gp(pmu)[0] == fixed(pmu)[0] == 3 * normally + 10 * bool((usr or system) if quirk else normally)
        pmu.rsm()
        pmu.count({"instructions": 3}, cpl=cpl)
        assert gp(pmu)[0] == 6 * normally + 10 * bool((usr or system) if quirk else normally)


def test_freeze_hides_smm_from_user_counters(pmu_class):
    """FREEZE_WHILE_SMM is the remedy."""
    writes = ((DEBUGCTL, FREEZE_WHILE_SMM), (0x186, 0xC0 | USR | EN), (FIXED_CTR_CTRL, 2), (CTRL, 0x1_00000001))
    pmu = make(pmu_class, quirky(ICELAKE, "smm_user"), *writes)
    pmu.smi()
    pmu.count({"instructions": 10})
    pmu.rsm()
    assert (gp(pmu)[0], fixed(pmu)[0]) == (0, 0)


def test_amd_counts_in_smm(pmu_class):
    """By privilege level; AMD's DebugCtl has no bit 14."""
    pmu = make(pmu_class, ZEN1, (DEBUGCTL, FREEZE_WHILE_SMM), (ctl(0), 0xC0 | OS | EN))
    assert pmu.rdmsr(DEBUGCTL) == 0
    pmu.smi()
    pmu.count({"instructions": 5})
    pmu.rsm()
    assert gp(pmu)[0] == 5
