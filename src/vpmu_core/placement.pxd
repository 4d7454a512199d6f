# Which counter each perf event gets: Linux x86_schedule_events(), for guest perf and host perf alike.
from vpmu_core._types cimport int8_t, lowest_bit, popcount32, uint32_t
from vpmu_core.unit cimport FIXED_SLOT, SLOTS


cdef inline bint place_events(const uint32_t *allowed, const int8_t *previous, int n, int8_t *slots) noexcept nogil:
    """The previous counters if they all still fit, else all events anew: by number of allowed counters, and a fixed
    counter before a general-purpose one. False: they do not all fit.
    """
    cdef uint32_t used = 0, free
    cdef int i = 0, weight
    while i < n and previous[i] >= 0 and (allowed[i] & ~used) >> previous[i] & 1:
        used |= <uint32_t>1 << previous[i]
        slots[i] = previous[i]
        i += 1
    if i == n:
        return True
    used = 0
    for weight in range(SLOTS + 1):
        for i in range(n):
            if popcount32(allowed[i]) != weight:
                continue
            free = allowed[i] & ~used
            if not free:
                return False
            if free >> FIXED_SLOT:
                free &= -(<uint32_t>1 << FIXED_SLOT)
            slots[i] = <int8_t>lowest_bit(free)
            used |= <uint32_t>1 << slots[i]
    return True
