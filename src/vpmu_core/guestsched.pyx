# cython: freethreading_compatible=True
"""Guest perf's scheduling (Linux kernel/events/core.c and arch/x86/events/core.c).

Events are tried in the order of their leaders; a group is on the CPU as a whole or not at all; after the first that does
not fit no other is tried. Whoever waits gets a turn when the rotation timer fires.
"""
from vpmu_core._types cimport NEVER, int8_t, uint32_t, uint64_t
from vpmu_core.guestaccess cimport (
    expect_samples, guest_work, pmu_disable, pmu_enable, start_event, stop_event, write_guest_lvtpc,
)
from vpmu_core.guestperiod cimport guest_time
from vpmu_core.guesttimer cimport start_timer, stop_timer
from vpmu_core.kinds cimport (
    CAUSE_MULTIPLEXED, CAUSE_NONE, COST_GUEST_PERF_CALL, GUEST_AWAY, GUEST_OFF, GUEST_ON, GUEST_WAITING,
    TIMER_ROTATION,
)
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.placement cimport place_events
from vpmu_core.state cimport MAX_GUEST_EVENTS, machine_t


cdef void update_times(machine_t *m) noexcept nogil:
    """The contexts' time: how long each event has been enabled and running, in ns."""
    cdef uint64_t now = guest_time(m)
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.state >= GUEST_WAITING:
            e.enabled += now - e.updated
        if e.state == GUEST_ON:
            e.running += now - e.updated
        e.updated = now


# -- placement --------------------------------------------------------------------------------------------------------

cdef bint _place(machine_t *m) noexcept nogil:
    cdef uint32_t allowed[MAX_GUEST_EVENTS]
    cdef int8_t previous[MAX_GUEST_EVENTS]
    cdef int8_t slots[MAX_GUEST_EVENTS]
    cdef const guest_event_t *e
    cdef int i
    for i in range(m.guest_listed):
        e = &m.guest_event[m.guest_list[i]]
        allowed[i] = e.allowed
        previous[i] = e.slot
    if not place_events(allowed, previous, m.guest_listed, slots):
        return False
    for i in range(m.guest_listed):
        m.guest_event[m.guest_list[i]].assigned = slots[i]
    return True


# -- in and out -------------------------------------------------------------------------------------------------------

cdef bint _group_in(machine_t *m, int leader) noexcept nogil:
    cdef int before = m.guest_listed, i
    cdef guest_event_t *e
    for i in range(leader, m.guest_events):
        if m.guest_event[i].leader == leader:
            m.guest_list[m.guest_listed] = i
            m.guest_listed += 1
    if not _place(m):
        m.guest_listed = before
        return False
    m.guest_added += m.guest_listed - before
    for i in range(before, m.guest_listed):
        e = &m.guest_event[m.guest_list[i]]
        e.state = GUEST_ON
        e.absent = CAUSE_NONE
        if e.throttled:
            e.throttled = 0
            e.interrupts = 0
    return True


cdef void _events_in(machine_t *m, bint task) noexcept nogil:
    """Every group of a context that waits, until one does not fit."""
    cdef bint fits = True
    cdef int i, j, leader
    for i in range(m.guest_leaders):
        leader = m.guest_order[i]
        if m.guest_event[leader].task != task or m.guest_event[leader].state != GUEST_WAITING:
            continue
        fits = fits and _group_in(m, leader)
        if fits:
            continue
        m.guest_rotates[task] = True
        for j in range(leader, m.guest_events):
            if m.guest_event[j].leader == leader:
                m.guest_event[j].absent = CAUSE_MULTIPLEXED


cdef void _forget(machine_t *m, int position) noexcept nogil:
    # x86_pmu_del(): the rest of the list moves up.
    cdef int i
    m.guest_listed -= 1
    for i in range(position, m.guest_listed):
        m.guest_list[i] = m.guest_list[i + 1]


cdef void events_out(machine_t *m, bint task, int state) noexcept nogil:
    """All flexible events of a context leave their counters."""
    cdef guest_event_t *e
    cdef int i = 0
    while i < m.guest_listed:
        e = &m.guest_event[m.guest_list[i]]
        if e.task != task or e.pinned:
            i += 1
            continue
        stop_event(m, e, True)
        if m.stopped:
            return
        e.state = state
        e.armed = 0
        e.absent = CAUSE_NONE
        _forget(m, i)


cdef void _program(machine_t *m) noexcept nogil:
    """x86_pmu_enable(): events that have moved leave their old counters, then all new ones are started."""
    cdef int running = m.guest_listed - m.guest_added, i
    cdef guest_event_t *e
    if m.stopped or m.guest_added == 0:
        return
    for i in range(running):
        e = &m.guest_event[m.guest_list[i]]
        if e.slot != e.assigned:
            stop_event(m, e, True)
            if m.stopped:
                return
            e.armed = 0
    for i in range(m.guest_listed):
        e = &m.guest_event[m.guest_list[i]]
        if i < running and e.slot == e.assigned:
            continue
        e.slot = e.assigned
        if e.throttled:
            continue
        expect_samples(e)
        e.scheduled |= not m.backed
        start_event(m, e, True)
        if m.stopped:
            return
    m.guest_added = 0
    write_guest_lvtpc(m)


