# Guest code between two looks at what is due.
from vpmu_core._types cimport uint64_t, uint128_t
from vpmu_core.state cimport machine_t

cdef uint64_t mean_rate(const machine_t *m, int slot) noexcept nogil

cdef inline uint64_t cycles_of(uint64_t occurrences, uint64_t rate) noexcept nogil:
    # At a mean rate, in 2**-32 a cycle. Divisions of 128 bits are calls.
    if occurrences >> 32 == 0:
        return (occurrences << 32) // rate
    return <uint64_t>((<uint128_t>occurrences << 32) // rate)

cdef uint64_t guest_segment(machine_t *m, int kind, uint64_t cycles) noexcept nogil
