# cython: freethreading_compatible=True
"""Host perf's scheduler: which events count, and where (Linux kernel/events/core.c, perf_assign_events())."""
from vpmu_core._types cimport NEVER, int8_t, lowest_bit, popcount32, uint32_t, uint64_t
from vpmu_core.counting cimport exhausted, host_activity, host_advance, spend
from vpmu_core.hostdriver cimport bracket, host_global_ctrl, put_in
from vpmu_core.kinds cimport (
    BLIND, COST_PERF_RESCHED_EVENT, COST_PERF_ROTATE, COST_PERF_TASK_SWITCH, GUEST_HANDLER, GUEST_KERNEL, GUEST_USER,
    HOST_ACTIVE, HOST_ERROR, HOST_INACTIVE, IDLE, KERNEL,
)
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.placement cimport place_events
from vpmu_core.state cimport MAX_HOST_EVENTS, machine_t
from vpmu_core.unit cimport LVTPC_NMI, write_fixed_ctr_ctrl

cdef uint32_t SCHEDULED = (1 << HOST_ACTIVE) | (1 << HOST_INACTIVE)  # states in which perf would let an event count
cdef uint32_t TASKS = (1 << TASK_PINNED) | (1 << TASK_FLEXIBLE)  # classes

cdef struct list_t:  # events in the order in which perf collected them (cpuc->event_list)
    int n
    int8_t event[MAX_HOST_EVENTS]


cdef uint32_t events_of(const machine_t *m, uint32_t classes, uint32_t states) noexcept nogil:
    """Events of some classes in some states; both are sets of bits."""
    cdef uint32_t members = 0
    cdef int i
    for i in range(m.host_events):
        if states >> m.host_event[i].state & 1 and classes >> m.host_event[i].klass & 1:
            members |= <uint32_t>1 << i
    return members


# -- times ------------------------------------------------------------------------------------------------------------

cdef uint64_t _context_time(const machine_t *m, const host_event_t *e) noexcept nogil:
    # perf_event_context time: without the guest's (perf_load_guest_context()), a task's without its sleep.
    cdef uint64_t time = m.wall
    if m.design.put != NULL:
        time -= m.clock[GUEST_USER] + m.clock[GUEST_KERNEL] + m.clock[GUEST_HANDLER] + m.clock[BLIND] + m.windows
    if e.klass & TASK:
        time -= m.clock[IDLE] + m.asleep_busy + m.others
    return time


cdef void set_state(machine_t *m, host_event_t *e, int state) noexcept nogil:
    """perf_event_set_state(): enabled and running time up to now belong to the old state."""
    cdef uint64_t now, passed
    if e.guest_slot >= 0:
        e.state = state  # KVM asks for no times
        return
    now = _context_time(m, e)
    passed = now - e.stamp
    if SCHEDULED >> e.state & 1:
        e.enabled += passed
        if e.state == HOST_ACTIVE:
            e.running += passed
    e.stamp = now
    e.state = state


# -- placement --------------------------------------------------------------------------------------------------------

cdef bint _before(const host_event_t *a, const host_event_t *b) noexcept nogil:
    if a.klass != b.klass:
        return a.klass < b.klass
    return a.position < b.position


cdef void _sort(const machine_t *m, uint32_t members, list_t *order) noexcept nogil:
    """Members in the order of ctx_sched_in()."""
    cdef int i, at
    order.n = 0
    while members:
        i = lowest_bit(members)
        members &= members - 1
        at = order.n
        while at and _before(&m.host_event[i], &m.host_event[order.event[at - 1]]):
            order.event[at] = order.event[at - 1]
            at -= 1
        order.event[at] = <int8_t>i
        order.n += 1


cdef bint _assign(const machine_t *m, const list_t *events, int8_t *slots) noexcept nogil:
    cdef uint32_t allowed[MAX_HOST_EVENTS]
    cdef int8_t previous[MAX_HOST_EVENTS]
    cdef int8_t assigned[MAX_HOST_EVENTS]
    cdef const host_event_t *e
    cdef int i
    for i in range(events.n):
        e = &m.host_event[events.event[i]]
        allowed[i] = e.allowed
        previous[i] = e.previous_slot
    if not place_events(allowed, previous, events.n, assigned):
        return False
    for i in range(events.n):
        slots[events.event[i]] = assigned[i]
    return True


