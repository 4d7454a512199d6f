# cython: freethreading_compatible=True
"""The time line of one logical CPU: PMIs, exits and guest code (docs/machine.md, sections 3 to 6)."""
from vpmu_core._types cimport NEVER, lowest_bit, uint8_t, uint32_t, uint64_t
from vpmu_core.arrivals cimport draw_wall, draw_work
from vpmu_core.counting cimport (
    apply_ideal, exhausted, host_activity, host_advance, running_clock, spend, tally,
)
from vpmu_core.eventfilter cimport change_filter
from vpmu_core.hostsample cimport host_code, serve_tick
from vpmu_core.hostsched cimport serve_rotation, timer_due
from vpmu_core.kinds cimport (
    CAUSE_EMULATED_INSTRUCTION, CAUSE_FILTERED, COST_FASTPATH_REFUSED, COST_HANDLING_KERNEL, COST_INTERRUPT_EXIT,
    COST_MSR_EMULATION, COST_MSR_LIST_ENTRY, COST_PMI_INJECTION, COST_RDMSR, COST_VM_ENTRY, COST_VM_EXIT, EFFECT_ACCESS,
    EFFECT_KICK, EFFECT_NMI, EFFECT_NONE, EFFECT_PMI, EXIT_EXTERNAL_INTERRUPT, FASTPATH, FLIGHT_GUEST, HANDLER,
    HANDLERS_AT_ONCE, HOST_TASK, IDLE, KERNEL, OP_RDMSR, ORIGIN_HYPERVISOR, SPENT_HANDLING, SPENT_IDLE,
    STOPPED_NO_PROGRESS, USERSPACE, WORK,
)
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.unit cimport LVTPC_MASKED, enabled, width_mask
from vpmu_core.segment cimport guest_segment
from vpmu_core.state cimport NO_STATE, access_t, design_t, machine_t, planned_exit_t


# -- PMIs -------------------------------------------------------------------------------------------------------------

cdef void _lose(machine_t *m) noexcept nogil:
    """Nobody takes the PMI in flight."""
    m.pmi.lost += m.flight & FLIGHT_GUEST
    m.host_pmi.lost += m.flight >> 1
    m.pmi_arrival = NEVER
    m.flight = 0


cdef void arrive(machine_t *m) noexcept nogil:
    """The PMI in flight reaches the local APIC."""
    cdef uint8_t flight = m.flight
    if m.hardware.lvtpc & LVTPC_MASKED:
        _lose(m)
        return
    m.pmi_arrival = NEVER
    m.flight = 0
    if m.host_nmi_pending:
        # One NMI waits at most.
        m.pmi.coalesced += flight & m.arrived & FLIGHT_GUEST
        m.host_pmi.coalesced += (flight & m.arrived) >> 1
        m.arrived |= flight
        return
    m.arrived = flight
    m.at_state = NO_STATE
    if not m.amd:
        m.hardware.lvtpc |= LVTPC_MASKED
    m.design.arrive(m)


cdef void request_guest_pmi(machine_t *m) noexcept nogil:
    """KVM_REQ_PMI: one bit."""
    if m.pmi_requested:
        m.pmi.coalesced += 1
    m.pmi_requested = True


cdef void pend_nmi(machine_t *m) noexcept nogil:
    """The guest's LVTPC asks for an NMI: one may wait behind the one in service."""
    if m.nmi_pending:
        m.pmi.coalesced += 1
        return
    m.nmi_pending = True
    m.pmi.delivered += 1


cdef void _deliver_to_guest(machine_t *m) noexcept nogil:
    """Through the guest's LVTPC; delivery masks it on Intel CPUs (kvm_apic_local_deliver())."""
    if m.guest.lvtpc & LVTPC_MASKED:
        m.pmi.lost += 1
        return
    if not m.amd:
        m.guest.lvtpc |= LVTPC_MASKED
    pend_nmi(m)


# -- exits ------------------------------------------------------------------------------------------------------------

cdef inline void _host_code(machine_t *m, int a, uint64_t cycles) noexcept nogil:
    if m.samples_host:
        host_code(m, a, cycles)
    else:
        host_advance(m, a, cycles)


cdef inline void _handle(machine_t *m, uint64_t cycles, bint userspace) noexcept nogil:
    cdef uint64_t kernel = cycles
    if userspace and kernel > m.cost[COST_HANDLING_KERNEL]:
        kernel = m.cost[COST_HANDLING_KERNEL]
    m.spent[SPENT_HANDLING] += cycles
    if cycles:
        _host_code(m, host_activity(m), kernel)
    if userspace and m.design.to_user != NULL:
        m.design.to_user(m)
    if cycles > kernel:
        _host_code(m, HOST_TASK, cycles - kernel)
    if userspace and m.design.from_user != NULL:
        m.design.from_user(m)


