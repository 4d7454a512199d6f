"""What happens in one count(): counters advance, wrap, freeze and interrupt; IA32_PERF_METRICS follows."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from .._cpu import CpuModel
from ._amd_registers import STATUS_RESERVED
from ._metrics import METRIC_EVENTS, fields_of, levels
from ._modes import Modes
from ._occasion import MAX_CYCLES, Occasion
from ._pmi import LocalApic
from ._register import (
    CTR_FRZ,
    FIXED_PMI,
    FREEZE_LBRS,
    FREEZE_PERFMON,
    INT,
    IRPERF_EN,
    LBR,
    LBR_FRZ,
    METRICS_AVAILABLE,
    OVF_METRICS,
    bits,
    check_bits,
    check_integer,
    has_capability,
    indices,
    ones,
)
from ._selection import Selection
from ._shares import BORROWED, Share, Shares
from .registers import RegisterFile

#: Bits of IA32_PERF_GLOBAL_STATUS of the fixed counters 2 and 3.
REF_CYCLES, SLOTS = 34, 35


class Counting:
    """The counters of one PMU as they advance.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
    modes : Modes
    selection : Selection
    shares : Shares
    apic : LocalApic
    """

    def __init__(
        self,
        cpu: CpuModel,
        registers: RegisterFile,
        modes: Modes,
        selection: Selection,
        shares: Shares,
        apic: LocalApic,
    ) -> None:
        self._cpu = cpu
        self._registers = registers
        self._modes = modes
        self._selection = selection
        self._shares = shares
        self._apic = apic
        self.cycles = 0
        #: Counters that the latest count() moved: GP x is bit x, fixed m is bit 16 + m.
        self.in_flight = 0
        self._reftsc_latch = False

    def count(self, occasion: Occasion) -> None:
        """Let something occur; if it cannot be said what a counter counts, raise ValueError and change nothing."""
        shares = self._shares.deal(occasion, self._modes.guest)
        for share in shares:
            if max(share.got, share.spurious) >> 64:
                raise OverflowError(f"what a counter gets must be below 2**64, not {max(share.got, share.spurious)}")
        metrics = self._selection.metrics_count(occasion.cpl)
        fields_on = self._registers.global_ctrl >> OVF_METRICS & 1
        wraps = [self._when(share.place, share.got) for share in shares if self._interrupts(share.place)]
        first = min((when for when in wraps if when <= 1), default=None)
        spurious = min((self._when(s.place, s.spurious) for s in shares), default=Fraction(2))
        cut = first if first is not None and self._freezes_at_once() else Fraction(1)

        if self._shares.borrowed(occasion):
            self._registers.counters[BORROWED] = 0
        moved = [Share(share.place, share.got * cut.numerator // cut.denominator) for share in shares]
        wrapped = [share.place for share in moved if self._advance(share)]
        self.in_flight = sum(bits(_flight_bit(share.place)) for share in moved if share.got)
        self._set_status(wrapped, bool(fields_on))
        self._move_metrics(occasion, metrics, cut, bool(self.in_flight >> (16 + 3) & 1))
        if self._registers.hwcr >> IRPERF_EN & 1:
            self._registers.irperf = (self._registers.irperf + occasion.amounts.get("instructions", 0)) & ones(64)
        if first is not None and "freeze_late" not in self._cpu.quirks:
            self._freeze()

        again = self._repeat_ref_overflow(REF_CYCLES in wrapped)
        requests = [
            when for when in (first, spurious, Fraction(1) if again else None) if when is not None and when <= 1
        ]
        if requests:
            when = min(requests)
            self._apic.request(self.cycles + occasion.cycles * when.numerator // when.denominator)
        self.cycles += occasion.cycles
        if self._apic.arrive(self.cycles) and "freeze_late" in self._cpu.quirks:
            self._freeze()

    def _when(self, place: int, got: int) -> Fraction:
        """Part of a count after which a counter wraps; more than 1 if it does not."""
        value, width = self._value(place)
        return Fraction((1 << width) - value, got) if got else Fraction(2)

    def _interrupts(self, place: int) -> bool:
        if place >= 32:
            return bool(self._registers.fixed_ctr_ctrl >> (4 * (place - 32) + FIXED_PMI) & 1)
        return bool(self._registers.selectors[place] >> INT & 1)

    def _value(self, place: int) -> tuple[int, int]:
        """Value and width of a counter; a merged pair of AMD's is one of 64 bits."""
        registers = self._registers
        if place >= 32:
            return registers.fixed[place - 32], self._cpu.fixed_width
        if self._selection.merged(place):
            return (registers.counters[place + 1] & ones(16)) << 48 | registers.counters[place], 64
        return registers.counters[place], self._cpu.gp_width

    def _advance(self, share: Share) -> bool:
        """Advance a counter and return whether it wrapped; it goes on from 0 (SDM vol. 3B 18.2.2)."""
        registers = self._registers
        value, width = self._value(share.place)
        total = value + share.got
        kept = total & ones(width)
        if share.place >= 32:
            registers.fixed[share.place - 32] = kept
        elif self._selection.merged(share.place):
            registers.counters[share.place] = kept & ones(48)
            high = registers.counters[share.place + 1]
            registers.counters[share.place + 1] = high & ~ones(16) | kept >> 48
        else:
            registers.counters[share.place] = kept
        return total >> width != 0

    def _set_status(self, wrapped: list[int], metrics_on: bool) -> None:
        """Set the status bits of counters that wrapped, whether they interrupt or not."""
        if self._cpu.version < 2 or not wrapped:
            return
        status = bits(*wrapped)
        if SLOTS in wrapped and metrics_on and has_capability(self._cpu, METRICS_AVAILABLE):
            status |= bits(OVF_METRICS)
        if self._cpu.vendor == "amd" and "zen4_status_rsvd" in self._cpu.quirks:
            status |= bits(STATUS_RESERVED)
        self._registers.global_status |= status

    def _move_metrics(self, occasion: Occasion, counts: bool, cut: Fraction, slots_moved: bool) -> None:
        if not counts:
            return
        registers, moved = self._registers, slots_moved
        for i in range(levels(self._cpu)):
            got = occasion.amounts.get(METRIC_EVENTS[i], 0) * cut.numerator // cut.denominator
            registers.metrics_slots[i] = (registers.metrics_slots[i] + got) & ones(64)
            moved = moved or got > 0
        if moved:
            registers.perf_metrics = fields_of(
                self._cpu, registers.perf_metrics, registers.metrics_slots, registers.slots
            )

    def _repeat_ref_overflow(self, overflowed: bool) -> bool:
        """Let the slower clock of fixed counter 2 set its status bit once more; return whether that interrupts."""
        if "reftsc_sticky_ovf" not in self._cpu.quirks:
            return False
        if overflowed:
            self._reftsc_latch = True
        moved = self.in_flight >> (16 + 2) & 1
        if not self._reftsc_latch or not moved or self._registers.global_status >> REF_CYCLES & 1:
            return False
        self._registers.global_status |= bits(REF_CYCLES)
        self._reftsc_latch = False
        return self._interrupts(REF_CYCLES)

    def _can_freeze(self) -> bool:
        """Whether there is anything that freezing could set; AMD's flag without a status has no effect."""
        return self._cpu.version >= 2

    def _freezes_at_once(self) -> bool:
        """Whether a counter that interrupts stops all when it wraps (Linux 3daa96d67274: not at the delivery)."""
        frozen = self._registers.debugctl >> FREEZE_PERFMON & 1
        return bool(frozen) and self._can_freeze() and "freeze_late" not in self._cpu.quirks

    def _freeze(self) -> None:
        """Freeze what IA32_DEBUGCTL asks for (SDM vol. 3B 17.4.7 and, from version 4 on, 18.2.4.1)."""
        registers = self._registers
        if not self._can_freeze():
            return
        legacy = self._cpu.vendor == "intel" and self._cpu.version < 4
        if registers.debugctl >> FREEZE_PERFMON & 1:
            if legacy:
                registers.global_ctrl = 0
            else:
                registers.global_status |= bits(CTR_FRZ)
        if registers.debugctl >> FREEZE_LBRS & 1:
            if legacy:
                registers.debugctl &= ~bits(LBR)
            else:
                registers.global_status |= bits(LBR_FRZ)

    def state(self) -> dict[str, object]:
        """Return every value by name."""
        return {"reftsc_latch": int(self._reftsc_latch), "in_flight": self.in_flight, "cycles": self.cycles}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state` returned; raise ValueError for what cannot be."""
        can_latch = "reftsc_sticky_ovf" in self._cpu.quirks and bool(self._cpu.fixed_mask >> 2 & 1)
        self._reftsc_latch = bool(check_integer("reftsc_latch", state["reftsc_latch"], 0, int(can_latch)))
        counters = sum(bits(_flight_bit(32 + m)) for m in indices(self._cpu.fixed_mask)) | self._cpu.gp_mask
        self.in_flight = check_bits("in_flight", state["in_flight"], counters)
        self.cycles = check_integer("cycles", state["cycles"], 0, MAX_CYCLES - 1)


def _flight_bit(place: int) -> int:
    return place if place < 32 else place - 16
