# cython: freethreading_compatible=True, cdivision=True
"""Guest perf as Linux does it on AMD CPUs, with PerfMonV2 and before (arch/x86/events/amd/core.c).

AMD's NMIs may come late, so whoever stops a counter outside of an NMI waits until its overflow has been handled.
"""
from vpmu_core._types cimport uint64_t
from vpmu_core.counting cimport meter_absent
from vpmu_core.guestaccess cimport (
    arm_event, guest_access, guest_work, make_access, pmu_disable, pmu_enable, read_event, write_guest_lvtpc,
)
from vpmu_core.guestperf cimport sample
from vpmu_core.guestperiod cimport guest_time, handler_took
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_OVF_CTRL, ACCESS_RDPMC, ACCESS_READ_SELECTOR,
    ACCESS_SELECTOR, COST_GUEST_NMI_ENTRY, COST_GUEST_NMI_EXIT, COST_GUEST_PERF_CALL, COST_RDMSR, EXIT_MSR_READ,
    HANDLER, OP_RDMSR,
)
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport access_t, machine_t
from vpmu_core.timeline cimport run_guest
from vpmu_core.unit cimport GP_LANES, SELECTOR_ENABLE, bits_of, width_mask

cdef enum:
    WAITS = 50  # OVERFLOW_WAIT_COUNT, a microsecond each
    MICROSECONDS = 1000000


cdef access_t _read_msr(machine_t *m, int access, int trap, int slot) noexcept nogil:
    """RDMSR of a counter or a selector."""
    cdef access_t a
    a.access = access
    a.slot = slot
    a.value = a.ideal = 0
    a.applied = 0
    if m.stopped:
        return a
    make_access(m, &a, trap, OP_RDMSR, COST_RDMSR, EXIT_MSR_READ)
    return a


cdef guest_event_t *_active_on(machine_t *m, int slot) noexcept nogil:
    """The event of a bit of cpuc->active_mask; NULL if it is clear."""
    cdef int i
    for i in range(m.guest_events):
        if m.guest_event[i].active and m.guest_event[i].slot == slot:
            return &m.guest_event[i]
    return NULL


cdef inline bint _has_wrapped(const machine_t *m, int slot, uint64_t counter) noexcept nogil:
    # Armed with minus a period below 2**(W - 1): its top bit is set up to the overflow.
    return counter & (width_mask(&m.ideal, slot) ^ width_mask(&m.ideal, slot) >> 1) == 0


cdef bint _overflow_pending(machine_t *m, int slot) noexcept nogil:
    """amd_pmu_test_overflow_status() or _topbit()."""
    cdef access_t a
    if m.guest_v1:
        a = _read_msr(m, ACCESS_RDPMC, ACCESS_COUNTER, slot)
        return a.applied and _has_wrapped(m, slot, a.value)
    a = guest_access(m, ACCESS_GLOBAL_STATUS, 0, 0)
    return a.applied and a.value >> slot & 1


cdef void wait_on_overflow(machine_t *m, int slot) noexcept nogil:
    """amd_pmu_wait_on_overflow(): until the NMI of a counter's overflow has been handled, but not for ever."""
    cdef int looks = 0
    while looks < WAITS and not m.stopped and _overflow_pending(m, slot):
        looks += 1
        run_guest(m, HANDLER, m.guest_core_hz // MICROSECONDS, COST_GUEST_PERF_CALL)


cdef void amd_disable(machine_t *m) noexcept nogil:
    """amd_pmu_v2_disable_all() or amd_pmu_disable_all()."""
    cdef guest_event_t *e
    cdef int slot
    if m.stopped:
        return
    m.guest_pmu_on = False
    if m.guest_v1:
        meter_absent(m, False)
        for slot in range(GP_LANES):
            e = _active_on(m, slot)
            if e != NULL:
                _read_msr(m, ACCESS_READ_SELECTOR, ACCESS_SELECTOR, slot)
                guest_access(m, ACCESS_SELECTOR, slot, e.selector)
    else:
        guest_access(m, ACCESS_GLOBAL_CTRL, 0, 0)
    for slot in range(GP_LANES):
        if not m.nmi_in_service and not m.stopped and _active_on(m, slot) != NULL:
            wait_on_overflow(m, slot)


cdef void amd_enable(machine_t *m) noexcept nogil:
    """amd_pmu_v2_enable_all() or amd_pmu_enable_all()."""
    cdef guest_event_t *e
    cdef int slot
    if m.stopped:
        return
    m.guest_pmu_on = True
    if not m.guest_v1:
        guest_access(m, ACCESS_GLOBAL_CTRL, 0, bits_of(m.ideal.slots))
        return
    for slot in range(GP_LANES):
        e = _active_on(m, slot)
        if e != NULL:
            guest_access(m, ACCESS_SELECTOR, slot, e.selector | SELECTOR_ENABLE)
    if not m.stopped:
        meter_absent(m, True)


cdef inline void _serve(machine_t *m, guest_event_t *e) noexcept nogil:
    # A new period for a counter that has overflowed.
    if arm_event(m, e) and e.sampling and not m.stopped:
        sample(m, e)


cdef void _handle_v1(machine_t *m) noexcept nogil:
    """x86_pmu_handle_irq(): counters run on, and tell by their top bits whether they have overflowed."""
    cdef guest_event_t *e
    cdef int slot
    write_guest_lvtpc(m)
    for slot in range(GP_LANES):
        e = _active_on(m, slot)
        if e == NULL or m.stopped:
            continue
        read_event(m, e)
        if not m.stopped and _has_wrapped(m, slot, e.perf.previous):
            _serve(m, e)


cdef void _handle_v2(machine_t *m) noexcept nogil:
    """amd_pmu_v2_handle_irq(): all active counters are read, and STATUS is acknowledged once, at the end."""
    cdef bint was_on = m.guest_pmu_on
    cdef uint64_t status, unhandled
    cdef guest_event_t *e
    cdef int slot
    pmu_disable(m)
    status = unhandled = guest_access(m, ACCESS_GLOBAL_STATUS, 0, 0).value
    if status and not m.stopped:
        for slot in range(GP_LANES):
            e = _active_on(m, slot)
            if e == NULL or m.stopped:
                continue
            read_event(m, e)
            if status >> slot & 1 and not m.stopped:
                unhandled &= ~(<uint64_t>1 << slot)
                _serve(m, e)
        guest_access(m, ACCESS_OVF_CTRL, 0, ~unhandled)
    if was_on:
        pmu_enable(m)


cdef void amd_pmi_handler(machine_t *m) noexcept nogil:
    """From NMI entry to IRET. The local APIC has not masked LVTPC."""
    cdef uint64_t began
    m.nmi_pending = False
    m.nmi_in_service = True
    m.handlers += 1
    guest_work(m, COST_GUEST_NMI_ENTRY)
    began = guest_time(m)
    if m.guest_v1:
        _handle_v1(m)
    else:
        _handle_v2(m)
    if m.guest_hz and not m.stopped:
        handler_took(m, guest_time(m) - began)
    guest_work(m, COST_GUEST_NMI_EXIT)
    if not m.stopped:
        m.nmi_in_service = False
