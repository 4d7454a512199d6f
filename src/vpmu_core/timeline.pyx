# cython: freethreading_compatible=True
"""The time line of one logical CPU: guest segments, exits, overflows and PMIs (docs/machine.md, sections 3 to 6)."""
from libc.string cimport memcmp, memcpy

from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t
from vpmu_core.activity cimport between, between_short, occurrences
from vpmu_core.pmu cimport (
    EVENT_INSTRUCTIONS, FIXED_LANES, FIXED_SLOT, GP_LANES, LVTPC_MASKED, SLOTS, bits_of, enabled, pmu_t, width_mask,
    write_fixed_ctr_ctrl, write_selector,
)
from vpmu_core.random cimport draw_gap, draw_kind, sfc64_next

cdef uint64_t SHORT = 1 << 26  # below this many cycles, 64-bit arithmetic counts exactly


# -- clocks and counters ----------------------------------------------------------------------------------------------

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
        if not e.in_use or e.guest_slot >= 0:
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
    const uint64_t *kernel_rate, uint32_t kernel_on, uint64_t kernel_start, uint64_t kernel_cycles
) noexcept nogil:
    # Advance, with the old values in scratch; nonzero if one left its width. No branch: the loop vectorises.
    cdef uint64_t over = 0, user, kernel, value
    cdef const uint64_t *user_rate = m.hardware_rate[GUEST_USER]
    cdef int slot
    for slot in range(first, last):
        user = between_short(user_rate[slot], user_start, user_cycles) & (0 - <uint64_t>(user_on >> slot & 1))
        kernel = between_short(kernel_rate[slot], kernel_start, kernel_cycles) & (0 - <uint64_t>(kernel_on >> slot & 1))
        m.scratch[slot] = m.hardware.counter[slot]
        value = m.hardware.counter[slot] + user + kernel
        m.hardware.counter[slot] = value
        over |= value & ~mask
    return over


cdef uint64_t _guest_segment(machine_t *m, int kind, uint64_t cycles) noexcept nogil:
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
                              m.hardware_rate[kernel], kernel_on, kernel_start, kernel_cycles)
            over |= _sum_slots(m, FIXED_SLOT, FIXED_SLOT + FIXED_LANES, m.hardware.width_mask[1], user_on, user_start,
                               user_cycles, m.hardware_rate[kernel], kernel_on, kernel_start, kernel_cycles)
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
    # SDM vol. 3B: STATUS is set on a wrap whatever INT; INT decides whether a PMI is requested.
    m.hardware.global_status |= bits_of(wrapped)
    wrapped &= m.hardware.interrupt
    while wrapped:
        wrapped &= wrapped - 1
        raise_pmi(m)
    return cycles


# -- the ideal PMU and the ledger -------------------------------------------------------------------------------------

cdef void synchronise_ideal(machine_t *m) noexcept nogil:
    """Advance the ideal counters to now, in closed form: nothing changed their enable state since."""
    cdef uint32_t user_on = enabled(&m.ideal, True), kernel_on = enabled(&m.ideal, False), left = user_on | kernel_on
    cdef uint64_t n
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        n = 0
        if user_on >> slot & 1:
            n = between(m.rate[GUEST_USER][m.ideal.event[slot]], m.ideal_clock[0], m.clock[GUEST_USER])
        if kernel_on >> slot & 1:
            n += between(m.rate[GUEST_KERNEL][m.ideal.event[slot]], m.ideal_clock[1], m.clock[GUEST_KERNEL])
            n += between(m.rate[GUEST_HANDLER][m.ideal.event[slot]], m.ideal_clock[2], m.clock[GUEST_HANDLER])
        m.ideal.counter[slot] = (m.ideal.counter[slot] + n) & width_mask(&m.ideal, slot)
    m.ideal_clock[0] = m.clock[GUEST_USER]
    m.ideal_clock[1] = m.clock[GUEST_KERNEL]
    m.ideal_clock[2] = m.clock[GUEST_HANDLER]


cdef void apply_ideal(machine_t *m, access_t *a) noexcept nogil:
    """The same access on the PMU that this guest alone would own."""
    a.applied = 1
    synchronise_ideal(m)
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
    cdef uint64_t n = 0
    if e.meter:
        if e.meter_user:
            n = between(m.rate[GUEST_USER][e.event], e.meter_clock[0], m.clock[GUEST_USER])
        if e.meter_kernel:
            n += between(m.rate[GUEST_KERNEL][e.event], e.meter_clock[1], m.clock[GUEST_KERNEL])
            n += between(m.rate[GUEST_HANDLER][e.event], e.meter_clock[2], m.clock[GUEST_HANDLER])
        e.losses[e.meter] += n
    e.meter = reason
    if reason:
        e.meter_user = enabled(&m.ideal, True) >> e.slot & 1
        e.meter_kernel = enabled(&m.ideal, False) >> e.slot & 1
        e.meter_clock[0] = m.clock[GUEST_USER]
        e.meter_clock[1] = m.clock[GUEST_KERNEL]
        e.meter_clock[2] = m.clock[GUEST_HANDLER]