cdef void _start_rotation(machine_t *m) noexcept nogil:
    if m.guest_rotates[0] or m.guest_rotates[1]:
        if m.guest_timer[TIMER_ROTATION].due == NEVER:
            start_timer(m, TIMER_ROTATION, m.wall)


cdef void enable_events(machine_t *m, int leader, bint task) noexcept nogil:
    """One ioctl for a group of the CPU's context, or exec for all of a task's; then a ctx_resched()."""
    cdef int i
    guest_work(m, COST_GUEST_PERF_CALL)
    if m.stopped:
        return
    update_times(m)
    for i in range(m.guest_events):
        if m.guest_event[i].leader == leader or (task and m.guest_event[i].task):
            m.guest_event[i].state = GUEST_WAITING
    pmu_disable(m)
    if not task and not m.guest_event[leader].pinned:
        events_out(m, False, GUEST_WAITING)
    if m.stopped:
        return
    _events_in(m, task)
    _program(m)
    pmu_enable(m)
    if not m.stopped:
        _start_rotation(m)


cdef void close_event(machine_t *m, int leader) noexcept nogil:
    """One ioctl disables a group and folds its counts."""
    cdef guest_event_t *e
    cdef int i, j
    guest_work(m, COST_GUEST_PERF_CALL)
    update_times(m)
    pmu_disable(m)
    for i in range(leader, m.guest_events):
        e = &m.guest_event[i]
        if e.leader != leader:
            continue
        if e.state == GUEST_ON:
            stop_event(m, e, True)
            for j in range(m.guest_listed):
                if m.guest_list[j] == i:
                    _forget(m, j)
                    break
        expect_samples(e)
        e.state = GUEST_OFF
        e.armed = 0
        e.absent = CAUSE_NONE
    pmu_enable(m)


# -- rotation and tasks -----------------------------------------------------------------------------------------------

cdef int _next_out(machine_t *m, bint task) noexcept nogil:
    """ctx_event_to_rotate(): the leader that has been on for longest; without any, the first that waits."""
    cdef int i
    if not m.guest_rotates[task]:
        return -1
    m.guest_rotates[task] = False
    for i in range(m.guest_listed):
        if m.guest_event[m.guest_list[i]].task == task and not m.guest_event[m.guest_list[i]].pinned:
            return m.guest_event[m.guest_list[i]].leader
    for i in range(m.guest_leaders):
        if m.guest_event[m.guest_order[i]].task == task and not m.guest_event[m.guest_order[i]].pinned:
            return m.guest_order[i]
    return -1


cdef void _to_tail(machine_t *m, int leader) noexcept nogil:
    cdef int i = 0
    while m.guest_order[i] != leader:
        i += 1
    while i < m.guest_leaders - 1:
        m.guest_order[i] = m.guest_order[i + 1]
        i += 1
    m.guest_order[i] = leader


cdef void rotate(machine_t *m) noexcept nogil:
    """perf_rotate_context(): all flexible events leave, the first goes behind the last, and they are tried again."""
    cdef int cpu, task
    if not m.guest_rotates[0] and not m.guest_rotates[1]:
        stop_timer(m, TIMER_ROTATION)
        return
    guest_work(m, COST_GUEST_PERF_CALL)
    if m.stopped:
        return
    update_times(m)
    pmu_disable(m)
    if m.stopped:
        return
    task = _next_out(m, True)
    cpu = _next_out(m, False)
    if not m.guest_away:
        events_out(m, True, GUEST_WAITING)
    if cpu >= 0:
        events_out(m, False, GUEST_WAITING)
        if m.stopped:
            return
        _to_tail(m, cpu)
        _events_in(m, False)
    if m.stopped:
        return
    if task >= 0:
        _to_tail(m, task)
    _events_in(m, True)
    _program(m)
    pmu_enable(m)


cdef void switch_task(machine_t *m) noexcept nogil:
    """A context switch: the task's events leave, or return (perf_event_context_sched_out(), _sched_in())."""
    cdef int i
    guest_work(m, COST_GUEST_PERF_CALL)
    if m.guest_clones:
        # Out and in of contexts that are clones: the events stay where they are.
        pmu_disable(m)
        pmu_enable(m)
        pmu_disable(m)
        pmu_enable(m)
        return
    if m.stopped:
        return
    update_times(m)
    pmu_disable(m)
    if m.stopped:
        return
    if m.guest_away:
        for i in range(m.guest_events):
            if m.guest_event[i].state == GUEST_AWAY:
                m.guest_event[i].state = GUEST_WAITING
        _events_in(m, True)
        _program(m)
    else:
        events_out(m, True, GUEST_AWAY)
        if m.stopped:
            return
        for i in range(m.guest_events):
            if m.guest_event[i].task and m.guest_event[i].state == GUEST_WAITING:
                m.guest_event[i].state = GUEST_AWAY
                m.guest_event[i].absent = CAUSE_NONE
        m.guest_rotates[1] = False
    m.guest_away = not m.guest_away
    pmu_enable(m)
    if not m.stopped:
        _start_rotation(m)
