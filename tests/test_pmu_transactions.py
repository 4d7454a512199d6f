"""Transactional memory: IN_TX, IN_TXCP, forced aborts and what microcode borrows."""

from __future__ import annotations

import pytest
from pmu_models import (
    BROADWELL,
    CTRL,
    DEBUGCTL,
    EN,
    FIXED_CTR_CTRL,
    FULL,
    IN_TX,
    IN_TXCP,
    INT,
    LVTPC,
    NMI,
    OS,
    SANDYBRIDGE,
    SKYLAKE,
    STATUS,
    ZEN1,
    but,
    fixed,
    gp,
    have,
    make,
    quirky,
)

from vpmu import Skid

C0 = 0xC0 | OS | EN
FORCE_ABORT = 0x10F
SELECTORS = ((0x186, C0), (0x187, C0 | IN_TX), (0x188, C0 | IN_TXCP), (0x189, C0))


@pytest.mark.parametrize(
    ("transaction", "expected"), [(None, (9, 0, 9, 9)), ("commit", (9, 9, 9, 9)), ("abort", (9, 9, 0, 9))]
)
def test_filters(pmu_class, transaction, expected):
    """SDM vol. 3B 18.3.6.5: IN_TX counts in transactions only, IN_TXCP not in those that abort."""
    pmu = make(pmu_class, BROADWELL, *SELECTORS, (FIXED_CTR_CTRL, 1), (CTRL, 0x1_0000000F))
    pmu.count({"instructions": 9}, cycles=5, transaction=transaction)
    assert gp(pmu) == expected
    assert fixed(pmu)[0] == 9


def test_both_filters(pmu_class):
    """IN_TX and IN_TXCP: committed transactions only."""
    pmu = make(pmu_class, BROADWELL, (0x188, C0 | IN_TX | IN_TXCP))
    for transaction, expected in ((None, 0), ("abort", 0), ("commit", 9)):
        pmu.count({"instructions": 9}, transaction=transaction)
        assert gp(pmu)[2] == expected


@pytest.mark.parametrize("feature", ["rtm", "hle"])
def test_either_feature_suffices(pmu_class, feature):
    """CPUID.7:EBX.RTM or HLE."""
    pmu = make(pmu_class, have(SANDYBRIDGE, feature), (0x187, C0 | IN_TX))
    pmu.count({"instructions": 4}, transaction="commit")
    assert gp(pmu)[1] == 4


def test_transactions_that_cannot_be(pmu_class):
    """Without TSX, and what is neither a commit nor an abort."""
    for cpu in (SANDYBRIDGE, ZEN1):
        pmu = pmu_class(cpu)
        before = pmu.state()
        for transaction in ("commit", "abort"):
            with pytest.raises(ValueError, match="transaction"):
                pmu.count({"instructions": 1}, transaction=transaction)
        assert pmu.state() == before
        pmu.count({"instructions": 1}, transaction=None)
    pmu = pmu_class(SKYLAKE)
    for transaction in ("rollback", "", "Commit"):
        with pytest.raises(ValueError, match="transaction"):
            pmu.count({"instructions": 1}, transaction=transaction)
    with pytest.raises((TypeError, ValueError)):
        pmu.count({"instructions": 1}, transaction=1)


def test_forced_aborts(pmu_class):
    """MSR_TSX_FORCE_ABORT bit 0: every transaction aborts; the other two bits do not do that."""
    cpu = have(SKYLAKE, "tsx_force_abort")
    for value, expected in ((0, (9, 9, 9)), (1, (9, 9, 0)), (6, (9, 9, 9)), (7, (9, 9, 0))):
        pmu = make(pmu_class, cpu, *SELECTORS[:3], (FORCE_ABORT, value))
        pmu.count({"instructions": 9}, transaction="commit")
        assert gp(pmu)[:3] == expected
        pmu.count({"instructions": 1})
        assert gp(pmu)[:3] == (expected[0] + 1, expected[1], expected[2] + 1)


@pytest.mark.parametrize("transaction", ["commit", "abort"])
def test_microcode_borrows_counter_3(pmu_class, transaction):
    """Linux 400816f60c54: a transaction zeroes counter 3, unless RTM_FORCE_ABORT is set."""
    cpu = quirky(have(SKYLAKE, "tsx_force_abort"), "tfa")
    pmu = make(pmu_class, cpu, *SELECTORS, (0xC4, 1000))
    pmu.count({"instructions": 9})
    assert gp(pmu)[3] == 1009
    pmu.count({"instructions": 9}, transaction=transaction)
    assert gp(pmu)[3] == 0
    assert gp(pmu)[0] == 18
    pmu.count({"instructions": 9})
    assert gp(pmu)[3] == 9
    pmu.wrmsr(FORCE_ABORT, 1)
    pmu.count({"instructions": 9}, transaction=transaction)
    assert gp(pmu)[3] == 18
    assert pmu.rdmsr(0x189) == C0


