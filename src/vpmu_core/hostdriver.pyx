# cython: freethreading_compatible=True
"""Host perf's PMU driver: registers and brackets, by vendor and version (Linux arch/x86/events: core.c, intel, amd)."""
from vpmu_core._types cimport int8_t, int64_t, lowest_bit, popcount32, uint32_t, uint64_t
from vpmu_core.counting cimport host_activity, host_advance, spend, tally
from vpmu_core.hostperf cimport expect_host, set_period, update_count
from vpmu_core.kinds cimport (
    COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL,
    OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HOST,
)
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.state cimport machine_t
from vpmu_core.unit cimport (
    FIXED_SLOT, LVTPC_NMI, NO_EVENT, SELECTOR_ENABLE, bits_of, width_mask, write_fixed_ctr_ctrl, write_selector,
)


# -- registers --------------------------------------------------------------------------------------------------------

cdef uint64_t host_global_ctrl(const machine_t *m, bint guest) noexcept nogil:
    """GLOBAL_CTRL of guest or host mode: all counters but those of exclude_guest or exclude_host events."""
    return bits_of(m.hardware.slots & ~m.kept_out[guest]) if m.host_placed else 0


cdef uint64_t host_nibble(const host_event_t *e) noexcept nogil:
    """FIXED_CTR_CTRL field: OS, USR, PMI (perf always asks for the PMI)."""
    return (1 if e.kernel else 0) | (2 if e.user else 0) | 8


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
        m.host_fixed_ctr_ctrl |= host_nibble(e) << shift
    write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)


cdef void spend_ops(machine_t *m, uint64_t rdpmc, uint64_t counters, uint64_t selectors, uint64_t lvtpc) noexcept nogil:
    """Register accesses of host perf, whose costs are spent together."""
    cdef uint64_t wrmsr = (counters + selectors) * m.cost[COST_WRMSR]
    tally(m, ORIGIN_HOST, OP_RDPMC, rdpmc)
    tally(m, ORIGIN_HOST, OP_WRMSR_COUNTER, counters)
    tally(m, ORIGIN_HOST, OP_WRMSR_SELECTOR, selectors)
    tally(m, ORIGIN_HOST, OP_WRMSR_LVTPC, lvtpc)
    m.spent[COST_RDPMC] += rdpmc * m.cost[COST_RDPMC]
    m.spent[COST_WRMSR] += wrmsr
    m.spent[COST_WRMSR_LVTPC] += lvtpc * m.cost[COST_WRMSR_LVTPC]
    host_advance(m, host_activity(m), rdpmc * m.cost[COST_RDPMC] + wrmsr + lvtpc * m.cost[COST_WRMSR_LVTPC])


cdef void write_global_ctrl(machine_t *m, uint64_t value) noexcept nogil:
    """WRMSR of GLOBAL_CTRL by host perf."""
    tally(m, ORIGIN_HOST, OP_WRMSR_GLOBAL, 1)
    spend(m, COST_WRMSR)
    m.hardware.global_ctrl = value


cdef void spend_rdmsr(machine_t *m, uint64_t n) noexcept nogil:
    """RDMSRs in a row."""
    tally(m, ORIGIN_HOST, OP_RDMSR, n)
    m.spent[COST_RDMSR] += n * m.cost[COST_RDMSR]
    host_advance(m, host_activity(m), n * m.cost[COST_RDMSR])


# -- all counters -----------------------------------------------------------------------------------------------------

cdef uint64_t _active(const machine_t *m) noexcept nogil:
    # cpuc->active_mask
    cdef uint64_t n = 0
    cdef int i
    for i in range(m.host_events):
        n += m.host_event[i].slot >= 0 and not m.host_event[i].throttled
    return n


cdef uint64_t host_pmu_disable(machine_t *m) noexcept nogil:
    """x86_pmu_disable(): nothing counts afterwards.

    Returns the RDMSRs that AMD's wait for overflows adds, one for each active counter (amd_pmu_check_overflow()).
    """
    cdef uint64_t n = _active(m) if m.amd else 0
    if m.host_v1:
        spend_rdmsr(m, n)
        spend_ops(m, 0, 0, n, 0)
        m.hardware.global_ctrl = 0
    else:
        write_global_ctrl(m, 0)
    return n


cdef void host_pmu_enable(machine_t *m) noexcept nogil:
    """The end of x86_pmu_enable()."""
    if m.host_v1:
        spend_ops(m, 0, 0, _active(m), 0)
        m.hardware.global_ctrl = host_global_ctrl(m, False)
    else:
        write_global_ctrl(m, host_global_ctrl(m, False))


