# Which MSR exists, which bits are legal and how it behaves; one table per CPU model, shared by its PMUs.
from vpmu_core._types cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LOOKUP_SIZE = 0x2000  # MSR addresses 0 .. 1FFFH
    MAX_MSRS = 256

cdef enum msr_kind:
    MSR_ABSENT = 0
    MSR_COUNTER_LEGACY = 1  # IA32_PMCx: a write sign-extends bit 31
    MSR_COUNTER = 2  # IA32_A_PMCx, IA32_FIXED_CTRm: full width
    MSR_SELECTOR = 3  # IA32_PERFEVTSELx
    MSR_FIXED_CTR_CTRL = 4
    MSR_GLOBAL_STATUS = 5  # read-only
    MSR_GLOBAL_CTRL = 6
    MSR_STATUS_RESET = 7  # IA32_PERF_GLOBAL_OVF_CTRL: write 1 to clear, reads 0
    MSR_STATUS_SET = 8  # write 1 to set, reads 0
    MSR_INUSE = 9  # computed, read-only
    MSR_STORAGE = 10  # kept, no effect on counting
    MSR_CANONICAL = 11  # storage of a canonical 48-bit address
    MSR_CONSTANT = 12  # read-only
    MSR_IGNORED = 13  # reads a constant, legal writes change nothing
    MSR_LVTPC = 14  # local APIC, x2APIC address

cdef struct msr_t:
    uint8_t kind  # msr_kind
    uint8_t slot  # counter slot, or index of the storage word
    uint64_t legal  # bits that a write may set
    uint64_t value  # what a constant reads

cdef struct register_file_t:
    uint16_t lookup[LOOKUP_SIZE]  # row of an address; row 0 is MSR_ABSENT
    msr_t row[MAX_MSRS]
    uint32_t slots  # existing counters: GP x -> bit x, fixed m -> bit 16 + m
    uint64_t gp_width_mask  # 2**W - 1
    uint64_t fixed_width_mask
    uint64_t reset_global_ctrl
    uint64_t rate_ref_cycles  # 2**-32 per core cycle
    uint64_t rate_bus_cycles
    uint64_t rate_slots
    uint8_t perf_metrics  # IA32_PERF_CAPABILITIES[15]


cdef inline const msr_t *find_msr(const register_file_t *file, uint32_t address) noexcept nogil:
    return &file.row[file.lookup[address] if address < LOOKUP_SIZE else 0]


cdef class RegisterFile:
    cdef register_file_t file
    cdef readonly object cpu  # the CpuModel it was made of
