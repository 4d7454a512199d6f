"""Who uses counters: perf in the guest, perf on the host, and how they are written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._errors import ScenarioError, UnknownName
from ._event_syntax import without_host_modifiers
from ._events import Event, parse_event


def _events(events: Sequence[str]) -> tuple[str, ...]:
    if isinstance(events, str) or not events:
        raise ScenarioError(f"events must be a non-empty list of event names, not {events!r}")
    for event in events:
        parse_event(event)
    return tuple(events)


@dataclass(frozen=True)
class PerfStat:
    """``perf stat -a`` in the guest: counts from the first to the last cycle.

    Parameters
    ----------
    events : sequence of str
        Events as perf writes them.

    Raises
    ------
    UnknownName, ScenarioError
        For events that are not simulated.
    """

    events: tuple[str, ...]

    def __init__(self, events: Sequence[str]) -> None:
        object.__setattr__(self, "events", _events(events))

    def __str__(self) -> str:
        return f"stat:{','.join(self.events)}"


@dataclass(frozen=True)
class PerfRecord:
    """``perf record -a -c period`` in the guest: a PMI and a sample every ``period`` occurrences.

    Parameters
    ----------
    events : sequence of str
        Events as perf writes them.
    period : int
        1 to 2**47 - 1 occurrences.

    Raises
    ------
    UnknownName, ScenarioError
        For events that are not simulated, or a period out of range.
    """

    events: tuple[str, ...]
    period: int

    def __init__(self, events: Sequence[str], period: int) -> None:
        if isinstance(period, bool) or not isinstance(period, int) or not 1 <= period < 1 << 47:
            raise ScenarioError(f"period {period!r} must be an integer from 1 to 2**47 - 1")
        object.__setattr__(self, "events", _events(events))
        object.__setattr__(self, "period", period)

    def __str__(self) -> str:
        return f"record:{','.join(self.events)}:period={self.period}"


GuestPerf = PerfStat | PerfRecord
#: perf_event_max_sample_rate, samples per second, as Linux has it by default.
MAX_SAMPLE_RATE = 100_000
#: watchdog_thresh.
WATCHDOG_SECONDS = 10
# Occurrences per second from which Linux guesses a first period (intel_pmu_freq_start_period()).
_START_RATES = dict.fromkeys(("cycles", "instructions", "bus-cycles", "ref-cycles"), 500_000_000)
_START_RATES |= dict.fromkeys(("branches", "branch-misses"), 125_000_000)
_START_RATES |= dict.fromkeys(("cache-references", "cache-misses"), 25_000_000)


@dataclass(frozen=True)
class HostEvent:
    """An event of the host's perf; without ``period`` and ``freq`` it counts.

    Parameters
    ----------
    event : str
        Event as perf writes it; modifier G is exclude_host, H exclude_guest.
    pinned : bool
        Goes before all that are not, and to ERROR if no counter is free; else it is flexible: it waits for its turn.
    exclude_guest, exclude_host : bool
        Not in guest mode; only in guest mode.
    name : str
        For reports; the event by default.
    task : bool
        An event of the vCPU's thread (``perf stat -t``), which is out while the thread sleeps; else of the CPU.
    period : int, optional
        A sample after so many occurrences, 1 to 2**47 - 1.
    freq : int, optional
        So many samples per second, 1 to 100,000 (perf_event_max_sample_rate); perf finds the period.

    Raises
    ------
    UnknownName, ScenarioError
        For what is not simulated.
    """

    event: str
    pinned: bool = True
    exclude_guest: bool = False
    exclude_host: bool = False
    name: str = ""
    task: bool = False
    period: int | None = None
    freq: int | None = None

    def __post_init__(self) -> None:
        event, exclude_guest, exclude_host = without_host_modifiers(self.event)
        object.__setattr__(self, "event", event)
        object.__setattr__(self, "exclude_guest", self.exclude_guest or exclude_guest)
        object.__setattr__(self, "exclude_host", self.exclude_host or exclude_host)
        parse_event(self.event)
        if self.exclude_guest and self.exclude_host:
            raise ScenarioError(f"host event {self.event!r}: exclude_guest and exclude_host together count nothing")

        for key, most, said in (("period", (1 << 47) - 1, "2**47 - 1"), ("freq", MAX_SAMPLE_RATE, "100000")):
            value = getattr(self, key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ScenarioError(f"host event {self.event!r}: {key} {value!r} must be an integer from 1 to {said}")
        if self.period is not None and self.freq is not None:
            raise ScenarioError(f"host event {self.event!r}: give a period or a frequency, not both")

    @property
    def parsed(self) -> Event:
        """The event, parsed."""
        return parse_event(self.event)

    def first_period(self, core_hz: int) -> int:
        """The period that it begins with, 0 if it counts (Linux intel_pmu_freq_start_period())."""
        if self == WATCHDOG:
            return WATCHDOG_SECONDS * core_hz
        if self.freq is None:
            return self.period or 0
        return max(-(-_START_RATES.get(self.parsed.name, 256_000) // self.freq) - 1, 1)

    def __str__(self) -> str:
        if self.name:
            return self.name
        options = [":pinned"] if self.pinned else []
        options += [":task"] if self.task else []
        options += [":exclude_guest"] if self.exclude_guest else []
        options += [":exclude_host"] if self.exclude_host else []
        options += [f":freq={self.freq}"] if self.freq is not None else []
        options += [f":period={self.period}"] if self.period is not None else []
        return self.event + "".join(options)


#: The NMI watchdog: a pinned cycles event in all modes, with an NMI after ten seconds of unhalted cycles
#: (watchdog_thresh; Linux hw_nmi_get_sample_period()). It is never throttled.
WATCHDOG = HostEvent("cycles", name="watchdog")


def _split(text: str, separator: str) -> list[str]:
    """Split outside ``/…/`` and ``{…}``."""
    parts, depth, slashed, start = [], 0, False, 0
    for i, character in enumerate(text):
        slashed ^= character == "/"
        depth += (character == "{") - (character == "}")
        if character == separator and not depth and not slashed:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def parse_guest_perf(spec: str) -> GuestPerf:
    """Parse ``stat:EVENT,…`` or ``record:EVENT,…:period=N``.

    Raises
    ------
    UnknownName, ScenarioError
        With what to write instead.
    """
    head, *rest = _split(spec, ":")
    if head not in ("stat", "record"):
        raise UnknownName("guest perf command", head, ("stat", "record"))
    options: dict[str, str] = {}
    while len(rest) > 1 and "=" in rest[-1] and "/" not in rest[-1]:
        key, _, value = rest.pop().partition("=")
        if key in options:
            raise ScenarioError(f"guest perf {spec!r}: {key}= is given twice")
        options[key] = value
    names = _split(":".join(rest), ",")
    if not all(names):
        raise ScenarioError(f"guest perf {spec!r} names no event; write {head}:instructions,cycles")
    if any(name.startswith("{") for name in names):
        raise ScenarioError(f"guest perf {spec!r}: event groups are not simulated yet; list the events")
    for key in options:
        if key in ("freq", "interval"):
            raise ScenarioError(f"guest perf {spec!r}: {key}= is not simulated yet; use stat:… or record:…:period=N")
        if key == "period" and head == "stat":
            raise ScenarioError(f"guest perf {spec!r}: period= samples; write record:{','.join(names)}:period=N")
        if key != "period":
            raise UnknownName("guest perf option", key, ("period",) if head == "record" else ("(none)",))
    if head == "stat":
        return PerfStat(names)
    if "period" not in options:
        raise ScenarioError(f"guest perf {spec!r} needs a period; write record:{','.join(names)}:period=1000000")
    try:
        period = int(options["period"])
    except ValueError:
        raise ScenarioError(f"guest perf {spec!r}: period {options['period']!r} is no integer") from None
    return PerfRecord(names, period)


def parse_host_perf(spec: str) -> HostEvent:
    """Parse ``EVENT[:pinned][:task][:exclude_guest|:exclude_host][:freq=HZ|:period=N]`` or ``watchdog``.

    Raises
    ------
    UnknownName, ScenarioError
        With what to write instead.
    """
    if spec == "watchdog":
        return WATCHDOG
    head, *rest = _split(spec, ":")
    flags = {"pinned": False, "task": False, "exclude_guest": False, "exclude_host": False}
    numbers: dict[str, int] = {}
    for option in rest:
        key, equals, value = option.partition("=")
        if option in flags:
            flags[option] = True
        elif equals and key in ("freq", "period"):
            if key in numbers:
                raise ScenarioError(f"host perf {spec!r}: {key}= is given twice")
            if not (value.isascii() and value.isdigit()):
                raise ScenarioError(f"host perf {spec!r}: {key} {value!r} is no integer; write {key}=4000")
            numbers[key] = int(value)
        elif option and set(option) <= set("ukGH"):
            head += f":{option}"
        else:
            raise UnknownName("host perf option", option, (*flags, "freq=HZ", "period=N", "u", "k", "G", "H"))
    return HostEvent(
        head,
        flags["pinned"],
        flags["exclude_guest"],
        flags["exclude_host"],
        task=flags["task"],
        period=numbers.get("period"),
        freq=numbers.get("freq"),
    )
