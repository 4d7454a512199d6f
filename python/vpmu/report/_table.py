"""Tables for people, made with rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .._counter import Counter
from .._result import CAUSES, Result

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

DASH = "\N{EN DASH}"


#: From this many columns on, the tables show the class of a design and why a count is off.
WIDE = 100


def rich_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Make a table whose columns are justified "left" or "right" and never cut, or "wrap"."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    for index, (name, justify) in enumerate(columns):
        # rich cuts what does not fit unless it is told how wide the longest cell is.
        longest = max(len(text) for text in (name, *(row[index] for row in rows)))
        table.add_column(
            name,
            justify="right" if justify == "right" else "left",
            no_wrap=justify != "wrap",
            overflow="fold",
            min_width=min(longest, 12) if justify == "wrap" else longest,
        )
    for row in rows:
        table.add_row(*row)
    return table


def thousands(value: float | None) -> str:
    """A count or rate with thousands separated; rates below 100 keep one digit after the point."""
    if value is None:
        return DASH
    if isinstance(value, int) or value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}"


def percent(fraction: float | None) -> str:
    """Percent with three significant digits at most, and no more than two after the point."""
    if fraction is None:
        return DASH
    value = 100 * fraction
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    if fraction and float(text) == 0:
        return "<0.01 %" if fraction > 0 else ">-0.01 %"
    return f"{text.removeprefix('-') if float(text) == 0 else text} %"


def overhead_text(overhead: float | None, assumed_share: float | None, uncertain: bool = False) -> str:
    """Percent; with ``~`` and one digit where more than half of it rests on assumed costs, or a few exits decide it."""
    if overhead is None or (not uncertain and (assumed_share is None or assumed_share <= 0.5)):
        return percent(overhead)
    value = 100 * overhead
    if abs(value) < 0.01:
        return percent(overhead)
    rounded = float(f"{value:.1g}")
    return f"~{rounded:g} %"


def _share(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.0f} %"


def _why(counter: Counter) -> str:
    if "exact" in counter.flags:
        return "exact"
    causes = [f"lost {thousands(n)} ({cause})" for cause, n in counter.losses.items()]
    causes += [f"gained {thousands(n)} ({cause})" for cause, n in counter.gains.items()]
    flags = [flag for flag in counter.flags if flag not in ("lost", "overcounted")]
    return ", ".join([*flags, *causes])


def _error(counter: Counter) -> str:
    if counter.error is None:
        return DASH
    return "0" if counter.error == 0 else percent(counter.error)


def _costs(results: Mapping[str, Result], wide: bool) -> Table:
    columns = [
        ("Design", "left"),
        ("Class", "left"),
        ("Overhead", "right"),
        ("Profiling", "right"),
        ("Assumed", "right"),
        ("Exits/s", "right"),
        ("Switches/s", "right"),
        ("MSR ops/s", "right"),
        ("PMIs", "right"),
    ]
    rows = []
    for name, result in results.items():
        ops = result.msr_ops_per_second
        rows.append(
            [
                name,
                result.scenario.design.class_ or DASH,
                overhead_text(result.overhead, result.assumed_share, result.uncertain),
                overhead_text(result.overhead_of_profiling, result.assumed_share_of_profiling, result.uncertain),
                _share(result.assumed_share) if result.raw else DASH,
                thousands(result.exits_per_second),
                thousands(result.pmu_switches_per_second),
                thousands(sum(ops.values())) if ops is not None else DASH,
                thousands(result.pmis["delivered"]) if result.raw else DASH,
            ]
        )
    if not wide:
        columns.pop(1)
        for row in rows:
            row.pop(1)
    return rich_table(columns, rows, "Cost")


def _counts(results: Mapping[str, Result], wide: bool) -> Table | None:
    columns = [
        ("Design", "left"),
        ("Side", "left"),
        ("Event", "wrap"),
        ("Reads", "right"),
        ("Should read", "right"),
        ("Error", "right"),
        ("Why", "wrap"),
    ]
    rows = []
    for name, result in results.items():
        shown = name
        for side, counters in (("guest", result.counters), ("host", result.host_events)):
            for c in counters:
                rows.append([shown, side, c.event, thousands(c.value), thousands(c.ideal), _error(c), _why(c)])
                shown = ""
    # On a narrow terminal the reasons stand below the table; without host events there is one side.
    omitted = [] if wide else [6]
    omitted += [] if any(row[1] == "host" for row in rows) else [1]
    for index in omitted:
        columns.pop(index)
        for row in rows:
            row.pop(index)
    return rich_table(columns, rows, "Counts") if rows else None


def _legend(results: Mapping[str, Result]) -> list[str]:
    lines = [
        "Overhead: guest work lost against design none. Profiling: against the same design without guest perf.",
        "Assumed: part of the cycles added that rests on unpublished figures; above one half, a single digit.",
        "Switches: one load and one put of guest PMU state. MSR ops: RDMSR, WRMSR and RDPMC executed, by anybody.",
    ]
    deciding = [
        f"{name} {r.deciding_assumption}" for name, r in results.items() if r.raw and (r.assumed_share or 0) > 0.5
    ]
    if deciding:
        lines.append(f"What decides a ~: {', '.join(deciding)} (assumed; a scenario's costs override it).")
    return lines


def _remarks(results: Mapping[str, Result], wide: bool) -> Iterable[str]:
    shared: dict[str, list[str]] = {}
    for name, result in results.items():
        for text in (result.reason, *result.notes):
            if text:
                shared.setdefault(text, []).append(name)
    for text, names in shared.items():
        yield f"{', '.join(names)}: {text}"
    for name, result in results.items():
        for side, counters in (("guest", result.counters), ("host", result.host_events)):
            for counter in counters:
                parts = [] if wide or "exact" in counter.flags else [_why(counter)]
                parts += [counter.reason] if counter.reason else []
                if parts:
                    yield f"{name}: {side} {counter.event}: {': '.join(parts)}"
        for violation in result.violations:
            yield f"{name}: VIOLATION: {violation}"


def comparison_table(results: Mapping[str, Result], heading: str, width: int) -> list[RenderableType]:
    """What ``vpmu compare`` prints for people on so many columns: costs, counts, remarks, legend."""
    wide = width >= WIDE
    parts: list[RenderableType] = [heading, "", _costs(results, wide)]
    counts = _counts(results, wide)
    if counts is not None:
        parts += ["", counts]
    remarks = list(dict.fromkeys(_remarks(results, wide)))
    if remarks:
        parts += ["", *remarks]
    return [*parts, "", *_legend(results)]


def _vcpus(result: Result) -> list[RenderableType]:
    """Who had the logical CPU for how long, and what each guest counted."""
    if not result.vcpus:
        return []
    wall = result.raw["w"]
    columns = [("vCPU", "right"), ("Workload", "left"), ("Guest work", "right"), ("Steal", "right"), ("Slept", "right")]
    columns += [("Turns", "right"), ("Preempted", "right"), ("Exits", "right"), ("PMIs", "right")]
    turns = [
        [
            str(vcpu.number),
            vcpu.scenario.workload.name,
            percent((vcpu.cycles["guest_user"] + vcpu.cycles["guest_kernel"]) / wall),
            percent(vcpu.steal / wall),
            percent(vcpu.slept / wall),
            thousands(vcpu.raw["turns"]),
            thousands(vcpu.raw["preemptions"]),
            thousands(sum(vcpu.exits.values())),
            thousands(vcpu.pmis["delivered"]),
        ]
        for vcpu in result.vcpus
    ]
    counts = [
        [str(vcpu.number), counter.event, thousands(counter.value), thousands(counter.ideal), _error(counter)]
        for vcpu in result.vcpus
        for counter in vcpu.counters
    ]
    headings = [("vCPU", "right"), ("Event", "left"), ("Reads", "right"), ("Should read", "right"), ("Error", "right")]
    parts: list[RenderableType] = ["", rich_table(columns, turns, "vCPUs")]
    return [*parts, "", rich_table(headings, counts, "Counts by vCPU")] if counts else parts


def run_table(result: Result, heading: str, width: int) -> list[RenderableType]:
    """What ``vpmu run`` prints for people: the comparison's row, where cycles, exits and accesses went, and why."""
    name = str(result.scenario.design)
    parts = comparison_table({name: result}, heading, width)
    if not result.raw:
        return parts
    cycles = rich_table(
        [("Activity", "left"), ("Cycles", "right"), ("Share", "right")],
        [[activity, thousands(n), percent(n / result.raw["w"])] for activity, n in result.cycles.items() if n],
        "Time",
    )
    model = result.scenario.cost_model()
    costs = rich_table(
        [("Spent on", "left"), ("Cycles", "right"), ("Quality", "left")],
        [
            [cost, thousands(n), model[cost].quality if cost in model else "recorded" if cost == "handling" else DASH]
            for cost, n in sorted(result.raw["spent"].items(), key=lambda item: -item[1])
            if n
        ],
        "Cycles by cost",
    )
    exits = rich_table(
        [("Exit", "left"), ("Count", "right"), ("Of them by the PMU", "right")],
        [
            [reason, thousands(n), thousands(result.raw["pmu_exits"].get(reason, 0))]
            for reason, n in sorted(result.exits.items(), key=lambda item: -item[1])
        ],
        "Exits",
    )
    classes = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")
    accesses = []
    for phase in ("setup", "run", "readout"):
        trapped = result.raw["guest_accesses"][phase]["trapped"]
        for origin, counts in [*result.raw["ops"][phase].items(), ("guest, trapped", trapped)]:
            if any(counts.values()):
                accesses.append([phase, origin, *(thousands(counts[c]) for c in classes)])
    headings = ("RDMSR", "RDPMC", "Counter", "Selector", "Global", "LVTPC")
    operations = rich_table(
        [("Accesses", "left"), ("By", "left"), *((heading, "right") for heading in headings)],
        accesses,
        "PMU accesses (WRMSR by register class)",
    )
    pmi = ", ".join(f"{key.replace('_', ' ')} {thousands(n)}" for key, n in result.pmis.items())
    causes = {c for counter in result.counters + result.host_events for c in (*counter.losses, *counter.gains)}
    parts += _vcpus(result)
    for table in (cycles, costs, exits, operations):
        parts += ["", table]
    lines = [f"PMIs: {pmi}"]
    if any(result.host_pmis.values()):
        lines.append("Host PMIs: " + ", ".join(f"{key} {thousands(n)}" for key, n in result.host_pmis.items()))
    if result.raw["rotations"]:
        lines.append(f"Rotations of host events: {thousands(result.raw['rotations'])}")
    if result.counters or result.host_events:
        lines += ["", *result.explain().splitlines()]
    return [*parts, "", *lines, *(f"{cause}: {CAUSES[cause]}" for cause in sorted(causes))]
