# cython: freethreading_compatible=True
"""Design ``emulated``: every access traps and each guest counter is backed by a host perf event (KVM since 2011)."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport int64_t, lowest_bit, uint32_t, uint64_t
from vpmu_core.hostperf cimport (
    perf_create, perf_enable, perf_pause, perf_period, perf_read, perf_release,
)
from vpmu_core.hostsample cimport host_arrive, host_nmi_handler
from vpmu_core.hostdriver cimport host_global_ctrl
from vpmu_core.hostsched cimport place_host_events, thread_sleeps, thread_wakes
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_RDPMC, ACCESS_SELECTOR, CAUSE_FILTERED, CAUSE_NONE, CAUSE_NOT_SCHEDULED,
    CAUSE_PERIOD_REJECTED, CAUSE_WRONG_COUNTER, COST_PERF_CREATE, COST_PERF_PERIOD, COST_REPROGRAM, FIRST_OWN_FLAG,
    HOST_ACTIVE, REQUEST_CLEANUP, REUSE_EVENTS,
)
from vpmu_core.kvmpmu cimport access_registers, counting_at, locally_enabled, recompute_counting, sample_period
from vpmu_core.perfevents cimport guest_event_t, vcpu_counter_t
from vpmu_core.unit cimport (
    FIXED_SLOT, SELECTOR_OS, SELECTOR_USR, bits_of, enabled, pmu_t, slots_of, width_mask,
)
from vpmu_core.counting cimport meter, spend
from vpmu_core.state cimport access_t, design_t, machine_t
from vpmu_core.timeline cimport request_guest_pmi


cdef enum:
    IN_TXCP = 33  # bit of a selector: counts of aborted transactions are taken back, so there is nothing to sample
    SYNCHRONOUS = FIRST_OWN_FLAG  # a write reprograms within its own exit, as up to Linux 6.0


cdef bint _backed(const machine_t *m, int slot) noexcept nogil:
    cdef const vcpu_counter_t *c = &m.vcpu[slot]
    return c.event >= 0 and not c.paused and m.host_event[c.event].state == HOST_ACTIVE


cdef bint _meter_other_event(machine_t *m, guest_event_t *e) noexcept nogil:
    """Whether hardware counts something else for a guest counter than it should; then both are metered."""
    cdef const pmu_t *hardware = &m.hardware
    cdef int slot = m.host_event[m.vcpu[e.slot].event].slot
    cdef bint user = hardware.local[1] >> slot & 1, kernel = hardware.local[0] >> slot & 1
    if (
        hardware.event[slot] == m.ideal.event[e.slot] and user == (m.ideal.local[1] >> e.slot & 1)
        and kernel == (m.ideal.local[0] >> e.slot & 1)
    ):
        return False
    meter(m, e, CAUSE_WRONG_COUNTER)
    e.instead, e.instead_user, e.instead_kernel = hardware.event[slot], user, kernel
    return True


cdef void _update_ledger(machine_t *m) noexcept nogil:
    """A guest counter that should count but has no counting event loses what the ideal one counts."""
    cdef uint32_t on = enabled(&m.ideal, True) | enabled(&m.ideal, False)
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.active and on >> e.slot & 1 and not _backed(m, e.slot):
            if m.denied >> e.slot & 1:
                meter(m, e, CAUSE_FILTERED)
            else:
                meter(m, e, CAUSE_PERIOD_REJECTED if m.vcpu[e.slot].rejected else CAUSE_NOT_SCHEDULED)
            continue
        if e.active and on >> e.slot & 1 and _meter_other_event(m, e):
            continue
        meter(m, e, CAUSE_NONE)
        # The read-out frees counters one by one, and who never had one gets it for a moment.
        if not m.finishing:
            e.scheduled |= e.active and on >> e.slot & 1
    m.ledger_stale = False


cdef void _leave(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = host_global_ctrl(m, False)


cdef void _enter(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = host_global_ctrl(m, True)
    if m.ledger_stale:
        _update_ledger(m)


cdef bint _update_period(machine_t *m, int event, int64_t period) noexcept nogil:
    """perf_event_period(), which refuses what the CPU's limit_period() would lengthen."""
    if m.host_event[event].unsampled:
        return True
    if period < m.least_period:
        spend(m, COST_PERF_PERIOD)
        return False
    perf_period(m, event, period)
    return True


cdef uint64_t _live_count(machine_t *m, const vcpu_counter_t *c) noexcept nogil:
    if c.event >= 0 and not c.paused:
        return perf_read(m, c.event)
    return 0


cdef void _access(machine_t *m, access_t *a) noexcept nogil:
    cdef vcpu_counter_t *c = &m.vcpu[a.slot]
    cdef uint64_t mask = width_mask(&m.guest, a.slot)
    cdef uint32_t pending
    m.ledger_stale = True
    if a.access == ACCESS_RDPMC:
        a.value = (c.counter + c.emulated + _live_count(m, c)) & mask
    elif a.access == ACCESS_COUNTER:
        # The running event is offset, not restarted.
        c.emulated = 0
        c.counter = (a.value - _live_count(m, c)) & mask
        if c.event >= 0 and not c.paused:
            _update_period(m, c.event, sample_period(c.counter, mask))
        if a.slot >= FIXED_SLOT or m.guest_max_period <= 0x7FFFFFFF or m.amd:
            m.in_use |= <uint32_t>1 << a.slot  # msr_idx_to_pmc() does not know the full-width aliases
    else:
        if a.access == ACCESS_SELECTOR:
            m.in_use |= <uint32_t>1 << a.slot
        pending = m.reprogram
        m.reprogram = 0
        access_registers(m, a)
        if m.flags & SYNCHRONOUS and m.reprogram:
            _reprogram_now(m)
        m.reprogram |= pending


cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil:
    cdef uint32_t counted = counting_at(m, cpl), left = counted, pending
    while left:
        m.vcpu[lowest_bit(left)].emulated += 1
        left &= left - 1
    if m.flags & SYNCHRONOUS and counted:
        pending, m.reprogram = m.reprogram, counted
        _reprogram_now(m)
        m.reprogram |= pending
    else:
        m.reprogram |= counted
    return counted


cdef uint64_t _fixed_selector(const machine_t *m, int slot) noexcept nogil:
    # The architectural event of a fixed counter in a selector's encoding, with the levels of its field.
    cdef uint64_t nibble = m.guest.fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 15
    cdef uint64_t code = 0x00C0
    if slot == FIXED_SLOT + 1:
        code = 0x003C
    elif slot == FIXED_SLOT + 2:
        code = 0x0300
    elif slot == FIXED_SLOT + 3:
        code = 0x01A4
    return code | (SELECTOR_OS if nibble & 1 else 0) | (SELECTOR_USR if nibble & 2 else 0)


cdef void _reprogram(machine_t *m, int slot) noexcept nogil:
    """reprogram_counter() of one guest counter."""
    cdef vcpu_counter_t *c = &m.vcpu[slot]
    cdef uint64_t mask = width_mask(&m.guest, slot), previous, key, selector
    cdef uint32_t bit = <uint32_t>1 << slot
    cdef bint overflow, unsampled
    cdef int64_t period
    spend(m, COST_REPROGRAM)
    m.reprograms += 1
    if c.event >= 0 and not c.paused:
        c.counter = (c.counter + perf_pause(m, c.event)) & mask
    c.paused = True
    previous = c.counter
    c.counter = (c.counter + c.emulated) & mask
    c.emulated = 0
    overflow = c.counter < previous
    if not locally_enabled(m, slot) or not slots_of(m.guest.global_ctrl) & bit or m.denied & bit:
        return
    if overflow:
        m.overflow_at[slot] = m.wall
        m.guest.global_status |= bits_of(bit)
        if m.guest.interrupt & bit:
            m.pmi.raised += 1
            request_guest_pmi(m)
    period = sample_period(c.counter, mask)
    if slot < FIXED_SLOT:
        selector = key = m.guest.selector[slot]
    else:
        selector = _fixed_selector(m, slot)
        key = m.guest.fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 15
    if c.event >= 0 and c.key == key and m.flags & REUSE_EVENTS and _update_period(m, c.event, period):
        m.host_event[c.event].held = False
        perf_enable(m, c.event)
    else:
        if c.event >= 0:
            perf_release(m, c.event)
        c.event = -1
        c.key = key
        unsampled = slot < FIXED_SLOT and selector >> IN_TXCP & 1 != 0 and not m.amd
        if unsampled:
            period = <int64_t>(width_mask(&m.hardware, slot) >> 1)
        elif period < m.least_period:
            # perf_event_create_kernel_counter() fails with EINVAL; the bit stays set without a request.
            spend(m, COST_PERF_CREATE)
            m.retry |= bit
            c.rejected = True
            return
        c.event = perf_create(m, slot, selector, period)
        m.host_event[c.event].unsampled = unsampled
    c.paused = False
    c.rejected = False


cdef void _clean_up(machine_t *m) noexcept nogil:
    """kvm_pmu_cleanup(): events of counters that the guest has left alone for a slice, and left disabled, go."""
    cdef uint32_t left = m.guest.slots & ~m.in_use
    cdef vcpu_counter_t *c
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        c = &m.vcpu[slot]
        if c.event < 0 or locally_enabled(m, slot):
            continue
        if not c.paused:
            c.counter = (c.counter + perf_pause(m, c.event)) & width_mask(&m.guest, slot)
        perf_release(m, c.event)
        c.event = -1
        c.paused = True
    m.in_use = 0


cdef void _reprogram_now(machine_t *m) noexcept nogil:
    """All requested counters, and those whose last try failed."""
    cdef uint32_t processed = (m.reprogram | m.retry) & m.guest.slots, left = processed
    m.reprogram = m.retry = 0
    m.ledger_stale = True
    while left:
        _reprogram(m, lowest_bit(left))
        left &= left - 1
    recompute_counting(m, processed)


cdef void _requests(machine_t *m) noexcept nogil:
    cdef bint cleanup = (m.reprogram & REQUEST_CLEANUP) != 0
    _reprogram_now(m)
    if cleanup:
        _clean_up(m)


cdef void _wake(machine_t *m) noexcept nogil:
    thread_wakes(m)
    if m.flags & REUSE_EVENTS:
        m.reprogram |= REQUEST_CLEANUP  # kvm_arch_sched_in()


cdef void emulated_reactions(design_t *d) noexcept nogil:
    memset(d, 0, sizeof(design_t))
    d.start = place_host_events
    d.leave = _leave
    d.enter = _enter
    d.requests = _requests
    d.block = thread_sleeps
    d.wake = _wake
    d.arrive = host_arrive
    d.nmi = host_nmi_handler
    d.access = _access
    d.retire = _retire


cdef design_t _DESIGN
emulated_reactions(&_DESIGN)


def flags(options):
    """Return the design_flag bits that the options of a plan mean."""
    synchronous = SYNCHRONOUS if options.get("reprogram") == "synchronous" else 0
    return synchronous | (REUSE_EVENTS if options.get("reuse", True) else 0)


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
