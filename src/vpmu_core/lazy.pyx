# cython: freethreading_compatible=True
"""Jumping over uneventful exits (semantics: between changes of state a counter need not be touched).

An exit is skipped only in workload code with no PMI in flight, pending or in service, and only if running its kind once on a
copy of the machine changed nothing but clocks, tallies and counters of emulated instructions. Horizons may be early, never
late; the exit that meets one runs on the common code. A design needs nothing for this.
"""
from libc.string cimport memcmp, memcpy, memset

from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t, uint128_t
from vpmu_core.activity cimport occurrences
from vpmu_core.kinds cimport (
    ACTIVITIES, BLIND, CAUSE_FILTERED, COST_FASTPATH_REFUSED, COST_HANDLING_KERNEL, EFFECT_NONE, GUEST_HANDLER,
    GUEST_KERNEL, GUEST_USER, HOST_TASK, HYPERVISOR, IDLE, OP_CLASSES, ORIGINS, PHASE_RUN, SPENT, SPENT_HANDLING,
    SPENT_IDLE, USERSPACE,
)
from vpmu_core.perfevents cimport guest_event_t, host_event_t, vcpu_counter_t
from vpmu_core.unit cimport SLOTS, enabled, pmu_t, width_mask
from vpmu_core.counting cimport advance_to_now, refresh_rates
from vpmu_core.state cimport (
    MAX_GUEST_EVENTS, MAX_HOST_EVENTS, controls_t, machine_t, planned_exit_t, pmi_tally_t, trace_t,
)
from vpmu_core.random cimport draw_gap, draw_kind, instant_of, next_regular, stream_t
from vpmu_core.timeline cimport draw_work, vm_exit
from vpmu_core.traceindex cimport CHUNK

cdef uint64_t MOST_AT_ONCE = 1 << 19  # exits of one jump: a few milliseconds
cdef uint64_t MOST_SKIPPED = 1 << 16  # exits between two looks at the counters
cdef uint64_t MOST_REGULAR = 1 << 40  # the same where their number costs nothing
cdef uint32_t LONGEST_PAUSE = 64


cdef void forget(lazy_t *lazy) noexcept nogil:
    """No kind's summary holds any more."""
    cdef uint32_t i
    for i in range(lazy.summaries):
        lazy.kind[i].usable = UNKNOWN
        lazy.kind[i].busy = NEVER
        lazy.kind[i].skipped = 0


cdef inline bint _uneventful(const machine_t *m) noexcept nogil:
    return (
        m.in_guest and m.phase == PHASE_RUN and m.pmi_arrival == NEVER and not m.vector_pending and not m.pmi_requested
        and not m.nmi_pending and not m.nmi_in_service and not m.has_host and not m.reprogram and not m.stopped
    )


cdef void _read_key(const machine_t *m, state_key_t *key) noexcept nogil:
    cdef int slot, i
    memset(key, 0, sizeof(state_key_t))
    memcpy(key.selector, m.hardware.selector, sizeof(key.selector))
    memcpy(key.guest_selector, m.guest.selector, sizeof(key.guest_selector))
    key.fixed_ctr_ctrl = m.hardware.fixed_ctr_ctrl
    key.guest_fixed_ctr_ctrl = m.guest.fixed_ctr_ctrl
    key.global_ctrl = m.hardware.global_ctrl
    key.guest_global_ctrl = m.guest.global_ctrl
    key.global_status = m.hardware.global_status
    key.guest_global_status = m.guest.global_status
    key.lvtpc = m.hardware.lvtpc
    key.guest_lvtpc = m.guest.lvtpc
    key.ideal_local[0] = enabled(&m.ideal, False)
    key.ideal_local[1] = enabled(&m.ideal, True)
    key.counting_instructions = m.counting_instructions
    key.host_events = m.host_events
    key.ledger_stale = m.ledger_stale
    key.in_use = m.in_use
    key.blind = m.blind
    key.denied = m.denied
    for slot in range(SLOTS):
        key.nonzero |= <uint32_t>(m.hardware.counter[slot] != 0) << slot
    for i in range(m.guest_events):
        key.counts[i] = m.guest_event[i].slot if m.guest_event[i].active else -1


