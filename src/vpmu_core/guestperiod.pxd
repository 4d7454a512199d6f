# Sampling by frequency: Linux's integer arithmetic of periods, and its limits of the sampling rate.
from vpmu_core._types cimport uint64_t
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport machine_t

cdef enum:
    NSEC_PER_SEC = 1000000000

cdef uint64_t guest_time(const machine_t *m) noexcept nogil
cdef uint64_t tick_nsec(const machine_t *m) noexcept nogil
cdef bint adjust_period(guest_event_t *e, uint64_t nsec, uint64_t count) noexcept nogil
cdef void limit_samples(machine_t *m, uint64_t rate) noexcept nogil
cdef void handler_took(machine_t *m, uint64_t nsec) noexcept nogil
