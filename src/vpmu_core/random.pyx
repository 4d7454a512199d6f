# cython: freethreading_compatible=True
"""Random streams of the machine, exposed for known-answer tests."""
from vpmu_core._types cimport uint64_t

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
