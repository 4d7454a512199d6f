# cython: freethreading_compatible=True
"""Clocks and counters, the ideal PMU and the ledger (docs/machine.md, sections 1, 3, 10 and 11)."""
from libc.string cimport memcmp, memcpy

from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t
from vpmu_core.activity cimport between, between_short, occurrences
from vpmu_core.unit cimport (
    EVENT_INSTRUCTIONS, FIXED_LANES, FIXED_SLOT, GP_LANES, SELECTOR_OS, SELECTOR_USR, SLOTS, bits_of, enabled, pmu_t, width_mask,
    write_fixed_ctr_ctrl, write_selector,
)
from vpmu_core.random cimport sfc64_next
from vpmu_core.state cimport (
    ACCESS_COUNTER, ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_OVF_CTRL, ACCESS_RDPMC,
    ACCESS_SELECTOR, ACTIVITIES, CAUSE_CEDED, CAUSE_HOST_STALE, CAUSE_NOT_SCHEDULED, CAUSE_PMU_DISABLED,
    CAUSE_WINDOW, GUEST_HANDLER, GUEST_KERNEL, GUEST_USER, HANDLER, HOST_CEDED, HOST_ERROR, HOST_TASK, WORK, access_t,
    guest_event_t, host_event_t, machine_t,
)

cdef uint64_t SHORT = 1 << 26  # below this many cycles, 64-bit arithmetic counts exactly


cdef void refresh_rates(machine_t *m) noexcept nogil:
    """Bring hardware_rate up to date with what each slot counts."""
    cdef int slot, a
    if memcmp(m.rated_event, m.hardware.event, SLOTS) == 0:
        return
    for slot in range(SLOTS):
        if m.rated_event[slot] != m.hardware.event[slot]:
            for a in range(ACTIVITIES):
                m.hardware_rate[a][slot] = m.rate[a][m.hardware.event[slot]]
            m.rated_event[slot] = m.hardware.event[slot]


cdef void _charge_host_events(
    machine_t *m, bint guest, int a, bint user, uint32_t on, uint64_t start, uint64_t cycles
) noexcept nogil:
    """The ledger of the host's own events for one piece of an activity."""
    cdef host_event_t *e
    cdef uint64_t n
    cdef bint wanted, counted
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot >= 0:
            continue
        wanted = not (e.exclude_guest if guest else e.exclude_host) and (e.user if user else e.kernel)
        counted = e.slot >= 0 and on >> e.slot & 1
        if not wanted and not counted:
            continue
        n = between(m.rate[a][e.event], start, start + cycles)
        if wanted:
            e.ideal += n
            if not counted:
                if e.state == HOST_CEDED:
                    e.losses[CAUSE_CEDED] += n
                elif e.state == HOST_ERROR:
                    e.losses[CAUSE_NOT_SCHEDULED] += n
                else:
                    e.losses[CAUSE_WINDOW if m.blind or guest else CAUSE_PMU_DISABLED] += n
        else:
            e.gains[CAUSE_HOST_STALE] += n


cdef void count_host_time(machine_t *m, int a, uint64_t cycles) noexcept nogil:
    """Advance the hardware counters by host-mode code, and the ledger of host events."""
    cdef bint user = a == HOST_TASK
    cdef uint32_t on = enabled(&m.hardware, user)
    cdef uint32_t left = on
    cdef uint64_t value
    cdef int slot
    refresh_rates(m)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        value = m.hardware.counter[slot] + between(m.hardware_rate[a][slot], m.clock[a], m.clock[a] + cycles)
        m.stray_counts += value > width_mask(&m.hardware, slot)
        m.hardware.counter[slot] = value & width_mask(&m.hardware, slot)
    _charge_host_events(m, False, a, user, on, m.clock[a], cycles)


cdef inline uint64_t _user_clock(const machine_t *m, uint64_t work) noexcept nogil:
    return occurrences(m.user_share, work)


