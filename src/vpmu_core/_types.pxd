# The scalar types of the core, in one place.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    typedef unsigned __int128 vpmu_uint128_t;
    #define VPMU_LOW32 0xFFFFFFFFULL
    #define VPMU_ALL_ONES 0xFFFFFFFFFFFFFFFFULL
    #define VPMU_NEVER 0x4000000000000000ULL
    """
    ctypedef unsigned long long uint128_t "vpmu_uint128_t"
    uint64_t LOW32 "VPMU_LOW32"  # mask of the low 32 bits
    uint64_t ALL_ONES "VPMU_ALL_ONES"
    uint64_t NEVER "VPMU_NEVER"  # an instant that no clock reaches (clocks are < 2**58)
    int popcount32 "__builtin_popcount" (uint32_t) noexcept nogil
    int popcount64 "__builtin_popcountll" (uint64_t) noexcept nogil
    int lowest_bit "__builtin_ctz" (uint32_t) noexcept nogil
    int leading_zeros64 "__builtin_clzll" (uint64_t) noexcept nogil
