# Guest code between two looks at what is due.
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport machine_t

cdef uint64_t mean_rate(const machine_t *m, int slot) noexcept nogil
cdef uint64_t guest_segment(machine_t *m, int kind, uint64_t cycles) noexcept nogil
