# cython: freethreading_compatible=True
"""Dense register tables made of the declarative table in :mod:`vpmu._registers`."""
from libc.string cimport memset

from vpmu_core._types cimport uint8_t, uint64_t


cdef class RegisterFile:
    """Register table of one CPU model.

    Parameters
    ----------
    cpu : vpmu.CpuModel
        The model.
    rows : iterable of (address, kind, slot, legal, value)
        All MSRs that exist.
    """

    def __init__(self, cpu, rows):
        cdef msr_t *row
        cdef int count = 0
        memset(&self.file, 0, sizeof(self.file))
        self.cpu = cpu
        for address, kind, slot, legal, value in rows:
            count += 1
            if count >= MAX_MSRS or not 0 <= address < LOOKUP_SIZE or self.file.lookup[address]:
                raise ValueError(f"MSR {address:#x} does not fit the register table")
            row = &self.file.row[count]
            row.kind = <uint8_t>kind
            row.slot = <uint8_t>slot
            row.legal = <uint64_t>legal
            row.value = <uint64_t>value
            self.file.lookup[address] = <uint16_t>count
        self.file.slots = cpu.gp_mask | cpu.fixed_mask << 16
        self.file.gp_width_mask = (1 << cpu.gp_width) - 1
        self.file.fixed_width_mask = (1 << cpu.fixed_width) - 1
        self.file.reset_global_ctrl = cpu.gp_mask
        self.file.rate_ref_cycles = cpu.rate_of("ref-cycles")
        self.file.rate_bus_cycles = cpu.rate_of("bus-cycles")
        self.file.rate_slots = cpu.rate_of("slots")
        self.file.perf_metrics = cpu.perf_capabilities >> 15 & 1
