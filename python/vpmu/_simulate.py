"""Running scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpmu_core.machine import Machine

from ._breaches import breach_sentences
from ._counter import Counter
from ._designs import Design
from ._errors import ScenarioError, UnknownName
from ._logical_cpu import plans, together
from ._logical_cpu import run as run_vcpus
from ._perf import HostEvent
from ._plan import Plan
from ._registry import design
from ._registry import designs as _all_designs
from ._result import WARNING, Result, few_blocking_exits
from ._scenario import Scenario, plan
from ._vcpu_result import VcpuResult
from ._version import __version__
from ._why import guest_starved, host_waits

Progress = Callable[[int, int], None]

ENGINES = ("lazy", "stepwise", "reference")


def _run_compiled(plan_: Plan, engine: str, progress: Progress | None) -> dict[str, Any]:
    machine = Machine(plan_, engine)
    while not machine.advance():
        if plan_.trace is not None:
            plan_.trace.release()
        if progress is not None:
            progress(*machine.progress)
    result: dict[str, Any] = machine.result()
    return result


def _run_reference(plan_: Plan) -> dict[str, Any]:
    from .reference import machine

    return machine.run(plan_)


def simulate(
    scenario: Scenario,
    engine: str = "lazy",
    *,
    progress: Progress | None = None,
    _baselines: tuple[Result | None, Result | None] = (None, None),
) -> Result:
    """Simulate a scenario.

    Parameters
    ----------
    scenario : Scenario
    engine : {"lazy", "stepwise", "reference"}
        The compiled machine, skipping exits that change nothing but clocks and tallies or executing every register
        operation of every switch; or the slow, readable one in Python. All return the same integers.
    progress : callable, optional
        Called with (wall cycles so far, wall cycles to run) every few tens of milliseconds.

    Returns
    -------
    Result
        With ``reason`` set and no counts if the design cannot be had on this CPU beside these host events.

    Raises
    ------
    UnknownName, ScenarioError
    """
    if not isinstance(scenario, Scenario):
        raise ScenarioError(f"the scenario must be a vpmu.Scenario, not {scenario!r}")
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    refusal = scenario.refusal()
    if refusal and (not scenario.what_if or scenario.unshared()):
        return _refused(scenario, engine, refusal, _baselines)
    forced = _forced(scenario, refusal)
    hypothetical = ("hypothetical",) if forced else ()
    planned, rows, current = _run(scenario, engine, progress)
    guests = scenario.guests()
    vcpus = tuple(
        _vcpu(number, guest, one, row, hypothetical)
        for number, (guest, one, row) in enumerate(zip(guests, planned, rows, strict=True))
    )
    raw = together(rows, current) if scenario.vcpus else rows[0]
    counters = tuple(counter for vcpu in vcpus for counter in vcpu.counters)
    hosts = tuple(
        _host_counter(i, event, row, guests[current], rows[current], hypothetical)
        for i, (event, row) in enumerate(
            zip(scenario.host_perf if scenario.design.has_host else (), raw["host"], strict=True)
        )
    )
    notes = [_notes(vcpu.scenario, forced, vcpu.counters, vcpu.raw) for vcpu in vcpus]
    return Result(
        scenario=scenario,
        engine=engine,
        reason="",
        counters=counters,
        host_events=hosts,
        raw=raw,
        violations=_violations(raw, counters + hosts),
        notes=_of_all(notes),
        provenance=_provenance(scenario, engine),
        vcpus=vcpus if scenario.vcpus else (),
        _baselines=_baselines,
    )


def _run(scenario: Scenario, engine: str, progress: Progress | None) -> tuple[list[Plan], list[dict[str, Any]], int]:
    """The plans, a row of totals for each vCPU, and which of them had the CPU at the end."""
    if len(scenario.vcpus) > 1:
        planned = list(plans(scenario))
        out = run_vcpus(scenario, planned, engine, progress)
        rows, current = out["vcpus"], out["current"]
    else:
        planned = [plan(scenario.guests()[0])]
        rows = [_run_reference(planned[0]) if engine == "reference" else _run_compiled(planned[0], engine, progress)]
        current = 0
        if scenario.vcpus:
            rows[0].update(dict.fromkeys(("others", "slept", "stolen", "preemptions", "tick_exits", "leftovers"), 0))
            rows[0]["turns"] = 1
    for one, row in zip(planned, rows, strict=True):
        row["exit_reasons"] = [e.reason for e in one.exits]
        row["blocking_exits"] = _blocking(one, row)
        row.setdefault("stray_counts", 0)  # the slow machine has none to count
    return planned, rows, current


def _vcpu(number: int, guest: Scenario, planned: Plan, row: dict[str, Any], extra: tuple[str, ...]) -> VcpuResult:
    counters = tuple(
        _guest_counter(i, on.counter, event, guest, row, extra)
        for i, (on, event) in enumerate(zip(planned.guest_events, row["counters"], strict=True))
    )
    return VcpuResult(number, guest, counters, row, _violations(row, counters))


def _of_all(notes: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Notes on several vCPUs: what is said of all of them once, the rest with its number."""
    if len(notes) == 1:
        return notes[0]
    common = [note for note in notes[0] if all(note in other for other in notes)]
    own = [f"vCPU {i}: {note}" for i, mine in enumerate(notes) for note in mine if note not in common]
    return (*common, *own)


