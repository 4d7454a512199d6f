"""Why a counter is off, in plain English: made of the integers of a result alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._errors import ScenarioError, UnknownName
from ._why import host_waits, milliseconds, who_has

if TYPE_CHECKING:
    from ._counter import Counter
    from ._result import Result


def share(part: int, whole: int) -> str:
    """Percent to one decimal, halves rounded up; 0 % and 100 % only if it is exactly that, empty if whole is 0."""
    if not whole:
        return ""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    tenths = (2000 * part + whole) // (2 * whole)
    if not tenths:
        return "<0.1 %"
    if tenths == 1000:
        return ">99.9 %" if part < whole else ">100 %"
    return f"{tenths // 10}.{tenths % 10} %"


def mean(total: int, n: int) -> int:
    """An average as an integer, halves rounded up."""
    return (2 * total + n) // (2 * n)


def _plural(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


@dataclass(frozen=True)
class _Case:
    """One counter of a result."""

    result: Result
    counter: Counter
    #: Its place among the guest's events, or among the host's.
    place: int
    of_guest: bool

    @property
    def row(self) -> Mapping[str, Any]:
        rows: list[dict[str, Any]] = self.result.raw["counters" if self.of_guest else "host"]
        return rows[self.place]

    @property
    def name(self) -> str:
        return f"{'guest' if self.of_guest else 'host'} {self.counter.event}"

    def milliseconds(self, n: int) -> str:
        """Of an event's times: nanoseconds in the guest, cycles on the host."""
        return f"{n / 10**6:.3g} ms" if self.of_guest else milliseconds(n, self.result.scenario)


#: What a cause means for a counter, and what to change; both with the numbers of this run.
_Words = tuple[str, str]


def _not_scheduled(case: _Case) -> _Words:
    scenario, raw = case.result.scenario, case.result.raw
    if case.of_guest:
        name = scenario.guest_requests()[case.place].event.name
        own = zip(scenario.host_perf, raw["host"], strict=False)
        before = [str(e) for e, row in own if e.pinned and row["state"] == "active"]
        change = "a design that backs no guest counter with a host event (mediated, virtualized, dedicated)"
        if before:
            first = f"{_plural(len(before), 'pinned host event')} ({', '.join(dict.fromkeys(before))})"
            change = f"unpin or end one of {first}, or take {change}"
        where = who_has(name, scenario, raw, len(raw["host"]) + case.place)
        return f"the pinned host event that backs it found no counter and was in ERROR; {where}", change
    event, row = scenario.host_perf[case.place], case.row
    if scenario.fails(event):
        return "perf_event_open failed with EOPNOTSUPP beside a mediated VM", "add :exclude_guest to it"
    if row["throttled"] and row["running"] == row["enabled"]:
        return (
            f"perf throttled it {_plural(row['throttled'], 'time')} for its {_plural(row['samples'], 'sample')}, each "
            "time up to the next tick",
            "a longer period or a lower frequency",
        )
    others = len(raw["host"]) - 1
    others += len(scenario.guest_requests()) if scenario.design.backed_by_host_events else 0
    return (
        host_waits(case.place, event, row, scenario, raw),
        f"fewer host events at once, there are {_plural(others, 'other')}{_scaled(case.counter)}",
    )


def _scaled(counter: Counter) -> str:
    return "" if counter.scaled is None else f" (scaled by its times, as perf does, it is {counter.scaled:,})"


def _emulated_instruction(case: _Case) -> _Words:
    exits = sum(case.result.exits.values())
    lost = "emulated_instruction" in case.counter.losses
    what = "were not added to it" if lost else "were added to it while it should not have counted"
    return (
        f"instructions that the hypervisor emulated in {_plural(exits, 'exit')} {what}",
        f"nothing in the guest: design {case.result.scenario.design.name} does so at the edges of what it counts",
    )


