# The time line of one vCPU of a text trace.
from vpmu_core._types cimport int64_t, uint8_t, uint16_t

cdef enum:
    USERSPACE = 1
    HANDLED = 2
    MSR_WRITE = 4

cdef packed struct recorded_exit_t:
    int64_t exit_at
    int64_t entry_at
    int64_t msr
    uint16_t reason
    uint8_t flags

cdef class TraceClock:
    cdef readonly int64_t now
    cdef readonly int64_t absolute
    cdef readonly int64_t epoch
    cdef readonly int64_t breaks
    cdef readonly object gap_ns  # the sum of jumps forwards, which 64 bits may not hold
    cdef int64_t latest
    cdef int64_t removed
    cpdef int tick(self, int64_t absolute) except -1
    cpdef void new_epoch(self)

cdef class VcpuTimeline:
    cdef readonly TraceClock clock
    cdef readonly int64_t count
    cdef readonly int64_t begin
    cdef readonly int64_t end
    cdef readonly int64_t begin_absolute
    cdef readonly int64_t end_absolute
    cdef readonly int64_t first
    cdef readonly int64_t last
    cdef readonly int64_t breaks
    cdef readonly int64_t dropped
    cdef readonly int64_t preempted_ns
    cdef readonly object gap_ns
    cdef readonly object hint
    cdef readonly object chunks
    cdef object spool
    cdef int64_t vcpu  # -1: not known
    cdef recorded_exit_t *row
    cdef Py_ssize_t rows
    cdef Py_ssize_t capacity
    cdef int64_t epoch
    cdef int64_t break_base
    cdef object gap_base
    cdef int64_t shift
    cdef bint open
    cdef bint is_msr
    cdef bint drop
    cdef int64_t opened
    cdef int64_t msr
    cdef uint16_t reason
    cdef uint8_t flags
    cdef int64_t away
    cdef int64_t waited
    cdef int64_t arrive(self) except -2
    cdef int give_up(self) except -1
    cdef int append(self, int64_t entry, uint8_t handled) except -1
    cdef int flush(self) except -1
    cpdef bint leave(self, uint16_t reason, bint is_msr, bint write, bint drop) except -1
    cpdef bint entry(self) except -1
    cpdef bint access(self, int64_t msr, uint16_t reason, bint write, bint drop) except -1
    cpdef void userspace(self)
