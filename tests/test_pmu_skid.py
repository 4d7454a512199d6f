"""When a PMI arrives: the cycle of the overflow and a skid that is drawn from the model's range."""

from __future__ import annotations

import pytest
from pmu_models import (
    ALL_ONES,
    CTRL,
    EN,
    FIXED_CTR_CTRL,
    GENOA,
    INT,
    LVTPC,
    NMI,
    OS,
    SKYLAKE,
    STATUS,
    ctl,
    ctr,
    draws,
    make,
    quirky,
)

from vpmu import Skid

C0, C4 = 0xC0 | OS | EN, 0xC4 | OS | EN
SEEDS = (0, 1, 2, 12345, ALL_ONES)


def sampling(pmu_class, skid, seed, needs=10, cpu=SKYLAKE):
    """Counter 0 wraps at the tenth instruction; PMIs are NMIs."""
    writes = ((LVTPC, NMI), (0x186, C0 | INT), (0x4C1, (1 << 48) - needs))
    return make(pmu_class, quirky(cpu, "pmi_skid", skid=skid), *writes, seed=seed)


def drawn(seed, skid, number):
    """The first skids of a seed."""
    stream = draws(seed)
    return [skid.minimum + ((next(stream) >> 32) * (skid.maximum - skid.minimum + 1) >> 32) for _ in range(number)]


def test_arrival_is_exact(pmu_class):
    """Overflow at floor(300 * 10 / 30), arrival exactly 250 cycles later, at the end of the count that gets there."""
    pmu = sampling(pmu_class, Skid(250, 250), 1)
    pmu.count({}, cycles=1000)
    pmu.count({"instructions": 30}, cycles=300)
    assert pmu.state()["pmi_arrival"] == 1000 + 100 + 250
    assert pmu.rdmsr(STATUS) == 1
    assert not pmu.pmi_pending
    assert pmu.take_pmi() is None
    pmu.count({}, cycles=49)
    assert not pmu.pmi_pending
    pmu.count({}, cycles=1)
    assert pmu.pmi_pending
    assert pmu.state()["pmi_arrival"] == -1
    assert pmu.take_pmi() == ("nmi", 0)


