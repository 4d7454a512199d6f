# Host-mode code of many exits at once, beside host events.
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport host_modes_t, machine_t

cdef enum:
    LEAST_ROOM = 1 << 15  # cycles: less is not worth a jump, nor enough to try an exit on a copy

cdef uint64_t room_for_all(machine_t *m) noexcept nogil
cdef void count_by_modes(machine_t *m, const host_modes_t *modes, const uint64_t *before) noexcept nogil
