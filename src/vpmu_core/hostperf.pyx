# cython: freethreading_compatible=True
"""Host perf: placement of events on counters, and the register accesses of scheduling (Linux kernel/events/core.c)."""
from libc.string cimport memset

from vpmu_core._types cimport int8_t, int64_t, lowest_bit, popcount32, uint32_t, uint64_t
from vpmu_core.unit cimport (
    FIXED_SLOT, LVTPC_NMI, NO_EVENT, SELECTOR_ENABLE, SELECTOR_INT, SELECTOR_OS, SELECTOR_USR, SLOTS, bits_of, width_mask,
    write_fixed_ctr_ctrl, write_selector,
)
from vpmu_core.counting cimport host_activity, host_advance, spend, tally
from vpmu_core.state cimport (
    COST_HOST_NMI, COST_PERF_CREATE, COST_PERF_ENABLE, COST_PERF_PAUSE, COST_PERF_PERIOD,
    COST_PERF_RELEASE, COST_PERF_RESCHED_EVENT, COST_PERF_TASK_SWITCH, COST_RDMSR, COST_RDPMC, COST_WRMSR,
    COST_WRMSR_LVTPC, HOST_ACTIVE, HOST_ERROR, HOST_OFF, MAX_HOST_EVENTS, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER,
    OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HOST, host_event_t, machine_t,
)
from vpmu_core.timeline cimport request_guest_pmi


cdef uint64_t host_global_ctrl(const machine_t *m, bint guest) noexcept nogil:
    """GLOBAL_CTRL of guest or host mode: all counters but those of exclude_guest or exclude_host events."""
    cdef uint32_t slots = m.hardware.slots
    cdef const host_event_t *e
    cdef int i
    if not m.host_placed:
        return 0
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.state == HOST_ACTIVE and e.slot >= 0 and (e.exclude_guest if guest else e.exclude_host):
            slots &= ~(<uint32_t>1 << e.slot)
    return bits_of(slots)


cdef bint _assign(const machine_t *m, uint32_t members, int8_t *slots) noexcept nogil:
    """Give each member a counter: the previous ones if they still fit, else by weight, fixed counters first."""
    cdef const host_event_t *e
    cdef uint32_t left = members, used = 0, free
    cdef int i, weight
    while left:
        i = lowest_bit(left)
        e = &m.host_event[i]
        if e.previous_slot < 0 or not e.allowed >> e.previous_slot & 1 or used >> e.previous_slot & 1:
            break
        used |= <uint32_t>1 << e.previous_slot
        slots[i] = e.previous_slot
        left &= left - 1
    if not left:
        return True
    used = 0
    for weight in range(SLOTS + 1):
        left = members
        while left:
            i = lowest_bit(left)
            left &= left - 1
            e = &m.host_event[i]
            if popcount32(e.allowed) != weight:
                continue
            free = e.allowed & ~used
            if not free:
                return False
            if free >> FIXED_SLOT:
                free &= ~<uint32_t>0xFFFF
            slots[i] = <int8_t>lowest_bit(free)
            used |= <uint32_t>1 << slots[i]
    return True


cdef uint32_t _in_state(const machine_t *m, int state, bint task) noexcept nogil:
    cdef uint32_t members = 0
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].state == state and (m.host_event[i].guest_slot >= 0) == task:
            members |= <uint32_t>1 << i
    return members


cdef inline uint64_t _nibble(const host_event_t *e) noexcept nogil:
    # FIXED_CTR_CTRL field: OS, USR, PMI (perf always asks for the PMI).
    return (1 if e.kernel else 0) | (2 if e.user else 0) | 8


cdef inline int64_t _max_period(uint64_t mask) noexcept nogil:
    return <int64_t>(mask >> 1)


cdef void _take_out(machine_t *m, host_event_t *e) noexcept nogil:
    cdef int slot = e.slot
    update_count(&e.perf, m.hardware.counter[slot], width_mask(&m.hardware, slot))
    if slot < FIXED_SLOT:
        write_selector(&m.hardware, slot, e.selector)
    else:
        m.host_fixed_ctr_ctrl &= ~(<uint64_t>15 << 4 * (slot - FIXED_SLOT))
    e.slot = -1


cdef void write_host_selector(machine_t *m, const host_event_t *e) noexcept nogil:
    """The selector of the GP counter that an event is in; one that cannot count what it holds counts nothing."""
    write_selector(&m.hardware, e.slot, e.selector | (0 if e.held else SELECTOR_ENABLE))
    if e.guest_slot >= 0 and not m.host_allowed[e.event] >> e.slot & 1:
        m.hardware.event[e.slot] = NO_EVENT


