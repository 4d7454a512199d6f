"""CSV of ``vpmu compare``, one line per design, side and event, and of ``vpmu list``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from .._counter import Counter
from .._result import Result

_COLUMNS = (
    "design",
    "class",
    "overhead",
    "overhead_of_profiling",
    "assumed_share",
    "exits_per_s",
    "pmu_switches_per_s",
    "side",
    "event",
    "value",
    "ideal",
    "error",
    "losses",
    "gains",
    "flags",
    "reason",
    "violations",
)


def _causes(causes: Mapping[str, int]) -> str:
    return " ".join(f"{cause}={n}" for cause, n in causes.items())


def comparison_csv(results: Mapping[str, Result]) -> str:
    """All rows with a header line; a design without events has one line with empty event columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results.values():
        row = result.to_dict()
        violations = " ".join(result.violations)
        common = [row[name] for name in _COLUMNS[:7]]
        sides: list[tuple[str, Counter]] = [("guest", c) for c in result.counters]
        sides += [("host", c) for c in result.host_events]
        for side, c in sides:
            writer.writerow(
                [
                    *(*common, side, c.event, c.value, c.ideal, c.error),
                    *(_causes(c.losses), _causes(c.gains), " ".join(c.flags), c.reason, violations),
                ]
            )
        if not sides:
            writer.writerow([*common, *[""] * 8, result.reason, violations])
    return out.getvalue()


def rows_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of a list with a header line; truth values are yes and no."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([("no", "yes")[value] if isinstance(value, bool) else value for value in row])
    return out.getvalue()
