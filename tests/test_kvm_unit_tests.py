"""kvm-unit-tests x86/pmu.c, check by check in the order of its main(), for each bank of representative CPUs.

What the suite accepts as a range on hardware is exact here, so each count is compared with both.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from kvm_unit_tests import (
    A4C1,
    BRANCHES,
    C1,
    CYCLES,
    FIXED_RANGES,
    INSTRUCTIONS,
    PAYLOAD,
    VALUE,
    VECTOR,
    N,
    Suite,
    banks,
)
from pmu_models import (
    ALL_ONES,
    BROADWELL,
    EN,
    FIXED,
    FIXED_CTR_CTRL,
    IN_TX,
    IN_TXCP,
    OS,
    SAPPHIRERAPIDS,
    SKYLAKE,
    USR,
    gp,
    wrmsr_counted,
)

import vpmu

#: Every version of both vendors: 1 to 6, and AMD before and with PERFCTR_CORE and PerfMonV2.
NAMES = (
    *("yonah", "conroe", "penryn", "bonnell", "silvermont", "nehalem", "sandybridge", "sandybridge-client", "haswell"),
    *("broadwell", "goldmont", "skylake", "tremont", "icelake", "sapphirerapids", "graniterapids", "sierraforest"),
    *("lunarlake-p", "lunarlake-e", "pantherlake-p", "k8", "k10", "jaguar", "bulldozer", "zen", "rome", "milan"),
    *("genoa", "turin"),
)
MODELS = {name: vpmu.cpu(name) for name in NAMES}
INTEL = {name: cpu for name, cpu in MODELS.items() if cpu.vendor == "intel"}
CASES = [pytest.param((cpu, bank), id=f"{name}-{bank.name}") for name, cpu in MODELS.items() for bank in banks(cpu)]


@pytest.fixture(params=CASES)
def case(request):
    """A CPU and the bank of its counters under test."""
    return request.param


@pytest.fixture
def suite(pmu_class, case):
    """Check 0, pmu_init: selectors, counters and controls may be cleared, then nothing is enabled."""
    return Suite(pmu_class, *case)


def expected(cpu, event, before=0):
    """The count of the payload, exactly, that many cycles after RESET: clocks go on from where they are."""
    if event in ("ref-cycles", "bus-cycles"):
        rate = cpu.rate_of(event)
        return (rate * (before + CYCLES) >> 32) - (rate * before >> 32)
    return (PAYLOAD | {"cycles": CYCLES, "instructions": INSTRUCTIONS})[event]


def test_invalid_rdpmc(suite):
    """Check 1, check_invalid_rdpmc_gp: RDPMC(64) raises #GP on every CPU."""
    with pytest.raises(vpmu.GeneralProtectionFault):
        suite.pmu.rdpmc(64)


@pytest.mark.parametrize("name", INTEL)
def test_reference_cycle_calibration(pmu_class, name):
    """Check 2, set_ref_cycle_expectations: 3CH/01H over a loop of 1e9 iterations, against the TSC."""
    cpu = INTEL[name]
    suite = Suite(pmu_class, cpu, C1)
    suite.start(0, suite.code("bus-cycles"))
    suite.pmu.count({"instructions": 10**9, "branches": 10**9}, cycles=10**9)
    ticks = suite.stop(0, suite.code("bus-cycles"))
    hz = cpu.bus_cycles_hz.value if "ref_xclk" in cpu.quirks else cpu.tsc_hz.value
    assert ticks == int(Fraction(hz << 32, cpu.core_hz.value) + Fraction(1, 2)) * 10**9 >> 32
    assert ticks > 0


def test_emulated_instructions(suite):
    """Check 3, check_emulated_instr: 22 instructions and 5 branches not taken, both counters overflow."""
    branches, instructions = suite.code("branches"), suite.code("instructions")
    wrmsr_counted(
        suite.pmu,
        (suite.counter(0), suite.cut(-5)),
        (suite.counter(1), suite.cut(-22)),
        (suite.selector(0), branches | OS | USR | EN),
        (suite.selector(1), instructions | OS | USR | EN),
    )
    suite.enable(3)
    suite.pmu.count({"instructions": 21, "branches": 5}, cycles=100)
    if suite.has_global:
        wrmsr_counted(suite.pmu, (suite.global_ctrl, 0))
    # Without a global control the write that stops counter 0 is counted by counter 1.
    assert suite.stop(0, branches) == 0
    assert suite.stop(1, instructions) == (0 if suite.has_global else 1)
    if suite.has_global:
        assert suite.pmu.rdmsr(suite.status) == 3


