# cython: freethreading_compatible=True
"""RDMSR, WRMSR and RDPMC one after the other, the instructions that they are, and plain sums of occurrences."""
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint8_t, uint32_t, uint64_t
from vpmu_core.advance cimport advance, counting, happening_t, is_pair, metrics_count
from vpmu_core.msr cimport FAULT_PRIVILEGE, fault, read_msr, read_pmc, write_msr
from vpmu_core.registers cimport QUIRK_GLDM_ANY
from vpmu_core.unit cimport (
    EVENTS, EVENT_CYCLES, EVENT_INSTRUCTIONS, EVENT_SLOTS, EVENT_TOPDOWN, FIXED_SLOT, METRICS, SELECTOR_ANY, SELECTOR_EDGE,
    unit_t,
)


cdef bint any_thread(const unit_t *unit, int slot) noexcept nogil:
    """Whether a counter counts for the sibling thread too (SDM vol. 3B, AnyThread, version 3)."""
    if unit.file.amd or unit.file.quirks & QUIRK_GLDM_ANY:
        return False
    if slot < FIXED_SLOT:
        return unit.pmu.selector[slot] & SELECTOR_ANY != 0
    if slot == FIXED_SLOT + 3 and unit.file.metrics_clear:
        return False
    return unit.pmu.fixed_ctr_ctrl >> (4 * (slot - FIXED_SLOT) + 2) & 1


cdef uint64_t _cycles_with(uint64_t selector, uint64_t n, uint64_t cycles) noexcept nogil:
    # Cycles that pass a counter mask if every one has n occurrences.
    cdef uint64_t least = selector >> 24 & 0xFF
    cdef bint holds = n >= least
    if selector >> 36 & 1:
        holds = n == least
    return cycles if holds != (selector >> 23 & 1) else 0


cdef int share_out(const unit_t *unit, const uint64_t *amount, bint slots_given, bint user, happening_t *h) noexcept nogil:
    """What sums of occurrences of named events bring each counter; the slot that needs to know more, or -1.

    ``amount`` has a value for each event, those that follow the clock included; ``h.cycles`` is set.
    """
    cdef uint32_t left
    cdef uint64_t selector
    cdef uint8_t event
    cdef int slot, i
    h.on = counting(unit, user)
    h.spurious = 0
    h.instructions = amount[EVENT_INSTRUCTIONS]
    h.metrics_on = metrics_count(unit, user)
    for i in range(METRICS):
        h.metrics[i] = amount[EVENT_TOPDOWN + i] if h.metrics_on else 0
    left = h.on
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        event = unit.pmu.event[slot]
        h.got[slot] = amount[event]
        if unit.file.amd and slot & 1 and is_pair(unit, slot - 1):
            h.got[slot] = 0
            continue
        if unit.reloads >> slot & 1 or any_thread(unit, slot):
            return slot
        if slot >= FIXED_SLOT:
            continue
        selector = unit.pmu.selector[slot]
        if selector & unit.file.special:
            if selector >> 32 & 1 and not unit.file.amd:  # IN_TX: no transaction
                h.got[slot] = 0
                continue
            if selector & SELECTOR_EDGE:
                return slot
            if selector >> 24 & 0xFF:
                if event == EVENT_CYCLES:
                    h.got[slot] = _cycles_with(selector, 1, h.cycles)
                elif event == EVENT_SLOTS and not slots_given:
                    h.got[slot] = _cycles_with(selector, unit.file.slots_per_cycle, h.cycles)
                else:
                    return slot
            elif unit.enable_hazard:
                h.got[slot] = h.cycles
        elif unit.enable_hazard:
            h.got[slot] = h.cycles
    return -1


cdef int _retire_instruction(unit_t *unit, bint user) noexcept nogil:
    """Count one instruction that takes no cycles; the slot that refuses, or -1."""
    cdef uint64_t amount[EVENTS]
    cdef happening_t h
    cdef int refusing
    memset(amount, 0, sizeof(amount))
    amount[EVENT_INSTRUCTIONS] = 1
    h.cycles = 0
    refusing = share_out(unit, amount, False, user, &h)
    if refusing < 0:
        advance(unit, &h)
    return refusing


cdef int execute_one(unit_t *unit, const operation_t *op, result_t *result) noexcept nogil:
    """Execute one operation; the slot that refuses to count the instruction, or -1."""
    cdef fault code
    if op.op == 0:
        code = FAULT_PRIVILEGE if op.cpl else read_msr(unit, op.address, &result.value)
    elif op.op == 1:
        code = FAULT_PRIVILEGE if op.cpl else write_msr(unit, op.address, op.value)
    else:
        code = read_pmc(unit, op.address, op.cpl, op.cr4_pce, &result.value)
    if code:
        result.fault = 1
        return -1
    if op.flags & 1:
        return _retire_instruction(unit, op.cpl > 0)
    return -1
