# cython: freethreading_compatible=True, cdivision=True
"""Which of the exits to come end before every horizon: drawn, of a trace, or at regular instants."""
from vpmu_core._types cimport NEVER, leading_zeros64, uint32_t, uint64_t, uint128_t
from vpmu_core.arrivals cimport take_work
from vpmu_core.lazy cimport EVENTFUL, SKIPPABLE, UNKNOWN, course_t, kind_t, lazy_t, summary_t
from vpmu_core.random cimport draw_gap, draw_kind, gap_of, instant_of, next_regular, sfc64_next, sfc64_t, slot_of, stream_t
from vpmu_core.summary cimport summarise
from vpmu_core.state cimport machine_t, trace_t
from vpmu_core.traceindex cimport CHUNK


cdef enum:
    FEWEST_AT_A_VENTURE = 16
    MOST_AT_A_VENTURE = 4096
    LONGEST_WARY = 255


cdef struct drawn_t:  # where a stream is
    stream_t stream
    uint64_t left  # work up to the next exit
    uint32_t kind  # of that one


cdef uint64_t _draw_alike(drawn_t *at, uint64_t *drawn, uint64_t n, uint64_t work) noexcept nogil:
    """Let n > 0 exits go by from a clock of work on; return that clock at the last. Counts those after the first by slot."""
    # The generator alone is local: with the rest, its state would not stay in registers.
    cdef const stream_t *stream = &at.stream
    cdef sfc64_t generator = at.stream.generator
    work += at.left
    while n > 1:
        n -= 1
        work += gap_of(stream, sfc64_next(&generator))
        drawn[slot_of(stream, sfc64_next(&generator))] += 1
    at.stream.generator = generator
    at.left = draw_gap(&at.stream)
    at.kind = draw_kind(&at.stream)
    return work


cdef inline uint64_t _up_to(uint64_t bound, uint64_t now) noexcept nogil:
    return bound - min(bound, now)


cdef uint32_t _charge(const lazy_t *lazy, course_t *course, uint32_t kind, uint64_t n) noexcept nogil:
    """Let n exits of a kind take their time; return whether they can be skipped (a bit of usable_t)."""
    cdef const kind_t *k = &lazy.kind[kind]
    course.running += n * k.busy
    course.idle += n * k.idle
    return <uint32_t>1 << (k.usable if n else SKIPPABLE)