cdef inline bint _same_registers(const pmu_t *a, const pmu_t *b) noexcept nogil:
    # All but the counters, which come first.
    return memcmp(a.selector, b.selector, sizeof(pmu_t) - sizeof(a.counter)) == 0


cdef bint _advanced(const pmu_t *before, const pmu_t *after, uint32_t *slots) noexcept nogil:
    """Whether every counter stayed or went up by one, and which did."""
    cdef int slot
    cdef uint64_t difference
    slots[0] = 0
    for slot in range(SLOTS):
        difference = after.counter[slot] - before.counter[slot]
        if difference > 1:
            return False
        slots[0] |= <uint32_t>difference << slot
    return True


cdef bint _only_time_passed(const machine_t *m, const machine_t *after) noexcept nogil:
    """Nothing that a later reaction could see has changed, counters apart."""
    return (
        _same_registers(&m.hardware, &after.hardware) and _same_registers(&m.guest, &after.guest)
        and _same_registers(&m.ideal, &after.ideal) and after.in_guest and m.blind == after.blind
        and after.pmi_arrival == NEVER and not after.vector_pending and not after.pmi_requested and not after.nmi_pending
        and not after.reprogram and not after.stopped and m.ledger_stale == after.ledger_stale
        and m.counting_instructions == after.counting_instructions and m.host_events == after.host_events
        and m.host_placed == after.host_placed and m.host_fixed_ctr_ctrl == after.host_fixed_ctr_ctrl
        and m.blocked == after.blocked and m.displaced == after.displaced
        and m.asleep == after.asleep and after.next_mux == NEVER and after.next_tick == NEVER and m.rotations == after.rotations
        and m.denied == after.denied and memcmp(&m.loaded, &after.loaded, sizeof(controls_t)) == 0
        and m.in_use == after.in_use and m.retry == after.retry
        and m.reprograms == after.reprograms and m.creates == after.creates
        and memcmp(m.vcpu, after.vcpu, SLOTS * sizeof(vcpu_counter_t)) == 0
        and memcmp(m.guest_event, after.guest_event, MAX_GUEST_EVENTS * sizeof(guest_event_t)) == 0
        and memcmp(m.host_event, after.host_event, MAX_HOST_EVENTS * sizeof(host_event_t)) == 0
        and memcmp(&m.pmi, &after.pmi, sizeof(pmi_tally_t)) == 0
    )


cdef void _exit_on_copy(
    const machine_t *m, machine_t *copy, const planned_exit_t *e, uint64_t handling, uint64_t idle
) noexcept nogil:
    memcpy(copy, m, sizeof(machine_t))
    copy.next_wall = NEVER
    copy.next_mux = copy.next_tick = NEVER
    copy.filter_due = NEVER
    vm_exit(copy, e.kind, e.cpl, e.emulates, handling, idle, EFFECT_NONE, NULL)


cdef uint32_t _take_filtered(const machine_t *m, machine_t *after) noexcept nogil:
    """Take what an emulated instruction adds to the ledger of denied counters out of a copy; return the guest events."""
    cdef uint32_t events = 0
    cdef int i
    if m.denied:
        for i in range(m.guest_events):
            if after.guest_event[i].losses[CAUSE_FILTERED] == m.guest_event[i].losses[CAUSE_FILTERED] + 1:
                after.guest_event[i].losses[CAUSE_FILTERED] -= 1
                events |= <uint32_t>1 << i
    return events


cdef bint _same_accesses(const machine_t *m, const machine_t *after, const summary_t *s) noexcept nogil:
    cdef int i, j
    for i in range(ORIGINS):
        for j in range(OP_CLASSES):
            if after.ops[PHASE_RUN][i][j] - m.ops[PHASE_RUN][i][j] != s.ops[i][j]:
                return False
    # What loads and puts access without a condition is counted by runs.
    for i in range(2):
        if after.runs[PHASE_RUN][i] - m.runs[PHASE_RUN][i] != s.runs[i]:
            return False
    return True


cdef inline uint64_t _overlap(const machine_t *m, const summary_t *s, uint64_t handling) noexcept nogil:
    # A refused fastpath takes at least its cost, which the summary has in full.
    return min(handling, m.cost[COST_FASTPATH_REFUSED]) if s.refused else 0


