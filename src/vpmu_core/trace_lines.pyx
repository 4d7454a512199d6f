# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""The common lines of a text trace, without a Python object for each.

Only what needs no second look is read here: a known thread, a known exit reason, arguments exactly as every kernel prints
them. All other lines go to the reader in Python, which decides what any line means and which this module must agree with:
where a pattern of that reader might still match, the answer here is `ASK`, never a guess.
"""
from libc.string cimport memchr, memcmp, memcpy, memset

from vpmu_core._types cimport int64_t, uint16_t, uint64_t
from vpmu_core.trace_text cimport (
    ASK, BLANKS, DONE, NOTHING, REFUSED, find_stamp, hex_digit, is_blank, is_svm_write, is_word, mentions_event, read_pmi,
    read_switch, read_vcpu, skip_blanks, stamp_t, starts, verdict_t,
)
from vpmu_core.vcpu_trace cimport TraceClock, VcpuTimeline

cdef enum:
    SLOTS = 1024  # of each cache
    LONGEST = 120  # bytes of what is cached

cdef enum what_t:
    IS_MSR = 1
    WRITES_MSR = 2
    IS_PMU = 4
    HAS_VECTOR = 8
    MAY_WRITE_MSR = 16

cdef struct key_t:
    int length
    char text[LONGEST]

cdef struct thread_t:
    key_t key
    int64_t tid
    uint64_t generation  # in which the time line was looked up

cdef struct reason_t:
    key_t key
    uint16_t index
    int what


cdef int _slot(const char *p, Py_ssize_t length, int salt) noexcept nogil:
    cdef uint64_t h = <uint64_t>length * 0x9E3779B97F4A7C15ULL + <uint64_t>salt, word = 0
    while length >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * 0x9E3779B97F4A7C15ULL
        h ^= h >> 29
        p += 8
        length -= 8
    if length:
        word = 0
        memcpy(&word, p, length)
        h = (h ^ word) * 0x9E3779B97F4A7C15ULL
    return <int>(h >> 54)


cdef inline bint _same(const key_t *key, const char *p, Py_ssize_t length) noexcept nogil:
    return key.length == length and memcmp(key.text, p, length) == 0


cdef class TraceLines:
    """Read the lines of blocks of a trace, and hand over to a reader what is not common.

    Parameters
    ----------
    reader : object
        ``feed(number, text)`` reads any line; ``skip(number)`` notes a line out of order; ``thread(prefix, perf)`` and
        ``what(reason)`` say what a line's beginning and a reason mean; ``current`` has time lines by thread,
        ``reasons`` indices by name.
    clock : TraceClock
        The clock of the trace.
    pmu_msrs : frozenset of int
        MSRs whose exits are dropped.

    Attributes
    ----------
    events : int
        Events of vCPUs that were read here.
    """

    cdef object reader
    cdef dict current
    cdef dict reasons
    cdef frozenset pmu_msrs
    cdef TraceClock clock
    cdef readonly int64_t events
    cdef uint64_t generation
    cdef thread_t thread[SLOTS]
    cdef list timeline
    cdef reason_t reason[SLOTS]

    def __cinit__(self, reader, TraceClock clock not None, frozenset pmu_msrs not None):
        self.reader = reader
        self.current = reader.current
        self.reasons = reader.reasons
        self.clock = clock
        self.pmu_msrs = pmu_msrs
        self.generation = 1
        self.timeline = [None] * SLOTS
        memset(self.thread, 0, sizeof(self.thread))
        memset(self.reason, 0, sizeof(self.reason))
        for i in range(SLOTS):
            self.thread[i].key.length = self.reason[i].key.length = -1

    def feed(self, bytes block not None, Py_ssize_t start, int64_t number):
        """Read complete lines.

        Parameters
        ----------
        block : bytes
            Lines, without the line end of the last one.
        start : int
            Where the first one begins.
        number : int
            Its number.

        Returns
        -------
        int
            Number of the last line.
        """
        cdef const char *p = block
        cdef const char *end = p + len(block)
        cdef const char *eol
        cdef const char *last
        cdef verdict_t verdict
        p += start
        while True:
            eol = <const char *>memchr(p, 10, end - p) if p < end else NULL
            if eol == NULL:
                eol = end
            last = eol - 1 if eol > p and (eol - 1)[0] == 13 else eol
            verdict = self.line(p, last) if last - p < 4096 else ASK
            if verdict == DONE:
                self.events += 1
            elif verdict == REFUSED:
                self.reader.skip(number)
            elif verdict == ASK:
                self.ask(p, eol, last, number)
            if eol == end:
                return number
            number += 1
            p = eol + 1

    cdef int ask(self, const char *p, const char *eol, const char *last, int64_t number) except -1:
        """Give a line to the reader, and learn from it."""
        cdef stamp_t stamp
        self.reader.feed(number, p[:eol - p].decode("utf-8", "replace"))
        self.generation += 1  # threads may have changed their vCPUs
        if last - p < 4096 and find_stamp(p, last, &stamp) == DONE:
            self.learn_thread(p, stamp.at - p, stamp.system)
        return 0

    cdef int learn_thread(self, const char *p, Py_ssize_t length, bint perf) except -1:
        cdef thread_t *thread
        if length > LONGEST:
            return 0
        found = self.reader.thread(p[:length].decode("utf-8", "replace"), perf)
        if found is not None:
            thread = &self.thread[_slot(p, length, perf)]
            thread.key.length = <int>length
            memcpy(thread.key.text, p, length)
            thread.tid = found.tid
            thread.generation = 0
        return 0

    cdef reason_t *known_reason(self, const char *p, Py_ssize_t length) except? NULL:
        """The reason of that name; NULL if the reader has not met it."""
        cdef reason_t *reason = &self.reason[_slot(p, length, 0)]
        if _same(&reason.key, p, length):
            return reason
        if length > LONGEST:
            return NULL
        name = p[:length].decode("ascii")
        index = self.reasons.get(name)
        if index is None:
            return NULL
        is_msr, writes, is_pmu, has_vector, may_write = self.reader.what(name)
        reason.index = index
        reason.what = IS_MSR * is_msr | WRITES_MSR * writes | IS_PMU * is_pmu
        reason.what |= HAS_VECTOR * has_vector | MAY_WRITE_MSR * may_write
        memcpy(reason.key.text, p, length)
        reason.key.length = <int>length
        return reason

    cdef VcpuTimeline owner(self, const stamp_t *stamp, const char *begin):
        """The time line that the thread of a line works on; None to ask."""
        cdef Py_ssize_t length = stamp.at - begin
        cdef int slot = _slot(begin, length, stamp.system)
        cdef thread_t *thread = &self.thread[slot]
        if not _same(&thread.key, begin, length):
            return None
        if thread.generation != self.generation:
            self.timeline[slot] = self.current.get(thread.tid)
            thread.generation = self.generation
        return <VcpuTimeline>self.timeline[slot]

    cdef verdict_t line(self, const char *begin, const char *end) except *:
        cdef stamp_t stamp
        cdef verdict_t verdict = find_stamp(begin, end, &stamp)
        if verdict == NOTHING:
            return ASK if mentions_event(begin, end) else NOTHING
        if verdict == ASK:
            return ASK
        if stamp.length == 8 and memcmp(stamp.event, b"kvm_exit", 8) == 0:
            return self.exit(&stamp, begin, end)
        if stamp.length == 9 and memcmp(stamp.event, b"kvm_entry", 9) == 0:
            return self.entry(&stamp, begin, end)
        if stamp.length == 7 and memcmp(stamp.event, b"kvm_msr", 7) == 0:
            return self.access(&stamp, begin, end)
        if stamp.length == 18 and memcmp(stamp.event, b"kvm_userspace_exit", 18) == 0:
            return self.userspace(&stamp, begin)
        if stamp.length == 12 and memcmp(stamp.event, b"sched_switch", 12) == 0 and self.concerns(stamp.arguments, end):
            return ASK
        self.clock.tick(stamp.ns)
        return NOTHING

    cdef bint concerns(self, const char *p, const char *end) except -1:
        """Whether a sched_switch may be one of a vCPU's thread: on a busy host few are."""
        cdef int64_t previous = 0, following = 0
        if not read_switch(p, end, &previous, &following):
            return True
        return previous in self.current or following in self.current

    cdef verdict_t exit(self, const stamp_t *stamp, const char *begin, const char *end) except *:
        cdef const char *p = skip_blanks(stamp.arguments, end)
        cdef const char *q
        cdef int64_t vcpu = -1
        cdef bint pmi = False, write
        cdef reason_t *reason
        cdef VcpuTimeline timeline = self.owner(stamp, begin)
        if timeline is None or p - stamp.arguments > BLANKS:
            return ASK
        q = read_vcpu(p, end, &vcpu)
        if q != NULL:
            if q < end and q[0] == b',':
                q += 1
            if q == end or q[0] != 32:
                return ASK
            q += 1
            p = skip_blanks(q, end)
            if p - q > BLANKS or vcpu != timeline.vcpu:
                return ASK
        if not starts(p, end, b"reason ", 7):
            return ASK
        p += 7
        q = p
        while p < end and is_word(p[0]):
            p += 1
        # What follows a reason in every kernel; a reason at the very end of a line may be cut.
        if p == q or p - q > 64 or p == end or not (is_blank(p[0]) or p[0] == b'(' or p[0] == b'|' or p[0] == b'-'):
            return ASK
        reason = self.known_reason(q, p - q)
        if reason == NULL:
            return ASK
        if reason.what & HAS_VECTOR and read_pmi(p, end, &pmi) == ASK:
            return ASK
        write = reason.what & WRITES_MSR or reason.what & MAY_WRITE_MSR and is_svm_write(p, end)
        self.clock.tick(stamp.ns)
        return DONE if timeline.leave(
            reason.index, reason.what & IS_MSR != 0, write, pmi or reason.what & IS_PMU != 0
        ) else REFUSED

    cdef verdict_t entry(self, const stamp_t *stamp, const char *begin, const char *end) except *:
        cdef const char *p = skip_blanks(stamp.arguments, end)
        cdef int64_t vcpu = -1
        cdef VcpuTimeline timeline = self.owner(stamp, begin)
        if timeline is None or p - stamp.arguments > BLANKS or read_vcpu(p, end, &vcpu) == NULL or vcpu != timeline.vcpu:
            return ASK
        self.clock.tick(stamp.ns)
        return DONE if timeline.entry() else REFUSED

    cdef verdict_t access(self, const stamp_t *stamp, const char *begin, const char *end) except *:
        cdef const char *p = skip_blanks(stamp.arguments, end)
        cdef const char *q
        cdef int64_t msr = 0
        cdef bint write
        cdef reason_t *reason
        cdef VcpuTimeline timeline = self.owner(stamp, begin)
        if timeline is None or p - stamp.arguments > BLANKS:
            return ASK
        write = starts(p, end, b"msr_write ", 10)
        if not write and not starts(p, end, b"msr_read ", 9):
            return ASK
        p += 10 if write else 9
        if starts(p, end, b"0x", 2):
            p += 2
        q = p
        while p < end and p - q < 9 and hex_digit(p[0]) >= 0:
            msr = msr << 4 | hex_digit(p[0])
            p += 1
        if p == q or p - q > 8 or p < end and is_word(p[0]):
            return ASK
        reason = self.known_reason(b"MSR_WRITE", 9) if write else self.known_reason(b"MSR_READ", 8)
        if reason == NULL:
            return ASK
        self.clock.tick(stamp.ns)
        return DONE if timeline.access(msr, reason.index, write, msr in self.pmu_msrs) else REFUSED

    cdef verdict_t userspace(self, const stamp_t *stamp, const char *begin) except *:
        cdef VcpuTimeline timeline = self.owner(stamp, begin)
        if timeline is None:
            return ASK
        self.clock.tick(stamp.ns)
        timeline.userspace()
        return DONE
