# cython: freethreading_compatible=True
"""Design ``dedicated``: the host has given the PMU up; guest state stays in hardware, GLOBAL_CTRL is 0 in host mode."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint32_t
from vpmu_core.hostsched cimport thread_sleeps, thread_wakes
from vpmu_core.kinds cimport (
    ACCESS_SELECTOR, COST_HOST_NMI, COST_PMI_INJECTION, COST_WRMSR_LVTPC, EFFECT_PMI, EXIT_EXTERNAL_INTERRUPT, FIRST_OWN_FLAG,
    HOST_CEDED, KERNEL, OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR,
)
from vpmu_core.resident cimport access_resident, request_for_each, retire_resident, write_resident
from vpmu_core.unit cimport EVENT_INSTRUCTIONS, LVTPC_MASKED, slots_of, write_selector
from vpmu_core.counting cimport spend, tally
from vpmu_core.state cimport access_t, design_t, machine_t
from vpmu_core.timeline cimport pend_nmi, vm_exit

cdef enum:
    LVTPC_PASSTHROUGH = FIRST_OWN_FLAG


cdef void _start(machine_t *m) noexcept nogil:
    cdef int i
    m.blind = True
    m.guest.global_ctrl = m.hardware.global_ctrl
    m.hardware.global_ctrl = 0
    for i in range(m.host_events):
        m.host_event[i].state = HOST_CEDED


cdef void _leave(machine_t *m) noexcept nogil:
    m.guest.global_ctrl = m.hardware.global_ctrl
    m.hardware.global_ctrl = 0


cdef void _enter(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = m.guest.global_ctrl


cdef void _inject(machine_t *m) noexcept nogil:
    # The guest's LVTPC is the hardware's, and it is an NMI: there is nothing to look up.
    spend(m, COST_PMI_INJECTION)
    pend_nmi(m)


cdef void _access(machine_t *m, access_t *a) noexcept nogil:
    # Selectors exit on AMD only: the hypervisor sets GuestOnly, so that they count nothing in host mode.
    if a.access == ACCESS_SELECTOR:
        write_resident(m, OP_WRMSR_SELECTOR)
        write_selector(&m.hardware, a.slot, a.value)
    else:
        access_resident(m, a)


cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil:
    # The registers are the guest's, so an emulated instruction is added in hardware.
    cdef uint32_t left = m.hardware.local[cpl > 0] & slots_of(m.guest.global_ctrl), counted = 0
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if m.hardware.event[slot] == EVENT_INSTRUCTIONS:
            counted |= <uint32_t>1 << slot
    left = retire_resident(m, counted)
    if not m.flags & LVTPC_PASSTHROUGH:
        request_for_each(m, left)
        return counted
    while left:
        left &= left - 1
        m.pmi.raised += 1
        if m.hardware.lvtpc & LVTPC_MASKED:
            m.pmi.lost += 1
            continue
        if not m.amd:
            tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_LVTPC, 1)
            spend(m, COST_WRMSR_LVTPC)
            m.hardware.lvtpc |= LVTPC_MASKED
        _inject(m)
    return counted


cdef void _arrive(machine_t *m) noexcept nogil:
    if m.flags & LVTPC_PASSTHROUGH:
        if m.in_guest:
            pend_nmi(m)
            return
        # The guest's NMI hits the host, whose handler knows whose PMU it is.
        m.pmi.skid_past_exit += 1
        spend(m, COST_HOST_NMI)
        _inject(m)
    elif m.in_guest:
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_PMI, NULL)
    elif m.vector_pending:
        m.pmi.coalesced += 1
    else:
        m.vector_pending = True


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.start = _start
_DESIGN.leave = _leave
_DESIGN.enter = _enter
_DESIGN.access = _access
_DESIGN.retire = _retire
_DESIGN.arrive = _arrive
_DESIGN.block = thread_sleeps
_DESIGN.wake = thread_wakes


def flags(options):
    """Return the design_flag bits that the options of a plan mean."""
    return LVTPC_PASSTHROUGH if options.get("lvtpc") == "passthrough" else 0


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
