"""Rows of ``vpmu list``: what can be named on the command line."""

from __future__ import annotations

from typing import Any

from ._cpu import CpuModel, cpu
from ._cpu_listing import cpu_rows
from ._errors import ScenarioError
from ._event_codes import named_codes
from ._event_files import FileEvent, read_events
from ._events import CODES, METRICS, allowed_counters, gp_codes, perf_codes
from ._registry import design, designs
from ._sequence_listing import COLUMNS, sequence_rows
from ._sequences import sequence, sequences
from ._workload_file import workload, workloads

#: What there are lists of.
LISTS = ("cpus", "designs", "workloads", "sequences", "events")
#: Under the table of a CPU's events.
EVENTS_NOTE = (
    "rates: workloads say how often it occurs, so that compare and run can count it. A second code is that of GP\n"
    "counters. code only: vpmu.event() knows the name, vpmu.Pmu.count() takes the code in column raw."
)


def _places(gp: int, fixed: int) -> str:
    places = [f"fixed{i}" for i in range(16) if fixed >> i & 1] + ([f"GP {gp:#x}"] if gp else [])
    return " ".join(places) or "none"


def _event_rows(model: CpuModel) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    second = gp_codes(model)
    own = named_codes(model)
    rows: list[tuple[Any, ...]] = []
    for name, code in perf_codes(model).items():
        gp, fixed = allowed_counters(name, model)
        raws, places = [f"r{code:04x}"], []
        if name in METRICS and not gp | fixed:
            places.append("PERF_METRICS")
        if name in second:
            raws.append(f"r{second[name][0]:04x}")
            gp |= second[name][1]
        if gp | fixed:
            places.append(_places(gp, fixed))
        rates = name in CODES and model.costs is not None
        rows.append((name, " ".join(raws), " ".join(places), rates, "code only" if name in own else ""))
    return ("name", "raw", f"counters_on_{model.name}", "rates", "notes"), rows


def _file_event_row(event: FileEvent) -> tuple[Any, ...]:
    raws = [f"r{event.selector(i, user=False, kernel=False):04x}" for i in range(event.positions)]
    registers = [f"{index:#x}={value:#x}" for index, value in zip(event.msr_index, event.msr_value, strict=True)]
    notes = (
        [event.unit] * bool(event.unit)
        + ["deprecated"] * event.deprecated
        + ["taken alone"] * event.taken_alone
        + (["MSR " + " or ".join(registers)] if registers else [])
        + ([f"errata {event.errata}"] if event.errata else [])
    )
    places = _places(event.gp_counters, event.fixed_counters)
    return event.name, " ".join(raws), places, event.sample_after_value, "; ".join(notes)


def list_rows(
    what: str, cpu_name: str | None = None, events_file: str | None = None
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """What ``vpmu list`` shows.

    Parameters
    ----------
    what : str
        One of :data:`LISTS`.
    cpu_name : str, optional
        For events: whose; for sequences: on which CPU their accesses are counted.
    events_file : str, optional
        For events: those of an event file; see :func:`vpmu.read_events`.

    Returns
    -------
    (tuple of str, list of tuple)
        Names of the columns, and the rows.

    Raises
    ------
    UnknownName, EventFileError, ScenarioError
        For a CPU that does not exist, a file that cannot be read, or either where it does not belong.
    """
    if what != "events" and events_file is not None:
        raise ScenarioError(f"--events-file belongs to events, not to {what}")
    if what not in ("events", "sequences") and cpu_name is not None:
        raise ScenarioError(f"--cpu belongs to events and sequences, not to {what}")
    if events_file == "":
        raise ScenarioError("--events-file needs the name of a file, not ''")
    if what == "cpus":
        columns, rows = cpu_rows()
        return columns, list(rows)
    if what == "designs":
        made = [design(name) for name in designs()]
        return ("name", "class", "host_version", "options", "summary"), [
            (d.name, d.class_ or "", d.host_version or "", d.options_help, d.summary) for d in made
        ]
    if what == "workloads":
        made_workloads = [workload(name) for name in workloads()]
        return ("name", "exits_per_s", "summary"), [
            (w.name, round(float(w.exits_per_second), 1), w.summary) for w in made_workloads
        ]
    if what == "sequences" and cpu_name is not None:
        return COLUMNS, sequence_rows(cpu(cpu_name))
    if what == "sequences":
        made_sequences = [sequence(name) for name in sequences()]
        return ("name", "load_steps", "put_steps", "summary"), [
            (s.name, len(s.load), len(s.put), s.summary) for s in made_sequences
        ]
    if events_file is None:
        return _event_rows(cpu(cpu_name or "sapphirerapids"))
    events = read_events(events_file, None if cpu_name is None else cpu(cpu_name))
    return ("name", "raw", "counters", "sample_after", "notes"), [_file_event_row(event) for event in events]
