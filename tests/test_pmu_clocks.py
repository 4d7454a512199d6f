"""Events that follow the core clock, and what count() takes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu

OS, USR, EN = 1 << 17, 1 << 16, 1 << 22
GLOBAL_CTRL = 0x38F
SELECTORS = {"cycles": 0x003C, "bus-cycles": 0x013C}


@pytest.mark.parametrize("name", vpmu.cpus())
@given(cuts=st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 3)), max_size=12))
def test_clocks_telescope(pmu_class, name, cuts):
    """However the cycles are cut, ref-cycles, bus-cycles and slots are those of one piece."""
    cpu = vpmu.cpu(name)
    pieces, whole = pmu_class(cpu), pmu_class(cpu)
    for pmu in (pieces, whole):
        pmu.wrmsr(0x186, SELECTORS["bus-cycles"] | OS | USR | EN)
        pmu.wrmsr(0x38D, 0x3333 & (1 << 4 * cpu.fixed_counters) - 1)
        pmu.wrmsr(GLOBAL_CTRL, 1 | cpu.fixed_mask << 32)
    for cycles, cpl in cuts:
        pieces.count({}, cycles=cycles, cpl=cpl)
    total = sum(cycles for cycles, _ in cuts)
    whole.count({}, cycles=total)
    assert pieces.state() == whole.state()

    def ticks(hz):
        rate = int(Fraction(hz << 32, cpu.core_hz.value) + Fraction(1, 2))
        return rate * total >> 32

    assert whole.rdpmc(0) == ticks(cpu.bus_cycles_hz.value)
    expected = (0, total, ticks(cpu.tsc_hz.value), total * cpu.slots_per_cycle)
    assert whole.state()["fixed"] == expected[: cpu.fixed_counters]
    assert whole.state()["cycles"] == total


def test_clock_runs_while_counters_do_not(pmu_class):
    """The clock is the CPU's: a counter that is enabled later starts with the fraction that it finds."""
    pmu = pmu_class(vpmu.cpu("icelake"))  # 25 MHz against 3 GHz, rounded down: one at the cycles 121, 241 ...
    pmu.wrmsr(0x186, SELECTORS["bus-cycles"] | OS | EN)
    pmu.wrmsr(GLOBAL_CTRL, 0)
    pmu.count({}, cycles=119, cpl=3)
    pmu.wrmsr(GLOBAL_CTRL, 1)
    values = []
    for cycles in (1, 1, 119, 1):
        pmu.count({}, cycles=cycles)
        values.append(pmu.rdpmc(0))
    assert values == [0, 1, 1, 2]


def test_given_events_replace_the_ratios(pmu_class):
    pmu = pmu_class(vpmu.cpu("icelake"))
    pmu.wrmsr(0x186, SELECTORS["bus-cycles"] | OS | EN)
    pmu.wrmsr(0x38D, 0x1111)
    pmu.wrmsr(GLOBAL_CTRL, 0xF_00000001)
    pmu.count({"ref-cycles": 1, "bus-cycles": 2, "slots": 3}, cycles=3_000_000)
    assert [pmu.rdpmc(ecx) for ecx in (0, 0x4000_0001, 0x4000_0002, 0x4000_0003)] == [2, 3_000_000, 1, 3]
    pmu.count({}, cycles=3_000_000)  # the ratios go on from where the clock is
    assert [pmu.rdpmc(ecx) for ecx in (0, 0x4000_0002, 0x4000_0003)] == [25_002, 2_300_001, 15_000_003]
    assert pmu.state()["cycles"] == 6_000_000


def test_cycles_as_an_event(pmu_class):
    """`cycles` among the events is the same as the argument."""
    by_event, by_argument = pmu_class(vpmu.cpu("icelake")), pmu_class(vpmu.cpu("icelake"))
    for pmu in (by_event, by_argument):
        pmu.wrmsr(0x186, SELECTORS["cycles"] | OS | EN)
        pmu.wrmsr(0x38D, 0x1111)
        pmu.wrmsr(GLOBAL_CTRL, 0xF_00000001)
    by_event.count({"cycles": 1234})
    by_argument.count({}, cycles=1234)
    assert by_event.state() == by_argument.state()
    assert by_event.rdpmc(0) == 1234


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        (({"instructions": -1},), {}, ValueError),
        (({},), {"cycles": -1}, ValueError),
        (({"instructions": 1.5},), {}, TypeError),
        (({"instructions": "1"},), {}, TypeError),
        (({},), {"cycles": 1.0}, TypeError),
        (({"cycles": 1},), {"cycles": 1}, ValueError),
        (({"instruction": 1},), {}, vpmu.UnknownName),
        (({"instructions": 1, "nonsense": 1},), {}, vpmu.UnknownName),
        (({"instructions": 1},), {"cpl": 4}, ValueError),
        (({"instructions": 1},), {"cpl": -1}, ValueError),
        (({"instructions": 1 << 64},), {}, OverflowError),
        (({"instructions": 1},), {"cycles": 1 << 58}, OverflowError),
    ],
)
def test_arguments_that_cannot_be_counted(pmu_class, arguments, keywords, error):
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x186, 0xC0 | OS | USR | EN)
    pmu.count({"instructions": 3}, cycles=5)
    before = pmu.state()
    with pytest.raises(error):
        pmu.count(*arguments, **keywords)
    assert pmu.state() == before


def test_unknown_event_names_the_nearest(pmu_class):
    with pytest.raises(vpmu.UnknownName, match="branch-misses") as caught:
        pmu_class(vpmu.cpu("skylake")).count({"branch-miss": 1})
    assert isinstance(caught.value, ValueError)


def test_clock_has_a_bound(pmu_class):
    """Fewer than 2**58 cycles in all, so that no product exceeds 128 bits."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0x38D, 0x1100)
    pmu.wrmsr(GLOBAL_CTRL, 0xC << 32)
    last = (1 << 58) - 1
    pmu.count({}, cycles=last)
    rate = ((2 << 32) + 1) // 3
    assert pmu.rdpmc(0x4000_0002) == (rate * last >> 32) % (1 << 48)
    assert pmu.rdpmc(0x4000_0003) == 6 * last % (1 << 48)
    before = pmu.state()
    with pytest.raises(OverflowError):
        pmu.count({}, cycles=1)
    assert pmu.state() == before
