"""The time line of one vCPU: which exit goes with which entry, and when."""

from __future__ import annotations

from array import array

from vpmu.recordings._pmu_exits import PMU_MSRS

SECOND = 10**9

USERSPACE, HANDLED, MSR_WRITE = 1, 2, 4
"""Bits of `VcpuTimeline.flags`."""


class TraceClock:
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

    __slots__ = ("_latest", "_removed", "absolute", "breaks", "epoch", "gap_ns", "now")

    def __init__(self) -> None:
        self.now = self.absolute = self.epoch = self.breaks = self.gap_ns = 0
        self._latest = -1
        self._removed = 0

    def tick(self, absolute: int) -> None:
        """Go to the time of the next line.

        Parameters
        ----------
        absolute : int
            Its time in ns, >= 0.
        """
        ahead = absolute - self._latest
        if self._latest < 0:
            self._latest = absolute
            # Lines may be up to a second out of order, and no time may become negative.
            self._removed = absolute - SECOND
        elif -SECOND <= ahead <= SECOND:
            if ahead > 0:
                self._latest = absolute
        else:
            self._removed += ahead
            self._latest = absolute
            self.gap_ns += max(ahead, 0)
            self.breaks += 1
            self.epoch += 1
        self.absolute = absolute
        self.now = absolute - self._removed


class VcpuTimeline:
    """The exits of one vCPU on one thread, in columns.

    Parameters
    ----------
    clock : TraceClock
        The trace's clock; every method means its present time.
    number : int or None
        The vCPU's number, if known.
    hint : int or None
        The number that the thread's name suggests.

    Attributes
    ----------
    exit_at, entry_at : array of int64
        Times in ns, not decreasing, exit <= entry <= next exit; equal for unknown handling. The time of
        dropped exits is removed.
    reason : array of uint16
        Index of the reason.
    msr : array of int64
        MSR address, -1 if unknown or none.
    flags : array of uint8
        USERSPACE, HANDLED, MSR_WRITE.
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

    __slots__ = (
        "_away", "_break_base", "_clock", "_drop", "_epoch", "_flags", "_gap_base", "_is_msr", "_msr",
        "_open", "_opened", "_reason", "_shift", "_waited", "begin", "begin_absolute", "breaks",
        "dropped", "end", "end_absolute", "entry_at", "exit_at", "first", "flags", "gap_ns", "hint",
        "last", "msr", "number", "preempted_ns", "reason",
    )  # fmt: skip

    def __init__(self, clock: TraceClock, number: int | None, hint: int | None) -> None:
        self.number, self.hint = number, hint
        self.exit_at, self.entry_at, self.msr = array("q"), array("q"), array("q")
        self.reason, self.flags = array("H"), array("B")
        self.begin = self.end = self.first = self.last = clock.now
        self.begin_absolute = self.end_absolute = clock.absolute
        self.breaks = self.gap_ns = self.dropped = self.preempted_ns = 0
        self._clock = clock
        self._epoch, self._break_base, self._gap_base = clock.epoch, clock.breaks, clock.gap_ns
        self._shift = 0
        self._open = False
        # The open exit.
        self._opened = self._reason = self._flags = 0
        self._msr = -1
        self._is_msr = self._drop = False
        self._away = -1
        self._waited = 0

    def exit(self, reason: int, *, is_msr: bool, write: bool, drop: bool) -> bool:
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
        at = self._arrive()
        if at is None:
            return False
        self._unpaired()
        self._open = True
        self._opened, self._reason, self._is_msr, self._drop = at, reason, is_msr, drop
        self._flags = MSR_WRITE if write else 0
        self._msr = self._away = -1
        self._waited = 0
        return True

    def entry(self) -> bool:
        """Enter the guest; closes the open exit, if any.

        Returns
        -------
        bool
            False when the line is out of order, and is ignored.
        """
        at = self._arrive()
        if at is None:
            return False
        if self._open and self._drop:
            self._open = False
            self.dropped += 1
            self._shift += at - self._opened
            self.last = self._opened
        elif self._open:
            self._append(at, HANDLED)
        return True

    def access(self, msr: int, reason: int, *, write: bool) -> bool:
        """Say which MSR the open exit accesses; without an open exit this is one, of unknown handling.

        Parameters
        ----------
        msr : int
            Address.
        reason : int
            Index of the reason, if there is no open exit.
        write : bool
            Whether it is written.

        Returns
        -------
        bool
            False when the line is out of order, and is ignored.
        """
        if self._open and self._epoch == self._clock.epoch:
            if self._is_msr and self._msr < 0:
                self._msr = msr
                self._flags = self._flags & ~MSR_WRITE | (MSR_WRITE if write else 0)
                self._drop = msr in PMU_MSRS
            return True
        if not self.exit(reason, is_msr=True, write=write, drop=msr in PMU_MSRS):
            return False
        self._msr = msr
        self._unpaired()
        return True

    def userspace(self) -> None:
        """Note that the open exit returns to user space."""
        if self._open and self._epoch == self._clock.epoch:
            self._flags |= USERSPACE

    def switch_out(self, preempted: bool) -> None:
        """Note that the thread leaves its CPU.

        Parameters
        ----------
        preempted : bool
            False when it went to sleep by itself.
        """
        self._away = self._clock.now if preempted and self._open else -1

    def switch_in(self) -> None:
        """Note that the thread has a CPU again."""
        if self._open and 0 <= self._away <= self._clock.now and self._epoch == self._clock.epoch:
            self._waited += self._clock.now - self._away
        self._away = -1

    def finish(self) -> None:
        """End the recording: an exit without an entry is kept, of unknown handling."""
        self._unpaired()

    def _arrive(self) -> int | None:
        """Take note of an event now; its time here, or None if it is before the last one."""
        clock = self._clock
        if clock.epoch != self._epoch:
            self._unpaired()
            self._epoch = clock.epoch
            self.breaks = clock.breaks - self._break_base
            self.gap_ns = clock.gap_ns - self._gap_base
        at = clock.now - self._shift
        if at < self.last:
            return None
        self.last = at
        self.end = clock.now
        self.end_absolute = clock.absolute
        return at

    def _unpaired(self) -> None:
        """Give up waiting for the entry of the open exit."""
        if self._open and self._drop:
            self._open = False
            self.dropped += 1
        elif self._open:
            self._append(self._opened, 0)

    def _append(self, entry: int, handled: int) -> None:
        self._open = False
        if handled:
            # Lines of other threads may be out of order by a little: never more than all of it.
            self.preempted_ns += min(self._waited, entry - self._opened)
        self.exit_at.append(self._opened)
        self.entry_at.append(entry)
        self.reason.append(self._reason)
        self.msr.append(self._msr)
        self.flags.append(self._flags | handled)
