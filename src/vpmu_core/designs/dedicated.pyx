# cython: freethreading_compatible=True
"""Design ``dedicated``: the host has given the PMU up; guest state stays in hardware, GLOBAL_CTRL is 0 in host mode."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint32_t
from vpmu_core.unit cimport EVENT_INSTRUCTIONS, LVTPC_MASKED, bits_of, slots_of, width_mask
from vpmu_core.switching cimport GUEST_VECTOR
from vpmu_core.counting cimport spend, tally
from vpmu_core.state cimport (
    ACCESS_LVTPC, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, EFFECT_PMI, EXIT_EXTERNAL_INTERRUPT, HOST_CEDED, KERNEL,
    OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, ORIGIN_HYPERVISOR, access_t, design_t, machine_t,
)
from vpmu_core.timeline cimport request_guest_pmi, vm_exit


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


cdef void _access(machine_t *m, access_t *a) noexcept nogil:
    # Only LVTPC traps: hardware keeps the hypervisor's vector with the guest's mask.
    if a.access == ACCESS_LVTPC:
        m.guest.lvtpc = a.value
        tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_LVTPC, 1)
        spend(m, COST_WRMSR_LVTPC)
        m.hardware.lvtpc = GUEST_VECTOR | (a.value & LVTPC_MASKED)


cdef void _write(machine_t *m, int op) noexcept nogil:
    tally(m, ORIGIN_HYPERVISOR, op, 1)
    spend(m, COST_WRMSR)


cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil:
    # The registers are the guest's, so an emulated instruction is added in hardware.
    cdef uint32_t left = m.hardware.local[cpl > 0] & slots_of(m.guest.global_ctrl), counted = 0, bit
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if m.hardware.event[slot] != EVENT_INSTRUCTIONS:
            continue
        bit = <uint32_t>1 << slot
        counted |= bit
        tally(m, ORIGIN_HYPERVISOR, OP_RDPMC, 1)
        spend(m, COST_RDPMC)
        _write(m, OP_WRMSR_COUNTER)
        m.hardware.counter[slot] = (m.hardware.counter[slot] + 1) & width_mask(&m.hardware, slot)
        if m.hardware.counter[slot] == 0:
            _write(m, OP_WRMSR_GLOBAL)
            m.overflow_at[slot] = m.wall
            m.hardware.global_status |= bits_of(bit)
            if m.hardware.interrupt & bit:
                m.pmi.raised += 1
                request_guest_pmi(m)
    return counted


cdef void _arrive(machine_t *m) noexcept nogil:
    if m.in_guest:
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


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
