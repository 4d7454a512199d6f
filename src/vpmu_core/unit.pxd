# The PMU of one logical CPU: a data sheet. pmu_t is what counts (the machine has three of them); unit_t adds what
# software sees besides. No clock and no rates here.
from vpmu_core._types cimport int64_t, uint8_t, uint32_t, uint64_t
from vpmu_core.random cimport sfc64_t
from vpmu_core.registers cimport event_codes_t, event_of_selector, register_file_t

cdef enum:
    SLOTS = 32  # counter slots: GP x is slot x, fixed counter m is slot 16 + m
    FIXED_SLOT = 16
    GP_LANES = 8  # most GP counters of a CPU model that a machine can have
    FIXED_LANES = 4  # most fixed counters
    METRICS = 8  # fields of PERF_METRICS

cdef enum:  # the order of vpmu._event_codes.PMU_EVENTS; machines know those below NO_EVENT
    EVENT_INSTRUCTIONS = 0
    EVENT_CYCLES = 1
    EVENT_REF_CYCLES = 2
    EVENT_BUS_CYCLES = 3
    EVENT_CACHE_REFERENCES = 4
    EVENT_CACHE_MISSES = 5
    EVENT_BRANCHES = 6
    EVENT_BRANCH_MISSES = 7
    EVENT_SLOTS = 8
    NO_EVENT = 9
    EVENT_TOPDOWN = 10  # retiring, bad-spec, fe-bound, be-bound; heavy-ops, br-mispredict, fetch-lat, mem-bound
    EVENT_TOPDOWN_RETIRING = 10
    EVENT_TOPDOWN_BAD_SPEC = 11
    EVENT_TOPDOWN_FE_BOUND = 12
    EVENTS = 21  # NO_EVENT included: a row of rate 0

cdef enum:
    SELECTOR_USR = 1 << 16
    SELECTOR_OS = 1 << 17
    SELECTOR_EDGE = 1 << 18
    SELECTOR_INT = 1 << 20
    SELECTOR_ANY = 1 << 21
    SELECTOR_ENABLE = 1 << 22
    GUEST_ONLY = 40  # AMD: bit number in a selector
    LVTPC_MASKED = 1 << 16
    LVTPC_NMI = 0x400
    CTR_FRZ = 59
    LBR_FRZ = 58

cdef struct pmu_t:
    uint64_t counter[SLOTS]
    uint64_t selector[SLOTS]  # IA32_PERFEVTSELx; fixed slots unused
    uint64_t fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t global_status
    uint64_t lvtpc
    uint64_t width_mask[2]  # 2**W - 1 of GP and fixed counters
    const event_codes_t *codes
    uint32_t slots  # existing counters
    uint32_t local[2]  # slots enabled by their own control at CPL 0 [0] and CPL > 0 [1]
    uint32_t levels[2]  # slots whose control names the level, enabled or not; hardware in a switch: not kept
    uint32_t interrupt  # slots whose overflow requests a PMI
    uint8_t event[SLOTS]  # EVENT_* that the slot counts
    uint8_t admitted  # AMD: combinations of HostOnly (bit 1) and GuestOnly (bit 0) that count; else all

cdef struct unit_t:
    pmu_t pmu
    const register_file_t *file
    uint64_t cycles  # core cycles given to count(), for the events that follow the clock
    uint64_t debugctl
    uint64_t perf_metrics
    uint64_t metrics_slots[METRICS]  # accumulators behind PERF_METRICS
    uint64_t pebs_enable
    uint64_t pebs_data_cfg
    uint64_t pebs_base
    uint64_t pebs_index
    uint64_t ds_area
    uint64_t tsx_force_abort
    uint64_t uncore[3]  # 391H to 393H of client parts
    uint64_t reload[SLOTS]  # MSR_RELOAD_PMCx, _FIXED_CTRm
    uint64_t cfg_b[SLOTS]
    uint64_t cfg_c[SLOTS]
    uint64_t hwcr
    uint64_t irperf
    uint64_t smm_saved[2]  # GLOBAL_CTRL, DEBUGCTL
    uint64_t pmi_entry  # LVTPC[10:0] as it was when the pending PMI was accepted
    int64_t pmi_arrival  # cycle at which the PMI in flight arrives, -1 if there is none
    sfc64_t skid
    uint32_t reloads  # slots with a nonzero CFG_B
    uint32_t in_flight  # slots that the latest count() moved
    uint8_t pmi_pending  # 2: another one follows
    uint8_t has_skid
    uint8_t svme
    uint8_t guest
    uint8_t smm
    uint8_t enable_hazard  # QUIRK_NHM_ENABLE, until GLOBAL_CTRL was 0
    uint8_t reftsc_latch