cdef void write_host_nibble(machine_t *m, const host_event_t *e) noexcept nogil:
    """The field of the fixed counter that an event is in."""
    cdef int shift = 4 * (e.slot - FIXED_SLOT)
    m.host_fixed_ctr_ctrl &= ~(<uint64_t>15 << shift)
    if not e.held:
        m.host_fixed_ctr_ctrl |= _nibble(e) << shift
    write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)


cdef void _put_in(machine_t *m, host_event_t *e, int slot) noexcept nogil:
    cdef uint64_t mask = width_mask(&m.hardware, slot)
    e.slot = slot
    e.previous_slot = slot
    set_period(&e.perf, mask, _max_period(mask), &e.perf.previous)
    m.hardware.counter[slot] = e.perf.previous
    if slot < FIXED_SLOT:
        write_host_selector(m, e)
    elif not e.held:
        m.host_fixed_ctr_ctrl |= _nibble(e) << 4 * (slot - FIXED_SLOT)
    m.host_placed = True


cdef void _spend_ops(machine_t *m, uint64_t rdpmc, uint64_t counters, uint64_t selectors, uint64_t lvtpc) noexcept nogil:
    cdef uint64_t wrmsr = (counters + selectors) * m.cost[COST_WRMSR]
    tally(m, ORIGIN_HOST, OP_RDPMC, rdpmc)
    tally(m, ORIGIN_HOST, OP_WRMSR_COUNTER, counters)
    tally(m, ORIGIN_HOST, OP_WRMSR_SELECTOR, selectors)
    tally(m, ORIGIN_HOST, OP_WRMSR_LVTPC, lvtpc)
    m.spent[COST_RDPMC] += rdpmc * m.cost[COST_RDPMC]
    m.spent[COST_WRMSR] += wrmsr
    m.spent[COST_WRMSR_LVTPC] += lvtpc * m.cost[COST_WRMSR_LVTPC]
    host_advance(m, host_activity(m), rdpmc * m.cost[COST_RDPMC] + wrmsr + lvtpc * m.cost[COST_WRMSR_LVTPC])


cdef inline void _write_global_ctrl(machine_t *m, uint64_t value) noexcept nogil:
    tally(m, ORIGIN_HOST, OP_WRMSR_GLOBAL, 1)
    spend(m, COST_WRMSR)
    m.hardware.global_ctrl = value


cdef void _bracket(
    machine_t *m, uint32_t out, uint32_t into, const int8_t *slots, int64_t new_period, bint lvtpc, bint window
) noexcept nogil:
    """GLOBAL_CTRL=0, events out, events in, GLOBAL_CTRL back; perf_pmu_disable() to perf_pmu_enable().

    ``new_period`` >= 0: a period that the events take between out and in. ``window``: the mediated window begins
    once the PMU is disabled.
    """
    cdef uint64_t fixed = m.host_fixed_ctr_ctrl, rdpmc = 0, counters = 0, selectors = 0
    cdef host_event_t *e
    cdef uint32_t left = out
    cdef int i
    _write_global_ctrl(m, 0)
    if window:
        m.blind = True
    while left:
        i = lowest_bit(left)
        left &= left - 1
        e = &m.host_event[i]
        rdpmc += 1
        selectors += e.slot < FIXED_SLOT
        _take_out(m, e)
        if new_period >= 0:
            e.perf.period = new_period
            e.perf.period_left = 0
    left = into
    while left:
        i = lowest_bit(left)
        left &= left - 1
        e = &m.host_event[i]
        counters += 1
        selectors += slots[i] < FIXED_SLOT
        _put_in(m, e, slots[i])
    if m.host_fixed_ctr_ctrl != fixed:
        selectors += 1
        write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)
    if lvtpc:
        m.hardware.lvtpc = LVTPC_NMI
    _spend_ops(m, rdpmc, counters, selectors, 1 if lvtpc else 0)
    _write_global_ctrl(m, host_global_ctrl(m, False))


# -- the host's own events --------------------------------------------------------------------------------------------

