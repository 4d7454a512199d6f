# cython: freethreading_compatible=True
"""Guest perf as Linux does it on Intel CPUs, version 2 to 5 (arch/x86/events/core.c and intel/core.c); see guestamd, too."""
from vpmu_core._types cimport NEVER, uint64_t
from vpmu_core.guestaccess cimport (
    arm_event, expect_samples, guest_access, guest_work, pmu_disable, pmu_enable, read_event, write_guest_lvtpc,
)
from vpmu_core.guestamd cimport amd_pmi_handler
from vpmu_core.guestperiod cimport adjust_period, guest_time, handler_took, tick_nsec
from vpmu_core.guestsched cimport close_event, enable_events, events_out, rotate, switch_task, update_times
from vpmu_core.guesttick cimport throttle, tick
from vpmu_core.guesttimer cimport restart_timer, start_timer
from vpmu_core.kinds cimport (
    ACCESS_GLOBAL_STATUS, ACCESS_OVF_CTRL, CAUSE_NONE, COST_GUEST_NMI_ENTRY, COST_GUEST_NMI_EXIT, COST_GUEST_PERF_CALL,
    COST_GUEST_SAMPLE, GUEST_OFF, GUEST_ON, HANDLER, TIMERS, TIMER_INTERVAL, TIMER_ROTATION, TIMER_SWITCH, TIMER_TICK,
)
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport access_t, machine_t
from vpmu_core.timeline cimport run_guest
from vpmu_core.unit cimport FIXED_SLOT


cdef void set_up(machine_t *m) noexcept nogil:
    """``perf stat -a`` or ``perf record -a``: open the events, then enable them one ioctl after the other."""
    cdef guest_event_t *e
    cdef int i, pinned = 0, tasks = 0
    if m.guest_events == 0:
        return
    for i in range(m.guest_events):
        pinned += m.guest_event[i].pinned
        tasks += m.guest_event[i].task
        # The watchdog has run since boot.
        if m.guest_event[i].pinned:
            enable_events(m, i, False)
    if not pinned and tasks < m.guest_events:
        # A first event of the CPU's context is installed by a ctx_resched() of nothing.
        guest_work(m, COST_GUEST_PERF_CALL)
        pmu_disable(m)
        pmu_enable(m)
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.leader == i and not e.pinned and not e.task:
            enable_events(m, i, False)
    for i in range(m.guest_events):
        if m.guest_event[i].task:
            enable_events(m, i, True)
            break
    if m.stopped:
        return
    start_timer(m, TIMER_TICK, 0)
    start_timer(m, TIMER_SWITCH, m.wall)
    start_timer(m, TIMER_INTERVAL, m.wall)


cdef void _read_group(machine_t *m, const guest_event_t *e) noexcept nogil:
    """perf_output_read_group(): an RDPMC of each other event of the group."""
    cdef guest_event_t *other
    cdef int i
    for i in range(e.leader, m.guest_events):
        other = &m.guest_event[i]
        if other.leader == e.leader and other != e and other.state == GUEST_ON and not m.stopped:
            read_event(m, other)


cdef void sample(machine_t *m, guest_event_t *e) noexcept nogil:
    """__perf_event_overflow(): throttling, the next period but one, and the sample."""
    cdef uint64_t now, since
    e.samples += 1
    e.late += m.wall - m.overflow_at[e.slot]
    if e.pinned:
        # A kernel counter: its callback keeps it from being throttled.
        return
    if m.guest_hz:
        if e.interrupts_tick != m.guest_ticks:
            e.interrupts_tick = m.guest_ticks
            e.interrupts = 0
        e.interrupts += 1
        if e.interrupts >= m.guest_samples_per_tick:
            throttle(m, e)
    if e.frequency and not m.stopped:
        now = guest_time(m)
        since = now - e.time_stamp
        # Linux's clock started long before: a first overflow is far from "the one before".
        if e.timed and since and since < 2 * tick_nsec(m):
            adjust_period(e, since, e.last_period)
        e.timed = 1
        e.time_stamp = now
    if e.reads_group:
        _read_group(m, e)
    guest_work(m, COST_GUEST_SAMPLE)