def _refused(scenario: Scenario, engine: str, reason: str, baselines: tuple[Result | None, Result | None]) -> Result:
    return Result(
        scenario=scenario,
        engine=engine,
        reason=reason,
        counters=(),
        host_events=(),
        raw={},
        violations=(),
        notes=(),
        provenance=_provenance(scenario, engine),
        _baselines=baselines,
    )


def _blocking(planned: Plan, raw: dict[str, Any]) -> int:
    if planned.trace is not None:
        # Exits of a trace come in its order, again and again.
        rounds, rest = divmod(sum(raw["exits"]), len(planned.trace.idle))
        return int(rounds) * planned.trace.blocking + planned.trace.blocking_before(int(rest))
    return sum(count for e, count in zip(planned.exits, raw["exits"], strict=True) if e.idle)


def _flags(row: dict[str, Any], extra: tuple[str, ...]) -> tuple[str, ...]:
    value, ideal = row["value"], row["ideal"]
    flags = ["exact"] if value == ideal else []
    if row["losses"]:
        flags.append("lost")
    if row["gains"]:
        flags.append("overcounted")
    if row["running"] < row["enabled"] or "multiplexed" in row["losses"]:
        flags.append("multiplexed")
    if row.get("throttles"):
        flags.append("throttled")
    filtered = "filtered" in row["losses"]
    if ideal and not row.get("scheduled", row["running"] != 0):
        # A counter that the filter has never let count has not been refused by host perf.
        flags += ["never-scheduled"] * (not filtered or "not_scheduled" in row["losses"])
    if filtered:
        flags.append("filtered")
    return (*flags, *extra)


def _counter(event: str, row: dict[str, Any], reasons: list[str], extra: tuple[str, ...]) -> Counter:
    """Make one of a row of the machine's."""
    return Counter(
        event,
        row["value"],
        row["ideal"],
        row["losses"],
        row["gains"],
        _flags(row, extra),
        "; ".join(reasons),
        samples=row["samples"],
        samples_expected=row["expected"],
        samples_late=row["late"],
        throttled=row.get("throttles", 0),
        enabled=row["enabled"],
        running=row["running"],
    )


def _guest_counter(
    i: int, place: int, row: dict[str, Any], scenario: Scenario, raw: dict[str, Any], extra: tuple[str, ...]
) -> Counter:
    request = scenario.guest_requests()[i]
    event = "watchdog" if request.pinned else request.event.text
    reasons = []
    if "not_scheduled" in row["losses"]:
        reasons.append(guest_starved(i, row, scenario, raw))
    if "filtered" in row["losses"]:
        what = "fixed counter" if place >= 32 else "event"
        reasons.append(f"the VM's event filter denies its {what}, which the guest is never told")
    if "period_rejected" in row["losses"]:
        reasons.append("host perf refused the event that backs it: its period is below the least that the CPU can do")
    if "wrong_counter" in row["losses"] or "wrong_counter" in row["gains"]:
        reasons.append("its selector was put on a hardware counter that counts something else")
    if "emulated_instruction" in row["losses"]:
        reasons.append("instructions that the hypervisor emulated were not added to it")
    if "emulated_instruction" in row["gains"]:
        reasons.append("emulated instructions were added while it should not have counted")
    if "multiplexed" in row["losses"]:
        share = row["running"] / row["enabled"] if row["enabled"] else 0
        reasons.append(f"there are more events than counters, and it had one in {share:.0%} of its time")
    if "throttled" in row["losses"]:
        reasons.append("the guest's kernel stopped it for its many samples up to the next tick")
    return _counter(event, row, reasons, extra)