def test_borrowed_counter_does_not_wrap(pmu_class):
    """It is taken away before it could; a counter that is off is zeroed too."""
    cpu = quirky(have(SKYLAKE, "tsx_force_abort"), "tfa")
    pmu = make(pmu_class, cpu, (LVTPC, NMI), (0x189, C0 | INT), (0xC4, 0xFFFFFFFF))
    pmu.count({"instructions": 9}, transaction="commit")
    assert (gp(pmu)[3], pmu.rdmsr(STATUS), pmu.pmi_pending) == (0, 0, False)
    pmu = make(pmu_class, cpu, (0xC4, 5))
    pmu.count({}, transaction="abort")
    assert gp(pmu)[3] == 0
    off = make(pmu_class, have(SKYLAKE, "tsx_force_abort"), (0x189, C0), (0xC4, 5))
    off.count({"instructions": 9}, transaction="commit")
    assert gp(off)[3] == 14


def test_without_the_microcode_nothing_prevents_it(pmu_class):
    """The MSR came with the microcode update; without it bit 0 is clear for ever."""
    pmu = make(pmu_class, quirky(but(SKYLAKE, "tsx_force_abort"), "tfa"), (0x189, C0))
    pmu.count({"instructions": 9})
    pmu.count({"instructions": 9}, transaction="commit")
    assert gp(pmu)[3] == 0


@pytest.mark.parametrize("quirk", [False, True])
def test_spurious_pmi(pmu_class, quirk):
    """SDM vol. 3B: an IN_TXCP counter that wraps in an aborted transaction interrupts, and shows nothing."""
    cpu = quirky(SKYLAKE, "txcp_spurious") if quirk else SKYLAKE
    writes = ((LVTPC, NMI), (0xC3, 0xFFFFFFFE))
    for got, interrupts, transaction, spurious in (
        (1, INT, "abort", False),
        (2, INT, "abort", quirk),
        (500, INT, "abort", quirk),
        (2, 0, "abort", False),
    ):
        pmu = make(pmu_class, cpu, *writes, (0x188, C0 | IN_TXCP | interrupts))
        pmu.count({"instructions": got}, transaction=transaction)
        assert gp(pmu)[2] == FULL - 1
        assert pmu.rdmsr(STATUS) == 0
        assert pmu.pmi_pending is spurious
    pmu = make(pmu_class, cpu, *writes, (0x188, C0 | IN_TXCP | INT))
    pmu.count({"instructions": 2}, transaction="commit")
    assert (gp(pmu)[2], pmu.rdmsr(STATUS), pmu.pmi_pending) == (0, 4, True)


def test_spurious_pmi_freezes_nothing(pmu_class):
    """It is no overflow: nothing is cut and nothing frozen; it is requested when the counter would have wrapped."""
    cpu = quirky(SKYLAKE, "txcp_spurious", "pmi_skid", skid=Skid(1000, 1000))
    writes = ((LVTPC, NMI), (DEBUGCTL, 0x1800), (0x186, C0), (0xC3, 0xFFFFFFF6), (0x188, C0 | IN_TXCP | INT))
    pmu = make(pmu_class, cpu, *writes, seed=1)
    pmu.count({"instructions": 30}, cycles=300, transaction="abort")
    assert gp(pmu) == (30, 0, FULL - 9, 0)
    assert pmu.rdmsr(STATUS) == 0
    assert pmu.state()["pmi_arrival"] == 100 + 1000


def test_excluded_counters_need_nothing(pmu_class):
    """A counter that its filter excludes does not ask for a distribution."""
    pmu = make(pmu_class, BROADWELL, (0x187, C0 | IN_TX | 1 << 24), (0x188, C0 | IN_TXCP | 1 << 18))
    with pytest.raises(ValueError, match="2"):
        pmu.count({"instructions": 3})
    pmu.wrmsr(CTRL, 2)
    pmu.count({"instructions": 3})
    pmu.wrmsr(CTRL, 4)
    pmu.count({"instructions": 3}, transaction="abort")
    with pytest.raises(ValueError, match="2"):
        pmu.count({"instructions": 3}, transaction="commit")
    assert gp(pmu) == (0, 0, 0, 0)


def test_spurious_pmi_of_a_forced_abort(pmu_class):
    """A commit that RTM_FORCE_ABORT turns into an abort is one."""
    cpu = quirky(have(SKYLAKE, "tsx_force_abort"), "txcp_spurious")
    writes = ((LVTPC, NMI), (FORCE_ABORT, 1), (0xC3, 0xFFFFFFFF), (0x188, C0 | IN_TXCP | INT))
    pmu = make(pmu_class, cpu, *writes)
    pmu.count({"instructions": 2}, transaction="commit")
    assert (gp(pmu)[2], pmu.rdmsr(STATUS), pmu.pmi_pending) == (FULL, 0, True)