cdef void _retire(machine_t *m, int cpl) noexcept nogil:
    """One instruction that the hypervisor emulated: an occurrence outside all clocks."""
    cdef uint32_t wanted = enabled(&m.ideal, cpl > 0) & m.ideal_instructions, left = wanted, different
    cdef guest_event_t *e
    cdef int slot, i
    if not m.has_guest_perf:
        return
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        m.ideal.counter[slot] = (m.ideal.counter[slot] + 1) & width_mask(&m.ideal, slot)
    different = wanted ^ m.design.retire(m, cpl)
    if different:
        for i in range(m.guest_events):
            e = &m.guest_event[i]
            if e.active and different >> e.slot & 1:
                if wanted >> e.slot & 1:
                    e.losses[CAUSE_EMULATED_INSTRUCTION] += 1
                else:
                    e.gains[CAUSE_EMULATED_INSTRUCTION] += 1


# -- PMIs -------------------------------------------------------------------------------------------------------------

cdef void raise_pmi(machine_t *m) noexcept nogil:
    """The hardware requests a PMI; it arrives after the skid, and later overflows join it."""
    m.pmi.raised += 1
    if m.pmi_arrival != NEVER:
        m.pmi.coalesced += 1
        return
    m.pmi_arrival = m.wall + m.skid_minimum + <uint64_t>((sfc64_next(&m.skid) >> 32) * m.skid_range >> 32)


cdef void arrive(machine_t *m) noexcept nogil:
    """The PMI in flight reaches the local APIC."""
    m.pmi_arrival = NEVER
    if m.hardware.lvtpc & LVTPC_MASKED:
        m.pmi.lost += 1
        return
    m.hardware.lvtpc |= LVTPC_MASKED
    m.design.arrive(m)


cdef void request_guest_pmi(machine_t *m) noexcept nogil:
    """KVM_REQ_PMI: one bit."""
    if m.pmi_requested:
        m.pmi.coalesced += 1
    m.pmi_requested = True


cdef void deliver_to_guest(machine_t *m, pmu_t *lvtpc_owner) noexcept nogil:
    """Through the guest's LVTPC; delivery masks it, as on Intel CPUs."""
    if lvtpc_owner.lvtpc & LVTPC_MASKED:
        m.pmi.lost += 1
        return
    lvtpc_owner.lvtpc |= LVTPC_MASKED
    if m.nmi_pending:
        m.pmi.coalesced += 1
        return
    m.nmi_pending = True
    m.pmi.delivered += 1


# -- exits ------------------------------------------------------------------------------------------------------------

cdef void draw_work(machine_t *m) noexcept nogil:
    """The next exit of the workload: gap, kind, times."""
    cdef uint64_t i
    if m.trace.gap != NULL:
        if m.trace_position == m.trace.n and m.trace.repeat:
            m.trace_position = 0
        i = m.trace_position
        if i == m.trace.n:
            m.left = NEVER
            return
        m.trace_position += 1
        m.left = m.trace.gap[i]
        m.next_kind = m.trace.kind[i]
        m.next_handling = m.trace.handling[i]
        m.next_idle = m.trace.idle[i]
        return
    if m.work_stream.mean_gap == 0:
        m.left = NEVER
        return
    m.left = draw_gap(&m.work_stream)
    m.next_kind = draw_kind(&m.work_stream)
    m.next_handling = m.exits[m.next_kind].handling
    m.next_idle = m.exits[m.next_kind].idle


cdef void draw_wall(machine_t *m) noexcept nogil:
    """The next host interrupt, on the wall clock less idle time."""
    if m.wall_stream.mean_gap == 0:
        m.next_wall = NEVER
        return
    m.next_wall += draw_gap(&m.wall_stream)
    m.next_wall_kind = draw_kind(&m.wall_stream)


cdef inline void _handle(machine_t *m, uint64_t cycles, bint userspace) noexcept nogil:
    cdef uint64_t kernel = cycles
    if userspace and kernel > m.cost[COST_HANDLING_KERNEL]:
        kernel = m.cost[COST_HANDLING_KERNEL]
    m.spent[SPENT_HANDLING] += cycles
    host_advance(m, host_activity(m), kernel)
    if cycles > kernel:
        host_advance(m, HOST_TASK, cycles - kernel)


cdef inline bint _left_alone(const machine_t *m) noexcept nogil:
    # A storm must not keep a read-out from its end: past its patience it takes no NMI and no host interrupt.
    return m.finishing and running_clock(m) > m.patience


cdef void _due_interrupts(machine_t *m) noexcept nogil:
    cdef uint64_t handling
    while running_clock(m) >= m.next_wall and not _left_alone(m):
        if running_clock(m) > 2 * m.end and not m.finishing:
            m.stopped = STOPPED_NO_PROGRESS
            return
        handling = m.exits[m.next_wall_kind].handling
        m.host_interrupts += 1
        draw_wall(m)
        m.spent[SPENT_HANDLING] += handling
        host_advance(m, host_activity(m), handling)


