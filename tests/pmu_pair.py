"""The compiled PMU and the readable one side by side: the same calls on both, compared after every one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
from pmu_histories import counter_write, counting, selector_address, settings_of
from pmu_strategies import ALL_ONES, BITS, MSRS, Dice, indices, outcome, say, usual_msrs

import vpmu
import vpmu.reference

RDMSR, WRMSR, RDPMC = range(3)
COPIES = {
    "copy.copy(pmu)": copy.copy,
    "copy.deepcopy(pmu)": copy.deepcopy,
    "pickle.loads(pickle.dumps(pmu))": lambda pmu: pickle.loads(pickle.dumps(pmu)),
}


class Pair:
    """Both PMUs of one CPU model. What is done to them is noted as Python, for a failure's report.

    Parameters
    ----------
    cpu : CpuModel
    seed : int or None
        Of the skids.
    """

    def __init__(self, cpu, seed):
        say(f"pmu = vpmu.Pmu(cpu, seed={seed})")
        self.cpu = cpu
        self.core, self.plain = vpmu.Pmu(cpu, seed), vpmu.reference.Pmu(cpu, seed)
        self.compare(None, None)
        self.snapshot = self.state

    def compare(self, core, plain):
        """Both did the same and are in the same state."""
        assert core == plain
        self.state = self.core.state()
        assert self.state == self.plain.state()
        assert self.core.pmi_pending == self.plain.pmi_pending

    def both(self, name, *arguments, **keywords):
        """Call a method of both and compare what comes of it."""
        words = [*map(repr, arguments), *(f"{key}={value!r}" for key, value in keywords.items())]
        say(f"pmu.{name}({', '.join(words)})")
        core = outcome(getattr(self.core, name), *arguments, **keywords)
        self.compare(core, outcome(getattr(self.plain, name), *arguments, **keywords))

    def run(self, ops):
        """Execute a batch on both."""
        for op in ops:
            say(f"execute({', '.join(map(hex, op))})")
        batch = np.array(ops, vpmu.reference.OP_DTYPE)
        core, plain = (outcome(lambda pmu: pmu.execute(batch).tolist(), pmu) for pmu in (self.core, self.plain))
        self.compare(core, plain)

    def write(self, writes):
        """Write many MSRs, of which some may fault, and compare once."""
        self.run([(WRMSR, 0, 0, 0, msr, value & ALL_ONES) for msr, value in writes])

    def load(self, state):
        """Replace both by what a state says, if both can hold it."""
        say(f"pmu = vpmu.Pmu.from_state(cpu, {state})")
        classes = vpmu.Pmu, vpmu.reference.Pmu
        (what, core, *_), (plain_what, plain, *_) = (outcome(kind.from_state, self.cpu, state) for kind in classes)
        assert what == plain_what
        if what == "returns":
            self.core, self.plain = core, plain
            core = plain = None
        self.compare(core, plain)

    def load_changed(self, key, place, value):
        """Load the present state with one value changed."""
        old = self.state[key]
        if isinstance(old, tuple) and old and not isinstance(value, tuple):
            value = (*old[: place % len(old)], value, *old[place % len(old) + 1 :])
        self.load(self.state | {key: value})

    def replace_by_copies(self, way):
        say(f"pmu = {way}")
        self.core, self.plain = COPIES[way](self.core), COPIES[way](self.plain)
        self.compare(None, None)

    def set_up(self, roll):
        """Set every counter up, near its overflow, and enable most."""
        if self.cpu.vendor == "amd" and roll.rarely(2):
            svme = roll.pick(True, True, False)
            self.both("set_mode", svme=svme, guest=svme and roll.pick(True, False))
        self.write(settings_of(self.cpu, roll))

    def count(self, roll):
        """Count what mostly fits the settings."""
        events, keywords = counting(self.cpu, self.state, roll)
        self.both("count", events, **keywords)

    def arm(self, roll):
        """Bring counters near their overflow, acknowledge what has happened, and unmask LVTPC."""
        cpu = self.cpu
        status, control = (0xC000_0302, 0xC000_0301) if cpu.vendor == "amd" else (0x390, 0x38F)
        writes = [counter_write(cpu, x, 1 + roll.below(16)) for x in indices(cpu.gp_mask)]
        writes += [(0x309 + m, (1 << cpu.fixed_width) - 1 - roll.below(16)) for m in indices(cpu.fixed_mask)]
        writes += [(status, self.state["global_status"]), (0x834, roll.pick(4, 0, 2) << 8 | roll.below(256))]
        self.write([*writes, (control, cpu.gp_mask | cpu.fixed_mask << 32 | self.state["global_ctrl"])])

    def switch_a_counter(self, roll):
        """Toggle enable, INT or the privilege of one counter."""
        x = roll.pick(*indices(self.cpu.gp_mask))
        self.both("wrmsr", selector_address(self.cpu, x), self.state["selectors"][x] ^ roll.pick(1, 16, 2, 3, 64) << 16)

    def read_all(self, roll):
        """RDPMC of every counter, mostly right after something was counted."""
        cpl = roll.pick(0, 3)
        for x in indices(self.cpu.gp_mask):
            self.both("rdpmc", x, cpl)
        for m in indices(self.cpu.fixed_mask):
            self.both("rdpmc", 0x4000_0000 | m, cpl)
        self.both("rdpmc", 0x2000_0000)

    def status(self, roll):
        """Acknowledge overflows as a handler does, or set and clear the status bits that freeze."""
        set_it, clear_it = (0xC000_0303, 0xC000_0302) if self.cpu.vendor == "amd" else (0x391, 0x390)
        frozen = roll.below(4) << 58
        msr, value = roll.pick((clear_it, self.state["global_status"]), (set_it, frozen), (clear_it, frozen))
        self.both("wrmsr", msr, value)

    def interrupts(self, roll):
        """Take PMIs, as many as can be pending and one more; or write LVTPC; or let time pass until one arrives."""
        kind = roll.below(5)
        if kind == 0:
            self.both("take_pmi", roll.pick(True, False), roll.pick(False, True))
        elif kind == 1:
            for _ in range(3):
                self.both("take_pmi")
        elif kind == 2:
            self.both("wrmsr", 0x834, roll.pick(0, 0, 1) << 16 | roll.pick(4, 0, 2, 1) << 8 | roll.below(256))
        else:
            self.both("count", {}, cycles=roll.pick(0, 5, 300, 1), cpl=roll.pick(0, 3))

    def modes(self, roll):
        """System management mode, SVM and guest mode."""
        kind = roll.below(4)
        if kind < 2:
            self.both(("smi", "rsm")[kind])
        else:
            self.both("set_mode", svme=roll.pick(None, False, True), guest=roll.pick(None, False, True))

    def access(self, roll):
        """Write or read a register or a counter at random."""
        msr = roll.pick(roll.pick(*usual_msrs(self.cpu)), roll.pick(*MSRS))
        kind = roll.below(4)
        if kind == 0:
            self.both("rdmsr", msr)
        elif kind == 1:
            cpl, pce, pe = roll.pick(0, 3, 1), roll.pick(True, False), roll.pick(True, False)
            self.both("rdpmc", roll.pick(0, 0x4000, 0x2000, 0x8000) << 16 | roll.below(32), cpl, pce, pe)
        elif kind == 2:
            self.both("wrmsr", msr, roll.pick(roll.pick(*BITS), roll.below(1 << 64), roll.below(1 << 16), ALL_ONES))
        else:
            ops = [(roll.below(3), roll.below(2), roll.pick(0, 0, 3), 1, msr, roll.pick(*BITS)) for _ in range(3)]
            self.run([*ops, (RDPMC, 1, roll.pick(0, 3), roll.below(2), roll.below(8), 0)])

    def storage(self, roll):
        """Copies, snapshots, and snapshots with a value that the register may or may not be able to hold."""
        kind = roll.below(5)
        if kind == 0:
            self.replace_by_copies(roll.pick(*COPIES))
        elif kind == 1:
            self.snapshot = self.state
        elif kind == 2:
            self.load(self.snapshot)
        else:
            value = roll.pick(*STRANGE, roll.pick(*BITS), roll.below(1 << 16), roll.below(1 << 64))
            self.load_changed(roll.pick(*sorted(self.state)), roll.below(64), value)

    def act(self, roll):
        """Do one thing or a few: mostly count."""
        kind = roll.below(32)
        if kind < 14:
            self.count(roll)
        elif kind < 18:
            self.set_up(roll)
            self.count(roll)
        elif kind < 21:
            self.arm(roll)
            self.count(roll)
        else:
            others = (self.switch_a_counter, self.read_all, self.status, self.interrupts, self.modes, self.access)
            roll.pick(*others, self.storage, self.interrupts)(roll)


#: Values of a state that most keys cannot have.
STRANGE = (None, -1, 2, 3, 1 << 58, 1 << 64, "0", (), True)


def dice_of(draw, size):
    """Dice of that many bytes, from a generator of Python's."""
    return Dice(draw.randbytes(size))