cdef uint64_t _skip_at_a_venture(machine_t *m, course_t *course, drawn_t *at, uint64_t budget) noexcept nogil:
    """Skip exits in batches that fit by what exits take on average: only the end of each is compared with the horizons,
    and one that goes beyond, or has an exit that cannot be skipped, is taken back. None if there is a kind that folds."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef course_t end = course[0]
    cdef sfc64_t generator
    cdef uint64_t n, left, room, mean = 0, skipped = 0
    cdef uint32_t i, kind, usable
    cdef kind_t *k
    cdef bint fits
    if lazy.folds:
        return 0
    if lazy.wary:
        lazy.wary -= 1
        return 0
    for i in range(at.stream.n):
        k = &lazy.kind[at.stream.kind[i]]
        if k.usable == SKIPPABLE:
            mean = max(mean, k.busy + k.idle)
    mean += at.stream.mean_gap
    while True:
        # What fits on average, less two to four standard deviations.
        room = min(_up_to(end.end, course.running + course.idle), _up_to(end.most_running, course.running)) // mean
        room = min(room, _up_to(end.most_work, course.work) // at.stream.mean_gap)
        room -= min(room, <uint64_t>2 << ((65 - leading_zeros64(room | 1)) >> 1))
        n = min(min(room, budget - skipped), MOST_AT_A_VENTURE)
        if n < FEWEST_AT_A_VENTURE:
            return skipped
        generator, left, kind = at.stream.generator, at.left, at.kind
        end.work = _draw_alike(at, lazy.drawn, n, course.work)
        end.running = course.running + (end.work - course.work)
        end.idle = course.idle
        usable = _charge(lazy, &end, kind, 1)
        for i in range(at.stream.n):
            usable |= _charge(lazy, &end, at.stream.kind[i], lazy.drawn[i])
        # Where exits that cannot be skipped are common, more and more jumps go without.
        lazy.next_wary = min(2 * lazy.next_wary + 1, LONGEST_WARY) if usable >> EVENTFUL & 1 else 0
        lazy.wary = lazy.next_wary
        fits = usable == 1 << SKIPPABLE and (
            end.work < end.most_work and end.running < end.most_running and end.running + end.idle < end.end
        )
        lazy.kind[kind].skipped += fits
        for i in range(at.stream.n):
            lazy.kind[at.stream.kind[i]].skipped += lazy.drawn[i] if fits else 0
            lazy.drawn[i] = 0
        if not fits:
            at.stream.generator, at.left, at.kind = generator, left, kind
            return skipped
        skipped += n
        mean = end.running + end.idle - end.work - (course.running + course.idle - course.work)
        mean = at.stream.mean_gap + mean // n
        course[0] = end


cdef uint64_t _skip_within(drawn_t *at, kind_t *kinds, uint64_t n, course_t *course) noexcept nogil:
    """Skip at most n exits while all that they take, on whatever clock, fits before the nearest horizon of any."""
    cdef stream_t stream = at.stream
    cdef uint64_t room = min(_up_to(course.most_work, course.work), _up_to(course.most_running, course.running))
    cdef uint64_t left = at.left, work = course.work, folded = course.folded, idle = 0, skipped = 0, before, takes
    cdef uint32_t kind = at.kind
    cdef kind_t *k
    before = room = min(room, _up_to(course.end, course.running + course.idle))
    while skipped < n:
        k = &kinds[kind]
        takes = left + k.busy + k.idle  # NEVER and more if the kind cannot be skipped
        if takes >= room:
            break
        room -= takes
        work += left
        folded = work if k.folds else folded
        idle += k.idle
        k.skipped += 1
        skipped += 1
        left = draw_gap(&stream)
        kind = draw_kind(&stream)
    at.stream.generator = stream.generator
    at.left = left
    at.kind = kind
    course.work = work
    course.folded = folded
    course.running += before - room - idle
    course.idle += idle
    return skipped


cdef uint64_t skip_drawn(machine_t *m, course_t *course, uint64_t budget) noexcept nogil:
    """Skip exits that a stream draws."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef drawn_t at
    cdef uint64_t work, running, skipped = 0
    cdef kind_t *k
    cdef bint all_known = False
    at.stream, at.left, at.kind = m.work_stream, m.left, m.next_kind
    while True:
        if not all_known:
            skipped += _skip_at_a_venture(m, course, &at, budget - skipped)
            all_known = True
        skipped += _skip_within(&at, lazy.kind, budget - skipped, course)
        if skipped == budget:
            break
        k = &lazy.kind[at.kind]
        work = course.work + at.left
        running = course.running + at.left + k.busy  # beyond every bound if the kind cannot be skipped
        if work >= course.most_work or running >= course.most_running or running + course.idle + k.idle >= course.end:
            if k.usable == UNKNOWN and work < course.most_work:
                summarise(m, at.kind)
                all_known = False
                continue
            break
        course.work = work
        course.folded = work if k.folds else course.folded
        course.running = running
        course.idle += k.idle
        k.skipped += 1
        skipped += 1
        at.left = draw_gap(&at.stream)
        at.kind = draw_kind(&at.stream)
    m.work_stream.generator = at.stream.generator
    m.left = at.left
    m.next_kind = at.kind
    m.next_handling = m.exits[at.kind].handling
    m.next_idle = m.exits[at.kind].idle
    return skipped


cdef inline uint32_t _summary_of(const lazy_t *lazy, uint32_t kind, uint64_t idle) noexcept nogil:
    # Of an exit of a trace.
    return kind + (lazy.kinds if idle else 0)


