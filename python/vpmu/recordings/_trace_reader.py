"""Text traces with kvm_exit and kvm_entry: from lines to time lines of vCPUs."""

from __future__ import annotations

from collections.abc import Callable

from vpmu._errors import RecordingError
from vpmu.recordings import _events, _ftrace, _perf_script
from vpmu.recordings._ftrace import Thread
from vpmu.recordings._lines import LINE_LIMIT, counted
from vpmu.recordings._pmu_exits import MSR_REASONS, MSR_WRITE_REASONS, PMU_MSRS, RDPMC_REASONS
from vpmu.recordings._spool import Spool
from vpmu.recordings._trace import TraceRecording, recording_of
from vpmu_core.trace_lines import TraceLines
from vpmu_core.vcpu_trace import TraceClock, VcpuTimeline

_MAX_REASONS = 1024  # x86 has about 80 of them
_MAX_VCPUS = 4096  # threads; KVM allows 4096 vCPUs
_MAX_CACHED = 8192
_LONGEST_PREFIX = 256
_MAX_SECONDS = 1 << 32  # a clock of the epoch fits; the times kept are differences, in int64


class TraceReader:
    """Collect the events of a trace.

    No line and no exit is kept in memory: exits go to a spool. What a line means is decided by ``feed``; ``feed_block``
    reads the common lines in compiled code, which must agree.

    Parameters
    ----------
    path : str
        The file, for messages.

    Attributes
    ----------
    current : dict of int to VcpuTimeline
        The time line that each thread works on.
    reasons : dict of str to int
        Indices of the exit reasons met so far.
    too_long : int
        Lines passed over because of their length.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._dialect = ""
        self._clock = TraceClock()
        self._read = self._skipped = self._lost = 0
        self._first_skipped: int | None = None
        self._no_thread: int | None = None
        self.too_long = 0
        self.reasons: dict[str, int] = {}
        self.current: dict[int, VcpuTimeline] = {}
        self._prefixes: dict[tuple[str, bool], Thread | None] = {}
        self._spool = Spool()
        self._timelines: dict[tuple[int, int | None], VcpuTimeline] = {}
        self._handlers = {
            "kvm_exit": self._exit,
            "kvm_entry": self._entry,
            "kvm_msr": self._msr,
            "kvm_userspace_exit": self._userspace,
        }
        self._lines = TraceLines(self, self._clock, PMU_MSRS)

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    @property
    def candidate_line(self) -> int | None:
        """Number of the first line that should have been an event and cannot be read, if any."""
        return self._first_skipped

    def feed_block(self, block: bytes, start: int, number: int) -> int:
        """Take complete lines.

        Parameters
        ----------
        block : bytes
            Lines, without the line end of the last one.
        start : int
            Where the first one begins.
        number : int
            Its 1-based number.

        Returns
        -------
        int
            Number of the last line.

        Raises
        ------
        RecordingError
            When there are more than 4096 vCPU threads.
        """
        return self._lines.feed(block, start, number)

    def feed(self, number: int, text: str) -> bool:
        """Take the next line.

        Parameters
        ----------
        number : int
            1-based line number.
        text : str
            The line, with or without a carriage return at its end.

        Returns
        -------
        bool
            True once an event of KVM has been read: this is a trace.

        Raises
        ------
        RecordingError
            When there are more than 4096 vCPU threads.
        """
        if len(text) > LINE_LIMIT:
            self.too_long += 1
            return self._read > 0
        text = text.removesuffix("\r")
        found = _events.TIMED_EVENT.search(text)
        if found is None:
            if "LOST" in text or "DROPPED" in text:
                self._lose(text)
            elif _events.mentions_event(text):
                self.skip(number)
            return self._read > 0
        seconds, fraction, system, event = found.groups()
        handler = self._handlers.get(event)
        if (whole := int(seconds)) >= _MAX_SECONDS:
            if handler is not None:
                self.skip(number)
            return self._read > 0
        self._clock.tick(whole * 10**9 + int(fraction) * (1000 if len(fraction) == 6 else 1))
        if handler is not None:
            thread = self.thread(text[: found.start()], system is not None)
            if thread is None and self._no_thread is None:
                self._no_thread = number
            if thread is not None and handler(thread, text, found.end(), number):
                if not self._read:
                    self._dialect = _ftrace.DIALECT if system is None else _perf_script.DIALECT
                self._read += 1
            else:
                self.skip(number)
        elif event == "sched_switch":
            self._switch(text, found.end())
        return self._read > 0

    def finish(
        self,
        vcpu: int | None,
        too_long: int = 0,
        key: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> TraceRecording:
        """Choose a vCPU and give its exits.

        Parameters
        ----------
        vcpu : int or None
            Its number; None for the one with most exits.
        too_long : int
            Lines that were never fed because of their length, for a message.
        key : str, optional
            What to keep the exits under; nothing is kept by default.
        progress : callable, optional
            Called with (what is done, exits so far, exits to do).

        Returns
        -------
        TraceRecording
            The exits.

        Raises
        ------
        RecordingError
            When more than half of the events could not be read, no exit is left, or there is no such vCPU.
        """
        candidates = self._read + self._lines.events + self._skipped
        too_long += self.too_long
        if 2 * self._skipped > candidates:
            raise self._mostly_unreadable(candidates)
        messages: list[str] = []
        if self._skipped:
            messages.append(
                f"{self._skipped} of {counted(candidates, 'line')} with an event of KVM skipped, unreadable "
                f"or out of order (the first: line {self._first_skipped})"
            )
        if too_long:
            messages.append(f"{counted(too_long, 'line')} longer than 64 KiB skipped")
        if self._lost:
            messages.append(f"the tracer lost events in {counted(self._lost, 'place')}: exits are missing there")
        timelines = list(self._timelines.values())
        for timeline in timelines:
            timeline.finish()
        return recording_of(
            path=self._path,
            dialect=self._dialect,
            timelines=timelines,
            reasons=list(self.reasons),
            vcpu=vcpu,
            skipped_lines=self._skipped,
            messages=messages,
            spool=self._spool,
            key=key,
            progress=progress,
        )

    def skip(self, number: int) -> None:
        """Note that a line with an event of KVM could not be used."""
        self._skipped += 1
        if self._first_skipped is None:
            self._first_skipped = number

    def _lose(self, text: str) -> None:
        """After `CPU:2 [LOST 123 EVENTS]` and the like the next entry may belong to another exit."""
        if "EVENTS" in text or "PERF_RECORD_LOST" in text:
            self._lost += 1
            self._clock.new_epoch()

    def what(self, reason: str) -> tuple[bool, bool, bool, bool, bool]:
        """What an exit reason says about its exits.

        Returns
        -------
        tuple of bool
            Accesses an MSR, writes one, is the PMU's, has a vector, may write an MSR.
        """
        return (
            reason in MSR_REASONS,
            reason in MSR_WRITE_REASONS,
            reason in RDPMC_REASONS,
            reason == _events.INTERRUPT_REASON,
            reason in _events.SVM_MSR_REASONS,
        )

    def thread(self, prefix: str, perf: bool) -> Thread | None:
        """Who a line belongs to, by what it has before the time; None if that cannot be read."""
        if len(prefix) > _LONGEST_PREFIX:
            return None
        key = (prefix, perf)
        try:
            return self._prefixes[key]
        except KeyError:
            if len(self._prefixes) >= _MAX_CACHED:
                self._prefixes.clear()
            thread = _perf_script.thread_of(prefix) if perf else _ftrace.thread_of(prefix)
            self._prefixes[key] = thread
            return thread

    def _timeline(self, thread: Thread, vcpu: int | None, line: int) -> VcpuTimeline:
        """Find the time line that a thread works on, where `vcpu` is the number on the line itself."""
        current = self.current.get(thread.tid)
        if current is not None and (vcpu is None or current.number == vcpu):
            return current
        if current is not None and current.number is None:
            # The thread has named its vCPU at last.
            current.number = vcpu
            self._timelines[thread.tid, vcpu] = self._timelines.pop((thread.tid, None))
            return current
        known = self._timelines.get((thread.tid, vcpu))
        if known is None:
            if len(self._timelines) >= _MAX_VCPUS:
                raise RecordingError(
                    self._path, line, f"more than {_MAX_VCPUS} vCPU threads: cut the trace to fewer VMs"
                )
            known = self._timelines[thread.tid, vcpu] = VcpuTimeline(self._clock, self._spool, vcpu, thread.number)
            self._spool.users = len(self._timelines)
        self.current[thread.tid] = known
        return known

    def _reason(self, name: str) -> int | None:
        index = self.reasons.get(name)
        if index is None and len(self.reasons) < _MAX_REASONS:
            index = self.reasons[name] = len(self.reasons)
        return index

    def _exit(self, thread: Thread, text: str, start: int, line: int) -> bool:
        arguments = _events.exit_arguments(text, start)
        if arguments is None:
            return False
        vcpu, name, pmi, svm_msr_write = arguments
        reason = self._reason(name)
        if reason is None:
            return False
        return self._timeline(thread, vcpu, line).leave(
            reason, name in MSR_REASONS, svm_msr_write or name in MSR_WRITE_REASONS, pmi or name in RDPMC_REASONS
        )

    def _entry(self, thread: Thread, text: str, start: int, line: int) -> bool:
        readable, vcpu = _events.entry_vcpu(text, start)
        return readable and self._timeline(thread, vcpu, line).entry()

    def _msr(self, thread: Thread, text: str, start: int, line: int) -> bool:
        arguments = _events.msr_arguments(text, start)
        if arguments is None:
            return False
        write, msr = arguments
        reason = self._reason("MSR_WRITE" if write else "MSR_READ")
        return reason is not None and self._timeline(thread, None, line).access(msr, reason, write, msr in PMU_MSRS)

    def _userspace(self, thread: Thread, text: str, start: int, line: int) -> bool:
        if (timeline := self.current.get(thread.tid)) is not None:
            timeline.userspace()
        return True

    def _switch(self, text: str, start: int) -> None:
        switch = _events.switch_arguments(text, start)
        if switch is None:
            return
        if (timeline := self.current.get(switch.previous)) is not None:
            timeline.switch_out(switch.preempted)
        if (timeline := self.current.get(switch.following)) is not None:
            timeline.switch_in()

    def _mostly_unreadable(self, candidates: int) -> RecordingError:
        hint = "is it cut, or not of x86?"
        if self._no_thread is not None:
            hint = "lines without a thread: keep the default fields (comm, tid, cpu, time, event, trace)"
        return RecordingError(
            self._path,
            self._first_skipped,
            f"{self._skipped} of {counted(candidates, 'line')} with an event of KVM cannot be read, this one "
            f"first ({hint})",
        )
