"""The compiled PMU and the readable one do the same: every access of every MSR, and random histories."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import vpmu
import vpmu.reference

MSRS = [
    *range(0xC1, 0xC9),
    *range(0x186, 0x18E),
    *range(0x309, 0x319),
    *(0x329, 0x345),
    *range(0x38D, 0x393),
    *range(0x3F1, 0x3F6),
    *range(0x4C1, 0x4C9),
    *(0x600, 0x834, 0x1D9, 0x1A0, 0x10F),
]
ALL_ONES = (1 << 64) - 1
BITS = [1 << bit for bit in range(64)]


def outcome(function, *arguments, **keywords):
    """What a call returns, or which fault or kind of error it raises."""
    try:
        return "returns", function(*arguments, **keywords)
    except vpmu.GeneralProtectionFault as fault:
        return "faults", fault.msr, fault.value
    except (OverflowError, ValueError) as error:
        return "raises", next(kind for kind in (OverflowError, vpmu.UnknownName, ValueError) if isinstance(error, kind))


@pytest.mark.parametrize("name", vpmu.cpus())
def test_every_access_of_every_msr(name):
    """Each MSR of the PMU's ranges, read, and written with 0, all ones and each single bit."""
    cpu = vpmu.cpu(name)
    for msr in MSRS:
        core, plain = vpmu.Pmu(cpu), vpmu.reference.Pmu(cpu)
        assert core.state() == plain.state()
        assert outcome(core.rdmsr, msr) == outcome(plain.rdmsr, msr), hex(msr)
        for value in (ALL_ONES, *BITS, ALL_ONES >> 16, 0x5555_55555555, 0):
            where = f"{msr:#x} <- {value:#x}"
            assert outcome(core.wrmsr, msr, value) == outcome(plain.wrmsr, msr, value), where
            assert outcome(core.rdmsr, msr) == outcome(plain.rdmsr, msr), where
            assert core.state() == plain.state(), where


@pytest.mark.parametrize("name", vpmu.cpus())
def test_every_rdpmc(name):
    """Each type with each index, around the bounds."""
    core, plain = vpmu.Pmu(vpmu.cpu(name)), vpmu.reference.Pmu(vpmu.cpu(name))
    for kind in (0, *(1 << bit for bit in range(16)), 0x6000, 0xC000, 0xFFFF):
        for index in (*range(65), 0xFF, 0x100, 0xFFFF):
            for cpl, cr4_pce in ((0, False), (3, False), (3, True)):
                arguments = kind << 16 | index, cpl, cr4_pce
                assert outcome(core.rdpmc, *arguments) == outcome(plain.rdpmc, *arguments), arguments


@st.composite
def models(draw):
    """A preset, or one with nearly everything that matters to a PMU drawn anew."""
    cpu = vpmu.cpu(draw(st.sampled_from(vpmu.cpus())))
    if draw(st.integers(0, 3)) == 0:
        return cpu
    features = ("pdcm", "ds", "dtes64", "rtm", "hle", "pt", "sgx", "tsx_force_abort")
    core_hz, tsc_hz = (draw(st.integers(800_000_000, 5_000_000_000)) for _ in range(2))
    return replace(
        cpu,
        version=draw(st.integers(2, 5)),
        gp_mask=draw(st.sampled_from([0x1, 0x3, 0xF, 0xFF, 0xFF, 0xA5])),
        fixed_mask=draw(st.sampled_from([0x0, 0x1, 0x7, 0xF, 0xF, 0xA])),
        gp_width=draw(st.sampled_from([32, 40, 48])),
        fixed_width=draw(st.sampled_from([32, 40, 48])),
        perf_capabilities=draw(st.sampled_from([0xF5FF, 0xF4C5, 0x33C5, 0])) ^ sum(draw(st.sets(CAPABILITIES))),
        anythread_deprecated=draw(st.booleans()),
        pin_control_writable=draw(st.booleans()),
        features=frozenset(draw(st.sets(st.sampled_from(features)))),
        slots_per_cycle=draw(st.integers(1, 8)),
        core_hz=replace(cpu.core_hz, value=core_hz),
        tsc_hz=replace(cpu.tsc_hz, value=tsc_hz),
        bus_cycles_hz=replace(cpu.bus_cycles_hz, value=draw(st.sampled_from([25_000_000, 100_000_000, tsc_hz]))),
    )


