"""Readers of what people really have: tables and traces of VM-exits.

The dialect is told by content, never by the file's name. Files are untrusted: reading takes time and memory
linear in their size, and raises nothing but :class:`vpmu.RecordingError`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from vpmu._errors import RecordingError
from vpmu.recordings import _cache
from vpmu.recordings._lines import LineReader, text_of
from vpmu.recordings._near import KNOWN, near_dialect
from vpmu.recordings._table import TableReader, TableRecording
from vpmu.recordings._table_rows import ExitRow
from vpmu.recordings._trace import TraceRecording, recording_from
from vpmu.recordings._trace_columns import COLUMNS
from vpmu.recordings._trace_reader import TraceReader

__all__ = ["ExitRow", "TableRecording", "TraceRecording", "parse_recording"]

Progress = Callable[[str, int, int], None]

_LEAST_KEPT = 1 << 20  # bytes of a file; smaller ones are read in no time


def parse_recording(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    table: int | None = None,
    vcpu: int | None = None,
    progress: Progress | None = None,
) -> TableRecording | TraceRecording:
    """Read a recording of VM-exits.

    Tables are those of ``perf kvm stat report`` and ``perf kvm stat live``; traces are text with
    ``kvm_exit`` and ``kvm_entry`` (and ``kvm_msr``, ``kvm_userspace_exit``, ``sched_switch`` where present)
    from ftrace, ``trace-cmd report`` or ``perf script``. Prose around them is passed over. Of a file with
    both, what comes first is read, unless `table` or `vcpu` says which.

    The exits of a trace file of 1 MiB or more are kept in the user's cache directory, and mapped from there when a file
    of the same content is read again (``docs/recordings.md``). Memory does not grow with the length of a trace.

    Parameters
    ----------
    path : path-like
        The file; read once from start to end, so a pipe will do.
    table : int, optional
        Which table of the file, from 1. The first, by default.
    vcpu : int, optional
        Which vCPU of a trace. The one with most exits, by default.
    progress : callable, optional
        Called with (what is done, so far, to do) now and then.

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
    with LineReader(path, progress) as lines, TraceReader(lines.path) as trace:
        if table is not None and vcpu is not None:
            raise RecordingError(lines.path, None, "--table is for tables, --vcpu for traces: give only one")
        tables = TableReader(lines.path, table)
        near: tuple[int, str] | None = None
        blocks = lines.blocks()
        for block in blocks:
            at = 0
            for line in block.split(b"\n"):
                at += len(line) + 1
                lines.number += 1
                number = lines.number
                text = text_of(line)
                if text is None:
                    lines.too_long += 1
                elif vcpu is None and tables.feed(number, text):
                    return _table(tables, lines, _rest(block, at, blocks))
                elif table is None and trace.feed(number, text):
                    return _trace(trace, lines, _rest(block, at, blocks), vcpu, progress)
                elif near is None and (meaning := near_dialect(text)) is not None:
                    near = number, meaning
        raise _unknown(lines, near or _unread(tables, trace), table, vcpu)


def _rest(block: bytes, at: int, blocks: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """What is left of a file: blocks, and where their lines begin."""
    if at <= len(block):
        yield block, at
    for piece in blocks:
        yield piece, 0


def _table(tables: TableReader, lines: LineReader, rest: Iterator[tuple[bytes, int]]) -> TableRecording:
    """Read the rest of a file that has begun with a table."""
    for block, start in rest:
        for line in block[start:].split(b"\n"):
            lines.number += 1
            if (text := text_of(line)) is None:
                lines.too_long += 1
            else:
                tables.feed(lines.number, text)
    return tables.finish(lines.too_long)


def _trace(
    trace: TraceReader,
    lines: LineReader,
    rest: Iterator[tuple[bytes, int]],
    vcpu: int | None,
    progress: Progress | None,
) -> TraceRecording:
    """Read the rest of a file that has begun with a trace, unless its exits are in the cache."""
    key, before = None, None
    again = lines.same_file()
    if again is not None:
        with again, contextlib.suppress(OSError):  # a file that cannot be read to its end fails below, with its name
            before = os.fstat(again.fileno())
            if before.st_size >= _LEAST_KEPT and _cache.limit():
                key = _cache.key_of("trace", _cache.content_of(again, progress), vcpu)
                if (stored := _cache.find(key, COLUMNS)) is not None:
                    return recording_from(lines.path, key, stored)
    try:
        for block, start in rest:
            lines.number = trace.feed_block(block, start, lines.number + 1)
        if before is not None and not lines.unchanged(before):
            key = None
        return trace.finish(vcpu, lines.too_long, key, progress)
    except OSError as error:
        raise RecordingError(
            lines.path,
            None,
            f"no room for its exits on disk ({error.strerror or error}): free some, or set VPMU_CACHE_DIR or TMPDIR",
        ) from None


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