def _window(case: _Case) -> _Words:
    _, _, _, hypervisor, blind, task, _ = case.result.raw["clocks"]
    host = hypervisor + blind + task
    options = case.result.scenario.design.options()
    shorter = "a design that leaves host perf its PMU (emulated)"
    inside = sum(case.result.exits.values()) - case.result.raw["switches"]
    if options.get("scope") not in (None, "every-exit") and inside > 0:
        more = _plural(inside, "more switch", "more switches")
        shorter = f"scope=every-exit in place of {options['scope']} ({more}), or {shorter}"
    return (
        f"it is out of the PMU while guest state is loaded: {blind:,} of {host:,} cycles of host code "
        f"({share(blind, host)}), in {_plural(case.result.raw['switches'], 'switch', 'switches')}",
        shorter,
    )


def _pmu_disabled(case: _Case) -> _Words:
    raw = case.result.raw
    parts = (
        _plural(raw["reprograms"], "reprogramming") + " of guest counters",
        _plural(raw["host_pmi"]["handled"], "PMI") + " of the host's own",
        _plural(raw["rotations"], "rotation"),
    )
    said = ", ".join(part for part in parts if not part.startswith("0 ")) or "placing its events"
    return f"host perf has GLOBAL_CTRL at 0 while it schedules and samples ({said})", "less for host perf to do of that"


def _ceded(case: _Case) -> _Words:
    what = f"the host has given its PMU up to the guest (design {case.result.scenario.design.name})"
    return what, "a design that shares the PMU (mediated, emulated)"


def _host_stale(case: _Case) -> _Words:
    switches = _plural(case.result.raw["switches"], "switch", "switches")
    what = f"hardware counted for it where its attributes exclude it ({switches})"
    return what, "a switch sequence that takes host events out before guest state comes in"


def _filtered(case: _Case) -> _Words:
    scenario = case.result.scenario
    on = scenario.placement()[case.place]
    event = scenario.guest_requests()[case.place].event
    if on >= 32:
        return (
            f"the VM's event filter denies fixed counter {on - 32}, which the guest is never told",
            f"bit {on - 32} of the filter's fixed_counter_bitmap",
        )
    return (
        f"the VM's event filter denies {event.text} (selector {event.selector_code:#x}), which the guest is never told",
        f"a filter that admits {event.text}",
    )


def _period_rejected(case: _Case) -> _Words:
    least = case.result.scenario.cpu.limit_period("instructions", 1)
    return (
        f"host perf refused the event that backs it: its period of {case.row['period']:,} is below the least that "
        f"{case.result.scenario.cpu.name} takes ({least:,})",
        f"a period of {least:,} or more",
    )


def _wrong_counter(case: _Case) -> _Words:
    captured = _plural(case.result.raw["ops"]["run"]["hypervisor"]["wrmsr_selector"], "selector")
    return (
        f"its selector was put on a hardware counter that counts something else ({captured} captured)",
        "direct-capture,constraints=host, or emulated",
    )


def _multiplexed(case: _Case) -> _Words:
    counter = case.counter
    shares: dict[str, list[str]] = {}
    for i, other in enumerate(case.result.counters):
        if i != case.place:
            shares.setdefault(share(other.running, other.enabled) or "0 %", []).append(other.event)
    others = ", ".join(f"{' '.join(names)} for {part}" for part, names in shares.items())
    own = share(counter.running, counter.enabled) or "0 %"
    return (
        f"it waited for its turn and had a counter for {case.milliseconds(counter.running)} of "
        f"{case.milliseconds(counter.enabled)} ({own}); the others had one: {others}",
        f"fewer than {_plural(len(case.result.counters), 'event')} in the guest at once{_scaled(counter)}",
    )


def _throttled(case: _Case) -> _Words:
    return (
        f"the guest's kernel stopped it {_plural(case.counter.throttled, 'time')} for its "
        f"{_plural(case.counter.samples, 'sample')}, each time up to its next tick",
        "a longer period or a lower frequency",
    )


def _overwritten(case: _Case) -> _Words:
    handled = _plural(case.result.raw["host_pmi"]["handled"], "PMI")
    cpu = case.result.scenario.cpu.name
    return (
        f"{cpu} has no global enable bits: its counter ran on between the read and the write of its next period "
        f"({handled})",
        "fewer samples, or a CPU with PerfMonV2",
    )


