# KVM's software copy of a guest PMU: what its emulated and its mediated design share (arch/x86/kvm/pmu.c).
from vpmu_core._types cimport int64_t, lowest_bit, uint32_t, uint64_t
from vpmu_core.kinds cimport (
    ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_LVTPC, ACCESS_OVF_CTRL, ACCESS_SELECTOR,
)
from vpmu_core.unit cimport (
    EVENT_INSTRUCTIONS, FIXED_SLOT, GUEST_ONLY, SELECTOR_ENABLE, slots_of, write_fixed_ctr_ctrl,
    write_selector,
)
from vpmu_core.eventfilter cimport filter_slot
from vpmu_core.state cimport access_t, machine_t


cdef inline void access_registers(machine_t *m, access_t *a) noexcept nogil:
    # A trapped access to anything but a counter; what must be reprogrammed before the next entry is marked.
    cdef uint64_t changed
    cdef int i
    if a.access == ACCESS_SELECTOR:
        if a.value != m.guest.selector[a.slot]:
            m.reprogram |= <uint32_t>1 << a.slot
            write_selector(&m.guest, a.slot, a.value)
            if m.amd:
                m.loaded.selector[a.slot] |= <uint64_t>1 << GUEST_ONLY  # amd_pmu_set_msr()
                m.loaded.nonzero |= <uint32_t>1 << a.slot
            filter_slot(m, a.slot)
    elif a.access == ACCESS_FIXED_CTR_CTRL:
        changed = a.value ^ m.guest.fixed_ctr_ctrl
        for i in range(16):
            if changed >> 4 * i & 15 and m.guest.slots >> (FIXED_SLOT + i) & 1:
                m.reprogram |= <uint32_t>1 << (FIXED_SLOT + i)
                m.unloaded |= <uint32_t>1 << (FIXED_SLOT + i)
        write_fixed_ctr_ctrl(&m.guest, a.value)
    elif a.access == ACCESS_GLOBAL_CTRL:
        m.reprogram |= slots_of(a.value ^ m.guest.global_ctrl) & m.guest.slots
        m.guest.global_ctrl = a.value
    elif a.access == ACCESS_GLOBAL_STATUS:
        a.value = m.guest.global_status
    elif a.access == ACCESS_OVF_CTRL:
        m.guest.global_status &= ~a.value
    elif a.access == ACCESS_LVTPC:
        m.guest.lvtpc = a.value


cdef inline bint locally_enabled(const machine_t *m, int slot) noexcept nogil:
    # KVM pmc_is_locally_enabled(): EN of a selector, either enable bit of a fixed counter's field.
    if slot < FIXED_SLOT:
        return (m.guest.selector[slot] & SELECTOR_ENABLE) != 0
    return (m.guest.fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 3) != 0


cdef inline void recompute_counting(machine_t *m, uint32_t processed) noexcept nogil:
    # KVM kvm_pmu_recalc_pmc_emulation() for the counters that were reprogrammed.
    cdef int slot
    while processed:
        slot = lowest_bit(processed)
        processed &= processed - 1
        if m.guest.event[slot] == EVENT_INSTRUCTIONS and locally_enabled(m, slot):
            m.counting_instructions |= <uint32_t>1 << slot
        else:
            m.counting_instructions &= ~(<uint32_t>1 << slot)


cdef inline uint32_t counting_at(const machine_t *m, int cpl) noexcept nogil:
    # Counters that an emulated instruction must advance: kvm_pmu_trigger_event() looks at OS and USR, not at EN, and its
    # bitmap is as old as the last reprogramming.
    return m.counting_instructions & slots_of(m.guest.global_ctrl) & ~m.denied & m.guest.levels[cpl > 0]


cdef inline int64_t sample_period(uint64_t counter, uint64_t mask) noexcept nogil:
    # KVM get_sample_period(): up to the wrap, or a whole turn from 0.
    cdef uint64_t period = (0 - counter) & mask
    return <int64_t>(period if period else mask + 1)
