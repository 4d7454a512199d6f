# What a line of a text trace says, byte by byte. Digits, blanks and words are those of ASCII, as in the reader's patterns.
from libc.string cimport memcmp

from vpmu_core._types cimport int64_t, uint64_t

cdef enum:
    BLANKS = 64  # that may lie between words
    PMI_VECTOR = 0xF5  # Linux's PERF_GUEST_MEDIATED_PMI_VECTOR

cdef enum verdict_t:
    DONE  # read
    REFUSED  # read, and out of order
    NOTHING  # says nothing about a vCPU
    ASK  # the reader must look

cdef struct stamp_t:
    const char *at  # first byte of the time
    int64_t ns
    bint system  # `system:event:`, which perf prints
    const char *event
    Py_ssize_t length
    const char *arguments


cdef inline bint is_blank(char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint is_digit(char c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint is_word(char c) noexcept nogil:
    return 97 <= c <= 122 or 48 <= c <= 57 or c == 95 or 65 <= c <= 90


cdef inline int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    return c - 87 if 97 <= c <= 102 else -1


cdef inline bint starts(const char *p, const char *end, const char *what, Py_ssize_t length) noexcept nogil:
    return end - p >= length and memcmp(p, what, length) == 0


cdef inline const char *skip_blanks(const char *p, const char *end) noexcept nogil:
    while p < end and is_blank(p[0]):
        p += 1
    return p


cdef inline verdict_t find_stamp(const char *p, const char *end, stamp_t *stamp) noexcept nogil:
    """Find ``seconds.fraction: [period] [system:]event:``."""
    cdef const char *q = p
    cdef const char *dot = p
    cdef int64_t whole = 0, fraction = 0
    while True:
        p = skip_blanks(p, end)
        if p == end:
            return NOTHING
        if is_digit(p[0]):
            whole = 0
            q = p
            while q < end and q - p < 11 and is_digit(q[0]):
                whole = 10 * whole + q[0] - 48
                q += 1
            dot = q
            if q - p < 11 and q < end and q[0] == b'.':
                fraction = 0
                q += 1
                while q < end and q - dot < 11 and is_digit(q[0]):
                    fraction = 10 * fraction + q[0] - 48
                    q += 1
                if (q - dot == 7 or q - dot == 10) and end - q >= 2 and q[0] == b':' and is_blank(q[1]):
                    break
        while p < end and not is_blank(p[0]):
            p += 1
    if whole >= <int64_t>1 << 32:
        return ASK
    stamp.at = p
    stamp.ns = whole * 1000000000 + (fraction * 1000 if q - dot == 7 else fraction)
    p = skip_blanks(q + 1, end)
    if p - q - 1 > BLANKS:
        return ASK
    if p < end and is_digit(p[0]):  # the period of perf
        q = p
        while p < end and is_digit(p[0]):
            p += 1
        if p - q > 20 or p == end or not is_blank(p[0]):
            return ASK
        q = p
        p = skip_blanks(p, end)
        if p - q > 16 or p == end or is_digit(p[0]):
            return ASK
    q = p
    while p < end and is_word(p[0]):
        p += 1
    if p == q or p - q > 32 or p == end or p[0] != b':':
        return ASK
    stamp.system = end - p > 1 and is_word(p[1])
    if stamp.system:
        p += 1
        q = p
        while p < end and is_word(p[0]):
            p += 1
        if p - q > 64 or p == end or p[0] != b':':
            return ASK
    stamp.event = q
    stamp.length = p - q
    stamp.arguments = p + 1
    return DONE


cdef inline bint mentions_event(const char *p, const char *end) noexcept nogil:
    """Whether the reader might find something in a line without a time."""
    while p < end:
        if p[0] == b'k' and starts(p, end, b"kvm_", 4):
            return True
        if p[0] == b'L' and starts(p, end, b"LOST", 4) or p[0] == b'D' and starts(p, end, b"DROPPED", 7):
            return True
        p += 1
    return False


cdef inline const char *read_vcpu(const char *p, const char *end, int64_t *vcpu) noexcept nogil:
    """Read ``vcpu N``; NULL if that cannot be."""
    cdef const char *q
    if not starts(p, end, b"vcpu ", 5):
        return NULL
    p += 5
    q = p
    vcpu[0] = 0
    while p < end and p - q < 6 and is_digit(p[0]):
        vcpu[0] = 10 * vcpu[0] + p[0] - 48
        p += 1
    return NULL if p == q or p - q > 5 else p


cdef inline verdict_t read_pmi(const char *p, const char *end, bint *pmi) noexcept nogil:
    """Look for the vector of an external interrupt: ``intr_info 0x…``, or the second number of ``info a b``."""
    cdef const char *q
    cdef uint64_t value
    pmi[0] = False
    while True:
        while p < end and p[0] != 32:
            p += 1
        if p == end:
            return DONE
        p += 1
        if starts(p, end, b"intr_info 0x", 12):
            p += 12
        elif starts(p, end, b"info ", 5):
            p += 5
            q = p
            while p < end and hex_digit(p[0]) >= 0:
                p += 1
            if p == q or p - q > 16 or p == end or p[0] != 32:
                return ASK
            p += 1
        else:
            continue
        q = p
        value = 0
        while p < end and p - q < 9 and hex_digit(p[0]) >= 0:
            value = value << 4 | <uint64_t>hex_digit(p[0])
            p += 1
        if p == q or p - q > 8:
            return ASK
        pmi[0] = value & <uint64_t>1 << 31 and value & 0xFF == PMI_VECTOR
        return DONE


cdef inline bint is_svm_write(const char *p, const char *end) noexcept nogil:
    """Whether exit information 1 of SVM's ``msr`` is 1: `` info1 1``, `` info 0x0…01``."""
    cdef const char *q
    cdef int zeros
    while p < end:
        if p[0] == 32 and starts(p, end, b" info", 5):
            q = p + 5
            if q < end and q[0] == b'1':
                q += 1
            if q < end and q[0] == 32:
                q += 1
                if starts(q, end, b"0x", 2):
                    q += 2
                    zeros = 0
                    while q < end and q[0] == b'0' and zeros < 15:
                        q += 1
                        zeros += 1
                if q < end and q[0] == b'1' and (q + 1 == end or hex_digit(q[1]) < 0):
                    return True
        p += 1
    return False


cdef inline bint read_switch(const char *p, const char *end, int64_t *previous, int64_t *following) noexcept nogil:
    """Read the threads of the kernel's sched_switch; false where it might be read in another way, too.

    Names of threads are anybody's, and may look like fields; a bracket may be trace-cmd's format.
    """
    cdef const char *q
    cdef int64_t thread
    cdef int found = 0, bit
    while p < end:
        if p[0] == b'[':
            return False
        if not (starts(p, end, b"prev_pid=", 9) or starts(p, end, b"next_pid=", 9)):
            p += 1
            continue
        bit = 1 if p[0] == b'p' else 2
        if found & bit:
            return False
        found |= bit
        p += 9
        q = p
        thread = 0
        while p < end and p - q < 11 and is_digit(p[0]):
            thread = 10 * thread + p[0] - 48
            p += 1
        if p == q or p - q > 10:
            return False
        if bit == 1:
            previous[0] = thread
        else:
            following[0] = thread
    return found == 3
