"""The lines of a table of ``perf kvm stat``: columns, rows, and what only looks like them."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_COUNT = 1 << 53
MAX_TIME_NS = 10**18  # 10**9 seconds

_HEADER = re.compile(r"(?:VM-EXIT|Event name)\s+Samples\b", re.ASCII)
_COLUMN = re.compile(
    r"(Samples(?!%)|Samples?%|Time%|(?:(?:Min|Max|Avg|Mean)\s{1,64})?Time)(?:\s?\((ns|us|ms|s)\))?",
    re.ASCII | re.IGNORECASE,
)
_KINDS = {
    "samples": "count", "samples%": "share", "sample%": "share", "time%": "time_share", "time": "sum",
    "min time": "min", "max time": "max", "avg time": "mean", "mean time": "mean",
}  # fmt: skip
STANDARD_COLUMNS = tuple((kind, "") for kind in ("count", "share", "time_share", "min", "max", "mean"))
"""Kind and unit of perf's columns, for headers that are cut: the unit is in the cells."""

_REASON = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,16}", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3})\.([0-9]{2})%", re.ASCII)
_TIME = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?(ns|us|ms|s)?", re.ASCII)
_MEASURE = re.compile(r"[0-9]{1,19}\.[0-9]{1,9}(?:%|[num]?s)", re.ASCII)
_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


@dataclass(frozen=True)
class ExitRow:
    """One row of a table.

    Attributes
    ----------
    reason : str
        Name of the exit reason, as recorded. A table may have several rows of one name (``UNKNOWN``).
    count : int
        Number of exits, from 1 to 2**53.
    mean_ns : int
        Mean time from exit to entry in ns, at most 10**18; what perf prints, exactly.
    line : int
        1-based number of the line.
    min_ns, max_ns : int or None
        Shortest and longest time in ns, if the table has them.
    """

    reason: str
    count: int
    mean_ns: int
    line: int
    min_ns: int | None = None
    max_ns: int | None = None


def is_header(text: str) -> bool:
    """Tell whether a line is the header of a table of exits.

    Parameters
    ----------
    text : str
        The line, without space before it.

    Returns
    -------
    bool
        False for tables of other events.
    """
    return _HEADER.match(text) is not None


def columns_of(header: str) -> tuple[tuple[str, str], ...] | None:
    """Read the columns' names.

    Parameters
    ----------
    header : str
        The header line.

    Returns
    -------
    tuple of (str, str) or None
        Kind (count, share, time_share, min, max, mean, sum) and unit (empty if it is in the cells) of each
        column after the reason; None when there is no count or neither mean nor sum, as in a cut header.
    """
    columns = tuple(
        (_KINDS[" ".join(found[1].lower().split())], (found[2] or "").lower()) for found in _COLUMN.finditer(header)
    )
    kinds = [kind for kind, _ in columns]
    return columns if "count" in kinds and ("mean" in kinds or "sum" in kinds) else None


def like_row(text: str) -> bool:
    """Tell whether a line that cannot be read was meant to be a row.

    Parameters
    ----------
    text : str
        The line.

    Returns
    -------
    bool
        True for a name and a number, or if there is a share or a time in it.
    """
    words = text.split(None, 3)
    if len(words) < 2:
        return False
    if _REASON.fullmatch(words[0]) and _COUNT.fullmatch(words[1]):
        return len(words) == 2 or words[2][:1].isdigit() or words[2].startswith(".")
    return any(_MEASURE.fullmatch(word) for word in text[:400].split())


def read_row(columns: tuple[tuple[str, str], ...], line: int, text: str) -> tuple[ExitRow, int | None] | None:
    """Read a row.

    Parameters
    ----------
    columns : tuple of (str, str)
        From `columns_of`.
    line : int
        1-based line number.
    text : str
        The line.

    Returns
    -------
    tuple of (ExitRow, int or None) or None
        The row and its share in units of 0.01 %, if it has one; None when a cell is missing or senseless.
    """
    words = text[:2000].split()
    if len(words) <= len(columns) or _REASON.fullmatch(words[0]) is None:
        return None
    values: dict[str, int] = {}
    for (kind, unit), word in zip(columns, words[1:], strict=False):
        value = _value(kind, unit, word)
        if value is None:
            return None
        values[kind] = value
    count = values["count"]
    mean = values["mean"] if "mean" in values else (2 * values["sum"] + count) // (2 * count)
    return ExitRow(words[0], count, mean, line, values.get("min"), values.get("max")), values.get("share")


def _value(kind: str, unit: str, word: str) -> int | None:
    """Read one cell: a count, a share in units of 0.01 %, or a time in ns; None if it is none."""
    if kind == "count":
        count = int(word) if _COUNT.fullmatch(word) else 0
        return count if 1 <= count <= MAX_COUNT else None
    if kind in {"share", "time_share"}:
        found = _SHARE.fullmatch(word)
        share = int(found[1] + found[2]) if found is not None else MAX_COUNT
        return share if share <= 10_000 else None
    found = _TIME.fullmatch(word)
    if found is None or not (unit := found[3] or unit):
        return None
    fraction = found[2] or ""
    # Decimal digits to ns without floating point; digits below 1 ns are rounded half up.
    scale = 10 ** len(fraction)
    time = (2 * int(found[1] + fraction) * _NS[unit] + scale) // (2 * scale)
    return time if time <= MAX_TIME_NS else None
