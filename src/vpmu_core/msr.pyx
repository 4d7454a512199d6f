# cython: freethreading_compatible=True
"""Register accesses of one PMU, by the table of its CPU model."""
from libc.string cimport memset

from vpmu_core._types cimport uint8_t, uint32_t, uint64_t
from vpmu_core.pmu cimport (
    FIXED_SLOT, LVTPC_MASKED, NO_EVENT, SLOTS, event_of_fixed, pmu_t, write_fixed_ctr_ctrl, write_selector,
)
from vpmu_core.registers cimport (
    MSR_ABSENT, MSR_CANONICAL, MSR_CONSTANT, MSR_COUNTER, MSR_COUNTER_LEGACY, MSR_FIXED_CTR_CTRL, MSR_GLOBAL_CTRL,
    MSR_GLOBAL_STATUS, MSR_INUSE, MSR_LVTPC, MSR_SELECTOR, MSR_STATUS_RESET, MSR_STATUS_SET, MSR_STORAGE, find_msr, msr_t,
    register_file_t,
)


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
