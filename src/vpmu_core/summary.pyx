# cython: freethreading_compatible=True
"""What one exit of a kind does, found by running it once on a copy of the machine."""
from libc.string cimport memcmp, memcpy

from vpmu_core._types cimport NEVER, lowest_bit, uint32_t, uint64_t
from vpmu_core.folding cimport backing_slots, fold, reprogrammed_by
from vpmu_core.hosttime cimport LEAST_ROOM, count_by_modes
from vpmu_core.kinds cimport (
    ACTIVITIES, BLIND, CAUSE_FILTERED, COST_FASTPATH_REFUSED, COST_HANDLING_KERNEL, EFFECT_NONE, FASTPATH, HYPERVISOR, IDLE,
    OP_CLASSES, ORIGINS, PHASE_RUN, SPENT, SPENT_IDLE, USERSPACE,
)
from vpmu_core.lazy cimport EVENTFUL, SKIPPABLE, kind_t, lazy_t, state_key_t, summary_t
from vpmu_core.perfevents cimport guest_event_t, host_event_t, vcpu_counter_t
from vpmu_core.unit cimport SLOTS, enabled, pmu_t
from vpmu_core.state cimport (
    MAX_GUEST_EVENTS, MAX_HOST_EVENTS, controls_t, machine_t, planned_exit_t, pmi_tally_t,
)
from vpmu_core.steps cimport watch_t
from vpmu_core.timeline cimport vm_exit


cdef void read_key(const machine_t *m, state_key_t *key) noexcept nogil:
    cdef int slot, i
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
    key.ideal_instructions = m.ideal_instructions
    key.unloaded = m.unloaded
    key.counting_instructions = m.counting_instructions
    key.host_events = m.host_events
    key.ledger_stale = m.ledger_stale
    key.in_use = m.in_use
    key.blind = m.blind
    key.denied = m.denied
    key.next_filter = m.next_filter
    key.nonzero = nonzero_counters(&m.hardware)
    key.paused = 0
    for i in range(m.guest_events):
        key.counts[i] = m.guest_event[i].slot if m.guest_event[i].active else -1
    key.retry = m.retry
    key.throttled = 0
    if m.backed:
        for slot in range(SLOTS):
            key.event[slot] = m.vcpu[slot].event
            key.paused |= <uint32_t>m.vcpu[slot].paused << slot
    if m.backed or m.has_host:
        for i in range(m.host_events):
            key.event_state[i] = m.host_event[i].state
            key.event_slot[i] = m.host_event[i].slot
            key.throttled |= <uint32_t>m.host_event[i].throttled << i


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
        and m.denied == after.denied and m.unloaded == after.unloaded
        and memcmp(&m.loaded, &after.loaded, sizeof(controls_t)) == 0
        and m.in_use == after.in_use and m.retry == after.retry
        and m.creates == after.creates
        and memcmp(m.vcpu, after.vcpu, SLOTS * sizeof(vcpu_counter_t)) == 0
        and memcmp(m.guest_event, after.guest_event, MAX_GUEST_EVENTS * sizeof(guest_event_t)) == 0
        and memcmp(m.host_event, after.host_event, MAX_HOST_EVENTS * sizeof(host_event_t)) == 0
        and memcmp(&m.pmi, &after.pmi, sizeof(pmi_tally_t)) == 0
        and memcmp(&m.watch, &after.watch, sizeof(watch_t)) == 0
    )


cdef void _let_count(machine_t *m) noexcept nogil:
    # Some occurrences since the events' last update, so that it shows which of them an exit updates.
    cdef uint32_t left = backing_slots(m, ~<uint32_t>0)
    while left:
        m.hardware.counter[lowest_bit(left)] += 3
        left &= left - 1


cdef void _exit_on_copy(
    const machine_t *m, machine_t *copy, const planned_exit_t *e, uint64_t handling, uint64_t idle
) noexcept nogil:
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    memcpy(copy, m, sizeof(machine_t))
    _let_count(copy)
    copy.next_wall = NEVER
    copy.next_mux = copy.next_tick = NEVER
    copy.filter_due = NEVER
    copy.modes = &lazy.trial if m.has_host else NULL
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


cdef void _take_metered(const machine_t *m, machine_t *after) noexcept nogil:
    """Take meters that were closed and opened again out of a copy: their sums do not depend on where they are cut."""
    cdef const guest_event_t *e
    cdef guest_event_t *then
    cdef int i
    for i in range(m.guest_events):
        e, then = &m.guest_event[i], &after.guest_event[i]
        if e.meter and e.meter == then.meter:
            then.losses[e.meter] = e.losses[e.meter]
            then.gains[e.meter] = e.gains[e.meter]
            memcpy(then.meter_clock, e.meter_clock, sizeof(e.meter_clock))


