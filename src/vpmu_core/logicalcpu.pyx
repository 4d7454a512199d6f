# cython: freethreading_compatible=True
"""Several vCPUs on one logical CPU (docs/machine.md, section 15).

Each vCPU is a machine of its own, of which one at a time has the logical CPU: its PMU, host perf's own events with their timers,
and what is in flight. These go from one machine to the next as threads switch.
"""
from vpmu_core._types cimport NEVER, uint8_t, uint32_t, uint64_t
from vpmu_core.arrivals cimport draw_work
from vpmu_core.counting cimport host_advance, rate_slots, running_clock, spend
from vpmu_core.hostsched cimport timer_due
from vpmu_core.kinds cimport (
    BLIND, COST_INTERRUPT_EXIT, COST_VCPU_SWITCH, EFFECT_NONE, FASTPATH, FLIGHT_GUEST, GUEST_HANDLER, GUEST_KERNEL,
    GUEST_USER, IDLE, KERNEL, PHASE_READOUT, RUNNING, SPENT_IDLE, STOPPED_NO_PROGRESS, WORK,
)
from vpmu_core.machine cimport begin, finish
from vpmu_core.state cimport machine_t, planned_exit_t
from vpmu_core.timeline cimport arrive, exit_begins, exit_ends, run_guest, serve_timers


# -- what machines hand over ------------------------------------------------------------------------------------------

cdef inline uint64_t _windows(const machine_t *m) noexcept nogil:
    # Cycles of any vCPU in which host perf's events of the CPU were out for a guest.
    return m.windows + m.clock[GUEST_USER] + m.clock[GUEST_KERNEL] + m.clock[GUEST_HANDLER] + m.clock[BLIND]


cdef void take_over(logical_cpu_t *cpu, machine_t *m, const machine_t *before) noexcept nogil:
    """The logical CPU goes from one machine to another: its clocks, its PMU, host perf's own part."""
    cdef uint64_t idle = before.clock[IDLE] - m.clock[IDLE]
    cdef int i
    m.others += before.wall - m.wall - idle
    m.clock[IDLE] += idle
    m.spent[SPENT_IDLE] += idle
    m.windows += _windows(before) - _windows(m)
    m.wall = before.wall
    m.hardware = before.hardware
    rate_slots(m)
    for i in range(cpu.own_events):
        m.host_event[i] = before.host_event[i]
    m.host_fixed_ctr_ctrl = before.host_fixed_ctr_ctrl
    m.host_placed = before.host_placed
    m.kept_out = before.kept_out
    m.settled = m.settled_gp = m.settled_slots = 0
    m.rotate[0] = before.rotate[0]
    m.next_position = before.next_position
    m.next_mux, m.next_tick = before.next_mux, before.next_tick
    m.rotations = before.rotations
    m.due = 0
    m.pmi_arrival, m.flight = before.pmi_arrival, before.flight & ~<uint32_t>FLIGHT_GUEST
    m.host_pmi = before.host_pmi


cdef uint32_t _counting(const machine_t *m) noexcept nogil:
    # Counters that their own controls enable and that host perf has not given to any event.
    cdef uint32_t slots = m.hardware.local[0] | m.hardware.local[1]
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].slot >= 0:
            slots &= ~(<uint32_t>1 << m.host_event[i].slot)
    return slots


cdef void leave_cpu(logical_cpu_t *cpu, machine_t *m) noexcept nogil:
    """A vCPU's thread is scheduled out, in the middle of an exit."""
    if m.flight & FLIGHT_GUEST:
        arrive(m)  # switching threads serialises: no PMI is older than its thread's turn
    if m.design.block != NULL:
        m.design.block(m)
    m.leftovers += m.blind or _counting(m) != 0


# -- the run queue ----------------------------------------------------------------------------------------------------

cdef int _next_to_wake(const logical_cpu_t *cpu) noexcept nogil:
    cdef int i, first = -1
    for i in range(cpu.n):
        if cpu.seat[i].sleeps and (first < 0 or cpu.seat[i].wake < cpu.seat[first].wake):
            first = i
    return first