cdef void _summarise(machine_t *m, uint32_t kind) noexcept nogil:
    """Run an exit of this kind once on a copy and note what it does."""
    cdef kind_t *k = &(<lazy_t *>m.lazy).kind[kind]
    cdef summary_t *s = &(<lazy_t *>m.lazy).summary[kind]
    cdef machine_t *copy = (<lazy_t *>m.lazy).copy
    cdef const planned_exit_t *e = &m.exits[kind]
    cdef uint32_t again = 0
    cdef int i, j
    _exit_on_copy(m, copy, e, 0, 0)
    s.filtered = _take_filtered(m, copy)
    if not (
        _only_time_passed(m, copy) and _advanced(&m.hardware, &copy.hardware, &s.counted)
        and _advanced(&m.ideal, &copy.ideal, &s.counted_ideally)
    ):
        k.usable = EVENTFUL
        k.busy = NEVER
        return
    for i in range(ACTIVITIES):
        s.clock[i] = copy.clock[i] - m.clock[i]
    s.wall = copy.wall - m.wall
    for i in range(ORIGINS):
        for j in range(OP_CLASSES):
            s.ops[i][j] = copy.ops[PHASE_RUN][i][j] - m.ops[PHASE_RUN][i][j]
    for i in range(SPENT):
        s.spent[i] = copy.spent[i] - m.spent[i]
    s.switches = copy.switches - m.switches
    s.runs[0] = copy.runs[PHASE_RUN][0] - m.runs[PHASE_RUN][0]
    s.runs[1] = copy.runs[PHASE_RUN][1] - m.runs[PHASE_RUN][1]
    s.refused = copy.refused - m.refused
    s.retired[0] = copy.retired[0] - m.retired[0]
    s.retired[1] = copy.retired[1] - m.retired[1]
    # One cycle of handling shows whose clock pays for it, one of idling whether blocking does anything.
    _exit_on_copy(m, copy, e, 1, 0)
    s.handling_activity = BLIND if copy.clock[BLIND] - m.clock[BLIND] > s.clock[BLIND] else HYPERVISOR
    _exit_on_copy(m, copy, e, 0, 1)
    s.may_idle = (
        not m.shares and _take_filtered(m, copy) == s.filtered and _only_time_passed(m, copy)
        and _advanced(&m.hardware, &copy.hardware, &again) and again == s.counted
        and copy.wall - m.wall == s.wall + 1 and _same_accesses(m, copy, s)
    )
    k.usable = SKIPPABLE
    k.busy = s.wall
    k.idle = 0
    if m.trace.gap == NULL:
        # A stream's exits of a kind are all alike.
        k.busy += e.handling - _overlap(m, s, e.handling)
        k.idle = e.idle
        if e.idle and not s.may_idle:
            k.usable = EVENTFUL
            k.busy = NEVER


cdef inline uint64_t _by_task(const machine_t *m, uint32_t kind, uint64_t handling) noexcept nogil:
    # Of a userspace exit's handling, the kernel's part comes first.
    if m.exits[kind].kind != USERSPACE or handling <= m.cost[COST_HANDLING_KERNEL]:
        return 0
    return handling - m.cost[COST_HANDLING_KERNEL]


