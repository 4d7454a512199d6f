# The reactions of design dedicated, for designs that share them.
from vpmu_core._types cimport uint32_t
from vpmu_core.state cimport machine_t

cdef void _start(machine_t *m) noexcept nogil
cdef void _leave(machine_t *m) noexcept nogil
cdef void _enter(machine_t *m) noexcept nogil
cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil
cdef void _arrive(machine_t *m) noexcept nogil