cdef void _wake(logical_cpu_t *cpu, uint64_t now) noexcept nogil:
    """Threads whose time has come can run: behind those that wait, or before them."""
    cdef int i = _next_to_wake(cpu), front = 0, at
    while i >= 0 and cpu.seat[i].wake <= now:
        cpu.seat[i].sleeps = False
        at = cpu.queued
        if cpu.wakeups_preempt:
            while at > front:
                cpu.queue[at] = cpu.queue[at - 1]
                at -= 1
            front += 1
        cpu.queue[at] = i
        cpu.queued += 1
        i = _next_to_wake(cpu)


cdef uint64_t _end_of_turn(const logical_cpu_t *cpu, uint64_t now) noexcept nogil:
    """The tick from which a thread that gets the CPU now has had its slice while another waits (update_deadline())."""
    cdef int first = _next_to_wake(cpu)
    cdef uint64_t wake = cpu.seat[first].wake if first >= 0 else NEVER, step
    cdef uint64_t at = (now + cpu.time_slice + cpu.tick - 1) // cpu.tick * cpu.tick
    if cpu.queued == 0:
        if wake == NEVER:
            return NEVER
        if wake > at:
            # Slice follows slice until somebody waits.
            step = (cpu.time_slice + cpu.tick - 1) // cpu.tick * cpu.tick
            at += (wake - at + step - 1) // step * step
    return min(at, wake) if cpu.wakeups_preempt else at


# -- turns ------------------------------------------------------------------------------------------------------------

cdef void _idle_to(machine_t *m, uint64_t instant) noexcept nogil:
    """Nobody can run; the last one's machine has the logical CPU."""
    cdef uint64_t d
    while m.wall < instant:
        if (m.wall >= m.next_mux or m.wall >= m.next_tick) and timer_due(m):
            serve_timers(m)
            continue
        d = instant - m.wall
        if min(m.next_mux, m.next_tick) > m.wall:
            d = min(d, min(m.next_mux, m.next_tick) - m.wall)
        host_advance(m, IDLE, d)
        m.spent[SPENT_IDLE] += d


cdef void _arrive_on_cpu(machine_t *m, const seat_t *seat) noexcept nogil:
    """schedule() comes back in another thread, and its vCPU ends the exit in which it left."""
    spend(m, COST_VCPU_SWITCH)
    if m.asleep:
        m.asleep_busy += m.cost[COST_VCPU_SWITCH]


cdef void _return_to_guest(machine_t *m, const seat_t *seat) noexcept nogil:
    if m.design.wake != NULL:
        m.design.wake(m)
    exit_ends(m, seat.kind, seat.cpl, seat.emulates, EFFECT_NONE, NULL)


cdef void _switch(logical_cpu_t *cpu, bint preempted) noexcept nogil:
    """The current thread leaves the CPU, and the next one whose turn it is gets it."""
    cdef int leaving = cpu.current, i
    cdef seat_t *seat = &cpu.seat[leaving]
    cdef machine_t *m = seat.m
    cdef uint64_t now
    leave_cpu(cpu, m)
    seat.since = m.wall
    _wake(cpu, m.wall)
    if preempted:
        cpu.queue[cpu.queued] = leaving
        cpu.queued += 1
    while cpu.queued == 0:
        _idle_to(m, cpu.seat[_next_to_wake(cpu)].wake)
        _wake(cpu, m.wall)
    cpu.current = cpu.queue[0]
    cpu.queued -= 1
    for i in range(cpu.queued):
        cpu.queue[i] = cpu.queue[i + 1]
    now = m.wall
    seat = &cpu.seat[cpu.current]
    seat.turns += 1
    seat.slept += max(seat.wake, seat.since) - seat.since
    seat.stolen += now - max(seat.wake, seat.since)
    if cpu.current != leaving:
        take_over(cpu, seat.m, m)
        seat.m.budget = m.budget
        m = seat.m
        _arrive_on_cpu(m, seat)
    if not seat.begun:
        seat.begun = True
        begin(m)
    else:
        _return_to_guest(m, seat)
        if seat.of_workload:
            draw_work(m)
    m.preempt_at = _end_of_turn(cpu, now)
    m.due = min(m.due, m.preempt_at)