cdef void vm_exit(
    machine_t *m, int kind, int cpl, bint emulates, uint64_t handling, uint64_t idle, int effect, access_t *access
) noexcept nogil:
    """One exit, from leaving guest mode to entering it again (docs/machine.md, section 4)."""
    cdef const design_t *design = m.design
    cdef bint switches, refused = False
    m.in_guest = False
    design.leave(m)
    if kind == FASTPATH and emulates and design.refuses != NULL and design.refuses(m):
        kind = KERNEL
        refused = True
        m.refused += 1
    switches = design.put != NULL and (kind != FASTPATH or m.every_exit)
    spend(m, COST_VM_EXIT)
    if m.list_entry:
        spend(m, COST_MSR_LIST_ENTRY)
    check_arrival(m)
    if switches:
        design.put(m)
        m.switches += 1
        check_arrival(m)
    if refused and handling < m.cost[COST_FASTPATH_REFUSED]:
        # A time recorded in the fastpath is too short for the way that the exit takes now.
        m.spent[COST_FASTPATH_REFUSED] += m.cost[COST_FASTPATH_REFUSED] - handling
        host_advance(m, host_activity(m), m.cost[COST_FASTPATH_REFUSED] - handling)
    if handling:
        _handle(m, handling, kind == USERSPACE)
    if idle:
        if design.block != NULL:
            design.block(m)
        m.spent[SPENT_IDLE] += idle
        host_advance(m, IDLE, idle)
        if design.wake != NULL:
            design.wake(m)
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
    if emulates:
        _retire(m, cpl)
    check_arrival(m)
    # A request makes KVM leave its fastpath loop (kvm_vcpu_exit_request()).
    if kind != FASTPATH or m.reprogram or m.pmi_requested:
        _due_interrupts(m)
        if m.vector_pending:
            m.vector_pending = False
            spend(m, COST_INTERRUPT_EXIT)
            request_guest_pmi(m)
        if design.requests != NULL and m.reprogram:
            design.requests(m)
        if m.pmi_requested:
            m.pmi_requested = False
            spend(m, COST_PMI_INJECTION)
            deliver_to_guest(m, &m.guest)
        check_arrival(m)
    if switches:
        design.load(m)
        check_arrival(m)
    spend(m, COST_VM_ENTRY)
    check_arrival(m)
    design.enter(m)
    m.in_guest = True


# -- guest code -------------------------------------------------------------------------------------------------------

cdef uint64_t run_guest(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil:
    """Run guest code and everything that interrupts it; return what is left when the run ended, stopped or yielded.

    Handler code is spent on ``cost``.
    """
    cdef uint64_t d
    cdef bint left_alone
    cdef planned_exit_t *wall
    while True:
        if m.stopped or (running_clock(m) > 2 * m.end and not m.finishing):
            m.stopped = STOPPED_NO_PROGRESS
            return cycles
        if m.wall >= m.pmi_arrival:
            arrive(m)
            continue
        if m.vector_pending:
            m.vector_pending = False
            m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
            vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_PMI, NULL)
            continue
        left_alone = _left_alone(m)
        if m.nmi_pending and not m.nmi_in_service and not left_alone:
            m.guest_pmi_handler(m)
            continue
        if running_clock(m) >= m.next_wall and not left_alone:
            wall = &m.exits[m.next_wall_kind]
            m.exit_count[m.next_wall_kind] += 1
            draw_wall(m)
            vm_exit(m, wall.kind, wall.cpl, wall.emulates, wall.handling, wall.idle, EFFECT_NONE, NULL)
            continue
        d = cycles
        if kind == WORK:
            if m.wall >= m.end and not m.finishing:
                m.ended = True
                return cycles
            if m.budget <= 0:
                m.yielded = True
                return cycles
            d = min(d, m.end - m.wall)
        if cycles == 0:
            return 0
        d = min(d, m.pmi_arrival - m.wall)
        if not left_alone:
            d = min(d, m.next_wall - running_clock(m))
        d = _guest_segment(m, kind, d)
        cycles -= d
        if kind == HANDLER:
            m.spent[cost] += d
        m.budget -= 1
        if kind == WORK and m.wall >= m.end:
            m.ended = True
            return cycles


cdef void start(machine_t *m) noexcept nogil:
    """From power-on to the first instruction of the guest."""
    draw_work(m)
    m.next_wall = 0
    draw_wall(m)
    if m.design.start != NULL:
        m.design.start(m)
    if m.design.load != NULL:
        m.design.load(m)
        check_arrival(m)
    if m.design.enter != NULL:
        spend(m, COST_VM_ENTRY)
        check_arrival(m)
        m.design.enter(m)
    m.in_guest = True


cdef void run(machine_t *m) noexcept nogil:
    """Run workload code and its exits until the run ends, stops, or has used up its budget."""
    cdef planned_exit_t *e
    m.yielded = False
    while True:
        if m.fast_forward != NULL:
            m.fast_forward(m)
        m.left = run_guest(m, WORK, m.left, 0)
        if m.ended or m.stopped or m.yielded:
            return
        e = &m.exits[m.next_kind]
        m.exit_count[m.next_kind] += 1
        vm_exit(m, e.kind, e.cpl, e.emulates, m.next_handling, m.next_idle, EFFECT_NONE, NULL)
        draw_work(m)
