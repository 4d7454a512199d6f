# cython: freethreading_compatible=True
"""Exits that reprogram the events behind guest counters, many at a time.

KVM reprograms a counter for each instruction that it emulates: pause, period, enable. What that leaves of the event is a
function of the counter's value alone, as long as the value is far from its wrap, so many such exits are one.
"""
from vpmu_core._types cimport NEVER, int64_t, uint32_t, uint64_t
from vpmu_core.hostperf cimport set_period, update_count
from vpmu_core.kvmpmu cimport counting_at, sample_period
from vpmu_core.perfevents cimport host_event_t, vcpu_counter_t
from vpmu_core.unit cimport width_mask
from vpmu_core.state cimport machine_t


cdef uint32_t reprogrammed_by(const machine_t *m, int cpl) noexcept nogil:
    """Guest counters with an event that an instruction emulated at this level has reprogrammed."""
    return counting_at(m, cpl) if m.backed else 0


cdef uint32_t backing_slots(const machine_t *m, uint32_t counters) noexcept nogil:
    """Hardware counters of the events behind guest counters."""
    cdef uint32_t slots = 0
    cdef const host_event_t *e
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot >= 0 and e.slot >= 0 and counters >> e.guest_slot & 1:
            slots |= <uint32_t>1 << e.slot
    return slots


cdef uint64_t kept_free(const machine_t *m) noexcept nogil:
    """Occurrences below a wrap within which a value is too near to it for fold()."""
    return <uint64_t>m.least_period + 8 if m.backed else 0


cdef uint64_t most_emulated(const machine_t *m) noexcept nogil:
    """Emulated instructions after which a counter whose event waits for hardware is still far from its wrap."""
    cdef uint64_t most = NEVER, room
    cdef const host_event_t *e
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot >= 0 and e.slot < 0 and m.counting_instructions >> e.guest_slot & 1:
            room = width_mask(&m.guest, e.guest_slot) - m.vcpu[e.guest_slot].counter
            most = min(most, room - min(room, kept_free(m)))
    return most


cdef void fold(machine_t *m, uint32_t slots, uint64_t n) noexcept nogil:
    """Let n instructions have been emulated up to now, each of which had these guest counters reprogrammed.

    Their events begin anew from the counter's value; the others go out and in again, which folds what they counted.
    """
    cdef host_event_t *e
    cdef vcpu_counter_t *c
    cdef uint64_t mask
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot < 0:
            continue
        if e.slot >= 0:
            update_count(&e.perf, m.hardware.counter[e.slot], width_mask(&m.hardware, e.slot))
        if slots >> e.guest_slot & 1:
            c = &m.vcpu[e.guest_slot]
            mask = width_mask(&m.guest, e.guest_slot)
            c.counter = (c.counter + e.perf.count + n) & mask
            e.perf.count = 0
            e.perf.period = sample_period(c.counter, mask)
            e.perf.period_left = 0
        if e.slot >= 0:
            mask = width_mask(&m.hardware, e.slot)
            set_period(&e.perf, mask, <int64_t>(mask >> 1), &e.perf.previous)
            m.hardware.counter[e.slot] = e.perf.previous