def test_gp_counters(suite):
    """Check 4, check_gp_counters: every event on every counter."""
    for event, (code, least, most) in suite.events.items():
        scale = Fraction(1)
        if event == "bus-cycles":  # check 2
            scale = Fraction(suite.cpu.rate_of("bus-cycles"), suite.cpu.rate_of("ref-cycles"))
        for i in range(suite.counters):
            before = suite.pmu.state()["cycles"]
            count = suite.measure(i, code)
            assert int(least * scale) <= count <= int(most * scale)
            assert count == expected(suite.cpu, event, before)


@pytest.mark.parametrize("name", [name for name, cpu in INTEL.items() if cpu.version >= 2])
def test_fixed_counters(pmu_class, name):
    """Check 5, check_fixed_counters."""
    suite = Suite(pmu_class, INTEL[name], C1)
    for m, event in enumerate(("instructions", "cycles", "ref-cycles")):
        before = suite.pmu.state()["cycles"]
        count = suite.measure_fixed(m)
        assert FIXED_RANGES[m][0] <= count <= FIXED_RANGES[m][1]
        assert count == expected(suite.cpu, event, before)


def test_rdpmc(suite):
    """Checks 6 to 8, check_rdpmc: what was written; there is no fast mode."""
    pmu, width = suite.pmu, suite.cpu.gp_width
    kept = 0x2345_6789 if suite.bank is C1 else VALUE & (1 << width) - 1
    for i in range(suite.counters):
        pmu.wrmsr(suite.counter(i), suite.cut(VALUE))
        assert pmu.rdpmc(i) == pmu.rdmsr(suite.counter(i)) == kept
        with pytest.raises(vpmu.GeneralProtectionFault):
            pmu.rdpmc(i | 1 << 31)
    for m in range(suite.fixed):
        value = VALUE & (1 << suite.cpu.fixed_width) - 1
        pmu.wrmsr(0x309 + m, value)
        assert pmu.rdpmc(FIXED | m) == value
        with pytest.raises(vpmu.GeneralProtectionFault):
            pmu.rdpmc(FIXED | 1 << 31 | m)


def test_all_counters(suite):
    """Check 9, check_counters_many: all counters run at the same time, started by one write each."""
    events = [list(suite.events)[i % len(suite.events)] for i in range(suite.counters)]
    for i, event in enumerate(events):
        wrmsr_counted(suite.pmu, (suite.counter(i), 0), (suite.selector(i), suite.code(event) | OS | USR))
    if suite.fixed:
        wrmsr_counted(suite.pmu, (FIXED_CTR_CTRL, 0x333))
    fixed_bits = (1 << suite.fixed) - 1 << 32
    for i, event in enumerate(events):
        suite.pmu.wrmsr(suite.selector(i), suite.code(event) | OS | USR | EN)
    suite.enable(fixed_bits | (1 << suite.counters) - 1)
    suite.loop()
    if suite.has_global:
        wrmsr_counted(suite.pmu, (suite.global_ctrl, 0))
    started_by_itself = 0 if suite.has_global else 1  # without a global control no WRMSR is counted here
    got = [suite.pmu.rdpmc(i) for i in range(suite.counters)]
    assert got == [expected(suite.cpu, event) - (event == "instructions") * started_by_itself for event in events]
    for m, event in zip(range(suite.fixed), ("instructions", "cycles", "ref-cycles"), strict=False):
        assert suite.pmu.rdpmc(FIXED | m) == expected(suite.cpu, event)


def test_overflow(suite):
    """Checks 10 to 13, check_counter_overflow: it ends at 1; only the interrupt needs INT."""
    for i in range(suite.counters):
        left, status = suite.overflow(i)
        assert left == 1
        if suite.has_global:
            assert status == 1 << i
            suite.pmu.wrmsr(suite.ack, status)
            assert suite.pmu.rdmsr(suite.status) == 0
        assert suite.interrupted() is (i % 2 == 1)
    for interrupts in (False, True) if suite.fixed else ():
        suite.start_fixed(0, (1 - INSTRUCTIONS) & (1 << suite.cpu.fixed_width) - 1, interrupts)
        suite.loop()
        assert suite.stop_fixed(0) == 1
        assert suite.pmu.rdmsr(suite.status) == 1 << 32
        suite.pmu.wrmsr(suite.ack, 1 << 32)
        assert suite.pmu.rdmsr(suite.status) == 0
        assert suite.interrupted() is interrupts


def test_overflow_measured(suite):
    """Check 10 as the suite computes its preset: from a first measurement."""
    code = suite.code("instructions")
    preset = suite.cut(1 - suite.measure(0, code))
    assert suite.measure(0, code, preset) == 1


