# The reactions of design emulated, for designs that share them.
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.state cimport access_t, design_t, machine_t

cdef void _leave(machine_t *m) noexcept nogil
cdef void _enter(machine_t *m) noexcept nogil
cdef void _access(machine_t *m, access_t *a) noexcept nogil
cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil
cdef uint64_t _fixed_selector(const machine_t *m, int slot) noexcept nogil
cdef void _reprogram_now(machine_t *m) noexcept nogil
cdef void _requests(machine_t *m) noexcept nogil
cdef void _wake(machine_t *m) noexcept nogil

# A whole table of them, in which another design replaces what differs.
cdef void emulated_reactions(design_t *d) noexcept nogil
