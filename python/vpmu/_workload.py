"""Workloads: how often one vCPU exits, for how long, and what its code counts. Exact fractions, no floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np

from ._costs import QUALITIES, Quality
from ._errors import ScenarioError, UnknownName
from ._exits import Clock, Kind, check_exit, exit_kind

Exact = int | str | float | Decimal | Fraction

RATE_ONE = 1 << 32  #: one event per cycle
MAX_RATE = 1 << 36
ACTIVITIES: tuple[str, ...] = ("user", "kernel", "handler", "hypervisor", "host_task")
PER_INSTRUCTION: tuple[str, ...] = ("branches", "branch_misses", "cache_references", "cache_misses")
KIND_FIELDS: tuple[str, ...] = ("kind", "clock", "cpl", "emulates", "blocks")  #: shared with ExitKind
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
    shown = text if isinstance(value, Decimal) else repr(value)
    raise ScenarioError(f"{what} {shown[:40]} must be a number such as 10, '0.25' or '3/4'")


def round_half_up(value: Fraction) -> int:
    """Round to the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def decimal_text(value: Fraction, digits: int = 3) -> str:
    """Write a fraction with a fixed number of decimals, for people."""
    scaled = round_half_up(abs(value) * 10**digits)
    whole, part = divmod(scaled, 10**digits)
    return f"{'-' if value < 0 else ''}{whole:,}" + (f".{part:0{digits}d}" if digits else "")


def plain_integer(value: object) -> object:
    """Return numpy's integers as Python's, anything else as it is."""
    return int(value) if isinstance(value, np.integer) else value


def check_integer(value: object, low: int, high: int, what: str) -> int:
    """Return an integer in [low, high] or raise ScenarioError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        shown = f"{value:#x}" if isinstance(value, int) and abs(value) >= 1 << 64 else repr(value)
        if isinstance(value, Decimal):  # a TOML number
            shown = str(value)
        power = high.bit_length()
        limit = f"2**{power} - 1" if power >= 32 and high == (1 << power) - 1 else high
        raise ScenarioError(f"{what} {shown[:40]} must be an integer from {low} to {limit}")
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
                **{key: getattr(shape, key) for key in KIND_FIELDS},
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
