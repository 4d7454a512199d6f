"""JSON of ``vpmu compare`` and ``vpmu run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._result import Result
from .._scenario import Scenario
from .._version import VERSION


def scenario_dict(scenario: Scenario) -> dict[str, Any]:
    """The parameters of a scenario, the design apart."""
    return {
        "cpu": scenario.cpu.name,
        "workload": scenario.workload.name,
        "guest_perf": [str(perf) for perf in scenario.guest_perf],
        "host_perf": [str(event) for event in scenario.host_perf],
        "seconds": float(scenario.seconds or 0),
        "seed": scenario.seed,
        "costs": dict(scenario.costs),
    }


def comparison_dict(scenario: Scenario, results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything that ``vpmu compare --format json`` prints."""
    return {
        "vpmu": VERSION,
        "scenario": scenario_dict(scenario),
        "rows": [result.to_dict() for result in results.values()],
    }
