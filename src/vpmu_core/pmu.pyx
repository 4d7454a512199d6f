# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""The architectural PMU of one logical CPU."""
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint8_t, uint32_t, uint64_t, uint128_t
from vpmu_core.activity cimport between
from vpmu_core.registers cimport (
    MSR_ABSENT, MSR_CANONICAL, MSR_CONSTANT, MSR_COUNTER, MSR_COUNTER_LEGACY, MSR_FIXED_CTR_CTRL, MSR_GLOBAL_CTRL,
    MSR_GLOBAL_STATUS, MSR_INUSE, MSR_LVTPC, MSR_SELECTOR, MSR_STATUS_RESET, MSR_STATUS_SET, MSR_STORAGE,
    find_msr, msr_t, register_file_t,
)

import numpy as np

from vpmu._errors import GeneralProtectionFault, UnknownName
from vpmu._pmi import Pmi
from vpmu._registers import STORAGE_WORDS as STORAGE_NAMES
from vpmu._registers import msr_name, register_file

#: One operation of :meth:`Pmu.execute`: op 0 RDMSR, 1 WRMSR, 2 RDPMC; flags bit 0: count the instruction itself.
OP_DTYPE = np.dtype(
    [("op", "u1"), ("flags", "u1"), ("cpl", "u1"), ("cr4_pce", "u1"), ("address", "<u4"), ("value", "<u8")], align=True
)
#: What one operation returned; value is 0 for WRMSR and for a fault.
RESULT_DTYPE = np.dtype([("value", "<u8"), ("fault", "u1")], align=True)

STATE_VERSION = 1
EVENT_NAMES = ("instructions", "cycles", "ref-cycles", "bus-cycles", "cache-references", "cache-misses", "branches",
               "branch-misses", "slots")
_REASONS = {
    FAULT_ABSENT: "no such MSR on this CPU",
    FAULT_RESERVED: "a reserved bit is set",
    FAULT_READ_ONLY: "the register is read-only",
    FAULT_DELIVERY_MODE: "delivery mode must be fixed (0), SMI (2) or NMI (4)",
    FAULT_CANONICAL: "the address is not canonical",
    FAULT_RDPMC_INDEX: "RDPMC of a counter that does not exist",
    FAULT_PRIVILEGE: "not allowed at this privilege level",
}

cdef packed struct operation_t:
    uint8_t op
    uint8_t flags
    uint8_t cpl
    uint8_t cr4_pce
    uint32_t address
    uint64_t value

cdef struct result_t:
    uint64_t value
    uint8_t fault


cdef void reset(pmu_t *pmu, const register_file_t *file) noexcept nogil:
    """Bring a PMU into its RESET state (SDM vol. 3A, processor state after reset; GLOBAL_CTRL has all GP bits)."""
    cdef int slot
    memset(pmu, 0, sizeof(pmu_t))
    pmu.slots = file.slots
    pmu.width_mask[0] = file.gp_width_mask
    pmu.width_mask[1] = file.fixed_width_mask
    pmu.global_ctrl = file.reset_global_ctrl
    pmu.lvtpc = LVTPC_MASKED
    for slot in range(SLOTS):
        pmu.event[slot] = NO_EVENT if slot < FIXED_SLOT else event_of_fixed(slot - FIXED_SLOT)


cdef uint64_t _inuse(const pmu_t *pmu) noexcept nogil:
    # SDM vol. 3B, IA32_PERF_GLOBAL_INUSE; PMI_InUse is bit 63.
    cdef uint64_t value = 0
    cdef int slot
    for slot in range(16):
        if pmu.slots >> slot & 1 and pmu.selector[slot] & 0xFF:
            value |= <uint64_t>1 << slot
        if pmu.slots >> (FIXED_SLOT + slot) & 1 and pmu.fixed_ctr_ctrl >> 4 * slot & 3:
            value |= <uint64_t>1 << (32 + slot)
    if pmu.interrupt or pmu.storage[1] & 0xFFFF:
        value |= <uint64_t>1 << 63
    return value


