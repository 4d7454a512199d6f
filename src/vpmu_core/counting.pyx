# cython: freethreading_compatible=True
"""Clocks and counters, the ideal PMU and the ledger (docs/machine.md, sections 1, 3, 10 and 11)."""
from libc.string cimport memcmp, memcpy

from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t
from vpmu_core.activity cimport between
from vpmu_core.hostsched cimport TASK
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_LVTPC, ACCESS_OVF_CTRL, ACCESS_RDPMC,
    ACCESS_SELECTOR, ACTIVITIES, CAUSE_CEDED, CAUSE_FILTERED, CAUSE_HOST_STALE, CAUSE_NONE, CAUSE_NOT_SCHEDULED,
    CAUSE_PMU_DISABLED, CAUSE_WINDOW, CAUSE_WRONG_COUNTER, FLIGHT_GUEST, FLIGHT_HOST, GUEST_HANDLER, GUEST_KERNEL,
    GUEST_USER, HOST_CEDED, HOST_ERROR, HOST_INACTIVE, HOST_TASK, WINDOW_IS_GUEST,
)
from vpmu_core.perfevents cimport guest_event_t, host_event_t
from vpmu_core.unit cimport (
    EVENT_INSTRUCTIONS, SELECTOR_OS, SELECTOR_USR, SLOTS, bits_of, enabled, pmu_t, width_mask, write_fixed_ctr_ctrl,
    write_selector,
)
from vpmu_core.random cimport sfc64_next
from vpmu_core.steps cimport BREACH_HOST_COUNTS
from vpmu_core.state cimport NOTHING_COUNTED, access_t, host_mode_t, machine_t


cdef void rate_slots(machine_t *m) noexcept nogil:
    """Find the rate of what each slot counts, in every activity."""
    cdef int slot, a
    for slot in range(SLOTS):
        for a in range(ACTIVITIES):
            m.hardware_rate[a][slot] = m.rate[a][m.hardware.event[slot]]
    memcpy(&m.rated_events, m.hardware.event, sizeof(m.rated_events))
    for a in range(3):
        m.counted[a] = NOTHING_COUNTED


cdef void refresh_rates(machine_t *m) noexcept nogil:
    """Bring hardware_rate up to date with what the selectors choose."""
    if rates_are_stale(m):
        rate_slots(m)


cdef inline bint _throttled(const machine_t *m, const host_event_t *e) noexcept nogil:
    # While the PMU is disabled nobody counts anyway.
    return e.throttled and e.slot >= 0 and m.hardware.global_ctrl & bits_of(<uint32_t>1 << e.slot) != 0


cdef void charge_host_events(
    machine_t *m, bint guest, int a, bint user, uint32_t on, uint64_t start, uint64_t cycles
) noexcept nogil:
    """The ledger of the host's own events for one piece of an activity."""
    cdef host_event_t *e
    cdef uint64_t n
    cdef bint wanted, counted, window = m.blind and (m.flags & WINDOW_IS_GUEST) != 0
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot >= 0:
            continue
        wanted = not (e.exclude_guest if guest or (window and e.exclude_guest) else e.exclude_host) and (
            e.user if user else e.kernel)
        wanted = wanted and not (m.asleep and e.klass & TASK)
        counted = e.slot >= 0 and on >> e.slot & 1
        if not wanted and not counted:
            continue
        n = between(m.rate[a][e.event], start, start + cycles)
        if wanted:
            e.ideal += n
            if not counted:
                if e.state == HOST_CEDED:
                    e.losses[CAUSE_CEDED] += n
                elif e.state == HOST_ERROR or e.state == HOST_INACTIVE or _throttled(m, e):
                    e.losses[CAUSE_NOT_SCHEDULED] += n
                else:
                    e.losses[CAUSE_WINDOW if m.blind or guest else CAUSE_PMU_DISABLED] += n
        else:
            e.gains[CAUSE_HOST_STALE] += n