cdef void start_first(logical_cpu_t *cpu) noexcept nogil:
    """The first vCPU starts; the others wait for their turn."""
    cdef seat_t *seat = &cpu.seat[0]
    seat.begun = True
    seat.turns = 1
    begin(seat.m)
    seat.m.preempt_at = _end_of_turn(cpu, 0)
    seat.m.due = 0


cdef inline void _note_exit(seat_t *seat, int kind, int cpl, bint emulates, bint of_workload) noexcept nogil:
    seat.kind = <uint8_t>kind
    seat.cpl = <uint8_t>cpl
    seat.emulates = emulates
    seat.of_workload = of_workload
    seat.wake = 0


cdef void _workload_exit(logical_cpu_t *cpu) noexcept nogil:
    """The exit of the workload that is due; it may end in another vCPU."""
    cdef seat_t *seat = &cpu.seat[cpu.current]
    cdef machine_t *m = seat.m
    cdef planned_exit_t *e = &m.exits[m.next_kind]
    cdef int kind
    m.exit_count[m.next_kind] += 1
    # kvm_vcpu_halt() is not for the fastpath.
    kind = KERNEL if e.kind == FASTPATH and m.next_idle else e.kind
    kind = exit_begins(m, kind, e.emulates, m.next_handling)
    _note_exit(seat, kind, e.cpl, e.emulates, True)
    if m.next_idle:
        seat.sleeps = True
        seat.wake = m.wall + m.next_idle
        _switch(cpu, False)
    elif kind != FASTPATH and m.wall >= m.preempt_at:
        # xfer_to_guest_mode_handle_work(): the exit is as good as the tick's own.
        m.preemptions += 1
        _switch(cpu, True)
    else:
        exit_ends(m, kind, e.cpl, e.emulates, EFFECT_NONE, NULL)
        draw_work(m)


cdef void run_vcpus(logical_cpu_t *cpu) noexcept nogil:
    """Run until workload code would run at the end, or the budget is used up."""
    cdef machine_t *m = cpu.seat[cpu.current].m
    m.yielded = False
    m.due = 0
    while True:
        m = cpu.seat[cpu.current].m
        if m.wall - m.clock[IDLE] > 2 * m.end:
            m.stopped = STOPPED_NO_PROGRESS
            return
        if m.fast_forward != NULL:
            m.fast_forward(m)
        m.left = run_guest(m, WORK, m.left, 0)
        if m.gives_way:
            m.gives_way = False
            m.preemptions += 1
            m.tick_exits += 1
            _note_exit(&cpu.seat[cpu.current], exit_begins(m, KERNEL, False, 0), 0, False, False)
            spend(m, COST_INTERRUPT_EXIT)
            _switch(cpu, True)
        elif m.ended or m.stopped or m.yielded:
            return
        else:
            _workload_exit(cpu)


# -- the end ----------------------------------------------------------------------------------------------------------

cdef void read_next(logical_cpu_t *cpu, machine_t *m, const seat_t *seat, machine_t *before) noexcept nogil:
    """After the end: a vCPU that is not on the CPU gets it from one that has been read out, and is read out itself."""
    exit_begins(before, KERNEL, False, 0)
    spend(before, COST_INTERRUPT_EXIT)
    leave_cpu(cpu, before)
    take_over(cpu, m, before)
    m.finishing = True
    m.due = 0
    m.stopped = RUNNING
    m.phase = PHASE_READOUT
    m.preempt_at = NEVER
    m.patience = running_clock(m) + 2 * m.end
    _arrive_on_cpu(m, seat)
    _return_to_guest(m, seat)
    finish(m)