def test_cmask(suite):
    """Check 14, check_gp_counter_cmask: with CMASK 2, cycles that retire at least two are fewer than instructions."""
    pmu, config = suite.pmu, suite.code("instructions") | 2 << 24
    pmu.wrmsr(suite.selector(0), config | OS | USR | EN)
    if suite.has_global:
        pmu.wrmsr(suite.global_ctrl, 1)
    # 2 N cycles in which one retires, and N in which eight do: 10 N.
    pmu.count({"instructions": 10 * N}, cycles=CYCLES, per_cycle={"instructions": [0, 2 * N, *[0] * 6, N]})
    assert pmu.rdpmc(0) == N
    assert pmu.rdpmc(0) < suite.events["instructions"][1]


def test_running_counter(suite):
    """Check 15, check_running_counter_wrmsr: the write takes effect while the counter runs."""
    code = suite.code("instructions")
    suite.start(0, code)
    suite.loop()
    wrmsr_counted(suite.pmu, (suite.counter(0), 0))
    assert suite.stop(0, code) == 1  # the write of the counter itself
    if suite.has_global:
        assert suite.pmu.rdmsr(suite.status) == 0


def test_running_counter_overflow(suite):
    """Check 16: all ones are written while the counter runs; it is the payload that makes it wrap."""
    code = suite.code("instructions")
    suite.start(0, code)
    suite.pmu.wrmsr(suite.counter(0), suite.cut(-1))
    if suite.has_global:
        assert suite.pmu.rdmsr(suite.status) == 0
    suite.loop()
    assert suite.stop(0, code) == INSTRUCTIONS - 2
    if suite.has_global:
        assert suite.pmu.rdmsr(suite.status) == 1


@pytest.mark.parametrize("cpu", [BROADWELL, SKYLAKE, SAPPHIRERAPIDS], ids=["broadwell", "skylake", "sapphirerapids"])
def test_tsx_cycles(pmu_class, cpu):
    """Check 17, check_tsx_cycles: cycles in a transaction; counter 2 has only those of committed ones.

    The suite aborts its transaction and wants every count to be positive. SDM vol. 3B: what IN_TXCP counted in an
    aborted region is taken back, so counter 2 is positive after one that commits.
    """
    for outcome in ("abort", "commit", None):
        suite = Suite(pmu_class, cpu, C1)
        for i in range(suite.counters):
            config = 0x3C | IN_TX | (IN_TXCP if i == 2 else 0)
            suite.pmu.wrmsr(suite.selector(i), config | OS | USR | EN)
        suite.pmu.wrmsr(suite.global_ctrl, cpu.gp_mask)
        suite.pmu.count({}, cycles=100, transaction=outcome)
        suite.pmu.count({}, cycles=7)
        positive = [100] * suite.counters
        if outcome == "abort":
            positive[2] = 0
        assert gp(suite.pmu) == tuple(positive if outcome else [0] * suite.counters)


@pytest.mark.parametrize("width", [40, 48])
@pytest.mark.parametrize("name", [name for name, cpu in INTEL.items() if cpu.full_width_writes])
def test_write_width(pmu_class, accepts, name, width):
    """Checks 18 to 20, check_gp_counters_write_width."""
    cpu = replace(INTEL[name], gp_width=width)
    suite = Suite(pmu_class, cpu, A4C1)
    pmu = suite.pmu
    v64 = 0xFFFFFF01_23456789
    v32, v48 = v64 & 0xFFFFFFFF, v64 & (1 << width) - 1
    for i in range(suite.counters):
        for value in (v32, v48, v64):
            pmu.wrmsr(0xC1 + i, value)
            assert pmu.rdmsr(0xC1 + i) == pmu.rdmsr(0x4C1 + i) == v32
        for value in (v32, v48):
            pmu.wrmsr(0x4C1 + i, value)
            assert pmu.rdmsr(0xC1 + i) == pmu.rdmsr(0x4C1 + i) == value
        assert not accepts(pmu, 0x4C1 + i, v64)
        assert not accepts(pmu, 0x4C1 + i, 1 << width)
        assert not accepts(pmu, 0x4C1 + i, ALL_ONES)


def test_branches_are_exact(suite):
    """Check 4 with precise counts: N + 2 branches and 10 N + 17 instructions of which one is a WRMSR."""
    assert suite.measure(0, suite.code("branches")) == BRANCHES == 1_000_002
    assert suite.measure(0, suite.code("instructions")) == INSTRUCTIONS == 10_000_017
    assert suite.pmu.rdmsr(0x834) == VECTOR