cdef void _watch_strays(machine_t *m, int a, uint32_t on, uint64_t cycles) noexcept nogil:
    """What counters count in host mode that no event of the host's has."""
    cdef int slot, i
    for i in range(m.host_events):
        if m.host_event[i].slot >= 0:
            on &= ~(<uint32_t>1 << m.host_event[i].slot)
    while on:
        slot = lowest_bit(on)
        on &= on - 1
        m.watch.breaches[BREACH_HOST_COUNTS] += between(m.hardware_rate[a][slot], m.clock[a], m.clock[a] + cycles)


cdef bint _counts_as(const machine_t *m, const machine_t *origin) noexcept nogil:
    # Counters and events are where they were, GLOBAL_CTRL apart.
    cdef const host_event_t *e
    cdef const host_event_t *then
    cdef int i
    if (
        memcmp(m.hardware.event, origin.hardware.event, sizeof(origin.hardware.event)) != 0
        or m.hardware.local[0] != origin.hardware.local[0] or m.hardware.local[1] != origin.hardware.local[1]
        or m.hardware.global_status != origin.hardware.global_status or m.host_events != origin.host_events
    ):
        return False
    for i in range(m.host_events):
        e, then = &m.host_event[i], &origin.host_event[i]
        if e.slot != then.slot or e.state != then.state or e.throttled != then.throttled:
            return False
    return True


cdef void _note_mode(const machine_t *m, int a, uint32_t on) noexcept nogil:
    cdef host_mode_t *mode = &m.modes.mode[a]
    if not mode.seen:
        mode.seen, mode.on, mode.global_ctrl = True, on, m.hardware.global_ctrl
        mode.blind, mode.asleep = m.blind, m.asleep
    elif mode.on != on or mode.global_ctrl != m.hardware.global_ctrl or mode.blind != m.blind or mode.asleep != m.asleep:
        m.modes.uneven = True
    m.modes.uneven = m.modes.uneven or not _counts_as(m, m.modes.origin)


cdef void count_host_time(machine_t *m, int a, uint64_t cycles) noexcept nogil:
    """Advance the hardware counters by host-mode code, and the ledger of host events."""
    cdef bint user = a == HOST_TASK
    cdef uint32_t on = enabled(&m.hardware, user)
    cdef uint32_t left = on, wrapped = 0, own
    cdef uint64_t value, first = 0
    cdef int slot
    refresh_rates(m)
    if m.modes != NULL and cycles:
        _note_mode(m, a, on)
    if m.steps != NULL and on:
        _watch_strays(m, a, on, cycles)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        value = m.hardware.counter[slot] + between(m.hardware_rate[a][slot], m.clock[a], m.clock[a] + cycles)
        if value > width_mask(&m.hardware, slot):
            wrapped |= <uint32_t>1 << slot
            # Before the counters move.
            first = first if first else first_host_wrap(m, a, cycles)
    left = on
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        value = m.hardware.counter[slot] + between(m.hardware_rate[a][slot], m.clock[a], m.clock[a] + cycles)
        m.hardware.counter[slot] = value & width_mask(&m.hardware, slot)
    charge_host_events(m, False, a, user, on, m.clock[a], cycles)
    m.hardware.global_status |= bits_of(wrapped)
    own = own_slots(m) if wrapped else 0
    if not m.samples_host and m.steps == NULL:
        m.stray_counts += wrapped != 0
    left = wrapped & ~own
    while left:
        m.overflow_at[lowest_bit(left)] = m.wall + cycles
        left &= left - 1
    left = wrapped
    while left:
        _note_host_overflow(m, lowest_bit(left), m.wall + first)
        left &= left - 1
    wrapped &= m.hardware.interrupt
    while wrapped:
        raise_pmi(m, FLIGHT_HOST if own >> lowest_bit(wrapped) & 1 else FLIGHT_GUEST, m.wall + first)
        wrapped &= wrapped - 1


cdef uint64_t first_host_wrap(const machine_t *m, int a, uint64_t cycles) noexcept nogil:
    """At most ``cycles``: after how many of an activity in host mode the first counter has wrapped."""
    cdef uint32_t left = enabled(&m.hardware, a == HOST_TASK)
    cdef uint64_t rate, need, low, middle, start = m.clock[a]
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        rate = m.rate[a][m.hardware.event[slot]]
        need = width_mask(&m.hardware, slot) + 1 - m.hardware.counter[slot]
        if between(rate, start, start + cycles) < need:
            continue
        low = 0
        while cycles - low > 1:
            middle = low + ((cycles - low) >> 1)
            if between(rate, start, start + middle) >= need:
                cycles = middle
            else:
                low = middle
    return cycles