cdef bint _skip_chunk(machine_t *m, course_t *course, uint64_t first, uint64_t left) noexcept nogil:
    """Skip the chunk that begins with exit ``first``, of whose gap ``left`` cycles are left, if all of it can be."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef const trace_t *trace = &m.trace
    cdef uint64_t at = first // CHUNK * lazy.summaries, work, running, idle = course.idle + trace.chunk_idle[first // CHUNK]
    cdef summary_t *s
    cdef kind_t *k
    cdef uint32_t i
    cdef bint folds = False
    if trace.chunk_gap[first // CHUNK] == NEVER:
        return False
    work = trace.chunk_gap[first // CHUNK] - (<uint64_t>trace.gap[first] - left)
    running = course.running + work
    work += course.work
    if work >= course.most_work:
        return False
    for i in range(lazy.summaries):
        if trace.chunk_count[at + i] == 0:
            continue
        k = &lazy.kind[i]
        if k.usable != SKIPPABLE:
            return False
        folds |= k.folds != 0
        running += trace.chunk_count[at + i] * k.busy + trace.chunk_handled[at + i]
        if lazy.summary[i].refused:
            running -= trace.chunk_within[at + i]
    if running >= course.most_running or running + idle >= course.end:
        return False
    for i in range(lazy.summaries):
        s = &lazy.summary[i]
        s.handled += trace.chunk_handled[at + i]
        s.within += trace.chunk_within[at + i]
        lazy.kind[i].skipped += trace.chunk_count[at + i]
    course.work = work
    course.running = running
    course.idle = idle
    if folds:
        first += CHUNK - 1
        while not lazy.kind[_summary_of(lazy, trace.kind[first], trace.idle[first])].folds:
            work -= trace.gap[first]
            first -= 1
        course.folded = work
    return True


cdef uint64_t skip_traced(machine_t *m, course_t *course, uint64_t budget) noexcept nogil:
    """Skip exits of a trace, which have handling and idle times of their own."""
    cdef lazy_t *lazy = <lazy_t *>m.lazy
    cdef course_t at = course[0]
    cdef uint64_t left = m.left, handling = m.next_handling, idle = m.next_idle
    cdef uint64_t work, running, within, skipped = 0, position = m.trace_position
    cdef uint32_t kind = m.next_kind, i
    cdef summary_t *s
    cdef kind_t *k
    while skipped < budget:
        if (
            (position - 1) % CHUNK == 0 and (position - 1) // CHUNK < m.trace.chunks and skipped + CHUNK <= budget
            and _skip_chunk(m, &at, position - 1, left)
        ):
            skipped += CHUNK
            m.trace_position = position + CHUNK - 1
            take_work(m)
            position = m.trace_position
            left, handling, idle, kind = m.left, m.next_handling, m.next_idle, m.next_kind
            if left >= NEVER:
                break
            continue
        i = _summary_of(lazy, kind, idle)
        k = &lazy.kind[i]
        s = &lazy.summary[i]
        work = at.work + left
        within = min(handling, s.bound)
        running = at.running + left + k.busy + handling - (within if s.refused else 0)
        if work >= at.most_work or running >= at.most_running or running + at.idle + idle >= at.end:
            if k.usable == UNKNOWN and work < at.most_work:
                summarise(m, i)
                continue
            break
        at.work = work
        at.folded = work if k.folds else at.folded
        at.running = running
        at.idle += idle
        s.handled += handling
        s.within += within
        k.skipped += 1
        skipped += 1
        if position == m.trace.n:
            # The end, or from the start again.
            m.trace_position = position
            take_work(m)
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


cdef uint64_t skip_regular(machine_t *m, course_t *at, uint64_t budget) noexcept nogil:
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
            summarise(m, stream.kind[i])
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
            if k.folds:
                at.folded = max(at.folded, instant)
            at.running += n * k.busy
            at.idle += n * k.idle
    at.running += last - at.work
    at.work = last
    m.left = next_regular(stream) - last
    m.next_kind = stream.kind[stream.pending]
    m.next_handling = m.exits[m.next_kind].handling
    m.next_idle = m.exits[m.next_kind].idle
    return skipped
