"""CMASK, INV, EQ and edge detection: counting cycles by how many occurrences they have."""

from __future__ import annotations

import itertools

import pytest
from pmu_models import (
    BROADWELL,
    EDGE,
    EN,
    EQ,
    FIXED_CTR_CTRL,
    GENOA,
    ICELAKE,
    INT,
    INV,
    LION_COVE,
    LVTPC,
    NMI,
    OS,
    SAPPHIRERAPIDS,
    SKYLAKE,
    YONAH,
    ZEN1,
    ctl,
    fixed,
    gp,
    make,
)

#: Cycles with 0, 1, 2 ... occurrences.
DISTRIBUTION = [40, 10, 20, 0, 25, 5]
CYCLES, OCCURRENCES = 100, 10 + 40 + 100 + 25
C0 = 0xC0 | OS | EN


def cmask(m):
    return m << 24


def selector(cpu):
    return 0x186 if cpu.vendor == "intel" else 0xC0010000


@pytest.mark.parametrize(
    "cpu", [YONAH, SKYLAKE, LION_COVE, ZEN1, GENOA], ids=["yonah", "skylake", "lion-cove", "zen1", "genoa"]
)
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4, 5, 6, 15, 16, 255])
def test_cmask(pmu_class, cpu, m):
    """SDM vol. 3B 18.2.1.1: cycles with at least CMASK occurrences, or with INV fewer; without CMASK occurrences."""
    pmu = make(pmu_class, cpu, (selector(cpu), C0 | cmask(m)), (selector(cpu) + 1, C0 | cmask(m) | INV))
    pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    at_least = sum(DISTRIBUTION[m:])
    expected = (at_least, CYCLES - at_least) if m else (OCCURRENCES, OCCURRENCES)
    assert gp(pmu)[:2] == expected


@pytest.mark.parametrize("m", [0, 1, 2, 3, 5, 6, 255])
def test_equal(pmu_class, m):
    """CPUID.23H.0:EBX.EQ: exactly CMASK, or with INV any other number; it needs a CMASK."""
    pmu = make(pmu_class, LION_COVE, (0x186, C0 | EQ | cmask(m)), (0x187, C0 | EQ | INV | cmask(m)))
    pmu.count({"instructions": OCCURRENCES}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    exactly = DISTRIBUTION[m] if m < len(DISTRIBUTION) else 0
    assert gp(pmu)[:2] == ((exactly, CYCLES - exactly) if m else (OCCURRENCES, OCCURRENCES))


@pytest.mark.parametrize(("m", "bits"), [*itertools.product((0, 1, 3), (0, INV))])
def test_edges(pmu_class, m, bits):
    """SDM vol. 3B 18.2.1.1: with E the rises of the condition, which have to be given."""
    pmu = make(pmu_class, SKYLAKE, (0x186, C0 | EDGE | cmask(m) | bits))
    pmu.count({"instructions": OCCURRENCES}, cycles=CYCLES, edges={"instructions": 17})
    assert gp(pmu)[0] == 17
    pmu.count({"instructions": 3}, cycles=0, edges={"instructions": 0, "branches": 5})
    assert gp(pmu)[0] == 17


def test_edges_do_not_need_the_distribution(pmu_class):
    """And the counter beside it, without E, does not need the edges."""
    pmu = make(pmu_class, SKYLAKE, (0x186, C0 | EDGE), (0x187, C0), (0x188, 0xC4 | EN | OS | EDGE | cmask(2)))
    pmu.count({"instructions": 30}, edges={"instructions": 4, "branches": 2})
    assert gp(pmu) == (4, 30, 2, 0)


# Of the 100 cycles 60 have an occurrence, 50 have two, 30 have four.
@pytest.mark.parametrize(
    ("bits", "most"),
    [
        (0, 41),  # 60 and 40
        (INV, 41),  # without CMASK INV is ignored
        (cmask(2), 50),  # 50 and 50
        (cmask(2) | INV, 50),
        (cmask(4), 30),  # 30 and 70
        (cmask(4) | INV, 31),  # 70 and 30
        (cmask(6), 0),  # never
        (cmask(6) | INV, 1),  # always: one rise at the start
    ],
)
def test_edges_are_possible(pmu_class, bits, most):
    """No more rises than cycles that rise, or than cycles in between and one."""
    pmu = make(pmu_class, SKYLAKE, (0x188, C0 | EDGE | bits))
    known = {"instructions": DISTRIBUTION}
    before = pmu.state()
    for bad in (-1, most + 1):
        with pytest.raises(ValueError, match=r"(?<!\d)2(?!\d)" if bad > 0 else "edges|instructions"):
            pmu.count({}, cycles=CYCLES, per_cycle=known, edges={"instructions": bad})
        assert pmu.state() == before
    pmu.count({}, cycles=CYCLES, per_cycle=known, edges={"instructions": most})
    assert gp(pmu)[2] == most


def test_edges_of_equality(pmu_class):
    """EQ and 2: 20 cycles of 100."""
    pmu = make(pmu_class, LION_COVE, (0x186, C0 | EDGE | EQ | cmask(2)))
    with pytest.raises(ValueError, match="0"):
        pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION}, edges={"instructions": 21})
    pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION}, edges={"instructions": 20})
    assert gp(pmu)[0] == 20


