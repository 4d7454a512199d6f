# cython: freethreading_compatible=True
"""The time line of one vCPU of a text trace: which exit goes with which entry, and when.

Exits are rows in a small buffer, which goes to a spool when it is full: memory does not grow with their number.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc

from vpmu_core._types cimport int64_t, uint8_t, uint16_t

from array import array

cdef int64_t SECOND = 1000000000

#: Fields of one exit, as they are spooled.
ROW = (
    ("exit_at", "=i8"), ("entry_at", "=i8"), ("msr", "=i8"), ("reason", "=u2"), ("flags", "=u1"),
)
FLAGS = {"userspace": USERSPACE, "handled": HANDLED, "msr_write": MSR_WRITE}


cdef class TraceClock:
    """The time of a trace without the gaps in it.

    A gap of more than a second between two lines, or a jump back of more than a second, starts a new
    segment: no time passes in it.

    Attributes
    ----------
    now : int
        Time of the current line in ns, gaps removed.
    absolute : int
        Time of the current line in ns, as recorded.
    epoch : int
        Changes whenever an open exit can no longer be paired.
    breaks : int
        Gaps and jumps so far.
    gap_ns : int
        Time removed so far.
    """

    def __cinit__(self):
        self.gap_ns = 0
        self.latest = -1

    cpdef int tick(self, int64_t absolute) except -1:
        """Go to the time of the next line, in ns, 0 to 2**32 seconds."""
        cdef int64_t ahead = absolute - self.latest
        if self.latest < 0:
            self.latest = absolute
            # Lines may be up to a second out of order, and no time may become negative.
            self.removed = absolute - SECOND
        elif -SECOND <= ahead <= SECOND:
            if ahead > 0:
                self.latest = absolute
        else:
            self.removed += ahead
            self.latest = absolute
            if ahead > 0:
                self.gap_ns += ahead
            self.breaks += 1
            self.epoch += 1
        self.absolute = absolute
        self.now = absolute - self.removed
        return 0

    cpdef void new_epoch(self):
        """Note that events were lost here: no open exit can be paired."""
        self.epoch += 1


cdef class VcpuTimeline:
    """The exits of one vCPU on one thread.

    Parameters
    ----------
    clock : TraceClock
        The trace's clock; every method means its present time.
    spool : object
        ``write(bytes)`` returns where it put them, ``share()`` how many rows a time line may keep in memory.
    number : int or None
        The vCPU's number, if known.
    hint : int or None
        The number that the thread's name suggests.

    Attributes
    ----------
    count : int
        Exits so far.
    chunks : array of int
        After ``finish``: where rows are in the spool and how many, again and again, in order. Times in ns do not decrease,
        exit <= entry <= next exit, equal for unknown handling; the time of dropped exits is removed.
    begin, end : int
        Clock's time of the first and the last event.
    begin_absolute, end_absolute : int
        The same as recorded.
    first, last : int
        The same on this time line.
    breaks, gap_ns : int
        Gaps of the clock between `begin` and `end`.
    dropped : int
        PMU exits dropped.
    preempted_ns : int
        Time between exits and entries in which the thread, preempted, waited for a CPU.
    """

    def __cinit__(self, TraceClock clock not None, spool, number, hint):
        self.clock = clock
        self.spool = spool
        self.number = number
        self.hint = hint
        self.chunks = array("q")
        self.begin = self.end = self.first = self.last = clock.now
        self.begin_absolute = self.end_absolute = clock.absolute
        self.epoch = clock.epoch
        self.break_base = clock.breaks
        self.gap_base = clock.gap_ns
        self.gap_ns = 0
        self.msr = self.away = -1

    def __dealloc__(self):
        free(self.row)

    @property
    def number(self):
        """The vCPU's number; None if it is not known."""
        return None if self.vcpu < 0 else self.vcpu

    @number.setter
    def number(self, value):
        self.vcpu = -1 if value is None else value

    cpdef bint leave(self, uint16_t reason, bint is_msr, bint write, bint drop) except -1:
        """Leave the guest.

        Parameters
        ----------
        reason : int
            Index of the reason, below 2**16.
        is_msr : bool
            Whether it accesses an MSR, to be told by `access`.
        write : bool
            Whether it writes one.
        drop : bool
            Whether it is the PMU's.

        Returns
        -------
        bool
            False when the line is out of order, and is ignored.
        """
        cdef int64_t at = self.arrive()
        if at < 0:
            return False
        self.give_up()
        self.open = True
        self.opened, self.reason, self.is_msr, self.drop = at, reason, is_msr, drop
        self.flags = MSR_WRITE if write else 0
        self.msr = self.away = -1
        self.waited = 0
        return True

    cpdef bint entry(self) except -1:
        """Enter the guest; closes the open exit, if any. False when the line is out of order, and is ignored."""
        cdef int64_t at = self.arrive()
        if at < 0:
            return False
        if self.open and self.drop:
            self.open = False
            self.dropped += 1
            self.shift += at - self.opened
            self.last = self.opened
        elif self.open:
            self.append(at, HANDLED)
        return True

    cpdef bint access(self, int64_t msr, uint16_t reason, bint write, bint drop) except -1:
        """Say which MSR the open exit accesses; without an open exit this is one, of unknown handling.

        Parameters
        ----------
        msr : int
            Address.
        reason : int
            Index of the reason, if there is no open exit.
        write : bool
            Whether it is written.
        drop : bool
            Whether it is the PMU's.

        Returns
        -------
        bool
            False when the line is out of order, and is ignored.
        """
        if self.open and self.epoch == self.clock.epoch:
            if self.is_msr and self.msr < 0:
                self.msr = msr
                self.flags = self.flags & ~MSR_WRITE | (MSR_WRITE if write else 0)
                self.drop = drop
            return True
        if not self.leave(reason, True, write, drop):
            return False
        self.msr = msr
        self.give_up()
        return True

    cpdef void userspace(self):
        """Note that the open exit returns to user space."""
        if self.open and self.epoch == self.clock.epoch:
            self.flags |= USERSPACE

    def switch_out(self, bint preempted):
        """Note that the thread leaves its CPU; it went to sleep by itself unless it was preempted."""
        self.away = self.clock.now if preempted and self.open else -1

    def switch_in(self):
        """Note that the thread has a CPU again."""
        if self.open and 0 <= self.away <= self.clock.now and self.epoch == self.clock.epoch:
            self.waited += self.clock.now - self.away
        self.away = -1

    def finish(self):
        """End the recording: an exit without an entry is kept, of unknown handling."""
        self.give_up()
        if self.rows:
            self.flush()

    cdef int64_t arrive(self) except -2:
        """Take note of an event now; its time here, or -1 if it is before the last one."""
        cdef TraceClock clock = self.clock
        cdef int64_t at
        if clock.epoch != self.epoch:
            self.give_up()
            self.epoch = clock.epoch
            self.breaks = clock.breaks - self.break_base
            self.gap_ns = clock.gap_ns - self.gap_base
        at = clock.now - self.shift
        if at < self.last:
            return -1
        self.last = at
        self.end = clock.now
        self.end_absolute = clock.absolute
        return at

    cdef int give_up(self) except -1:
        """Wait no longer for the entry of the open exit."""
        if self.open and self.drop:
            self.open = False
            self.dropped += 1
        elif self.open:
            self.append(self.opened, 0)
        return 0

    cdef int append(self, int64_t entry, uint8_t handled) except -1:
        cdef recorded_exit_t *row
        self.open = False
        if handled:
            # Lines of other threads may be out of order by a little: never more than all of it.
            self.preempted_ns += min(self.waited, entry - self.opened)
        if self.rows == self.capacity:
            self.make_room()
        row = &self.row[self.rows]
        row.exit_at = self.opened
        row.entry_at = entry
        row.msr = self.msr
        row.reason = self.reason
        row.flags = self.flags | handled
        self.rows += 1
        self.count += 1
        return 0

    def make_room(self):
        """Double the buffer up to its share, then spool it."""
        cdef Py_ssize_t share = self.spool.share()
        cdef Py_ssize_t capacity = min(max(64, 2 * self.capacity), share)
        cdef void *grown
        if capacity <= self.capacity:
            self.flush()
            return
        grown = realloc(self.row, capacity * sizeof(recorded_exit_t))
        if grown == NULL:
            raise MemoryError
        self.row = <recorded_exit_t *>grown
        self.capacity = capacity

    cdef int flush(self) except -1:
        cdef bytes rows = PyBytes_FromStringAndSize(<char *>self.row, self.rows * sizeof(recorded_exit_t))
        self.chunks.extend((self.spool.write(rows), self.rows))
        self.rows = 0
        return 0