cdef bint _all_return(const machine_t *m, uint32_t members, int8_t *slots) noexcept nogil:
    """Whether the previous counters of all members are free, so that nobody has to look for one; then these.

    Those of settled events are theirs anyway.
    """
    cdef const host_event_t *e
    cdef uint32_t used = m.settled_slots
    cdef int i
    members &= ~m.settled
    while members:
        i = lowest_bit(members)
        members &= members - 1
        e = &m.host_event[i]
        if e.previous_slot < 0 or not (e.allowed & ~used) >> e.previous_slot & 1:
            return False
        used |= <uint32_t>1 << e.previous_slot
        slots[i] = e.previous_slot
    return True


cdef void _wait(machine_t *m, host_event_t *e) noexcept nogil:
    # A flexible event that does not fit: its context must rotate, and perf_mux_hrtimer_restart().
    set_state(m, e, HOST_INACTIVE)
    m.rotate[e.klass & TASK] = True
    if m.next_mux == NEVER:
        m.next_mux = (m.wall // m.mux_interval + 1) * m.mux_interval
        m.due = min(m.due, m.next_mux)


cdef uint32_t _schedule_in(machine_t *m, list_t *accepted, uint32_t candidates, int8_t *slots) noexcept nogil:
    """Try candidates in order beside those accepted; their counters, and which were accepted (merge_sched_in())."""
    cdef list_t order
    cdef host_event_t *e
    cdef uint32_t into = 0
    cdef bint full[2]
    cdef int i
    full[0] = full[1] = False
    _sort(m, candidates, &order)
    for i in range(order.n):
        e = &m.host_event[order.event[i]]
        if e.klass & FLEXIBLE and full[e.klass & TASK]:
            set_state(m, e, HOST_INACTIVE)
            continue
        accepted.event[accepted.n] = order.event[i]
        accepted.n += 1
        if _assign(m, accepted, slots):
            into |= <uint32_t>1 << order.event[i]
            continue
        accepted.n -= 1
        if e.klass & FLEXIBLE:
            full[e.klass & TASK] = True
            _wait(m, e)
        else:
            # A pinned event that cannot be scheduled goes to ERROR and stops counting silently.
            set_state(m, e, HOST_ERROR)
    if accepted.n:
        _assign(m, accepted, slots)
    return into


# -- scheduling -------------------------------------------------------------------------------------------------------

cdef uint32_t _in_hardware(const machine_t *m) noexcept nogil:
    cdef uint32_t members = 0
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].slot >= 0:
            members |= <uint32_t>1 << i
    return members


