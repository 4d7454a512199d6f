# Loops over counters that compilers do not vectorise well by themselves: four at a time, in C's vector extension.
from vpmu_core._types cimport uint64_t

cdef extern from *:
    """
    typedef uint64_t vpmu_lanes_t __attribute__((vector_size(32)));

    static inline vpmu_lanes_t vpmu_lanes_at(const uint64_t *words)
    {
        vpmu_lanes_t lanes;
        __builtin_memcpy(&lanes, words, sizeof lanes);
        return lanes;
    }

    static inline vpmu_lanes_t vpmu_lanes_of(uint64_t word)
    {
        return (vpmu_lanes_t){word, word, word, word};
    }

    /* Products of the low halves: GCC makes three multiplications of them unless it is told. */
    static inline vpmu_lanes_t vpmu_times_low(vpmu_lanes_t a, vpmu_lanes_t b)
    {
    #if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
        typedef int vpmu_halves_t __attribute__((vector_size(32)));
        return (vpmu_lanes_t)__builtin_ia32_pmuludq256((vpmu_halves_t)a, (vpmu_halves_t)b);
    #else
        return (a & 0xFFFFFFFFULL) * (b & 0xFFFFFFFFULL);
    #endif
    }

    static inline uint64_t vpmu_nonzero(vpmu_lanes_t lanes)
    {
    #if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
        typedef double vpmu_doubles_t __attribute__((vector_size(32)));
        return 4 - (uint64_t)__builtin_popcount((unsigned)__builtin_ia32_movmskpd256((vpmu_doubles_t)(lanes == 0)));
    #else
        return (uint64_t)(lanes[0] != 0) + (lanes[1] != 0) + (lanes[2] != 0) + (lanes[3] != 0);
    #endif
    }

    static inline void vpmu_save_lanes(uint64_t *to, const uint64_t *from, const uint64_t *mask, int n)
    {
        for (int i = 0; i < n; i += 4) {
            vpmu_lanes_t lanes = vpmu_lanes_at(from + i) & vpmu_lanes_at(mask + i);
            __builtin_memcpy(to + i, &lanes, sizeof lanes);
        }
    }

    static inline uint64_t vpmu_replace_lanes(uint64_t *to, const uint64_t *from, const uint64_t *mask, int n)
    {
        uint64_t count = 0;
        for (int i = 0; i < n; i += 4) {
            vpmu_lanes_t lanes = vpmu_lanes_at(to + i);
            vpmu_lanes_t change = (lanes ^ vpmu_lanes_at(from + i)) & vpmu_lanes_at(mask + i);
            lanes ^= change;
            __builtin_memcpy(to + i, &lanes, sizeof lanes);
            count += vpmu_nonzero(change);
        }
        return count;
    }

    static inline uint64_t vpmu_move_lanes(uint64_t *to, uint64_t *from, const uint64_t *mask, int n)
    {
        uint64_t count = 0;
        for (int i = 0; i < n; i += 4) {
            vpmu_lanes_t lanes = vpmu_lanes_at(from + i);
            vpmu_lanes_t mine = lanes & vpmu_lanes_at(mask + i);
            lanes ^= mine;
            __builtin_memcpy(to + i, &mine, sizeof mine);
            __builtin_memcpy(from + i, &lanes, sizeof lanes);
            count += vpmu_nonzero(mine);
        }
        return count;
    }

    static inline uint64_t vpmu_clear_lanes(uint64_t *words, const uint64_t *mask, int n)
    {
        uint64_t count = 0;
        for (int i = 0; i < n; i += 4) {
            vpmu_lanes_t lanes = vpmu_lanes_at(words + i);
            vpmu_lanes_t mine = lanes & vpmu_lanes_at(mask + i);
            lanes ^= mine;
            __builtin_memcpy(words + i, &lanes, sizeof lanes);
            count += vpmu_nonzero(mine);
        }
        return count;
    }

    /* between_short() of activity.pxd. */
    static inline vpmu_lanes_t vpmu_between(vpmu_lanes_t rate, vpmu_lanes_t start, vpmu_lanes_t cycles)
    {
        vpmu_lanes_t fraction = vpmu_times_low(rate, start) & 0xFFFFFFFFULL;
        return ((fraction + vpmu_times_low(rate, cycles)) >> 32) + vpmu_times_low(rate >> 32, cycles);
    }

    static inline uint64_t vpmu_advance_lanes(
        uint64_t *counter, int n, uint64_t beyond, const uint64_t *rate, uint64_t start, uint64_t cycles,
        const uint64_t *other_rate, uint64_t other_start, uint64_t other_cycles)
    {
        vpmu_lanes_t over = {0, 0, 0, 0};
        for (int i = 0; i < n; i += 4) {
            vpmu_lanes_t value = vpmu_lanes_at(counter + i);
            value += vpmu_between(vpmu_lanes_at(rate + i), vpmu_lanes_of(start), vpmu_lanes_of(cycles));
            value += vpmu_between(vpmu_lanes_at(other_rate + i), vpmu_lanes_of(other_start), vpmu_lanes_of(other_cycles));
            over |= value & beyond;
            __builtin_memcpy(counter + i, &value, sizeof value);
        }
    #if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
        typedef long long vpmu_signed_t __attribute__((vector_size(32)));
        return !__builtin_ia32_ptestz256((vpmu_signed_t)over, (vpmu_signed_t)over);
    #else
        return over[0] | over[1] | over[2] | over[3];
    #endif
    }
    """
    # In all of them n is a multiple of 4, and a mask is all ones for words that are meant.
    void save_lanes "vpmu_save_lanes" (uint64_t *to, const uint64_t *source, const uint64_t *mask, int n) noexcept nogil
    # Return how many changed.
    uint64_t replace_lanes "vpmu_replace_lanes" (
        uint64_t *to, const uint64_t *source, const uint64_t *mask, int n,
    ) noexcept nogil
    # save_lanes() and clear_lanes() in one.
    uint64_t move_lanes "vpmu_move_lanes" (uint64_t *to, uint64_t *source, const uint64_t *mask, int n) noexcept nogil
    # Return how many were not 0.
    uint64_t clear_lanes "vpmu_clear_lanes" (uint64_t *words, const uint64_t *mask, int n) noexcept nogil
    # Advance n counters by what occurs while two activities run for fewer than 2**26 cycles each; nonzero
    # if one has a bit of ``beyond`` then.
    uint64_t advance_lanes "vpmu_advance_lanes" (
        uint64_t *counter, int n, uint64_t beyond, const uint64_t *rate, uint64_t start, uint64_t cycles,
        const uint64_t *other_rate, uint64_t other_start, uint64_t other_cycles,
    ) noexcept nogil