cdef inline bint _left_alone(const machine_t *m) noexcept nogil:
    # A storm must not keep a read-out from its end: past its patience it takes no PMI, NMI or host interrupt.
    return m.finishing and exhausted(m)


cdef void _due_interrupts(machine_t *m) noexcept nogil:
    cdef uint64_t handling
    while running_clock(m) >= m.next_wall and not _left_alone(m):
        if exhausted(m):
            m.stopped = STOPPED_NO_PROGRESS
            return
        handling = m.exits[m.next_wall_kind].handling
        m.host_interrupts += 1
        draw_wall(m)
        m.spent[SPENT_HANDLING] += handling
        _host_code(m, host_activity(m), handling)


cdef void serve_timers(machine_t *m) noexcept nogil:
    """Those of host perf's timers that are due now."""
    cdef uint64_t now = m.wall, before = running_clock(m)
    if now >= m.next_mux:
        serve_rotation(m)
    if now >= m.next_tick:
        serve_tick(m)
    if m.asleep:
        m.asleep_busy += running_clock(m) - before


cdef void _idle(machine_t *m, uint64_t idle) noexcept nogil:
    """The vCPU's thread sleeps; the host's timer goes on."""
    cdef uint64_t d
    m.spent[SPENT_IDLE] += idle
    while idle:
        d = idle
        if (m.wall >= m.next_mux or m.wall >= m.next_tick) and timer_due(m):
            serve_timers(m)
            continue
        if min(m.next_mux, m.next_tick) > m.wall and not m.blind:
            d = min(d, min(m.next_mux, m.next_tick) - m.wall)
        host_advance(m, IDLE, d)
        idle -= d


cdef void _note_emulated(machine_t *m, uint32_t wanted, uint32_t different) noexcept nogil:
    """The ledger of an emulated instruction that a counter misses, or should have missed."""
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.active and different >> e.slot & 1:
            if wanted >> e.slot & 1:
                e.losses[CAUSE_FILTERED if m.denied >> e.slot & 1 else CAUSE_EMULATED_INSTRUCTION] += 1
            else:
                e.gains[CAUSE_EMULATED_INSTRUCTION] += 1


cdef inline void _retire(machine_t *m, int cpl) noexcept nogil:
    # One instruction that the hypervisor emulated: an occurrence outside all clocks.
    cdef uint32_t wanted, left, different
    cdef int slot
    if m.guest_events == 0 and m.program_steps == 0:
        return
    m.retired[cpl > 0] += 1
    wanted = enabled(&m.ideal, cpl > 0) & m.ideal_instructions
    left = wanted
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        m.ideal.counter[slot] = (m.ideal.counter[slot] + 1) & width_mask(&m.ideal, slot)
    different = wanted ^ m.design.retire(m, cpl)
    if different:
        _note_emulated(m, wanted, different)


cdef inline void _read_global_ctrl(machine_t *m) noexcept nogil:
    # AMD: svm_vcpu_run() does, since VM-exit saves nothing.
    tally(m, ORIGIN_HYPERVISOR, OP_RDMSR, 1)
    spend(m, COST_RDMSR)


cdef void _pass_list(machine_t *m, uint32_t n) noexcept nogil:
    """The CPU stores or loads MSRs of a list (SDM vol. 3C, "VM-Exit Controls for MSRs")."""
    while n:
        spend(m, COST_MSR_LIST_ENTRY)
        n -= 1


cdef inline int _exit_begins(machine_t *m, int kind, bint emulates, uint64_t handling) noexcept nogil:
    cdef const design_t *design = m.design
    cdef bint refused = False
    m.in_guest = False
    design.leave(m)
    if kind == FASTPATH and emulates and design.refuses != NULL and design.refuses(m):
        kind = KERNEL
        refused = True
        m.refused += 1
    spend(m, COST_VM_EXIT)
    if m.list_entry:
        if m.amd:
            _read_global_ctrl(m)
        else:
            _pass_list(m, m.list_entry)
    check_arrival(m)
    if m.flags >> kind & 1:
        design.put(m)
        m.switches += 1
        check_arrival(m)
    if refused and handling < m.cost[COST_FASTPATH_REFUSED]:
        # A time recorded in the fastpath is too short for the way that the exit takes now.
        m.spent[COST_FASTPATH_REFUSED] += m.cost[COST_FASTPATH_REFUSED] - handling
        host_advance(m, host_activity(m), m.cost[COST_FASTPATH_REFUSED] - handling)
    if handling or kind == USERSPACE:
        _handle(m, handling, kind == USERSPACE)
    return kind


