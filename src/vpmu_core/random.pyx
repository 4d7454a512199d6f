# cython: freethreading_compatible=True
"""Random streams of the machine, exposed for known-answer tests."""
from vpmu_core._types cimport uint32_t, uint64_t

cdef uint64_t _LOGARITHM[LOG_CELLS + 1]


def _fill_logarithm_table():
    # ln(1 + i/256) = 2 atanh(i / (512 + i)), as a series in integers with 64 guard bits: no libm, exact to the last bit.
    cdef object cell, x, square, term, total, k  # Python integers: 96-bit arithmetic
    for cell in range(LOG_CELLS + 1):
        x = (cell << 96) // (512 + cell)
        square = x * x >> 96
        term = x
        total = 0
        k = 1
        while term:
            total += term // k
            term = term * square >> 96
            k += 2
        _LOGARITHM[cell] = (2 * total + (<object>1 << 63)) >> 64


_fill_logarithm_table()


cdef const uint64_t *logarithm_table() noexcept nogil:
    return _LOGARITHM


cdef void sfc64_seed(sfc64_t *g, const uint64_t *seed) noexcept nogil:
    """Seed as numpy's SFC64 does: three words, a counter of 1, twelve outputs dropped."""
    cdef int i
    for i in range(3):
        g.s[i] = seed[i]
    g.s[3] = 1
    for _ in range(12):
        sfc64_next(g)


cdef inline uint32_t _hash(uint32_t value, uint32_t *constant, uint32_t multiplier) noexcept nogil:
    value ^= constant[0]
    constant[0] *= multiplier
    value *= constant[0]
    return value ^ value >> 16


cdef inline uint32_t _mix(uint32_t x, uint32_t y) noexcept nogil:
    cdef uint32_t mixed = 0xCA01F9DDU * x - 0x4973F715U * y
    return mixed ^ mixed >> 16


cdef void derive_seed(uint64_t seed, uint32_t purpose, uint64_t *words) noexcept nogil:
    """Three words for a stream: numpy's ``SeedSequence(seed, spawn_key=(0, 0, purpose))``, whose hash M. O'Neill published."""
    cdef uint32_t entropy[7]
    cdef uint32_t pool[4]
    cdef uint32_t constant = 0x43B0D7E5U, low
    cdef int i, j
    entropy[0], entropy[1], entropy[2], entropy[3] = <uint32_t>seed, <uint32_t>(seed >> 32), 0, 0
    entropy[4], entropy[5], entropy[6] = 0, 0, purpose  # scenario, vCPU, purpose
    for i in range(4):
        pool[i] = _hash(entropy[i], &constant, 0x931E8875U)
    for i in range(4):
        for j in range(4):
            if i != j:
                pool[j] = _mix(pool[j], _hash(pool[i], &constant, 0x931E8875U))
    for i in range(4, 7):
        for j in range(4):
            pool[j] = _mix(pool[j], _hash(entropy[i], &constant, 0x931E8875U))
    constant = 0x8B51F9DDU
    for i in range(3):
        low = _hash(pool[2 * i & 3], &constant, 0x58F38DEDU)
        words[i] = low | <uint64_t>_hash(pool[2 * i + 1 & 3], &constant, 0x58F38DEDU) << 32


def derived(uint64_t seed, uint32_t purpose):
    """Return the three words that seed the stream of a purpose (0 work, 1 wall, 2 skid) of a scenario."""
    cdef uint64_t words[3]
    derive_seed(seed, purpose, words)
    return words[0], words[1], words[2]


def raw(seed, Py_ssize_t n):
    """Return the first n outputs of a stream seeded with three 64-bit words, as a list of ints."""
    cdef uint64_t words[3]
    cdef sfc64_t g
    words[0], words[1], words[2] = seed
    sfc64_seed(&g, words)
    return [sfc64_next(&g) for _ in range(n)]


def gaps(seed, uint64_t mean, Py_ssize_t n):
    """Return the first n exponential gaps with that mean, as a list of ints."""
    cdef uint64_t words[3]
    cdef stream_t stream
    words[0], words[1], words[2] = seed
    sfc64_seed(&stream.generator, words)
    stream.mean_gap = mean
    stream.rate = NULL
    stream.logarithm = _LOGARITHM
    return [draw_gap(&stream) for _ in range(n)]


def logarithms():
    """Return the table of ln(1 + i/256) in units of 2**-32, a tuple of 257 ints."""
    return tuple([_LOGARITHM[i] for i in range(LOG_CELLS + 1)])
