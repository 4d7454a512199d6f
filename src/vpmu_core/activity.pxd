# The counting rule: the number of occurrences of an event is a pure function of its activity's clock.
from vpmu_core._types cimport LOW32, uint32_t, uint64_t, uint128_t


cdef inline uint64_t occurrences(uint64_t rate, uint64_t clock) noexcept nogil:
    # floor(rate * clock / 2**32); rate <= 2**36 in 2**-32 events per cycle, clock < 2**58 cycles.
    return <uint64_t>((<uint128_t>rate * clock) >> 32)


cdef inline uint64_t between(uint64_t rate, uint64_t start, uint64_t end) noexcept nogil:
    # Occurrences while the clock goes from start to end; telescopes, however the time line is cut.
    return occurrences(rate, end) - occurrences(rate, start)


cdef inline uint64_t between_short(uint64_t rate, uint64_t start, uint64_t cycles) noexcept nogil:
    # The same for fewer than 2**26 cycles, in 32-bit products that vectorise: of the start only the fraction
    # (rate * start) mod 2**32 matters, and that depends on the low halves alone.
    cdef uint32_t low = <uint32_t>rate
    cdef uint32_t short_cycles = <uint32_t>cycles
    cdef uint64_t fraction = <uint64_t>low * <uint32_t>start & LOW32
    return ((fraction + <uint64_t>low * short_cycles) >> 32) + (rate >> 32) * short_cycles
