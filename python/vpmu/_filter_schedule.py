"""When which event filter holds: the option ``event_filter`` of a design, its short form and its file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ._data import read_toml
from ._errors import ScenarioError, UnknownName
from ._event_filter import ACTIONS, EventFilter, MaskedEvent
from ._workload import exact

#: Filters with the second of the run from which each holds; one from 0 on is in place before the vCPU runs.
Schedule = tuple[tuple[Fraction, EventFilter], ...]

#: Most filters of a run.
MAX_FILTERS = 1000

_KEYS = ("action", "events", "fixed_counter_bitmap", "masked", "vendor")
_ENTRY_KEYS = ("event", "match", "mask", "exclude")


def filter_schedule(value: object) -> Schedule:
    """Make a schedule of what an option may be.

    Parameters
    ----------
    value : None, EventFilter, str or sequence
        No filter; one filter; its short form or the name of a TOML file; or pairs of seconds and such a filter.

    Returns
    -------
    tuple of (Fraction, EventFilter)
        In order of time.

    Raises
    ------
    EventFilterError, UnknownName, ScenarioError
    """
    if value is None:
        return ()
    if isinstance(value, EventFilter):
        return ((Fraction(0), value),)
    if isinstance(value, str):
        return _schedule_of_text(value)
    if not isinstance(value, Sequence):
        raise ScenarioError(f"event_filter must be an EventFilter or a list of (seconds, EventFilter), not {value!r}")
    pairs = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ScenarioError(f"event_filter: {pair!r} must be a pair of seconds and an EventFilter")
        given = filter_schedule(pair[1])
        if len(given) != 1 or given[0][0]:
            raise ScenarioError(
                f"event_filter: {pair[1]!r} must be one EventFilter; an empty deny list allows everything"
            )
        pairs.append((_seconds(pair[0]), given[0][1]))
    return _in_order(pairs)


def _seconds(value: Any) -> Fraction:
    at = exact(value, "event_filter: seconds")
    if not 0 <= at < 10**9:
        raise ScenarioError(f"event_filter: seconds {value} must be 0 or more, and less than 10**9")
    return at


def _in_order(pairs: Sequence[tuple[Fraction, EventFilter]]) -> Schedule:
    for (before, _), (after, _) in itertools.pairwise(pairs):
        if after <= before:
            raise ScenarioError(f"event_filter: {float(after):g} s does not come after {float(before):g} s")
    if len(pairs) > MAX_FILTERS:
        raise ScenarioError(f"event_filter: {len(pairs)} filters, and a run has at most {MAX_FILTERS}")
    return tuple(pairs)


# -- the short form ---------------------------------------------------------------------------------------------------


def _schedule_of_text(text: str) -> Schedule:
    """``FILE.toml``, or filters as :meth:`EventFilter.__str__` writes them, joined by ``;``, with ``@SECONDS``."""
    if text.endswith(".toml"):
        return read_event_filter(text)
    pairs = []
    for part in text.split(";"):
        written, at, seconds = part.partition("@")
        pairs.append((_seconds(seconds) if at else Fraction(0), _filter_of_text(written)))
    return _in_order(pairs)


def _filter_of_text(text: str) -> EventFilter:
    action, *parts = text.split(":")
    if action not in ACTIONS:
        raise UnknownName("action of an event filter (or FILE.toml)", action, ACTIONS)
    arguments: dict[str, Any] = {}
    for i, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if key == "fixed" and equals:
            try:
                arguments["fixed_counter_bitmap"] = int(value, 0)
            except ValueError:
                raise ScenarioError(f"event_filter {text!r}: fixed={value} is no integer") from None
        elif part == "masked":
            arguments["masked"] = True
        elif part in ("intel", "amd"):
            arguments["vendor"] = part
        elif i == 0:
            arguments["events"] = tuple(part.split("+"))
        else:
            raise ScenarioError(
                f"event_filter {text!r}: {part!r} is none of fixed=BITMAP, masked, amd; events come first, joined by +"
            )
    return EventFilter(action, **arguments)


def schedule_text(schedule: Schedule) -> str:
    """The short form; of what one file had, the file's name."""
    sources = {made.source for _, made in schedule}
    if len(sources) == 1 and "" not in sources:
        return sources.pop()
    return ";".join(f"{made}@{_decimal(at)}" if at else str(made) for at, made in schedule)


def _decimal(at: Fraction) -> str:
    """Seconds as a decimal if it is exact."""
    decimal = f"{float(at):g}"
    return decimal if Fraction(decimal) == at else str(at)


# -- files ------------------------------------------------------------------------------------------------------------


def read_event_filter(path: str) -> Schedule:
    """Read event filters from a TOML file.

    Its keys are the arguments of :class:`vpmu.EventFilter`; an entry of ``events`` may be a table of the arguments of
    :class:`vpmu.MaskedEvent`. Tables ``[[changes]]`` have the same keys and ``at``, in seconds.

    Parameters
    ----------
    path : str

    Returns
    -------
    tuple of (Fraction, EventFilter)
        What the option ``event_filter`` takes.

    Raises
    ------
    EventFilterError, UnknownName, ScenarioError
        With the file's name.
    """
    return schedule_of_table(read_toml(path), path, os.fspath(path))


def schedule_of_table(table: Mapping[str, Any], where: str, source: str = "") -> Schedule:
    """Make a schedule of a table of TOML.

    Parameters
    ----------
    table : mapping
    where : str
        Where it stands, for messages.
    source : str
        The file that it is all of.

    Returns
    -------
    tuple of (Fraction, EventFilter)
    """
    own = dict(table)
    changes = own.pop("changes", [])
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise ScenarioError(f"{where}: changes are tables, [[changes]], each with at and the keys of a filter")
    pairs = []
    if own:
        pairs.append((Fraction(0), _filter_of_table(own, where, source)))
    elif not changes:
        raise ScenarioError(f"{where}: an event filter needs an action, {' or '.join(ACTIONS)}")
    for i, change in enumerate(changes, 1):
        keys = dict(change)
        if "at" not in keys:
            raise ScenarioError(f"{where}: change {i} needs at, in seconds")
        pairs.append((_seconds(keys.pop("at")), _filter_of_table(keys, f"{where}: change {i}", source)))
    return _in_order(pairs)


def _filter_of_table(table: Mapping[str, Any], where: str, source: str) -> EventFilter:
    for key in table:
        if key not in _KEYS:
            raise UnknownName(f"key of an event filter in {where}", key, (*_KEYS, "changes"))
    if "action" not in table:
        raise ScenarioError(f"{where}: an event filter needs an action, {' or '.join(ACTIONS)}")
    arguments = dict(table)
    events = arguments.get("events", [])
    if not isinstance(events, list):
        raise ScenarioError(f"{where}: events is a list, such as [0xC0, 'branches'], not {events!r}")
    arguments["events"] = tuple(_entry_of_table(entry, where) if isinstance(entry, dict) else entry for entry in events)
    return EventFilter(**arguments, source=source)


def _entry_of_table(entry: Mapping[str, Any], where: str) -> MaskedEvent:
    for key in entry:
        if key not in _ENTRY_KEYS:
            raise UnknownName(f"key of a masked event in {where}", key, _ENTRY_KEYS)
    if "event" not in entry:
        raise ScenarioError(f"{where}: a masked event is {{event = 0xD0, match, mask, exclude}}, not {dict(entry)}")
    return MaskedEvent(**entry)
