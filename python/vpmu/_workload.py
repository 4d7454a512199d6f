"""Workloads: how often one vCPU exits, for how long, and what its code counts. Exact fractions, no floats."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib import resources
from typing import Any, Literal, Protocol

from ._costs import Quality
from ._errors import ScenarioError, UnknownName
from ._exits import QUALITIES, Clock, Kind, check_exit, exit_kind

Exact = int | str | float | Decimal | Fraction

RATE_ONE = 1 << 32  #: one event per cycle
MAX_RATE = 1 << 36
ACTIVITIES: tuple[str, ...] = ("user", "kernel", "handler", "hypervisor", "host_task")
PER_INSTRUCTION: tuple[str, ...] = ("branches", "branch_misses", "cache_references", "cache_misses")
RATE_FIGURES: tuple[str, ...] = (
    "instructions_per_cycle",
    *(f"{event}_per_instruction" for event in PER_INSTRUCTION),
)


def exact(value: object, what: str) -> Fraction:
    """Make an exact fraction of an integer, a decimal string, ``"a/b"``, or a float's shortest decimal."""
    if isinstance(value, int | Fraction) and not isinstance(value, bool):
        number = Fraction(value)
        if abs(number) < 10**40:
            return number
        raise ScenarioError(f"{what} must be less than 10**40")
    text = float.__repr__(value) if isinstance(value, float) else str(value)
    if isinstance(value, str | float | Decimal) and len(text) <= 80:
        try:
            numerator, slash, denominator = text.partition("/")
            if slash:
                return Fraction(int(numerator), int(denominator))
            decimal = Decimal(text)
            if decimal.is_finite() and -40 <= decimal.adjusted() < 40:
                return Fraction(decimal)
        except (InvalidOperation, ValueError, ZeroDivisionError):
            pass
    raise ScenarioError(f"{what} {value!r} must be a number such as 10, '0.25' or '3/4'")


def round_half_up(value: Fraction) -> int:
    """Round to the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def decimal_text(value: Fraction, digits: int = 3) -> str:
    """Write a fraction with a fixed number of decimals, for people."""
    scaled = round_half_up(abs(value) * 10**digits)
    whole, part = divmod(scaled, 10**digits)
    return f"{'-' if value < 0 else ''}{whole:,}" + (f".{part:0{digits}d}" if digits else "")


def check_integer(value: object, low: int, high: int, what: str) -> int:
    """Return an integer in [low, high] or raise ScenarioError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        shown = f"{value:#x}" if isinstance(value, int) and abs(value) >= 1 << 64 else repr(value)
        raise ScenarioError(f"{what} {shown[:40]} must be an integer from {low} to {high}")
    return value