cdef uint64_t _segment_count(const machine_t *m, int slot, int kind, uint64_t cycles) noexcept nogil:
    """Occurrences that a slot sees in the next cycles of guest code, in closed form."""
    cdef uint64_t n = 0, user, at
    cdef uint32_t user_on = enabled(&m.hardware, True), kernel_on = enabled(&m.hardware, False)
    if kind == HANDLER:
        at = m.clock[GUEST_HANDLER]
        return between(m.hardware_rate[GUEST_HANDLER][slot], at, at + cycles) if kernel_on >> slot & 1 else 0
    user = _user_clock(m, m.work + cycles)
    if user_on >> slot & 1:
        n = between(m.hardware_rate[GUEST_USER][slot], m.clock[GUEST_USER], user)
    if kernel_on >> slot & 1:
        n += between(m.hardware_rate[GUEST_KERNEL][slot], m.clock[GUEST_KERNEL], m.work + cycles - user)
    return n


cdef uint64_t _first_wrap(const machine_t *m, int slot, int kind, uint64_t cycles) noexcept nogil:
    """The smallest number of cycles after which the slot has wrapped, given that it has after ``cycles``."""
    cdef uint64_t low = 0, high = cycles, middle
    cdef uint64_t need = width_mask(&m.hardware, slot) + 1 - m.hardware.counter[slot]
    while high - low > 1:
        middle = low + ((high - low) >> 1)
        if _segment_count(m, slot, kind, middle) >= need:
            high = middle
        else:
            low = middle
    return high


cdef inline uint64_t _sum_slots(
    machine_t *m, int first, int last, uint64_t mask, uint32_t user_on, uint64_t user_start, uint64_t user_cycles,
    int kernel_activity, uint32_t kernel_on, uint64_t kernel_start, uint64_t kernel_cycles
) noexcept nogil:
    # Advance, with the old values in scratch; nonzero if one left its width. No branch, and no pointer that could
    # alias the counters: the loop vectorises.
    cdef uint64_t over = 0, user, kernel, value
    cdef int slot
    for slot in range(first, last):
        user = between_short(m.hardware_rate[GUEST_USER][slot], user_start, user_cycles)
        user &= 0 - <uint64_t>(user_on >> slot & 1)
        kernel = between_short(m.hardware_rate[kernel_activity][slot], kernel_start, kernel_cycles)
        kernel &= 0 - <uint64_t>(kernel_on >> slot & 1)
        m.scratch[slot] = m.hardware.counter[slot]
        value = m.hardware.counter[slot] + user + kernel
        m.hardware.counter[slot] = value
        over |= value & ~mask
    return over


cdef void _raise_pmi(machine_t *m) noexcept nogil:
    """The hardware requests a PMI; it arrives after the skid, and later overflows join it."""
    m.pmi.raised += 1
    if m.pmi_arrival != NEVER:
        m.pmi.coalesced += 1
        return
    m.pmi_arrival = m.wall + m.skid_minimum + <uint64_t>((sfc64_next(&m.skid) >> 32) * m.skid_range >> 32)


cdef void _note_overflows(machine_t *m, uint32_t wrapped) noexcept nogil:
    """When each guest counter overflowed: the one with the same number, or the one that a host event backs."""
    cdef int slot, i, counter
    while wrapped:
        slot = counter = lowest_bit(wrapped)
        wrapped &= wrapped - 1
        for i in range(m.host_events):
            if m.host_event[i].guest_slot >= 0 and m.host_event[i].slot == slot:
                counter = m.host_event[i].guest_slot
        m.overflow_at[counter] = m.wall


