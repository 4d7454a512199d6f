# The reactions of design mediated, for designs that share them.
from vpmu_core._types cimport uint32_t
from vpmu_core.state cimport access_t, design_t, machine_t

cdef void mediated_leave(machine_t *m) noexcept nogil
cdef void mediated_enter(machine_t *m) noexcept nogil
cdef bint mediated_refuses(machine_t *m) noexcept nogil
cdef void mediated_access(machine_t *m, access_t *a) noexcept nogil
cdef uint32_t mediated_retire(machine_t *m, int cpl) noexcept nogil
cdef void mediated_requests(machine_t *m) noexcept nogil
cdef void mediated_put(machine_t *m) noexcept nogil
cdef void mediated_load(machine_t *m) noexcept nogil
cdef void mediated_arrive(machine_t *m) noexcept nogil

# A whole table of them, in which another design replaces what differs.
cdef void mediated_reactions(design_t *d) noexcept nogil
