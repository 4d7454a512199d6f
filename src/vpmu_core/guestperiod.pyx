# cython: freethreading_compatible=True, cdivision=True
"""Sampling by frequency: Linux's integer arithmetic of periods, and its limits of the sampling rate.

After kernel/events/core.c: ``perf_calculate_period``, ``perf_adjust_period``, ``perf_sample_event_took``.
"""
from libc.string cimport memset

from vpmu_core._types cimport int64_t, leading_zeros64, uint64_t, uint128_t
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport machine_t

cdef enum:
    AVERAGED = 128  # handlers over which their duration is averaged


cdef uint64_t guest_time(const machine_t *m) noexcept nogil:
    """The guest's clock in ns; it sees time that exits have stolen."""
    return <uint64_t>(<uint128_t>m.wall * <uint64_t>NSEC_PER_SEC // m.guest_core_hz)


cdef uint64_t tick_nsec(const machine_t *m) noexcept nogil:
    """Linux TICK_NSEC: a second by CONFIG_HZ, rounded to nearest."""
    return (NSEC_PER_SEC + m.guest_hz // 2) // m.guest_hz


cdef inline int _bits(uint64_t value) noexcept nogil:
    return 64 - leading_zeros64(value) if value else 0


cdef inline void _halve_longer(uint64_t *first, uint64_t *second) noexcept nogil:
    # The second if both are equally long.
    if _bits(first[0]) > _bits(second[0]):
        first[0] >>= 1
    else:
        second[0] >>= 1


cdef uint64_t _target(uint64_t nsec, uint64_t count, uint64_t frequency) noexcept nogil:
    """count events in nsec are sampled ``frequency`` times a second with this period, all in 64 bits."""
    cdef uint64_t second = NSEC_PER_SEC, above, below, dropped = 0
    while _bits(count) + _bits(second) > 64 and _bits(nsec) + _bits(frequency) > 64:
        _halve_longer(&nsec, &frequency)
        _halve_longer(&second, &count)
    # At most one product is too long now; what it loses the other loses too.
    while _bits(count) + _bits(second) > 64:
        _halve_longer(&count, &second)
        dropped += 1
    if dropped:
        below = nsec * frequency >> min(dropped, 63)
        above = count * second
        return above // below if below else above
    above = count * second
    while _bits(nsec) + _bits(frequency) > 64:
        _halve_longer(&nsec, &frequency)
        above >>= 1
    below = nsec * frequency
    return above // below if below else above


cdef int64_t _low_pass(int64_t period, uint64_t target) noexcept nogil:
    # An eighth of the way, rounded away from where it stands.
    cdef int64_t d = <int64_t>(target - <uint64_t>period)
    period += (d + 7 if d >= 0 else d - 7) // 8
    return period if period else 1


cdef bint adjust_period(guest_event_t *e, uint64_t nsec, uint64_t count) noexcept nogil:
    """A new period; whether what is left of the old one is so long that it must not be waited for."""
    e.perf.period = _low_pass(e.perf.period, _target(nsec, count, e.frequency))
    return e.perf.period_left > 0 and (e.perf.period_left - 1) // 8 >= e.perf.period


cdef void limit_samples(machine_t *m, uint64_t rate) noexcept nogil:
    """Sysctl kernel.perf_event_max_sample_rate."""
    m.guest_samples_per_tick = (rate + m.guest_hz - 1) // m.guest_hz
    m.guest_sample_allowed = <uint64_t>NSEC_PER_SEC // rate * m.guest_percent // 100


cdef void handler_took(machine_t *m, uint64_t nsec) noexcept nogil:
    """A PMI handler's duration: slow ones lower the rate at which samples may come, and nothing raises it again."""
    cdef uint64_t average, most
    if m.guest_sample_allowed == 0:
        return
    m.guest_sample_taken += nsec - m.guest_sample_taken // AVERAGED
    average = m.guest_sample_taken // AVERAGED
    if average <= m.guest_sample_allowed:
        return
    average += average // 4
    most = tick_nsec(m) // 100 * m.guest_percent
    m.guest_samples_per_tick = most // average if average < most else 1
    m.guest_sample_allowed = average


def target_period(uint64_t nsec, uint64_t count, uint64_t frequency):
    """Period at which events that come ``count`` times in ``nsec`` are sampled ``frequency`` times a second."""
    return _target(nsec, count, frequency)


def adjusted_period(int64_t period, uint64_t nsec, uint64_t count, uint64_t frequency):
    """Period after one adjustment."""
    return _low_pass(period, _target(nsec, count, frequency))


def lowered_limits(uint64_t hz, list durations, uint64_t rate=100000, uint64_t percent=25):
    """Samples that each event may have in a tick after PMI handlers of these durations in ns."""
    cdef machine_t m
    memset(&m, 0, sizeof(machine_t))
    m.guest_hz = hz
    m.guest_percent = percent
    limit_samples(&m, rate)
    limits = []
    for nsec in durations:
        handler_took(&m, nsec)
        limits.append(m.guest_samples_per_tick)
    return limits
