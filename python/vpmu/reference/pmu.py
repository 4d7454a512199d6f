"""The PMU of one logical CPU: counting, overflow, PMI, RDPMC (Intel SDM vol. 3B, chapter 18, edition 059)."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._cpu import CpuModel
from .._errors import GeneralProtectionFault, ScenarioError, UnknownName
from .registers import (
    ANY,
    CTR_FRZ,
    EDGE,
    EN,
    IN_TX,
    IN_TXCP,
    INT,
    LVTPC_MASKED,
    LVTPC_MODES,
    METRICS_AVAILABLE,
    OS,
    USR,
    RegisterFile,
    bits,
    has_capability,
    indices,
    ones,
)

#: An operation of :meth:`Pmu.execute`. ``op``: 0 RDMSR, 1 WRMSR, 2 RDPMC; ``flags`` bit 0: count it itself.
OP_DTYPE = np.dtype(
    [
        *(("op", np.uint8), ("flags", np.uint8), ("cpl", np.uint8), ("cr4_pce", np.uint8)),
        *(("address", np.uint32), ("value", np.uint64)),
    ],
    align=True,
)
#: What an operation returned; ``value`` is 0 for WRMSR and for an operation that raised #GP(0).
RESULT_DTYPE = np.dtype([("value", np.uint64), ("fault", np.uint8)], align=True)

#: Version of :meth:`Pmu.state`, and the bound of its cycle clock.
STATE_VERSION = 1
MAX_CYCLES = 1 << 58

EVENTS = (
    *("instructions", "cycles", "ref-cycles", "bus-cycles", "cache-references", "cache-misses"),
    *("branches", "branch-misses", "slots"),
)
#: Event select and unit mask of the events (SDM vol. 3B 18.2.1.2); slots only where fixed counter 3 exists.
SELECTED_EVENTS = {
    (0xC0, 0x00): "instructions",
    (0x3C, 0x00): "cycles",
    (0x3C, 0x01): "bus-cycles",
    (0x2E, 0x4F): "cache-references",
    (0x2E, 0x41): "cache-misses",
    (0xC4, 0x00): "branches",
    (0xC5, 0x00): "branch-misses",
    (0xA4, 0x01): "slots",
}
FIXED_EVENTS = ("instructions", "cycles", "ref-cycles", "slots")


class Pmi(NamedTuple):
    """A PMI as delivered: mode ``"fixed"``, ``"nmi"`` or ``"smi"``, and the vector field of LVTPC."""

    mode: str
    vector: int


class Pmu:
    """The PMU of one logical CPU, as after RESET.

    Parameters
    ----------
    cpu : CpuModel
        What the PMU has.
    """

    def __init__(self, cpu: CpuModel) -> None:
        self._cpu = cpu
        self._registers = RegisterFile(cpu)
        self._pmi_pending = False
        self._cycles = 0

    @property
    def cpu(self) -> CpuModel:
        """The CPU model."""
        return self._cpu

    @property
    def pmi_pending(self) -> bool:
        """Whether a PMI waits to be taken."""
        return self._pmi_pending

    def rdmsr(self, msr: SupportsIndex) -> int:
        """Execute RDMSR at CPL 0.

        Parameters
        ----------
        msr : int
            Address, as in ECX.

        Returns
        -------
        int

        Raises
        ------
        GeneralProtectionFault
            If there is no such MSR.
        """
        return self._registers.read(_unsigned(msr, 32, "msr"))

    def wrmsr(self, msr: SupportsIndex, value: SupportsIndex) -> None:
        """Execute WRMSR at CPL 0.

        Parameters
        ----------
        msr : int
            Address, as in ECX.
        value : int
            EDX:EAX.

        Raises
        ------
        GeneralProtectionFault
            If there is no such MSR or it cannot take the value; nothing has changed then.
        """
        self._registers.write(_unsigned(msr, 32, "msr"), _unsigned(value, 64, "value"))

    def rdpmc(self, ecx: SupportsIndex, cpl: SupportsIndex = 0, cr4_pce: bool = True) -> int:
        """Execute RDPMC in protected mode (SDM vol. 2B, RDPMC).

        Parameters
        ----------
        ecx : int
            Type in bits 31:16 (0 general-purpose, 4000H fixed, 2000H PERF_METRICS), index in bits 15:0.
        cpl : int
            Current privilege level.
        cr4_pce : bool
            CR4.PCE: RDPMC is allowed at any privilege level.

        Returns
        -------
        int
            EDX:EAX.

        Raises
        ------
        GeneralProtectionFault
            Without permission or if there is no such counter; its `msr` is ECX.
        """
        number = _unsigned(ecx, 32, "ecx")
        if _privilege(cpl) > 0 and not cr4_pce:
            raise GeneralProtectionFault(number, None, "RDPMC above CPL 0 needs CR4.PCE")
        kind, index = number >> 16, number & 0xFFFF
        if kind == 0 and index in indices(self._cpu.gp_mask):
            return self._registers.counters[index]
        if kind == 0x4000 and index in indices(self._cpu.fixed_mask):
            return self._registers.fixed[index]
        if kind == 0x2000 and index == 0 and has_capability(self._cpu, METRICS_AVAILABLE):
            return self._registers.perf_metrics
        raise GeneralProtectionFault(number, None, "RDPMC has no such counter")

    def execute(self, ops: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Execute RDMSR, WRMSR and RDPMC instructions; one that faults does not stop the others.

        Parameters
        ----------
        ops : ndarray of OP_DTYPE
            One-dimensional. With bit 0 of ``flags`` the instruction is itself counted, as one retired
            instruction after its effect (so the WRMSR that enables a counter is counted and the one that
            disables it is not), unless it faults.

        Returns
        -------
        ndarray of RESULT_DTYPE

        Raises
        ------
        ValueError
            For an unknown ``op`` or a ``cpl`` above 3, before anything is executed; and where :meth:`count`
            refuses to count an instruction, after its effect.
        """
        if not isinstance(ops, np.ndarray) or ops.dtype != OP_DTYPE:
            raise TypeError("ops must be an array of OP_DTYPE")
        if ops.ndim != 1:
            raise ScenarioError(f"ops must have one dimension, not {ops.ndim}")
        for name, most in (("op", 2), ("cpl", 3)):
            if np.any(ops[name] > most):
                raise ScenarioError(f"{name} of an operation must be 0 to {most}, not {ops[name].max()}")
        results = np.zeros(len(ops), RESULT_DTYPE)
        for result, (op, flags, cpl, cr4_pce, address, value) in zip(results, ops.tolist(), strict=True):
            try:
                result["value"] = self._execute_one(op, cpl, cr4_pce, address, value)
            except GeneralProtectionFault:
                result["fault"] = 1
            else:
                if flags & 1:
                    self.count({"instructions": 1}, cpl=cpl)
        return results

    def _execute_one(self, op: int, cpl: int, cr4_pce: int, address: int, value: int) -> int:
        if op == 2:
            return self.rdpmc(address, cpl, cr4_pce != 0)
        if cpl > 0:
            raise GeneralProtectionFault(address, None, "RDMSR and WRMSR need CPL 0")
        if op == 0:
            return self.rdmsr(address)
        self.wrmsr(address, value)
        return 0

    def count(self, events: Mapping[str, int], cycles: SupportsIndex = 0, cpl: SupportsIndex = 0) -> None:
        """Let events occur at one privilege level, under the present settings.

        Parameters
        ----------
        events : mapping of str to int
            Occurrences by perf's event names.
        cycles : int
            Unhalted core cycles. ``ref-cycles``, ``bus-cycles`` and ``slots`` follow, unless `events` has
            them.
        cpl : int
            Current privilege level.

        Raises
        ------
        UnknownName
            For an event that is none of :data:`EVENTS`.
        ValueError
            For a negative number, for cycles given twice, for a `cpl` that does not exist, and if a counter
            that is enabled at this `cpl` needs to know what happens in each single cycle. Nothing has changed
            then.
        OverflowError
            If a number is 2**64 or more, or the sum of all cycles would reach 2**58.
        """
        amounts = {}
        for name, number in events.items():
            if name not in EVENTS:
                raise UnknownName("event", name, EVENTS)
            amounts[name] = _occurrences(number, name)
        elapsed = _occurrences(cycles, "cycles")
        if "cycles" in amounts:
            if elapsed:
                raise ScenarioError("cycles are given twice: as an event and as cycles=")
            elapsed = amounts["cycles"]
        level = _privilege(cpl)
        if self._cycles + elapsed >= MAX_CYCLES:
            raise OverflowError("a PMU counts fewer than 2**58 cycles in all")
        counting = [x for x in indices(self._cpu.gp_mask) if self._gp_counts(x, level)]
        for x in counting:
            self._refuse_distribution(x)
        for m in indices(self._cpu.fixed_mask):
            if self._fixed_counts(m, level) and self._registers.fixed_ctr_ctrl >> (4 * m + 2) & 1:
                raise ScenarioError(
                    f"FIXED_CTR{m}: AnyThread needs what the sibling thread does, which is not available yet"
                )
        amounts = self._clocked(elapsed) | amounts
        self._cycles += elapsed
        registers = self._registers
        for x in counting:
            total = registers.counters[x] + amounts.get(self._selected_event(x), 0)
            registers.counters[x] = total & ones(self._cpu.gp_width)
            if total >> self._cpu.gp_width:
                self._overflow(x, registers.selectors[x] >> INT & 1)
        for m in indices(self._cpu.fixed_mask):
            if self._fixed_counts(m, level):
                total = registers.fixed[m] + amounts.get(FIXED_EVENTS[m], 0)
                registers.fixed[m] = total & ones(self._cpu.fixed_width)
                if total >> self._cpu.fixed_width:
                    self._overflow(32 + m, registers.fixed_ctr_ctrl >> (4 * m + 3) & 1)

    def _gp_counts(self, x: int, cpl: int) -> bool:
        """Whether a general-purpose counter is enabled at this CPL (SDM vol. 3B 18.2.1.1, 18.2.2)."""
        selector = self._registers.selectors[x]
        privilege = selector >> (OS if cpl == 0 else USR)
        return bool(selector >> EN & privilege & self._registers.global_ctrl >> x & 1) and not self._frozen()

    def _fixed_counts(self, m: int, cpl: int) -> bool:
        """Whether a fixed counter is enabled at this CPL (SDM vol. 3B 18.2.2)."""
        privilege = self._registers.fixed_ctr_ctrl >> (4 * m if cpl == 0 else 4 * m + 1)
        return bool(privilege & self._registers.global_ctrl >> (32 + m) & 1) and not self._frozen()

    def _frozen(self) -> bool:
        """Whether CTR_FRZ, which exists from version 4 on, stops every counter (SDM vol. 3B 18.2.4.1)."""
        return bool(self._registers.global_status >> CTR_FRZ & 1)

    def _refuse_distribution(self, x: int) -> None:
        """Raise ValueError if sums of occurrences do not say how far a counter advances.

        INV without CMASK is ignored, and with CMASK it is CMASK that is refused (SDM vol. 3B 18.2.1.1).
        """
        selector = self._registers.selectors[x]
        if selector >> 24 & 0xFF or selector & bits(EDGE, ANY, IN_TX, IN_TXCP):
            raise ScenarioError(
                f"PMC{x}, selector {selector:#x}: CMASK, edge detection, AnyThread and IN_TX need a "
                "distribution per cycle (per_cycle), which is not available yet"
            )

    def _selected_event(self, x: int) -> str:
        """Name of the event of a general-purpose counter; empty for one that never occurs."""
        selector = self._registers.selectors[x]
        event = SELECTED_EVENTS.get((selector & 0xFF, selector >> 8 & 0xFF), "")
        return "" if event == "slots" and not self._cpu.fixed_mask >> 3 & 1 else event

    def _clocked(self, elapsed: int) -> dict[str, int]:
        """Occurrences of the events that follow the core clock while it advances by `elapsed`.

        They are differences of a function of the clock, so that however cycles are cut the sums are equal.
        """

        def ticks(hz: int) -> int:
            core_hz = self._cpu.core_hz.value
            rate = ((hz << 33) + core_hz) // (2 * core_hz)  # in 2**-32 per cycle, halves rounded up
            return (rate * (self._cycles + elapsed) >> 32) - (rate * self._cycles >> 32)

        return {
            "cycles": elapsed,
            "ref-cycles": ticks(self._cpu.tsc_hz.value),
            "bus-cycles": ticks(self._cpu.bus_cycles_hz.value),
            "slots": elapsed * self._cpu.slots_per_cycle,
        }

    def _overflow(self, status_bit: int, interrupts: int) -> None:
        """Set a bit of STATUS, and if the counter interrupts, latch a PMI unless LVTPC is masked."""
        self._registers.global_status |= bits(status_bit)
        if interrupts and not self._registers.lvtpc >> LVTPC_MASKED & 1:
            self._pmi_pending = True

    def take_pmi(self) -> Pmi | None:
        """Deliver the PMI that is pending, if any, which masks LVTPC (SDM vol. 3A 10.5.1).

        Returns
        -------
        Pmi or None
        """
        if not self._pmi_pending:
            return None
        lvtpc = self._registers.lvtpc
        self._pmi_pending = False
        self._registers.lvtpc = lvtpc | bits(LVTPC_MASKED)
        return Pmi(LVTPC_MODES[lvtpc >> 8 & 7], lvtpc & 0xFF)

    def state(self) -> dict[str, object]:
        """Take a snapshot.

        Returns
        -------
        dict
            Integers, strings and tuples of integers; in ``counters``, ``fixed`` and ``selectors``, counter x
            has place x.
        """
        own = {"version": STATE_VERSION, "cpu": self._cpu.name, "cycles": self._cycles}
        return {**own, "pmi_pending": int(self._pmi_pending), **self._registers.state()}

    @classmethod
    def from_state(cls, cpu: CpuModel, state: Mapping[str, object]) -> Self:
        """Make a PMU from a snapshot.

        Parameters
        ----------
        cpu : CpuModel
            The CPU model of the PMU that the snapshot is of.
        state : mapping
            What :meth:`state` returned.

        Returns
        -------
        Pmu

        Raises
        ------
        ValueError
            If the snapshot has another version, CPU or shape, or a value that a register cannot hold.
        """
        pmu = cls(cpu)
        expected = pmu.state()
        for name in ("version", "cpu"):
            if name in state and state[name] != expected[name]:
                raise ScenarioError(f"state: {name} is {state[name]!r} and must be {expected[name]!r}")
        odd = sorted(state.keys() ^ expected.keys(), key=str)
        if odd:
            raise ScenarioError(f"state: missing or unknown keys: {odd}")
        pmu._registers.load(state)
        pending, cycles = state["pmi_pending"], state["cycles"]
        if not isinstance(pending, int) or pending not in (0, 1):
            raise ScenarioError(f"state: pmi_pending must be 0 or 1, not {pending!r}")
        if not isinstance(cycles, int) or not 0 <= cycles < MAX_CYCLES:
            raise ScenarioError(f"state: cycles must be an integer in [0, 2**58), not {cycles!r}")
        pmu._pmi_pending, pmu._cycles = bool(pending), cycles
        return pmu

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self._cpu, self.state())


def _unsigned(number: SupportsIndex, width: int, name: str) -> int:
    value = operator.index(number)
    if not 0 <= value < 1 << width:
        raise OverflowError(f"{name} must be an integer in [0, 2**{width}), not {value}")
    return value


def _occurrences(number: SupportsIndex, name: str) -> int:
    value = operator.index(number)
    if value < 0:
        raise ScenarioError(f"{name} must not be negative: {value}")
    return _unsigned(value, 64, name)


def _privilege(cpl: SupportsIndex) -> int:
    level = operator.index(cpl)
    if not 0 <= level <= 3:
        raise ScenarioError(f"cpl must be 0 to 3, not {level}")
    return level
