"""What one of several vCPUs did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._plan import ACTIVITIES

if TYPE_CHECKING:
    from ._counter import Counter
    from ._scenario import Scenario


def exits_by_reason(raw: Mapping[str, Any]) -> dict[str, int]:
    """Exits of a run by perf's reason name."""
    totals: dict[str, int] = {}
    planned = zip(raw["exit_reasons"], raw["exits"], strict=True)
    ticks = ("EXTERNAL_INTERRUPT", raw.get("tick_exits", 0))
    for reason, count in [*planned, *raw["pmu_exits"].items(), ticks]:
        if count:
            totals[reason] = totals.get(reason, 0) + count
    return totals


@dataclass(frozen=True)
class VcpuResult:
    """One of several vCPUs of a :class:`Result`.

    Parameters
    ----------
    number : int
        Its place in ``Scenario.vcpus``.
    scenario : Scenario
        Its own: what the vCPU would be with a logical CPU to itself.
    counters : tuple of Counter
        What its guest's perf counted.
    raw : mapping
        Its machine's totals, see docs/machine.md, sections 12 and 14.
    violations : tuple of str
        Breaches of invariants.
    """

    number: int
    scenario: Scenario
    counters: tuple[Counter, ...]
    raw: Mapping[str, Any]
    violations: tuple[str, ...]

    @property
    def exits(self) -> dict[str, int]:
        """Exits by perf's reason name, those included with which its turns ended."""
        return exits_by_reason(self.raw)

    @property
    def pmis(self) -> dict[str, int]:
        """PMIs: raised = delivered + coalesced + lost + pending, and skid_past_exit."""
        return dict(self.raw["pmi"])

    @property
    def cycles(self) -> dict[str, int]:
        """Wall cycles by who had them: its activities, and ``others`` while other vCPUs had the CPU."""
        return {name: n for (name, _), n in zip(ACTIVITIES, self.raw["clocks"], strict=True)} | {
            "others": self.raw["others"]
        }

    @property
    def steal(self) -> int:
        """Cycles for which it could have run, but another vCPU had the CPU."""
        return int(self.raw["stolen"])

    @property
    def slept(self) -> int:
        """Cycles from HLT to the wake-up."""
        return int(self.raw["slept"])

    def to_dict(self) -> dict[str, Any]:
        """One element of ``vcpus`` in the JSON of the command line."""
        return {
            "vcpu": self.number,
            "design": str(self.scenario.design),
            "workload": self.scenario.workload.name,
            "guest_perf": [str(perf) for perf in self.scenario.guest_perf],
            "guest": [counter.to_dict() for counter in self.counters],
            "pmi": self.pmis,
            "cycles": self.cycles,
            "exits": self.exits,
            "steal": self.steal,
            "slept": self.slept,
            "turns": self.raw["turns"],
            "preemptions": self.raw["preemptions"],
            "switches": self.raw["switches"],
            "violations": list(self.violations),
        }