cdef void place_host_events(machine_t *m) noexcept nogil:
    """Before the run: host perf owns the PMU, and the host's own events get their counters, at no cost."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    cdef uint32_t accepted = 0, left
    cdef int i
    m.hardware.lvtpc = LVTPC_NMI
    m.hardware.global_ctrl = 0
    for i in range(m.host_events):
        if _assign(m, accepted | <uint32_t>1 << i, slots):
            accepted |= <uint32_t>1 << i
            m.host_event[i].state = HOST_ACTIVE
        else:
            m.host_event[i].state = HOST_ERROR
    left = accepted
    if left:
        _assign(m, accepted, slots)
    while left:
        i = lowest_bit(left)
        left &= left - 1
        _put_in(m, &m.host_event[i], slots[i])
    if accepted:
        write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)
        m.hardware.global_ctrl = host_global_ctrl(m, False)


cdef void host_events_out(machine_t *m) noexcept nogil:
    """perf_load_guest_context(): host events leave, and the window begins."""
    cdef uint32_t active = _in_state(m, HOST_ACTIVE, False)
    m.displaced = active
    if active:
        _bracket(m, active, 0, NULL, -1, False, True)


cdef void host_events_in(machine_t *m) noexcept nogil:
    """perf_put_guest_context(): host events return, and the window ends."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    if m.displaced:
        _assign(m, m.displaced, slots)
        _bracket(m, 0, m.displaced, slots, -1, True, False)
        m.displaced = 0


cdef void read_host_events(machine_t *m) noexcept nogil:
    """After the run: fold what hardware holds into the counts, at no cost."""
    cdef host_event_t *e
    cdef int i
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.guest_slot < 0 and e.slot >= 0:
            update_count(&e.perf, m.hardware.counter[e.slot], width_mask(&m.hardware, e.slot))


# -- the events that back guest counters ------------------------------------------------------------------------------

cdef void _resched(machine_t *m, int event) noexcept nogil:
    """ctx_resched(): every task event goes out and in, with one more."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    cdef uint32_t own = _in_state(m, HOST_ACTIVE, False)
    cdef uint32_t out = _in_state(m, HOST_ACTIVE, True)
    cdef uint32_t left = out | <uint32_t>1 << event
    cdef uint32_t accepted = own, moved = 0, into
    cdef int i
    m.spent[COST_PERF_RESCHED_EVENT] += popcount32(out) * m.cost[COST_PERF_RESCHED_EVENT]
    host_advance(m, host_activity(m), popcount32(out) * m.cost[COST_PERF_RESCHED_EVENT])
    while left:
        i = lowest_bit(left)
        left &= left - 1
        if _assign(m, accepted | <uint32_t>1 << i, slots):
            accepted |= <uint32_t>1 << i
        else:
            # A pinned event that cannot be scheduled goes to ERROR and stops counting silently.
            m.host_event[i].state = HOST_ERROR
    if accepted:
        _assign(m, accepted, slots)
    left = own
    while left:
        i = lowest_bit(left)
        left &= left - 1
        if slots[i] != m.host_event[i].slot:
            moved |= <uint32_t>1 << i
    into = accepted & ~own
    left = into
    while left:
        i = lowest_bit(left)
        left &= left - 1
        m.host_event[i].state = HOST_ACTIVE
    _bracket(m, out | moved, into | moved, slots, -1, (into | moved) != 0, False)


cdef int perf_create(machine_t *m, int guest_slot, uint64_t selector, int64_t period) noexcept nogil:
    """perf_event_create_kernel_counter(): pinned, exclude_host, for a guest counter; returns its index."""
    cdef int i = m.host_events
    cdef host_event_t *e = &m.host_event[i]
    m.host_events += 1
    m.creates += 1
    memset(e, 0, sizeof(host_event_t))
    e.selector = (selector & (0xFFFF | SELECTOR_USR | SELECTOR_OS)) | SELECTOR_INT
    e.event = m.guest.event[guest_slot]
    e.allowed = m.host_allowed[e.event] & m.hardware.slots
    e.user = (selector & SELECTOR_USR) != 0
    e.kernel = (selector & SELECTOR_OS) != 0
    e.exclude_host = 1
    e.guest_slot = guest_slot
    e.slot = -1
    e.previous_slot = -1
    e.perf.period = period
    e.perf.period_left = period
    spend(m, COST_PERF_CREATE)
    _resched(m, i)
    return i


cdef void perf_release(machine_t *m, int event) noexcept nogil:
    """perf_event_release_kernel() of an event that is off; later events move down, which keeps the order of creation."""
    cdef int i
    spend(m, COST_PERF_RELEASE)
    for i in range(event, m.host_events - 1):
        m.host_event[i] = m.host_event[i + 1]
        m.vcpu[m.host_event[i].guest_slot].event = <int8_t>i
    m.host_events -= 1


cdef uint64_t perf_pause(machine_t *m, int event) noexcept nogil:
    """perf_event_pause() with reset: the count since the last pause."""
    cdef host_event_t *e = &m.host_event[event]
    cdef uint64_t count
    spend(m, COST_PERF_PAUSE)
    if e.state == HOST_ACTIVE:
        _bracket(m, <uint32_t>1 << event, 0, NULL, -1, False, False)
    e.state = HOST_OFF
    count = e.perf.count
    e.perf.count = 0
    return count


cdef void perf_enable(machine_t *m, int event) noexcept nogil:
    """perf_event_enable(); it also takes an event out of ERROR."""
    spend(m, COST_PERF_ENABLE)
    _resched(m, event)


cdef void perf_period(machine_t *m, int event, int64_t period) noexcept nogil:
    """perf_event_period()."""
    cdef host_event_t *e = &m.host_event[event]
    cdef int8_t slots[MAX_HOST_EVENTS]
    spend(m, COST_PERF_PERIOD)
    if e.state == HOST_ACTIVE:
        slots[event] = e.slot
        _bracket(m, <uint32_t>1 << event, <uint32_t>1 << event, slots, period, False, False)
    else:
        e.perf.period = period
        e.perf.period_left = 0


cdef uint64_t perf_read(machine_t *m, int event) noexcept nogil:
    """perf_event_read_value() of a task event: RDPMC if it counts now."""
    cdef host_event_t *e = &m.host_event[event]
    if e.slot >= 0:
        tally(m, ORIGIN_HOST, OP_RDPMC, 1)
        spend(m, COST_RDPMC)
        update_count(&e.perf, m.hardware.counter[e.slot], width_mask(&m.hardware, e.slot))
    return e.perf.count


cdef void perf_block(machine_t *m) noexcept nogil:
    """The vCPU's thread sleeps: its events leave the PMU."""
    m.blocked = _in_state(m, HOST_ACTIVE, True)
    if m.blocked:
        spend(m, COST_PERF_TASK_SWITCH)
        _bracket(m, m.blocked, 0, NULL, -1, False, False)


