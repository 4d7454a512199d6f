# Host perf: its events, where they count, what scheduling them in and out costs (docs/machine.md, section 7.1).
from vpmu_core._types cimport int64_t, uint64_t
from vpmu_core.perfevents cimport host_event_t, perf_count_t
from vpmu_core.state cimport machine_t


cdef inline void update_count(perf_count_t *perf, uint64_t raw, uint64_t mask) noexcept nogil:
    # Linux x86_perf_event_update().
    cdef uint64_t delta = (raw - perf.previous) & mask
    perf.count += delta
    perf.period_left -= <int64_t>delta
    perf.previous = raw


cdef inline void expect_host(host_event_t *e) noexcept nogil:
    # Periods of a sampling event that have ended, before its counter is written anew.
    cdef int64_t left = e.perf.period_left + e.zeroed
    e.zeroed = 0
    if e.sampling and left <= 0:
        e.expected += 1 + <uint64_t>(-left // e.perf.period)


cdef inline bint set_period(perf_count_t *perf, uint64_t mask, int64_t max_period, uint64_t *armed) noexcept nogil:
    # Linux x86_perf_event_set_period(): the value to arm the counter with; true if a whole period has passed.
    cdef bint hit = False
    cdef int64_t left
    if perf.period_left <= -perf.period:
        perf.period_left = perf.period
        hit = True
    if perf.period_left <= 0:
        perf.period_left += perf.period
        hit = True
    left = max(perf.period_left, 2)
    left = min(left, max_period)
    armed[0] = (<uint64_t>-left) & mask
    return hit


cdef void host_events_out(machine_t *m) noexcept nogil
cdef void host_events_in(machine_t *m) noexcept nogil
cdef void read_host_events(machine_t *m) noexcept nogil
cdef int perf_create(machine_t *m, int guest_slot, uint64_t selector, int64_t period) noexcept nogil
cdef void perf_release(machine_t *m, int event) noexcept nogil
cdef uint64_t perf_pause(machine_t *m, int event) noexcept nogil
cdef void perf_enable(machine_t *m, int event) noexcept nogil
cdef void perf_period(machine_t *m, int event, int64_t period) noexcept nogil
cdef uint64_t perf_read(machine_t *m, int event) noexcept nogil
