"""Who uses counters: perf in the guest, perf on the host, and how they are written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ._errors import ScenarioError, UnknownName
from ._event_syntax import without_host_modifiers
from ._events import Event, parse_event


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


#: Sysctl kernel.perf_event_max_sample_rate, which perf record's -F cannot exceed.
MAX_SAMPLE_RATE = 100_000


def _members(element: str) -> tuple[str, ...]:
    """Events of one element of a list: its own, or those of a group ``{a,b}`` with the group's modifiers but ``S``."""
    if not element.startswith("{"):
        return (element,)
    inside, closed, modifiers = element[1:].rpartition("}")
    if not closed or "{" in inside or (modifiers and not modifiers.startswith(":")):
        raise ScenarioError(f"group {element!r} must be written {{EVENT,EVENT,…}} or {{EVENT,EVENT,…}}:u")
    names = _split(inside, ",")
    if not all(names):
        raise ScenarioError(f"group {element!r} names no event; write {{instructions,cycles}}")
    modifiers = modifiers.replace("S", "")
    modifiers = "" if modifiers == ":" else modifiers
    return tuple(f"{name}{modifiers}" if not name.endswith("/") else f"{name}{modifiers[1:]}" for name in names)


def _events(events: Sequence[str]) -> tuple[str, ...]:
    if isinstance(events, str) or not events:
        raise ScenarioError(f"events must be a non-empty list of event names, not {events!r}")
    for element in events:
        if not isinstance(element, str):
            raise ScenarioError(f"events must be names: {element!r} is no event")
        for event in _members(element):
            parse_event(event)
    return tuple(events)


