# cython: freethreading_compatible=True
"""Trapped accesses of the guest, done as they were done before.

A PMI handler of the guest is a row of exits that do the same each time, counters apart: what such an exit takes and
changes is a function of the state before (``state_key_t``) and of the access. It is noted word by word when it happens for
the second time, and kept only if the note makes of the machine before just what the exit has made of it. The states chain:
where one access ends, the next begins. A design needs nothing for this.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vpmu_core._types cimport NEVER, lowest_bit, uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.counting cimport apply_ideal
from vpmu_core.kinds cimport ACCESS_COUNTER, ACCESS_RDPMC, EFFECT_ACCESS, KERNEL, PHASE_RUN
from vpmu_core.lazy cimport lazy_t, state_key_t
from vpmu_core.state cimport MAX_GUEST_EVENTS, MAX_HOST_EVENTS, NO_STATE, access_t, controls_t, machine_t
from vpmu_core.summary cimport nonzero_counters, read_key
from vpmu_core.timeline cimport vm_exit
from vpmu_core.unit cimport SLOTS, enabled, pmu_t, width_mask

cdef uint32_t LONGEST_PAUSE = 64
cdef uint8_t MOST_FAILURES = 4


cdef memos_t *_new_memos() noexcept nogil:
    """None yet; NULL if there is no memory: then nothing is noted."""
    cdef memos_t *t = <memos_t *>calloc(1, sizeof(memos_t))
    if t != NULL:
        t.before = <machine_t *>calloc(1, sizeof(machine_t))
        t.trial = <machine_t *>calloc(1, sizeof(machine_t))
        if t.before == NULL or t.trial == NULL:
            free_memos(t)
            return NULL
        t.next_pause = 1
    return t


cdef void free_memos(memos_t *t) noexcept nogil:
    if t != NULL:
        free(t.before)
        free(t.trial)
        free(t)


cdef void forget_memos(lazy_t *lazy) noexcept nogil:
    """Costs are others now."""
    cdef memos_t *t = lazy.memos
    if t != NULL:
        memset(t.bucket, 0, sizeof(t.bucket))
        memset(t.memo_bucket, 0, sizeof(t.memo_bucket))
        t.states = t.memos = 0
        t.pause = 0
        t.next_pause = 1


cdef inline bint _quiet(const machine_t *m) noexcept nogil:
    return (
        not m.backed and not m.has_host and m.in_guest and m.phase == PHASE_RUN and m.pmi_arrival == NEVER
        and not m.vector_pending and not m.pmi_requested and not m.host_nmi_pending and not m.reprogram and not m.stopped
        and m.steps == NULL and (m.load == NULL or m.keeps_counters)
    )


cdef uint16_t _state_of(const machine_t *m, memos_t *t, state_key_t *key) noexcept nogil:
    """The state that a machine is in, a new one if there is room, or NO_STATE."""
    cdef uint64_t h
    cdef uint32_t i
    read_key(m, key)
    h = key.global_status ^ key.guest_global_status * 3 ^ key.global_ctrl * 5 ^ key.guest_lvtpc * 7 ^ key.guest_selector[0]
    h = (h ^ key.nonzero * <uint64_t>11 ^ key.fixed_ctr_ctrl * 13) * <uint64_t>0x9E3779B97F4A7C15
    i = <uint32_t>(h >> 56)
    while t.bucket[i] != NO_STATE:
        if memcmp(&t.key[t.bucket[i]], key, sizeof(state_key_t)) == 0:
            return t.bucket[i]
        i = (i + 1) % BUCKETS
    if t.states == MOST_STATES:
        return NO_STATE
    t.states += 1
    t.bucket[i] = <uint16_t>t.states
    t.key[t.states] = key[0]
    return <uint16_t>t.states


cdef inline bint _far_from_zero(const machine_t *m, const memo_t *p) noexcept nogil:
    # No counter that the emulated instruction advances wraps, or ceases to be zero.
    cdef uint32_t left = p.counted
    cdef uint64_t value
    while left:
        value = m.hardware.counter[lowest_bit(left)]
        if value == 0 or value == width_mask(&m.hardware, lowest_bit(left)):
            return False
        left &= left - 1
    return True


cdef void _apply(machine_t *m, const memo_t *p, access_t *a) noexcept nogil:
    cdef uint64_t *words = <uint64_t *>m
    cdef uint32_t *halves = <uint32_t *>m
    cdef uint32_t left, i
    apply_ideal(m, a)
    left = enabled(&m.ideal, False) & m.ideal_instructions
    while left:
        m.ideal.counter[lowest_bit(left)] = (m.ideal.counter[lowest_bit(left)] + 1) & width_mask(&m.ideal, lowest_bit(left))
        left &= left - 1
    a.value = m.hardware.counter[a.slot] if a.access == ACCESS_RDPMC else p.result
    left = p.counted
    while left:
        m.hardware.counter[lowest_bit(left)] += 1
        left &= left - 1
    for i in range(p.n.now):
        words[p.now[i].at] += p.now[i].by
    for i in range(p.n.set):
        halves[p.set[i].at] = p.set[i].by
    m.at_state = p.next_state


cdef void _add_later(machine_t *m, const memo_t *p, uint64_t uses) noexcept nogil:
    """What accesses add to tallies, which nobody reads before the run has paused."""
    cdef uint64_t *words = <uint64_t *>m
    cdef uint32_t i
    for i in range(p.n.later):
        words[p.later[i].at] += uses * p.later[i].by


cdef void settle_memos(machine_t *m, const lazy_t *lazy) noexcept nogil:
    """Bring the tallies up to date."""
    cdef memos_t *t = lazy.memos
    cdef uint32_t i
    if t != NULL:
        for i in range(1, t.memos + 1):
            _add_later(m, &t.memo[i], t.memo[i].uses)
            t.memo[i].uses = 0


cdef bint _note_added(
    const machine_t *m, const machine_t *after, change_t *change, uint32_t *n, uint32_t most, const void *field, size_t size
) noexcept nogil:
    # Of a field of ``m``.
    cdef const uint64_t *words = <const uint64_t *>m
    cdef const uint64_t *then = <const uint64_t *>after
    cdef uint32_t first = <uint32_t>((<size_t>field - <size_t>m) // sizeof(uint64_t)), i
    for i in range(first, first + <uint32_t>(size // sizeof(uint64_t))):
        if words[i] != then[i]:
            if n[0] == most or (then[i] - words[i]) >> 32:
                return False
            change[n[0]].at = i
            change[n[0]].by = <uint32_t>(then[i] - words[i])
            n[0] += 1
    return True


cdef bint _note_now(const machine_t *m, const machine_t *after, memo_t *p, const void *field, size_t size) noexcept nogil:
    return _note_added(m, after, p.now, &p.n.now, MOST_NOW, field, size)


cdef bint _note_later(const machine_t *m, const machine_t *after, memo_t *p, const void *field, size_t size) noexcept nogil:
    return _note_added(m, after, p.later, &p.n.later, MOST_LATER, field, size)


cdef bint _note_set(const machine_t *m, const machine_t *after, memo_t *p, const void *field, size_t size) noexcept nogil:
    cdef const uint32_t *words = <const uint32_t *>m
    cdef const uint32_t *then = <const uint32_t *>after
    cdef uint32_t first = <uint32_t>((<size_t>field - <size_t>m) // sizeof(uint32_t)), i
    for i in range(first, first + <uint32_t>(size // sizeof(uint32_t))):
        if words[i] != then[i]:
            if p.n.set == MOST_SET:
                return False
            p.set[p.n.set].at = i
            p.set[p.n.set].by = then[i]
            p.n.set += 1
    return True


cdef bint _note_counted(const machine_t *m, const machine_t *after, memo_t *p) noexcept nogil:
    cdef int slot
    cdef uint64_t difference
    p.counted = 0
    for slot in range(SLOTS):
        difference = after.hardware.counter[slot] - m.hardware.counter[slot]
        if difference > 1:
            return False
        p.counted |= <uint32_t>difference << slot
    return _far_from_zero(m, p)


cdef bint _note(const machine_t *m, const machine_t *after, memo_t *p) noexcept nogil:
    """Note what an access has changed; False if there is too much of it, or it is of the wrong kind."""
    p.n.now = p.n.set = p.n.later = 0
    return (
        _note_now(m, after, p, m.clock, sizeof(m.clock)) and _note_now(m, after, p, &m.wall, sizeof(m.wall))
        and _note_now(m, after, p, m.retired, sizeof(m.retired))
        and _note_later(m, after, p, m.spent, sizeof(m.spent))
        and _note_later(m, after, p, &m.switches, sizeof(m.switches))
        and _note_later(m, after, p, &m.reprograms, sizeof(m.reprograms))
        and _note_later(m, after, p, m.runs[PHASE_RUN], sizeof(m.runs[PHASE_RUN]))
        and _note_later(m, after, p, m.ops[PHASE_RUN], sizeof(m.ops[PHASE_RUN]))
        and _note_set(m, after, p, m.hardware.selector, sizeof(pmu_t) - sizeof(m.hardware.counter))
        and _note_set(m, after, p, m.guest.selector, sizeof(pmu_t) - sizeof(m.guest.counter))
        and _note_set(m, after, p, &m.loaded, sizeof(controls_t))
        and _note_set(m, after, p, &m.counting_instructions, sizeof(m.counting_instructions))
        and _note_set(m, after, p, &m.in_use, sizeof(m.in_use)) and _note_set(m, after, p, &m.unloaded, sizeof(m.unloaded))
        and _note_counted(m, after, p)
    )


cdef struct parts_t:  # of a machine, without events that there are none of: where each begins, and its size
    size_t at[3]
    size_t size[3]


cdef inline parts_t _parts(const machine_t *m) noexcept nogil:
    cdef parts_t parts
    parts.at[0] = 0
    parts.size[0] = <size_t>&m.guest_event[m.guest_events] - <size_t>m
    parts.at[1] = <size_t>&m.guest_event[MAX_GUEST_EVENTS] - <size_t>m
    parts.size[1] = <size_t>&m.host_event[m.host_events] - <size_t>m - parts.at[1]
    parts.at[2] = <size_t>&m.host_event[MAX_HOST_EVENTS] - <size_t>m
    parts.size[2] = sizeof(machine_t) - parts.at[2]
    return parts


cdef void _copy(machine_t *to, const machine_t *m) noexcept nogil:
    cdef parts_t parts = _parts(m)
    cdef int i
    for i in range(3):
        memcpy(<char *>to + parts.at[i], <const char *>m + parts.at[i], parts.size[i])


cdef bint _same(machine_t *trial, const machine_t *m) noexcept nogil:
    cdef parts_t parts = _parts(m)
    cdef int i
    # The guest's counters in memory are written before they are read: the next put saves each.
    memcpy(trial.guest.counter, m.guest.counter, sizeof(m.guest.counter))
    trial.at_state = m.at_state
    for i in range(3):
        if memcmp(<char *>trial + parts.at[i], <const char *>m + parts.at[i], parts.size[i]) != 0:
            return False
    return True


cdef void _learn(machine_t *m, memos_t *t, memo_t *p, access_t *a) noexcept nogil:
    """Make an access through an exit, and note what it does."""
    cdef access_t asked = a[0]
    cdef state_key_t *key = &(<lazy_t *>m.lazy).found
    _copy(t.before, m)
    vm_exit(m, KERNEL, 0, True, 0, 0, EFFECT_ACCESS, a)
    p.takes = m.wall - t.before.wall
    p.value, p.result = asked.value, a.value
    p.usable = _quiet(m) and m.wall < t.before.due and _note(t.before, m, p)
    if p.usable:
        p.next_state = _state_of(m, t, key)
        _copy(t.trial, t.before)
        _apply(t.trial, p, &asked)
        _add_later(t.trial, p, 1)
        p.usable = _same(t.trial, m) and asked.value == a.value and asked.ideal == a.ideal
        m.at_state = p.next_state if p.usable else NO_STATE
    p.failed += not p.usable


cdef memo_t *_memo_of(memos_t *t, uint16_t state, const access_t *a) noexcept nogil:
    """What is noted of an access in a state, an empty note if there is room, or NULL."""
    cdef uint64_t h = (a.value ^ <uint64_t>state << 32 ^ <uint64_t>a.access << 48 ^ <uint64_t>a.slot << 56)
    cdef uint32_t i = <uint32_t>((h * <uint64_t>0x9E3779B97F4A7C15) >> 55)
    cdef memo_t *p
    while t.memo_bucket[i]:
        p = &t.memo[t.memo_bucket[i]]
        if p.state == state and p.access == a.access and p.slot == a.slot and p.value == a.value:
            return p
        i = (i + 1) % MEMO_BUCKETS
    if t.memos == MOST_MEMOS:
        return NULL
    t.memos += 1
    t.memo_bucket[i] = <uint16_t>t.memos
    p = &t.memo[t.memos]
    p.state, p.access, p.slot, p.value = state, a.access, a.slot, a.value
    p.usable = p.failed = p.seen = 0
    p.uses = 0
    return p


cdef bint access_by_memo(machine_t *m, access_t *a) noexcept nogil:
    """Make a trapped access, exit and entry included, as noted, or note it; False: it is not made."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef memos_t *t = lazy.memos
    cdef memo_t *p
    cdef uint16_t state = m.at_state
    if not _quiet(m) or m.wall >= m.due or a.access == ACCESS_COUNTER:
        return False  # what a write to a counter takes depends on what the counter holds
    if state != NO_STATE and m.hardware.global_ctrl and (
        t.key[state].nonzero != nonzero_counters(&m.hardware) or t.key[state].global_status != m.hardware.global_status
    ):
        # Guest code since has let a counter count.
        state = NO_STATE
    if t == NULL:
        # Most machines never need them.
        t = lazy.memos = _new_memos()
        if t == NULL:
            return False
    if state == NO_STATE:
        if t.pause:
            t.pause -= 1
            return False
        state = _state_of(m, t, &lazy.found)
    p = _memo_of(t, state, a) if state != NO_STATE else NULL
    if p == NULL or p.failed > MOST_FAILURES:
        # Nothing to learn any more: let some pass before trying again.
        t.pause = t.next_pause
        t.next_pause = min(2 * t.next_pause, LONGEST_PAUSE)
        return False
    if not p.usable:
        # Not what comes only once.
        p.seen += 1
        if p.seen == 1:
            return False
        _learn(m, t, p, a)
        return True
    if m.wall + p.takes >= m.due or not _far_from_zero(m, p):
        return False
    t.next_pause = 1
    p.uses += 1
    _apply(m, p, a)
    return True
