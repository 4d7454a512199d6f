# cython: freethreading_compatible=True
"""Design ``virtualized``: the CPU itself saves and restores guest PMU state at entry and exit and delivers the PMI.

After "KVM: SVM: Support for PMC virtualization" (AMD, Nov 2025): host perf still leaves and returns around the run loop;
the hypervisor executes no PMU instruction and edits guest state in the VMCB.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint32_t
from vpmu_core.counting cimport spend
from vpmu_core.designs.mediated cimport mediated_access, mediated_requests, mediated_retire
from vpmu_core.hostsample cimport host_nmi_handler
from vpmu_core.hostsched cimport place_host_events, thread_sleeps, thread_wakes
from vpmu_core.kinds cimport COST_HARDWARE_PMU_SWITCH, FLIGHT_GUEST, FLIGHT_HOST
from vpmu_core.unit cimport LVTPC_MASKED
from vpmu_core.state cimport design_t, machine_t
from vpmu_core.switching cimport load_guest, put_guest
from vpmu_core.timeline cimport pend_nmi

from vpmu_core.designs import mediated as _mediated


cdef void _leave(machine_t *m) noexcept nogil:
    cdef uint32_t left = m.guest.slots
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        m.guest.counter[slot] = m.hardware.counter[slot]
        m.hardware.counter[slot] = 0
        m.hardware.selector[slot] = 0
    m.guest.global_ctrl = m.hardware.global_ctrl
    m.guest.global_status = m.hardware.global_status
    m.hardware.local[0] &= ~m.guest.slots
    m.hardware.local[1] &= ~m.guest.slots
    m.hardware.interrupt &= ~m.guest.slots
    m.hardware.fixed_ctr_ctrl = m.hardware.global_ctrl = m.hardware.global_status = 0
    spend(m, COST_HARDWARE_PMU_SWITCH)


cdef void _enter(machine_t *m) noexcept nogil:
    cdef uint32_t left = m.guest.slots
    cdef int slot
    spend(m, COST_HARDWARE_PMU_SWITCH)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        m.hardware.counter[slot] = m.guest.counter[slot]
        m.hardware.selector[slot] = m.guest.selector[slot]
        m.hardware.event[slot] = m.guest.event[slot]
    m.hardware.local[0] |= m.guest.local[0]
    m.hardware.local[1] |= m.guest.local[1]
    m.hardware.interrupt |= m.guest.interrupt
    m.hardware.fixed_ctr_ctrl = m.guest.fixed_ctr_ctrl
    m.hardware.global_ctrl = m.guest.global_ctrl
    m.hardware.global_status = m.guest.global_status


cdef void _arrive(machine_t *m) noexcept nogil:
    # Into the virtual APIC (AVIC) or as a virtual NMI, in either mode; the physical LVTPC has no part in it.
    cdef bint guests = (m.arrived & FLIGHT_GUEST) != 0, hosts = (m.arrived & FLIGHT_HOST) != 0
    m.hardware.lvtpc &= ~<uint32_t>LVTPC_MASKED
    if guests:
        if m.guest.lvtpc & LVTPC_MASKED:
            m.pmi.lost += 1
        else:
            if not m.amd:
                m.guest.lvtpc |= LVTPC_MASKED
            pend_nmi(m)
    if hosts:
        if m.in_guest or m.blind:
            m.host_pmi.lost += 1  # the host's events are out
        else:
            m.arrived = FLIGHT_HOST
            host_nmi_handler(m)


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.start = place_host_events
_DESIGN.leave = _leave
_DESIGN.enter = _enter
_DESIGN.put = put_guest
_DESIGN.block = thread_sleeps
_DESIGN.wake = thread_wakes
_DESIGN.load = load_guest
_DESIGN.requests = mediated_requests
_DESIGN.arrive = _arrive
_DESIGN.access = mediated_access
_DESIGN.retire = mediated_retire


flags = _mediated.flags


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
