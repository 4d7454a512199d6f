"""Events that follow the core clock, and what count() takes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pmu_models import CTRL as GLOBAL_CTRL
from pmu_models import EN, GENOA, LION_COVE, OS, USR, YONAH, ZEN1, ctl, gp, make

import vpmu

SELECTORS = {"cycles": 0x003C, "bus-cycles": 0x013C}


@pytest.mark.parametrize("name", [name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "intel"])
@settings(max_examples=40)
@given(cuts=st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 3)), max_size=12))
def test_clocks_telescope(pmu_class, name, cuts):
    """However the cycles are cut, ref-cycles, bus-cycles and slots are those of one piece."""
    cpu = vpmu.cpu(name)
    pieces, whole = pmu_class(cpu), pmu_class(cpu)
    for pmu in (pieces, whole):
        pmu.wrmsr(0x186, SELECTORS["bus-cycles"] | OS | USR | EN)
        if cpu.version >= 2:  # version 1 has neither
            pmu.wrmsr(0x38D, sum(3 << 4 * m for m in range(8) if cpu.fixed_mask >> m & 1))
            pmu.wrmsr(GLOBAL_CTRL, 1 | cpu.fixed_mask << 32)
    for cycles, cpl in cuts:
        pieces.count({}, cycles=cycles, cpl=cpl)
    total = sum(cycles for cycles, _ in cuts)
    whole.count({}, cycles=total)
    states = [{key: value for key, value in pmu.state().items() if key != "in_flight"} for pmu in (pieces, whole)]
    assert states[0] == states[1]  # but for what the latest count() moved

    def ticks(hz):
        rate = int(Fraction(hz << 32, cpu.core_hz.value) + Fraction(1, 2))
        return rate * total >> 32

    bus_hz = cpu.bus_cycles_hz if "ref_xclk" in cpu.quirks else cpu.tsc_hz
    assert whole.rdpmc(0) == ticks(bus_hz.value) % (1 << cpu.gp_width)
    expected = (0, total, ticks(cpu.tsc_hz.value), total * cpu.slots_per_cycle, 0, 0, 0)
    for m, value in enumerate(expected):
        if cpu.fixed_mask >> m & 1:
            assert whole.rdpmc(0x4000_0000 | m) == value % (1 << cpu.fixed_width)
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


def test_clocks_of_version_1(pmu_class):
    """No fixed counters and no global control; the GP counters have cycles and bus cycles."""
    pmu = make(pmu_class, YONAH, (0x186, SELECTORS["cycles"] | OS | EN), (0x187, SELECTORS["bus-cycles"] | USR | EN))
    pmu.count({}, cycles=1000)
    pmu.count({}, cycles=70, cpl=3)
    assert gp(pmu) == (1000, 70)


@pytest.mark.parametrize(("cpu", "ticks"), [(ZEN1, 0), (GENOA, 500)], ids=["zen1", "genoa"])
def test_clocks_of_amd(pmu_class, cpu, ticks):
    """Cycles and, from Zen 4 on, reference cycles; nothing follows the bus."""
    pmu = make(pmu_class, cpu, (ctl(0), 0x76 | OS | EN), (ctl(1), 0x1_00000120 | OS | EN), (ctl(2), 0x13C | OS | EN))
    pmu.count({}, cycles=500)
    assert gp(pmu)[:3] == (500, ticks, 0)
    pmu.count({"ref-cycles": 7, "bus-cycles": 9}, cycles=500)
    assert gp(pmu)[:3] == (1000, ticks + (7 if ticks else 0), 0)


def test_events_beyond_a_counter(pmu_class):
    """What one counter gets in one call is below 2**64, distributions and all; else an error and no change."""
    pmu = make(pmu_class, LION_COVE, (0x186, 0x013C | OS | EN | USR))
    before = pmu.state()
    for keywords in ({"events": {"bus-cycles": 1 << 64}}, {"events": {"r01c2": 1 << 64}}, {"cycles": 1 << 64}):
        with pytest.raises((OverflowError, ValueError)):
            pmu.count(keywords.pop("events", {}), **keywords)
        assert pmu.state() == before
    pmu.count({"bus-cycles": (1 << 64) - 1})
    assert gp(pmu)[0] == (1 << 48) - 1


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
