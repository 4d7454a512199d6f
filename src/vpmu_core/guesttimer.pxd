# Timers of the guest: on its clock, which is the wall clock.
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport machine_t

cdef void start_timer(machine_t *m, int which, uint64_t base) noexcept nogil
cdef void stop_timer(machine_t *m, int which) noexcept nogil
cdef void restart_timer(machine_t *m, int which) noexcept nogil
