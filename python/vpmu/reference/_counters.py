"""A register file of counters, as the hardware, KVM's caches and the ideal PMU have it.

Counter n is GP counter n, counter 32 + m is fixed counter m, as in the bits of IA32_PERF_GLOBAL_CTRL
(Intel SDM vol. 3B, chapter "Performance Monitoring").
"""

from __future__ import annotations

from collections.abc import Mapping

from .._cpu import CpuModel
from .._events import EVENTS
from .._plan import NO_EVENT, Plan
from ._clocks import Rates, Step
from ._register import IN_TXCP
from ._selection import amd_codes

USR, OS, INT, EN = 1 << 16, 1 << 17, 1 << 20, 1 << 22
#: AMD: the counter counts in guest mode only (APM vol. 2, PERF_CTL).
GUEST_ONLY = 1 << 40
FIXED_OS, FIXED_USR, FIXED_PMI = 1, 2, 8
INSTRUCTIONS = EVENTS.index("instructions")

#: Events of fixed counters 0 to 3.
FIXED_EVENTS = tuple(EVENTS.index(name) for name in ("instructions", "cycles", "ref-cycles", "slots"))

#: Event select and unit mask of each event (SDM, "Pre-defined Architectural Performance Events"); that of
#: ref-cycles is Linux's pseudo-encoding of fixed counter 2.
ARCHITECTURAL = (0xC0, 0x3C, 0x0300, 0x013C, 0x4F2E, 0x412E, 0xC4, 0xC5, 0x01A4)

#: Selector bits that do not say which event is counted.
_HOW = USR | OS | INT | EN | GUEST_ONLY


def is_fixed(counter: int) -> bool:
    """Whether a counter is a fixed one."""
    return counter >= 32


def full_selector(code: int, user: bool, kernel: bool) -> int:
    """An event selector as perf writes it for a stopped counter: event, OS/USR and INT, EN clear."""
    return (code & ~_HOW) | (USR if user else 0) | (OS if kernel else 0) | INT


def nibble(user: bool, kernel: bool) -> int:
    """The four bits of IA32_FIXED_CTR_CTRL as perf writes them for a running fixed counter."""
    return (FIXED_USR if user else 0) | (FIXED_OS if kernel else 0) | FIXED_PMI


def event_codes(plan: Plan) -> dict[int, int]:
    """Map the event part of every selector that a run may write to its event index."""
    if plan.cpu.vendor == "amd":
        codes = {code: EVENTS.index(name) for code, name in amd_codes(plan.cpu).items() if name in EVENTS}
    else:
        codes = {code: event for event, code in enumerate(ARCHITECTURAL)}
    for guest in plan.guest_events:
        if not is_fixed(guest.counter):
            codes[guest.selector & ~_HOW] = guest.event
    for host in plan.host_events:
        codes[host.selector & ~_HOW] = host.event
    return codes


