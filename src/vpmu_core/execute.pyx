# cython: freethreading_compatible=True
"""RDMSR, WRMSR and RDPMC one after the other, the instructions that they are, and the overflows that counting brings."""
from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t, uint128_t
from vpmu_core.msr cimport FAULT_PRIVILEGE, fault, read_msr, read_pmc, write_msr
from vpmu_core.pmu cimport EVENT_INSTRUCTIONS, FIXED_SLOT, LVTPC_MASKED, bits_of, enabled, pmu_t, width_mask
from vpmu_core.registers cimport register_file_t


cdef void _request_pmi(pmu_t *pmu) noexcept nogil:
    """An overflow requests a PMI; while LVTPC is masked the request is dropped."""
    if not pmu.lvtpc & LVTPC_MASKED:
        pmu.pmi_pending = 1


cdef void add(pmu_t *pmu, int slot, uint64_t occurrences) noexcept nogil:
    # Advance one counter; it wraps as often as it must.
    cdef uint128_t total = <uint128_t>pmu.counter[slot] + occurrences
    cdef uint64_t mask = width_mask(pmu, slot)
    pmu.counter[slot] = <uint64_t>(total & mask)
    if total > mask:
        pmu.global_status |= bits_of(<uint32_t>1 << slot)
        if pmu.interrupt >> slot & 1:
            _request_pmi(pmu)


cdef void _retire_instruction(pmu_t *pmu, bint user) noexcept nogil:
    cdef uint32_t on = enabled(pmu, user)
    cdef int slot
    while on:
        slot = lowest_bit(on)
        on &= on - 1
        if pmu.event[slot] == EVENT_INSTRUCTIONS:
            add(pmu, slot, 1)


cdef int first_unsummable(const pmu_t *pmu, bint user) noexcept nogil:
    """An enabled counter whose control asks for more than sums of occurrences; -1 if there is none."""
    cdef uint32_t left = enabled(pmu, user)
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        # CMASK, EDGE, ANY, IN_TX, IN_TXCP; INV without CMASK is ignored. Of a fixed counter, ANY.
        if slot < FIXED_SLOT and pmu.selector[slot] & 0x3FF240000ULL:
            return slot
        if slot >= FIXED_SLOT and pmu.fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 4:
            return slot
    return -1


cdef int execute_one(pmu_t *pmu, const register_file_t *file, const operation_t *op, result_t *result) noexcept nogil:
    """Execute one operation; the slot that refuses to count the instruction, or -1."""
    cdef fault code
    cdef int refusing = -1
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
        refusing = first_unsummable(pmu, op.cpl > 0)
        if refusing < 0:
            _retire_instruction(pmu, op.cpl > 0)
    return refusing
