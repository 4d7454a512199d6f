# cython: freethreading_compatible=True
"""Host-mode code of many exits at once, beside host events.

Occurrences are a function of an activity's clock. Where all code of an activity counts alike in all exits of a jump (the
same GLOBAL_CTRL, nothing in or out of its counter), what it counts depends on where its clock was and is, not on the exits.
"""
from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t
from vpmu_core.counting cimport count_host_time, refresh_rates
from vpmu_core.kinds cimport ACTIVITIES
from vpmu_core.segment cimport cycles_of
from vpmu_core.state cimport host_mode_t, host_modes_t, machine_t
from vpmu_core.unit cimport width_mask


cdef uint64_t room_for_all(machine_t *m) noexcept nogil:
    """Cycles of whatever activities in which no counter wraps that its own control enables; it may be too few."""
    cdef uint32_t left = m.hardware.local[0] | m.hardware.local[1]
    cdef uint64_t room = NEVER, rate, need, over
    cdef int slot, a
    refresh_rates(m)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        rate = 0
        for a in range(ACTIVITIES):
            rate = max(rate, m.hardware_rate[a][slot])
        if rate == 0:
            continue
        if m.hardware.counter[slot] == 0:
            return 0
        need = width_mask(&m.hardware, slot) - m.hardware.counter[slot]
        over = ACTIVITIES * ((rate >> 32) + 2)  # each may show some more than its share
        if need <= over:
            return 0
        room = min(room, cycles_of(need - over, rate))
    return room


cdef void count_by_modes(machine_t *m, const host_modes_t *modes, const uint64_t *before) noexcept nogil:
    """Count what host-mode code counts while the clocks go from ``before`` to where they are; no counter wraps."""
    cdef uint64_t global_ctrl = m.hardware.global_ctrl, cycles
    cdef bint blind = m.blind, asleep = m.asleep
    cdef const host_mode_t *mode
    cdef int a
    for a in range(ACTIVITIES):
        mode = &modes.mode[a]
        cycles = m.clock[a] - before[a]
        if not mode.seen or cycles == 0:
            continue
        m.hardware.global_ctrl, m.blind, m.asleep = mode.global_ctrl, mode.blind, mode.asleep
        m.clock[a] = before[a]
        count_host_time(m, a, cycles)
        m.clock[a] += cycles
    m.hardware.global_ctrl, m.blind, m.asleep = global_ctrl, blind, asleep
