# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""The PMU of one logical CPU."""
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.string cimport memset

from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.activity cimport between
from vpmu_core.advance cimport advance, happening_t
from vpmu_core.execute cimport execute_one, operation_t, result_t, share_out
from vpmu_core.msr cimport (
    FAULT_ABSENT, FAULT_CANONICAL, FAULT_DELIVERY_MODE, FAULT_PRIVILEGE, FAULT_RDPMC_INDEX, FAULT_READ_ONLY, FAULT_RESERVED,
    fault, read_msr, read_pmc, reset_unit, set_mode, write_msr,
)
from vpmu_core.occurrences cimport fill, number_of, privilege, unsummable
from vpmu_core.random cimport sfc64_seed
from vpmu_core.registers cimport register_file_t
from vpmu_core.snapshot cimport restore, take
from vpmu_core.unit cimport (
    EVENTS, EVENT_BUS_CYCLES, EVENT_CYCLES, EVENT_REF_CYCLES, EVENT_SLOTS,
)

from collections.abc import Mapping
from operator import index as as_integer

import numpy as np

from vpmu._cpu_model import CpuModel
from vpmu._errors import GeneralProtectionFault, ScenarioError
from vpmu._pmi import Pmi
from vpmu._registers import msr_name, register_file
from vpmu_core.occurrences import INDEX as _INDEX

#: One operation of :meth:`Pmu.execute`: op 0 RDMSR, 1 WRMSR, 2 RDPMC; flags bit 0: count the instruction itself.
OP_DTYPE = np.dtype(
    [("op", "u1"), ("flags", "u1"), ("cpl", "u1"), ("cr4_pce", "u1"), ("address", "<u4"), ("value", "<u8")], align=True
)
#: What one operation returned; value is 0 for WRMSR and for a fault.
RESULT_DTYPE = np.dtype([("value", "<u8"), ("fault", "u1")], align=True)

_ZERO = 0  # the integer itself: what a caller does not say
_REASONS = {
    FAULT_ABSENT: "no such MSR on this CPU",
    FAULT_RESERVED: "a reserved bit is set",
    FAULT_READ_ONLY: "the register is read-only",
    FAULT_DELIVERY_MODE: "delivery mode must be fixed (0), SMI (2) or NMI (4)",
    FAULT_CANONICAL: "the address is not canonical",
    FAULT_RDPMC_INDEX: "there is no such counter",
    FAULT_PRIVILEGE: "not allowed at this privilege level",
}
_MODES = {0: "fixed", 2: "smi", 4: "nmi"}


