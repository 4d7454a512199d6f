# cython: freethreading_compatible=True, cdivision=True
"""Guest code between two looks at what is due, up to the first counter that wraps (docs/machine.md, section 3)."""
from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t, uint128_t
from vpmu_core.activity cimport between_short, occurrences
from vpmu_core.counting cimport (
    charge_host_events, note_overflows, own_slots, raise_pmi, rates_are_stale, refresh_rates,
)
from vpmu_core.kinds cimport FLIGHT_GUEST, FLIGHT_HOST, GUEST_HANDLER, GUEST_KERNEL, GUEST_USER, WORK
from vpmu_core.lanes cimport advance_lanes
from vpmu_core.unit cimport FIXED_LANES, FIXED_SLOT, GP_LANES, bits_of, enabled, width_mask
from vpmu_core.state cimport LANES, machine_t

cdef uint64_t SHORT = 1 << 26  # below this many cycles, 64-bit arithmetic counts exactly

cdef struct pace_t:  # what a slot counts of guest code from now on
    uint64_t work  # clock of it; all is kernel code if it is a handler's
    uint64_t user_share
    uint64_t user_rate  # 0 while the slot is off there
    uint64_t kernel_rate
    uint64_t before  # occurrences up to now


cdef inline uint64_t _user_clock(const machine_t *m, uint64_t work) noexcept nogil:
    return occurrences(m.user_share, work)


cdef inline uint64_t _count(const pace_t *p, uint64_t cycles) noexcept nogil:
    # Occurrences in the next cycles, in closed form.
    cdef uint64_t end = p.work + cycles, user = occurrences(p.user_share, end)
    return occurrences(p.user_rate, user) + occurrences(p.kernel_rate, end - user) - p.before


cdef void _find_pace(const machine_t *m, pace_t *p, int slot, int kind, uint32_t user_on, uint32_t kernel_on) noexcept nogil:
    cdef int kernel = GUEST_KERNEL if kind == WORK else GUEST_HANDLER
    p.work = m.work if kind == WORK else m.clock[GUEST_HANDLER]
    p.user_share = m.user_share if kind == WORK else 0
    p.user_rate = m.hardware_rate[GUEST_USER][slot] if user_on >> slot & 1 else 0
    p.kernel_rate = m.hardware_rate[kernel][slot] if kernel_on >> slot & 1 else 0
    p.before = 0
    p.before = _count(p, 0)


cdef inline uint64_t _mean_rate(const pace_t *p) noexcept nogil:
    # In 2**-32 a cycle, rounded up.
    cdef uint64_t kernel_share = (<uint64_t>1 << 32) - p.user_share
    return <uint64_t>((<uint128_t>p.user_rate * p.user_share + <uint128_t>p.kernel_rate * kernel_share) >> 32) + 1


cdef uint64_t mean_rate(const machine_t *m, int slot) noexcept nogil:
    """What a slot counts of workload code, in 2**-32 occurrences a cycle, rounded up; 0 if it counts nothing."""
    cdef pace_t p
    p.user_share = m.user_share
    p.user_rate = m.hardware_rate[GUEST_USER][slot] if enabled(&m.hardware, True) >> slot & 1 else 0
    p.kernel_rate = m.hardware_rate[GUEST_KERNEL][slot] if enabled(&m.hardware, False) >> slot & 1 else 0
    return _mean_rate(&p) if p.user_rate | p.kernel_rate else 0


cdef uint64_t _first_wrap(const pace_t *p, uint64_t need, uint64_t cycles) noexcept nogil:
    """The smallest number of cycles in which there are ``need`` occurrences, given that there are in ``cycles``."""
    cdef uint64_t low = 0, high = cycles, middle, part, rate = _mean_rate(p), about = 4 + 2 * (rate >> 32)
    # It is a few occurrences from where the mean has it.
    if need > about:
        middle = cycles_of(need - about, rate)
        if middle < high and _count(p, middle) < need:
            low = middle
        middle = cycles_of(need + about, rate)
        if low < middle < high and _count(p, middle) >= need:
            high = middle
    # It is in (low, low + high]; no branch depends on which part has it, and three counts take no longer than one.
    high -= low
    while high > 3:
        part = high >> 2
        low += part * (
            <uint64_t>(_count(p, low + part) < need) + <uint64_t>(_count(p, low + 2 * part) < need)
            + <uint64_t>(_count(p, low + 3 * part) < need)
        )
        high -= 3 * part
    while high > 1:
        high -= 1
        low += <uint64_t>(_count(p, low + 1) < need)
    return low + 1


