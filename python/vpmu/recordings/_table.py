"""Tables of ``perf kvm stat report`` and ``perf kvm stat live``, as people paste them.

Exits by reason with their number and times, from one or several tables in a text. A table begins with a
header line and ends with its "Total Samples" line, at the next header, after a blank line that no row
follows, or at the second line in a row that looks like no row. Mail quoting, indentation, terminal
escapes, rows folded by a mail client, rules between rows and perf's own warnings do no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vpmu._errors import RecordingError
from vpmu.recordings._lines import counted, one_line
from vpmu.recordings._pmu_exits import RDPMC_REASONS
from vpmu.recordings._table_rows import STANDARD_COLUMNS, ExitRow, columns_of, is_header, like_row, read_row

_MAX_ROWS = 4096
_CAPTION_LENGTH = 120
_HEADER_LENGTH = 400

_ESCAPE = re.compile(r"\x1b\[[0-9;?]{0,16}[@-~]", re.ASCII)
_QUOTE = re.compile(r"(?:\s{0,64}[>|] ?){1,16}", re.ASCII)
_HEADER_REST = re.compile(r"(?:\s|Min\b|Max\b|Avg\b|Mean\b|Time\b%?|Samples?\b%?|\(ns\))+", re.ASCII | re.IGNORECASE)
_SPREAD = re.compile(r"(?:\(\s{0,8})?(?:\+-\s{0,16})?(?:[0-9.]{1,12}|-?nan)%\s{0,8}\)?", re.ASCII)
_TOTAL = re.compile(r"Total Samples:\s{0,8}([0-9]{1,16})(?![0-9])", re.ASCII)
_ONE_VCPU = re.compile(r"Analyze events for .{1,200}, VCPU ([0-9]{1,6}):", re.ASCII)
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class TableRecording:
    """One table of exits by reason; its numbers are the whole VM's, and there is no duration.

    Attributes
    ----------
    path : str
        The file.
    rows : tuple of ExitRow
        The rows, in the table's order, at least one. HLT's time is the time blocked.
    table : int
        Which table of the file, from 1.
    tables : int
        How many tables there are.
    caption : str
        The line of prose or the command above it; empty if there is none.
    total_samples : int or None
        The table's own total of exits, if it is there.
    missing_share : float or None
        The part of all exits that no visible row has, from 0 to 1; None when nothing tells.
    skipped_lines : int
        Lines of this table that could not be read.
    dropped_pmu : int
        Exits of rows left out because the PMU caused them (RDPMC).
    messages : tuple of str
        Lines for standard error.
    """

    path: str
    rows: tuple[ExitRow, ...]
    table: int
    tables: int
    caption: str
    total_samples: int | None
    missing_share: float | None
    skipped_lines: int
    dropped_pmu: int
    messages: tuple[str, ...]


class _Table:
    """A table that is being read."""

    __slots__ = (
        "after_blank", "after_odd", "caption", "columns", "complete", "header", "line", "one_vcpu",
        "pending", "rows", "shares", "skipped", "skipped_first", "skipped_rows", "total", "whole_shares",
    )  # fmt: skip

    def __init__(self, line: int, header: str, caption: str, one_vcpu: str) -> None:
        self.line, self.caption, self.one_vcpu = line, caption, one_vcpu
        self.columns = STANDARD_COLUMNS
        self.complete = False
        self.rows: list[ExitRow] = []
        self.shares: list[int] = []  # in units of 0.01 %, of the rows that have one
        self.whole_shares = header.startswith("Event")  # that layout prints whole percents
        self.skipped = self.skipped_rows = 0
        self.skipped_first = 0
        self.total: int | None = None
        self.pending = ""  # an unreadable line that may go on in the next one
        self.after_blank = self.after_odd = False
        self.header = ""
        self.extend(header)

    def extend(self, header: str) -> None:
        """Take the columns' names and units; mail clients fold the header too."""
        self.header = f"{self.header} {header[:_HEADER_LENGTH]}"
        columns = columns_of(self.header)
        self.complete = columns is not None
        # A header cut on the right says nothing about the columns.
        self.columns = columns or STANDARD_COLUMNS

    def skip(self, line: int, text: str) -> None:
        """Count a line that is none of the known ones."""
        self.skipped += 1
        self.skipped_first = self.skipped_first or line
        self.skipped_rows += like_row(text)
        self.pending = text


