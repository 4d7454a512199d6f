# cython: freethreading_compatible=True, cdivision=True
"""Jumping over uneventful exits (semantics: between changes of state a counter need not be touched).

An exit is skipped only in workload code with no PMI in flight, pending or in service, and only if running its kind once on a
copy of the machine changed nothing but clocks, tallies and counters of emulated instructions. Horizons may be early, never
late; the exit that meets one runs on the common code. A design needs nothing for this.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t, uint128_t
from vpmu_core.counting cimport refresh_rates
from vpmu_core.folding cimport backing_slots, fold, kept_free, most_emulated
from vpmu_core.hosttime cimport LEAST_ROOM, count_by_modes, room_for_all
from vpmu_core.kinds cimport (
    ACTIVITIES, CAUSE_FILTERED, COST_FASTPATH_REFUSED, GUEST_KERNEL, GUEST_USER, HOST_TASK, IDLE, OP_CLASSES,
    ORIGINS, PHASE_RUN, SPENT, SPENT_HANDLING, SPENT_IDLE, USERSPACE, WORK,
)
from vpmu_core.segment cimport cycles_of, guest_segment, mean_rate
from vpmu_core.skipping cimport skip_drawn, skip_regular, skip_traced
from vpmu_core.summary cimport read_key
from vpmu_core.unit cimport enabled, pmu_t, width_mask
from vpmu_core.state cimport host_modes_t, machine_t, planned_exit_t

cdef uint64_t MOST_AT_ONCE = 1 << 19  # exits of one jump: a few milliseconds
cdef uint64_t MOST_SKIPPED = 1 << 16  # exits between two looks at the counters
cdef uint64_t MOST_REGULAR = 1 << 40  # the same where their number costs nothing
cdef uint32_t LONGEST_PAUSE = 64


# -- states and their summaries ---------------------------------------------------------------------------------------

cdef void number_summaries(lazy_t *lazy, const machine_t *m, Py_ssize_t kinds) noexcept nogil:
    """Say how many summaries a state has."""
    lazy.kinds = <uint32_t>kinds
    lazy.summaries = lazy.kinds if m.trace.gap == NULL else 2 * lazy.kinds


cdef bint hold_summaries(lazy_t *lazy) noexcept nogil:
    """Room for the summaries of one more state, which is the present one; False if there is none."""
    cdef held_t *h = &lazy.held[lazy.states]
    if lazy.states == MOST_HELD:
        return False
    if h.summary == NULL:
        h.summary = <summary_t *>calloc(lazy.summaries + 1, sizeof(summary_t))
        h.kind = <kind_t *>calloc(lazy.summaries + 1, sizeof(kind_t))
        if h.summary == NULL or h.kind == NULL:
            free(h.summary)
            free(h.kind)
            h.summary = NULL
            h.kind = NULL
            return False
    _be_in(lazy, lazy.states)
    lazy.states += 1
    return True


cdef void free_summaries(lazy_t *lazy) noexcept nogil:
    cdef int i
    for i in range(MOST_HELD):
        free(lazy.held[i].summary)
        free(lazy.held[i].kind)


cdef void _be_in(lazy_t *lazy, uint32_t state) noexcept nogil:
    lazy.present = state
    lazy.summary = lazy.held[state].summary
    lazy.kind = lazy.held[state].kind
    lazy.folds = lazy.held[state].folds
    lazy.reprogrammed = lazy.held[state].reprogrammed


cdef void _know_nothing(lazy_t *lazy) noexcept nogil:
    """No kind has a summary in the present state."""
    cdef uint32_t i
    for i in range(lazy.summaries):
        lazy.kind[i].usable = UNKNOWN
        lazy.kind[i].busy = NEVER
        lazy.kind[i].skipped = 0
    lazy.folds = False
    lazy.reprogrammed = 0
    memset(&lazy.held[lazy.present].modes, 0, sizeof(host_modes_t))


cdef void forget(lazy_t *lazy) noexcept nogil:
    """No summary holds any more."""
    lazy.states = 1
    lazy.next_given_up = 0
    lazy.wary = lazy.next_wary = 0
    _be_in(lazy, 0)
    _know_nothing(lazy)
    memset(&lazy.held[0].key, 0, sizeof(state_key_t))


cdef void _change_state(lazy_t *lazy) noexcept nogil:
    """The state is not the one of the summaries: a guest's perf takes its machine through a few, again and again."""
    cdef uint32_t i
    lazy.held[lazy.present].folds = lazy.folds
    lazy.held[lazy.present].reprogrammed = lazy.reprogrammed
    for i in range(lazy.states):
        if memcmp(&lazy.found, &lazy.held[i].key, sizeof(state_key_t)) == 0:
            _be_in(lazy, i)
            return
    if not hold_summaries(lazy):
        _be_in(lazy, lazy.next_given_up)
        lazy.next_given_up = (lazy.next_given_up + 1) % lazy.states
    lazy.held[lazy.present].key = lazy.found
    _know_nothing(lazy)


