# Scheduling of host perf's events: order, placement, brackets, rotation, times (docs/machine.md, sections 7.1 and 7.1.1).
from vpmu_core._types cimport int8_t, int64_t, uint32_t, uint64_t
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.state cimport machine_t

cdef enum:  # klass of host_event_t: the order in which perf schedules in
    CPU_PINNED = 0
    TASK_PINNED = 1
    CPU_FLEXIBLE = 2
    TASK_FLEXIBLE = 3
    TASK = 1  # bits
    FLEXIBLE = 2

cdef uint64_t host_global_ctrl(const machine_t *m, bint guest) noexcept nogil
cdef uint32_t events_of(const machine_t *m, uint32_t classes, uint32_t states) noexcept nogil
cdef void set_state(machine_t *m, host_event_t *e, int state) noexcept nogil
cdef void write_global_ctrl(machine_t *m, uint64_t value) noexcept nogil
cdef void spend_ops(machine_t *m, uint64_t rdpmc, uint64_t counters, uint64_t selectors, uint64_t lvtpc) noexcept nogil
cdef void bracket(
    machine_t *m, uint32_t out, uint32_t into, const int8_t *slots, int64_t new_period, bint lvtpc, bint window,
    uint32_t settled,
) noexcept nogil
cdef void reschedule(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil
cdef void reschedule_at_cost(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil
cdef void place_host_events(machine_t *m) noexcept nogil
cdef uint64_t host_nibble(const host_event_t *e) noexcept nogil
cdef void write_host_selector(machine_t *m, const host_event_t *e) noexcept nogil
cdef void write_host_nibble(machine_t *m, const host_event_t *e) noexcept nogil
cdef void set_tick(machine_t *m, uint64_t wall) noexcept nogil
cdef bint timer_due(const machine_t *m) noexcept nogil
cdef void serve_rotation(machine_t *m) noexcept nogil
cdef void thread_sleeps(machine_t *m) noexcept nogil
cdef void thread_wakes(machine_t *m) noexcept nogil
