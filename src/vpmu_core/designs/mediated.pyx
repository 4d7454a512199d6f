# cython: freethreading_compatible=True
"""Design ``mediated``: guest PMU state is switched into hardware around some part of KVM's run loop (Linux 7.0).

Its reactions serve the designs that differ from it in what traps, and in what a switch saves.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, popcount32, uint32_t, uint64_t
from vpmu_core.eventfilter cimport load_controls
from vpmu_core.hostsample cimport host_nmi_handler
from vpmu_core.hostsched cimport place_host_events, thread_sleeps, thread_wakes
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_GLOBAL_CTRL, ACCESS_RDPMC, COST_HOST_NMI, COST_REPROGRAM, EFFECT_PMI,
    EXIT_EXTERNAL_INTERRUPT, FASTPATH, FLIGHT_GUEST, FLIGHT_HOST, KERNEL, SWITCH_AROUND_BLOCKING,
    SWITCH_AROUND_USERSPACE, USERSPACE, WINDOW_IS_GUEST,
)
from vpmu_core.kvmpmu cimport access_registers, counting_at, recompute_counting
from vpmu_core.resident cimport access_resident, request_for_each, retire_resident, write_resident_controls
from vpmu_core.unit cimport LVTPC_NMI, bits_of, slots_of, width_mask
from vpmu_core.switching cimport load_guest, put_guest
from vpmu_core.counting cimport spend, spend_each
from vpmu_core.state cimport access_t, design_t, machine_t
from vpmu_core.timeline cimport check_arrival, vm_exit


cdef void mediated_leave(machine_t *m) noexcept nogil:
    # VM-exit saves GLOBAL_CTRL (into the cache, if the guest writes it without exits) and loads 0.
    if not m.traps >> ACCESS_GLOBAL_CTRL & 1:
        m.guest.global_ctrl = m.hardware.global_ctrl
    m.hardware.global_ctrl = 0


cdef void mediated_enter(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = m.guest.global_ctrl


cdef bint mediated_refuses(machine_t *m) noexcept nogil:
    # The counter values are in hardware, so the fastpath cannot account for the instruction that it skips; where they
    # stay there in all exits (outer scopes), it is added there.
    return m.flags & 1 << KERNEL != 0 and (m.counting_instructions & slots_of(m.guest.global_ctrl)) != 0


cdef void mediated_access(machine_t *m, access_t *a) noexcept nogil:
    if m.guest_in_hardware:
        access_resident(m, a)
    elif a.access == ACCESS_RDPMC:
        a.value = m.guest.counter[a.slot]
    elif a.access == ACCESS_COUNTER:
        m.guest.counter[a.slot] = a.value & width_mask(&m.guest, a.slot)
    else:
        access_registers(m, a)


cdef void _overflow_in_memory(machine_t *m, uint32_t wrapped) noexcept nogil:
    m.guest.global_status |= bits_of(wrapped)
    request_for_each(m, wrapped & m.guest.interrupt)
    while wrapped:
        m.overflow_at[lowest_bit(wrapped)] = m.wall
        wrapped &= wrapped - 1


cdef void _retire_in_hardware(machine_t *m, uint32_t counted) noexcept nogil:
    request_for_each(m, retire_resident(m, counted))


cdef uint32_t mediated_retire(machine_t *m, int cpl) noexcept nogil:
    cdef uint32_t counted = counting_at(m, cpl), left = counted, wrapped = 0
    cdef uint64_t value
    cdef int slot
    if m.guest_in_hardware:
        _retire_in_hardware(m, counted)
        return counted
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        value = (m.guest.counter[slot] + 1) & width_mask(&m.guest, slot)
        m.guest.counter[slot] = value
        wrapped |= <uint32_t>(value == 0) << slot
    if wrapped:
        _overflow_in_memory(m, wrapped)
    return counted


cdef void mediated_requests(machine_t *m) noexcept nogil:
    # A selector reaches hardware as the guest wrote it, unless the event filter denies it.
    cdef uint32_t processed = m.reprogram
    m.reprogram = 0
    load_controls(m, processed)
    m.reprograms += popcount32(processed)
    spend_each(m, COST_REPROGRAM, popcount32(processed))
    if m.guest_in_hardware:
        write_resident_controls(m, processed)
    recompute_counting(m, processed)


cdef void mediated_put(machine_t *m) noexcept nogil:
    put_guest(m)
    m.guest_in_hardware = False


cdef void mediated_load(machine_t *m) noexcept nogil:
    load_guest(m)
    m.guest_in_hardware = True


cdef void _cede(machine_t *m) noexcept nogil:
    # A switch inside an exit: perf owns the PMU while the vCPU's thread is not in this scope.
    mediated_put(m)
    m.switches += 1
    check_arrival(m)


cdef void _regain(machine_t *m) noexcept nogil:
    mediated_load(m)
    check_arrival(m)


cdef void mediated_block(machine_t *m) noexcept nogil:
    if m.flags & SWITCH_AROUND_BLOCKING:
        _cede(m)
    thread_sleeps(m)


cdef void mediated_wake(machine_t *m) noexcept nogil:
    thread_wakes(m)
    if m.flags & SWITCH_AROUND_BLOCKING:
        _regain(m)


cdef void mediated_to_user(machine_t *m) noexcept nogil:
    if m.flags & SWITCH_AROUND_USERSPACE:
        _cede(m)


cdef void mediated_from_user(machine_t *m) noexcept nogil:
    if m.flags & SWITCH_AROUND_USERSPACE:
        _regain(m)


cdef void mediated_arrive(machine_t *m) noexcept nogil:
    cdef bint guests = (m.arrived & FLIGHT_GUEST) != 0, hosts = (m.arrived & FLIGHT_HOST) != 0
    if m.in_guest or not m.hardware.lvtpc & LVTPC_NMI:
        # Under the guest's vector a PMI is the guest's, whoever it was meant for.
        m.host_pmi.lost += hosts
        m.pmi.raised += not guests
    if m.in_guest:
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_PMI, NULL)
    elif m.hardware.lvtpc & LVTPC_NMI:
        # Past the switch of LVTPC: an NMI that host perf has no use for.
        m.pmi.skid_past_exit += guests
        m.pmi.lost += guests
        if hosts and not m.blind:
            m.arrived = FLIGHT_HOST
            host_nmi_handler(m)
        else:
            m.host_pmi.lost += hosts
            spend(m, COST_HOST_NMI)
    elif m.vector_pending:
        m.pmi.coalesced += 1
    else:
        m.vector_pending = True


cdef void mediated_reactions(design_t *d) noexcept nogil:
    memset(d, 0, sizeof(design_t))
    d.start = place_host_events
    d.leave = mediated_leave
    d.enter = mediated_enter
    d.put = mediated_put
    d.load = mediated_load
    d.block = mediated_block
    d.wake = mediated_wake
    d.to_user = mediated_to_user
    d.from_user = mediated_from_user
    d.requests = mediated_requests
    d.arrive = mediated_arrive
    d.refuses = mediated_refuses
    d.access = mediated_access
    d.retire = mediated_retire


cdef design_t _DESIGN
mediated_reactions(&_DESIGN)


_SCOPES = {
    "every-exit": 1 << FASTPATH | 1 << KERNEL | 1 << USERSPACE,
    "fastpath-loop": 1 << KERNEL | 1 << USERSPACE,
    "run-loop": SWITCH_AROUND_BLOCKING | SWITCH_AROUND_USERSPACE,
    "vcpu-sched": SWITCH_AROUND_BLOCKING,
}


def flags(options):
    """Return the design_flag bits that the options of a plan mean."""
    window = WINDOW_IS_GUEST if options.get("exclude_guest") == "window" else 0
    return _SCOPES[options.get("scope", "fastpath-loop")] | window


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