# -- jumps ------------------------------------------------------------------------------------------------------------


cdef inline bint _uneventful(const machine_t *m) noexcept nogil:
    return (
        m.in_guest and m.phase == PHASE_RUN and m.pmi_arrival == NEVER and not m.vector_pending and not m.pmi_requested
        and not m.nmi_pending and not m.nmi_in_service and not m.reprogram and not m.stopped
        and (not m.has_host or (m.steps == NULL and not m.host_nmi_pending))
        and (m.load == NULL or m.keeps_counters)
    )


cdef uint64_t _kept_for_emulated(const machine_t *m, uint64_t need, uint64_t rate) noexcept nogil:
    """Of what a counter needs up to its wrap, the part that is for emulated instructions: one an exit, and a quarter more
    exits than there are on average; half where nobody knows how many there are."""
    cdef uint64_t exits
    if m.work_stream.mean_gap == 0 or m.work_stream.rate != NULL:
        return need >> 1
    exits = (<uint64_t>5 << 30) // m.work_stream.mean_gap + 1
    return min(need, <uint64_t>(<uint128_t>need * exits // (rate + exits)) + 4)


cdef void _find_rates(const machine_t *m, lazy_t *lazy, uint32_t user_on, uint32_t kernel_on) noexcept nogil:
    cdef uint32_t left = user_on | kernel_on
    while left:
        lazy.mean_rate[lowest_bit(left)] = mean_rate(m, lowest_bit(left))
        left &= left - 1
    lazy.mean_on[0], lazy.mean_on[1], lazy.mean_events = kernel_on, user_on, m.rated_events


cdef uint64_t _horizon(const machine_t *m, uint32_t emulated, uint64_t *budget) noexcept nogil:
    """Cycles of workload, and a budget of exits not above the given one, in which no counter wraps or ceases to be zero.

    An emulated instruction adds one to the slots in ``emulated``.
    """
    cdef uint32_t user_on = enabled(&m.hardware, True), kernel_on = enabled(&m.hardware, False), left = user_on | kernel_on
    cdef uint64_t first_need = NEVER, first_rate = 0, rate, need, kept, over, margin = kept_free(m)
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef int slot
    if lazy.mean_on[0] != kernel_on or lazy.mean_on[1] != user_on or lazy.mean_events != m.rated_events:
        _find_rates(m, lazy, user_on, kernel_on)
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        rate = lazy.mean_rate[slot]
        if rate == 0 and not emulated >> slot & 1:
            continue
        if m.hardware.counter[slot] == 0:
            return 0
        need = width_mask(&m.hardware, slot) - m.hardware.counter[slot]
        need -= min(need, margin)
        if emulated >> slot & 1:
            kept = min(_kept_for_emulated(m, need, rate), budget[0])
            budget[0] = kept
            need -= kept
        # Each of two activities may have a cycle, and show an occurrence, more than its share of the mean.
        over = 3 + ((m.hardware_rate[GUEST_USER][slot] + m.hardware_rate[GUEST_KERNEL][slot]) >> 32)
        if need <= over:
            return 0
        # The least of need / rate, with one division for all.
        if rate and <uint128_t>(need - over) * first_rate < <uint128_t>first_need * rate:
            first_need, first_rate = need - over, rate
    return cycles_of(first_need, first_rate) if first_rate else NEVER


cdef void _add_emulated(pmu_t *pmu, uint32_t slots, uint64_t n) noexcept nogil:
    cdef int slot
    while slots:
        slot = lowest_bit(slots)
        slots &= slots - 1
        pmu.counter[slot] = (pmu.counter[slot] + n) & width_mask(pmu, slot)


cdef void _add_handling(machine_t *m, const summary_t *s, bint userspace) noexcept nogil:
    cdef uint64_t by_task = s.handled - s.within if userspace else 0, saved = s.within if s.refused else 0
    m.clock[HOST_TASK] += by_task
    m.clock[s.handling_activity] += s.handled - by_task - saved
    m.spent[SPENT_HANDLING] += s.handled
    m.spent[COST_FASTPATH_REFUSED] -= saved


cdef void _add_summary(machine_t *m, const summary_t *s, uint64_t n) noexcept nogil:
    """Let ``n`` exits of a kind have happened."""
    cdef int i, j
    for i in range(ACTIVITIES):
        m.clock[i] += n * s.clock[i]
    for i in range(ORIGINS):
        for j in range(OP_CLASSES):
            m.ops[PHASE_RUN][i][j] += n * s.ops[i][j]
    for i in range(SPENT):
        m.spent[i] += n * s.spent[i]
    m.switches += n * s.switches
    m.runs[PHASE_RUN][0] += n * s.runs[0]
    m.runs[PHASE_RUN][1] += n * s.runs[1]
    m.refused += n * s.refused
    m.reprograms += n * s.reprograms
    m.retired[0] += n * s.retired[0]
    m.retired[1] += n * s.retired[1]
    _add_emulated(&m.hardware, s.counted, n)
    _add_emulated(&m.ideal, s.counted_ideally, n)
    for i in range(m.guest_events if s.filtered else 0):
        m.guest_event[i].losses[CAUSE_FILTERED] += n if s.filtered >> i & 1 else 0


cdef uint64_t _skipped_folds(const lazy_t *lazy) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint32_t i
    if lazy.folds:
        for i in range(lazy.summaries):
            n += lazy.kind[i].skipped if lazy.kind[i].folds else 0
    return n


cdef void _run_to(machine_t *m, uint64_t work) noexcept nogil:
    """Run workload code up to a clock of work, before which no counter wraps."""
    if work > m.work:
        guest_segment(m, WORK, work - m.work)


cdef uint64_t _skip(machine_t *m) noexcept nogil:
    """Skip exits up to a horizon; return how many."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef uint64_t horizon, budget = 0, skipped, n
    cdef uint64_t before[ACTIVITIES]
    cdef const planned_exit_t *e
    cdef course_t course
    cdef summary_t *s
    cdef uint32_t i
    refresh_rates(m)
    budget = MOST_REGULAR if m.work_stream.rate != NULL else MOST_SKIPPED
    if m.backed:
        budget = min(budget, most_emulated(m))
        horizon = _horizon(m, backing_slots(m, m.counting_instructions), &budget)
    else:
        # Where the registers are the guest's, the hypervisor adds to what the guest lets count, as the ideal PMU does.
        horizon = _horizon(m, m.counting_instructions | m.ideal_instructions, &budget)
    course.work = course.folded = m.work
    course.idle = m.clock[IDLE]
    course.running = m.wall - course.idle - m.others
    course.most_work = m.work + min(horizon, NEVER - m.work)
    course.most_running = m.next_wall
    course.end = min(min(m.end, m.filter_due), min(min(m.next_mux, m.next_tick), min(m.next_timer, m.preempt_at)))
    course.end -= min(m.others, course.end)
    if m.has_host:
        horizon = room_for_all(m)
        if horizon < LEAST_ROOM:
            return 0
        course.end = min(course.end, course.running + course.idle + horizon)
        memcpy(before, m.clock, sizeof(before))
    if m.work + m.left >= course.most_work:
        return 0
    if m.trace.gap != NULL:
        skipped = skip_traced(m, &course, budget)
    elif m.work_stream.rate != NULL:
        skipped = skip_regular(m, &course, budget)
    else:
        skipped = skip_drawn(m, &course, budget)
    if skipped == 0:
        return 0
    n = _skipped_folds(lazy)
    if n:
        _run_to(m, course.folded)
        fold(m, lazy.reprogrammed, n)
    _run_to(m, course.work)
    m.spent[SPENT_IDLE] += course.idle - m.clock[IDLE]
    m.clock[IDLE] = course.idle
    m.wall = course.running + course.idle + m.others
    for i in range(lazy.summaries):
        n = lazy.kind[i].skipped
        if n:
            s = &lazy.summary[i]
            e = &m.exits[i % lazy.kinds]
            if m.trace.gap == NULL:
                s.handled = n * e.handling
                s.within = n * min(e.handling, s.bound)
            _add_handling(m, s, e.kind == USERSPACE)
            _add_summary(m, s, n)
            m.exit_count[i % lazy.kinds] += n
            lazy.kind[i].skipped = 0
            s.handled = s.within = 0
    if m.has_host:
        count_by_modes(m, &lazy.held[lazy.present].modes, before)
    return skipped


cdef void fast_forward(machine_t *m) noexcept nogil:
    """Skip what can be skipped; the common code goes on from exactly the state that it would have reached."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef uint64_t skipped, total = 0
    if not _uneventful(m):
        return
    if lazy.pause:
        lazy.pause -= 1
        return
    # Jumps change nothing that a summary depends on.
    read_key(m, &lazy.found)
    if memcmp(&lazy.found, &lazy.held[lazy.present].key, sizeof(state_key_t)) != 0:
        _change_state(lazy)
    while total < MOST_AT_ONCE and _uneventful(m):
        skipped = _skip(m)
        total += skipped
        if skipped < MOST_SKIPPED >> 1:
            break
    # What a slice of the run is, in exits; a jump over regular ones costs the same however many they are.
    m.budget -= 16 if m.work_stream.rate != NULL else <long long>(total >> 3)
    if total > 1:
        lazy.next_pause = 1
    else:
        # Little to skip here: let some exits pass before trying again.
        lazy.pause = lazy.next_pause
        lazy.next_pause = min(2 * lazy.next_pause, LONGEST_PAUSE)
