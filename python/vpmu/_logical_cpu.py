"""Several vCPUs on one logical CPU: their plans, their run, and what it was as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpmu_core.vcpus import LogicalCpu

from ._plan import Plan
from ._scenario import Scenario, plan, seeds

#: What the vCPUs of one logical CPU share, so that every row has it.
_SHARED = ("holders", "w", "host", "host_pmi", "rotations")
_IDLE = 6


def plans(scenario: Scenario) -> tuple[Plan, ...]:
    """A plan for each vCPU, with random streams of its own."""
    made = [plan(guest) for guest in scenario.guests()]
    return tuple(dataclasses.replace(one, seeds=seeds(scenario.seed, i)) for i, one in enumerate(made))


def run(
    scenario: Scenario, planned: Sequence[Plan], engine: str, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Rows of the vCPUs, and which of them had the CPU at the end."""
    how: dict[str, Any] = {"time_slice": scenario.slice_cycles, "wakeups_preempt": scenario.wakeup_preemption}
    if engine == "reference":
        from .reference import vcpus

        return vcpus.run(planned, **how)
    cpu = LogicalCpu(planned, engine, **how)
    while not cpu.advance():
        if progress is not None:
            progress(*cpu.progress)
    result: dict[str, Any] = cpu.result()
    return result


def _sum(values: Sequence[Any]) -> Any:
    """The sum of integers, item by item in tables and lists."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _sum([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_sum(items) for items in zip(*values, strict=True)]
    return sum(values)


def together(rows: Sequence[Mapping[str, Any]], current: int) -> dict[str, Any]:
    """The logical CPU's totals: what its vCPUs share once, everything else added up."""
    total: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in _SHARED:
            total[name] = rows[current][name]
        elif name in ("exits", "exit_reasons", "counters"):
            total[name] = [item for value in values for item in value]
        elif name == "stopped":
            total[name] = next(filter(None, values), None)
        elif name != "program":
            total[name] = _sum(values)
    idle = rows[current]["clocks"][_IDLE]
    total["clocks"][_IDLE] = total["spent"]["idle"] = idle
    total["others"] = 0
    return total
