# Guest counters that host events back, after many exits that reprogram them, in closed form.
from vpmu_core._types cimport int64_t, uint32_t, uint64_t
from vpmu_core.state cimport machine_t

cdef uint32_t reprogrammed_by(const machine_t *m, int cpl) noexcept nogil
cdef void fold(machine_t *m, uint32_t slots, uint64_t n) noexcept nogil
cdef uint64_t kept_free(const machine_t *m) noexcept nogil
cdef uint32_t backing_slots(const machine_t *m, uint32_t counters) noexcept nogil
cdef uint64_t most_emulated(const machine_t *m) noexcept nogil
