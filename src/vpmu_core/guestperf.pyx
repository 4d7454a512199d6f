# cython: freethreading_compatible=True
"""Guest perf as Linux does it on Intel CPUs, version 2 to 5 (arch/x86/events/core.c and intel/core.c)."""
from vpmu_core._types cimport uint64_t
from vpmu_core.hostperf cimport set_period, update_count
from vpmu_core.unit cimport FIXED_SLOT, LVTPC_NMI, SELECTOR_ENABLE, SELECTOR_OS, SELECTOR_USR, bits_of, width_mask
from vpmu_core.counting cimport apply_direct, apply_ideal, tally
from vpmu_core.state cimport (
    ACCESS_COUNTER, ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_LVTPC, ACCESS_OVF_CTRL,
    ACCESS_RDPMC, ACCESS_SELECTOR, COST_GUEST_NMI_ENTRY, COST_GUEST_NMI_EXIT, COST_GUEST_PERF_CALL, COST_GUEST_SAMPLE,
    COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, EFFECT_ACCESS, EXIT_MSR_READ, EXIT_MSR_WRITE, EXIT_RDPMC,
    HANDLER, KERNEL, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR,
    ORIGIN_GUEST, access_t, guest_event_t, machine_t,
)
from vpmu_core.timeline cimport run_guest, vm_exit


cdef access_t _access(machine_t *m, int kind, int slot, uint64_t value) noexcept nogil:
    """One access: direct at its cost, or through an exit."""
    cdef access_t a
    cdef int op = OP_WRMSR_GLOBAL
    cdef int cost = COST_WRMSR
    cdef int reason = EXIT_MSR_WRITE
    a.access = kind
    a.slot = slot
    a.value = value
    a.ideal = 0
    a.applied = 0
    if m.stopped:
        return a
    if kind == ACCESS_COUNTER:
        op = OP_WRMSR_COUNTER
    elif kind == ACCESS_SELECTOR or kind == ACCESS_FIXED_CTR_CTRL:
        op = OP_WRMSR_SELECTOR
    elif kind == ACCESS_GLOBAL_STATUS:
        op, cost, reason = OP_RDMSR, COST_RDMSR, EXIT_MSR_READ
    elif kind == ACCESS_RDPMC:
        op, cost, reason = OP_RDPMC, COST_RDPMC, EXIT_RDPMC
    elif kind == ACCESS_LVTPC:
        op, cost = OP_WRMSR_LVTPC, COST_WRMSR_LVTPC
    if m.traps >> kind & 1:
        m.accesses[m.phase][1][op] += 1
        m.pmu_exits[reason] += 1
        vm_exit(m, KERNEL, 0, True, 0, 0, EFFECT_ACCESS, &a)
        return a
    run_guest(m, HANDLER, m.cost[cost], cost)
    if m.stopped:
        return a
    m.accesses[m.phase][0][op] += 1
    tally(m, ORIGIN_GUEST, op, 1)
    apply_direct(m, &a)
    apply_ideal(m, &a)
    return a


cdef void _work(machine_t *m, int cost) noexcept nogil:
    """Software in the guest: handler code."""
    if not m.stopped:
        run_guest(m, HANDLER, m.cost[cost], cost)


cdef inline uint64_t _all_counters(const machine_t *m) noexcept nogil:
    return bits_of(m.ideal.slots)


cdef void _disable(machine_t *m) noexcept nogil:
    if not m.stopped:
        m.guest_pmu_on = False
    _access(m, ACCESS_GLOBAL_CTRL, 0, 0)


cdef void _enable(machine_t *m) noexcept nogil:
    if not m.stopped:
        m.guest_pmu_on = True
    _access(m, ACCESS_GLOBAL_CTRL, 0, _all_counters(m))


cdef void _read(machine_t *m, guest_event_t *e) noexcept nogil:
    """RDPMC and x86_perf_event_update(), on the real reading and on the ideal one."""
    cdef access_t a = _access(m, ACCESS_RDPMC, e.slot, 0)
    cdef uint64_t mask = width_mask(&m.ideal, e.slot)
    if not a.applied:
        return
    update_count(&e.perf, a.value, mask)
    e.ideal += (a.ideal - e.ideal_previous) & mask
    e.ideal_previous = a.ideal


cdef bint _arm(machine_t *m, guest_event_t *e) noexcept nogil:
    """x86_perf_event_set_period() and the counter write."""
    cdef uint64_t armed = 0
    cdef bint hit
    cdef access_t a
    if m.stopped:
        return False
    hit = set_period(&e.perf, width_mask(&m.ideal, e.slot), m.guest_max_period, &armed)
    a = _access(m, ACCESS_COUNTER, e.slot, armed)
    if a.applied:
        # At the effect of the write, not before: an NMI in between must not see a delta that never was.
        e.perf.previous = e.ideal_previous = armed
        e.active = 1
    return hit


