"""Results for people and for programs: tables, JSON and CSV."""

from __future__ import annotations

from ._csv import comparison_csv, rows_csv
from ._json import comparison_dict
from ._table import comparison_table, rich_table, run_table, thousands

__all__ = [
    "comparison_csv",
    "comparison_dict",
    "comparison_table",
    "rich_table",
    "rows_csv",
    "run_table",
    "thousands",
]
