"""Assertions about results, in the manner of ``numpy.testing``: a failure prints the ledger lines that explain it."""

from __future__ import annotations

from collections.abc import Iterable

from ._counter import Counter
from ._result import CAUSES, Result

__all__ = [
    "assert_conserved",
    "assert_exact",
    "assert_isolated",
    "assert_overhead_below",
    "assert_same_counts",
]


def _lines(result: Result, counters: Iterable[tuple[str, Counter]]) -> str:
    lines = [f"  {result.scenario.design} on {result.scenario.cpu.name}, {result.scenario.workload.name}:"]
    for side, counter in counters:
        lines.append(f"  {side} {counter.event}: value {counter.value:,}, ideal {counter.ideal:,}")
        for sign, causes in (("-", counter.losses), ("+", counter.gains)):
            for cause, n in causes.items():
                lines.append(f"    {sign}{n:,} {cause}: {CAUSES.get(cause, '')}")
        if counter.reason:
            lines.append(f"    because {counter.reason}")
    return "\n".join(lines)


def _sides(result: Result) -> list[tuple[str, Counter]]:
    return [("guest", c) for c in result.counters] + [("host", c) for c in result.host_events]


def _must_have_run(result: Result) -> None:
    if not result.raw:
        raise AssertionError(f"{result.scenario.design} gave no result: {result.reason}")


def assert_exact(result: Result, events: Iterable[str] | None = None) -> None:
    """Assert that guest counters read what they should.

    Parameters
    ----------
    result : Result
    events : iterable of str, optional
        Only these events; all by default.

    Raises
    ------
    AssertionError
        With the ledger of every counter that is off, also if the design gave no result or counted nothing.
    """
    _must_have_run(result)
    wanted = None if events is None else set(events)
    chosen = [("guest", c) for c in result.counters if wanted is None or c.event in wanted]
    if not chosen:
        raise AssertionError(f"{result.scenario.design} counts none of {sorted(wanted) if wanted else 'its events'}")
    wrong = [(side, c) for side, c in chosen if c.value != c.ideal]
    if wrong:
        raise AssertionError("counters are not exact\n" + _lines(result, wrong))


def assert_conserved(result: Result) -> None:
    """Assert value = ideal - losses + gains for every guest and host counter, and that no cause is unknown or negative.

    Parameters
    ----------
    result : Result

    Raises
    ------
    AssertionError
        With the ledger of every counter that does not add up.
    """
    _must_have_run(result)
    wrong = [
        (side, c)
        for side, c in _sides(result)
        if c.value != c.ideal - sum(c.losses.values()) + sum(c.gains.values())
        or any(n < 0 or cause not in CAUSES for cause, n in [*c.losses.items(), *c.gains.items()])
        or ("exact" in c.flags) != (c.value == c.ideal)
    ]
    if wrong:
        raise AssertionError("counts are not conserved\n" + _lines(result, wrong))


def assert_isolated(result: Result) -> None:
    """Assert that nobody counted what was not theirs: no gains on either side, and no breach of an invariant.

    Parameters
    ----------
    result : Result

    Raises
    ------
    AssertionError
        With the gains and violations.
    """
    _must_have_run(result)
    gained = [(side, c) for side, c in _sides(result) if c.gains]
    if gained or result.violations:
        text = "\n".join(f"  violation: {violation}" for violation in result.violations)
        ledger = "\n".join(filter(None, [text, _lines(result, gained)]))
        raise AssertionError(f"guest and host are not isolated\n{ledger}")


def assert_overhead_below(result: Result, limit: float, *, of_profiling: bool = False) -> None:
    """Assert that a design costs less than a fraction of guest throughput.

    Parameters
    ----------
    result : Result
    limit : float
        Fraction, 0.05 for 5 %.
    of_profiling : bool
        Against the same design without guest perf instead of against ``none``.

    Raises
    ------
    AssertionError
        With the largest costs.
    """
    _must_have_run(result)
    overhead = result.overhead_of_profiling if of_profiling else result.overhead
    if overhead is None or overhead >= limit:
        spent = sorted(result.raw["spent"].items(), key=lambda item: -item[1])
        lines = [f"    {n:,} cycles {cost}" for cost, n in spent[:6] if n]
        shown = "no guest work at all" if overhead is None else f"{overhead:.4%}"
        raise AssertionError(
            f"overhead {shown} is not below {limit:.4%}; {result.assumed_share or 0:.0%} of what is added is assumed\n"
            f"  {result.scenario.design}: largest costs\n" + "\n".join(lines)
        )


def assert_same_counts(first: Result, second: Result) -> None:
    """Assert that two results agree in every integer: counters, ledger, clocks, exits, accesses and PMIs.

    Parameters
    ----------
    first, second : Result
        For example of two engines.

    Raises
    ------
    AssertionError
        With the keys that differ, and the ledgers of counters that do.
    """
    _must_have_run(first)
    _must_have_run(second)
    if dict(first.raw) == dict(second.raw):
        return
    keys = [key for key in first.raw if first.raw[key] != second.raw.get(key)]
    keys += [key for key in second.raw if key not in first.raw]
    lines = [f"  {key}: {first.raw.get(key)} != {second.raw.get(key)}" for key in keys]
    pairs = zip(_sides(first), _sides(second), strict=False)
    different = [(a, b) for a, b in pairs if a[1] != b[1]]
    ledgers = [_lines(result, [pair[i] for pair in different]) for i, result in enumerate((first, second)) if different]
    raise AssertionError("\n".join(["results differ", *lines, *ledgers]))
