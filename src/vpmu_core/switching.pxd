# Guest state into hardware and out of it.
from vpmu_core.state cimport machine_t

cdef enum:
    GUEST_VECTOR = 0xF5  # PERF_GUEST_MEDIATED_PMI_VECTOR

cdef void load_guest(machine_t *m) noexcept nogil
cdef void put_guest(machine_t *m) noexcept nogil