def _option(name: str, value: object, low: int, high: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        bound = "2**47 - 1" if high == (1 << 47) - 1 else str(high)
        raise ScenarioError(f"{name} {value!r} must be an integer from {low} to {bound}{what}")
    return value


class _Events:
    """What all who count events have in common."""

    events: tuple[str, ...]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Events, those of a group together."""
        return tuple(_members(element) for element in self.events)

    @property
    def leaders_sample(self) -> tuple[bool, ...]:
        """For each of :attr:`groups`, whether its first event alone samples, and the others are read then (``:S``)."""
        return tuple(element.startswith("{") and "S" in element.rpartition("}")[2] for element in self.events)

    @property
    def names(self) -> tuple[str, ...]:
        """All events, one after the other."""
        return tuple(name for group in self.groups for name in group)


def _task(switches: int | None, threads: bool) -> str:
    if switches is None:
        return ""
    return (f":task={switches}" if switches else ":task") + (":threads" if threads else "")


def _checked_task(task: int | None, threads: bool) -> int | None:
    if not isinstance(threads, bool):
        raise ScenarioError(f"threads must be true or false, not {threads!r}")
    if threads and task is None:
        raise ScenarioError("threads are those of a task; give task, the context switches per second")
    return None if task is None else _option("task", task, 0, 100_000, " switches")


@dataclass(frozen=True)
class PerfStat(_Events):
    """``perf stat`` in the guest: counts from the first to the last cycle.

    Parameters
    ----------
    events : sequence of str
        Events as perf writes them; ``{a,b}`` is a group, which is on the PMU as a whole or not at all.
    interval : int
        Milliseconds between two readings (``perf stat -I``), 1 to 1,000,000; 0: only at the end.
    task : int, optional
        Counts one task instead of the CPU (no ``-a``), with so many context switches per second; each takes the task
        off the CPU, or back.
    threads : bool
        Each context switch is from one thread of the task to another: Linux swaps their contexts, and all is counted.

    Raises
    ------
    UnknownName, ScenarioError
        For events that are not simulated, or an option out of range.
    """

    events: tuple[str, ...]
    interval: int
    task: int | None
    threads: bool

    def __init__(
        self, events: Sequence[str], *, interval: int = 0, task: int | None = None, threads: bool = False
    ) -> None:
        object.__setattr__(self, "interval", _option("interval", interval, 0, 1_000_000, " milliseconds"))
        object.__setattr__(self, "task", _checked_task(task, threads))
        object.__setattr__(self, "threads", threads)
        object.__setattr__(self, "events", _events(events))
        if any(self.leaders_sample):
            raise ScenarioError(f"group {self.events[self.leaders_sample.index(True)]!r}: S samples; use record")

    def __str__(self) -> str:
        interval = f":interval={self.interval}" if self.interval else ""
        return f"stat:{','.join(self.events)}{interval}{_task(self.task, self.threads)}"


@dataclass(frozen=True)
class PerfRecord(_Events):
    """``perf record`` in the guest: a PMI and a sample every ``period`` occurrences, or ``freq`` times a second.

    Parameters
    ----------
    events : sequence of str
        Events as perf writes them; ``{a,b}`` is a group; in ``{a,b}:S`` only a samples, and b is read with each sample.
    period : int
        1 to 2**47 - 1 occurrences (``-c``); 0: by frequency.
    freq : int
        1 to 100,000 samples per second (``-F``), to which Linux adapts the period; 0: by period.
    task : int, optional
    threads : bool
        As in :class:`PerfStat`.
    throttle : bool
        The guest's tick limits how many samples come, as it always does with ``freq``.

    Raises
    ------
    UnknownName, ScenarioError
        For events that are not simulated, or an option out of range.
    """

    events: tuple[str, ...]
    period: int
    freq: int
    task: int | None
    threads: bool
    throttle: bool

    def __init__(
        self,
        events: Sequence[str],
        period: int = 0,
        *,
        freq: int = 0,
        task: int | None = None,
        threads: bool = False,
        throttle: bool = False,
    ) -> None:
        if freq:
            _option("freq", freq, 1, MAX_SAMPLE_RATE, " samples per second (kernel.perf_event_max_sample_rate)")
            if period:
                raise ScenarioError(f"give period ({period!r}) or freq ({freq!r}), not both")
        else:
            _option("period", period, 1, (1 << 47) - 1, "")
        if not isinstance(throttle, bool):
            raise ScenarioError(f"throttle must be true or false, not {throttle!r}")
        object.__setattr__(self, "task", _checked_task(task, threads))
        object.__setattr__(self, "threads", threads)
        object.__setattr__(self, "events", _events(events))
        object.__setattr__(self, "period", period)
        object.__setattr__(self, "freq", freq)
        object.__setattr__(self, "throttle", throttle)

    def __str__(self) -> str:
        how = f"freq={self.freq}" if self.freq else f"period={self.period}"
        limit = ":throttle" if self.throttle else ""
        return f"record:{','.join(self.events)}:{how}{limit}{_task(self.task, self.threads)}"


@dataclass(frozen=True)
class GuestWatchdog(_Events):
    """The guest's own NMI watchdog: a pinned cycles event with a period of ten seconds.

    Linux turns it off in KVM guests unless ``nmi_watchdog=1`` is on its command line.
    """

    events: tuple[str, ...] = ("cycles",)
    task: int | None = None
    threads: bool = False

    #: Sysctl kernel.watchdog_thresh, in seconds of unhalted cycles.
    THRESHOLD: ClassVar[int] = 10

    def __str__(self) -> str:
        return "watchdog"


GuestPerf = PerfStat | PerfRecord | GuestWatchdog
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


_OPTIONS = {
    "stat": ("interval", "task", "threads"),
    "record": ("period", "freq", "task", "threads", "throttle"),
}


def _integer(spec: str, key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ScenarioError(f"guest perf {spec!r}: {key} {text!r} is no integer") from None


def parse_guest_perf(spec: str) -> GuestPerf:
    """Parse ``stat:EVENT,…[:interval=MS]``, ``record:EVENT,…:period=N``, ``record:EVENT,…:freq=HZ`` or ``watchdog``.

    ``:task`` or ``:task=SWITCHES`` counts one task, with ``:threads`` one that switches between its threads;
    ``:throttle`` limits the samples of a period.

    Raises
    ------
    UnknownName, ScenarioError
        With what to write instead.
    """
    head, *rest = _split(spec, ":")
    if spec == "watchdog":
        return GuestWatchdog()
    if head == "watchdog":
        raise ScenarioError(f"guest perf {spec!r}: watchdog takes no events and no options")
    if head not in _OPTIONS:
        raise UnknownName("guest perf command", head, (*_OPTIONS, "watchdog"))
    options: dict[str, str] = {}
    while len(rest) > 1 and (rest[-1] in ("task", "threads", "throttle") or ("=" in rest[-1] and "/" not in rest[-1])):
        key, _, value = rest.pop().partition("=")
        if key in options:
            raise ScenarioError(f"guest perf {spec!r}: {key} is given twice")
        options[key] = value
    names = _split(":".join(rest), ",")
    if not all(names):
        raise ScenarioError(f"guest perf {spec!r} names no event; write {head}:instructions,cycles")
    for key in options:
        if key in ("period", "freq") and head == "stat":
            raise ScenarioError(f"guest perf {spec!r}: {key}= samples; write record:{','.join(names)}:{key}=N")
        if key not in _OPTIONS[head]:
            raise UnknownName("guest perf option", key, _OPTIONS[head])
    for key in ("threads", "throttle"):
        if options.get(key):
            raise ScenarioError(f"guest perf {spec!r}: {key} takes no value")
    threads = "threads" in options
    task = _integer(spec, "task", options["task"] or "0") if "task" in options else None
    numbers = {key: _integer(spec, key, options[key]) for key in ("interval", "period", "freq") if key in options}
    if head == "stat":
        return PerfStat(names, interval=numbers.get("interval", 0), task=task, threads=threads)
    if not numbers:
        raise ScenarioError(
            f"guest perf {spec!r} needs a period or a frequency; write record:{','.join(names)}:period=1000000 "
            "or :freq=4000"
        )
    if len(numbers) > 1:
        raise ScenarioError(f"guest perf {spec!r}: give period= or freq=, not both")
    (key,) = numbers
    _option(key, numbers[key], 1, MAX_SAMPLE_RATE if key == "freq" else (1 << 47) - 1, "")
    return PerfRecord(
        names,
        numbers.get("period", 0),
        freq=numbers.get("freq", 0),
        task=task,
        threads=threads,
        throttle="throttle" in options,
    )


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
