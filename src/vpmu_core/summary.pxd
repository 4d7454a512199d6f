# What one exit of a kind does.
from vpmu_core._types cimport uint32_t
from vpmu_core.lazy cimport state_key_t
from vpmu_core.state cimport machine_t
from vpmu_core.unit cimport FIXED_LANES, FIXED_SLOT, GP_LANES, pmu_t

cdef void read_key(const machine_t *m, state_key_t *key) noexcept nogil

cdef inline uint32_t nonzero_counters(const pmu_t *p) noexcept nogil:
    cdef uint32_t slots = 0
    cdef int i
    for i in range(GP_LANES):
        slots |= <uint32_t>(p.counter[i] != 0) << i
    for i in range(FIXED_SLOT, FIXED_SLOT + FIXED_LANES):
        slots |= <uint32_t>(p.counter[i] != 0) << i
    return slots

cdef void summarise(machine_t *m, uint32_t kind) noexcept nogil
