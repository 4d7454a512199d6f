# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""Sums over chunks of a trace, which let the lazy engine step over a whole chunk at once."""
from vpmu_core._types cimport NEVER, int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    COUNT_BIT = 53  # a word is a number of exits and, below this bit, a sum
    VALUE_BITS = 43  # of which a chunk's sum fits below it


cdef inline void _empty(uint64_t *bank, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(BANKS * columns):
        bank[i] = 0


cdef inline uint64_t _collected(const uint64_t *bank, Py_ssize_t column, Py_ssize_t columns) noexcept nogil:
    cdef uint64_t total = 0
    cdef Py_ssize_t i
    for i in range(BANKS):
        total += bank[i * columns + column]
    return total


cdef inline uint64_t _total_within(const int64_t *values, int64_t bound) noexcept nogil:
    cdef uint64_t total = 0
    cdef Py_ssize_t i
    for i in range(CHUNK):
        total += min(values[i], bound)
    return total


def sum_chunks(
    const int64_t[::1] gap, const uint16_t[::1] kind, const int64_t[::1] handling, const int64_t[::1] idle,
    const int64_t[::1] bound, uint64_t[:, ::1] bank, uint64_t[::1] gaps, uint64_t[::1] idled, uint32_t[:, ::1] count,
    uint64_t[:, ::1] handled, uint64_t[:, ::1] within,
):
    """Fill the sums of every full chunk of ``CHUNK`` exits.

    Columns are exit kinds, first of the exits that do not block, then of those that do.

    Parameters
    ----------
    gap, kind, handling, idle : arrays of shape (n,)
        As :class:`vpmu._plan.Trace` has them.
    bound : ndarray of int64, shape (columns,)
        Of each exit's handling, the part up to here is summed apart.
    bank : ndarray of uint64, shape (BANKS, columns)
        Working memory.
    gaps, idled : ndarray of uint64, shape (n // CHUNK,)
        Filled: sums of gap and of idle. A gap of 2**64 - 1: some handling takes 2**43 cycles, the chunk has no sums.
    count, handled, within : ndarrays of uint32 and uint64, shape (n // CHUNK, columns)
        Filled: exits, sums of handling, and of the part of it that is within the bound.
    """
    cdef Py_ssize_t chunk, i, j, column, columns = count.shape[1], kinds = columns // 2
    cdef uint64_t total, blocked, total_handled, any_value, word
    cdef uint16_t different
    cdef uint64_t *sums = &bank[0, 0]
    cdef const int64_t *g
    cdef const int64_t *h
    cdef const int64_t *b
    cdef const uint16_t *k
    cdef bint bounded
    if gaps.shape[0] == 0:
        return
    with nogil:
        for chunk in range(gaps.shape[0]):
            g, h, b, k = &gap[chunk * CHUNK], &handling[chunk * CHUNK], &idle[chunk * CHUNK], &kind[chunk * CHUNK]
            total = blocked = total_handled = any_value = different = 0
            for i in range(CHUNK):
                total += g[i]
                blocked += b[i]
                total_handled += h[i]
                any_value |= h[i]
            for i in range(CHUNK):
                different |= k[i] ^ k[0]
            gaps[chunk], idled[chunk] = total, blocked
            if any_value >> VALUE_BITS:
                gaps[chunk] = NEVER
                continue
            if not different and not blocked:
                count[chunk, k[0]] = CHUNK
                handled[chunk, k[0]] = total_handled
                within[chunk, k[0]] = _total_within(h, bound[k[0]]) if bound[k[0]] else 0
                continue
            _empty(sums, columns)
            if blocked:
                for i in range(0, CHUNK, 4):
                    for j in range(BANKS):
                        column = k[i + j] + (kinds if b[i + j] else 0)
                        sums[j * columns + column] += (<uint64_t>1 << COUNT_BIT) + h[i + j]
            else:
                for i in range(0, CHUNK, 4):
                    for j in range(BANKS):
                        sums[j * columns + k[i + j]] += (<uint64_t>1 << COUNT_BIT) + h[i + j]
            bounded = False
            for column in range(columns):
                word = _collected(sums, column, columns)
                count[chunk, column] = <uint32_t>(word >> COUNT_BIT)
                handled[chunk, column] = word & ((<uint64_t>1 << COUNT_BIT) - 1)
                bounded |= word != 0 and bound[column] != 0
            if not bounded:
                continue
            _empty(sums, columns)
            for i in range(0, CHUNK, 4):
                for j in range(BANKS):
                    column = k[i + j] + (kinds if b[i + j] else 0)
                    sums[j * columns + column] += min(h[i + j], bound[column])
            for column in range(columns):
                within[chunk, column] = _collected(sums, column, columns)
