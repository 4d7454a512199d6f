# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""The architectural PMU of one logical CPU."""
from cpython.long cimport PyLong_CheckExact
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t
from vpmu_core.activity cimport between
from vpmu_core.execute cimport add, execute_one, first_unsummable, operation_t, result_t
from vpmu_core.msr cimport (
    FAULT_ABSENT, FAULT_CANONICAL, FAULT_DELIVERY_MODE, FAULT_NONE, FAULT_PRIVILEGE, FAULT_RDPMC_INDEX, FAULT_READ_ONLY,
    FAULT_RESERVED, fault, read_msr, read_pmc, reset, write_msr,
)
from vpmu_core.registers cimport MSR_ABSENT, find_msr, register_file_t

from collections.abc import Mapping
from operator import index as as_integer

import numpy as np

from vpmu._errors import GeneralProtectionFault, ScenarioError, UnknownName
from vpmu._events import EVENTS as _EVENTS
from vpmu._pmi import Pmi
from vpmu._registers import STORAGE_WORDS as _STORAGE_NAMES
from vpmu._registers import msr_name, register_file

#: One operation of :meth:`Pmu.execute`: op 0 RDMSR, 1 WRMSR, 2 RDPMC; flags bit 0: count the instruction itself.
OP_DTYPE = np.dtype(
    [("op", "u1"), ("flags", "u1"), ("cpl", "u1"), ("cr4_pce", "u1"), ("address", "<u4"), ("value", "<u8")], align=True
)
#: What one operation returned; value is 0 for WRMSR and for a fault.
RESULT_DTYPE = np.dtype([("value", "<u8"), ("fault", "u1")], align=True)

STATE_VERSION = 1
_STATE_ADDRESSES = {
    "fixed_ctr_ctrl": 0x38D,
    "global_ctrl": 0x38F,
    "global_status": 0x38E,
    "perf_metrics": 0x329,
    "pebs_enable": 0x3F1,
    "pebs_data_cfg": 0x3F2,
    "ds_area": 0x600,
    "debugctl": 0x1D9,
    "tsx_force_abort": 0x10F,
    "lvtpc": 0x834,
}
_REASONS = {
    FAULT_ABSENT: "no such MSR on this CPU",
    FAULT_RESERVED: "a reserved bit is set",
    FAULT_READ_ONLY: "the register is read-only",
    FAULT_DELIVERY_MODE: "delivery mode must be fixed (0), SMI (2) or NMI (4)",
    FAULT_CANONICAL: "the address is not canonical",
    FAULT_RDPMC_INDEX: "RDPMC of a counter that does not exist",
    FAULT_PRIVILEGE: "not allowed at this privilege level",
}

cdef object _unsummable(const pmu_t *pmu, int slot):
    if slot >= FIXED_SLOT:
        return ScenarioError(
            f"FIXED_CTR{slot - FIXED_SLOT}, FIXED_CTR_CTRL {pmu.fixed_ctr_ctrl:#x}: AnyThread needs what the sibling thread "
            "does, which is not available yet"
        )
    return ScenarioError(
        f"PMC{slot}, selector {pmu.selector[slot]:#x}: CMASK, edge detection, AnyThread and IN_TX need a distribution "
        "per cycle (per_cycle), which is not available yet"
    )