@pytest.mark.parametrize(
    ("cycles", "offset"), [(0, 0), (1, 0), (2, 0), (3, 1), (149, 49), (150, 50), (10**12, 10**12 // 3)]
)
def test_cycle_of_the_overflow(pmu_class, cycles, offset):
    """t before the count plus floor(cycles * p / q), whether or not a freeze is on."""
    for debugctl in (0, 1 << 12):
        pmu = sampling(pmu_class, Skid(1 << 31, 1 << 31), 7)
        pmu.wrmsr(0x1D9, debugctl)
        pmu.count({}, cycles=77)
        pmu.count({"instructions": 30}, cycles=cycles)
        arrival = 77 + offset + (1 << 31)
        assert pmu.state()["pmi_arrival"] == (arrival if arrival > 77 + cycles else -1)
        assert pmu.pmi_pending is (arrival <= 77 + cycles)


def test_first_overflow_of_several(pmu_class):
    """The least share decides; one without INT does not take part."""
    pmu = sampling(pmu_class, Skid(1000, 1000), 1)
    for msr, value in ((0x187, C4 | INT), (0xC2, 0xFFFFFFFF - 1), (0x188, C4), (0xC3, 0xFFFFFFFF)):
        pmu.wrmsr(msr, value)
    pmu.count({"instructions": 30, "branches": 8}, cycles=100)
    assert pmu.rdmsr(STATUS) == 7
    assert pmu.state()["pmi_arrival"] == 25 + 1000


def test_fixed_counters_request_too(pmu_class):
    writes = ((0x309, (1 << 48) - 3), (FIXED_CTR_CTRL, 9), (CTRL, 1 << 32))
    pmu = make(pmu_class, quirky(SKYLAKE, "pmi_skid", skid=Skid(5, 5)), (LVTPC, NMI), *writes, seed=3)
    pmu.count({"instructions": 6}, cycles=8)
    assert pmu.state()["pmi_arrival"] == 9
    pmu.count({}, cycles=1)
    assert pmu.take_pmi() == ("nmi", 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_draws(pmu_class, seed):
    """SFC64 with the words (seed, 0, 0), one output per request, uniform on the model's range."""
    skid = Skid(10, 60)
    pmu = sampling(pmu_class, skid, seed)
    arrivals = []
    for _ in range(20):
        pmu.wrmsr(0x4C1, (1 << 48) - 1)
        before = pmu.state()["cycles"]
        pmu.count({"instructions": 1})
        arrivals.append(pmu.state()["pmi_arrival"] - before)
        pmu.count({}, cycles=60)
        assert pmu.take_pmi() == ("nmi", 0)
        pmu.wrmsr(LVTPC, NMI)
    assert arrivals == drawn(seed, skid, 20)
    assert set(arrivals) <= set(range(10, 61))
    assert len(set(arrivals)) > 5


def test_every_value_of_the_range(pmu_class):
    """Both ends included."""
    pmu = sampling(pmu_class, Skid(3, 6), 1)
    seen = set()
    for _ in range(100):
        pmu.wrmsr(0x4C1, (1 << 48) - 1)
        pmu.count({"instructions": 1})
        seen.add(pmu.state()["pmi_arrival"] - pmu.state()["cycles"])
        pmu.count({}, cycles=6)
        pmu.wrmsr(LVTPC, NMI)
    assert seen == {3, 4, 5, 6}


def test_without_a_seed_there_is_no_skid(pmu_class):
    """And nothing is drawn: the state has no words."""
    cpu = quirky(SKYLAKE, "pmi_skid", skid=Skid(1000, 2000))
    pmu = make(pmu_class, cpu, (LVTPC, NMI), (0x186, C0 | INT), (0xC1, 0xFFFFFFFF))
    assert pmu.state()["skid"] == ()
    pmu.count({"instructions": 30}, cycles=30)
    assert pmu.pmi_pending
    assert pmu.state()["pmi_arrival"] == -1


def test_requests_in_flight_are_joined(pmu_class):
    """A second overflow draws nothing and moves nothing."""
    skid = Skid(100, 200)
    pmu = sampling(pmu_class, skid, 5)
    pmu.count({"instructions": 10}, cycles=10)
    first = 10 + drawn(5, skid, 1)[0]
    words = pmu.state()["skid"]
    for _ in range(3):
        pmu.wrmsr(0x4C1, (1 << 48) - 1)
        pmu.count({"instructions": 5}, cycles=10)
        assert pmu.state()["pmi_arrival"] == first
        assert pmu.state()["skid"] == words
    pmu.count({}, cycles=200)
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.take_pmi() is None
    pmu.wrmsr(0x4C1, (1 << 48) - 1)
    pmu.count({"instructions": 1})
    assert pmu.state()["pmi_arrival"] == 240 + drawn(5, skid, 2)[1]


def test_entry_at_arrival_decides(pmu_class):
    """LVTPC is looked at when the request arrives: masked then, it is dropped; unmasked then, accepted."""
    for entry, pending in ((1 << 16 | NMI, False), (0x33, True)):
        pmu = sampling(pmu_class, Skid(50, 50), 1)
        pmu.count({"instructions": 10}, cycles=10)
        pmu.wrmsr(LVTPC, entry)
        pmu.count({}, cycles=50)
        assert pmu.pmi_pending is pending
        assert pmu.state()["pmi_arrival"] == -1
        assert pmu.take_pmi() == (("fixed", 0x33) if pending else None)
    pmu = sampling(pmu_class, Skid(50, 50), 1)
    pmu.wrmsr(LVTPC, 1 << 16)
    pmu.count({"instructions": 10}, cycles=10)
    pmu.wrmsr(LVTPC, NMI)
    pmu.count({}, cycles=50)
    assert pmu.take_pmi() == ("nmi", 0)


def test_same_seed_same_arrivals(pmu_class):
    """Two PMUs of one seed agree; another seed differs; a copy goes on from where the stream is."""

    def arrivals(pmu, number):
        values = []
        for _ in range(number):
            pmu.wrmsr(0x4C1, (1 << 48) - 1)
            pmu.count({"instructions": 1})
            values.append(pmu.state()["pmi_arrival"])
            pmu.count({}, cycles=1000)
            pmu.take_pmi()
            pmu.wrmsr(LVTPC, NMI)
        return values

    first, second, other = (sampling(pmu_class, Skid(0, 999), seed) for seed in (8, 8, 9))
    assert arrivals(first, 10) == arrivals(second, 10) != arrivals(other, 10)
    copy = pmu_class.from_state(first.cpu, first.state())
    assert len(first.state()["skid"]) == 4
    assert arrivals(copy, 10) == arrivals(first, 10)


def test_a_mask_of_zero_length(pmu_class):
    """A range of one value draws all the same, so that the stream does not depend on the model."""
    pmu = sampling(pmu_class, Skid(0, 0), 4)
    words = pmu.state()["skid"]
    pmu.count({"instructions": 10}, cycles=10)
    assert pmu.pmi_pending
    assert pmu.state()["skid"] != words


@pytest.mark.parametrize("quirk", [False, True])
def test_late_nmi_with_skid(pmu_class, quirk):
    """In flight requests are joined; with the quirk one that arrives while a PMI is pending is one more."""
    cpu = quirky(GENOA, *(("amd_late_nmi",) if quirk else ()), "pmi_skid", skid=Skid(100, 100))
    pmu = make(pmu_class, cpu, (LVTPC, NMI), (ctl(0), C0 | INT), seed=1)
    for _ in range(2):
        pmu.wrmsr(ctr(0), (1 << 48) - 1)
        pmu.count({"instructions": 1}, cycles=10)
        assert not pmu.pmi_pending
    pmu.count({}, cycles=200)
    assert pmu.state()["pmi_pending"] == 1
    pmu.wrmsr(ctr(0), (1 << 48) - 1)
    pmu.count({"instructions": 1}, cycles=10)
    assert (pmu.state()["pmi_pending"], pmu.state()["pmi_arrival"]) == (1, 330)
    pmu.count({}, cycles=100)
    assert pmu.state()["pmi_pending"] == (2 if quirk else 1)
    assert pmu.take_pmi() == ("nmi", 0)
    assert pmu.pmi_pending is quirk
    assert pmu.take_pmi() == (("nmi", 0) if quirk else None)
    assert pmu.take_pmi() is None


def test_without_the_quirk_there_is_no_skid(pmu_class):
    """Switch pmi_skid is off: a seed or none, a PMI arrives at its overflow."""
    for seed in (None, 1):
        cpu = quirky(SKYLAKE, skid=Skid(1000, 2000))
        pmu = make(pmu_class, cpu, (LVTPC, NMI), (0x186, C0 | INT), (0xC1, 0xFFFFFFFF), seed=seed)
        pmu.count({"instructions": 30}, cycles=30)
        assert pmu.take_pmi() == ("nmi", 0)


@pytest.mark.parametrize("seed", [-1, 1 << 64, "1", 1.5])
def test_seeds_that_are_none(pmu_class, seed):
    """A seed is a 64-bit word or None."""
    with pytest.raises((ValueError, TypeError, OverflowError)):
        pmu_class(SKYLAKE, seed=seed)