cdef void perf_wake(machine_t *m) noexcept nogil:
    """The vCPU's thread runs again: its events return."""
    cdef int8_t slots[MAX_HOST_EVENTS]
    cdef uint32_t own = _in_state(m, HOST_ACTIVE, False)
    if m.blocked:
        spend(m, COST_PERF_TASK_SWITCH)
        _assign(m, own | m.blocked, slots)
        _bracket(m, 0, m.blocked, slots, -1, True, False)
        m.blocked = 0


cdef void host_nmi_handler(machine_t *m) noexcept nogil:
    """intel_pmu_handle_irq() on the host, with kvm_perf_overflow() for the events that back guest counters."""
    cdef uint64_t status, reads = 0, mask
    cdef bint accepted = False
    cdef host_event_t *e
    cdef uint32_t guest_bit
    cdef int i
    spend(m, COST_HOST_NMI)
    _write_global_ctrl(m, 0)
    status = m.hardware.global_status
    m.hardware.global_status = 0
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.slot < 0 or not status & bits_of(<uint32_t>1 << e.slot):
            continue
        reads += 1
        mask = width_mask(&m.hardware, e.slot)
        update_count(&e.perf, m.hardware.counter[e.slot], mask)
        set_period(&e.perf, mask, _max_period(mask), &e.perf.previous)
        m.hardware.counter[e.slot] = e.perf.previous
        if e.guest_slot < 0:
            continue
        guest_bit = <uint32_t>1 << e.guest_slot
        if not m.reprogram & guest_bit:
            m.reprogram |= guest_bit
            m.guest.global_status |= bits_of(guest_bit)
            accepted = accepted or (m.guest.interrupt & guest_bit) != 0
    tally(m, ORIGIN_HOST, OP_RDMSR, 2)
    spend(m, COST_RDMSR)
    spend(m, COST_RDMSR)
    tally(m, ORIGIN_HOST, OP_WRMSR_GLOBAL, 1)
    spend(m, COST_WRMSR)
    _spend_ops(m, reads, reads, 0, 0)
    _write_global_ctrl(m, host_global_ctrl(m, False))
    tally(m, ORIGIN_HOST, OP_WRMSR_LVTPC, 1)
    spend(m, COST_WRMSR_LVTPC)
    m.hardware.lvtpc = LVTPC_NMI
    if accepted:
        request_guest_pmi(m)
    else:
        m.pmi.lost += 1