cdef class Pmu:
    """The architectural PMU of one logical CPU (Intel SDM vol. 3B, "Architectural Performance Monitoring").

    A life in four steps: make one (``Pmu(vpmu.cpu("sapphirerapids"))``, in its RESET state), program it with
    :meth:`wrmsr`, let code run with :meth:`count`, read it with :meth:`rdpmc` or :meth:`rdmsr`; serve
    :attr:`pmi_pending` with :meth:`take_pmi`.

    Parameters
    ----------
    cpu : CpuModel
        Decides which registers exist and which bits are legal.

    Notes
    -----
    One thread at a time; two objects are independent.
    """

    def __init__(self, cpu):
        self.file = register_file(cpu)
        reset(&self.pmu, &self.file.file)

    @property
    def cpu(self):
        """The CPU model."""
        return self.file.cpu

    def rdmsr(self, msr):
        """Read an MSR at CPL 0.

        Parameters
        ----------
        msr : int
            Address, [0, 2**32).

        Returns
        -------
        int
            64-bit value.

        Raises
        ------
        GeneralProtectionFault
            If the MSR does not exist.
        """
        cdef uint64_t value = 0
        cdef uint32_t address = _integer(msr)
        cdef fault code = read_msr(&self.pmu, &self.file.file, address, &value)
        if code:
            raise _fault(code, address, None)
        return value

    def wrmsr(self, msr, value):
        """Write an MSR at CPL 0; it takes effect before the instruction retires.

        Parameters
        ----------
        msr : int
            Address, [0, 2**32).
        value : int
            [0, 2**64).

        Raises
        ------
        GeneralProtectionFault
            With the rule that was broken; nothing has changed.
        """
        cdef uint32_t address = _integer(msr)
        cdef uint64_t number = _integer(value)
        cdef fault code = write_msr(&self.pmu, &self.file.file, address, number)
        if code:
            raise _fault(code, address, number)

    def rdpmc(self, ecx, cpl=0, bint cr4_pce=True):
        """Read a counter with RDPMC.

        Parameters
        ----------
        ecx : int
            Type in bits 31:16 (0 GP, 4000H fixed, 2000H PERF_METRICS), index in 15:0.
        cpl : int
            Privilege level, 0 to 3.
        cr4_pce : bool
            CR4.PCE: whether CPL > 0 may read.

        Returns
        -------
        int
            The counter, zero-extended.

        Raises
        ------
        GeneralProtectionFault
            For a counter that does not exist, or without permission.
        """
        cdef uint64_t value = 0
        cdef uint32_t number = _integer(ecx)
        cdef fault code = read_pmc(&self.pmu, &self.file.file, number, _privilege(cpl), cr4_pce, &value)
        if code:
            raise GeneralProtectionFault(number, None, _REASONS[code])
        return value

    def count(self, events, cycles=0, cpl=0):
        """Let explicit occurrences happen at a privilege level.

        Parameters
        ----------
        events : mapping of str to int
            Occurrences by perf's event name, each >= 0.
        cycles : int
            Core cycles, >= 0; ref-cycles, bus-cycles and slots follow by the CPU's ratios unless they are given.
        cpl : int
            0 to 3.

        Raises
        ------
        UnknownName
            For an event that is not simulated (a ValueError).
        ValueError
            For a negative count, cycles given twice, or if an enabled counter's selector asks for more than sums of
            occurrences (CMASK, EDGE, IN_TX, IN_TXCP, ANY); nothing has changed.
        OverflowError
            If a number is 2**64 or more, or the sum of all cycles would reach 2**58.
        """
        cdef uint64_t amount[EVENTS]
        cdef uint64_t now = self.pmu.cycles, end
        cdef uint32_t on
        cdef int slot
        cdef const register_file_t *file = &self.file.file
        given = {}
        for name, number in events.items():
            if name not in _EVENTS:
                raise UnknownName("event", str(name), _EVENTS)
            given[name] = _occurrences(name, number)
        elapsed = _occurrences("cycles", cycles)
        if "cycles" in given:
            if elapsed:
                raise ScenarioError("cycles are given twice: as an event and as cycles=")
            elapsed = given["cycles"]
        cdef bint user = _privilege(cpl) > 0
        if now + elapsed >= 1 << 58:
            raise OverflowError("a PMU counts fewer than 2**58 cycles in all")
        end = now + <uint64_t>elapsed
        slot = first_unsummable(&self.pmu, user)
        if slot >= 0:
            raise _unsummable(&self.pmu, slot)
        memset(amount, 0, sizeof(amount))
        amount[EVENT_CYCLES] = end - now
        amount[EVENT_REF_CYCLES] = between(file.rate_ref_cycles, now, end)
        amount[EVENT_BUS_CYCLES] = between(file.rate_bus_cycles, now, end)
        amount[EVENT_SLOTS] = between(file.rate_slots, now, end)
        for name, number in given.items():
            amount[_EVENTS.index(name)] = number
        self.pmu.cycles = end
        on = enabled(&self.pmu, user)
        while on:
            slot = lowest_bit(on)
            on &= on - 1
            add(&self.pmu, slot, amount[self.pmu.event[slot]])

    @property
    def pmi_pending(self):
        """Whether a PMI waits to be taken."""
        return bool(self.pmu.pmi_pending)

    def take_pmi(self):
        """Deliver the pending PMI: sets the LVTPC mask bit, as Intel CPUs do.

        Returns
        -------
        Pmi or None
            Delivery mode ("fixed", "smi" or "nmi") and vector; None if nothing is pending.
        """
        if not self.pmu.pmi_pending:
            return None
        self.pmu.pmi_pending = 0
        cdef uint64_t lvtpc = self.pmu.lvtpc
        self.pmu.lvtpc = lvtpc | LVTPC_MASKED
        return Pmi({0: "fixed", 2: "smi", 4: "nmi"}[lvtpc >> 8 & 7], lvtpc & 0xFF)

    def execute(self, ops):
        """Run a batch of operations.

        Parameters
        ----------
        ops : ndarray of OP_DTYPE, shape (n,)
            op 0 RDMSR, 1 WRMSR, 2 RDPMC (address is ECX). flags bit 0: the instruction itself retires after its
            effect and is counted, unless it faults. RDMSR and WRMSR fault at cpl > 0.

        Returns
        -------
        ndarray of RESULT_DTYPE, shape (n,)
            Value read (0 for WRMSR and faults), and 1 in ``fault`` where the operation raised #GP.

        Raises
        ------
        TypeError
            For an array of another dtype.
        ValueError
            For an unknown op, a cpl above 3 or another shape, before anything is executed; and where :meth:`count`
            would refuse to count an instruction, after its effect.
        """
        if not isinstance(ops, np.ndarray) or ops.dtype != OP_DTYPE:
            raise TypeError("ops must be an array of OP_DTYPE")
        if ops.ndim != 1:
            raise ScenarioError(f"ops must have one dimension, not {ops.ndim}")
        for name, most in (("op", 2), ("cpl", 3)):
            if np.any(ops[name] > most):
                raise ScenarioError(f"{name} of an operation must be 0 to {most}, not {ops[name].max()}")
        results = np.zeros(ops.size, dtype=RESULT_DTYPE)
        cdef const operation_t[::1] operations = np.ascontiguousarray(ops)
        cdef result_t[::1] out = results
        cdef Py_ssize_t i
        cdef int refusing = -1
        with nogil:
            for i in range(operations.shape[0]):
                refusing = execute_one(&self.pmu, &self.file.file, &operations[i], &out[i])
                if refusing >= 0:
                    break
        if refusing >= 0:
            raise _unsummable(&self.pmu, refusing)
        return results

    def state(self):
        """Everything that distinguishes this PMU from one just made.

        Returns
        -------
        dict
            Plain ints, tuples of ints and strings, with a ``version``. In ``counters``, ``fixed`` and ``selectors``,
            counter x has place x.
        """
        cdef const pmu_t *pmu = &self.pmu
        state = {
            "version": STATE_VERSION,
            "cpu": self.cpu.name,
            "counters": tuple([pmu.counter[i] for i in range(self.cpu.gp_mask.bit_length())]),
            "fixed": tuple([pmu.counter[FIXED_SLOT + i] for i in range(self.cpu.fixed_mask.bit_length())]),
            "selectors": tuple([pmu.selector[i] for i in range(self.cpu.gp_mask.bit_length())]),
            "fixed_ctr_ctrl": pmu.fixed_ctr_ctrl,
            "global_ctrl": pmu.global_ctrl,
            "global_status": pmu.global_status,
        }
        for i, name in enumerate(_STORAGE_NAMES):
            state[name] = pmu.storage[i]
        state["lvtpc"] = pmu.lvtpc
        state["pmi_pending"] = bool(pmu.pmi_pending)
        state["cycles"] = pmu.cycles
        return state

    @staticmethod
    def from_state(cpu, state):
        """Make a PMU from :meth:`state`.

        Parameters
        ----------
        cpu : CpuModel
            The model that the state was taken from.
        state : dict

        Returns
        -------
        Pmu

        Raises
        ------
        ValueError
            For a state of another version, CPU or shape.
        """
        cdef Pmu self = Pmu(cpu)
        cdef pmu_t *pmu = &self.pmu
        expected = self.state()
        if not isinstance(state, Mapping):
            raise ScenarioError(f"state: must be what state() returned, not {type(state).__name__}")
        for name in ("version", "cpu"):
            if name in state and state[name] != expected[name]:
                raise ScenarioError(f"state: {name} is {state[name]!r} and must be {expected[name]!r}")
        odd = sorted(state.keys() ^ expected.keys(), key=str)
        if odd:
            raise ScenarioError(f"state: missing or unknown keys: {odd}")
        for name in ("counters", "fixed", "selectors"):
            places = len(expected[name])
            if not isinstance(state[name], tuple) or len(state[name]) != places:
                raise ScenarioError(f"state: {name} must be a tuple of {places} integers, not {state[name]!r}")
        for x, (counter, selector) in enumerate(zip(state["counters"], state["selectors"])):
            pmu.counter[x] = _held("counters", counter, pmu.width_mask[0] if pmu.slots >> x & 1 else 0)
            self._hold(0x186 + x, "selectors", selector)
        for m, counter in enumerate(state["fixed"], FIXED_SLOT):
            pmu.counter[m] = _held("fixed", counter, pmu.width_mask[1] if pmu.slots >> m & 1 else 0)
        for name, address in _STATE_ADDRESSES.items():
            self._hold(address, name, state[name])
        pmu.pmi_pending = _held("pmi_pending", int(state["pmi_pending"]), 1)
        pmu.cycles = _held("cycles", state["cycles"], (1 << 58) - 1)
        return self

    cdef object _hold(self, uint32_t address, str name, object value):
        """Put a value into a register as far as the register can hold it."""
        cdef uint64_t number = _held(name, value, 0xFFFFFFFFFFFFFFFFULL)
        cdef uint64_t back = 0
        if find_msr(&self.file.file, address).kind == MSR_ABSENT:
            code = FAULT_RESERVED if number else FAULT_NONE
        else:
            if address == 0x38E:  # what can be cleared can be held
                code = FAULT_RESERVED if number & ~find_msr(&self.file.file, 0x390).legal else FAULT_NONE
                self.pmu.global_status = number
            else:
                code = write_msr(&self.pmu, &self.file.file, address, number)
            read_msr(&self.pmu, &self.file.file, address, &back)
            if back != number:
                code = FAULT_RESERVED
        if code:
            raise ScenarioError(f"state: {name} cannot be {value:#x}: {_REASONS[code]}")

    def __reduce__(self):
        return Pmu.from_state, (self.cpu, self.state())

    def __copy__(self):
        return Pmu.from_state(self.cpu, self.state())

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __repr__(self):
        return f"Pmu({self.cpu.name!r}, GLOBAL_CTRL={self.pmu.global_ctrl:#x}, GLOBAL_STATUS={self.pmu.global_status:#x})"


cdef object _fault(fault code, uint32_t msr, object value):
    name = msr_name(msr)
    reason = _REASONS[code]
    return GeneralProtectionFault(msr, value, f"{name}: {reason}" if name else reason)


cdef inline object _integer(object value):
    # C conversions would take a float.
    return value if PyLong_CheckExact(value) else as_integer(value)


cdef object _occurrences(str name, object number):
    number = as_integer(number)
    if number < 0:
        raise ScenarioError(f"{name} must not be negative: {number}")
    if number >> 64:
        raise OverflowError(f"{name} must be an integer in [0, 2**64), not {number}")
    return number


cdef object _held(str name, object value, object most):
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"state: {name} must be an integer, not {value!r}")
    if not 0 <= value <= most:
        raise ScenarioError(f"state: {name} cannot be {value:#x}: it must be 0 to {most:#x}")
    return value


cdef int _privilege(object cpl) except -1:
    level = as_integer(cpl)
    if not 0 <= level <= 3:
        raise ScenarioError(f"cpl must be 0 to 3, not {level}")
    return level