cdef uint64_t guest_segment(machine_t *m, int kind, uint64_t cycles) noexcept nogil:
    """Run at most ``cycles`` of guest code, up to the first counter that wraps; return how many ran."""
    cdef uint32_t user_on = enabled(&m.hardware, True), kernel_on = enabled(&m.hardware, False)
    cdef uint32_t wrapped = 0, left
    cdef uint64_t user_start, user_cycles, kernel_start, kernel_cycles, over, value, first
    cdef int kernel = GUEST_HANDLER if kind == HANDLER else GUEST_KERNEL
    cdef int slot
    user_start = m.clock[GUEST_USER]
    kernel_start = m.clock[kernel]
    user_cycles = 0 if kind == HANDLER else _user_clock(m, m.work + cycles) - user_start
    kernel_cycles = cycles - user_cycles
    if kind == HANDLER:
        user_on = 0
    if user_on | kernel_on:
        refresh_rates(m)
        if cycles < SHORT:
            over = _sum_slots(m, 0, GP_LANES, m.hardware.width_mask[0], user_on, user_start, user_cycles,
                              kernel, kernel_on, kernel_start, kernel_cycles)
            over |= _sum_slots(m, FIXED_SLOT, FIXED_SLOT + FIXED_LANES, m.hardware.width_mask[1], user_on, user_start,
                               user_cycles, kernel, kernel_on, kernel_start, kernel_cycles)
            if over:
                memcpy(m.hardware.counter, m.scratch, GP_LANES * sizeof(uint64_t))
                memcpy(&m.hardware.counter[FIXED_SLOT], &m.scratch[FIXED_SLOT], FIXED_LANES * sizeof(uint64_t))
        else:
            over = 1
        if over:
            # Rare: find the first wrap, then count up to it in closed form.
            left = user_on | kernel_on
            first = cycles
            while left:
                slot = lowest_bit(left)
                left &= left - 1
                if m.hardware.counter[slot] + _segment_count(m, slot, kind, first) > width_mask(&m.hardware, slot):
                    first = _first_wrap(m, slot, kind, first)
            left = user_on | kernel_on
            while left:
                slot = lowest_bit(left)
                left &= left - 1
                value = m.hardware.counter[slot] + _segment_count(m, slot, kind, first)
                if value > width_mask(&m.hardware, slot):
                    wrapped |= <uint32_t>1 << slot
                m.hardware.counter[slot] = value & width_mask(&m.hardware, slot)
            cycles = first
            user_cycles = 0 if kind == HANDLER else _user_clock(m, m.work + cycles) - user_start
            kernel_cycles = cycles - user_cycles
    if m.has_host:
        if kind == WORK:
            _charge_host_events(m, True, GUEST_USER, True, user_on, user_start, user_cycles)
        _charge_host_events(m, True, kernel, False, kernel_on, kernel_start, kernel_cycles)
    m.clock[GUEST_USER] += user_cycles
    m.clock[kernel] += kernel_cycles
    m.wall += cycles
    if kind == WORK:
        m.work += cycles
    if wrapped:
        _note_overflows(m, wrapped)
    # SDM vol. 3B: STATUS is set on a wrap whatever INT; INT decides whether a PMI is requested.
    m.hardware.global_status |= bits_of(wrapped)
    wrapped &= m.hardware.interrupt
    while wrapped:
        wrapped &= wrapped - 1
        _raise_pmi(m)
    return cycles


# -- the ideal PMU and the ledger -------------------------------------------------------------------------------------

cdef inline uint64_t _since(const machine_t *m, int event, bint user, bint kernel, const uint64_t *clock) noexcept nogil:
    # Occurrences that the guest's user and kernel code has made since its clocks (user, kernel, handler) stood there.
    cdef uint64_t n = 0
    if user:
        n = between(m.rate[GUEST_USER][event], clock[0], m.clock[GUEST_USER])
    if kernel:
        n += between(m.rate[GUEST_KERNEL][event], clock[1], m.clock[GUEST_KERNEL])
        n += between(m.rate[GUEST_HANDLER][event], clock[2], m.clock[GUEST_HANDLER])
    return n


cdef inline void _read_clocks(const machine_t *m, uint64_t *clock) noexcept nogil:
    clock[0] = m.clock[GUEST_USER]
    clock[1] = m.clock[GUEST_KERNEL]
    clock[2] = m.clock[GUEST_HANDLER]


