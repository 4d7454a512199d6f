# cython: freethreading_compatible=True
"""Host perf samples: intel_pmu_handle_irq(), __perf_event_account_interrupt(), perf_event_task_tick()."""
from vpmu_core._types cimport NEVER, int64_t, uint32_t, uint64_t, uint128_t
from vpmu_core.counting cimport first_host_wrap, host_activity, host_advance, spend, tally
from vpmu_core.hostdriver cimport (
    host_global_ctrl, host_nibble, host_pmu_disable, host_pmu_enable, spend_ops, spend_rdmsr, write_global_ctrl,
)
from vpmu_core.hostperf cimport expect_host, set_period, update_count
from vpmu_core.hostsched cimport TASK, set_tick
from vpmu_core.kinds cimport (
    CAUSE_OVERWRITTEN, COST_HOST_NMI, COST_HOST_SAMPLE, COST_PERF_TICK, COST_WRMSR, COST_WRMSR_LVTPC, EFFECT_NMI,
    EXIT_EXCEPTION_NMI, FLIGHT_GUEST, FLIGHT_HOST, KERNEL, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, ORIGIN_HOST,
)
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.state cimport machine_t
from vpmu_core.timeline cimport check_arrival, request_guest_pmi, vm_exit
from vpmu_core.unit cimport (
    FIXED_SLOT, GP_LANES, LVTPC_NMI, SELECTOR_ENABLE, bits_of, width_mask, write_fixed_ctr_ctrl, write_selector,
)

cdef uint64_t BILLION = 1000000000
cdef uint64_t MOST = <uint64_t>1 << 62

cdef struct work_t:  # register accesses and samples of one bracket, whose costs are spent together
    uint64_t rdpmc
    uint64_t counters
    uint64_t selectors
    uint64_t samples


