# cython: freethreading_compatible=True
"""Dense register tables made of the declarative tables in :mod:`vpmu._registers`."""
from libc.string cimport memset

from vpmu_core._types cimport uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.unit cimport NO_EVENT, unit_t

cdef unit_t *_UNIT = NULL  # only its layout


cdef inline size_t _word(const void *field) noexcept:
    return (<size_t>field - <size_t>_UNIT) // sizeof(uint64_t)


#: Index of a field of unit_t in 64-bit words; a bank's first element.
WORDS = {
    "counter": _word(&_UNIT.pmu.counter[0]),
    "selector": _word(&_UNIT.pmu.selector[0]),
    "fixed_ctr_ctrl": _word(&_UNIT.pmu.fixed_ctr_ctrl),
    "global_ctrl": _word(&_UNIT.pmu.global_ctrl),
    "global_status": _word(&_UNIT.pmu.global_status),
    "lvtpc": _word(&_UNIT.pmu.lvtpc),
    "debugctl": _word(&_UNIT.debugctl),
    "perf_metrics": _word(&_UNIT.perf_metrics),
    "pebs_enable": _word(&_UNIT.pebs_enable),
    "pebs_data_cfg": _word(&_UNIT.pebs_data_cfg),
    "pebs_base": _word(&_UNIT.pebs_base),
    "pebs_index": _word(&_UNIT.pebs_index),
    "ds_area": _word(&_UNIT.ds_area),
    "tsx_force_abort": _word(&_UNIT.tsx_force_abort),
    "uncore": _word(&_UNIT.uncore[0]),
    "reload": _word(&_UNIT.reload[0]),
    "cfg_b": _word(&_UNIT.cfg_b[0]),
    "cfg_c": _word(&_UNIT.cfg_c[0]),
    "hwcr": _word(&_UNIT.hwcr),
    "irperf": _word(&_UNIT.irperf),
}


cdef int _lookup_index(object address) except -1:
    for base, size, first in ((0, 0x2000, 0), (0xC0000000, 0x400, 0x2000), (0xC0010000, 0x400, 0x2400)):
        if base <= address < base + size:
            return address - base + first
    raise ValueError(f"MSR {address:#x} does not fit the register table")


cdef _fill_codes(event_codes_t *codes, mask, events):
    """Find a multiplier that sends each code to a cell of its own."""
    cdef uint32_t multiplier = 0x9E3779B1U
    keys = [code & 0xFFFFFFFF | code >> 16 for code in events]
    codes.mask = mask
    while len({(key * multiplier & 0xFFFFFFFF) >> 26 for key in keys}) < len(keys):
        multiplier = multiplier * 0x2C9277B5U + 1
    codes.multiplier = multiplier
    memset(codes.event, NO_EVENT, sizeof(codes.event))
    for key, event in zip(keys, events.values(), strict=True):
        cell = (key * multiplier & 0xFFFFFFFF) >> 26
        codes.key[cell] = key
        codes.event[cell] = event


cdef class RegisterFile:
    """Register table of one CPU model.

    Parameters
    ----------
    cpu : vpmu.CpuModel
        The model.
    rows : iterable of vpmu._registers.Msr
        All MSRs that exist.
    codes : mapping of int to int
        Event index by selector code.
    figures : mapping of str to int
        The other fields of register_file_t.
    """

    def __init__(self, cpu, rows, codes, figures):
        cdef msr_t *row
        cdef int count = 0, index
        memset(&self.file, 0, sizeof(self.file))
        self.cpu = cpu
        for msr in rows:
            count += 1
            index = _lookup_index(msr.address)
            if count >= MAX_MSRS or self.file.lookup[index]:
                raise ValueError(f"MSR {msr.address:#x} does not fit the register table")
            row = &self.file.row[count]
            row.read = <uint8_t>msr.read
            row.write = <uint8_t>msr.write
            row.slot = <uint8_t>msr.slot
            row.word = <uint16_t>msr.word
            row.writable = <uint64_t>msr.writable
            row.faulting = <uint64_t>msr.faulting
            row.constant = <uint64_t>msr.constant
            self.file.lookup[index] = <uint16_t>count
        _fill_codes(&self.file.codes, figures["code_mask"], codes)
        self.file.slots = cpu.gp_mask | cpu.fixed_mask << 16
        self.file.gp_width_mask = (1 << cpu.gp_width) - 1
        self.file.fixed_width_mask = (1 << cpu.fixed_width) - 1
        self.file.reset_global_ctrl = cpu.gp_mask
        self.file.rate_ref_cycles = figures["rate_ref_cycles"]
        self.file.rate_bus_cycles = figures["rate_bus_cycles"]
        self.file.rate_slots = figures["rate_slots"]
        self.file.special = figures["special"]
        self.file.status = figures["status"]
        self.file.user_disable = figures["user_disable"]
        self.file.skid_minimum = cpu.skid.minimum
        self.file.skid_range = cpu.skid.maximum - cpu.skid.minimum + 1
        self.file.quirks = figures["quirks"]
        self.file.rdpmc_shared = figures["rdpmc_shared"]
        self.file.version = cpu.version
        self.file.amd = cpu.vendor == "amd"
        self.file.perf_metrics = figures["perf_metrics"]
        self.file.metrics_clear = cpu.perf_capabilities >> 19 & 1
        self.file.transactions = bool(cpu.features & {"rtm", "hle"})
        self.file.slots_per_cycle = cpu.slots_per_cycle