cdef void advance_to_now(const machine_t *m, pmu_t *pmu, uint64_t *clock) noexcept nogil:
    """Advance a PMU's counters, in closed form, from where its clocks stand to the guest's: nothing was programmed since."""
    cdef uint32_t user_on = enabled(pmu, True), kernel_on = enabled(pmu, False), left = user_on | kernel_on
    cdef uint64_t n
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        n = _since(m, pmu.event[slot], user_on >> slot & 1, kernel_on >> slot & 1, clock)
        pmu.counter[slot] = (pmu.counter[slot] + n) & width_mask(pmu, slot)
    _read_clocks(m, clock)


cdef void _meter_absent(machine_t *m, bint on) noexcept nogil:
    """GLOBAL_CTRL turns: what a counter of its own would count for each event that has none or is stopped."""
    cdef guest_event_t *e
    cdef uint64_t n
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if on and e.absent and not e.absent_metered:
            e.absent_metered = 1
            _read_clocks(m, e.absent_clock)
            e.absent_retired[0], e.absent_retired[1] = m.retired[0], m.retired[1]
        elif not on and e.absent_metered:
            e.absent_metered = 0
            n = _since(m, e.event, e.selector & SELECTOR_USR, e.selector & SELECTOR_OS, e.absent_clock)
            if e.event == EVENT_INSTRUCTIONS:
                n += m.retired[0] - e.absent_retired[0] if e.selector & SELECTOR_OS else 0
                n += m.retired[1] - e.absent_retired[1] if e.selector & SELECTOR_USR else 0
            e.ideal += n
            e.losses[e.absent] += n


cdef void apply_ideal(machine_t *m, access_t *a) noexcept nogil:
    """The same access on the PMU that this guest alone would own."""
    a.applied = 1
    advance_to_now(m, &m.ideal, m.ideal_clock)
    if a.access == ACCESS_COUNTER:
        m.ideal.counter[a.slot] = a.value & width_mask(&m.ideal, a.slot)
    elif a.access == ACCESS_SELECTOR:
        write_selector(&m.ideal, a.slot, a.value)
        m.ideal_instructions &= ~(<uint32_t>1 << a.slot)
        m.ideal_instructions |= <uint32_t>(m.ideal.event[a.slot] == EVENT_INSTRUCTIONS) << a.slot
    elif a.access == ACCESS_FIXED_CTR_CTRL:
        write_fixed_ctr_ctrl(&m.ideal, a.value)
    elif a.access == ACCESS_GLOBAL_CTRL:
        m.ideal.global_ctrl = a.value
        _meter_absent(m, a.value != 0)
    elif a.access == ACCESS_RDPMC:
        a.ideal = m.ideal.counter[a.slot]


cdef void apply_direct(machine_t *m, access_t *a) noexcept nogil:
    """An access that reaches the hardware."""
    cdef pmu_t *p = &m.hardware
    if a.access == ACCESS_COUNTER:
        p.counter[a.slot] = a.value & width_mask(p, a.slot)
    elif a.access == ACCESS_SELECTOR:
        write_selector(p, a.slot, a.value)
    elif a.access == ACCESS_FIXED_CTR_CTRL:
        write_fixed_ctr_ctrl(p, a.value)
    elif a.access == ACCESS_GLOBAL_CTRL:
        p.global_ctrl = a.value
    elif a.access == ACCESS_GLOBAL_STATUS:
        a.value = p.global_status
    elif a.access == ACCESS_OVF_CTRL:
        p.global_status &= ~a.value
    elif a.access == ACCESS_RDPMC:
        a.value = p.counter[a.slot]
    else:
        p.lvtpc = a.value


cdef void meter(machine_t *m, guest_event_t *e, int reason) noexcept nogil:
    """Close the running meter of a guest event into its ledger and begin another (CAUSE_NONE: none)."""
    if e.meter:
        e.losses[e.meter] += _since(m, e.event, e.meter_user, e.meter_kernel, e.meter_clock)
    e.meter = reason
    if reason:
        e.meter_user = enabled(&m.ideal, True) >> e.slot & 1
        e.meter_kernel = enabled(&m.ideal, False) >> e.slot & 1
        _read_clocks(m, e.meter_clock)