cdef class Pmu:
    """The PMU of one logical CPU (Intel SDM vol. 3B, "Performance Monitoring"; AMD APM vol. 2; docs/pmu.md, rule by rule).

    A life in four steps: make one (``Pmu(vpmu.cpu("sapphirerapids"))``, in its RESET state), program it with
    :meth:`wrmsr`, let code run with :meth:`count`, read it with :meth:`rdpmc` or :meth:`rdmsr`; serve
    :attr:`pmi_pending` with :meth:`take_pmi`.

    Parameters
    ----------
    cpu : CpuModel
        Decides which registers exist and which bits are legal.
    seed : int or None
        [0, 2**64): with quirk ``pmi_skid`` PMIs arrive after a skid drawn from ``cpu.skid``, in cycles given to
        :meth:`count`. None: at once.

    Raises
    ------
    OverflowError
        For a seed out of range.

    Notes
    -----
    One thread at a time; two objects are independent.
    """

    def __cinit__(self, cpu, *arguments, **keywords):
        # Whatever a subclass does in __init__, there are registers.
        if not isinstance(cpu, CpuModel):
            raise TypeError(f"cpu must be a CpuModel, such as vpmu.cpu('sapphirerapids'), not {cpu!r}")
        self.model = cpu
        self.file = register_file(cpu)
        reset_unit(&self.unit, &self.file.file)

    def __init__(self, cpu, seed=None):
        cdef uint64_t words[3]
        if seed is not None:
            words[0], words[1], words[2] = _integer(seed, 64, "seed"), 0, 0
            if "pmi_skid" in cpu.quirks:
                sfc64_seed(&self.unit.skid, words)
                self.unit.has_skid = 1

    @property
    def cpu(self):
        """The CPU model."""
        return self.model

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
        OverflowError, TypeError
            For a number out of range, and for what is no integer.
        """
        cdef uint64_t value = 0
        cdef uint32_t address = _address(msr, "msr")
        cdef fault code = read_msr(&self.unit, address, &value)
        if code:
            raise _fault(self.model, code, address, None)
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
        OverflowError, TypeError
            For a number out of range, and for what is no integer.
        """
        cdef uint32_t address = _address(msr, "msr")
        cdef uint64_t number = _integer(value, 64, "value")
        cdef fault code = write_msr(&self.unit, address, number)
        if code:
            raise _fault(self.model, code, address, number)

    def rdpmc(self, ecx, cpl=0, bint cr4_pce=True, bint cr0_pe=True):
        """Read a counter with RDPMC.

        Parameters
        ----------
        ecx : int
            Intel: type in bits 31:16 (0 GP, 4000H fixed, 2000H PERF_METRICS), index in 15:0. AMD: index.
        cpl : int
            Privilege level, 0 to 3.
        cr4_pce, cr0_pe : bool
            CR4.PCE: whether CPL > 0 may read; CR0.PE: without protected mode everyone may.

        Returns
        -------
        int
            The counter, zero-extended.

        Raises
        ------
        GeneralProtectionFault
            For a counter that does not exist, or without permission.
        ValueError, OverflowError, TypeError
            For a cpl above 3, a number out of range, and for what is no integer.
        """
        cdef uint64_t value = 0
        cdef uint32_t number = _address(ecx, "ecx")
        cdef fault code = read_pmc(&self.unit, number, privilege(cpl), cr4_pce or not cr0_pe, &value)
        if code:
            raise GeneralProtectionFault(number, None, _REASONS[code], "RDPMC")
        return value

    def count(
        self, events, cycles=0, cpl=0, *, per_cycle=None, edges=None, sibling=None, sibling_cycles=0, sibling_cpl=0,
        transaction=None, flows=None, leaks=None,
    ):
        """Let explicit occurrences happen at a privilege level, evenly spread over the cycles.

        Parameters
        ----------
        events : mapping of str to int
            Occurrences, each in [0, 2**64), by perf's event name, or by raw code ``rUUEE`` (AMD: ``rEUUEE`` with event
            select bits 11:8 in bits 35:32).
        cycles : int
            Core cycles, >= 0; ref-cycles, and on Intel bus-cycles and slots, follow by the CPU's ratios unless given.
        cpl : int
            0 to 3.
        per_cycle : mapping of str to sequence of 1 to 16 ints, optional
            Cycles with 0, 1, 2 … occurrences of an event, for counters with CMASK; their sum is ``cycles``.
        edges : mapping of str to int, optional
            Rises of a counter's condition, for counters with edge detection.
        sibling : mapping of str to int, optional
            What the sibling thread does meanwhile, for AnyThread counters.
        sibling_cycles, sibling_cpl : int
            The sibling's core cycles and privilege level.
        transaction : {None, "commit", "abort"}
            The code runs in a transaction that ends so.
        flows : mapping of str to int, optional
            "interrupt-return", "far-transfer", "vmrun", "erratum-1292": what CPUs with the quirk for it overcount.
        leaks : mapping of int to int, optional
            By GP counter: what the sibling's counter got of events D0H to D3H (quirk ``ht_leak``).

        Raises
        ------
        UnknownName
            For an event or flow that does not exist (a ValueError).
        ValueError
            For a number that is negative or does not fit the others, and if an enabled counter needs ``per_cycle``,
            ``edges`` or ``sibling`` and does not find them; nothing has changed.
        OverflowError
            If a number, or what a counter gets, is 2**64 or more, or the sum of all cycles would reach 2**58.
        """
        cdef uint64_t amount[EVENTS]
        cdef uint64_t now = self.unit.cycles, end
        cdef const register_file_t *file = &self.file.file
        cdef happening_t h
        cdef int slot
        cdef bint slots_given
        if type(events) is not dict and not isinstance(events, Mapping):
            raise TypeError(f"events must be a mapping of event names, not {type(events).__name__}")
        cdef bint plain = (
            per_cycle is None and edges is None and sibling is None and transaction is None and flows is None
            and leaks is None and sibling_cycles is _ZERO and sibling_cpl is _ZERO
        )
        if plain:
            for name in events:
                if name not in _INDEX:
                    plain = False
        if not plain:
            arguments = (
                events, cycles, cpl, per_cycle, edges, sibling, sibling_cycles, sibling_cpl, transaction, flows, leaks
            )
            fill(&self.unit, self.model, arguments, &h)
            advance(&self.unit, &h)
            return
        memset(amount, 0, sizeof(amount))
        for name, number in events.items():
            amount[_INDEX[name]] = number_of(name, number)
        elapsed = number_of("cycles", cycles)
        if "cycles" in events:
            if elapsed:
                raise ScenarioError("cycles are given twice: as an event and as cycles=")
            elapsed = amount[EVENT_CYCLES]
        if now + elapsed >= 1 << 58:
            raise OverflowError("a PMU counts fewer than 2**58 cycles in all")
        cdef bint user = privilege(cpl) > 0
        end = now + <uint64_t>elapsed
        slots_given = "slots" in events
        amount[EVENT_CYCLES] = h.cycles = end - now
        if "ref-cycles" not in events:
            amount[EVENT_REF_CYCLES] = between(file.rate_ref_cycles, now, end)
        if "bus-cycles" not in events:
            amount[EVENT_BUS_CYCLES] = between(file.rate_bus_cycles, now, end)
        if not slots_given:
            amount[EVENT_SLOTS] = between(file.rate_slots, now, end)
        slot = share_out(&self.unit, amount, slots_given, user, &h)
        if slot >= 0:
            raise unsummable(&self.unit, slot)
        advance(&self.unit, &h)

    @property
    def pmi_pending(self):
        """Whether a PMI waits to be taken."""
        return self.unit.pmi_pending > 0

    def take_pmi(self, bint interrupts_enabled=True, bint nmi_blocked=False):
        """Deliver the pending PMI.

        Parameters
        ----------
        interrupts_enabled : bool
            RFLAGS.IF: without it a PMI in fixed mode waits.
        nmi_blocked : bool
            An NMI is in service: a PMI in NMI mode waits.

        Returns
        -------
        Pmi or None
            Delivery mode ("fixed", "smi" or "nmi") and vector; None if nothing is pending, or it waits.
        """
        cdef uint64_t entry = self.unit.pmi_entry
        if not self.unit.pmi_pending:
            return None
        mode = _MODES[entry >> 8 & 7]
        if (mode == "fixed" and not interrupts_enabled) or (mode == "nmi" and nmi_blocked):
            return None
        self.unit.pmi_pending -= 1
        if not self.unit.pmi_pending:
            self.unit.pmi_entry = 0
        return Pmi(mode, entry & 0xFF)

    def set_mode(self, *, svme=None, guest=None):
        """Set EFER.SVME and guest mode, which HostOnly and GuestOnly of PERF_CTL ask for (AMD APM vol. 2).

        Parameters
        ----------
        svme, guest : bool or None
            None: as it is.

        Raises
        ------
        ValueError
            On an Intel CPU, and for guest mode without SVME.
        """
        cdef bint with_svme = self.unit.svme if svme is None else svme
        cdef bint in_guest = self.unit.guest if guest is None else guest
        if (with_svme or in_guest) and "svm" not in self.model.features:
            raise ScenarioError(f"{self.model.name} has no SVM, so neither svme nor guest can be true")
        if in_guest and not with_svme:
            raise ScenarioError("guest=True needs svme=True: there is no guest mode without SVM")
        if self.unit.file.amd:
            set_mode(&self.unit, with_svme, in_guest)

    def smi(self):
        """Enter system management mode; with DEBUGCTL.FREEZE_WHILE_SMM counting stops (SDM vol. 3B 17.4.1).

        Raises
        ------
        ValueError
            In system management mode.
        """
        if self.unit.smm:
            raise ScenarioError("smi(): in system management mode already; call rsm() first")
        self.unit.smm = 1
        if self.unit.debugctl >> 14 & 1:
            self.unit.smm_saved[0] = self.unit.pmu.global_ctrl
            self.unit.smm_saved[1] = self.unit.debugctl
            if self.unit.file.version >= 2:
                self.unit.pmu.global_ctrl = 0
            self.unit.debugctl &= ~<uint64_t>0xC3  # LBR, BTF, TR, BTS

    def rsm(self):
        """Leave system management mode, and restore what :meth:`smi` saved.

        Raises
        ------
        ValueError
            Outside of system management mode.
        """
        if not self.unit.smm:
            raise ScenarioError("rsm(): not in system management mode; call smi() first")
        self.unit.smm = 0
        if self.unit.smm_saved[1]:
            self.unit.pmu.global_ctrl = self.unit.smm_saved[0]
            self.unit.debugctl = self.unit.smm_saved[1]
        self.unit.smm_saved[0] = self.unit.smm_saved[1] = 0

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
            For an unknown op or flag, a cpl above 3 or another shape, before anything is executed; and where
            :meth:`count` would refuse to count an instruction, naming the operation: those up to it have had their
            effect.
        """
        if not isinstance(ops, np.ndarray) or ops.dtype != OP_DTYPE:
            raise TypeError("ops must be an array of OP_DTYPE")
        if ops.ndim != 1:
            raise ScenarioError(f"ops must have one dimension, not {ops.ndim}")
        for name, most in (("op", 2), ("flags", 1), ("cpl", 3)):
            if np.any(ops[name] > most):
                raise ScenarioError(f"{name} of an operation must be 0 to {most}, not {ops[name].max()}")
        results = np.zeros(ops.size, dtype=RESULT_DTYPE)
        cdef const operation_t[::1] operations = np.ascontiguousarray(ops)
        cdef result_t[::1] out = results
        cdef Py_ssize_t i = 0
        cdef int refusing = -1
        with nogil:
            for i in range(operations.shape[0]):
                refusing = execute_one(&self.unit, &operations[i], &out[i])
                if refusing >= 0:
                    break
        if refusing >= 0:
            raise ScenarioError(f"operation {i} of {operations.shape[0]}: {unsummable(&self.unit, refusing)}")
        return results

    def state(self):
        """Everything that distinguishes this PMU from one just made.

        Returns
        -------
        dict
            Plain ints, tuples of ints and strings, with a ``version``. In tuples of counters, counter x has place x;
            in those of 32, fixed counter m has place 16 + m.
        """
        return take(&self.unit, self.model)

    @classmethod
    def from_state(cls, cpu, state):
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
            For a state of another version, CPU or shape, or with a value that a register cannot hold.
        """
        cdef Pmu self = cls(cpu)
        restore(&self.unit, cpu, state)
        return self

    def __reduce__(self):
        return type(self).from_state, (self.model, self.state())

    def __copy__(self):
        return type(self).from_state(self.model, self.state())

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __repr__(self):
        pmu = self.unit.pmu
        return f"Pmu({self.model.name!r}, GLOBAL_CTRL={pmu.global_ctrl:#x}, GLOBAL_STATUS={pmu.global_status:#x})"


cdef object _fault(object cpu, fault code, uint32_t msr, object value):
    name = msr_name(cpu, msr)
    reason = _REASONS[code]
    return GeneralProtectionFault(msr, value, f"{name}: {reason}" if name else reason)


cdef inline uint32_t _address(object value, str name) except? 0xFFFFFFFF:
    # The quick way for what nearly every access has.
    cdef int overflow = 0
    cdef long long number
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow and 0 <= number < <long long>1 << 32:
            return <uint32_t>number
    return _integer(value, 32, name)


cdef inline object _integer(object value, int bits, str name):
    # C conversions would take a float, and name neither argument nor bound.
    number = value if PyLong_CheckExact(value) else as_integer(value)
    if number < 0 or number >> bits:
        raise OverflowError(f"{name} must be an integer in [0, 2**{bits}), not {number}")
    return number
