# What the guest's tick does for perf, and what makes it necessary.
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport machine_t

cdef void tick(machine_t *m) noexcept nogil
cdef void throttle(machine_t *m, guest_event_t *e) noexcept nogil