@dataclass(frozen=True)
class EventRates:
    """Events of one activity, each an integer in units of 2**-32 events per cycle, 0 to 2**36.

    Cycles, ref-cycles, bus-cycles and slots follow from the CPU and are not listed.
    """

    instructions: int = 0
    branches: int = 0
    branch_misses: int = 0
    cache_references: int = 0
    cache_misses: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            check_integer(getattr(self, item.name), 0, MAX_RATE, f"rate of {item.name.replace('_', '-')}")

    @classmethod
    def from_figures(cls, figures: Mapping[str, Exact]) -> EventRates:
        """Make rates of figures per cycle and per instruction; each product is rounded once, half up.

        Parameters
        ----------
        figures : mapping of str to number
            By name, of ``RATE_FIGURES``: `instructions_per_cycle` and the others per instruction. What
            is missing is 0.
        """
        for name in figures:
            if name not in RATE_FIGURES:
                raise UnknownName("rate figure", name, RATE_FIGURES)
        values = {name: exact(figures.get(name, 0), name) for name in RATE_FIGURES}
        ipc = values["instructions_per_cycle"] * RATE_ONE
        per = {event: round_half_up(ipc * values[f"{event}_per_instruction"]) for event in PER_INSTRUCTION}
        return cls(instructions=round_half_up(ipc), **per)

    def as_dict(self) -> dict[str, int]:
        """Rates by perf's event name."""
        return {item.name.replace("_", "-"): getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class SourcedFigure:
    """A figure behind a workload's event rates or user share, as it was written."""

    name: str
    value: str
    quality: Quality
    source: str


@dataclass(frozen=True)
class ExitSource:
    """Exits of one reason, as counted: `count` in `seconds` on `vcpus` vCPUs.

    Parameters
    ----------
    reason : str
        perf's name of the exit reason.
    count : int
        Exits counted, 1 to 2**63.
    seconds : Fraction
        How long; any exact number is taken.
    vcpus : int
        On how many vCPUs together.
    handling_ns : Fraction or None
        Mean time from exit to entry, without the hardware transition; None leaves it to the cost model. Of
        a source that blocks, most of it is idle.
    kind, clock, cpl, emulates, blocks
        As in :class:`ExitKind`.
    source, quality : str
        Provenance of the count.
    handling_source, handling_quality : str, optional
        Provenance of the handling time, if another.
    """

    reason: str
    count: int
    seconds: Fraction
    vcpus: int
    handling_ns: Fraction | None
    kind: Kind
    clock: Clock
    cpl: int
    emulates: bool
    blocks: bool
    source: str = "given with the scenario"
    quality: Quality = "assumed"
    handling_source: str = ""
    handling_quality: Quality | None = None

    def __post_init__(self) -> None:
        check_exit(self.reason, self.kind, self.clock, self.cpl, self.emulates, self.blocks, self.quality)
        check_integer(self.count, 1, 1 << 63, f"{self.reason}: count")
        check_integer(self.vcpus, 1, 1 << 20, f"{self.reason}: vcpus")
        object.__setattr__(self, "seconds", _positive(self.seconds, f"{self.reason}: seconds"))
        if self.handling_ns is not None:
            handling = exact(self.handling_ns, f"{self.reason}: handling_ns")
            if not 0 <= handling <= 10**18:
                raise ScenarioError(f"{self.reason}: handling_ns {handling} must be 0 to 10**18")
            object.__setattr__(self, "handling_ns", handling)
        if self.handling_quality is None:
            object.__setattr__(self, "handling_quality", self.quality)
        elif self.handling_quality not in QUALITIES:
            raise ScenarioError(f"{self.reason}: handling_quality must be one of {', '.join(QUALITIES)}")

    @property
    def per_second(self) -> Fraction:
        """Exits per second of one vCPU."""
        return Fraction(self.count) / (self.seconds * self.vcpus)


@dataclass(frozen=True)
class Workload:
    """What one vCPU does: its exits, and the events that its code causes.

    Parameters
    ----------
    name, summary : str
    exits : tuple of ExitSource
        Exits of one vCPU; may be empty.
    user_share : int
        Share of workload cycles in user mode, in units of 2**-32, 0 to 2**32.
    user, kernel, handler, hypervisor, host_task : EventRates
        Guest user code, guest kernel code, guest interrupt handlers, hypervisor, and a task of the host.
    arrivals : {"exponential", "regular"}
        How exits are spread.
    figures : tuple of SourcedFigure
        Provenance of the user share and the event rates.
    """

    name: str
    summary: str
    exits: tuple[ExitSource, ...]
    user_share: int
    user: EventRates
    kernel: EventRates
    handler: EventRates
    hypervisor: EventRates
    host_task: EventRates
    arrivals: Literal["exponential", "regular"] = "exponential"
    figures: tuple[SourcedFigure, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ScenarioError(f"a workload's name must be a word, not {self.name!r}")
        object.__setattr__(self, "exits", tuple(self.exits))
        object.__setattr__(self, "figures", tuple(self.figures))
        check_integer(self.user_share, 0, RATE_ONE, f"workload {self.name!r}: user_share (units of 2**-32)")
        for item in self.exits:
            if not isinstance(item, ExitSource):
                raise ScenarioError(f"workload {self.name!r}: {item!r} must be an ExitSource")
        for activity in ACTIVITIES:
            if not isinstance(getattr(self, activity), EventRates):
                raise ScenarioError(f"workload {self.name!r}: {activity} must be EventRates")
        if self.arrivals not in ("exponential", "regular"):
            message = f"arrivals {self.arrivals!r} must be 'exponential' or 'regular'"
            raise ScenarioError(f"workload {self.name!r}: {message}")

    @property
    def exits_per_second(self) -> Fraction:
        """Exits per second of one vCPU, all reasons together."""
        return sum((item.per_second for item in self.exits), Fraction(0))


def _positive(value: object, what: str) -> Fraction:
    number = exact(value, what)
    if number <= 0:
        raise ScenarioError(f"{what} {value} must be more than 0")
    return number


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
_KIND = ("kind", "clock", "cpl", "emulates", "blocks")
_HANDLING = ("handling_ns", "handling_source", "handling_quality")
_EXIT = ("reason", "count", "per_second", *_HANDLING, *_RECORDED, *_KIND)


def _exit_source(table: object, recorded: Mapping[str, Any], where: str) -> ExitSource:
    reader = _Reader(table, where, _EXIT)
    reason = reader.get("reason", str)
    reader.where = f"{where} ({reason[:40]!r})"
    handling = reader.table.get("handling_ns")
    if handling is not None:
        handling = exact(handling, f"{reader.where}: handling_ns")
    given = {key: reader.table[key] for key in _KIND if key in reader}
    shape = exit_kind(reason, mean_ns=handling)
    source = ExitSource(
        reason=reason,
        count=reader.get("count", int),
        seconds=exact(reader.table.get("seconds", recorded.get("seconds")), f"{reader.where}: seconds"),
        vcpus=reader.get("vcpus", int, recorded.get("vcpus", 1)),
        handling_ns=handling,
        **{key: given.get(key, getattr(shape, key)) for key in _KIND},
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
    folder = resources.files("vpmu") / "data" / "workloads"
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml")))


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
    text = (resources.files("vpmu") / "data" / "workloads" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_workload(text, name)


class TableRow(Protocol):
    """A row of a `perf kvm stat` table."""

    @property
    def reason(self) -> str:
        """Exit reason."""

    @property
    def count(self) -> int:
        """Exits."""

    @property
    def mean_ns(self) -> int | Fraction | None:
        """Mean time from exit to entry, None if it was not printed."""


def table_workload(
    rows: Iterable[TableRow],
    *,
    recorded_seconds: Exact,
    vcpus: int = 1,
    rates: Workload,
    name: str,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Workload:
    """Make a workload of the rows of a `perf kvm stat` table.

    Parameters
    ----------
    rows : iterable of TableRow
        Rows without exits are left out.
    recorded_seconds : int, str, Decimal, Fraction or float
        How long the recording ran; tables do not say.
    vcpus : int
        How many vCPUs the table adds up.
    rates : Workload
        Gives event rates and user share.
    name : str
        Name of the workload.
    overrides : mapping, optional
        As in :func:`exit_kind`.

    Raises
    ------
    ScenarioError
        For a duration of 0 or less, no exits, or more idle and handling time than fits.
    """
    seconds = _positive(recorded_seconds, "recorded-seconds")
    check_integer(vcpus, 1, 1 << 20, "vcpus")
    exits = []
    busy_ns = Fraction(0)
    for row in rows:
        if row.count == 0:
            continue
        mean = None if row.mean_ns is None else exact(row.mean_ns, f"{row.reason}: mean time")
        shape = exit_kind(row.reason, mean_ns=mean, overrides=overrides)
        source = f"recording {name}"
        if shape.quality == "assumed" and shape.note:
            source += f"; {shape.note}"
        exits.append(
            ExitSource(
                reason=row.reason,
                count=row.count,
                seconds=seconds,
                vcpus=vcpus,
                handling_ns=mean,
                **{key: getattr(shape, key) for key in _KIND},
                source=source,
                quality="published",
            )
        )
        busy_ns += row.count * (mean or 0)
    if not exits:
        raise ScenarioError(f"{name}: the table has no exits; record for longer or pick another table")
    if busy_ns > seconds * vcpus * 10**9:
        fits = -(-busy_ns // (seconds * 10**9))
        raise ScenarioError(
            f"{name}: {decimal_text(busy_ns / 10**9)} s of idle and handling time do not fit into "
            f"{decimal_text(seconds)} s x {vcpus} vCPU; the smallest number that fits is --vcpus {fits}"
        )
    return Workload(
        name=name,
        summary=f"recording {name}",
        exits=tuple(exits),
        user_share=rates.user_share,
        **{activity: getattr(rates, activity) for activity in ACTIVITIES},
        figures=rates.figures,
    )
