"""JSON of ``vpmu compare`` and ``vpmu run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._result import Result
from .._scenario import Scenario
from .._version import __version__


def comparison_dict(scenario: Scenario, results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything that ``vpmu compare --format json`` prints."""
    return {
        "vpmu": __version__,
        "scenario": scenario.to_dict(),
        "rows": [result.to_dict() for result in results.values()],
    }
