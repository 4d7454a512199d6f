# cython: freethreading_compatible=True
"""What the guest's tick does for perf: new periods, and an end to throttling (Linux perf_event_task_tick())."""
from vpmu_core._types cimport uint64_t
from vpmu_core.guestaccess cimport expect_samples, guest_work, pmu_disable, pmu_enable, start_event, stop_event
from vpmu_core.guestperiod cimport adjust_period, tick_nsec
from vpmu_core.kinds cimport CAUSE_THROTTLED, COST_GUEST_PERF_CALL, GUEST_ON
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport machine_t


cdef void throttle(machine_t *m, guest_event_t *e) noexcept nogil:
    """perf_event_throttle_group(): too many samples since the tick; the group stops up to the next one."""
    cdef guest_event_t *other
    cdef int i
    e.throttles += 1
    m.guest_throttled = True
    for i in range(e.leader, m.guest_events):
        other = &m.guest_event[i]
        if other.leader == e.leader and other.state == GUEST_ON:
            other.throttled = 1
            other.absent = CAUSE_THROTTLED
            stop_event(m, other, False)
            if m.stopped:
                return


cdef void _unthrottle(machine_t *m, int event) noexcept nogil:
    # A frequency event is started by the adjustment that follows.
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_event[event].leader, m.guest_events):
        e = &m.guest_event[i]
        if e.leader == m.guest_event[event].leader and e.throttled:
            e.throttled = 0
            e.interrupts = 0
            if i != event or not e.frequency:
                start_event(m, e, False)
            if m.stopped:
                return


cdef void _adjust(machine_t *m, guest_event_t *e) noexcept nogil:
    cdef uint64_t counted
    stop_event(m, e, True)
    if m.stopped:
        return
    counted = e.perf.count - e.count_stamp
    e.count_stamp = e.perf.count
    if counted:
        expect_samples(e)
        if adjust_period(e, tick_nsec(m), counted):
            e.perf.period_left = 0
    start_event(m, e, counted > 0)


cdef void _tick_context(machine_t *m, bint task, bint throttled) noexcept nogil:
    """perf_adjust_freq_unthr_context()."""
    cdef bint works = throttled, any_on = False
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_listed):
        e = &m.guest_event[m.guest_list[i]]
        if e.task == task:
            any_on = True
            works = works or e.frequency
    if not works or not any_on:
        return
    guest_work(m, COST_GUEST_PERF_CALL)
    if not m.guest_tick_per_event:
        pmu_disable(m)
    for i in range(m.guest_listed):
        e = &m.guest_event[m.guest_list[i]]
        if e.task != task:
            continue
        if m.guest_tick_per_event:
            pmu_disable(m)
        if m.stopped:
            return
        if e.throttled:
            _unthrottle(m, m.guest_list[i])
        if e.frequency and not m.stopped:
            _adjust(m, e)
        if m.guest_tick_per_event:
            pmu_enable(m)
    if not m.guest_tick_per_event:
        pmu_enable(m)


cdef void tick(machine_t *m) noexcept nogil:
    """perf_event_task_tick()."""
    cdef bint throttled = m.guest_throttled
    m.guest_ticks += 1
    m.guest_throttled = False
    _tick_context(m, False, throttled)
    if not m.stopped:
        _tick_context(m, True, throttled)
