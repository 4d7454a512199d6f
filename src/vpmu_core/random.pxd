# SFC64 streams and integer exponential gaps: the same integers on every machine, no libm.
from vpmu_core._types cimport leading_zeros64, uint16_t, uint32_t, uint64_t, uint128_t

cdef enum:
    LOG_CELLS = 256

cdef struct sfc64_t:
    uint64_t s[4]

cdef struct stream_t:
    sfc64_t generator
    uint64_t mean_gap  # cycles; 0: the stream has no source
    const uint64_t *logarithm  # LOG_CELLS + 1 values of ln(1 + i/256) in 2**-32
    const uint32_t *threshold  # alias table: n slots
    const uint16_t *alias
    const uint16_t *kind  # exit kind of each slot
    uint32_t n
    const uint64_t *rate  # of each slot, 2**-48 exits per cycle, for regular arrivals; else NULL
    uint64_t *count  # exits of each slot so far, the pending one included
    uint64_t *due  # the clock at the next one
    uint32_t pending  # slot of the exit drawn last


cdef inline uint64_t sfc64_next(sfc64_t *g) noexcept nogil:
    cdef uint64_t out = g.s[0] + g.s[1] + g.s[3]
    g.s[3] += 1
    g.s[0] = g.s[1] ^ (g.s[1] >> 11)
    g.s[1] = g.s[2] + (g.s[2] << 3)
    g.s[2] = (g.s[2] << 24 | g.s[2] >> 40) + out
    return out


cdef inline uint64_t gap_of(const stream_t *stream, uint64_t x) noexcept nogil:
    # -ln(u) * mean, by the position of the leading bit and a table of the mantissa's logarithm.
    cdef uint64_t y, low, log_mantissa
    cdef int k
    cdef uint32_t i
    if x == 0:
        x = 1
    k = leading_zeros64(x)
    y = x << k
    i = y >> 55 & 255
    low = stream.logarithm[i]
    log_mantissa = low + ((stream.logarithm[i + 1] - low) * (y >> 39 & 65535) >> 16)
    return <uint64_t>((<uint128_t>stream.mean_gap * ((k + 1) * stream.logarithm[LOG_CELLS] - log_mantissa)) >> 32)


cdef inline uint64_t draw_gap(stream_t *stream) noexcept nogil:
    return gap_of(stream, sfc64_next(&stream.generator))


cdef inline uint64_t instant_of(uint64_t rate, uint64_t n) noexcept nogil:
    # The first clock at which floor(rate * clock / 2**48) is n.
    cdef uint128_t scaled = <uint128_t>n << 48
    scaled += rate - 1
    return <uint64_t>(scaled // rate)


cdef inline uint64_t next_regular(stream_t *stream) noexcept nogil:
    # Take the exit that is due first, of several the one of the first slot; return its clock.
    cdef uint32_t i, first = 0
    cdef uint64_t at
    for i in range(1, stream.n):
        if stream.due[i] < stream.due[first]:
            first = i
    at = stream.due[first]
    stream.pending = first
    stream.count[first] += 1
    stream.due[first] = instant_of(stream.rate[first], stream.count[first] + 1)
    return at


cdef inline uint32_t slot_of(const stream_t *stream, uint64_t x) noexcept nogil:
    # Alias method, without a branch that depends on the draw.
    cdef uint32_t i = <uint32_t>((x >> 32) * stream.n >> 32)
    cdef uint32_t other = stream.alias[i]
    cdef uint32_t keep = 0 - <uint32_t>(<uint32_t>x < stream.threshold[i])
    return other ^ ((i ^ other) & keep)


cdef inline uint16_t draw_kind(stream_t *stream) noexcept nogil:
    return stream.kind[slot_of(stream, sfc64_next(&stream.generator))]


cdef void sfc64_seed(sfc64_t *g, const uint64_t *seed) noexcept nogil
cdef void derive_seed(uint64_t seed, uint32_t purpose, uint64_t *words) noexcept nogil
cdef const uint64_t *logarithm_table() noexcept nogil