cdef void _rate_counted(machine_t *m, int a, uint32_t on) noexcept nogil:
    """Bring counted_rate of a guest activity up to date with the slots that count it."""
    cdef int slot
    for slot in range(GP_LANES):
        m.counted_rate[a][slot] = m.hardware_rate[a][slot] if on >> slot & 1 else 0
    for slot in range(FIXED_LANES):
        m.counted_rate[a][GP_LANES + slot] = m.hardware_rate[a][FIXED_SLOT + slot] if on >> (FIXED_SLOT + slot) & 1 else 0
    m.counted[a] = on


cdef inline uint64_t _advance_both(
    machine_t *m, int kernel, uint64_t user_start, uint64_t user_cycles, uint64_t kernel_start, uint64_t kernel_cycles
) noexcept nogil:
    # Every counter by what it counts of two activities; nonzero if one has left its width.
    cdef const uint64_t *user_rate = m.counted_rate[GUEST_USER]
    cdef const uint64_t *kernel_rate = m.counted_rate[kernel]
    return advance_lanes(
        m.hardware.counter, GP_LANES, ~m.hardware.width_mask[0], user_rate, user_start, user_cycles,
        kernel_rate, kernel_start, kernel_cycles,
    ) | advance_lanes(
        &m.hardware.counter[FIXED_SLOT], FIXED_LANES, ~m.hardware.width_mask[1], user_rate + GP_LANES, user_start,
        user_cycles, kernel_rate + GP_LANES, kernel_start, kernel_cycles,
    )


cdef void _take_back(
    machine_t *m, int kernel, uint64_t user_start, uint64_t user_cycles, uint64_t kernel_start, uint64_t kernel_cycles
) noexcept nogil:
    """Undo _advance_both()."""
    cdef int lane, slot
    for lane in range(LANES):
        slot = lane if lane < GP_LANES else FIXED_SLOT + lane - GP_LANES
        m.hardware.counter[slot] -= between_short(m.counted_rate[GUEST_USER][lane], user_start, user_cycles)
        m.hardware.counter[slot] -= between_short(m.counted_rate[kernel][lane], kernel_start, kernel_cycles)


cdef uint32_t _beyond(const machine_t *m, uint32_t slots) noexcept nogil:
    """Which of these slots have left their width."""
    cdef uint32_t left = slots, beyond = 0
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        beyond |= <uint32_t>(m.hardware.counter[slot] > width_mask(&m.hardware, slot)) << slot
    return beyond


cdef uint64_t _to_first_wrap(
    machine_t *m, int kind, uint64_t cycles, uint32_t user_on, uint32_t kernel_on, uint32_t suspects
) noexcept nogil:
    """Advance the counters by at most ``cycles``, up to the first wrap of a suspect, beyond its width; return how many."""
    cdef uint32_t left = suspects
    cdef uint64_t need
    cdef pace_t p
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        _find_pace(m, &p, slot, kind, user_on, kernel_on)
        need = width_mask(&m.hardware, slot) + 1 - m.hardware.counter[slot]
        if _count(&p, cycles) >= need:
            cycles = _first_wrap(&p, need, cycles)
    left = user_on | kernel_on
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        _find_pace(m, &p, slot, kind, user_on, kernel_on)
        m.hardware.counter[slot] += _count(&p, cycles)
    return cycles


cdef void _bring_up_to_date(machine_t *m, int kernel, uint32_t user_on, uint32_t kernel_on) noexcept nogil:
    """The rates of what counts."""
    refresh_rates(m)
    if kernel == GUEST_KERNEL and user_on != m.counted[GUEST_USER]:
        _rate_counted(m, GUEST_USER, user_on)
    if kernel_on != m.counted[kernel]:
        _rate_counted(m, kernel, kernel_on)


