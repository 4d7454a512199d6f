# Guest PMU state that stays in hardware while the hypervisor runs: it reads and writes the registers themselves.
from vpmu_core._types cimport lowest_bit, popcount32, uint32_t, uint64_t
from vpmu_core.eventfilter cimport load_controls
from vpmu_core.counting cimport host_activity, host_advance, spend, tally
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_GLOBAL_STATUS, ACCESS_LVTPC, ACCESS_OVF_CTRL, ACCESS_RDPMC, COST_RDMSR, COST_RDPMC,
    COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC,
    OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR,
)
from vpmu_core.kvmpmu cimport access_registers
from vpmu_core.state cimport access_t, machine_t
from vpmu_core.switching cimport GUEST_VECTOR
from vpmu_core.timeline cimport request_guest_pmi
from vpmu_core.unit cimport (
    FIXED_SLOT, LVTPC_MASKED, bits_of, width_mask, write_fixed_ctr_ctrl, write_selector,
)


cdef inline void write_resident(machine_t *m, int op) noexcept nogil:
    # The hypervisor executes one WRMSR; its effect is the caller's.
    tally(m, ORIGIN_HYPERVISOR, op, 1)
    spend(m, COST_WRMSR)


cdef inline void read_msrs(machine_t *m, uint64_t n) noexcept nogil:
    # The hypervisor executes RDMSRs in a row.
    tally(m, ORIGIN_HYPERVISOR, OP_RDMSR, n)
    m.spent[COST_RDMSR] += n * m.cost[COST_RDMSR]
    host_advance(m, host_activity(m), n * m.cost[COST_RDMSR])


cdef inline uint64_t selector_reads(uint32_t slots) noexcept nogil:
    # RDMSRs that tell what these slots count: one for each GP counter, one for all fixed counters.
    return popcount32(slots & 0xFFFF) + <uint64_t>(slots >> FIXED_SLOT != 0)


cdef inline void write_resident_lvtpc(machine_t *m, uint64_t guest_value) noexcept nogil:
    # The hypervisor's vector with the guest's mask.
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_LVTPC, 1)
    spend(m, COST_WRMSR_LVTPC)
    m.hardware.lvtpc = GUEST_VECTOR | (guest_value & LVTPC_MASKED)


cdef inline uint32_t retire_resident(machine_t *m, uint32_t counted) noexcept nogil:
    # An emulated instruction is added in hardware; returns the slots that wrapped and ask for a PMI.
    cdef uint32_t left = counted, bit, wrapped = 0
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        bit = <uint32_t>1 << slot
        tally(m, ORIGIN_HYPERVISOR, OP_RDPMC, 1)
        spend(m, COST_RDPMC)
        write_resident(m, OP_WRMSR_COUNTER)
        m.hardware.counter[slot] = (m.hardware.counter[slot] + 1) & width_mask(&m.hardware, slot)
        if m.hardware.counter[slot] == 0:
            write_resident(m, OP_WRMSR_GLOBAL)
            m.overflow_at[slot] = m.wall
            m.hardware.global_status |= bits_of(bit)
            wrapped |= bit & m.hardware.interrupt
    return wrapped


cdef inline void request_for_each(machine_t *m, uint32_t wrapped) noexcept nogil:
    while wrapped:
        wrapped &= wrapped - 1
        m.pmi.raised += 1
        request_guest_pmi(m)


cdef inline void access_resident(machine_t *m, access_t *a) noexcept nogil:
    # A trapped access while guest state is loaded. Controls go to the cache and reach hardware before the next entry.
    if a.access == ACCESS_RDPMC:
        tally(m, ORIGIN_HYPERVISOR, OP_RDPMC, 1)
        spend(m, COST_RDPMC)
        a.value = m.hardware.counter[a.slot]
    elif a.access == ACCESS_COUNTER:
        write_resident(m, OP_WRMSR_COUNTER)
        m.hardware.counter[a.slot] = a.value & width_mask(&m.hardware, a.slot)
    elif a.access == ACCESS_GLOBAL_STATUS:
        read_msrs(m, 1)
        a.value = m.hardware.global_status
    elif a.access == ACCESS_OVF_CTRL:
        write_resident(m, OP_WRMSR_GLOBAL)
        m.hardware.global_status &= ~a.value
    else:
        access_registers(m, a)
        if a.access == ACCESS_LVTPC:
            write_resident_lvtpc(m, a.value)


cdef inline void write_resident_controls(machine_t *m, uint32_t slots) noexcept nogil:
    # What was reprogrammed reaches hardware: registers whose value has changed.
    cdef uint32_t left = slots & 0xFFFF
    cdef int slot
    load_controls(m, slots)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if m.hardware.selector[slot] != m.loaded.selector[slot]:
            write_resident(m, OP_WRMSR_SELECTOR)
            write_selector(&m.hardware, slot, m.loaded.selector[slot])
    if slots >> FIXED_SLOT and m.hardware.fixed_ctr_ctrl != m.loaded.fixed_ctr_ctrl:
        write_resident(m, OP_WRMSR_SELECTOR)
        write_fixed_ctr_ctrl(&m.hardware, m.loaded.fixed_ctr_ctrl)
