# The PMU of one logical CPU: registers, what is enabled, overflow. No clock and no rates here.
from vpmu_core._types cimport uint8_t, uint32_t, uint64_t
from vpmu_core.registers cimport RegisterFile, register_file_t

cdef enum:
    SLOTS = 32  # counter slots: GP x is slot x, fixed counter m is slot 16 + m
    FIXED_SLOT = 16
    GP_LANES = 8  # most GP counters of a CPU model
    FIXED_LANES = 4  # most fixed counters
    STORAGE_WORDS = 6

cdef enum:
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
    EVENTS = 10  # NO_EVENT included: a row of rate 0

cdef enum:
    SELECTOR_USR = 1 << 16
    SELECTOR_OS = 1 << 17
    SELECTOR_INT = 1 << 20
    SELECTOR_ENABLE = 1 << 22
    LVTPC_MASKED = 1 << 16
    LVTPC_NMI = 0x400

cdef struct pmu_t:
    uint64_t counter[SLOTS]
    uint64_t selector[SLOTS]  # IA32_PERFEVTSELx; fixed slots unused
    uint64_t fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t global_status
    uint64_t lvtpc
    uint64_t storage[STORAGE_WORDS]  # registers that do not count
    uint64_t cycles  # core cycles given to count(), for the events that follow the clock
    uint64_t width_mask[2]  # 2**W - 1 of GP and fixed counters
    uint32_t slots  # existing counters
    uint32_t local[2]  # slots enabled by their own control at CPL 0 [0] and CPL > 0 [1]
    uint32_t interrupt  # slots whose overflow requests a PMI
    uint8_t event[SLOTS]  # EVENT_* that the slot counts
    uint8_t pmi_pending


cdef inline uint32_t slots_of(uint64_t bits) noexcept nogil:
    # Slots of a GLOBAL_CTRL-shaped value: GP in 15:0, fixed in 47:32.
    return <uint32_t>((bits & 0xFFFF) | (bits >> 32 & 0xFFFF) << 16)


cdef inline uint64_t bits_of(uint32_t slots) noexcept nogil:
    # The inverse of slots_of.
    return <uint64_t>(slots & 0xFFFF) | (<uint64_t>(slots >> 16)) << 32


cdef inline uint32_t enabled(const pmu_t *pmu, bint user) noexcept nogil:
    # Slots that count at CPL > 0 or at CPL 0 (SDM vol. 3B, IA32_PERF_GLOBAL_CTRL; CTR_FRZ of version 4 on).
    if pmu.global_status >> 59 & 1:
        return 0
    return pmu.local[user] & slots_of(pmu.global_ctrl)


cdef inline uint64_t width_mask(const pmu_t *pmu, int slot) noexcept nogil:
    return pmu.width_mask[slot >> 4]


cdef inline uint8_t event_of_selector(uint64_t selector, bint has_slots) noexcept nogil:
    # SDM vol. 3B, table of architectural performance events.
    cdef uint32_t code = <uint32_t>(selector & 0xFFFF)
    if code == 0x00C0:
        return EVENT_INSTRUCTIONS
    if code == 0x003C:
        return EVENT_CYCLES
    if code == 0x013C:
        return EVENT_BUS_CYCLES
    if code == 0x4F2E:
        return EVENT_CACHE_REFERENCES
    if code == 0x412E:
        return EVENT_CACHE_MISSES
    if code == 0x00C4:
        return EVENT_BRANCHES
    if code == 0x00C5:
        return EVENT_BRANCH_MISSES
    if code == 0x01A4 and has_slots:
        return EVENT_SLOTS
    return NO_EVENT


cdef inline uint8_t event_of_fixed(int index) noexcept nogil:
    # Fixed counters 0 to 3: instructions, core cycles, TSC-rate cycles, topdown slots.
    if index == 0:
        return EVENT_INSTRUCTIONS
    if index == 1:
        return EVENT_CYCLES
    if index == 2:
        return EVENT_REF_CYCLES
    if index == 3:
        return EVENT_SLOTS
    return NO_EVENT


cdef inline void write_selector(pmu_t *pmu, int slot, uint64_t value) noexcept nogil:
    cdef uint32_t bit = <uint32_t>1 << slot
    cdef bint on = (value & SELECTOR_ENABLE) != 0
    pmu.selector[slot] = value
    pmu.event[slot] = event_of_selector(value, pmu.slots >> 19 & 1)
    pmu.local[0] = (pmu.local[0] | bit) if on and value & SELECTOR_OS else (pmu.local[0] & ~bit)
    pmu.local[1] = (pmu.local[1] | bit) if on and value & SELECTOR_USR else (pmu.local[1] & ~bit)
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
    pmu.interrupt = (pmu.interrupt & 0xFFFF) | interrupt


cdef class Pmu:
    cdef pmu_t pmu
    cdef RegisterFile file  # keeps the table alive

    cdef object _hold(self, uint32_t address, str name, object value)