cdef bint _as_summarised(
    machine_t *m, machine_t *after, summary_t *s, bint folds, uint32_t *counted
) noexcept nogil:
    """Whether a copy that has had one exit is what a summary without clocks and tallies makes of the machine.

    ``counted``: hardware counters that the emulated instruction advanced.
    """
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef vcpu_counter_t vcpu[SLOTS]
    cdef host_event_t host_event[MAX_HOST_EVENTS]
    cdef uint64_t counter[SLOTS]
    cdef uint64_t clock[ACTIVITIES]
    cdef bint same
    if m.has_host and (lazy.trial.uneven or after.wall - m.wall >= LEAST_ROOM):
        return False
    s.filtered = _take_filtered(m, after)
    memcpy(counter, m.hardware.counter, sizeof(counter))
    _let_count(m)
    memcpy(host_event, m.host_event, sizeof(host_event))
    if m.has_host:
        memcpy(clock, m.clock, sizeof(clock))
        memcpy(m.clock, after.clock, sizeof(clock))
        count_by_modes(m, &lazy.trial, clock)
        memcpy(m.clock, clock, sizeof(clock))
    if folds:
        _take_metered(m, after)
        memcpy(vcpu, m.vcpu, sizeof(vcpu))
        fold(m, s.reprogrammed, 1)
    same = _only_time_passed(m, after) and _advanced(&m.hardware, &after.hardware, counted)
    if folds:
        # A reprogramming that failed is tried again, which may end well some day.
        same = same and not counted[0] and not after.retry
        memcpy(m.vcpu, vcpu, sizeof(vcpu))
    memcpy(m.host_event, host_event, sizeof(host_event))
    memcpy(m.hardware.counter, counter, sizeof(counter))
    return same


cdef void _note(const machine_t *m, const machine_t *after, summary_t *s, uint64_t idle) noexcept nogil:
    """Note what an exit added to clocks and tallies, but for the time that it blocked."""
    cdef int i, j
    for i in range(ACTIVITIES):
        s.clock[i] = after.clock[i] - m.clock[i]
    s.clock[IDLE] -= idle
    s.wall = after.wall - m.wall - idle
    for i in range(ORIGINS):
        for j in range(OP_CLASSES):
            s.ops[i][j] = after.ops[PHASE_RUN][i][j] - m.ops[PHASE_RUN][i][j]
    for i in range(SPENT):
        s.spent[i] = after.spent[i] - m.spent[i]
    s.spent[SPENT_IDLE] -= idle
    s.switches = after.switches - m.switches
    for i in range(2):
        s.runs[i] = after.runs[PHASE_RUN][i] - m.runs[PHASE_RUN][i]
        s.retired[i] = after.retired[i] - m.retired[i]
    s.refused = after.refused - m.refused
    s.reprograms = after.reprograms - m.reprograms


cdef uint64_t _bound_of(const machine_t *m, const planned_exit_t *e) noexcept nogil:
    # Of a userspace exit's handling, the kernel's part comes first; a refused fastpath takes at least its cost, which
    # the summary has in full.
    if e.kind == USERSPACE:
        return m.cost[COST_HANDLING_KERNEL]
    return m.cost[COST_FASTPATH_REFUSED] if e.kind == FASTPATH else 0


cdef bint _find_out(machine_t *m, const planned_exit_t *e, bint blocks, bint *folds, summary_t *s) noexcept nogil:
    """Run an exit twice on copies and note what it does; False if that cannot be summarised.

    ``folds``: set if it takes the events behind counters out and in.
    """
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef machine_t *copy = lazy.copy
    cdef uint32_t again = 0, filtered
    cdef uint64_t handling
    if blocks and m.shares:
        return False  # another vCPU gets the time
    s.bound = _bound_of(m, e)
    s.reprogrammed = reprogrammed_by(m, e.cpl) if e.emulates else 0
    folds[0] = s.reprogrammed != 0 or (blocks and m.backed)
    if folds[0] and lazy.folds and s.reprogrammed != lazy.reprogrammed:
        return False
    lazy.trial = lazy.held[lazy.present].modes
    lazy.trial.origin = m
    _exit_on_copy(m, copy, e, 0, blocks)
    if (
        not _as_summarised(m, copy, s, folds[0], &s.counted) or not _advanced(&m.ideal, &copy.ideal, &s.counted_ideally)
        or copy.clock[IDLE] - m.clock[IDLE] != <uint64_t>blocks
    ):
        return False
    _note(m, copy, s, blocks)
    filtered = s.filtered
    # One cycle of handling more than a refused fastpath takes anyway, or than is the kernel's, shows whose clocks pay for
    # it, and a second one of idling that it does nothing.
    handling = 1 + (s.bound if s.refused or e.kind == USERSPACE else 0)
    _exit_on_copy(m, copy, e, handling, 2 if blocks else 0)
    s.handling_activity = BLIND if copy.clock[BLIND] - m.clock[BLIND] > s.clock[BLIND] else HYPERVISOR
    return (
        _as_summarised(m, copy, s, folds[0], &again) and s.filtered == filtered and again == s.counted
        and copy.wall - m.wall == s.wall + (1 if s.refused else handling) + (2 if blocks else 0)
    )


cdef void summarise(machine_t *m, uint32_t index) noexcept nogil:
    """Find out what the exits of a summary do."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef kind_t *k = &lazy.kind[index]
    cdef summary_t *s = &lazy.summary[index]
    cdef const planned_exit_t *e = &m.exits[index % lazy.kinds]
    cdef bint folds = False
    cdef bint traced = m.trace.gap != NULL
    if not _find_out(m, e, index >= lazy.kinds if traced else e.idle != 0, &folds, s):
        k.usable = EVENTFUL
        k.busy = NEVER
        return
    lazy.held[lazy.present].modes = lazy.trial
    k.usable = SKIPPABLE
    k.folds = folds
    if folds:
        lazy.folds = True
        lazy.reprogrammed = s.reprogrammed
    k.busy = s.wall
    k.idle = 0
    if not traced:
        # A stream's exits of a kind are all alike.
        k.busy += e.handling - (min(e.handling, s.bound) if s.refused else 0)
        k.idle = e.idle
