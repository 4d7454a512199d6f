# What one exit of a kind does.
from vpmu_core._types cimport uint32_t
from vpmu_core.lazy cimport state_key_t
from vpmu_core.state cimport machine_t

cdef void read_key(const machine_t *m, state_key_t *key) noexcept nogil
cdef void summarise(machine_t *m, uint32_t kind) noexcept nogil