cdef void _before_entry(machine_t *m, int kind) noexcept nogil:
    """What is due or requested when KVM has left its fastpath loop (vcpu_enter_guest())."""
    if (m.wall >= m.next_mux or m.wall >= m.next_tick) and timer_due(m):
        serve_timers(m)
    _due_interrupts(m)
    if m.wall >= m.filter_due and kind != FASTPATH and not m.finishing:
        change_filter(m)
    if m.vector_pending:
        m.vector_pending = False
        spend(m, COST_INTERRUPT_EXIT)
        request_guest_pmi(m)
    if m.design.requests != NULL and m.reprogram:
        m.design.requests(m)
    if m.pmi_requested:
        m.pmi_requested = False
        spend(m, COST_PMI_INJECTION)
        _deliver_to_guest(m)
    check_arrival(m)


cdef inline void _exit_ends(
    machine_t *m, int kind, int cpl, bint emulates, int effect, access_t *access
) noexcept nogil:
    cdef const design_t *design = m.design
    if effect == EFFECT_ACCESS:
        spend(m, COST_HANDLING_KERNEL)
        spend(m, COST_MSR_EMULATION)
        design.access(m, access)
        apply_ideal(m, access)
    elif effect == EFFECT_PMI:
        spend(m, COST_INTERRUPT_EXIT)
        request_guest_pmi(m)
    elif effect == EFFECT_NMI:
        design.nmi(m)
    elif effect == EFFECT_KICK:
        spend(m, COST_INTERRUPT_EXIT)
    if emulates:
        _retire(m, cpl)
    check_arrival(m)
    # A request makes KVM leave its fastpath loop (kvm_vcpu_exit_request()).
    if m.reprogram or m.pmi_requested:
        _before_entry(m, kind)
    elif kind != FASTPATH and (m.wall >= m.due or m.vector_pending):
        _before_entry(m, kind)
    if m.flags >> kind & 1:
        design.load(m)
        check_arrival(m)
    if m.entry_list:
        _pass_list(m, m.entry_list)
    spend(m, COST_VM_ENTRY)
    check_arrival(m)
    design.enter(m)
    m.settled = m.settled_gp = m.settled_slots = 0
    m.at_state = NO_STATE
    m.in_guest = True


cdef void _block(machine_t *m, uint64_t idle) noexcept nogil:
    """HLT."""
    if m.design.block != NULL:
        m.design.block(m)
    _idle(m, idle)
    if m.design.wake != NULL:
        m.design.wake(m)


cdef inline void _exit(
    machine_t *m, int kind, int cpl, bint emulates, uint64_t handling, uint64_t idle, int effect, access_t *access
) noexcept nogil:
    cdef int handled_as = _exit_begins(m, kind, emulates, handling)
    if idle:
        _block(m, idle)
    _exit_ends(m, handled_as, cpl, emulates, effect, access)


cdef void vm_exit(
    machine_t *m, int kind, int cpl, bint emulates, uint64_t handling, uint64_t idle, int effect, access_t *access
) noexcept nogil:
    """One exit, from leaving guest mode to entering it again (docs/machine.md, section 4)."""
    _exit(m, kind, cpl, emulates, handling, idle, effect, access)


cdef int exit_begins(machine_t *m, int kind, bint emulates, uint64_t handling) noexcept nogil:
    """From leaving guest mode to the end of the handling (docs/machine.md, section 4, steps 1 to 5); return the kind of
    exit that it has become."""
    return _exit_begins(m, kind, emulates, handling)


cdef void exit_ends(machine_t *m, int kind, int cpl, bint emulates, int effect, access_t *access) noexcept nogil:
    """From the effect of an exit, or the wake-up, to guest mode."""
    _exit_ends(m, kind, cpl, emulates, effect, access)


# -- guest code -------------------------------------------------------------------------------------------------------

cdef inline bint _undisturbed(const machine_t *m, uint64_t cycles) noexcept nogil:
    # Nothing is due before the end of so many cycles of guest code, nor waits to be taken.
    return m.wall + cycles < m.due and not (m.vector_pending or m.nmi_pending or m.stopped)


cdef void _take_nmi(machine_t *m) noexcept nogil:
    if m.handlers_since != m.wall:
        m.handlers_since = m.wall
        m.handlers_at_once = 0
    m.handlers_at_once += 1
    if m.handlers_at_once <= HANDLERS_AT_ONCE:
        m.guest_pmi_handler(m)