cdef void _write_fixed_ctr_ctrl(machine_t *m, uint64_t value) noexcept nogil:
    """The register is cached, and written only if it changes."""
    if value != m.guest_fixed_ctr_ctrl:
        _access(m, ACCESS_FIXED_CTR_CTRL, 0, value)
        if not m.stopped:
            m.guest_fixed_ctr_ctrl = value


cdef inline uint64_t _nibble(const guest_event_t *e) noexcept nogil:
    return (1 if e.selector & SELECTOR_OS else 0) | (2 if e.selector & SELECTOR_USR else 0) | 8


cdef inline int _nibble_shift(const guest_event_t *e) noexcept nogil:
    return 4 * (e.slot - FIXED_SLOT)


cdef void set_up(machine_t *m) noexcept nogil:
    """``perf stat -a``: open the events, then enable them one ioctl after the other, each a ctx_resched()."""
    cdef guest_event_t *e
    cdef uint64_t fixed
    cdef int i, j
    if m.guest_events == 0:
        return
    _work(m, COST_GUEST_PERF_CALL)
    _disable(m)
    _enable(m)
    for j in range(m.guest_events):
        _work(m, COST_GUEST_PERF_CALL)
        _disable(m)
        for i in range(j):
            e = &m.guest_event[i]
            if e.slot < FIXED_SLOT:
                _access(m, ACCESS_SELECTOR, e.slot, e.selector)
            _read(m, e)
        fixed = m.guest_fixed_ctr_ctrl
        for i in range(j + 1):
            e = &m.guest_event[i]
            _arm(m, e)
            if e.slot < FIXED_SLOT:
                _access(m, ACCESS_SELECTOR, e.slot, e.selector | SELECTOR_ENABLE)
            else:
                fixed |= _nibble(e) << _nibble_shift(e)
        _access(m, ACCESS_LVTPC, 0, LVTPC_NMI)
        _write_fixed_ctr_ctrl(m, fixed)
        _enable(m)


cdef void pmi_handler(machine_t *m) noexcept nogil:
    """intel_pmu_handle_irq() with late_ack, from NMI entry to IRET."""
    cdef guest_event_t *e
    cdef bint was_on = m.guest_pmu_on
    cdef uint64_t status
    cdef int i, bit, slot, rounds = 0
    m.nmi_pending = False
    m.nmi_in_service = True
    m.handlers += 1
    _work(m, COST_GUEST_NMI_ENTRY)
    _disable(m)
    status = _access(m, ACCESS_GLOBAL_STATUS, 0, 0).value
    while status and not m.stopped and rounds < 100:
        rounds += 1
        _access(m, ACCESS_OVF_CTRL, 0, status)
        for bit in range(48):
            if not status >> bit & 1:
                continue
            slot = bit if bit < 32 else bit - 32 + FIXED_SLOT
            for i in range(m.guest_events):
                e = &m.guest_event[i]
                if e.active and e.slot == slot:
                    _read(m, e)
                    if _arm(m, e) and e.sampling and not m.stopped:
                        e.samples += 1
                        _work(m, COST_GUEST_SAMPLE)
        status = _access(m, ACCESS_GLOBAL_STATUS, 0, 0).value
    if was_on:
        _enable(m)
    _access(m, ACCESS_LVTPC, 0, LVTPC_NMI)
    _work(m, COST_GUEST_NMI_EXIT)
    if not m.stopped:
        m.nmi_in_service = False


cdef void read_out(machine_t *m) noexcept nogil:
    """The end of ``perf stat -a``: one ioctl disables each event and folds its count."""
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        _work(m, COST_GUEST_PERF_CALL)
        _disable(m)
        if e.slot < FIXED_SLOT:
            _access(m, ACCESS_SELECTOR, e.slot, e.selector)
        _read(m, e)
        if e.slot >= FIXED_SLOT:
            _write_fixed_ctr_ctrl(m, m.guest_fixed_ctr_ctrl & ~(<uint64_t>15 << _nibble_shift(e)))
        _enable(m)
        e.active = 0


cdef void run_program(machine_t *m) noexcept nogil:
    """Accesses of guest software other than perf, each after some handler cycles."""
    cdef access_t a
    cdef int i
    for i in range(m.program_steps):
        if m.stopped:
            return
        run_guest(m, HANDLER, m.program[i].gap, COST_GUEST_PERF_CALL)
        a = _access(m, m.program[i].access, m.program[i].slot, m.program[i].value)
        m.program[i].value = a.value
        m.program[i].ideal = a.ideal
        m.program[i].applied = a.applied