def _host_counter(
    i: int, event: HostEvent, row: dict[str, Any], scenario: Scenario, raw: dict[str, Any], extra: tuple[str, ...]
) -> Counter:
    reasons = []
    if "ceded" in row["losses"]:
        reasons.append("the host has given its PMU up to the guest")
    if row["throttled"]:
        reasons.append(f"it was throttled {row['throttled']} times, each time until the next tick")
    if "not_scheduled" in row["losses"] and not (row["throttled"] and row["running"] == row["enabled"]):
        reasons.append(
            "EOPNOTSUPP: a mediated VM exists, so an event that includes guests cannot be created (add :exclude_guest, "
            "as the perf tool does when it tries again)"
            if scenario.fails(event)
            else host_waits(i, event, row, scenario, raw)
        )
    if "window" in row["losses"]:
        reasons.append("it is out of the PMU while guest state is loaded")
    if "pmu_disabled" in row["losses"]:
        reasons.append("host perf disables its PMU while it schedules events")
    if "overwritten" in row["losses"]:
        reasons.append("its counter ran on between the handler's read and the write of its next period")
    if "host_stale" in row["gains"]:
        reasons.append("hardware counted where its attributes exclude it")
    return _counter(str(event), row, reasons, extra)


def _violations(raw: dict[str, Any], counters: tuple[Counter, ...]) -> tuple[str, ...]:
    found = []
    if raw["stopped"]:
        why = "the guest's PMIs left no time for its workload" if raw["pmi"]["raised"] else "the workload had no time"
        most = max(raw["spent"], key=lambda cost: raw["spent"][cost])
        found.append(f"{raw['stopped']}: {why}; it was stopped after twice its length (most went to {most})")
    for counter in counters:
        if counter.value != counter.ideal - sum(counter.losses.values()) + sum(counter.gains.values()):
            found.append(f"conservation: {counter.event}: value is not ideal - losses + gains")
    pmi = raw["pmi"]
    if pmi["raised"] != pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]:
        found.append(f"PMI identity: {pmi}")
    host = raw["host_pmi"]
    if host["raised"] != host["handled"] + host["coalesced"] + host["lost"] + host["pending"]:
        found.append(f"host PMI identity: {host}")
    if sum(raw["clocks"]) + raw.get("others", 0) != raw["w"]:
        found.append("clocks: the activities do not add up to the wall clock")
    if raw.get("leftovers"):
        found.append(
            f"leftovers: {raw['leftovers']} times a vCPU left the CPU with its counters enabled, so that they count "
            "for the next one"
        )
    if raw["stray_counts"]:
        found.append("isolation: a counter wrapped in host mode")
    return (*found, *breach_sentences(raw["breaches"], raw["switches"]))


def _forced(scenario: Scenario, refusal: str) -> str:
    """What is simulated although it cannot be had (``what_if``); empty if nothing is."""
    if refusal:
        return refusal
    failing = [str(event) for event in scenario.host_perf if scenario.fails(event) and scenario.what_if]
    return f"EOPNOTSUPP: host events that include guests ({', '.join(failing)}) fail beside it" if failing else ""


