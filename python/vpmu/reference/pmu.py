"""The PMU of one logical CPU: its registers, counting, interrupts and RDPMC (SDM vol. 3B; APM vol. 2 13.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._cpu import CpuModel
from .._errors import GeneralProtectionFault, ScenarioError
from ._counting import Counting
from ._modes import Modes
from ._occasion import Numbers, Reader, privilege, unsigned
from ._pmi import LocalApic, Pmi
from ._rdpmc import rdpmc
from ._selection import EVENTS, Events, Selection
from ._shares import Shares
from .registers import RegisterFile

__all__ = ["EVENTS", "OP_DTYPE", "RESULT_DTYPE", "STATE_VERSION", "Pmi", "Pmu"]

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

#: Version of :meth:`Pmu.state`.
STATE_VERSION = 2


class Pmu:
    """The PMU of one logical CPU, as after RESET.

    Parameters
    ----------
    cpu : CpuModel
        What the PMU has.
    seed : int, optional
        Of the random skids of PMIs, in [0, 2**64); without it a PMI arrives at once.
    """

    def __init__(self, cpu: CpuModel, seed: SupportsIndex | None = None) -> None:
        self._cpu = cpu
        self._registers = RegisterFile(cpu)
        self._modes = Modes(cpu, self._registers)
        self._apic = LocalApic(cpu, self._registers, None if seed is None else unsigned(seed, 64, "seed"))
        events = Events(cpu)
        selection = Selection(cpu, self._registers, self._modes)
        shares = Shares(cpu, self._registers, events, selection)
        self._reader = Reader(cpu, events, self._registers)
        self._counting = Counting(cpu, self._registers, self._modes, selection, shares, self._apic)

    @property
    def cpu(self) -> CpuModel:
        """The CPU model."""
        return self._cpu

    @property
    def pmi_pending(self) -> bool:
        """Whether a PMI waits to be taken."""
        return self._apic.pending

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
        return self._registers.read(unsigned(msr, 32, "msr"))

    def wrmsr(self, msr: SupportsIndex, value: SupportsIndex) -> None:
        """Execute WRMSR at CPL 0, which waits until every counter is up to date.

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
        self._registers.write(unsigned(msr, 32, "msr"), unsigned(value, 64, "value"))
        self._counting.in_flight = 0

    def rdpmc(self, ecx: SupportsIndex, cpl: SupportsIndex = 0, cr4_pce: bool = True, cr0_pe: bool = True) -> int:
        """Execute RDPMC (SDM vol. 2B, RDPMC).

        Parameters
        ----------
        ecx : int
            Intel: type in bits 31:16 (0 general-purpose, 4000H fixed, 2000H PERF_METRICS), index in bits 15:0.
            AMD: a counter's number.
        cpl : int
            Current privilege level.
        cr4_pce : bool
            CR4.PCE: RDPMC is allowed at any privilege level.
        cr0_pe : bool
            CR0.PE: protected mode; in real mode RDPMC is always allowed.

        Returns
        -------
        int
            EDX:EAX.

        Raises
        ------
        GeneralProtectionFault
            Without permission or if there is no such counter; its `msr` is ECX.
        """
        number, level = unsigned(ecx, 32, "ecx"), privilege(cpl, "cpl")
        if level > 0 and not cr4_pce and cr0_pe:
            raise GeneralProtectionFault(number, None, "above CPL 0 it needs CR4.PCE", "RDPMC")
        return rdpmc(self._cpu, self._registers, number, level, self._counting.in_flight)

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
        for name, most in (("op", 2), ("flags", 1), ("cpl", 3)):
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

    def count(
        self,
        events: Numbers,
        cycles: SupportsIndex = 0,
        cpl: SupportsIndex = 0,
        *,
        per_cycle: Mapping[str, Sequence[SupportsIndex]] | None = None,
        edges: Numbers | None = None,
        sibling: Numbers | None = None,
        sibling_cycles: SupportsIndex = 0,
        sibling_cpl: SupportsIndex = 0,
        transaction: str | None = None,
        flows: Numbers | None = None,
        leaks: Mapping[SupportsIndex, SupportsIndex] | None = None,
    ) -> None:
        """Let events occur at one privilege level, under the present settings.

        Parameters
        ----------
        events : mapping of str to int
            Occurrences by perf's event names, or by raw names such as ``"r01c2"``.
        cycles : int
            Unhalted core cycles. The events that follow the core clock follow them, unless `events` has them.
        cpl : int
            Current privilege level.
        per_cycle : mapping of str to sequence of int, optional
            By event, [cycles with 0 occurrences, with 1, ...], 1 to 16 numbers, for counters with CMASK.
        edges : mapping of str to int, optional
            How often the condition of a counter with edge detection begins, by event.
        sibling : mapping of str to int, optional
            What the other thread does meanwhile, for AnyThread counters.
        sibling_cycles, sibling_cpl : int
            Its unhalted core cycles and its privilege level.
        transaction : {None, "commit", "abort"}
            Whether all of this is inside a transaction, and how that ends.
        flows : mapping of str to int, optional
            What some hardware counts too much: ``"interrupt-return"``, ``"far-transfer"``, ``"vmrun"``,
            ``"erratum-1292"``.
        leaks : mapping of int to int, optional
            By counter, what the sibling's counter of the same number counted of the events D0H to D3H.

        Raises
        ------
        UnknownName
            For an event that is none of :data:`EVENTS` and no raw name, and for an unknown flow.
        ValueError
            For a negative number, for cycles or another event given twice, for a `cpl`, `transaction` or counter
            that does not exist, for a distribution that does not fit the rest, and if a counter that is enabled
            needs `per_cycle`, `edges` or `sibling` and does not find them. Nothing has changed then.
        OverflowError
            If a number is 2**64 or more, or the sum of all cycles would reach 2**58.
        """
        arguments = per_cycle, edges, sibling, sibling_cycles, sibling_cpl, transaction, flows, leaks
        self._counting.count(self._reader.read(self._counting.cycles, events, cycles, cpl, *arguments))

    def take_pmi(self, interrupts_enabled: bool = True, nmi_blocked: bool = False) -> Pmi | None:
        """Deliver the PMI that is pending, if the CPU takes it now.

        Parameters
        ----------
        interrupts_enabled : bool
            RFLAGS.IF; without it a PMI in fixed mode stays pending.
        nmi_blocked : bool
            An NMI is being handled; then one in NMI mode stays pending.

        Returns
        -------
        Pmi or None
        """
        return self._apic.take(interrupts_enabled, nmi_blocked)

    def set_mode(self, *, svme: bool | None = None, guest: bool | None = None) -> None:
        """Set what AMD's HostOnly and GuestOnly bits depend on.

        Parameters
        ----------
        svme : bool, optional
            EFER.SVME; None leaves it as it is.
        guest : bool, optional
            Whether a guest runs; None leaves it as it is.

        Raises
        ------
        ValueError
            For guest mode without SVME, and for either on Intel. Nothing has changed then.
        """
        self._modes.set(svme, guest)

    def smi(self) -> None:
        """Enter system management mode.

        Raises
        ------
        ValueError
            If the CPU is in it.
        """
        self._modes.smi()

    def rsm(self) -> None:
        """Leave system management mode.

        Raises
        ------
        ValueError
            If the CPU is not in it.
        """
        self._modes.rsm()

    def state(self) -> dict[str, object]:
        """Take a snapshot.

        Returns
        -------
        dict
            Integers, strings and tuples of integers; in ``counters``, ``fixed`` and ``selectors``, counter x
            has place x.
        """
        own = {"version": STATE_VERSION, "cpu": self._cpu.name, "quirks": ",".join(sorted(self._cpu.quirks))}
        parts = self._registers.state() | self._modes.state() | self._apic.state() | self._counting.state()
        return {**own, **parts}

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
        for name in ("version", "cpu", "quirks"):
            if name in state and state[name] != expected[name]:
                raise ScenarioError(f"state: {name} is {state[name]!r} and must be {expected[name]!r}")
        odd = sorted(state.keys() ^ expected.keys(), key=str)
        if odd:
            raise ScenarioError(f"state: missing or unknown keys: {odd}")
        for part in (pmu._registers, pmu._modes, pmu._apic, pmu._counting):
            part.load(state)
        return pmu

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self._cpu, self.state())