cdef void raise_pmi(machine_t *m, int whose, uint64_t instant) noexcept nogil:
    """The hardware requests a PMI; it arrives after the skid, and later overflows join it."""
    cdef bint joins = (m.flight & whose) != 0, first = m.flight == 0
    if whose == FLIGHT_HOST:
        m.host_pmi.raised += 1
        m.host_pmi.coalesced += joins
    else:
        m.pmi.raised += 1
        m.pmi.coalesced += joins
    m.flight |= whose
    if first:
        m.pmi_arrival = instant + m.skid_minimum + <uint64_t>((sfc64_next(&m.skid) >> 32) * m.skid_range >> 32)
        m.due = min(m.due, m.pmi_arrival)


cdef uint32_t own_slots(const machine_t *m) noexcept nogil:
    # Counters that the host's own events have.
    cdef uint32_t slots = 0
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].guest_slot < 0 and m.host_event[i].slot >= 0:
            slots |= <uint32_t>1 << m.host_event[i].slot
    return slots


cdef void _note_host_overflow(machine_t *m, int slot, uint64_t instant) noexcept nogil:
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].slot == slot:
            m.host_event[i].overflow_at = instant


cdef void note_overflows(machine_t *m, uint32_t wrapped) noexcept nogil:
    """When each guest counter overflowed: the one with the same number, or the one that a host event backs."""
    cdef int slot, i, counter
    while wrapped:
        slot = counter = lowest_bit(wrapped)
        wrapped &= wrapped - 1
        for i in range(m.host_events):
            if m.host_event[i].guest_slot >= 0 and m.host_event[i].slot == slot:
                counter = m.host_event[i].guest_slot
        m.overflow_at[counter] = m.wall
        _note_host_overflow(m, slot, m.wall)


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


cdef void _advance_to_now(const machine_t *m, pmu_t *pmu, uint64_t *clock) noexcept nogil:
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


cdef void meter_absent(machine_t *m, bint on) noexcept nogil:
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
    if a.access == ACCESS_GLOBAL_STATUS or a.access == ACCESS_OVF_CTRL or a.access == ACCESS_LVTPC:
        return  # registers that this PMU, which never overflows, does without
    _advance_to_now(m, &m.ideal, m.ideal_clock)
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
        meter_absent(m, a.value != 0)
    elif a.access == ACCESS_RDPMC:
        a.ideal = m.ideal.counter[a.slot]
    if m.filter != NULL:
        meter_denied(m)


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
    elif a.access == ACCESS_LVTPC:
        p.lvtpc = a.value


cdef void meter(machine_t *m, guest_event_t *e, int reason) noexcept nogil:
    """Close the running meter of a guest event into its ledger and begin another (CAUSE_NONE: none)."""
    if e.meter:
        e.losses[e.meter] += _since(m, e.meter_event, e.meter_user, e.meter_kernel, e.meter_clock)
        if e.meter == CAUSE_WRONG_COUNTER:
            e.gains[e.meter] += _since(m, e.instead, e.instead_user, e.instead_kernel, e.meter_clock)
    e.meter = reason
    if reason:
        e.meter_event = m.ideal.event[e.slot]
        e.meter_user = enabled(&m.ideal, True) >> e.slot & 1
        e.meter_kernel = enabled(&m.ideal, False) >> e.slot & 1
        _read_clocks(m, e.meter_clock)


cdef void meter_denied(machine_t *m) noexcept nogil:
    """The ledger: what counters that the filter denies would have counted."""
    cdef uint32_t denied = m.denied & (enabled(&m.ideal, True) | enabled(&m.ideal, False))
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.active and denied >> e.slot & 1:
            meter(m, e, CAUSE_FILTERED)
        elif e.meter == CAUSE_FILTERED:
            meter(m, e, CAUSE_NONE)