def _notes(scenario: Scenario, forced: str, counters: tuple[Counter, ...], raw: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    lost = raw["pmi"]["lost"]
    hz = scenario.cpu.core_hz.value
    idle = raw["clocks"][6]
    if 10 * raw["w"] > 11 * scenario.end_cycles:
        notes.append(f"the run lasted {raw['w'] / hz:.3g} s: what was under way at its end is not cut")
    if few_blocking_exits(raw):
        notes.append(
            f"{raw['blocking_exits']} blocking exits carry {idle / raw['w']:.0%} of the time, so overheads differ from "
            "seed to seed; run more seconds"
        )
    if counters and 100 * scenario.end_cycles < hz:
        notes.append("in less than 10 ms the set-up of guest perf weighs heavily")
    why = "a PMI was lost, so nobody armed the counter again" if lost else "the period is shorter than a PMI takes"
    turns = "ticks, rotations and switches reload a counter before its PMI is handled"
    for (_, period), counter in zip(scenario.guest_events(), counters, strict=True):
        if period and counter.samples < counter.value // period - 1:
            notes.append(
                f"{counter.event}: {counter.samples} samples where {counter.value // period} periods went by: "
                + (turns if "multiplexed" in counter.losses and not lost else why)
            )
    amd = scenario.cpu.vendor == "amd"
    for request, counter in zip(scenario.guest_requests(), counters, strict=True):
        if request.frequency and counter.samples < counter.samples_expected - 1:
            notes.append(
                f"{counter.event}: {counter.samples} samples where {counter.samples_expected} periods went by: "
                + (why if lost else "Linux's first period on AMD is 1, shorter than a PMI takes" if amd else turns)
            )
    if forced:
        notes.append(f"hypothetical: {forced}")
    needs_status_set = scenario.design.switch() is not None and scenario.design.host_version >= 4
    if needs_status_set and not scenario.cpu.writable_global_status:
        attempts = 2 * raw["switches"] + 1
        notes.append(
            f"{WARNING}switches of PMU state were attempted ({attempts} loads and puts) on {scenario.cpu.name}, whose "
            "perf lacks the capability (writable global status): what they did means nothing"
        )
    if scenario.design.has_guest_pmu:
        note = scenario.design.note(scenario.cpu, scenario.guest_cpu)
        if note:
            notes.append(note)
    if scenario.host_perf and not scenario.design.has_host:
        notes.append("there is no host, so the host events are left out")
    return tuple(notes)


def _provenance(scenario: Scenario, engine: str) -> dict[str, Any]:
    filters = [{"at": str(at), **made.to_dict()} for at, made in scenario.design.filters()]
    return {
        "vpmu": __version__,
        "engine": engine,
        "design": str(scenario.design),
        **({"event_filter": filters} if filters else {}),
        **scenario.to_dict(),
    }


def compare(
    scenario: Scenario,
    designs: Sequence[str | Design] | None = None,
    *,
    engine: str = "lazy",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Result]:
    """Simulate the same workload with the same seed in several designs.

    Parameters
    ----------
    scenario : Scenario
        Its own design is not used.
    designs : sequence of str or Design, optional
        All designs by default.
    engine : {"lazy", "stepwise", "reference"}
    progress : callable, optional
        Called with (design, wall cycles so far, wall cycles to run).

    Returns
    -------
    dict of str to Result
        In the order given; the key is the design as written on a command line.
    """
    if not isinstance(scenario, Scenario):
        raise ScenarioError(f"the scenario must be a vpmu.Scenario, not {scenario!r}")
    if isinstance(designs, (str, Design)):
        raise ScenarioError(f"designs must be a list of designs, not {designs!r}")
    wanted = [design(spec) for spec in (designs if designs is not None else _all_designs())]

    def run(made: Design, guest_perf: bool, baselines: tuple[Result | None, Result | None] = (None, None)) -> Result:
        chosen = scenario.changed(design=made) if guest_perf else scenario.changed(design=made, guest_perf=())
        name = str(made)
        report = None if progress is None else (lambda at, end: progress(name, at, end))
        return simulate(chosen, engine, progress=report, _baselines=baselines)

    baseline = run(design("none"), False)
    results: dict[str, Result] = {}
    misfit: ScenarioError | None = None
    for made in wanted:
        if not made.has_guest_pmu:
            results[str(made)] = dataclasses.replace(baseline, _baselines=(baseline, baseline))
            continue
        baselines: tuple[Result | None, Result | None] = (baseline, None)
        try:
            unprofiled = run(made, False)
            baselines = (baseline if made.has_host else unprofiled, unprofiled)
            results[str(made)] = run(made, True, baselines)
        except ScenarioError as error:
            # What its guest's PMU cannot count, and a sequence of another vendor's registers, may fit another design.
            misfit = error
            unprofiled_scenario = dataclasses.replace(scenario, design=made, guest_perf=())
            results[str(made)] = _refused(unprofiled_scenario, engine, str(error), baselines)
    if misfit is not None and all(result.reason for result in results.values() if result.scenario.design.has_guest_pmu):
        raise misfit
    return results
