"""AMD only: host and guest, counters that are merged, IRPerfCount and modes."""

from __future__ import annotations

import itertools

import pytest
from pmu_models import (
    AMD_CTRL,
    AMD_STATUS,
    BULLDOZER,
    EDGE,
    EN,
    FULL,
    GENOA,
    INT,
    K8,
    K10,
    LVTPC,
    NMI,
    OS,
    SKYLAKE,
    TURIN,
    USR,
    ZEN1,
    ctl,
    ctr,
    gp,
    make,
)

GUEST_ONLY, HOST_ONLY = 1 << 40, 1 << 41
MERGE = 0xF_000000FF | EN
C0 = 0xC0 | OS | USR | EN


@pytest.mark.parametrize("cpu", [K10, BULLDOZER, ZEN1, GENOA], ids=["k10", "bulldozer", "zen1", "genoa"])
def test_host_only_and_guest_only(pmu_class, cpu):
    """AMD APM vol. 2, HostOnly and GuestOnly: the table of four bits by three modes."""
    counts = {
        (0, 0): (True, True, True),
        (1, 0): (False, False, True),
        (0, 1): (False, True, False),
        (1, 1): (False, True, True),
    }
    modes = ({}, {"svme": True}, {"svme": True, "guest": True})
    for ((guest, host), expected), (place, mode) in itertools.product(counts.items(), enumerate(modes)):
        pmu = make(pmu_class, cpu, (0xC0010001, C0 | guest << 40 | host << 41))
        pmu.set_mode(**mode)
        for cpl in (0, 3):
            pmu.count({"instructions": 4}, cpl=cpl)
        assert gp(pmu)[1] == (8 if expected[place] else 0)


def test_k8_has_neither_bit(pmu_class):
    """They are dropped, so that the counter counts everywhere."""
    pmu = make(pmu_class, K8, (0xC0010000, C0 | GUEST_ONLY))
    pmu.count({"instructions": 4})
    assert gp(pmu)[0] == 4


def test_modes(pmu_class):
    """EFER.SVME and guest mode: None leaves them; a guest needs SVME; both are in the state."""
    pmu = pmu_class(ZEN1)
    assert (pmu.state()["svme"], pmu.state()["guest"]) == (0, 0)
    before = pmu.state()
    with pytest.raises(ValueError, match="svme"):
        pmu.set_mode(guest=True)
    assert pmu.state() == before
    pmu.set_mode(svme=True, guest=True)
    assert (pmu.state()["svme"], pmu.state()["guest"]) == (1, 1)
    pmu.set_mode()
    assert (pmu.state()["svme"], pmu.state()["guest"]) == (1, 1)
    with pytest.raises(ValueError, match="svme"):
        pmu.set_mode(svme=False)
    assert (pmu.state()["svme"], pmu.state()["guest"]) == (1, 1)
    pmu.set_mode(svme=False, guest=False)
    assert pmu.state() == before


def test_intel_has_no_such_mode(pmu_class):
    pmu = pmu_class(SKYLAKE)
    before = pmu.state()
    for mode in ({"svme": True}, {"guest": True}, {"svme": True, "guest": True}):
        with pytest.raises(ValueError, match=r"svme|guest|intel"):
            pmu.set_mode(**mode)
    pmu.set_mode(svme=False, guest=False)
    pmu.set_mode()
    assert pmu.state() == before


@pytest.mark.parametrize("n", [0, 2, 4])
def test_merge(pmu_class, n):
    """AMD PPR, large increment events: counters n and n+1 are one of 64 bits, and wrap as one."""
    pmu = make(pmu_class, GENOA, (LVTPC, NMI), (ctl(n), 0x03 | OS | EN | INT), (ctl(n + 1), MERGE), (ctr(n), FULL))
    pmu.count({"r0003": 3})
    assert gp(pmu)[n : n + 2] == (2, 1)
    assert pmu.rdmsr(AMD_STATUS) == 0
    assert not pmu.pmi_pending
    pmu.count({"r0003": (1 << 48) * 0xFFFE - 2})
    assert gp(pmu)[n : n + 2] == (0, 0xFFFF)
    pmu.count({"r0003": FULL})
    assert gp(pmu)[n : n + 2] == (FULL, 0xFFFF)
    assert pmu.rdmsr(AMD_STATUS) == 0
    pmu.count({"r0003": 5})
    assert gp(pmu)[n : n + 2] == (4, 0)
    assert pmu.rdmsr(AMD_STATUS) == 1 << n
    assert pmu.take_pmi() == ("nmi", 0)
    assert gp(pmu)[:n] + gp(pmu)[n + 2 :] == (0,) * 4


