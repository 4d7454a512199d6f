# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""The loop to compare the machine with: one exit with a full PMU switch, and nothing else.

Draw the guest's cycles, save the host's counters, load the guest's counters and selectors, advance every enabled
counter and collect overflows, save the guest's, load the host's. No simulator that does the same work can be much
faster on the same machine; built with the core's own flags.
"""
from libc.string cimport memcpy, memset

from vpmu_core._types cimport LOW32, int64_t, popcount64, uint16_t, uint32_t, uint64_t
from vpmu_core.random cimport draw_gap, draw_kind, logarithm_table, sfc64_seed, stream_t

cdef enum:
    COUNTERS = 11  # 8 general-purpose, 3 fixed
    WIDTH = 48
    ENABLE_BIT = 22

cdef struct limit_pmu_t:
    uint64_t counter[COUNTERS]
    uint64_t selector[COUNTERS]
    uint64_t global_ctrl
    uint64_t global_status

cdef struct limit_t:
    limit_pmu_t hardware
    limit_pmu_t guest
    limit_pmu_t host
    uint64_t rate[COUNTERS]  # events per 2**32 cycles
    uint64_t remainder[COUNTERS]  # of the last event, in 2**-32


cdef inline uint64_t _draw(uint64_t *state) noexcept nogil:
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x


cdef uint64_t _full(limit_t *l, uint64_t exits, uint64_t seed) noexcept nogil:
    cdef uint64_t operations = 0, cycles, overflow, total, on, value
    cdef uint64_t mask = (<uint64_t>1 << WIDTH) - 1
    cdef int c
    while exits:
        exits -= 1
        cycles = (_draw(&seed) & 0xFFFF) + 1000
        overflow = 0
        memcpy(l.host.counter, l.hardware.counter, sizeof(l.hardware.counter))
        memcpy(l.hardware.counter, l.guest.counter, sizeof(l.hardware.counter))
        memcpy(l.hardware.selector, l.guest.selector, sizeof(l.hardware.selector))
        l.hardware.global_ctrl = l.guest.global_ctrl
        for c in range(COUNTERS):
            total = l.remainder[c] + l.rate[c] * cycles
            on = l.hardware.selector[c] >> ENABLE_BIT & l.hardware.global_ctrl >> c & 1
            value = l.hardware.counter[c] + (total >> 32 if on else 0)
            l.remainder[c] = total & LOW32
            overflow |= <uint64_t>(value >> WIDTH != 0) << c
            l.hardware.counter[c] = value & mask
        l.hardware.global_status |= overflow
        memcpy(l.guest.counter, l.hardware.counter, sizeof(l.hardware.counter))
        memcpy(l.hardware.counter, l.host.counter, sizeof(l.hardware.counter))
        memcpy(l.hardware.selector, l.host.selector, sizeof(l.hardware.selector))
        l.hardware.global_ctrl = l.host.global_ctrl
        operations += <uint64_t>popcount64(l.hardware.global_status) + 40
    return operations


def full(uint64_t exits, uint64_t seed=88172645463325252):
    """Run the loop and return its number of operations and the first guest counter."""
    cdef limit_t l
    cdef uint64_t operations
    cdef int c
    memset(&l, 0, sizeof(l))
    for c in range(COUNTERS):
        l.guest.selector[c] = l.host.selector[c] = <uint64_t>1 << ENABLE_BIT
        l.rate[c] = (<uint64_t>1 << 32) // <uint64_t>(c + 2)
    l.guest.global_ctrl = l.host.global_ctrl = (1 << COUNTERS) - 1
    with nogil:
        operations = _full(&l, exits, seed)
    return operations, l.guest.counter[0]


cdef class Empty:
    """What a call of a compiled method costs anyway."""

    def rdmsr(self, msr):
        """Return 0."""
        return 0


cdef uint64_t _lazy(stream_t *given, const uint64_t *busy, uint64_t exits) noexcept nogil:
    cdef stream_t stream = given[0]
    cdef uint64_t guest = 0, host = 0, horizon = <uint64_t>1 << 40, overflows = 0
    cdef uint32_t kind
    while exits:
        exits -= 1
        guest += draw_gap(&stream)
        kind = draw_kind(&stream)
        host += busy[kind]
        if guest >= horizon:
            overflows += 1
            horizon = guest + 150_000_000
    return guest + host + overflows


def lazy(uint64_t exits, uint64_t kinds=6):
    """Draw gaps and kinds as the machine does, add them to two clocks, compare with the next overflow."""
    cdef stream_t stream
    cdef uint32_t threshold[64]
    cdef uint16_t alias[64]
    cdef uint16_t kind[64]
    cdef uint64_t busy[64]
    cdef uint64_t seed[3]
    cdef uint64_t out
    cdef uint32_t i
    if not 0 < kinds <= 64:
        raise ValueError(f"kinds must be 1 to 64, not {kinds}")
    memset(&stream, 0, sizeof(stream))
    seed[0], seed[1], seed[2] = 1, 2, 3
    sfc64_seed(&stream.generator, seed)
    for i in range(kinds):
        threshold[i] = 0x9E3779B1U * (i + 1)
        alias[i] = <uint16_t>((i + 1) % kinds)
        kind[i] = <uint16_t>i
        busy[i] = 1000 + 100 * i
    stream.mean_gap = 30000
    stream.logarithm = logarithm_table()
    stream.threshold, stream.alias, stream.kind = threshold, alias, kind
    stream.n = kinds
    with nogil:
        out = _lazy(&stream, busy, exits)
    return out


def replay(const int64_t[::1] gap, const int64_t[::1] handling):
    """Sum the two columns of a recorded array of exits."""
    cdef uint64_t guest = 0, host = 0
    cdef Py_ssize_t i
    with nogil:
        for i in range(gap.shape[0]):
            guest += gap[i]
            host += handling[i]
    return guest, host
