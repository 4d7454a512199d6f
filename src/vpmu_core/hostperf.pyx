# cython: freethreading_compatible=True
"""Host perf: the guest's window and KVM's calls (Linux kernel/events/core.c, arch/x86/events)."""
from libc.string cimport memset

from vpmu_core._types cimport int8_t, int64_t, lowest_bit, uint32_t, uint64_t
from vpmu_core.kinds cimport (
    COST_PERF_CREATE, COST_PERF_ENABLE, COST_PERF_PAUSE, COST_PERF_PERIOD, COST_PERF_RELEASE, COST_RDPMC, HOST_ACTIVE,
    HOST_INACTIVE, HOST_OFF, OP_RDPMC, ORIGIN_HOST,
)
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.unit cimport SELECTOR_INT, SELECTOR_OS, SELECTOR_USR, selector_code, width_mask
from vpmu_core.counting cimport spend, tally
from vpmu_core.hostdriver cimport bracket
from vpmu_core.hostsched cimport CPU_PINNED, TASK_PINNED, events_of, reschedule, reschedule_at_cost, set_state
from vpmu_core.state cimport MAX_HOST_EVENTS, machine_t
from vpmu_core.timeline cimport check_arrival


# -- the host's own events --------------------------------------------------------------------------------------------

cdef uint32_t _own(const machine_t *m) noexcept nogil:
    # Own events that count or wait. (In mediated designs there are no others.)
    return events_of(m, ~<uint32_t>0, 1 << HOST_ACTIVE | 1 << HOST_INACTIVE)


cdef void host_events_out(machine_t *m) noexcept nogil:
    """perf_load_guest_context(): host events leave, and the window begins."""
    cdef uint32_t left
    if m.samples_host:
        check_arrival(m)
    m.displaced = left = _own(m)
    if m.displaced:
        while left:
            if m.host_event[lowest_bit(left)].slot < 0:
                m.displaced &= ~(left & (0 - left))
            left &= left - 1
        bracket(m, m.displaced, 0, NULL, -1, False, True, 0)


cdef void host_events_in(machine_t *m) noexcept nogil:
    """perf_put_guest_context(): host events return, and the window ends."""
    cdef uint32_t own = _own(m)
    if own:
        reschedule(m, 0, own)
        m.displaced = 0


cdef void read_host_events(machine_t *m) noexcept nogil:
    """After the run: fold what hardware holds into the counts, at no cost."""
    cdef host_event_t *e
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot < 0 and e.slot >= 0:
            update_count(&e.perf, m.hardware.counter[e.slot], width_mask(&m.hardware, e.slot))
        expect_host(e)
        set_state(m, e, e.state)


# -- the events that back guest counters ------------------------------------------------------------------------------

cdef void _resched(machine_t *m, int event) noexcept nogil:
    """ctx_resched(): task events and CPU-flexible ones go out and in, with one more."""
    cdef uint32_t out = events_of(m, ~(<uint32_t>1 << CPU_PINNED), 1 << HOST_ACTIVE)
    cdef uint32_t waiting = events_of(m, ~<uint32_t>0, 1 << HOST_INACTIVE)
    reschedule_at_cost(m, out, out | waiting | <uint32_t>1 << event)


cdef int perf_create(machine_t *m, int guest_slot, uint64_t selector, int64_t period) noexcept nogil:
    """perf_event_create_kernel_counter(): pinned, exclude_host, for a guest counter; returns its index."""
    cdef int i = m.host_events
    cdef host_event_t *e = &m.host_event[i]
    m.host_events += 1
    m.creates += 1
    memset(e, 0, sizeof(host_event_t))
    e.selector = selector_code(&m.hardware, selector) | (selector & (SELECTOR_USR | SELECTOR_OS)) | SELECTOR_INT
    e.event = m.guest.event[guest_slot]
    e.allowed = m.host_allowed[e.event] & m.hardware.slots
    e.user = (selector & SELECTOR_USR) != 0
    e.kernel = (selector & SELECTOR_OS) != 0
    e.exclude_host = 1
    e.klass = TASK_PINNED
    e.position = m.next_position
    m.next_position += 1
    e.guest_slot = guest_slot
    e.slot = -1
    e.previous_slot = -1
    e.perf.period = period
    e.perf.period_left = period
    spend(m, COST_PERF_CREATE)
    _resched(m, i)
    return i


cdef void perf_release(machine_t *m, int event) noexcept nogil:
    """perf_event_release_kernel() of an event that is off; later events move down, which keeps the order of creation."""
    cdef int i
    spend(m, COST_PERF_RELEASE)
    m.settled = m.settled_gp = m.settled_slots = 0  # they are known by index
    for i in range(event, m.host_events - 1):
        m.host_event[i] = m.host_event[i + 1]
        m.vcpu[m.host_event[i].guest_slot].event = <int8_t>i
    m.host_events -= 1


cdef uint64_t perf_pause(machine_t *m, int event) noexcept nogil:
    """perf_event_pause() with reset: the count since the last pause."""
    cdef host_event_t *e = &m.host_event[event]
    cdef uint64_t count
    spend(m, COST_PERF_PAUSE)
    if e.state == HOST_ACTIVE:
        bracket(m, <uint32_t>1 << event, 0, NULL, -1, False, False, 0)
    set_state(m, e, HOST_OFF)
    count = e.perf.count
    e.perf.count = 0
    return count


cdef void perf_enable(machine_t *m, int event) noexcept nogil:
    """perf_event_enable(); it also takes an event out of ERROR."""
    spend(m, COST_PERF_ENABLE)
    _resched(m, event)


cdef void perf_period(machine_t *m, int event, int64_t period) noexcept nogil:
    """perf_event_period()."""
    cdef host_event_t *e = &m.host_event[event]
    cdef int8_t slots[MAX_HOST_EVENTS]
    spend(m, COST_PERF_PERIOD)
    if e.state == HOST_ACTIVE:
        slots[event] = e.slot
        bracket(m, <uint32_t>1 << event, <uint32_t>1 << event, slots, period, False, False, 0)
    else:
        e.perf.period = period
        e.perf.period_left = 0


cdef uint64_t perf_read(machine_t *m, int event) noexcept nogil:
    """perf_event_read_value() of a task event: RDPMC if it counts now."""
    cdef host_event_t *e = &m.host_event[event]
    if e.slot >= 0:
        tally(m, ORIGIN_HOST, OP_RDPMC, 1)
        spend(m, COST_RDPMC)
        update_count(&e.perf, m.hardware.counter[e.slot], width_mask(&m.hardware, e.slot))
    return e.perf.count
