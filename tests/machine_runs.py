"""A plan on one engine, or on all of them."""

from __future__ import annotations

from typing import Any

from vpmu._plan import Plan
from vpmu.reference import machine as slow
from vpmu_core.machine import Machine


def finish(machine: Machine) -> dict[str, Any]:
    """Run a machine to its end."""
    while not machine.advance():
        pass
    result: dict[str, Any] = machine.result()
    assert result.pop("stray_counts") == 0
    return result


def fast(planned: Plan, engine: str = "stepwise") -> dict[str, Any]:
    """Run on an engine of the compiled machine."""
    return finish(Machine(planned, engine))


def agreed(planned: Plan) -> dict[str, Any]:
    """Run on all machines, which agree."""
    result = slow.run(planned)
    assert fast(planned, "lazy") == fast(planned, "stepwise") == result
    return result
