"""Why an event does not count, in words: the counters that it may use, who has them, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._events import EVENTS, allowed_counters
from ._perf import HostEvent
from ._scenario import Scenario


def _counters(gp: int, fixed: int) -> list[int]:
    return [i for i in range(32) if gp >> i & 1] + [32 + i for i in range(32) if fixed >> i & 1]


def _ranges(counters: list[int]) -> str:
    """``GP 0-3 and fixed 1``."""
    parts = []
    for kind, base in (("GP", 0), ("fixed", 32)):
        numbers = [c - base for c in counters if base <= c < base + 32]
        runs: list[list[int]] = []
        for number in numbers:
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        if runs:
            parts.append(f"{kind} " + ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs))
    return " and ".join(parts)


def who_has(name: str, scenario: Scenario, raw: Mapping[str, Any], me: int) -> str:
    """Say which counters an event may use and who had them at the end; ``me`` is its own place among the holders."""
    may_use = _counters(*allowed_counters(name, scenario.cpu))
    if not may_use:
        return f"no counter of {scenario.cpu.name} can count it"
    own = [str(event) for event in scenario.host_perf[: len(raw["host"])]]
    names = [*own, *(f"guest {request.event.text}" for request in scenario.guest_requests())]
    held = {counter: names[i] for i, counter in enumerate(raw["holders"]) if counter is not None and i != me}
    owners: dict[str, list[int]] = {}
    for counter in may_use:
        owners.setdefault(held.get(counter, "nobody"), []).append(counter)
    said = ", ".join(f"{owner} has {_ranges(counters)}" for owner, counters in owners.items())
    return f"it may use {_ranges(may_use)}; at the end {said}"


def milliseconds(cycles: int, scenario: Scenario) -> str:
    """Cycles as a time, three digits of it."""
    return f"{1000 * cycles / scenario.cpu.core_hz.value:.3g} ms"


def guest_starved(i: int, row: Mapping[str, Any], scenario: Scenario, raw: Mapping[str, Any]) -> str:
    """Why guest event i, backed by a pinned host event, lost counts."""
    event = scenario.guest_requests()[i].event
    share = row["losses"]["not_scheduled"] / row["ideal"]
    where = who_has(event.name, scenario, raw, len(raw["host"]) + i)
    first = [
        str(e) for e, own in zip(scenario.host_perf, raw["host"], strict=False) if own["state"] == "active" and e.pinned
    ]
    before = f"; pinned host events go first ({', '.join(first)})" if first else ""
    return (
        "the pinned host event that backs it found no free counter and went to ERROR, which the guest is never told, "
        f"for {share:.1%} of what it should have counted: {where}{before}"
    )


def host_waits(i: int, event: HostEvent, row: Mapping[str, Any], scenario: Scenario, raw: Mapping[str, Any]) -> str:
    """Why host event i had no counter, always or at times."""
    where = who_has(EVENTS[event.parsed.index], scenario, raw, i)
    if row["state"] == "error" and not row["enabled"]:
        if not any(allowed_counters(event.parsed.name, scenario.cpu)):
            return where
        return f"pinned, and no counter was free: ERROR, for the whole run; {where}"
    if row["state"] == "error":
        return (
            f"pinned, and no counter was free any more: ERROR, after {milliseconds(row['running'], scenario)}; {where}"
        )
    waited = milliseconds(row["enabled"] - row["running"], scenario)
    return f"flexible, and waited for its turn for {waited} of {milliseconds(row['enabled'], scenario)}; {where}"