def test_cycles_are_one_per_cycle(pmu_class):
    """The distribution of cycles is known: each cycle has one."""
    code = 0x3C | OS | EN
    pmu = make(pmu_class, SKYLAKE, *((0x186 + i, code | bits) for i, bits in enumerate((cmask(1), cmask(2)))))
    pmu.wrmsr(0x188, code | cmask(1) | INV)
    pmu.wrmsr(0x189, code | cmask(2) | INV)
    pmu.count({}, cycles=77)
    assert gp(pmu) == (77, 0, 0, 77)
    amd = make(pmu_class, ZEN1, (ctl(0), 0x76 | OS | EN | cmask(1)), (ctl(1), 0x76 | OS | EN | cmask(2) | INV))
    amd.count({}, cycles=77)
    assert gp(amd)[:2] == (77, 77)


@pytest.mark.parametrize(("cpu", "width"), [(ICELAKE, 5), (SAPPHIRERAPIDS, 6), (LION_COVE, 8)])
def test_slots_are_as_many_as_the_core_is_wide(pmu_class, cpu, width):
    """The distribution of slots is known unless their number is given."""
    code = 0x01A4 | OS | EN
    writes = [(0x186, code | cmask(width)), (0x187, code | cmask(width + 1)), (0x188, code | cmask(1) | INV)]
    pmu = make(pmu_class, cpu, *writes)
    pmu.count({}, cycles=30)
    assert gp(pmu)[:3] == (30, 0, 0)
    before = pmu.state()
    with pytest.raises(ValueError, match="0"):
        pmu.count({"slots": 10}, cycles=30)
    assert pmu.state() == before
    pmu.count({"slots": 10}, cycles=30, per_cycle={"slots": [25, 0, 5]})
    assert gp(pmu)[:3] == (30, 0, 25)