cdef inline int64_t _nanoseconds(const machine_t *m, uint64_t wall) noexcept nogil:
    return <int64_t>(<uint64_t>(<uint128_t>wall * BILLION // m.core_hz))


cdef void _switch(machine_t *m, host_event_t *e, bint on, work_t *work) noexcept nogil:
    # x86_pmu_enable_event() or x86_pmu_disable_event(); fixed counters are written together at the end.
    if e.slot < FIXED_SLOT:
        work.selectors += 1
        write_selector(&m.hardware, e.slot, e.selector | (SELECTOR_ENABLE if on else 0))
    else:
        m.host_fixed_ctr_ctrl &= ~(<uint64_t>15 << 4 * (e.slot - FIXED_SLOT))
        if on:
            m.host_fixed_ctr_ctrl |= host_nibble(e) << 4 * (e.slot - FIXED_SLOT)


cdef void _spend(machine_t *m, work_t *work, uint64_t fixed_ctr_ctrl) noexcept nogil:
    if m.host_fixed_ctr_ctrl != fixed_ctr_ctrl:
        work.selectors += 1
        write_fixed_ctr_ctrl(&m.hardware, m.host_fixed_ctr_ctrl)
    m.spent[COST_HOST_SAMPLE] += work.samples * m.cost[COST_HOST_SAMPLE]
    host_advance(m, host_activity(m), work.samples * m.cost[COST_HOST_SAMPLE])
    spend_ops(m, work.rdpmc, work.counters, work.selectors, 0)


cdef void _adjust(host_event_t *e, uint64_t nanoseconds, uint64_t count) noexcept nogil:
    """perf_adjust_period(): an eighth of the way to the period that would have met the frequency."""
    cdef uint128_t target = <uint128_t>count * BILLION // (<uint128_t>nanoseconds * e.freq)
    cdef int64_t d = <int64_t>(<uint64_t>target if target < MOST else MOST) - e.perf.period
    # C divides towards zero, as the kernel does.
    e.perf.period += (d + 7) // 8 if d >= 0 else -((7 - d) // 8)
    if e.perf.period == 0:
        e.perf.period = 1
    if e.perf.period_left > 8 * e.perf.period:
        e.zeroed += e.perf.period_left
        e.perf.period_left = 0


cdef void _sample(machine_t *m, host_event_t *e, uint64_t wall, work_t *work) noexcept nogil:
    cdef uint64_t tick = wall // m.tick
    cdef int64_t now, passed
    e.samples += 1
    work.samples += 1
    e.interrupts = e.interrupts + 1 if e.interrupts and tick == e.sample_tick else 1
    e.sample_tick = tick
    if e.throttles and e.interrupts >= m.max_samples_per_tick:
        e.throttled = True
        e.throttlings += 1
        _switch(m, e, False, work)
        set_tick(m, wall)
    if e.freq:
        now = _nanoseconds(m, wall)
        passed = now - e.sample_time
        if e.samples > 1 and 0 < passed < 2 * <int64_t>m.tick_ns:
            _adjust(e, <uint64_t>passed, <uint64_t>e.perf.period)
        e.sample_time = now


cdef inline void _write_lvtpc(machine_t *m) noexcept nogil:
    tally(m, ORIGIN_HOST, OP_WRMSR_LVTPC, 1)
    spend(m, COST_WRMSR_LVTPC)
    m.hardware.lvtpc = LVTPC_NMI


cdef bint _overflows(machine_t *m, const host_event_t *e) noexcept nogil:
    """kvm_perf_overflow(): whether the guest's counter that an event backs asks for a PMI."""
    cdef uint32_t guest_bit = <uint32_t>1 << e.guest_slot
    if m.reprogram & guest_bit:
        return False
    m.reprogram |= guest_bit
    m.guest.global_status |= bits_of(guest_bit)
    return (m.guest.interrupt & guest_bit) != 0


cdef void _sample_v1(machine_t *m, host_event_t *e, uint64_t wall) noexcept nogil:
    # Counters run meanwhile: each cost is spent before its effect.
    cdef bint same_tick = e.interrupts and wall // m.tick == e.sample_tick
    cdef work_t work
    spend(m, COST_HOST_SAMPLE)
    if e.throttles and (e.interrupts if same_tick else 0) + 1 >= m.max_samples_per_tick:
        spend_ops(m, 0, 0, 1, 0)
    _sample(m, e, wall, &work)


cdef bint _handle_v1(machine_t *m, uint64_t wall) noexcept nogil:
    """x86_pmu_handle_irq(), AMD before PerfMonV2: counters run on, and tell by their top bits whether they overflowed."""
    cdef bint accepted = False, hit
    cdef uint64_t mask
    cdef host_event_t *e
    cdef int slot, i
    _write_lvtpc(m)
    for slot in range(GP_LANES):
        for i in range(m.host_events):
            e = &m.host_event[i]
            if e.slot != slot or e.throttled:
                continue
            mask = width_mask(&m.hardware, slot)
            spend_ops(m, 1, 0, 0, 0)
            update_count(&e.perf, m.hardware.counter[slot], mask)
            if e.perf.previous > mask >> 1:
                continue
            spend_ops(m, 0, 1, 0, 0)
            e.losses[CAUSE_OVERWRITTEN] += (m.hardware.counter[slot] - e.perf.previous) & mask
            expect_host(e)
            hit = set_period(&e.perf, mask, <int64_t>(mask >> 1), &e.perf.previous)
            m.hardware.counter[slot] = e.perf.previous
            if e.guest_slot >= 0:
                accepted = _overflows(m, e) or accepted
            elif hit and e.sampling:
                e.late += m.wall - e.overflow_at
                _sample_v1(m, e, wall)
    return accepted


cdef void host_nmi_handler(machine_t *m) noexcept nogil:
    """intel_pmu_handle_irq() on the host, with kvm_perf_overflow() for the events that back guest counters."""
    cdef uint64_t status, mask, fixed = m.host_fixed_ctr_ctrl, wall = m.wall
    cdef bint accepted = False, overflowed, hit
    cdef host_event_t *e
    cdef work_t work
    cdef int i
    work.rdpmc = work.counters = work.selectors = work.samples = 0
    m.host_nmi_pending = False
    spend(m, COST_HOST_NMI)
    if m.host_v1:
        _served(m, _handle_v1(m, wall))
        return
    write_global_ctrl(m, 0)
    status = m.hardware.global_status
    m.hardware.global_status = 0
    for i in range(m.host_events):
        e = &m.host_event[i]
        overflowed = e.slot >= 0 and status & bits_of(<uint32_t>1 << e.slot) != 0
        # AMD reads all counters that are on, if any has overflowed.
        if e.slot < 0 or not status or (m.amd and e.throttled) or (not m.amd and not overflowed):
            continue
        work.rdpmc += 1
        mask = width_mask(&m.hardware, e.slot)
        update_count(&e.perf, m.hardware.counter[e.slot], mask)
        if not overflowed:
            continue
        work.counters += 1
        expect_host(e)
        hit = set_period(&e.perf, mask, <int64_t>(mask >> 1), &e.perf.previous)
        m.hardware.counter[e.slot] = e.perf.previous
        if e.guest_slot < 0:
            if hit and e.sampling:
                e.late += m.wall - e.overflow_at  # no counter counts any more, and no cost has been spent since
                _sample(m, e, wall, &work)
            continue
        accepted = _overflows(m, e) or accepted
    spend_rdmsr(m, 1 if m.amd else 2)
    if status or not m.amd:
        tally(m, ORIGIN_HOST, OP_WRMSR_GLOBAL, 1)
        spend(m, COST_WRMSR)
    _spend(m, &work, fixed)
    write_global_ctrl(m, host_global_ctrl(m, False))
    if not m.amd:
        _write_lvtpc(m)
    _served(m, accepted)


cdef void _served(machine_t *m, bint accepted) noexcept nogil:
    # Whose PMI it was; ``accepted``: KVM asks for one of the guest's.
    if m.arrived & FLIGHT_HOST:
        m.host_pmi.handled += 1
    if accepted:
        if not m.arrived & FLIGHT_GUEST:
            m.pmi.raised += 1
        request_guest_pmi(m)
    elif m.arrived & FLIGHT_GUEST:
        m.pmi.lost += 1


cdef void host_arrive(machine_t *m) noexcept nogil:
    """A PMI arrives where hardware counts for host perf only: it is an NMI of the host's."""
    if m.in_guest:
        m.pmu_exits[EXIT_EXCEPTION_NMI] += 1
        m.host_nmi_pending = m.amd
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_NMI, NULL)
    else:
        if m.arrived & FLIGHT_GUEST:
            m.pmi.skid_past_exit += 1
        host_nmi_handler(m)


cdef void _tick_context(machine_t *m, int task) noexcept nogil:
    """perf_adjust_freq_unthr_context()."""
    cdef uint64_t fixed = m.host_fixed_ctr_ctrl, mask, counted
    cdef host_event_t *e
    cdef work_t work
    cdef bint any = False
    cdef uint64_t rdmsr = 0
    cdef int i
    work.rdpmc = work.counters = work.selectors = work.samples = 0
    for i in range(m.host_events):
        e = &m.host_event[i]
        if e.slot < 0 or (e.klass & TASK) != task or not (e.freq or e.throttled):
            continue
        if not any:
            any = True
            rdmsr = host_pmu_disable(m)
        if e.freq:
            if not e.throttled:
                rdmsr += m.amd
                _switch(m, e, False, &work)
            mask = width_mask(&m.hardware, e.slot)
            update_count(&e.perf, m.hardware.counter[e.slot], mask)
            work.rdpmc += 1
            counted = e.perf.count - e.tick_count
            e.tick_count = e.perf.count
            if counted:
                expect_host(e)
                _adjust(e, m.tick_ns, counted)
                e.zeroed = 0  # the next statement starts a period
                set_period(&e.perf, mask, <int64_t>(mask >> 1), &e.perf.previous)
                m.hardware.counter[e.slot] = e.perf.previous
                work.counters += 1
        _switch(m, e, True, &work)
        work.selectors -= m.host_v1  # the end of the bracket writes it
        if e.throttled:
            e.throttled = False
            e.interrupts = 0
    if any:
        spend_rdmsr(m, rdmsr)
        _spend(m, &work, fixed)
        host_pmu_enable(m)


cdef void serve_tick(machine_t *m) noexcept nogil:
    """perf_event_task_tick()."""
    cdef uint64_t wall = m.wall
    m.next_tick = NEVER
    spend(m, COST_PERF_TICK)
    _tick_context(m, 0)
    if not m.asleep:
        _tick_context(m, 1)
    set_tick(m, wall)


cdef void host_code(machine_t *m, int a, uint64_t cycles) noexcept nogil:
    """Host code of some length, in which PMIs of host events arrive when they are due."""
    cdef uint64_t d
    if not m.samples_host or m.blind:
        host_advance(m, a, cycles)
        return
    while True:
        check_arrival(m)
        # AMD: a handler that counters run in may leave one that is due already.
        d = min(cycles, m.pmi_arrival - m.wall if m.pmi_arrival > m.wall else 1)
        d = first_host_wrap(m, a, d)
        host_advance(m, a, d)
        cycles -= d
        if cycles == 0:
            return