# -- brackets ---------------------------------------------------------------------------------------------------------

cdef void _settle(machine_t *m, const host_event_t *e, uint32_t event) noexcept nogil:
    # An event of the guest's counts nothing before guest code runs again. (Armed with less than 2, it would be lengthened.)
    m.settled |= event
    m.settled_slots |= <uint32_t>1 << e.slot
    if e.slot < FIXED_SLOT:
        m.settled_gp |= event


cdef void _unsettle(machine_t *m, const host_event_t *e, uint32_t event) noexcept nogil:
    if m.settled & event:
        m.settled &= ~event
        m.settled_gp &= ~event
        m.settled_slots &= ~(<uint32_t>1 << e.slot)


cdef void _take_out(machine_t *m, host_event_t *e) noexcept nogil:
    cdef int slot = e.slot
    update_count(&e.perf, m.hardware.counter[slot], width_mask(&m.hardware, slot))
    if slot < FIXED_SLOT:
        write_selector(&m.hardware, slot, e.selector)
    else:
        m.host_fixed_ctr_ctrl &= ~(<uint64_t>15 << 4 * (slot - FIXED_SLOT))
    m.kept_out[0] &= ~(<uint32_t>1 << slot)
    m.kept_out[1] &= ~(<uint32_t>1 << slot)
    e.slot = -1


cdef void put_in(machine_t *m, host_event_t *e, int slot) noexcept nogil:
    """x86_pmu_start() of an event that has got a counter."""
    cdef uint64_t mask = width_mask(&m.hardware, slot)
    e.slot = slot
    e.previous_slot = slot
    m.kept_out[0] |= <uint32_t>e.exclude_host << slot
    m.kept_out[1] |= <uint32_t>e.exclude_guest << slot
    expect_host(e)
    set_period(&e.perf, mask, <int64_t>(mask >> 1), &e.perf.previous)
    if e.throttled:
        # event_sched_in(): who comes back is not throttled any more.
        e.throttled = False
        e.interrupts = 0
    m.hardware.counter[slot] = e.perf.previous
    if slot < FIXED_SLOT:
        write_host_selector(m, e)
    elif not e.held:
        m.host_fixed_ctr_ctrl |= host_nibble(e) << 4 * (slot - FIXED_SLOT)
    m.host_placed = True
    if e.guest_slot >= 0:
        m.ledger_stale = True  # it may have moved


cdef void bracket(
    machine_t *m, uint32_t out, uint32_t into, const int8_t *slots, int64_t new_period, bint lvtpc, bint window,
    uint32_t settled
) noexcept nogil:
    """GLOBAL_CTRL=0, events out, events in, GLOBAL_CTRL back; perf_pmu_disable() to perf_pmu_enable().

    ``settled``: settled events among those that go out and into the same counters.
    ``new_period`` >= 0: a period that the events take between out and in. ``window``: the mediated window begins
    once the PMU is disabled.
    """
    cdef uint64_t fixed = m.host_fixed_ctr_ctrl, rdpmc = 0, counters = 0, selectors = 0
    cdef host_event_t *e
    cdef uint32_t left
    cdef int i
    cdef uint64_t rdmsr = host_pmu_disable(m)
    if window:
        m.blind = True
    if settled:
        # Out of their counters and into them again, and nothing has been counted meanwhile: only the accesses are left.
        rdpmc = counters = popcount32(settled)
        selectors = 2 * popcount32(settled & m.settled_gp)
        rdmsr += rdpmc if m.amd else 0
        out &= ~settled
        into &= ~settled
        m.ledger_stale = True
    left = out
    while left:
        i = lowest_bit(left)
        left &= left - 1
        e = &m.host_event[i]
        rdpmc += 1
        selectors += e.slot < FIXED_SLOT and not e.throttled
        rdmsr += m.amd and not e.throttled
        _unsettle(m, e, <uint32_t>1 << i)
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
        selectors += slots[i] < FIXED_SLOT and not m.host_v1
        put_in(m, e, slots[i])
        if e.guest_slot >= 0 and not e.held and e.perf.period_left >= 2 and not m.host_v1:
            _settle(m, e, <uint32_t>1 << i)
    if m.host_fixed_ctr_ctrl != fixed:
        selectors += 1
        write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)
    if lvtpc:
        m.hardware.lvtpc = LVTPC_NMI
    spend_rdmsr(m, rdmsr)
    spend_ops(m, rdpmc, counters, selectors, 1 if lvtpc else 0)
    host_pmu_enable(m)