def test_distribution_gives_the_occurrences(pmu_class):
    """Also to counters without CMASK and to fixed counters; both may be given if they agree."""
    pmu = make(pmu_class, SKYLAKE, (0x186, C0), (FIXED_CTR_CTRL, 1), (0x38F, 0x1_00000001))
    pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    pmu.count({"instructions": OCCURRENCES}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    assert gp(pmu)[0] == fixed(pmu)[0] == 2 * OCCURRENCES
    pmu.count({}, cycles=15, per_cycle={"instructions": [0] * 15 + [15]})
    assert gp(pmu)[0] == 2 * OCCURRENCES + 225


def test_distribution_of_a_raw_event(pmu_class):
    """By the code, however it is spelled."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0x01C2 | OS | EN | cmask(2)), (0x187, 0x01C2 | OS | EN))
    pmu.count({"r1C2": 12}, cycles=9, per_cycle={"r01c2": [2, 2, 5]})
    assert gp(pmu)[:2] == (5, 12)
    pmu.count({}, cycles=1, per_cycle={"r1c2": [0, 1]}, edges={"rC0": 0})
    assert gp(pmu)[:2] == (5, 13)


@pytest.mark.parametrize(
    "keywords",
    [
        {"per_cycle": {"instructions": [99]}},
        {"per_cycle": {"instructions": [40, 61]}},
        {"per_cycle": {"instructions": []}},
        {"per_cycle": {"instructions": [100] + [0] * 16}},
        {"per_cycle": {"instructions": [101, -1]}},
        {"per_cycle": {"instructions": DISTRIBUTION}, "events": {"instructions": OCCURRENCES - 1}},
        {"per_cycle": {"instruction": [100]}},
        {"edges": {"edge": 1}},
        {"edges": {"instructions": -1}},
        {"per_cycle": {"instructions": DISTRIBUTION, "r00c0": DISTRIBUTION}},
    ],
    ids=str,
)
def test_distributions_that_cannot_be(pmu_class, keywords):
    """Errors, whether or not a counter needs them; nothing has changed."""
    pmu = make(pmu_class, SKYLAKE, (0x186, C0))
    before = pmu.state()
    arguments = dict(keywords)
    with pytest.raises(ValueError, match=r"per_cycle|edges|unknown event|must not be negative"):
        pmu.count(arguments.pop("events", {}), cycles=CYCLES, **arguments)
    assert pmu.state() == before


def test_what_a_counter_needs_is_missing(pmu_class):
    """The distribution of another event does not help; the message names counter and argument."""
    pmu = make(pmu_class, SKYLAKE, (0x187, C0 | cmask(1)))
    for keywords in ({}, {"per_cycle": {"branches": [100]}}, {"edges": {"instructions": 1}}):
        with pytest.raises(ValueError, match="per_cycle"):
            pmu.count({"instructions": 5}, cycles=CYCLES, **keywords)
    pmu = make(pmu_class, SKYLAKE, (0x187, C0 | EDGE))
    for keywords in ({}, {"edges": {"branches": 1}}, {"per_cycle": {"instructions": DISTRIBUTION}}):
        with pytest.raises(ValueError, match="edges"):
            pmu.count({}, cycles=CYCLES, **keywords)
    assert gp(pmu) == (0,) * 4


def test_raw_codes_need_a_distribution_too(pmu_class):
    """A counter of a code that no name has is not exempt: nobody knows that the event never occurs."""
    pmu = make(pmu_class, SKYLAKE, (0x186, 0x01C2 | OS | EN | cmask(1) | INV))
    with pytest.raises(ValueError, match="per_cycle"):
        pmu.count({"instructions": 1}, cycles=5)
    pmu.count({}, cycles=5, per_cycle={"r01c2": [5]})
    assert gp(pmu)[0] == 5


def test_threshold_counters_overflow(pmu_class):
    """Cycles counted by CMASK wrap a counter as occurrences do."""
    pmu = make(pmu_class, BROADWELL, (LVTPC, NMI), (0xC1, 0xFFFFFFF0), (0x186, C0 | INT | cmask(2)))
    pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    assert gp(pmu)[0] == 50 - 16
    assert pmu.rdmsr(0x38E) == 1
    assert pmu.take_pmi() == ("nmi", 0)


def test_inversion_counts_cycles(pmu_class):
    """The idiom of INST_RETIRED with CMASK 16 and INV is a counter of cycles."""
    pmu = make(pmu_class, SKYLAKE, (0x186, C0 | cmask(16) | INV))
    pmu.count({}, cycles=CYCLES, per_cycle={"instructions": DISTRIBUTION})
    assert gp(pmu)[0] == CYCLES