cdef inline void _pass_time(machine_t *m, int kernel, uint64_t user_cycles, uint64_t kernel_cycles) noexcept nogil:
    m.clock[GUEST_USER] += user_cycles
    m.clock[kernel] += kernel_cycles
    m.wall += user_cycles + kernel_cycles
    m.work += user_cycles + kernel_cycles if kernel == GUEST_KERNEL else 0


cdef void _charge_in_guest(
    machine_t *m, int kernel, uint32_t user_on, uint32_t kernel_on, uint64_t user_cycles, uint64_t kernel_cycles
) noexcept nogil:
    if kernel == GUEST_KERNEL:
        charge_host_events(m, True, GUEST_USER, True, user_on, m.clock[GUEST_USER], user_cycles)
    charge_host_events(m, True, kernel, False, kernel_on, m.clock[kernel], kernel_cycles)


cdef uint64_t _wrapping_segment(
    machine_t *m, int kind, uint64_t cycles, uint32_t user_on, uint32_t kernel_on, uint32_t suspects
) noexcept nogil:
    """guest_segment() for any number of cycles, and if one of some counters may wrap on the way."""
    cdef int kernel = GUEST_KERNEL if kind == WORK else GUEST_HANDLER
    cdef uint64_t user_cycles = 0
    cdef uint32_t wrapped, left, own
    cycles = _to_first_wrap(m, kind, cycles, user_on, kernel_on, suspects)
    left = wrapped = _beyond(m, suspects)
    while left:
        m.hardware.counter[lowest_bit(left)] &= width_mask(&m.hardware, lowest_bit(left))
        left &= left - 1
    if kind == WORK:
        user_cycles = _user_clock(m, m.work + cycles) - m.clock[GUEST_USER]
    if m.has_host:
        _charge_in_guest(m, kernel, user_on, kernel_on, user_cycles, cycles - user_cycles)
    _pass_time(m, kernel, user_cycles, cycles - user_cycles)
    if wrapped:
        note_overflows(m, wrapped)
        # SDM vol. 3B: STATUS is set on a wrap whatever INT; INT decides whether a PMI is requested.
        m.hardware.global_status |= bits_of(wrapped)
        wrapped &= m.hardware.interrupt
        own = own_slots(m) if wrapped and m.has_host else 0
        while wrapped:
            raise_pmi(m, FLIGHT_HOST if own >> lowest_bit(wrapped) & 1 else FLIGHT_GUEST, m.wall)
            wrapped &= wrapped - 1
    return cycles


cdef uint64_t guest_segment(machine_t *m, int kind, uint64_t cycles) noexcept nogil:
    """Run at most ``cycles`` of guest code, up to the first counter that wraps; return how many ran."""
    cdef uint32_t user_on = enabled(&m.hardware, True), kernel_on = enabled(&m.hardware, False)
    cdef uint32_t wrapping
    cdef uint64_t user_start = m.clock[GUEST_USER], user_cycles = 0, kernel_start
    cdef int kernel = GUEST_KERNEL
    if kind == WORK:
        user_cycles = _user_clock(m, m.work + cycles) - user_start
    else:
        kernel = GUEST_HANDLER
        user_on = 0
    kernel_start = m.clock[kernel]
    if user_on | kernel_on:
        if rates_are_stale(m) or kernel_on != m.counted[kernel] or (kind == WORK and user_on != m.counted[GUEST_USER]):
            _bring_up_to_date(m, kernel, user_on, kernel_on)
        if cycles >= SHORT:
            return _wrapping_segment(m, kind, cycles, user_on, kernel_on, user_on | kernel_on)
        if _advance_both(m, kernel, user_start, user_cycles, kernel_start, cycles - user_cycles):
            # Rare: a counter wraps on the way.
            wrapping = _beyond(m, user_on | kernel_on)
            _take_back(m, kernel, user_start, user_cycles, kernel_start, cycles - user_cycles)
            return _wrapping_segment(m, kind, cycles, user_on, kernel_on, wrapping)
    if m.has_host:
        _charge_in_guest(m, kernel, user_on, kernel_on, user_cycles, cycles - user_cycles)
    _pass_time(m, kernel, user_cycles, cycles - user_cycles)
    return cycles
