"""Readers of what people really have: tables and traces of VM-exits.

The dialect is told by content, never by the file's name. Files are untrusted: reading takes time and memory
linear in their size, and raises nothing but :class:`vpmu.RecordingError`.
"""

from __future__ import annotations

import os

from vpmu._errors import RecordingError
from vpmu.recordings._lines import LineReader
from vpmu.recordings._near import KNOWN, near_dialect
from vpmu.recordings._table import TableReader, TableRecording
from vpmu.recordings._table_rows import ExitRow
from vpmu.recordings._trace import TraceRecording
from vpmu.recordings._trace_reader import TraceReader

__all__ = ["ExitRow", "TableRecording", "TraceRecording", "parse_recording"]


def parse_recording(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    table: int | None = None,
    vcpu: int | None = None,
) -> TableRecording | TraceRecording:
    """Read a recording of VM-exits.

    Tables are those of ``perf kvm stat report`` and ``perf kvm stat live``; traces are text with
    ``kvm_exit`` and ``kvm_entry`` (and ``kvm_msr``, ``kvm_userspace_exit``, ``sched_switch`` where present)
    from ftrace, ``trace-cmd report`` or ``perf script``. Prose around them is passed over. Of a file with
    both, what comes first is read, unless `table` or `vcpu` says which.

    Parameters
    ----------
    path : path-like
        The file; read once from start to end, so a pipe will do.
    table : int, optional
        Which table of the file, from 1. The first, by default.
    vcpu : int, optional
        Which vCPU of a trace. The one with most exits, by default.

    Returns
    -------
    TableRecording or TraceRecording
        The exits. Its ``messages`` are meant for standard error.

    Raises
    ------
    RecordingError
        When the file is missing, empty, unreadable, binary or no recording; when there is no such table or
        vCPU; when no exit is left or more than half of the lines that matter cannot be read.
    """
    with LineReader(path) as lines:
        if table is not None and vcpu is not None:
            raise RecordingError(lines.path, None, "--table is for tables, --vcpu for traces: give only one")
        tables, trace = TableReader(lines.path, table), TraceReader(lines.path)
        near: tuple[int, str] | None = None
        numbered = iter(lines)
        for number, text in numbered:
            if vcpu is None and tables.feed(number, text):
                for rest in numbered:
                    tables.feed(*rest)
                return tables.finish(lines.too_long)
            if table is None and trace.feed(number, text):
                for rest in numbered:
                    trace.feed(*rest)
                return trace.finish(vcpu, lines.too_long)
            if near is None and (meaning := near_dialect(text)) is not None:
                near = number, meaning
        raise _unknown(lines, near or _unread(tables, trace), table, vcpu)


def _unread(tables: TableReader, trace: TraceReader) -> tuple[int, str] | None:
    """Name the line that comes nearest to a recording, and what is wrong with it."""
    if tables.header_line is not None:
        return tables.header_line, "the header of a table without rows under it"
    if trace.candidate_line is not None:
        return trace.candidate_line, (
            "lines with events of KVM, but none can be read, this one first: wanted is `comm-pid [cpu] "
            "seconds.microseconds: kvm_exit: …` or perf script's default fields"
        )
    return None


def _unknown(lines: LineReader, near: tuple[int, str] | None, table: int | None, vcpu: int | None) -> RecordingError:
    """Make the error for a file in which no table and no trace was found."""
    if not lines.number:
        return RecordingError(lines.path, None, "the file is empty")
    if near is not None:
        return RecordingError(lines.path, *near)
    if table is not None:
        return RecordingError(lines.path, None, f"no table here (--table is for tables); {KNOWN}")
    if vcpu is not None:
        return RecordingError(lines.path, None, f"no trace here (--vcpu is for traces); {KNOWN}")
    return RecordingError(lines.path, None, f"no recording; {KNOWN}")