cdef fault read_msr(const pmu_t *pmu, const register_file_t *file, uint32_t address, uint64_t *value) noexcept nogil:
    """RDMSR at CPL 0."""
    cdef const msr_t *msr = find_msr(file, address)
    cdef uint8_t kind = msr.kind
    if kind == MSR_COUNTER or kind == MSR_COUNTER_LEGACY:
        value[0] = pmu.counter[msr.slot]
    elif kind == MSR_SELECTOR:
        value[0] = pmu.selector[msr.slot]
    elif kind == MSR_ABSENT:
        return FAULT_ABSENT
    elif kind == MSR_FIXED_CTR_CTRL:
        value[0] = pmu.fixed_ctr_ctrl
    elif kind == MSR_GLOBAL_STATUS:
        value[0] = pmu.global_status
    elif kind == MSR_GLOBAL_CTRL:
        value[0] = pmu.global_ctrl
    elif kind == MSR_STATUS_RESET or kind == MSR_STATUS_SET:
        value[0] = 0
    elif kind == MSR_INUSE:
        value[0] = _inuse(pmu)
    elif kind == MSR_STORAGE or kind == MSR_CANONICAL:
        value[0] = pmu.storage[msr.slot]
    elif kind == MSR_LVTPC:
        value[0] = pmu.lvtpc
    else:
        value[0] = msr.value
    return FAULT_NONE


cdef fault write_msr(pmu_t *pmu, const register_file_t *file, uint32_t address, uint64_t value) noexcept nogil:
    """WRMSR at CPL 0; a fault changes nothing."""
    cdef const msr_t *msr = find_msr(file, address)
    cdef uint8_t kind = msr.kind
    cdef uint64_t mode
    if kind == MSR_ABSENT:
        return FAULT_ABSENT
    if kind == MSR_GLOBAL_STATUS or kind == MSR_INUSE or kind == MSR_CONSTANT:
        return FAULT_READ_ONLY
    if value & ~msr.legal:
        return FAULT_RESERVED
    if kind == MSR_COUNTER:
        pmu.counter[msr.slot] = value
    elif kind == MSR_COUNTER_LEGACY:
        if value & 0x80000000U:
            value |= 0xFFFFFFFF00000000ULL
        else:
            value &= 0xFFFFFFFFU
        pmu.counter[msr.slot] = value & pmu.width_mask[0]
    elif kind == MSR_SELECTOR:
        write_selector(pmu, msr.slot, value)
    elif kind == MSR_FIXED_CTR_CTRL:
        write_fixed_ctr_ctrl(pmu, value)
    elif kind == MSR_GLOBAL_CTRL:
        pmu.global_ctrl = value
    elif kind == MSR_STATUS_RESET:
        pmu.global_status &= ~value
    elif kind == MSR_STATUS_SET:
        pmu.global_status |= value
    elif kind == MSR_STORAGE:
        pmu.storage[msr.slot] = value
    elif kind == MSR_CANONICAL:
        mode = value >> 47
        if mode != 0 and mode != 0x1FFFF:
            return FAULT_CANONICAL
        pmu.storage[msr.slot] = value
    elif kind == MSR_LVTPC:
        mode = value >> 8 & 7
        if mode != 0 and mode != 2 and mode != 4:
            return FAULT_DELIVERY_MODE
        pmu.lvtpc = value & ~<uint64_t>0x1000
    return FAULT_NONE


cdef fault read_pmc(
    const pmu_t *pmu, const register_file_t *file, uint32_t ecx, int cpl, bint cr4_pce, uint64_t *value
) noexcept nogil:
    """RDPMC of an architectural PMU: ECX[31:16] is the type, ECX[15:0] the index (SDM vol. 2, RDPMC)."""
    cdef uint32_t kind = ecx >> 16
    cdef uint32_t index = ecx & 0xFFFF
    if cpl and not cr4_pce:
        return FAULT_PRIVILEGE
    if kind == 0x2000 and index == 0 and file.perf_metrics:
        value[0] = pmu.storage[0]
        return FAULT_NONE
    if index >= 16 or (kind and kind != 0x4000):
        return FAULT_RDPMC_INDEX
    if kind:
        index += FIXED_SLOT
    if not pmu.slots >> index & 1:
        return FAULT_RDPMC_INDEX
    value[0] = pmu.counter[index]
    return FAULT_NONE