cdef inline uint32_t slots_of(uint64_t bits) noexcept nogil:
    # Slots of a GLOBAL_CTRL-shaped value: GP in 15:0, fixed in 47:32.
    return <uint32_t>((bits & 0xFFFF) | (bits >> 32 & 0xFFFF) << 16)


cdef inline uint64_t bits_of(uint32_t slots) noexcept nogil:
    # The inverse of slots_of.
    return <uint64_t>(slots & 0xFFFF) | (<uint64_t>(slots >> 16)) << 32


cdef inline uint32_t enabled(const pmu_t *pmu, bint user) noexcept nogil:
    # Slots that count at CPL > 0 or at CPL 0 (SDM vol. 3B, IA32_PERF_GLOBAL_CTRL; CTR_FRZ of version 4 on, and AMD's).
    if pmu.global_status >> CTR_FRZ & 1:
        return 0
    return pmu.local[user] & slots_of(pmu.global_ctrl)


cdef inline uint64_t width_mask(const pmu_t *pmu, int slot) noexcept nogil:
    return pmu.width_mask[slot >> 4]


cdef inline uint64_t selector_code(const pmu_t *pmu, uint64_t selector) noexcept nogil:
    # Event select and unit mask: on AMD the event select has bits 35:32, too.
    return selector & (0xFFFF | (pmu.codes.mask & 0xF00000000ULL))


cdef inline uint8_t event_of_fixed(int index) noexcept nogil:
    # Instructions, core cycles, TSC-rate cycles, slots, and on Atoms bad speculation, frontend bound, retiring.
    if index == 0:
        return EVENT_INSTRUCTIONS
    if index == 1:
        return EVENT_CYCLES
    if index == 2:
        return EVENT_REF_CYCLES
    if index == 3:
        return EVENT_SLOTS
    if index == 4:
        return EVENT_TOPDOWN_BAD_SPEC
    if index == 5:
        return EVENT_TOPDOWN_FE_BOUND
    if index == 6:
        return EVENT_TOPDOWN_RETIRING
    return NO_EVENT


cdef inline void write_selector(pmu_t *pmu, int slot, uint64_t value) noexcept nogil:
    cdef uint32_t bit = <uint32_t>1 << slot
    cdef bint on = value & SELECTOR_ENABLE and pmu.admitted >> (value >> 40 & 3) & 1
    pmu.selector[slot] = value
    pmu.event[slot] = event_of_selector(pmu.codes, value)
    pmu.local[0] = (pmu.local[0] | bit) if on and value & SELECTOR_OS else (pmu.local[0] & ~bit)
    pmu.local[1] = (pmu.local[1] | bit) if on and value & SELECTOR_USR else (pmu.local[1] & ~bit)
    pmu.levels[0] = (pmu.levels[0] | bit) if value & SELECTOR_OS else (pmu.levels[0] & ~bit)
    pmu.levels[1] = (pmu.levels[1] | bit) if value & SELECTOR_USR else (pmu.levels[1] & ~bit)
    pmu.interrupt = (pmu.interrupt | bit) if value & SELECTOR_INT else (pmu.interrupt & ~bit)


cdef inline void write_fixed_ctr_ctrl(pmu_t *pmu, uint64_t value) noexcept nogil:
    cdef uint32_t os = 0, user = 0, interrupt = 0, bit
    cdef int m
    cdef uint64_t nibbles = value
    for m in range(16):
        bit = <uint32_t>1 << (FIXED_SLOT + m)
        if not pmu.slots >> (FIXED_SLOT + m):
            break
        if pmu.slots & bit:
            os |= bit if nibbles & 1 else 0
            user |= bit if nibbles & 2 else 0
            interrupt |= bit if nibbles & 8 else 0
        nibbles >>= 4
    pmu.fixed_ctr_ctrl = value
    pmu.local[0] = (pmu.local[0] & 0xFFFF) | os
    pmu.local[1] = (pmu.local[1] & 0xFFFF) | user
    pmu.levels[0] = (pmu.levels[0] & 0xFFFF) | os
    pmu.levels[1] = (pmu.levels[1] & 0xFFFF) | user
    pmu.interrupt = (pmu.interrupt & 0xFFFF) | interrupt