cdef uint64_t _horizon(const machine_t *m, uint32_t emulated, uint64_t *budget) noexcept nogil:
    """Cycles of workload, and a budget of exits not above the given one, in which no counter wraps or ceases to be zero.

    An emulated instruction adds one to the slots in ``emulated``, so half of what is left below their wrap is kept for it.
    """
    cdef uint32_t user_on = enabled(&m.hardware, True), kernel_on = enabled(&m.hardware, False), left = user_on | kernel_on
    cdef uint64_t horizon = NEVER, rate, need, kept
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        rate = m.hardware_rate[GUEST_USER][slot] if user_on >> slot & 1 else 0
        if kernel_on >> slot & 1:
            rate = max(rate, m.hardware_rate[GUEST_KERNEL][slot])
        if rate == 0 and not emulated >> slot & 1:
            continue
        if m.hardware.counter[slot] == 0:
            return 0
        need = width_mask(&m.hardware, slot) - m.hardware.counter[slot]
        if emulated >> slot & 1:
            kept = min(need >> 1, budget[0])
            budget[0] = min(budget[0], kept)
            need -= kept
        # Each of two activities may show one occurrence more than its share of the mean.
        if need <= 2:
            return 0
        if rate:
            horizon = min(horizon, <uint64_t>((<uint128_t>(need - 2) << 32) // rate))
    return horizon


cdef void _add_emulated(pmu_t *pmu, uint32_t slots, uint64_t n) noexcept nogil:
    cdef int slot
    while slots:
        slot = lowest_bit(slots)
        slots &= slots - 1
        pmu.counter[slot] = (pmu.counter[slot] + n) & width_mask(pmu, slot)


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
    m.clock[HOST_TASK] += s.by_task
    m.clock[s.handling_activity] += s.handled - s.by_task - s.saved
    m.spent[SPENT_HANDLING] += s.handled
    m.spent[COST_FASTPATH_REFUSED] -= s.saved
    m.switches += n * s.switches
    m.runs[PHASE_RUN][0] += n * s.runs[0]
    m.runs[PHASE_RUN][1] += n * s.runs[1]
    m.refused += n * s.refused
    m.retired[0] += n * s.retired[0]
    m.retired[1] += n * s.retired[1]
    _add_emulated(&m.hardware, s.counted, n)
    _add_emulated(&m.ideal, s.counted_ideally, n)
    for i in range(m.guest_events if s.filtered else 0):
        m.guest_event[i].losses[CAUSE_FILTERED] += n if s.filtered >> i & 1 else 0


cdef struct course_t:  # where a jump is, and how far it may go
    uint64_t work
    uint64_t running  # wall less idle
    uint64_t idle
    uint64_t most_work  # first instants that it must not reach
    uint64_t most_running
    uint64_t end


cdef uint64_t _skip_drawn(machine_t *m, course_t *course, uint64_t budget) noexcept nogil:
    """Skip exits that a stream draws."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef stream_t stream = m.work_stream
    cdef course_t at = course[0]
    cdef uint64_t left = m.left, work, running, skipped = 0
    cdef uint32_t kind = m.next_kind
    cdef kind_t *k
    while skipped < budget:
        k = &lazy.kind[kind]
        work = at.work + left
        running = at.running + left + k.busy  # beyond every bound if the kind cannot be skipped
        if work >= at.most_work or running >= at.most_running or running + at.idle + k.idle >= at.end:
            if k.usable == UNKNOWN and work < at.most_work:
                _summarise(m, kind)
                continue
            break
        at.work = work
        at.running = running
        at.idle += k.idle
        k.skipped += 1
        skipped += 1
        left = draw_gap(&stream)
        kind = draw_kind(&stream)
    course[0] = at
    m.work_stream.generator = stream.generator
    m.left = left
    m.next_kind = kind
    m.next_handling = m.exits[kind].handling
    m.next_idle = m.exits[kind].idle
    return skipped


cdef bint _skip_chunk(machine_t *m, course_t *course, uint64_t first, uint64_t left) noexcept nogil:
    """Skip the chunk that begins with exit ``first``, of whose gap ``left`` cycles are left, if all of it can be."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef const trace_t *trace = &m.trace
    cdef uint64_t at = first // CHUNK * trace.kinds, work, running, idle = course.idle
    cdef summary_t *s
    cdef kind_t *k
    cdef uint32_t i
    work = trace.chunk_gap[first // CHUNK] - (<uint64_t>trace.gap[first] - left)
    running = course.running + work
    work += course.work
    if work >= course.most_work:
        return False
    for i in range(trace.kinds):
        if trace.chunk_count[at + i] == 0:
            continue
        k = &lazy.kind[i]
        s = &lazy.summary[i]
        if k.usable != SKIPPABLE or s.refused or (trace.chunk_idle[at + i] and not s.may_idle):
            return False
        running += trace.chunk_count[at + i] * k.busy + trace.chunk_handled[at + i]
        idle += trace.chunk_idle[at + i]
    if running >= course.most_running or running + idle >= course.end:
        return False
    for i in range(trace.kinds):
        s = &lazy.summary[i]
        s.handled += trace.chunk_handled[at + i]
        s.by_task += trace.chunk_by_task[at + i]
        lazy.kind[i].skipped += trace.chunk_count[at + i]
    course.work = work
    course.running = running
    course.idle = idle
    return True


cdef uint64_t _skip_traced(machine_t *m, course_t *course, uint64_t budget) noexcept nogil:
    """Skip exits of a trace, which have handling and idle times of their own."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef course_t at = course[0]
    cdef uint64_t left = m.left, handling = m.next_handling, idle = m.next_idle
    cdef uint64_t work, running, overlap = 0, skipped = 0, position = m.trace_position
    cdef uint32_t kind = m.next_kind
    cdef summary_t *s
    cdef kind_t *k
    while skipped < budget:
        if (
            (position - 1) % CHUNK == 0 and (position - 1) // CHUNK < m.trace.chunks and skipped + CHUNK <= budget
            and _skip_chunk(m, &at, position - 1, left)
        ):
            skipped += CHUNK
            m.trace_position = position + CHUNK - 1
            draw_work(m)
            position = m.trace_position
            left, handling, idle, kind = m.left, m.next_handling, m.next_idle, m.next_kind
            if left >= NEVER:
                break
            continue
        k = &lazy.kind[kind]
        s = &lazy.summary[kind]
        work = at.work + left
        overlap = _overlap(m, s, handling) if s.refused else 0
        running = at.running + left + k.busy + handling - overlap
        if work >= at.most_work or running >= at.most_running or running + at.idle + idle >= at.end:
            if k.usable == UNKNOWN and work < at.most_work:
                _summarise(m, kind)
                continue
            break
        if idle and not s.may_idle:
            break
        at.work = work
        at.running = running
        at.idle += idle
        s.handled += handling
        s.by_task += _by_task(m, kind, handling)
        s.saved += overlap
        k.skipped += 1
        skipped += 1
        if position == m.trace.n:
            # The end, or from the start again.
            m.trace_position = position
            draw_work(m)
            position = m.trace_position
            left, handling, idle, kind = m.left, m.next_handling, m.next_idle, m.next_kind
            if left >= NEVER:
                break
            continue
        left = m.trace.gap[position]
        kind = m.trace.kind[position]
        handling = m.trace.handling[position]
        idle = m.trace.idle[position]
        position += 1
    course[0] = at
    m.trace_position = position
    m.left, m.next_kind, m.next_handling, m.next_idle = left, kind, handling, idle
    return skipped


cdef inline uint64_t _arrived(const stream_t *stream, uint32_t i, uint64_t clock) noexcept nogil:
    # Exits of a slot up to a clock, less those that have been.
    return <uint64_t>(((<uint128_t>stream.rate[i] * clock) >> 48) - stream.count[i])


cdef bint _fits(const machine_t *m, const course_t *at, uint64_t clock, uint64_t budget) noexcept nogil:
    """Whether all regular exits up to a clock of work end before every horizon."""
    cdef const lazy_t *lazy = <const lazy_t *>m.lazy
    cdef const stream_t *stream = &m.work_stream
    cdef uint128_t running = at.running + (clock - at.work), idle = at.idle
    cdef uint64_t n, exits = 0
    cdef uint32_t i
    for i in range(stream.n):
        n = _arrived(stream, i, clock)
        exits += n
        running += <uint128_t>n * lazy.kind[stream.kind[i]].busy
        idle += <uint128_t>n * lazy.kind[stream.kind[i]].idle
    return exits <= budget and running < at.most_running and running + idle < at.end


cdef uint64_t _skip_regular(machine_t *m, course_t *at, uint64_t budget) noexcept nogil:
    """Skip regular exits: how many fit is a bisection over the clock of work, whatever their number."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef stream_t *stream = &m.work_stream
    cdef uint64_t low, high, middle, n, instant, last = at.work, skipped = 0
    cdef uint32_t i
    cdef kind_t *k
    # The pending exit goes back among the others.
    stream.count[stream.pending] -= 1
    stream.due[stream.pending] = at.work + m.left
    high = min(at.most_work, at.work + min(at.most_running - at.running, NEVER - at.work))
    for i in range(stream.n):
        if stream.due[i] < high and lazy.kind[stream.kind[i]].usable == UNKNOWN:
            _summarise(m, stream.kind[i])
    low = at.work  # all exits up to here fit, none of those from ``high`` on
    if high > low and not _fits(m, at, low, budget):
        high = low
    while high - low > 1 and high > low:
        middle = low + ((high - low) >> 1)
        if _fits(m, at, middle, budget):
            low = middle
        else:
            high = middle
    for i in range(stream.n):
        n = _arrived(stream, i, low) if high > at.work else 0
        if n:
            k = &lazy.kind[stream.kind[i]]
            k.skipped += n
            skipped += n
            stream.count[i] += n
            stream.due[i] = instant_of(stream.rate[i], stream.count[i] + 1)
            instant = instant_of(stream.rate[i], stream.count[i])
            last = max(last, instant)
            at.running += n * k.busy
            at.idle += n * k.idle
    at.running += last - at.work
    at.work = last
    m.left = next_regular(stream) - last
    m.next_kind = stream.kind[stream.pending]
    m.next_handling = m.exits[m.next_kind].handling
    m.next_idle = m.exits[m.next_kind].idle
    return skipped


cdef uint64_t _skip(machine_t *m) noexcept nogil:
    """Skip exits up to a horizon; return how many."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef uint64_t horizon, budget = 0, skipped, n, handling
    cdef uint64_t clock[3]
    cdef course_t course
    cdef summary_t *s
    cdef uint32_t i
    refresh_rates(m)
    budget = MOST_REGULAR if m.work_stream.rate != NULL else MOST_SKIPPED
    horizon = _horizon(m, m.counting_instructions | m.ideal_instructions, &budget)
    course.work = m.work
    course.idle = m.clock[IDLE]
    course.running = m.wall - course.idle - m.others
    course.most_work = m.work + min(horizon, NEVER - m.work)
    course.most_running = m.next_wall
    course.end = min(min(m.end, m.filter_due), min(min(m.next_mux, m.next_tick), min(m.next_timer, m.preempt_at)))
    course.end -= min(m.others, course.end)
    if m.work + m.left >= course.most_work:
        return 0
    if m.trace.gap != NULL:
        skipped = _skip_traced(m, &course, budget)
    elif m.work_stream.rate != NULL:
        skipped = _skip_regular(m, &course, budget)
    else:
        skipped = _skip_drawn(m, &course, budget)
    if skipped == 0:
        return 0
    clock[0] = m.clock[GUEST_USER]
    clock[1] = m.clock[GUEST_KERNEL]
    clock[2] = m.clock[GUEST_HANDLER]
    m.clock[GUEST_USER] = occurrences(m.user_share, course.work)
    m.clock[GUEST_KERNEL] = course.work - m.clock[GUEST_USER]
    advance_to_now(m, &m.hardware, clock)
    m.spent[SPENT_IDLE] += course.idle - m.clock[IDLE]
    m.clock[IDLE] = course.idle
    m.work = course.work
    m.wall = course.running + course.idle + m.others
    for i in range(lazy.summaries):
        n = lazy.kind[i].skipped
        if n:
            s = &lazy.summary[i]
            if m.trace.gap == NULL:
                handling = m.exits[i].handling
                s.handled = n * handling
                s.by_task = n * _by_task(m, i, handling)
                s.saved = n * _overlap(m, s, handling)
            _add_summary(m, s, n)
            m.exit_count[i] += n
            lazy.kind[i].skipped = 0
            s.handled = s.by_task = s.saved = 0
    return skipped


cdef void fast_forward(machine_t *m) noexcept nogil:
    """Skip what can be skipped; the common code goes on from exactly the state that it would have reached."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef state_key_t key
    cdef uint64_t skipped, total = 0
    if lazy.pause:
        lazy.pause -= 1
        return
    while total < MOST_AT_ONCE and _uneventful(m):
        _read_key(m, &key)
        if memcmp(&key, &lazy.key, sizeof(state_key_t)) != 0:
            lazy.key = key
            forget(lazy)
        skipped = _skip(m)
        if skipped == 0:
            break
        total += skipped
    # What a slice of the run is, in exits; a jump over regular ones costs the same however many they are.
    m.budget -= 16 if m.work_stream.rate != NULL else <long long>(total >> 3)
    if total > 1:
        lazy.next_pause = 1
    else:
        # Little to skip here: let some exits pass before trying again.
        lazy.pause = lazy.next_pause
        lazy.next_pause = min(2 * lazy.next_pause, LONGEST_PAUSE)