cdef void _take_interrupt(machine_t *m) noexcept nogil:
    """A host interrupt."""
    cdef const planned_exit_t *wall = &m.exits[m.next_wall_kind]
    m.exit_count[m.next_wall_kind] += 1
    draw_wall(m)
    vm_exit(m, wall.kind, wall.cpl, wall.emulates, wall.handling, wall.idle, EFFECT_NONE, NULL)


cdef bint _interrupted(machine_t *m, bint left_alone) noexcept nogil:
    """Take the first of what is due now; whether there was any."""
    if m.wall >= m.pmi_arrival:
        if left_alone:
            _lose(m)
        else:
            arrive(m)
    elif m.vector_pending:
        m.vector_pending = False
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_PMI, NULL)
    elif m.nmi_pending and not m.nmi_in_service and not left_alone:
        _take_nmi(m)
    elif running_clock(m) >= m.next_wall and not left_alone:
        _take_interrupt(m)
    elif m.wall >= min(m.next_mux, m.next_tick) and not left_alone:
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_NONE, NULL)
    elif m.wall >= m.filter_due and not m.finishing:
        # kvm_make_all_cpus_request(): the interrupt that makes the vCPU look at its requests.
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_KICK, NULL)
    else:
        return False
    return True


cdef uint64_t _first_interruption(const machine_t *m, bint left_alone) noexcept nogil:
    """The instant of the first of what interrupts any guest code."""
    cdef uint64_t first = m.pmi_arrival
    if not left_alone:
        first = min(first, m.next_wall + (m.wall - running_clock(m)))
        first = min(first, min(m.next_mux, m.next_tick))
    return first if m.finishing else min(first, m.filter_due)


cdef inline uint64_t _segment(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil:
    cdef uint64_t d = guest_segment(m, kind, cycles)
    m.budget -= 1
    if kind == HANDLER:
        m.spent[cost] += d
    return d


cdef uint64_t _run_disturbed(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil:
    """run_guest() when something is due, or may be."""
    cdef uint64_t until, work_until
    cdef bint left_alone
    while True:
        if m.stopped or (exhausted(m) and not m.finishing):
            m.stopped = STOPPED_NO_PROGRESS
            return cycles
        if m.wall >= m.preempt_at and kind == WORK:
            m.gives_way = True
            return cycles
        left_alone = _left_alone(m)
        if _interrupted(m, left_alone):
            continue
        if kind == WORK:
            if m.wall >= m.next_timer:
                m.guest_timers(m)
                continue
            if m.wall >= m.end:
                m.ended = True
                return cycles
            if m.budget <= 0:
                m.yielded = True
                return cycles
        until = _first_interruption(m, left_alone)
        work_until = min(until, min(min(m.end, m.preempt_at), m.next_timer))
        m.due = 0 if m.finishing else work_until
        if kind == WORK:
            until = work_until
        if cycles == 0:
            return 0
        cycles -= _segment(m, kind, min(cycles, until - m.wall), cost)
        if cycles == 0 and m.wall < m.due:
            return 0
        if kind == WORK and m.wall >= m.end:
            m.ended = True
            return cycles


cdef inline uint64_t _run_guest(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil:
    if _undisturbed(m, cycles) and (kind == HANDLER or m.budget > 0):
        cycles -= _segment(m, kind, cycles, cost)
        if cycles == 0 and m.wall < m.due:
            return 0
    return _run_disturbed(m, kind, cycles, cost)


cdef uint64_t run_guest(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil:
    """Run guest code and everything that interrupts it; return what is left when the run ended, stopped or yielded.

    Handler code is spent on ``cost``.
    """
    return _run_guest(m, kind, cycles, cost)


cdef void start(machine_t *m) noexcept nogil:
    """From power-on to the first instruction of the guest."""
    draw_work(m)
    m.next_wall = 0
    draw_wall(m)
    if m.design.start != NULL and not m.joins:
        m.design.start(m)
    if m.design.load != NULL:
        m.design.load(m)
        check_arrival(m)
    if m.design.enter != NULL:
        _pass_list(m, m.entry_list)
        spend(m, COST_VM_ENTRY)
        check_arrival(m)
        m.design.enter(m)
    m.in_guest = True


cdef void run(machine_t *m) noexcept nogil:
    """Run workload code and its exits until the run ends, stops, or has used up its budget."""
    cdef planned_exit_t *e
    m.yielded = False
    m.due = 0
    while True:
        if m.fast_forward != NULL:
            m.fast_forward(m)
        m.left = _run_guest(m, WORK, m.left, 0)
        if m.ended or m.stopped or m.yielded:
            return
        e = &m.exits[m.next_kind]
        m.exit_count[m.next_kind] += 1
        _exit(m, e.kind, e.cpl, e.emulates, m.next_handling, m.next_idle, EFFECT_NONE, NULL)
        draw_work(m)