cdef void request_pmi(pmu_t *pmu) noexcept nogil:
    """An overflow requests a PMI; while LVTPC is masked the request is dropped."""
    if not pmu.lvtpc & LVTPC_MASKED:
        pmu.pmi_pending = 1


cdef void _add(pmu_t *pmu, int slot, uint64_t occurrences) noexcept nogil:
    # Advance one counter; it wraps as often as it must.
    cdef uint128_t total = <uint128_t>pmu.counter[slot] + occurrences
    cdef uint64_t mask = width_mask(pmu, slot)
    pmu.counter[slot] = <uint64_t>(total & mask)
    if total > mask:
        pmu.global_status |= bits_of(<uint32_t>1 << slot)
        if pmu.interrupt >> slot & 1:
            request_pmi(pmu)


cdef void _retire_instruction(pmu_t *pmu, bint user) noexcept nogil:
    cdef uint32_t on = enabled(pmu, user)
    cdef int slot
    while on:
        slot = lowest_bit(on)
        on &= on - 1
        if pmu.event[slot] == EVENT_INSTRUCTIONS:
            _add(pmu, slot, 1)


cdef int _needs_distribution(int slot, uint64_t selector) except -1:
    cdef object what = (
        "CMASK" if selector >> 24 & 0xFF else "EDGE" if selector >> 18 & 1 else "ANY" if selector >> 21 & 1
        else "IN_TX" if selector >> 32 & 3 else None
    )
    if what is not None:
        raise ValueError(
            f"counter {slot} (selector {selector:#x}) uses {what}, which needs a distribution per cycle "
            "(per_cycle); that is not available yet, clear the bits or the counter's enable"
        )
    return 0


