"""What a simulation returns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ._counter import Counter
from ._scenario import Scenario
from ._vcpu_result import VcpuResult, exits_by_reason

#: Every cause that the ledger knows; docs/ledger.md has an example of each.
CAUSES: dict[str, str] = {
    "not_scheduled": "the host event that backs a guest counter, or a host event, found no counter",
    "emulated_instruction": "an instruction that the hypervisor emulated was counted on one side only",
    "window": "a host event was out of the PMU between load and put of guest state",
    "pmu_disabled": "host perf had its PMU disabled while it scheduled events",
    "ceded": "the host has given its PMU up",
    "host_stale": "hardware counted for a host event where its attributes exclude it",
    "filtered": "the VM's event filter denied the event, or the fixed counter, of a guest counter",
    "period_rejected": "host perf refused the event that backs a guest counter: its period was too short",
    "wrong_counter": "a guest counter's selector was put on a hardware counter that counts something else",
    "multiplexed": "a guest event waited for its turn: there are more events than counters",
    "throttled": "the guest's kernel had stopped an event with too many samples up to its next tick",
    "overwritten": "a counter ran on between its read and the write of its next period (AMD before PerfMonV2)",
}

#: How a note begins that the kernel would give as a WARN().
WARNING = "WARNING: "

_CLASSES = ("wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")


def few_blocking_exits(raw: Mapping[str, Any]) -> bool:
    """Whether so few exits carry so much of the time that another seed gives another overhead."""
    return bool(raw["blocking_exits"] < 400 and 5 * raw["clocks"][6] > raw["w"])


@dataclass(frozen=True)
class Result:
    """One scenario, simulated; made by :func:`vpmu.simulate`.

    Parameters
    ----------
    scenario : Scenario
        What was simulated.
    engine : str
        Which engine did.
    reason : str
        Why there is no result, if the design cannot be had; else empty.
    counters, host_events : tuple of Counter
        Guest and host side.
    raw : mapping
        The machine's own totals, see docs/machine.md, section 12; empty if there is no result.
    violations : tuple of str
        Breaches of invariants, and "no-progress".
    notes : tuple of str
        Sentences that belong under the result.
    provenance : mapping
        Parameters that made it.
    vcpus : tuple of VcpuResult
        Each of several vCPUs; then ``counters`` are those of all, in their order, and ``raw`` is the sum.
    """

    scenario: Scenario
    engine: str
    reason: str
    counters: tuple[Counter, ...]
    host_events: tuple[Counter, ...]
    raw: Mapping[str, Any]
    violations: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any]
    vcpus: tuple[VcpuResult, ...] = ()
    _baselines: tuple[Result | None, Result | None] = field(default=(None, None), repr=False, compare=False)

    # -- guest work -----------------------------------------------------------------------------------------------

    @property
    def work_share(self) -> Fraction:
        """Guest workload cycles in each wall cycle, exactly."""
        return Fraction(self.raw["clocks"][0] + self.raw["clocks"][1], self.raw["w"])

    @functools.cached_property
    def _baseline(self) -> Result:
        """``none`` without guest perf, same seconds and host perf; ``bare-metal`` is its own baseline."""
        if self._baselines[0] is not None:
            return self._baselines[0]
        return self._unprofiled if not self.scenario.design.has_host else _again(self, design="none")

    @functools.cached_property
    def _unprofiled(self) -> Result:
        """The same design without guest perf."""
        if self._baselines[1] is not None:
            return self._baselines[1]
        return _again(self, guest_perf=())

    def _against(self, other: Result) -> float | None:
        if not self.raw or not other.raw or not other.work_share:
            return None
        return float(1 - self.work_share / other.work_share)

    @property
    def overhead(self) -> float | None:
        """1 - guest work per wall cycle over that of ``none``; None if the design cannot be had."""
        return self._against(self._baseline) if self.raw else None

    @property
    def overhead_of_profiling(self) -> float | None:
        """The same against this design without guest perf, which is what published tables show."""
        return self._against(self._unprofiled) if self.raw else None

    def _added_over(self, base: Result) -> dict[str, Fraction]:
        """Cycles that each cost adds to one cycle of guest work over another result; positive ones only."""
        work = self.raw["clocks"][0] + self.raw["clocks"][1]
        base_work = base.raw["clocks"][0] + base.raw["clocks"][1]
        if not base_work:
            return {}
        # Without any guest work every cost adds without bound; what remains is their proportion.
        added = {
            name: Fraction(cycles, work) - Fraction(base.raw["spent"][name], base_work) if work else Fraction(cycles)
            for name, cycles in self.raw["spent"].items()
            if name not in ("idle", "handling")
        }
        return {name: share for name, share in added.items() if share > 0}

    @functools.cached_property
    def _added(self) -> dict[str, Fraction]:
        return self._added_over(self._baseline)

    def _assumed(self, added: Mapping[str, Fraction]) -> float:
        total = sum(added.values())
        costs = self.scenario.cost_model()
        assumed = sum(share for name, share in added.items() if costs[name].quality == "assumed")
        return float(assumed / total) if total else 0.0

    @property
    def assumed_share(self) -> float | None:
        """Part of the cycles added over ``none`` that rests on assumed figures; None if overhead is."""
        return None if self.overhead is None else self._assumed(self._added)

    @property
    def assumed_share_of_profiling(self) -> float | None:
        """The same for what guest perf adds to this design; None if overhead_of_profiling is."""
        return None if self.overhead_of_profiling is None else self._assumed(self._added_over(self._unprofiled))

    @property
    def blocking_exits(self) -> int:
        """Exits after which the vCPU slept."""
        return self.raw["blocking_exits"] if self.raw else 0

    @property
    def uncertain(self) -> bool:
        """Whether a few blocking exits carry so much of the time that another seed gives another overhead."""
        return bool(self.raw) and few_blocking_exits(self.raw)

    @property
    def deciding_assumption(self) -> str:
        """Name of the assumed cost that adds most; empty if there is none."""
        if not self.raw:
            return ""
        costs = self.scenario.cost_model()
        assumed = {name: share for name, share in self._added.items() if costs[name].quality == "assumed"}
        return max(assumed, key=lambda name: assumed[name]) if assumed else ""

    # -- rates ----------------------------------------------------------------------------------------------------

    def _per_second(self, count: int) -> float:
        return float(Fraction(count * self.scenario.cpu.core_hz.value, self.raw["w"]))

    @property
    def exits(self) -> dict[str, int]:
        """Exits by perf's reason name, those that the PMU caused included."""
        if not self.raw:
            return {}
        return exits_by_reason(self.raw)

    @property
    def exits_per_second(self) -> float | None:
        """All exits in a second of wall time."""
        return self._per_second(sum(self.exits.values())) if self.raw else None

    @property
    def pmu_switches_per_second(self) -> float | None:
        """Switches (one load and one put) in a second of wall time."""
        return self._per_second(self.raw["switches"]) if self.raw else None

    @property
    def msr_ops(self) -> dict[str, dict[str, int]]:
        """Executed RDMSR, WRMSR and RDPMC by origin, from the start of guest perf to the end of the run."""
        if not self.raw:
            return {}
        out = {}
        for name in ("host", "hypervisor", "guest"):
            phases = [self.raw["ops"][phase][name] for phase in ("setup", "run")]
            out[name] = {
                "rdmsr": sum(p["rdmsr"] for p in phases),
                "wrmsr": sum(p[c] for p in phases for c in _CLASSES),
                "rdpmc": sum(p["rdpmc"] for p in phases),
            }
        return out

    @property
    def msr_ops_per_second(self) -> dict[str, float] | None:
        """RDMSR, WRMSR and RDPMC executed in a second of wall time, by anybody, after guest perf was set up."""
        if not self.raw:
            return None
        run = self.raw["ops"]["run"].values()
        return {
            "rdmsr": self._per_second(sum(o["rdmsr"] for o in run)),
            "wrmsr": self._per_second(sum(o[c] for o in run for c in _CLASSES)),
            "rdpmc": self._per_second(sum(o["rdpmc"] for o in run)),
        }

    @property
    def pmis(self) -> dict[str, int]:
        """PMIs: raised = delivered + coalesced + lost + pending, and skid_past_exit."""
        keys = ("raised", "delivered", "coalesced", "lost", "pending", "skid_past_exit")
        return {key: self.raw["pmi"][key] for key in keys} if self.raw else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes on what a kernel would have warned of."""
        return tuple(note.removeprefix(WARNING) for note in self.notes if note.startswith(WARNING))

    @property
    def host_pmis(self) -> dict[str, int]:
        """PMIs of the host's own events: raised = handled + coalesced + lost + pending."""
        return dict(self.raw["host_pmi"]) if self.raw else {}

    @property
    def cycles(self) -> dict[str, int]:
        """Cycles of each activity; they add up to the wall clock."""
        from ._plan import ACTIVITIES

        return {name: n for (name, _), n in zip(ACTIVITIES, self.raw["clocks"], strict=True)} if self.raw else {}

    @property
    def host_blind_fraction(self) -> float | None:
        """Part of host-mode time, idle excepted, in which guest state is loaded and host perf counts nothing."""
        if not self.raw or not self.scenario.design.has_host:
            return None
        if self.scenario.design.cedes_pmu:
            return 1.0
        _, _, _, hypervisor, blind, host_task, _ = self.raw["clocks"]
        host = hypervisor + blind + host_task
        return blind / host if host else 0.0

    # -- words ----------------------------------------------------------------------------------------------------

    def explain(self, counter: int | str | None = None) -> str:
        """Say in plain English why a counter is off, with the numbers of this run.

        Parameters
        ----------
        counter : int or str, optional
            Place of an event, the guest's first, then the host's, or its name (``"cycles"``, ``"host cycles"`` if both
            have one); by default all that are off.

        Returns
        -------
        str
            A paragraph for each, one line long: what it read and should have read; causes, the largest first, each
            with its count and its part of what should have been read; what to change; samples. Percentages have one
            decimal, halves rounded up, and are 0 or 100 only if they are exactly that.

        Raises
        ------
        UnknownName, ScenarioError
            If there is no such counter.
        """
        from ._explain import explain

        return explain(self, counter)

    # -- forms ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """One element of ``rows`` in the JSON of ``vpmu compare``."""
        scenario = self.scenario
        return {
            "design": str(scenario.design),
            "class": scenario.design.class_,
            "passed_through": list(scenario.design.passed_through(scenario.cpu, scenario.guest_cpu)),
            "overhead": self.overhead,
            "overhead_of_profiling": self.overhead_of_profiling,
            "assumed_share": self.assumed_share,
            "assumed_share_of_profiling": self.assumed_share_of_profiling,
            "reason": self.reason,
            "exits_per_s": self.exits_per_second,
            "pmu_switches_per_s": self.pmu_switches_per_second,
            "msr_ops_per_s": self.msr_ops_per_second,
            "guest": [counter.to_dict() for counter in self.counters],
            "host": [event.to_dict() for event in self.host_events],
            "pmi": self.pmis,
            "host_blind_fraction": self.host_blind_fraction,
            "violations": list(self.violations),
            "notes": list(self.notes),
            **({"vcpus": [vcpu.to_dict() for vcpu in self.vcpus]} if self.vcpus else {}),
        }

    def ledger(self) -> dict[str, Any]:
        """What ``vpmu run`` shows beyond a row: where cycles, accesses and counts went."""
        if not self.raw:
            return {}
        return {
            "cycles": self.cycles,
            "spent": dict(self.raw["spent"]),
            "exits": self.exits,
            "pmu_exits": dict(self.raw["pmu_exits"]),
            "host_interrupts": self.raw["host_interrupts"],
            "switches": self.raw["switches"],
            "refused_fastpaths": self.raw["refused"],
            "guest_pmi_handlers": self.raw["handlers"],
            "guest_timers": dict(self.raw["guest_timers"]),
            "guest_perf": [counter.perf() for counter in self.counters],
            "reprograms": self.raw["reprograms"],
            "perf_events_created": self.raw["creates"],
            "host_rotations": self.raw["rotations"],
            "host_pmi": self.host_pmis,
            "msr_ops": self.raw["ops"],
            "guest_accesses": self.raw["guest_accesses"],
            "deciding_assumption": self.deciding_assumption,
        }


def _again(result: Result, **changes: Any) -> Result:
    from ._simulate import simulate

    return simulate(result.scenario.changed(**changes), engine=result.engine)