_WORDS: dict[str, Callable[[_Case], _Words]] = {
    "not_scheduled": _not_scheduled,
    "emulated_instruction": _emulated_instruction,
    "window": _window,
    "pmu_disabled": _pmu_disabled,
    "ceded": _ceded,
    "host_stale": _host_stale,
    "filtered": _filtered,
    "period_rejected": _period_rejected,
    "wrong_counter": _wrong_counter,
    "multiplexed": _multiplexed,
    "throttled": _throttled,
    "overwritten": _overwritten,
}


def _samples(case: _Case) -> str:
    counter = case.counter
    if not counter.samples_expected and not counter.samples:
        return ""
    lost = counter.samples_expected - counter.samples
    said = f"Of {_plural(counter.samples_expected, 'sample')} expected, {counter.samples:,} were taken"
    if lost > 0:
        said += f" and {lost:,} lost ({share(lost, counter.samples_expected)})"
        pmi = case.result.raw["pmi" if case.of_guest else "host_pmi"]
        whose = "guest" if case.of_guest else "host"
        if pmi["lost"] or pmi["pending"]:
            said += (
                f"; of the {whose}'s PMIs {pmi['lost']:,} were lost and {pmi['pending']:,} were under way at the end"
            )
    if counter.samples:
        late = _plural(mean(counter.samples_late, counter.samples), "cycle")
        said += f"; on average one came {late} after its overflow"
    return said + "."


def _balance(counter: Counter) -> str:
    if counter.value == counter.ideal:
        return f"is exact: it read {counter.value:,} and should have read as many"
    off = abs(counter.value - counter.ideal)
    part = share(off, counter.ideal)
    which = "missing" if counter.value < counter.ideal else "too many"
    return (
        f"read {counter.value:,} and should have read {counter.ideal:,}: {off:,} "
        f"{'is' if off == 1 else 'are'} {which}" + (f" ({part})" if part else "")
    )


def _paragraph(case: _Case) -> str:
    counter = case.counter
    parts = [f"{case.name} {_balance(counter)}"]
    ways = [(n, "lost", cause) for cause, n in counter.losses.items()]
    ways += [(n, "gained", cause) for cause, n in counter.gains.items()]
    if not ways and counter.value == counter.ideal:
        parts[0] += ", with no loss and no gain"
    elif counter.value == counter.ideal:
        parts[0] += ", but only because what it lost and what it gained cancel"
    changes = []
    for n, way, cause in sorted(ways, key=lambda entry: (-entry[0], entry[2], entry[1])):
        means, change = _WORDS[cause](case)
        part = share(n, counter.ideal)
        parts.append(f"It {way} {n:,} ({f'{part} of what it should have read, ' if part else ''}{cause}): {means}")
        changes.append(change)
    if changes:
        parts.append("To change: " + "; ".join(dict.fromkeys(changes)))
    return " ".join(filter(None, (*(f"{part}." for part in parts), _samples(case))))


def _off(case: _Case) -> bool:
    counter = case.counter
    return "exact" not in counter.flags or counter.samples < counter.samples_expected


def explain(result: Result, counter: int | str | None = None) -> str:
    """See :meth:`vpmu.Result.explain`."""
    if result.reason:
        return f"{result.scenario.design} has no counters: {result.reason}."
    cases = [_Case(result, c, i, True) for i, c in enumerate(result.counters)]
    cases += [_Case(result, c, i, False) for i, c in enumerate(result.host_events)]
    if counter is None:
        chosen = [case for case in cases if _off(case)]
        if not chosen:
            said = ", ".join(f"{case.name} {case.counter.value:,}" for case in cases)
            return f"Every counter is exact, each read what it should: {said}." if cases else "There are no counters."
    elif isinstance(counter, str):
        chosen = [case for case in cases if counter in (case.counter.event, case.name)]
        if not chosen:
            raise UnknownName("counter of this result", counter, [case.counter.event for case in cases])
    elif isinstance(counter, bool) or not isinstance(counter, int) or not 0 <= counter < len(cases):
        raise ScenarioError(f"counter {counter!r} must be an event's name or 0 to {len(cases) - 1}, guest events first")
    else:
        chosen = [cases[counter]]
    return "\n".join(_paragraph(case) for case in chosen)
