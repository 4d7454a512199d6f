# Guest perf's scheduling: which events are on which counters, and what brings them there.
from vpmu_core.state cimport machine_t

cdef void update_times(machine_t *m) noexcept nogil
cdef void enable_events(machine_t *m, int leader, bint task) noexcept nogil
cdef void events_out(machine_t *m, bint task, int state) noexcept nogil
cdef void close_event(machine_t *m, int leader) noexcept nogil
cdef void rotate(machine_t *m) noexcept nogil
cdef void switch_task(machine_t *m) noexcept nogil