CAPABILITIES = st.sampled_from([1 << bit for bit in (8, 9, 10, 11, 12, 13, 14, 15, 19)])
#: Event select and unit mask: those that are known, and some that are nearly so.
EVENTS = st.sampled_from([0xC0, 0xC0, 0x3C, 0x13C, 0x4F2E, 0x412E, 0xC4, 0xC5, 0x1A4, 0x1C0, 0x300, 0x23C])
#: EN mostly; USR, OS, INT and INV.
CONTROLS = st.tuples(st.sampled_from([0, 1, 1, 1]), st.integers(0, 15)).map(
    lambda drawn: drawn[0] << 22 | (drawn[1] & 3) << 16 | (drawn[1] & 4) << 18 | (drawn[1] & 8) << 20
)
#: What cannot be counted yet, and what may fault.
ODD_CONTROLS = st.sampled_from([1 << bit for bit in (18, 19, 21, 24, 31, 32, 33, 34, 35, 40)])
NOTABLE = [0, 1, 0xB, 0x33, 1 << 31, (1 << 32) - 1, (1 << 48) - 1, 1 << 48, ALL_ONES, ALL_ONES ^ (1 << 47) - 1]
VALUES = st.one_of(st.sampled_from(NOTABLE), st.sampled_from(BITS), st.integers(0, 0xFFFF), st.integers(0, ALL_ONES))
SMALL = st.integers(0, 12)
NUMBERS = st.one_of(SMALL, SMALL, SMALL, st.integers(0, 1 << 50), st.integers(0, ALL_ONES))
AMOUNTS = st.dictionaries(st.sampled_from(vpmu.reference.pmu.EVENTS), NUMBERS, max_size=4)
CYCLES = st.one_of(SMALL, st.integers(0, 1000), st.integers(0, 1 << 50), NUMBERS)
#: Mostly counters, controls and acknowledgements, of low numbers, which exist everywhere.
COMMON = [0xC1, 0xC2, 0x186, 0x187, 0x309, 0x30A, 0x38D, 0x38E, 0x38F, 0x390, 0x391, 0x392, 0x834]
ADDRESSES = st.one_of(st.sampled_from(COMMON), st.sampled_from(MSRS), st.integers(0, (1 << 32) - 1))
CPLS = st.sampled_from([0, 0, 0, 3, 3, 1, 2])
COUNTS = st.lists(st.tuples(AMOUNTS, CYCLES, CPLS), min_size=1, max_size=4)
KINDS = st.sampled_from([0, 0, 0x4000, 0x4000, 0x2000, 0x8000])
OPS = st.tuples(st.integers(0, 2), st.integers(0, 1), CPLS, st.integers(0, 1), ADDRESSES, VALUES)
MODES = st.sampled_from([0, 4, 4, 2])


