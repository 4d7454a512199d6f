"""Plans of several vCPUs on one logical CPU, and what holds for each of their runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from directed_plans import all_designs, cpus_for
from hypothesis import strategies as st
from machine_plans import plans, traces
from plan_files import differences

import vpmu
from vpmu._plan import Plan
from vpmu._scenario import plan
from vpmu.reference import vcpus as slow
from vpmu_core.vcpus import LogicalCpu

#: Designs in which vCPUs can share a logical CPU: not those that leave the PMU to one guest.
SHARED = tuple(spec for spec in all_designs() if vpmu.design(spec).has_host and not vpmu.design(spec).cedes_pmu)


@dataclass(frozen=True)
class Planned:
    """The vCPUs of one logical CPU."""

    vcpus: tuple[Plan, ...]
    time_slice: int
    wakeups_preempt: bool = False


def planned(
    design: str, *guests: tuple[str, Sequence[str]], end: int, tick: int, time_slice: int, **changes: Any
) -> Planned:
    """Guests of one design, each with its workload and its perf; every vCPU has a seed of its own."""
    made = [
        dataclasses.replace(
            plan(
                vpmu.Scenario(
                    design=design,
                    workload=workload,
                    guest_perf=guest_perf,
                    host_perf=changes.get("host_perf", ()),
                    seconds="0.0001",
                    seed=seed,
                    what_if=True,
                )
            ),
            end=end,
            tick=tick,
            **{name: value for name, value in changes.items() if name != "host_perf"},
        )
        for seed, (workload, guest_perf) in enumerate(guests, 1)
    ]
    return Planned(tuple(made), time_slice)


def run(given: Planned, engine: str = "stepwise") -> dict[str, Any]:
    """The result of one engine."""
    how = {"time_slice": given.time_slice, "wakeups_preempt": given.wakeups_preempt}
    if engine in ("reference", "cycle-by-cycle"):
        return slow.run(given.vcpus, cycle_by_cycle=engine == "cycle-by-cycle", **how)
    cpu = LogicalCpu(given.vcpus, engine, **how)
    while not cpu.advance():
        pass
    result = cpu.result()
    for row in result["vcpus"]:
        assert row.pop("stray_counts") == 0
    return result


def check(result: dict[str, Any], safe: bool = True) -> None:
    """What holds for every run; ``safe``: of a switch sequence that leaves nothing behind."""
    rows = result["vcpus"]
    for row in rows:
        assert row["w"] == rows[0]["w"] == sum(row["clocks"]) + row["others"]
        assert row["clocks"][6] == rows[0]["clocks"][6] == row["spent"]["idle"]
        assert sum(row["spent"].values()) == sum(row["clocks"][2:])
        pmi = row["pmi"]
        assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
        pmi = row["host_pmi"]
        assert pmi["raised"] == pmi["handled"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
        for event in (*row["counters"], *row["host"]):
            expected = event["ideal"] - sum(event["losses"].values()) + sum(event["gains"].values())
            assert event["value"] == expected or not safe, event
        assert row["host"] == rows[0]["host"]
        assert row["leftovers"] == 0 or not safe
    # Everybody's cycles, and the idle ones once, are all that there were.
    assert rows[0]["w"] == sum(sum(row["clocks"][:6]) for row in rows) + rows[0]["clocks"][6]


def is_safe(result: dict[str, Any]) -> bool:
    """Whether no switch left anything behind, of which the ledger would know nothing."""
    return not any(any(row["breaches"].values()) for row in result["vcpus"])


def assert_engines_agree(given: Planned, *engines: str) -> dict[str, Any]:
    """Every field of the result is the same from all engines."""
    first = run(given, engines[0])
    for engine in engines[1:]:
        different = differences(first, run(given, engine))
        assert not different, f"{engines[0]} and {engine} differ:\n" + "\n".join(different[:20])
    return first


@st.composite
def vcpus(draw: st.DrawFn, most: int = 4) -> Planned:
    """One to four vCPUs of one design, each with random exits, rates, perf and event filter of its own."""
    spec = draw(st.sampled_from(SHARED))
    preset = draw(st.sampled_from(cpus_for(spec)))
    tight = draw(st.booleans())
    first = draw(plans((spec,), (preset,), tight))
    # Long enough for set-ups and many turns, short enough for the slow machine.
    first = dataclasses.replace(first, end=draw(st.sampled_from([4000, 9000] if tight else [90_000, 400_000])))
    first = dataclasses.replace(first, tick=draw(st.sampled_from([7, 500] if tight else [2000, 20_000])))
    host = tuple(dataclasses.replace(event, task=False) for event in first.host_events)
    shared = ("cpu", "costs", "end", "tick", "tick_ns", "mux_interval", "max_samples_per_tick", "least_period")
    made = []
    for number in range(draw(st.sampled_from([1, 2, 2, 3, most]))):
        one = draw(plans((spec,), (preset,), tight)) if number else first
        idle = [0, 3, 100] if tight else [0, 700, 30_000]
        exits = (dataclasses.replace(one.exits[0], idle=draw(st.sampled_from(idle))), *one.exits[1:])
        exits = (*exits[:2], dataclasses.replace(exits[2], idle=0), *exits[3:])  # the third is the host's
        trace = draw(st.none() | st.none() | traces())
        one = dataclasses.replace(one, **{name: getattr(first, name) for name in shared})
        made.append(dataclasses.replace(one, host_events=host, exits=exits, trace=trace))
    return Planned(
        tuple(made), draw(st.sampled_from([1, 40, 700] if tight else [1, 2000, 30_000])), draw(st.booleans())
    )