cdef void _handle(machine_t *m, int slot) noexcept nogil:
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.active and e.slot == slot:
            read_event(m, e)
            if arm_event(m, e) and e.sampling and not m.stopped:
                sample(m, e)
            return


cdef void pmi_handler(machine_t *m) noexcept nogil:
    """intel_pmu_handle_irq() with late_ack, from NMI entry to IRET."""
    cdef bint was_on = m.guest_pmu_on
    cdef uint64_t status, began
    cdef int bit, rounds = 0
    if m.amd:
        amd_pmi_handler(m)
        return
    m.nmi_pending = False
    m.nmi_in_service = True
    m.handlers += 1
    guest_work(m, COST_GUEST_NMI_ENTRY)
    began = guest_time(m)
    pmu_disable(m)
    status = guest_access(m, ACCESS_GLOBAL_STATUS, 0, 0).value
    while status and not m.stopped and rounds < 100:
        rounds += 1
        guest_access(m, ACCESS_OVF_CTRL, 0, status)
        for bit in range(48):
            if status >> bit & 1:
                _handle(m, bit if bit < 32 else bit - 32 + FIXED_SLOT)
        status = guest_access(m, ACCESS_GLOBAL_STATUS, 0, 0).value
    if was_on:
        pmu_enable(m)
    write_guest_lvtpc(m)
    if m.guest_hz and not m.stopped:
        handler_took(m, guest_time(m) - began)
    guest_work(m, COST_GUEST_NMI_EXIT)
    if not m.stopped:
        m.nmi_in_service = False


cdef void _read_interval(machine_t *m) noexcept nogil:
    """``perf stat -I``: one read() of each event; an RDPMC if it counts now."""
    cdef guest_event_t *e
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        if e.interval and not m.stopped:
            guest_work(m, COST_GUEST_PERF_CALL)
            if e.state == GUEST_ON:
                read_event(m, e)


cdef void serve_timers(machine_t *m) noexcept nogil:
    """The first timer that is due; it is armed again after its work."""
    cdef int which
    for which in range(TIMERS):
        if m.wall < m.guest_timer[which].due:
            continue
        m.guest_timer[which].fired += 1
        if which == TIMER_TICK:
            tick(m)
        elif which == TIMER_ROTATION:
            rotate(m)
        elif which == TIMER_SWITCH:
            switch_task(m)
        else:
            _read_interval(m)
        if not m.stopped and m.guest_timer[which].due != NEVER:
            restart_timer(m, which)
        return


cdef void read_out(machine_t *m) noexcept nogil:
    """The end of perf: one ioctl disables each group (sysctl kernel.nmi_watchdog its event); a task's leave with it."""
    cdef guest_event_t *e
    cdef bint tasks = False
    cdef int i
    for i in range(m.guest_events):
        e = &m.guest_event[i]
        tasks = tasks or e.task
        if e.leader == i and not e.task:
            close_event(m, i)
    if tasks:
        guest_work(m, COST_GUEST_PERF_CALL)
        update_times(m)
        pmu_disable(m)
        events_out(m, True, GUEST_OFF)
        for i in range(m.guest_events):
            if m.guest_event[i].task:
                m.guest_event[i].state = GUEST_OFF
                m.guest_event[i].absent = CAUSE_NONE
                expect_samples(&m.guest_event[i])
        pmu_enable(m)
    update_times(m)


cdef void run_program(machine_t *m) noexcept nogil:
    """Accesses of guest software other than perf, each after some handler cycles."""
    cdef access_t a
    cdef int i
    for i in range(m.program_steps):
        if m.stopped:
            return
        run_guest(m, HANDLER, m.program[i].gap, COST_GUEST_PERF_CALL)
        a = guest_access(m, m.program[i].access, m.program[i].slot, m.program[i].value)
        m.program[i].value = a.value
        m.program[i].ideal = a.ideal
        m.program[i].applied = a.applied