def test_without_a_merge(pmu_class):
    """It needs EN, an even counter and all twelve bits; else 48 bits wrap as ever."""
    for selector in (MERGE & ~EN, 0xE_000000FF | EN, 0xFF | EN, 0xF_000000FE | EN):
        pmu = make(pmu_class, GENOA, (ctl(0), C0), (ctl(1), selector), (ctr(0), FULL))
        pmu.count({"instructions": 3})
        assert gp(pmu)[:2] == (2, 0)
        assert pmu.rdmsr(AMD_STATUS) == 1
    pmu = make(pmu_class, GENOA, (ctl(1), C0), (ctl(2), MERGE), (ctr(1), FULL))
    pmu.count({"instructions": 3})
    assert gp(pmu)[:3] == (0, 2, 0)
    assert pmu.rdmsr(AMD_STATUS) == 2


def test_merged_counters_without_a_status(pmu_class):
    """Zen 1 to 3 have the merge, but no status."""
    pmu = make(pmu_class, ZEN1, (ctl(2), C0 | INT), (ctl(3), MERGE), (ctr(2), FULL), (ctr(3), 0xFFFF), (LVTPC, 0x31))
    pmu.count({"instructions": 1})
    assert gp(pmu)[2:4] == (0, 0)
    assert pmu.take_pmi() == ("fixed", 0x31)


def test_merged_counter_in_a_freeze(pmu_class):
    """The share up to the overflow is that of the 64 bits."""
    writes = ((ctl(0), C0 | INT), (ctl(1), MERGE), (ctr(0), FULL - 9), (ctr(1), 0xFFFF), (ctl(2), 0xC2 | OS | EN))
    pmu = make(pmu_class, TURIN, (0x1D9, 1 << 12), *writes)
    pmu.count({"instructions": 40, "branches": 11})
    assert gp(pmu)[:3] == (0, 0, 11 * 10 // 40)
    assert pmu.rdmsr(AMD_STATUS) == 1 << 59 | 1
    pmu = make(pmu_class, TURIN, (0x1D9, 1 << 12), *writes, (ctr(1), 0xFFFE))
    pmu.count({"instructions": 40, "branches": 11})
    assert gp(pmu)[:3] == (30, 0xFFFF, 11)
    assert pmu.rdmsr(AMD_STATUS) == 0


def test_global_control_gates_all(pmu_class):
    """PerfCntrGlobalCtl from PerfMonV2 on; legacy selectors are the same counters."""
    pmu = make(pmu_class, GENOA, *((0xC0010000 + n, C0) for n in range(4)), (AMD_CTRL, 0b100101), (ctl(5), C0))
    pmu.count({"instructions": 3})
    assert gp(pmu) == (3, 0, 3, 0, 0, 3)


def test_threshold_and_edges(pmu_class):
    """CntMask, Inv and Edge as on Intel; all eight bits of CntMask stick."""
    c0 = 0xC0 | OS | EN
    selectors = (c0 | 2 << 24, c0 | 2 << 24 | 1 << 23, c0 | EDGE, c0 | 0xFF << 24)
    pmu = make(pmu_class, ZEN1, *((ctl(n), value) for n, value in enumerate(selectors)))
    pmu.count({}, cycles=10, per_cycle={"instructions": [3, 2, 4, 1]}, edges={"instructions": 3})
    assert gp(pmu)[:4] == (5, 5, 3, 0)


def test_increments_up_to_15(pmu_class):
    """A counter that is not merged gets at most 15 per cycle: with 16 places that is every occurrence."""
    pmu = make(pmu_class, GENOA, (ctl(0), 0x03 | OS | EN), (ctl(2), 0x03 | OS | EN), (ctl(3), MERGE))
    pmu.count({}, cycles=4, per_cycle={"r0003": [1] + [0] * 14 + [3]})
    assert gp(pmu)[:4] == (45, 0, 45, 0)


def test_global_freeze_bit(pmu_class):
    """GlobalStatus[59] stops all counters until it is cleared."""
    pmu = make(pmu_class, GENOA, (0x1D9, 1 << 12), (ctl(0), C0 | INT), (ctr(0), FULL), (0xC0010015, 1 << 30))
    pmu.count({"instructions": 4})
    pmu.count({"instructions": 4})
    assert gp(pmu)[0] == 0
    assert pmu.rdmsr(0xC00000E9) == 8  # IRPerfCount goes on
    pmu.wrmsr(0xC0000302, 1 << 59)
    pmu.count({"instructions": 4})
    assert gp(pmu)[0] == 4
    assert pmu.rdmsr(AMD_STATUS) == 1
