"""Progress on standard error, where somebody looks."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Report = Callable[[str, int, int], None]

PATIENCE = 2.0
"""Seconds until something is shown."""


@contextlib.contextmanager
def progress_bar() -> Iterator[Report]:
    """Show a bar from the third second on if standard error is a terminal; without rich, one line with a percentage.

    Yields
    ------
    callable
        To be called with (what is done, how much so far, how much to do).
    """
    started = time.monotonic()
    shown: _Rich | _Plain | None = None

    def report(name: str, at: int, end: int) -> None:
        nonlocal shown
        if shown is None:
            if time.monotonic() - started < PATIENCE or not sys.stderr.isatty():
                return
            try:
                shown = _Rich()
            except ImportError:
                shown = _Plain()
        shown.update(name, min(at / max(end, 1), 1.0))

    try:
        yield report
    finally:
        if shown is not None:
            shown.close()


class _Rich:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar: Any = Progress(console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task("", total=1.0)

    def update(self, name: str, part: float) -> None:
        self._bar.update(self._task, description=name, completed=part)

    def close(self) -> None:
        self._bar.stop()


class _Plain:
    def __init__(self) -> None:
        self._line = ""

    def update(self, name: str, part: float) -> None:
        self._write(f"{name} {int(100 * part)} %")

    def close(self) -> None:
        self._write("")
        self._write("\r")

    def _write(self, line: str) -> None:
        if line != self._line:
            sys.stderr.write("\r" + line.ljust(len(self._line)))
            sys.stderr.flush()
            self._line = line