class Agreement(RuleBasedStateMachine):
    """The same random history on both; after every step they have the same state."""

    snapshots = Bundle("snapshots")

    @initialize(cpu=models())
    def reset(self, cpu):
        self.cpu = cpu
        self.core, self.plain = vpmu.Pmu(cpu), vpmu.reference.Pmu(cpu)

    def both(self, name, *arguments, **keywords):
        """Call a method of both and compare what comes of it."""
        core = outcome(getattr(self.core, name), *arguments, **keywords)
        assert core == outcome(getattr(self.plain, name), *arguments, **keywords)
        assert self.core.state() == self.plain.state()

    @rule(msr=ADDRESSES)
    def rdmsr(self, msr):
        self.both("rdmsr", msr)

    @rule(msr=ADDRESSES, value=VALUES)
    def wrmsr(self, msr, value):
        self.both("wrmsr", msr, value)

    @rule(msr=st.sampled_from([0x186, 0x188, 0x38D, 0x38F, 0x390, 0x390, 0x391, 0x3F1, 0x1D9, *MSRS]))
    def wrmsr_each_bit(self, msr):
        for value in BITS:
            self.both("wrmsr", msr, value)

    @rule(index=st.integers(0, 8), kind=KINDS, cpl=CPLS, pce=st.booleans())
    def rdpmc(self, index, kind, cpl, pce):
        self.both("rdpmc", kind << 16 | index, cpl, pce)

    @rule(
        selectors=st.lists(st.tuples(EVENTS, CONTROLS).map(sum), min_size=8, max_size=8),
        distances=st.lists(st.integers(1, 9), min_size=12, max_size=12),
        control=st.integers(0, 0xFFFF),
        stopped=st.integers(0, 3).flatmap(lambda often: st.integers(0, 0xFFF) if often == 0 else st.just(0)),
        odd=st.one_of(st.just(0), st.just(0), st.just(0), ODD_CONTROLS),
        mode=MODES,
        counts=COUNTS,
    )
    def run(self, selectors, distances, control, stopped, odd, mode, counts):
        """Set every counter up, near its overflow, enable most, and count."""
        cpu = self.cpu
        legal = sum(0xB << 4 * m for m in range(4) if cpu.fixed_mask >> m & 1)
        for x, selector in enumerate(selectors):
            self.both("wrmsr", 0x186 + x, selector | odd if x in (0, 2) else selector)
            self.both("wrmsr", 0xC1 + x, (1 << 32) - distances[x])
        for m in range(4):
            self.both("wrmsr", 0x309 + m, (1 << cpu.fixed_width) - distances[8 + m])
        self.both("wrmsr", 0x38D, control & legal)
        self.both("wrmsr", 0x38F, cpu.gp_mask & ~stopped | (cpu.fixed_mask & ~(stopped >> 8)) << 32)
        self.both("wrmsr", 0x834, mode << 8 | 0xF0 | distances[0])
        self.count(counts)

    @rule(x=st.integers(0, 7), event=EVENTS, controls=CONTROLS)
    def select(self, x, event, controls):
        self.both("wrmsr", 0x186 + x, event | controls)

    @rule(x=st.integers(0, 7), event=EVENTS, controls=CONTROLS, odd=ODD_CONTROLS)
    def select_oddly(self, x, event, controls, odd):
        self.both("wrmsr", 0x186 + x, event | controls | odd)

    @rule(x=st.integers(0, 7), distance=st.integers(1, 9))
    def arm(self, x, distance):
        """Bring a counter near its overflow."""
        self.both("wrmsr", 0xC1 + x, (1 << 32) - distance)
        self.both("wrmsr", 0x309 + x, (1 << self.cpu.fixed_width) - distance)

    @rule(mode=st.integers(0, 7), vector=st.integers(0, 255), masked=st.integers(0, 1))
    def lvtpc(self, mode, vector, masked):
        self.both("wrmsr", 0x834, masked << 16 | mode << 8 | vector)

    @rule(msr=st.sampled_from([0x390, 0x391]))
    def freeze_or_thaw(self, msr):
        self.both("wrmsr", msr, 1 << 59)

    @rule()
    def acknowledge(self):
        self.both("wrmsr", 0x390, self.plain.rdmsr(0x38E))

    @rule(counts=COUNTS)
    def count(self, counts):
        for events, cycles, cpl in counts:
            self.both("count", events, cycles=cycles, cpl=cpl)

    @rule()
    def take_pmi(self):
        self.both("take_pmi")

    @rule(ops=st.lists(OPS, max_size=8))
    def execute(self, ops):
        batch = np.array(ops, vpmu.reference.OP_DTYPE)
        core, plain = (outcome(lambda pmu: pmu.execute(batch).tolist(), pmu) for pmu in (self.core, self.plain))
        assert core == plain

    @rule(target=snapshots)
    def snapshot(self):
        return self.core.state()

    @rule(state=snapshots)
    def restore(self, state):
        self.core = vpmu.Pmu.from_state(self.cpu, state)
        self.plain = vpmu.reference.Pmu.from_state(self.cpu, state)

    @rule(duplicate=st.sampled_from([copy.copy, copy.deepcopy, lambda pmu: pickle.loads(pickle.dumps(pmu))]))
    def replace_by_copies(self, duplicate):
        self.core, self.plain = duplicate(self.core), duplicate(self.plain)

    @invariant()
    def same_state(self):
        assert self.core.state() == self.plain.state()
        assert self.core.pmi_pending == self.plain.pmi_pending
        assert outcome(self.core.rdmsr, 0x392) == outcome(self.plain.rdmsr, 0x392)


TestRandomHistories = Agreement.TestCase
