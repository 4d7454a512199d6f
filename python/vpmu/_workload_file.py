"""Workloads from TOML files: the built-in ones, and the schema (docs/workloads.md)."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from ._costs import QUALITIES, Quality
from ._data import data_names, data_text
from ._errors import ScenarioError, UnknownName
from ._exits import exit_kind
from ._workload import (
    ACTIVITIES,
    KIND_FIELDS,
    RATE_FIGURES,
    RATE_ONE,
    EventRates,
    Exact,
    ExitSource,
    SourcedFigure,
    Workload,
    decimal_text,
    exact,
    round_half_up,
)


class _Reader:
    """One table of a TOML file: typed access, and an error that says where."""

    def __init__(self, table: object, where: str, known: Iterable[str]) -> None:
        if not isinstance(table, Mapping):
            raise ScenarioError(f"{where} must be a table")
        names = tuple(known)
        for key in table:
            if key not in names:
                raise UnknownName(f"key in {where}", key, names)
        self.table: Mapping[str, Any] = table
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.table

    def get(self, key: str, kind: type, default: object = None) -> Any:
        value = self.table.get(key, default)
        if value is None:
            raise ScenarioError(f"{self.where} lacks {key!r}")
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ScenarioError(f"{self.where}: {key} = {value!r} must be of type {kind.__name__}")
        return value

    def quality(self, key: str = "quality", default: str | None = None) -> Quality:
        value: Quality = self.get(key, str, default)
        if value not in QUALITIES:
            raise ScenarioError(f"{self.where}: {key} = {value!r} must be one of {', '.join(QUALITIES)}")
        return value


def _figure(table: object, name: str, where: str) -> SourcedFigure:
    reader = _Reader(table, f"{where}: {name}", ("value", "quality", "source"))
    value = reader.table.get("value")
    if not isinstance(value, int | str) or exact(value, reader.where) < 0:
        raise ScenarioError(f"{reader.where}: value {value!r} must be a number of 0 or more")
    return SourcedFigure(name, str(value), reader.quality(), reader.get("source", str))


_RECORDED = ("seconds", "vcpus", "source", "quality")
_HANDLING = ("handling_ns", "handling_source", "handling_quality")
_EXIT = ("reason", "count", "per_second", *_HANDLING, *_RECORDED, *KIND_FIELDS)


def _exit_source(table: object, recorded: Mapping[str, Any], where: str) -> ExitSource:
    reader = _Reader(table, where, _EXIT)
    reason = reader.get("reason", str)
    reader.where = f"{where} ({reason[:40]!r})"
    handling = reader.table.get("handling_ns")
    if handling is not None:
        handling = exact(handling, f"{reader.where}: handling_ns")
    given = {key: reader.table[key] for key in KIND_FIELDS if key in reader}
    shape = exit_kind(reason, mean_ns=handling)
    source = ExitSource(
        reason=reason,
        count=reader.get("count", int),
        seconds=exact(reader.table.get("seconds", recorded.get("seconds")), f"{reader.where}: seconds"),
        vcpus=reader.get("vcpus", int, recorded.get("vcpus", 1)),
        handling_ns=handling,
        **{key: given.get(key, getattr(shape, key)) for key in KIND_FIELDS},
        source=reader.get("source", str, recorded.get("source")),
        quality=reader.quality(default=recorded.get("quality")),
        handling_source=reader.get("handling_source", str, ""),
        handling_quality=reader.quality("handling_quality") if "handling_quality" in reader else None,
    )
    if "per_second" in reader:
        shown = str(reader.table["per_second"])
        value, digits = exact(shown, f"{reader.where}: per_second"), len(shown.partition(".")[2])
        if round_half_up(source.per_second * 10**digits) != value * 10**digits:
            right = decimal_text(source.per_second, digits).replace(",", "")
            message = f"per_second = {shown} must be {right}: count / (seconds * vcpus)"
            raise ScenarioError(f"{reader.where}: {message}")
    return source


def parse_workload(text: str, name: str) -> Workload:
    """Read a workload from TOML; rates and user share that it does not give are those of ``generic``.

    Parameters
    ----------
    text : str
        The file's text.
    name : str
        The workload's name, also used in errors.

    Raises
    ------
    ScenarioError
        In one line, with the place in the file.
    """
    where = f"workload {name!r}"
    try:
        data = tomllib.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{where}: not TOML: {error}") from None
    try:
        return _workload_of(data, name, where)
    except ScenarioError as error:
        message = str(error)
        raise ScenarioError(message if message.startswith(where) else f"{where}: {message}") from None


def _workload_of(data: Mapping[str, Any], name: str, where: str) -> Workload:
    top = _Reader(data, where, ("summary", "arrivals", "recorded", "user_share", "exits", "rates"))
    figures = {} if name == "generic" else {item.name: item for item in workload("generic").figures}
    if "user_share" in top:
        figures["user_share"] = _figure(data["user_share"], "user_share", where)
    rates = _Reader(data.get("rates", {}), f"{where}: [rates]", ACTIVITIES)
    for activity in rates.table:
        given = _Reader(rates.table[activity], f"{where}: [rates.{activity}]", RATE_FIGURES)
        for key, value in given.table.items():
            figures[f"{activity}.{key}"] = _figure(value, f"{activity}.{key}", where)
    recorded = _Reader(data.get("recorded", {}), f"{where}: [recorded]", _RECORDED)
    exits = enumerate(top.get("exits", list, []), start=1)
    share = Fraction(0)
    by_activity: dict[str, dict[str, Exact]] = {activity: {} for activity in ACTIVITIES}
    for item in figures.values():
        activity, dot, key = item.name.partition(".")
        if dot:
            by_activity[activity][key] = item.value
        else:
            share = exact(item.value, item.name)
    return Workload(
        name=name,
        summary=top.get("summary", str),
        exits=tuple(_exit_source(row, recorded.table, f"{where}: exit {n}") for n, row in exits),
        user_share=round_half_up(share * RATE_ONE),
        **{activity: EventRates.from_figures(values) for activity, values in by_activity.items()},
        arrivals=top.get("arrivals", str, "exponential"),
        figures=tuple(figures.values()),
    )


@functools.cache
def rates_names() -> tuple[str, ...]:
    """Names whose event rates can be used, ``generic`` included, sorted."""
    return data_names("workloads")


@functools.cache
def workloads() -> tuple[str, ...]:
    """Names of the workloads that have exits, sorted."""
    return tuple(name for name in rates_names() if workload(name).exits)


@functools.cache
def workload(name: str) -> Workload:
    """Look up a workload.

    Parameters
    ----------
    name : str
        One of :func:`workloads`, or ``"generic"``: event rates without exits.

    Raises
    ------
    UnknownName
        With the nearest names.
    """
    if name not in rates_names():
        raise UnknownName("workload", name, rates_names())
    return parse_workload(data_text("workloads", f"{name}.toml"), name)