cdef void _execute_one(pmu_t *pmu, const register_file_t *file, const operation_t *op, result_t *result) noexcept nogil:
    cdef fault code
    if op.op == 2:
        code = read_pmc(pmu, file, op.address, op.cpl, op.cr4_pce, &result.value)
    elif op.cpl:
        code = FAULT_PRIVILEGE
    elif op.op == 0:
        code = read_msr(pmu, file, op.address, &result.value)
    else:
        code = write_msr(pmu, file, op.address, op.value)
    if code:
        result.fault = 1
    elif op.flags & 1:
        _retire_instruction(pmu, op.cpl > 0)


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

    cpdef uint64_t rdmsr(self, uint32_t msr) except? 0xFFFFFFFFFFFFFFFFULL:
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
        cdef fault code = read_msr(&self.pmu, &self.file.file, msr, &value)
        if code:
            raise _fault(code, msr, None)
        return value

    cpdef object wrmsr(self, uint32_t msr, uint64_t value):
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
        cdef fault code = write_msr(&self.pmu, &self.file.file, msr, value)
        if code:
            raise _fault(code, msr, value)

    def rdpmc(self, uint32_t ecx, int cpl=0, bint cr4_pce=True):
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
        if not 0 <= cpl <= 3:
            raise ValueError(f"cpl {cpl} must be 0 to 3")
        cdef fault code = read_pmc(&self.pmu, &self.file.file, ecx, cpl, cr4_pce, &value)
        if code:
            raise GeneralProtectionFault(ecx, None, _REASONS[code])
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
            For a negative count, or if an enabled counter's selector asks for more than occurrences (CMASK, EDGE,
            IN_TX, IN_TXCP, ANY); nothing has changed.
        """
        cdef uint64_t amount[EVENTS]
        cdef uint64_t now, end
        cdef uint32_t on, left
        cdef int slot
        cdef const register_file_t *file = &self.file.file
        if not 0 <= cpl <= 3:
            raise ValueError(f"cpl {cpl} must be 0 to 3")
        now = self.pmu.cycles
        try:
            end = now + _occurrences("cycles", cycles)
        except OverflowError:
            raise ValueError(f"cycles {cycles} takes the clock past 2**64") from None
        memset(amount, 0, sizeof(amount))
        amount[EVENT_CYCLES] = end - now
        amount[EVENT_REF_CYCLES] = between(file.rate_ref_cycles, now, end)
        amount[EVENT_BUS_CYCLES] = between(file.rate_bus_cycles, now, end)
        amount[EVENT_SLOTS] = between(file.rate_slots, now, end)
        for name, number in events.items():
            if name not in EVENT_NAMES:
                raise UnknownName("event", str(name), EVENT_NAMES)
            if name == "cycles" and cycles:
                raise ValueError("cycles are given twice: as an event and as cycles=")
            amount[EVENT_NAMES.index(name)] = _occurrences(name, number)
        on = enabled(&self.pmu, cpl > 0)
        left = on & 0xFFFF
        while left:
            slot = lowest_bit(left)
            left &= left - 1
            _needs_distribution(slot, self.pmu.selector[slot])
        self.pmu.cycles = end
        while on:
            slot = lowest_bit(on)
            on &= on - 1
            _add(&self.pmu, slot, amount[self.pmu.event[slot]])

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
        """
        array = np.ascontiguousarray(ops, dtype=OP_DTYPE)
        if array.ndim != 1:
            raise ValueError(f"ops must have one dimension, not {array.ndim}")
        if array.size and (int(array["op"].max()) > 2 or int(array["cpl"].max()) > 3):
            raise ValueError("op must be 0 (RDMSR), 1 (WRMSR) or 2 (RDPMC) and cpl 0 to 3")
        results = np.zeros(array.size, dtype=RESULT_DTYPE)
        cdef const operation_t[::1] operations = array
        cdef result_t[::1] out = results
        cdef Py_ssize_t i
        with nogil:
            for i in range(operations.shape[0]):
                _execute_one(&self.pmu, &self.file.file, &operations[i], &out[i])
        return results

    def state(self):
        """Everything that distinguishes this PMU from one just made.

        Returns
        -------
        dict
            Plain ints, tuples of ints and strings, with a ``version``.
        """
        cdef const pmu_t *pmu = &self.pmu
        state = {
            "version": STATE_VERSION,
            "cpu": self.cpu.name,
            "counters": tuple([pmu.counter[i] for i in range(16) if pmu.slots >> i & 1]),
            "fixed": tuple([pmu.counter[16 + i] for i in range(16) if pmu.slots >> (16 + i) & 1]),
            "selectors": tuple([pmu.selector[i] for i in range(16) if pmu.slots >> i & 1]),
            "fixed_ctr_ctrl": pmu.fixed_ctr_ctrl,
            "global_ctrl": pmu.global_ctrl,
            "global_status": pmu.global_status,
        }
        for i, name in enumerate(STORAGE_NAMES):
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
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            found = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"this is no PMU state of version {STATE_VERSION} (found {found!r})")
        if set(state) != set(expected):
            raise ValueError(f"PMU state with foreign or missing keys: {sorted(set(state) ^ set(expected))}")
        if state["cpu"] != cpu.name:
            raise ValueError(f"PMU state of CPU {state['cpu']!r} cannot be given to {cpu.name!r}")
        for name in ("counters", "fixed", "selectors"):
            if len(state[name]) != len(expected[name]):
                raise ValueError(f"PMU state has {len(state[name])} {name}, {cpu.name} has {len(expected[name])}")
        gp = [i for i in range(16) if pmu.slots >> i & 1]
        fixed = [16 + i for i in range(16) if pmu.slots >> (16 + i) & 1]
        for slot, counter, selector in zip(gp, state["counters"], state["selectors"]):
            pmu.counter[slot] = <uint64_t>counter & pmu.width_mask[0]
            write_selector(pmu, slot, selector)
        for slot, counter in zip(fixed, state["fixed"]):
            pmu.counter[slot] = <uint64_t>counter & pmu.width_mask[1]
        write_fixed_ctr_ctrl(pmu, state["fixed_ctr_ctrl"])
        pmu.global_ctrl = state["global_ctrl"]
        pmu.global_status = state["global_status"]
        for i, name in enumerate(STORAGE_NAMES):
            pmu.storage[i] = state[name]
        pmu.lvtpc = state["lvtpc"]
        pmu.pmi_pending = bool(state["pmi_pending"])
        pmu.cycles = state["cycles"]
        return self

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


cdef object _occurrences(str name, object number):
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"{name}: {number!r} is no integer")
    number = number.__index__()
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{name}: {number} must be in [0, 2**64)")
    return number
