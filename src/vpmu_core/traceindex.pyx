# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""Sums over chunks of a trace, which let the lazy engine step over a whole chunk at once."""
from vpmu_core._types cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


def sum_chunks(
    const int64_t[::1] gap, const uint16_t[::1] kind, const int64_t[::1] handling, const int64_t[::1] idle,
    const uint8_t[::1] userspace, uint64_t kernel, uint64_t[::1] gaps, uint32_t[:, ::1] count, uint64_t[:, ::1] handled,
    uint64_t[:, ::1] by_task, uint64_t[:, ::1] idled,
):
    """Fill the sums of every full chunk of ``CHUNK`` exits.

    Parameters
    ----------
    gap, kind, handling, idle : arrays of shape (n,)
        As :class:`vpmu._plan.Trace` has them.
    userspace : ndarray of uint8, shape (k,)
        Whether an exit kind ends in user space.
    kernel : int
        Cycles of such an exit's handling that are the kernel's.
    gaps : ndarray of uint64, shape (n // CHUNK,)
        Filled: sums of gap.
    count, handled, by_task, idled : ndarrays of uint32 and uint64, shape (n // CHUNK, k)
        Filled, for each kind: exits, sums of handling, of what user space has of it, and of idle.
    """
    cdef Py_ssize_t chunk, i
    cdef uint64_t total
    cdef uint16_t k
    with nogil:
        for chunk in range(gaps.shape[0]):
            count[chunk, :] = 0
            handled[chunk, :] = 0
            by_task[chunk, :] = 0
            idled[chunk, :] = 0
            total = 0
            for i in range(chunk * CHUNK, (chunk + 1) * CHUNK):
                k = kind[i]
                total += gap[i]
                count[chunk, k] += 1
                handled[chunk, k] += handling[i]
                idled[chunk, k] += idle[i]
                if userspace[k] and <uint64_t>handling[i] > kernel:
                    by_task[chunk, k] += handling[i] - kernel
            gaps[chunk] = total
