# Which MSR exists, which bits are legal and how it behaves; one table per CPU model, shared by its PMUs.
from vpmu_core._types cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LOOKUP_SIZE = 0x2800  # MSR addresses 0 .. 1FFFH, C0000000H .. C00003FFH, C0010000H .. C00103FFH
    MAX_MSRS = 256
    CODE_CELLS = 64  # of the hash of event codes

cdef enum msr_read:
    READ_ABSENT = 0  # #GP
    READ_WORD = 1  # a word of unit_t
    READ_CONSTANT = 2
    READ_INUSE = 3  # computed

cdef enum msr_write:
    WRITE_READ_ONLY = 0  # #GP
    WRITE_WORD = 1  # a word of unit_t, no side effect
    WRITE_DROPPED = 2  # legal, and changes nothing
    WRITE_COUNTER_LEGACY = 3  # IA32_PMCx: sign-extends bit 31
    WRITE_SELECTOR = 4
    WRITE_FIXED_CTR_CTRL = 5
    WRITE_GLOBAL_CTRL = 6
    WRITE_STATUS_RESET = 7  # ones clear
    WRITE_STATUS_SET = 8  # ones set
    WRITE_METRICS = 9
    WRITE_CANONICAL = 10  # a word that must be a canonical address of 48 bits
    WRITE_LVTPC = 11
    WRITE_RELOAD_MASK = 12  # CFG_B: which overflows reload this counter

cdef enum quirk:  # those that change what the core does; the order of vpmu._registers.CORE_QUIRKS
    QUIRK_IRQ_OVERCOUNT = 1 << 0
    QUIRK_ATOM_FAR_OVERCOUNT = 1 << 1
    QUIRK_ATOM_FAR_OVERCOUNT_INSTRUCTIONS = 1 << 2
    QUIRK_AMD_VMRUN_BRANCH = 1 << 3
    QUIRK_AMD_1292 = 1 << 4
    QUIRK_ZEN4_STATUS_RSVD = 1 << 5
    QUIRK_AMD_LATE_NMI = 1 << 6
    QUIRK_HT_LEAK = 1 << 7
    QUIRK_TFA = 1 << 8
    QUIRK_NHM_ENABLE = 1 << 9
    QUIRK_SMM_USER = 1 << 10
    QUIRK_FREEZE_LATE = 1 << 11
    QUIRK_TXCP_SPURIOUS = 1 << 12
    QUIRK_RDPMC_OOO = 1 << 13
    QUIRK_GLDM_ANY = 1 << 14
    QUIRK_REFTSC_STICKY_OVF = 1 << 15

cdef struct msr_t:
    uint8_t read  # msr_read
    uint8_t write  # msr_write
    uint8_t slot  # counter slot
    uint16_t word  # index of the word in unit_t
    uint64_t writable  # bits that a write stores
    uint64_t faulting  # bits that raise #GP
    uint64_t constant  # what READ_CONSTANT reads

cdef struct event_codes_t:  # which event a selector counts: a hash without collisions
    uint64_t mask  # selector bits that say it
    uint32_t multiplier
    uint32_t key[CODE_CELLS]
    uint8_t event[CODE_CELLS]  # EVENT_*; NO_EVENT in empty cells

cdef struct register_file_t:
    uint16_t lookup[LOOKUP_SIZE]  # row of an address; row 0 is READ_ABSENT
    msr_t row[MAX_MSRS]
    event_codes_t codes
    uint32_t slots  # existing counters: GP x -> bit x, fixed m -> bit 16 + m
    uint64_t gp_width_mask  # 2**W - 1
    uint64_t fixed_width_mask
    uint64_t reset_global_ctrl
    uint64_t rate_ref_cycles  # 2**-32 per core cycle
    uint64_t rate_bus_cycles
    uint64_t rate_slots
    uint64_t special  # selector bits that ask for more than a sum of occurrences
    uint64_t status  # counter bits that an overflow may set in STATUS; 0: there is no STATUS
    uint64_t user_disable  # selector bit RDPMC_USR_DISABLE if it exists
    uint64_t skid_minimum  # cycles
    uint64_t skid_range
    uint32_t quirks  # QUIRK_*
    uint32_t rdpmc_shared  # AMD: RDPMC indices of shared counters
    uint8_t version
    uint8_t amd
    uint8_t perf_metrics  # fields that count: 0, 4 or 8
    uint8_t metrics_clear  # IA32_PERF_CAPABILITIES[19]: FIXED_CTR_CTRL bit 14 is not AnyThread
    uint8_t transactions  # RTM or HLE
    uint8_t slots_per_cycle


cdef inline const msr_t *find_msr(const register_file_t *file, uint32_t address) noexcept nogil:
    if address < 0x2000:
        return &file.row[file.lookup[address]]
    if address - 0xC0000000U < 0x400:
        return &file.row[file.lookup[address - 0xC0000000U + 0x2000]]
    if address - 0xC0010000U < 0x400:
        return &file.row[file.lookup[address - 0xC0010000U + 0x2400]]
    return &file.row[0]


cdef inline uint8_t event_of_selector(const event_codes_t *codes, uint64_t selector) noexcept nogil:
    # Bits 47:40 or 35:32 of the code fold onto bits 31:16, which it does not use.
    cdef uint64_t code = selector & codes.mask
    cdef uint32_t key = <uint32_t>(code | code >> 16)
    cdef uint32_t cell = key * codes.multiplier >> 26
    return codes.event[cell] if codes.key[cell] == key else 9  # NO_EVENT


cdef class RegisterFile:
    cdef register_file_t file
    cdef readonly object cpu  # the CpuModel it was made of
