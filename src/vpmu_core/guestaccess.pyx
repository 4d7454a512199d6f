# cython: freethreading_compatible=True, cdivision=True
"""Guest perf's accesses to its PMU, and what starts and stops one event (Linux arch/x86/events/core.c)."""
from vpmu_core._types cimport uint64_t
from vpmu_core.counting cimport apply_direct, apply_ideal, tally
from vpmu_core.guestamd cimport amd_disable, amd_enable, wait_on_overflow
from vpmu_core.hostperf cimport set_period, update_count
from vpmu_core.kinds cimport (
    ACCESS_COUNTER, ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_GLOBAL_STATUS, ACCESS_LVTPC, ACCESS_RDPMC,
    ACCESS_SELECTOR, CAUSE_NONE, COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, EFFECT_ACCESS, EXIT_MSR_READ,
    EXIT_MSR_WRITE, EXIT_RDPMC, HANDLER, KERNEL, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC,
    OP_WRMSR_SELECTOR, ORIGIN_GUEST,
)
from vpmu_core.memo cimport access_by_memo
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport NO_STATE, access_t, machine_t
from vpmu_core.timeline cimport run_guest, vm_exit
from vpmu_core.unit cimport FIXED_SLOT, LVTPC_NMI, SELECTOR_ENABLE, SELECTOR_OS, SELECTOR_USR, bits_of, width_mask


cdef inline bint _keeps_state(const machine_t *m, const access_t *a) noexcept nogil:
    # A direct access after which the machine is in the state of memo.pxd that it was in.
    if a.access == ACCESS_COUNTER:
        return (a.value & width_mask(&m.hardware, a.slot) == 0) == (m.hardware.counter[a.slot] == 0)
    return a.access == ACCESS_RDPMC or a.access == ACCESS_GLOBAL_STATUS


cdef void make_access(machine_t *m, access_t *a, int trap, int op, int cost, int reason) noexcept nogil:
    """An access of a class, at a cost: direct, or through an exit if ``trap`` is among the machine's traps."""
    if m.traps >> trap & 1:
        m.accesses[m.phase][1][op] += 1
        m.pmu_exits[reason] += 1
        if m.fast_forward != NULL and access_by_memo(m, a):
            return
        vm_exit(m, KERNEL, 0, True, 0, 0, EFFECT_ACCESS, a)
        return
    run_guest(m, HANDLER, m.cost[cost], cost)
    if m.stopped:
        return
    if not _keeps_state(m, a):
        m.at_state = NO_STATE
    m.accesses[m.phase][0][op] += 1
    tally(m, ORIGIN_GUEST, op, 1)
    apply_direct(m, a)
    apply_ideal(m, a)


cdef access_t guest_access(machine_t *m, int kind, int slot, uint64_t value) noexcept nogil:
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
    make_access(m, &a, kind, op, cost, reason)
    return a


cdef void guest_work(machine_t *m, int cost) noexcept nogil:
    """Software in the guest: handler code."""
    if not m.stopped:
        run_guest(m, HANDLER, m.cost[cost], cost)


cdef void pmu_disable(machine_t *m) noexcept nogil:
    """perf_pmu_disable()."""
    if m.amd:
        amd_disable(m)
        return
    if not m.stopped:
        m.guest_pmu_on = False
    guest_access(m, ACCESS_GLOBAL_CTRL, 0, 0)


cdef void pmu_enable(machine_t *m) noexcept nogil:
    """The end of perf_pmu_enable(): FIXED_CTR_CTRL is cached, and written only if it changes."""
    cdef uint64_t fixed = m.guest_fixed_wanted
    if m.amd:
        amd_enable(m)
        return
    if fixed != m.guest_fixed_ctr_ctrl:
        guest_access(m, ACCESS_FIXED_CTR_CTRL, 0, fixed)
        if not m.stopped:
            m.guest_fixed_ctr_ctrl = fixed
    if not m.stopped:
        m.guest_pmu_on = True
    guest_access(m, ACCESS_GLOBAL_CTRL, 0, bits_of(m.ideal.slots))


cdef void write_guest_lvtpc(machine_t *m) noexcept nogil:
    guest_access(m, ACCESS_LVTPC, 0, LVTPC_NMI)


cdef void read_event(machine_t *m, guest_event_t *e) noexcept nogil:
    """RDPMC and x86_perf_event_update(), on the real reading and on the ideal one."""
    cdef uint64_t mask
    cdef access_t a
    if not e.armed:
        return
    a = guest_access(m, ACCESS_RDPMC, e.slot, 0)
    mask = width_mask(&m.ideal, e.slot)
    if not a.applied:
        return
    update_count(&e.perf, a.value, mask)
    e.ideal += (a.ideal - e.ideal_previous) & mask
    e.ideal_previous = a.ideal


cdef void expect_samples(guest_event_t *e) noexcept nogil:
    """Periods that have ended since the counter was armed."""
    if e.sampling and e.perf.period_left <= 0:
        e.expected += 1 + -e.perf.period_left // e.perf.period


cdef bint _write_counter(machine_t *m, guest_event_t *e) noexcept nogil:
    """x86_perf_event_set_period() and the counter write."""
    cdef uint64_t armed = 0
    cdef bint hit = set_period(&e.perf, width_mask(&m.ideal, e.slot), m.guest_max_period, &armed)
    cdef access_t a
    if hit:
        e.last_period = e.perf.period
    a = guest_access(m, ACCESS_COUNTER, e.slot, armed)
    if a.applied:
        # At the effect of the write, not before: an NMI in between must not see a delta that never was.
        e.perf.previous = e.ideal_previous = armed
        e.active = e.armed = 1
    return hit


cdef bint arm_event(machine_t *m, guest_event_t *e) noexcept nogil:
    """Arm the counter of a running event anew; whether a period has ended."""
    if m.stopped:
        return False
    expect_samples(e)
    return _write_counter(m, e)


cdef inline uint64_t _field(const guest_event_t *e, uint64_t nibble) noexcept nogil:
    return nibble << 4 * (e.slot - FIXED_SLOT)


cdef void start_event(machine_t *m, guest_event_t *e, bint reload) noexcept nogil:
    """x86_pmu_start(); periods that have ended are the caller's to account for."""
    if m.stopped:
        return
    if reload or not e.armed:
        _write_counter(m, e)
        if m.stopped:
            return
    e.active = 1
    e.absent = CAUSE_NONE
    if e.slot < FIXED_SLOT:
        if not m.guest_v1 or m.guest_pmu_on:  # without global registers the end of the bracket writes it
            guest_access(m, ACCESS_SELECTOR, e.slot, e.selector | SELECTOR_ENABLE)
    else:
        m.guest_fixed_wanted |= _field(
            e, (1 if e.selector & SELECTOR_OS else 0) | (2 if e.selector & SELECTOR_USR else 0) | 8
        )


cdef void stop_event(machine_t *m, guest_event_t *e, bint update) noexcept nogil:
    """x86_pmu_stop(): a GP selector keeps its event and loses EN."""
    if m.stopped:
        return
    if e.active:
        if e.slot < FIXED_SLOT:
            guest_access(m, ACCESS_SELECTOR, e.slot, e.selector)
            if m.amd and not m.nmi_in_service:
                wait_on_overflow(m, e.slot)
        else:
            m.guest_fixed_wanted &= ~_field(e, 15)
        if m.stopped:
            return
        e.active = 0
    if update:
        read_event(m, e)
