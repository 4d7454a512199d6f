"""Tables for people, made with rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .._errors import VpmuError
from .._result import CAUSES, Counter, Result

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

DASH = "–"  # noqa: RUF001  # an en dash is what typesetters use for "none"


def _rich_table(*columns: tuple[str, str], title: str = "") -> Table:
    try:
        from rich import box
        from rich.table import Table
    except ImportError:
        raise VpmuError("tables need rich: pip install 'vpmu[cli]' (or use --format json)") from None
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for name, justify in columns:
        table.add_column(
            name,
            justify="right" if justify == "right" else "left",
            no_wrap=justify != "wrap",
            overflow="fold",
        )
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


def overhead_text(overhead: float | None, assumed_share: float | None) -> str:
    """Percent; with ``~`` and one digit where more than half of it rests on assumed costs (semantics, rule 39)."""
    if overhead is None or assumed_share is None or assumed_share <= 0.5:
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
    return ", ".join([*flags, *causes]) + (f": {counter.reason}" if counter.reason else "")


def _error(counter: Counter) -> str:
    if counter.error is None:
        return DASH
    return "0" if counter.error == 0 else percent(counter.error)


def _costs(results: Mapping[str, Result]) -> Table:
    table = _rich_table(
        ("Design", "left"),
        ("Class", "left"),
        ("Overhead", "right"),
        ("Profiling", "right"),
        ("Assumed", "right"),
        ("Exits/s", "right"),
        ("Switches/s", "right"),
        ("MSR ops/s", "right"),
        ("PMIs", "right"),
        title="Cost",
    )
    for name, result in results.items():
        ops = result.msr_ops_per_second
        table.add_row(
            name,
            result.scenario.design.class_ or DASH,
            overhead_text(result.overhead, result.assumed_share),
            overhead_text(result.overhead_of_profiling, result.assumed_share),
            _share(result.assumed_share) if result.raw else DASH,
            thousands(result.exits_per_second),
            thousands(result.pmu_switches_per_second),
            thousands(sum(ops.values())) if ops is not None else DASH,
            thousands(result.pmis["delivered"]) if result.raw else DASH,
        )
    return table


def _counts(results: Mapping[str, Result]) -> Table | None:
    table = _rich_table(
        ("Design", "left"),
        ("Side", "left"),
        ("Event", "left"),
        ("Reads", "right"),
        ("Should read", "right"),
        ("Error", "right"),
        ("Why", "wrap"),
        title="Counts",
    )
    for name, result in results.items():
        shown = name
        for side, counters in (("guest", result.counters), ("host", result.host_events)):
            for counter in counters:
                table.add_row(
                    shown,
                    side,
                    counter.event,
                    thousands(counter.value),
                    thousands(counter.ideal),
                    _error(counter),
                    _why(counter),
                )
                shown = ""
    return table if table.row_count else None


def _legend(results: Mapping[str, Result]) -> list[str]:
    lines = [
        "Overhead: guest work lost against design none. Profiling: against the same design without guest perf.",
        "Assumed: part of the added cycles that rests on unpublished figures; above one half, ~ and one digit.",
        "Switches: one load and one put of guest PMU state. MSR ops: RDMSR, WRMSR and RDPMC executed, by anybody.",
    ]
    deciding = {r.deciding_assumption for r in results.values() if r.raw and (r.assumed_share or 0) > 0.5} - {""}
    if deciding:
        lines.append(f"What decides a ~: {', '.join(sorted(deciding))} (assumed; a scenario's costs override it).")
    return lines


def _remarks(results: Mapping[str, Result]) -> Iterable[str]:
    for name, result in results.items():
        if result.reason:
            yield f"{name}: {result.reason}"
        for note in result.notes:
            yield f"{name}: {note}"
        for violation in result.violations:
            yield f"{name}: VIOLATION: {violation}"


def comparison_table(results: Mapping[str, Result], heading: str) -> list[RenderableType]:
    """What ``vpmu compare`` prints for people: costs, counts, remarks, legend."""
    parts: list[RenderableType] = [heading, _costs(results)]
    counts = _counts(results)
    if counts is not None:
        parts.append(counts)
    parts += [*_remarks(results)]
    parts += ["", *_legend(results)]
    return parts


def run_table(result: Result, heading: str) -> list[RenderableType]:
    """What ``vpmu run`` prints for people: the comparison's row, then where cycles, exits and accesses went."""
    name = str(result.scenario.design)
    parts = comparison_table({name: result}, heading)
    if not result.raw:
        return parts
    cycles = _rich_table(("Activity", "left"), ("Cycles", "right"), ("Share", "right"), title="Time")
    for activity, n in result.cycles.items():
        if n:
            cycles.add_row(activity, thousands(n), percent(n / result.raw["w"]))
    costs = _rich_table(("Spent on", "left"), ("Cycles", "right"), ("Quality", "left"), title="Cycles by cost")
    model = result.scenario.cost_model()
    for cost, n in sorted(result.raw["spent"].items(), key=lambda item: -item[1]):
        if n:
            quality = model[cost].quality if cost in model else "recorded" if cost == "handling" else DASH
            costs.add_row(cost, thousands(n), quality)
    exits = _rich_table(("Exit", "left"), ("Count", "right"), ("Of them by the PMU", "right"), title="Exits")
    for reason, n in sorted(result.exits.items(), key=lambda item: -item[1]):
        exits.add_row(reason, thousands(n), thousands(result.raw["pmu_exits"].get(reason, 0)))
    operations = _rich_table(
        ("Accesses", "left"), ("By", "left"), ("RDMSR", "right"), ("RDPMC", "right"), ("Counter", "right"),
        ("Selector", "right"), ("Global", "right"), ("LVTPC", "right"), title="PMU accesses (WRMSR by register class)",
    )  # fmt: skip
    classes = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")
    for phase in ("setup", "run", "readout"):
        rows = [*result.raw["ops"][phase].items(), ("guest, trapped", result.raw["guest_accesses"][phase]["trapped"])]
        for origin, counts in rows:
            if any(counts.values()):
                operations.add_row(phase, origin, *(thousands(counts[c]) for c in classes))
    pmi = ", ".join(f"{key.replace('_', ' ')} {thousands(n)}" for key, n in result.pmis.items())
    causes = {c for counter in result.counters + result.host_events for c in (*counter.losses, *counter.gains)}
    return [*parts, "", cycles, costs, exits, operations, f"PMIs: {pmi}"] + [
        f"{cause}: {CAUSES[cause]}" for cause in sorted(causes)
    ]