class TableReader:
    """Find tables in a text, line by line, and keep one of them.

    Parameters
    ----------
    path : str
        The file, for messages.
    wanted : int or None
        Number of the table to keep, from 1; None for the first.

    Attributes
    ----------
    header_line : int or None
        Number of the first line that is a header, rows or not.
    """

    def __init__(self, path: str, wanted: int | None) -> None:
        self._path = path
        self._wanted = 1 if wanted is None else wanted
        self._chosen = wanted is not None
        self._tables = 0
        self._kept: _Table | None = None
        self._current: _Table | None = None
        self._found = False
        self.header_line: int | None = None
        self._caption = self._one_vcpu = ""

    def feed(self, number: int, text: str) -> bool:
        """Take the next line.

        Parameters
        ----------
        number : int
            1-based line number.
        text : str
            The line.

        Returns
        -------
        bool
            True once a header with something like a row under it has been seen: this is a table.

        Raises
        ------
        RecordingError
            When a table has more than 4096 rows.
        """
        text = _plain(text)
        if is_header(text):
            self._end()
            caption = one_line(self._caption, _CAPTION_LENGTH)
            self._current = _Table(number, text, caption, self._one_vcpu)
            self._caption = self._one_vcpu = ""
            if self.header_line is None:
                self.header_line = number
        elif self._current is not None and self._inside(self._current, number, text):
            pass
        elif _WORD.search(text) is not None:
            self._above(text)
        return self._found

    def finish(self, too_long: int = 0) -> TableRecording:
        """Give the table that was asked for.

        Parameters
        ----------
        too_long : int
            Lines that were never fed because of their length, for a message.

        Returns
        -------
        TableRecording
            The table.

        Raises
        ------
        RecordingError
            When there is no such table, more than half of its lines could not be read, or no row is left.
        """
        self._end()
        table = self._kept
        if table is None:
            there = counted(self._tables, "table")
            raise RecordingError(self._path, None, f"no table {self._wanted}: the file has {there}, the first is 1")
        candidates = len(table.rows) + table.skipped
        if 2 * table.skipped > candidates:
            raise RecordingError(
                self._path,
                table.skipped_first,
                f"{table.skipped} of {counted(candidates, 'line')} of the table cannot be read, this one "
                "first: paste the rows whole, and prose after a blank line",
            )
        recording = _recording(self._path, table, self._wanted, self._tables, too_long)
        if self._chosen or self._tables == 1:
            return recording
        caption = f" ({table.caption})" if table.caption else ""
        several = f"{self._tables} tables in {one_line(self._path)}, using the first{caption}"
        return replace(recording, messages=(f"{several}; choose with --table N", *recording.messages))

    def _above(self, text: str) -> None:
        """Remember prose: the line just above a table says what it is about."""
        if "Analyze events for " not in text:
            self._caption = text
        elif found := _ONE_VCPU.search(text):
            self._one_vcpu = found[1]

    def _end(self) -> None:
        """Close the present table, if there is one; a header without anything like a row is none."""
        table = self._current
        self._current = None
        if table is not None and (table.rows or table.skipped_rows):
            self._tables += 1
            if self._tables == self._wanted:
                self._kept = table

    def _inside(self, table: _Table, number: int, text: str) -> bool:
        """Take a line below a header; False when the table ended before it."""
        if _WORD.search(text) is None:
            table.after_blank |= not text
            table.pending = ""
            return True
        folded = not table.complete and not table.rows and len(table.header) < _HEADER_LENGTH
        if folded and _HEADER_REST.fullmatch(text):
            table.extend(text)
            return True
        if found := _TOTAL.match(text):
            table.total = int(found[1])
            self._end()
            return True
        if text.startswith("unknown kvm exit code") or _SPREAD.fullmatch(text):
            return True
        row = read_row(table.columns, number, text)
        if row is None and table.pending:
            row = read_row(table.columns, number, f"{table.pending} {text}")
            if row is not None:
                table.skipped -= 1
                table.skipped_rows -= like_row(table.pending)
        if row is not None:
            if len(table.rows) >= _MAX_ROWS:
                raise RecordingError(self._path, number, f"more than {_MAX_ROWS} rows: no table of exit reasons")
            exit_row, share = row
            table.rows.append(exit_row)
            self._found = True
            if share is not None:
                table.shares.append(share)
            table.pending = ""
            table.after_blank = table.after_odd = False
            return True
        odd = not like_row(text)
        if odd and (table.after_odd or (table.after_blank and (table.rows or table.skipped))):
            self._end()
            return False
        table.after_odd, table.after_blank = odd, False
        table.skip(number, text)
        self._found |= not odd
        return True


def _plain(text: str) -> str:
    """Remove terminal escapes, quote marks of a mail, and space around a line."""
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    quote = _QUOTE.match(text)
    return (text if quote is None else text[quote.end() :]).strip()


def _missing(table: _Table) -> float | None:
    """Estimate the share of exits without a visible row, by the total or else by the percentages."""
    visible = sum(row.count for row in table.rows)
    if table.total is not None and table.total >= visible:
        return (table.total - visible) / table.total
    if table.whole_shares or len(table.shares) < len(table.rows):
        return None
    missing = 10_000 - sum(table.shares)
    # Each printed share is off by up to half of its last digit.
    return 0.0 if 2 * missing <= len(table.shares) else missing / 10_000


def _recording(path: str, table: _Table, number: int, tables: int, too_long: int) -> TableRecording:
    """Turn a finished table into the recording, with all that is to be said about it."""
    rows = tuple(row for row in table.rows if row.reason not in RDPMC_REASONS)
    dropped = sum(row.count for row in table.rows) - sum(row.count for row in rows)
    if not rows:
        why = "its only exits are the PMU's own" if dropped else "no row can be read"
        raise RecordingError(path, table.line, f"nothing left of the table: {why}")
    missing = _missing(table)
    messages = []
    if table.skipped:
        messages.append(
            f"{table.skipped} of {counted(len(table.rows) + table.skipped, 'line')} of the table skipped, "
            f"unreadable (the first: line {table.skipped_first})"
        )
    if too_long:
        messages.append(f"{counted(too_long, 'line')} longer than 64 KiB skipped")
    if missing is not None and missing > 0.005:
        messages.append(f"{100 * missing:.1f} % of the exits are in rows that are not in the file: left out")
    visible = sum(row.count for row in table.rows)
    if (table.total is not None and visible > table.total) or sum(table.shares) > 10_000 + len(table.rows):
        messages.append("the rows have more exits than the table's own total: is a row there twice?")
    if dropped:
        messages.append(f"{counted(dropped, 'exit')} of the PMU (RDPMC) dropped")
    if table.one_vcpu:
        messages.append(f"the table is of vCPU {table.one_vcpu} alone, not of the VM: use --vcpus 1")
    return TableRecording(
        path=path,
        rows=rows,
        table=number,
        tables=tables,
        caption=table.caption,
        total_samples=table.total,
        missing_share=missing,
        skipped_lines=table.skipped,
        dropped_pmu=dropped,
        messages=tuple(messages),
    )
