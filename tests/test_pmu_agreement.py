"""The compiled PMU and the readable one do the same: random histories, compared after every step."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from pmu_pair import COPIES, STRANGE, Pair, dice_of
from pmu_strategies import ALL_ONES, BITS, MSRS, VALUES, addresses, dice, model, models, outcome

import vpmu
import vpmu.reference

CPLS = st.sampled_from([0, 0, 0, 3, 3, 1, 2])
SEEDS = st.one_of(st.none(), st.integers(0, 9), st.integers(0, ALL_ONES))
KINDS = st.sampled_from([0, 0, 0x4000, 0x4000, 0x2000, 0x8000])


class Agreement(RuleBasedStateMachine):
    """The same random history on both; after every step they have the same state.

    What a failing example did is printed as Python.
    """

    snapshots = Bundle("snapshots")

    @initialize(cpu=models(), seed=SEEDS, roll=dice(48))
    def reset(self, cpu, seed, roll):
        self.pair = Pair(cpu, seed)
        self.pair.set_up(roll)

    @rule(roll=dice(128))
    def set_up_and_count(self, roll):
        self.pair.set_up(roll)
        for _ in range(1 + roll.below(3)):
            self.pair.count(roll)

    @rule(roll=dice(40))
    def count(self, roll):
        self.pair.count(roll)

    @rule(roll=dice(64))
    def overflow(self, roll):
        self.pair.arm(roll)
        self.pair.count(roll)

    @rule(rolls=st.lists(dice(40), max_size=3))
    def act(self, rolls):
        for roll in rolls:
            self.pair.act(roll)

    @rule(cycles=st.sampled_from([0, 1, 5, 300]), cpl=CPLS)
    def time_passes(self, cycles, cpl):
        """Cycles without anything else, in which a PMI arrives."""
        self.pair.both("count", {}, cycles=cycles, cpl=cpl)

    @rule(data=st.data(), value=VALUES)
    def wrmsr(self, data, value):
        self.pair.both("wrmsr", data.draw(addresses(self.pair.cpu)), value)

    @rule(msr=st.sampled_from(MSRS))
    def wrmsr_each_bit(self, msr):
        """Each bit alone, in whatever state this is."""
        self.pair.write([(msr, value) for value in (*BITS, 0)])

    @rule(index=st.integers(0, 30), kind=KINDS, cpl=CPLS, pce=st.booleans(), pe=st.booleans())
    def rdpmc(self, index, kind, cpl, pce, pe):
        self.pair.both("rdpmc", kind << 16 | index, cpl, pce, pe)

    @rule(roll=dice(1))
    def read_all(self, roll):
        self.pair.read_all(roll)

    @rule(roll=dice(4))
    def switch_a_counter(self, roll):
        self.pair.switch_a_counter(roll)

    @rule(roll=dice(2))
    def status(self, roll):
        self.pair.status(roll)

    @rule(roll=dice(2))
    def interrupts(self, roll):
        self.pair.interrupts(roll)

    @rule(roll=dice(1))
    def modes(self, roll):
        self.pair.modes(roll)

    @rule(data=st.data())
    def execute(self, data):
        address = st.one_of(addresses(self.pair.cpu), st.integers(0, 5))
        op = st.tuples(st.integers(0, 2), st.integers(0, 1), CPLS, st.integers(0, 1), address, VALUES)
        self.pair.run(data.draw(st.lists(op, max_size=6)))

    @rule(target=snapshots)
    def snapshot(self):
        return self.pair.state

    @rule(state=snapshots)
    def restore(self, state):
        self.pair.load(state)

    @rule(data=st.data(), place=st.integers(0, 31), value=st.one_of(st.sampled_from(STRANGE), VALUES))
    def restore_changed(self, data, place, value):
        """One value of a snapshot is another one, which the register may or may not be able to hold."""
        self.pair.load_changed(data.draw(st.sampled_from(sorted(self.pair.state))), place, value)

    @rule(way=st.sampled_from(sorted(COPIES)))
    def replace_by_copies(self, way):
        self.pair.replace_by_copies(way)


TestRandomHistories = Agreement.TestCase
TestRandomHistories.settings = settings(stateful_step_count=60)


@settings(max_examples=2 * settings().max_examples)
@given(number=st.integers(0, ALL_ONES))
def test_numbered_histories(number):
    """Many histories that share nothing, each made from one number: no shrinking, but far more of them in the time."""
    draw = random.Random(number)
    cpu = model(draw.choice(vpmu.cpus()), dice_of(draw, 40))
    pair = Pair(cpu, draw.choice([None, 0, 7, draw.getrandbits(64)]))
    pair.set_up(dice_of(draw, 64))
    for _ in range(60):
        pair.act(dice_of(draw, 128))


WRONG_ARGUMENTS = {
    "rdmsr": [(), (-1,), (1 << 32,), ("0",), (0xC1, 2)],
    "wrmsr": [(0xC1,), (0xC1, -1), (0xC1, 1 << 64), (-1, 0), (0xC1, 0.0)],
    "rdpmc": [(1 << 32,), (-1,), (0, 4), (0, -1), (None,)],
    "count": [(), ([],), ({"instructions": 1.5},), ({1: 1},), ({}, -1), ({}, 0, -1), ({}, 1 << 64), ({}, 0, 1 << 70)],
    "set_mode": [(True,), (1, 1)],
    "smi": [(1,)],
    "execute": [(None,), ([],)],
}
WRONG_EVENTS = [5, [], {1: 1}, {"nothing": 1}, {"instructions": -1}, {"instructions": 1.5}, {"instructions": 1 << 64}]
WRONG_EVENTS += [
    {"r": 1},
    {"r0x1": 1},
    {"rC0": 1, "instructions": 1},
    {f"r{1 << 64:x}": 1},
    {"r10000": 1},
    {"R00C0": 1},
]
WRONG_KEYWORDS = {
    "per_cycle": [{"instructions": parts} for parts in (5, None, [], [0] * 17, [1], [1.5], [-1, 1], [0, 1 << 63], {})],
    "edges": WRONG_EVENTS,
    "sibling": [*WRONG_EVENTS, {"cycles": 1 << 58}],
    "sibling_cycles": [1, -1, 1 << 64, 1.5],
    "sibling_cpl": [4, -1, 1.5],
    "transaction": ["commit", "abort", "begin", True, ""],
    "flows": [5, [], {1: 1}, {"nothing": 1}, {"vmrun": -1}, {"vmrun": 1.5}, {"vmrun": 1 << 64}],
    "leaks": [5, [], {"0": 1}, {4: 1}, {16: 1}, {-1: 1}, {1 << 70: 1}, {0: -1}, {0: 1.5}, {0: 1 << 64}],
}


WRONG_CALLS = [(method, arguments, {}) for method, calls in WRONG_ARGUMENTS.items() for arguments in calls]
WRONG_CALLS += [("count", (events,), {}) for events in WRONG_EVENTS]
WRONG_CALLS += [("count", ({},), {name: value}) for name, values in WRONG_KEYWORDS.items() for value in values]


@pytest.mark.parametrize("name", ["skylake", "vermeer"])
@pytest.mark.parametrize(("method", "arguments", "keywords"), WRONG_CALLS)
def test_wrong_arguments(name, method, arguments, keywords):
    """The kinds of errors are the same."""
    Pair(vpmu.cpu(name), None).both(method, *arguments, **keywords)


@pytest.mark.parametrize("seed", [-1, 1 << 64, "0", 1.5])
def test_wrong_seeds(seed):
    core, plain = (outcome(kind, vpmu.cpu("skylake"), seed) for kind in (vpmu.Pmu, vpmu.reference.Pmu))
    assert core == plain
    assert core[0] == "raises"