class Counters:
    """Counters with their selectors and global registers; everything is 0 at first.

    Parameters
    ----------
    model : CpuModel
        Which counters there are and how wide they are.
    codes : mapping of int to int
        Event index by the event part of a selector.
    """

    def __init__(self, model: CpuModel, codes: Mapping[int, int]) -> None:
        self.gp = [i for i in range(32) if model.gp_mask >> i & 1]
        self.fixed = [32 + m for m in range(32) if model.fixed_mask >> m & 1]
        self.all = self.gp + self.fixed
        self.all_bits = sum(1 << c for c in self.all)
        self._gp_width, self._fixed_width = model.gp_width, model.fixed_width
        self._codes = codes
        # No transaction is simulated whose counts IN_TXCP takes back; AMD's event select has that bit.
        self._how = _HOW if model.vendor == "amd" else _HOW | 1 << IN_TXCP
        self.counter = dict.fromkeys(self.all, 0)
        self.selector = dict.fromkeys(self.gp, 0)
        self.fixed_ctr_ctrl = 0
        #: All GP counters on at reset (SDM vol. 3A, processor state after reset), fixed ones off.
        self.global_ctrl = model.gp_mask
        self.status = 0
        #: Counters whose selector asks for what they cannot count.
        self.mute: set[int] = set()

    def modulus(self, c: int) -> int:
        """2 to the width of a counter."""
        return 1 << (self._fixed_width if is_fixed(c) else self._gp_width)

    def control(self, c: int) -> int:
        """What selects a counter's event: its selector, or its nibble of IA32_FIXED_CTR_CTRL."""
        return self.fixed_ctr_ctrl >> 4 * (c - 32) & 15 if is_fixed(c) else self.selector[c]

    def event(self, c: int) -> int:
        """The index of the event that a counter counts."""
        if is_fixed(c):
            return FIXED_EVENTS[c - 32]
        return self._codes.get(self.selector[c] & ~self._how, NO_EVENT)

    def levels(self, c: int) -> tuple[bool, bool]:
        """Whether a counter counts user code and kernel code."""
        control = self.control(c)
        if is_fixed(c):
            return bool(control & FIXED_USR), bool(control & FIXED_OS)
        return bool(control & USR), bool(control & OS)

    def interrupts(self, c: int) -> bool:
        """Whether an overflow of a counter requests a PMI."""
        return bool(self.control(c) & (FIXED_PMI if is_fixed(c) else INT))

    def locally_enabled(self, c: int) -> bool:
        """EN of the selector, or OS or USR of the nibble."""
        return bool(self.control(c) & ((FIXED_OS | FIXED_USR) if is_fixed(c) else EN))

    def enabled(self, c: int) -> bool:
        """Locally and globally enabled."""
        return bool(self.global_ctrl >> c & 1) and self.locally_enabled(c)

    def counts_level(self, c: int, cpl: int) -> bool:
        """Whether a counter counts at a privilege level."""
        user, kernel = self.levels(c)
        return user if cpl else kernel

    def write(self, register: str, c: int, value: int) -> None:
        """Write a register; ``c`` matters for ``counter`` and ``selector`` only."""
        if register == "counter":
            self.counter[c] = value % self.modulus(c)
        elif register == "selector":
            self.selector[c] = value
        elif register == "fixed_ctr_ctrl":
            self.fixed_ctr_ctrl = value
        elif register == "global_ctrl":
            self.global_ctrl = value
        elif register == "global_ovf_ctrl":
            self.status &= ~value
        else:
            raise ValueError(f"no register {register!r}")

    def counted(self, c: int, step: Step, rates: Rates) -> int:
        """What an enabled counter counts in a step."""
        user, kernel = self.levels(c)
        return 0 if c in self.mute else rates.count(self.event(c), step, user, kernel)

    def advance(self, step: Step, rates: Rates) -> list[int]:
        """Count a step; return the counters that wrapped, by index, GP before fixed."""
        wrapped = []
        if self.global_ctrl:
            for c in self.all:
                if self.enabled(c):
                    value = self.counter[c] + self.counted(c, step, rates)
                    self.counter[c] = value % self.modulus(c)
                    if value >= self.modulus(c):
                        wrapped.append(c)
        return wrapped

    def would_wrap(self, step: Step, rates: Rates) -> bool:
        """Whether any counter wraps in a step."""
        return any(
            self.enabled(c) and self.counter[c] + self.counted(c, step, rates) >= self.modulus(c) for c in self.all
        )

    def changed(self, register: str, c: int, value: int) -> list[int]:
        """Counters that KVM reprograms after this write: those whose control it changes."""
        if register == "selector":
            return [c] if value != self.selector[c] else []
        if register == "fixed_ctr_ctrl":
            change = value ^ self.fixed_ctr_ctrl
            return [f for f in self.fixed if change >> 4 * (f - 32) & 15]
        if register == "global_ctrl":
            change = value ^ self.global_ctrl
            return [i for i in self.all if change >> i & 1]
        return []
