# cython: freethreading_compatible=True, cdivision=True
"""Timers of the guest: a timer that is overdue fires once, and again at its next multiple (Linux hrtimer_forward())."""
from vpmu_core._types cimport NEVER, uint64_t, uint128_t
from vpmu_core.kinds cimport TIMERS
from vpmu_core.perfevents cimport guest_timer_t
from vpmu_core.state cimport machine_t


cdef void _find_next(machine_t *m) noexcept nogil:
    cdef int i
    m.next_timer = NEVER
    for i in range(TIMERS):
        m.next_timer = min(m.next_timer, m.guest_timer[i].due)
    m.due = min(m.due, m.next_timer)


cdef void restart_timer(machine_t *m, int which) noexcept nogil:
    """Due at the first of its multiples after now."""
    cdef guest_timer_t *t = &m.guest_timer[which]
    cdef uint128_t n = <uint128_t>(m.wall - t.base) * t.denominator // t.numerator + 1
    t.due = t.base + <uint64_t>((n * t.numerator + t.denominator - 1) // t.denominator)
    _find_next(m)


cdef void start_timer(machine_t *m, int which, uint64_t base) noexcept nogil:
    """Count its multiples from ``base``; a timer without a period stays off."""
    if m.guest_timer[which].numerator:
        m.guest_timer[which].base = base
        restart_timer(m, which)


cdef void stop_timer(machine_t *m, int which) noexcept nogil:
    m.guest_timer[which].due = NEVER
    _find_next(m)
