# Scheduling of host perf's events: order, placement, rotation, times (docs/machine.md, sections 7.1 and 7.1.1).
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.state cimport machine_t

cdef enum:  # klass of host_event_t: the order in which perf schedules in
    CPU_PINNED = 0
    TASK_PINNED = 1
    CPU_FLEXIBLE = 2
    TASK_FLEXIBLE = 3
    TASK = 1  # bits
    FLEXIBLE = 2

cdef uint32_t events_of(const machine_t *m, uint32_t classes, uint32_t states) noexcept nogil
cdef void set_state(machine_t *m, host_event_t *e, int state) noexcept nogil
cdef void reschedule(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil
cdef void reschedule_at_cost(machine_t *m, uint32_t out, uint32_t candidates) noexcept nogil
cdef void place_host_events(machine_t *m) noexcept nogil
cdef void set_tick(machine_t *m, uint64_t wall) noexcept nogil
cdef bint timer_due(const machine_t *m) noexcept nogil
cdef void serve_rotation(machine_t *m) noexcept nogil
cdef void thread_sleeps(machine_t *m) noexcept nogil
cdef void thread_wakes(machine_t *m) noexcept nogil