cdef void reschedule(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil:
    """Events go out and candidates come in beside those that stay, which move if they must."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    cdef uint32_t stay = _in_hardware(m) & ~out, left = stay, into, moved = 0, settled = 0
    cdef list_t accepted
    cdef int i
    if _all_return(m, stay | candidates, slots):
        into = candidates
        settled = out & candidates & m.settled
    else:
        _sort(m, stay, &accepted)
        into = _schedule_in(m, &accepted, candidates, slots)
        while left:
            i = lowest_bit(left)
            left &= left - 1
            if slots[i] != m.host_event[i].slot:
                moved |= <uint32_t>1 << i
    left = into & ~settled
    while left:
        set_state(m, &m.host_event[lowest_bit(left)], HOST_ACTIVE)
        left &= left - 1
    bracket(m, out | moved, into | moved, slots, -1, (into | moved) != 0, False, settled)


cdef void reschedule_at_cost(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil:
    """The same, with the software's part for each event that goes out."""
    m.spent[COST_PERF_RESCHED_EVENT] += popcount32(out) * m.cost[COST_PERF_RESCHED_EVENT]
    host_advance(m, host_activity(m), popcount32(out) * m.cost[COST_PERF_RESCHED_EVENT])
    reschedule(m, out, candidates)


cdef void place_host_events(machine_t *m) noexcept nogil:
    """Before the run: host perf owns the PMU, and the host's own events get their counters, at no cost."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    cdef uint32_t candidates = 0, left
    cdef list_t accepted
    cdef int i
    m.hardware.lvtpc = LVTPC_NMI
    m.hardware.global_ctrl = 0
    for i in range(m.host_events):
        if m.host_event[i].allowed:
            candidates |= <uint32_t>1 << i
        else:
            m.host_event[i].state = HOST_ERROR
    accepted.n = 0
    left = _schedule_in(m, &accepted, candidates, slots)
    while left:
        i = lowest_bit(left)
        left &= left - 1
        set_state(m, &m.host_event[i], HOST_ACTIVE)
        put_in(m, &m.host_event[i], slots[i])
    set_tick(m, m.wall)
    if accepted.n:
        write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)
        m.hardware.global_ctrl = host_global_ctrl(m, False)


# -- timers -----------------------------------------------------------------------------------------------------------

cdef bint timer_due(const machine_t *m) noexcept nogil:
    """Whether a timer of host perf is to be served now, in host mode."""
    if m.wall < min(m.next_mux, m.next_tick):
        return False
    if m.blind and m.flags >> KERNEL & 1:
        return False  # the next kernel exit switches
    return not exhausted(m)


cdef void set_tick(machine_t *m, uint64_t wall) noexcept nogil:
    """The next tick after an instant has work to do while an event has a frequency or is throttled."""
    cdef const host_event_t *e
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if m.next_tick == NEVER and (e.throttled or (e.freq and SCHEDULED >> e.state & 1)):
            m.next_tick = (wall // m.tick + 1) * m.tick
            m.due = min(m.due, m.next_tick)


cdef uint32_t _rotate(machine_t *m, int task) noexcept nogil:
    """ctx_event_to_rotate() and rotate_ctx(): the first active flexible event goes to the end of its context's list."""
    cdef uint32_t klass = <uint32_t>1 << (FLEXIBLE | task)
    cdef uint32_t members = events_of(m, klass, 1 << HOST_ACTIVE)
    cdef list_t order
    if members == 0:
        members = events_of(m, klass, 1 << HOST_INACTIVE)
    _sort(m, members, &order)
    m.rotate[task] = False
    if order.n:
        m.host_event[order.event[0]].position = m.next_position
        m.next_position += 1
    return events_of(m, klass, SCHEDULED)


cdef void serve_rotation(machine_t *m) noexcept nogil:
    """perf_mux_hrtimer_handler() and perf_rotate_context()."""
    cdef uint32_t candidates = 0
    cdef bint task = m.rotate[1] and not m.asleep
    m.next_mux = (m.wall // m.mux_interval + 1) * m.mux_interval
    m.due = min(m.due, m.next_mux)
    spend(m, COST_PERF_ROTATE)
    if m.blind:
        return  # guest state stays loaded in this exit: no event of the host's is in
    if m.rotate[0] or task:
        m.rotations += 1
        if m.rotate[0]:
            candidates = _rotate(m, 0)
            if not m.asleep and not task:
                candidates |= events_of(m, 1 << TASK_FLEXIBLE, SCHEDULED)
        if task:
            candidates |= _rotate(m, 1)
        reschedule_at_cost(m, candidates & _in_hardware(m), candidates)
    else:
        m.next_mux = NEVER


# -- the vCPU's thread ------------------------------------------------------------------------------------------------

cdef void thread_sleeps(machine_t *m) noexcept nogil:
    """perf_event_task_sched_out(): the task's events leave the PMU."""
    if m.blind:
        return
    m.blocked = events_of(m, TASKS, SCHEDULED)
    if m.blocked:
        spend(m, COST_PERF_TASK_SWITCH)
        bracket(m, m.blocked & _in_hardware(m), 0, NULL, -1, False, False, 0)
    m.asleep = True


cdef void thread_wakes(machine_t *m) noexcept nogil:
    """perf_event_task_sched_in(): they return; pinned ones go before CPU-flexible ones."""
    cdef uint32_t flexible = 0
    if not m.asleep:
        return
    m.asleep = False
    if m.blocked:
        spend(m, COST_PERF_TASK_SWITCH)
        if events_of(m, 1 << TASK_PINNED, ~<uint32_t>0):
            flexible = events_of(m, 1 << CPU_FLEXIBLE, SCHEDULED)
        reschedule(m, flexible & _in_hardware(m), flexible | m.blocked)
        m.blocked = 0
