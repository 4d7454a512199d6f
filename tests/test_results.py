"""What results claim about each design, checked against the definitions and against each other."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

import vpmu
from vpmu import testing

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "recordings"
GUEST = ("emulated", "mediated", "mediated,scope=every-exit", "mediated,sequence=linux-7.0-no-elision", "dedicated")
HZ = vpmu.cpu("sapphirerapids").core_hz.value


def regular(source: vpmu.Workload, **changes: object) -> vpmu.Workload:
    """Only what comes with the guest's work, at regular distances."""
    exits = tuple(item for item in source.exits if item.clock == "work")
    return dataclasses.replace(source, exits=exits, arrivals="regular", **changes)


def work(result: vpmu.Result) -> int:
    return result.cycles["guest_user"] + result.cycles["guest_kernel"]


# -- the published recording ------------------------------------------------------------------------------------------


def test_fio_recording_exits_as_recorded_and_costs_in_proportion_to_switches() -> None:
    found = sorted(REAL.glob("07_*.txt"))
    if not found:
        pytest.skip("the real recordings are not here")
    mediated = []
    for table, total in ((1, 797440 + 3672 + 1638), (2, 3524 + 515 + 151)):
        recorded = vpmu.read_recording(found[0], recorded_seconds=10, table=table)
        results = vpmu.compare(vpmu.Scenario(cpu="emeraldrapids", workload=recorded, seconds=1), ["none", "mediated"])
        # Arrivals are random: five standard deviations of a Poisson count, and the 1 % for the large one.
        slack = max(0.01 * total / 10, 5 * (total / 10) ** 0.5)
        assert results["none"].exits_per_second == pytest.approx(total / 10, abs=slack if table == 2 else total / 1000)
        mediated.append(results["mediated"])
    with_exits, without = mediated
    assert with_exits.overhead is not None
    assert without.overhead is not None
    assert with_exits.pmu_switches_per_second is not None
    assert without.pmu_switches_per_second is not None
    assert with_exits.overhead / without.overhead == pytest.approx(
        with_exits.pmu_switches_per_second / without.pmu_switches_per_second, rel=0.1
    )


# -- accuracy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guest_perf", ["stat:instructions,cycles,branches:u,cache-misses:k", "record:cycles:period=40009"]
)
@pytest.mark.parametrize("workload", vpmu.workloads())
def test_dedicated_and_mediated_guests_read_what_they_should(workload: str, guest_perf: str) -> None:
    results = vpmu.compare(vpmu.Scenario(workload=workload, guest_perf=[guest_perf], seconds=0.002))
    for name, result in results.items():
        testing.assert_conserved(result)
        assert result.violations == ()
        assert name == "none" or result.counters[0].ideal > 0
        if name in ("bare-metal", "mediated", "dedicated"):
            testing.assert_exact(result)
            testing.assert_isolated(result)
        for counter in result.counters:
            assert set(counter.losses) | set(counter.gains) <= {"not_scheduled", "emulated_instruction"}
            assert bool(counter.reason) == ("exact" not in counter.flags)


def test_pinned_host_events_that_take_all_counters_starve_an_emulated_guest() -> None:
    cpu = vpmu.cpu("skylake")
    # One event for each fixed counter, then events that have no fixed counter for each GP counter.
    taking = ["instructions:pinned", "cycles:pinned", "ref-cycles:pinned", *["branches:pinned"] * cpu.gp_counters]
    assert len(taking) == cpu.fixed_counters + cpu.gp_counters
    scenario = vpmu.Scenario(
        cpu=cpu, design="emulated", workload="fio-4k-read", host_perf=taking, seconds=0.004,
        guest_perf=["stat:instructions,cycles,branches"],
    )  # fmt: skip
    starved = vpmu.simulate(scenario)
    testing.assert_conserved(starved)
    for counter in starved.counters:
        assert counter.losses["not_scheduled"] > 0.99 * counter.ideal > 0
        assert {"lost", "never-scheduled"} & set(counter.flags)
        assert "exact" not in counter.flags
        assert "no free counter" in counter.reason
        assert "cycles:pinned" in counter.reason
    with pytest.raises(AssertionError, match="not_scheduled"):
        testing.assert_exact(starved)
    for event in starved.host_events:
        assert event.value == event.ideal - event.losses.get("pmu_disabled", 0) > 0
    # One more host event finds nothing; one less leaves a counter to the guest.
    crowded = vpmu.simulate(dataclasses.replace(scenario, host_perf=[*taking, "branch-misses:pinned"]))
    assert crowded.host_events[-1].value == 0
    assert "never-scheduled" in crowded.host_events[-1].flags
    spared = vpmu.simulate(dataclasses.replace(scenario, host_perf=taking[:-1], guest_perf=["stat:branches"]))
    testing.assert_exact(spared)


def test_mediated_host_events_lose_the_window_only() -> None:
    result = vpmu.simulate(
        vpmu.Scenario(
            workload="fio-4k-read", host_perf=["cycles:pinned:exclude_guest"], seconds=0.003, guest_perf=["stat:cycles"]
        )
    )
    (event,) = result.host_events
    assert set(event.losses) <= {"window", "pmu_disabled"}
    assert event.gains == {}
    # exclude_guest: everything but the guest and idle, which does not count.
    cycles = result.cycles
    assert event.ideal == cycles["hypervisor"] + cycles["blind"] + cycles["host_task"]
    assert event.losses["window"] == cycles["blind"]
    blind = cycles["blind"] / (cycles["hypervisor"] + cycles["blind"] + cycles["host_task"])
    assert result.host_blind_fraction == pytest.approx(blind)


def test_dedicated_cedes_every_host_event() -> None:
    result = vpmu.simulate(
        vpmu.Scenario(design="dedicated", host_perf=["watchdog", "branches:pinned:exclude_guest"], seconds=0.003)
    )
    for event in result.host_events:
        assert (event.value, dict(event.losses)) == (0, {"ceded": event.ideal})
        assert "given its PMU up" in event.reason
    testing.assert_exact(result)


# -- what cannot be had -----------------------------------------------------------------------------------------------


def test_a_host_event_that_includes_guests_makes_a_mediated_vm_fail() -> None:
    results = vpmu.compare(vpmu.Scenario(host_perf=["watchdog"], seconds=0.002))
    row = results["mediated"].to_dict()
    assert row["overhead"] is None
    assert row["overhead_of_profiling"] is None
    assert row["assumed_share"] is None
    assert row["exits_per_s"] is None
    assert row["reason"].startswith("EBUSY")
    assert "watchdog" in row["reason"]
    assert (row["guest"], row["host"], row["pmi"]) == ([], [], {})
    for name in ("none", "bare-metal", "emulated", "dedicated"):
        assert results[name].reason == ""
        assert results[name].overhead is not None
    for check in (testing.assert_exact, testing.assert_conserved, testing.assert_isolated):
        with pytest.raises(AssertionError, match="EBUSY"):
            check(results["mediated"])


def test_a_mediated_vm_that_is_first_makes_the_event_fail() -> None:
    scenario = vpmu.Scenario(
        host_perf=["watchdog", "cycles:pinned:exclude_guest"], vm_first=True, seconds=0.002, cpu="emeraldrapids"
    )
    results = vpmu.compare(scenario)
    watchdog, excluding = results["mediated"].host_events
    assert results["mediated"].reason == ""
    assert results["mediated"].overhead is not None
    assert (watchdog.value, "EOPNOTSUPP" in watchdog.reason) == (0, True)
    assert watchdog.ideal > 0
    assert excluding.value > 0
    assert "EOPNOTSUPP" not in excluding.reason
    # With other designs the order does not matter, and nothing is said about a mediated VM.
    crowd = ["watchdog", *["branches:pinned"] * 11]
    for name in ("none", "emulated"):
        result = vpmu.simulate(dataclasses.replace(scenario, design=name, host_perf=crowd))
        assert result.host_events[0].value > 0
        assert result.host_events[-1].value == 0
        assert not any("EOPNOTSUPP" in event.reason for event in result.host_events)


@pytest.mark.parametrize("vm_first", [False, True])
def test_what_if_forces_and_flags(vm_first: bool) -> None:
    scenario = vpmu.Scenario(host_perf=["watchdog"], seconds=0.002, what_if=True, vm_first=vm_first)
    for name, result in vpmu.compare(scenario).items():
        forced = vpmu.design(name).excludes_include_guest
        assert result.overhead is not None
        assert all(("hypothetical" in c.flags) == forced for c in result.counters + result.host_events)
        assert any(note.startswith("hypothetical") for note in result.notes) == forced
    possible = dataclasses.replace(scenario, host_perf=["cycles:pinned:exclude_guest"])
    assert "hypothetical" not in vpmu.simulate(possible).counters[0].flags


def test_mediated_needs_version_4() -> None:
    old = dataclasses.replace(vpmu.cpu("skylake"), name="old", version=3)
    refused = vpmu.simulate(vpmu.Scenario(cpu=old, seconds=0.001))
    assert "version 4" in refused.reason
    assert refused.overhead is None
    forced = vpmu.simulate(vpmu.Scenario(cpu=old, seconds=0.001, what_if=True))
    assert forced.overhead is not None
    assert "hypothetical" in forced.counters[0].flags


# -- the same work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2**64 - 1])
def test_same_seed_same_integers(seed: int) -> None:
    scenario = vpmu.Scenario(
        workload="hackbench", guest_perf=["record:cycles:period=30011"], seconds=0.002, seed=seed,
        host_perf=["cycles:pinned:exclude_guest"],
    )  # fmt: skip
    first, second = vpmu.compare(scenario), vpmu.compare(scenario)
    others = vpmu.compare(dataclasses.replace(scenario, seed=seed - 1))
    for name, result in first.items():
        testing.assert_same_counts(result, second[name])
        assert result.to_dict() == second[name].to_dict()
        if name != "bare-metal":
            with pytest.raises(AssertionError, match="results differ"):
                testing.assert_same_counts(result, others[name])


@pytest.mark.parametrize("workload", ["fio-4k-read", "windows-legacy-io", "hackbench"])
def test_exits_come_with_guest_work_alike_in_all_rows(workload: str) -> None:
    source = regular(vpmu.workload(workload))
    assert source.exits
    cpu = vpmu.cpu("sapphirerapids")
    # From the definition: a second has this much guest work between its exits, in equal parts.
    transition = cpu.costs["vm_exit"].value + cpu.costs["vm_entry"].value
    taken = Fraction(0)
    for item in source.exits:
        default = cpu.costs["handling_hlt" if item.blocks else f"handling_{item.kind}"].value
        handling = default if item.handling_ns is None else item.handling_ns * HZ / 10**9
        taken += item.per_second * (round(handling) + transition)
    gap = (HZ - taken) / source.exits_per_second
    scenario = vpmu.Scenario(workload=source, seconds=0.02, guest_perf=["record:cycles:period=500009"])
    results = vpmu.compare(scenario, ["none", *GUEST])
    counts = set()
    for result in results.values():
        exits = sum(result.raw["exits"])
        counts.add(exits)
        assert exits > 10
        # Each kind has its own regular arrivals, and may lack one at the end.
        assert exits == pytest.approx(work(result) / float(gap), abs=len(source.exits) + exits / float(gap))
    assert len(counts) > 1 or workload == "hackbench"


def test_random_exits_fall_on_the_same_work_in_all_rows() -> None:
    source = dataclasses.replace(regular(vpmu.workload("fio-4k-read")), arrivals="exponential")
    scenario = vpmu.Scenario(workload=source, seconds=0.01)
    done = sorted(
        (work(result), sum(result.raw["exits"])) for result in vpmu.compare(scenario).values() if result.exits
    )
    # `none` for shorter and longer is the ruler: how many exits there are by a given amount of work.
    ruler = [
        vpmu.simulate(dataclasses.replace(scenario, design="none", seconds=Fraction(n, 4000))) for n in range(8, 48)
    ]
    marks = [(work(result), sum(result.raw["exits"])) for result in ruler]
    assert len(done) == len(vpmu.designs()) - 1  # bare-metal has no exits
    for amount, exits in done:
        assert max(n for at, n in marks if at <= amount) <= exits <= min(n for at, n in marks if at >= amount)


def test_rates_divide_by_the_real_wall_clock() -> None:
    result = vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds=0.002))
    wall = sum(result.cycles.values())
    assert wall >= result.scenario.end_cycles
    assert result.exits_per_second == pytest.approx(sum(result.exits.values()) * HZ / wall)
    assert result.pmu_switches_per_second == pytest.approx(result.raw["switches"] * HZ / wall)
    ops = result.msr_ops_per_second
    assert ops is not None
    run = result.raw["ops"]["run"].values()
    assert ops["rdpmc"] == pytest.approx(sum(origin["rdpmc"] for origin in run) * HZ / wall)
    wrmsr = sum(n for origin in run for name, n in origin.items() if name.startswith("wrmsr"))
    assert ops["wrmsr"] == pytest.approx(wrmsr * HZ / wall)
    assert result.msr_ops["hypervisor"]["rdpmc"] > 0


# -- overhead ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", vpmu.workloads())
def test_overheads_by_their_definition(workload: str) -> None:
    scenario = vpmu.Scenario(workload=workload, seconds=0.002, host_perf=["cycles:pinned:exclude_guest"])

    def share(design: str, guest_perf: tuple[str, ...]) -> float:
        result = vpmu.simulate(dataclasses.replace(scenario, design=design, guest_perf=guest_perf))
        return work(result) / sum(result.cycles.values())

    perf = ("stat:instructions,cycles",)
    for name, result in vpmu.compare(scenario).items():
        with_perf, without = share(name, perf if name != "none" else ()), share(name, ())
        baseline = without if name == "bare-metal" else share("none", ())
        assert result.overhead == pytest.approx(1 - with_perf / baseline, abs=1e-12)
        assert result.overhead_of_profiling == pytest.approx(1 - with_perf / without, abs=1e-12)
        assert result.assumed_share is not None
        assert 0 <= result.assumed_share <= 1
        json.dumps(result.to_dict(), allow_nan=False)
        alone = vpmu.simulate(dataclasses.replace(scenario, design=name))
        assert (alone.overhead, alone.overhead_of_profiling) == (result.overhead, result.overhead_of_profiling)
        assert alone.assumed_share == result.assumed_share
        if name == "none":
            assert (result.overhead, result.overhead_of_profiling, result.assumed_share) == (0, 0, 0)
            assert result.counters == ()


def test_assumed_share_is_all_or_nothing_if_all_or_no_costs_are_assumed() -> None:
    scenario = vpmu.Scenario(workload="fio-4k-read", seconds=0.002)
    costs = {name: figure.value for name, figure in scenario.cpu.costs.items()}
    for design in GUEST:
        everything = vpmu.simulate(dataclasses.replace(scenario, design=design, costs=costs))
        assert everything.assumed_share == 1
        assert everything.deciding_assumption in costs
        published = vpmu.CostModel(
            {name: dataclasses.replace(figure, quality="published") for name, figure in scenario.cpu.costs.items()}
        )
        cpu = dataclasses.replace(scenario.cpu, costs=published)
        nothing = vpmu.simulate(dataclasses.replace(scenario, design=design, cpu=cpu))
        assert nothing.assumed_share == 0
        assert nothing.deciding_assumption == ""
        testing.assert_same_counts(everything, nothing)


def test_compare_goes_by_the_designs_as_they_are_written() -> None:
    wanted = ["mediated,scope=every-exit", vpmu.Emulated(reuse=False), "none"]
    results = vpmu.compare(vpmu.Scenario(seconds=0.001), wanted)
    assert list(results) == ["mediated,scope=every-exit", "emulated,reuse=false", "none"]
    assert tuple(vpmu.compare(vpmu.Scenario(seconds=0.001))) == vpmu.designs()


def test_classes_and_assets() -> None:
    rows = {name: r.to_dict() for name, r in vpmu.compare(vpmu.Scenario(cpu="skylake", seconds=0.001)).items()}
    classes = {name: row["class"] for name, row in rows.items()}
    assert classes == {
        "none": None, "bare-metal": None, "emulated": "emulated", "direct-capture": "emulated",
        "mediated": "mediated", "mediated-semi": "mediated",
        "passthrough": "virtualized", "virtualized": "virtualized", "dedicated": "virtualized",
    }  # fmt: skip
    assert rows["none"]["passed_through"] == rows["emulated"]["passed_through"] == []
    # The same counters as the host's: data, global registers and RDPMC reach hardware; selectors are filtered.
    assert set(rows["mediated"]["passed_through"]) == {"counters", "global registers", "RDPMC"}
    assert set(rows["dedicated"]["passed_through"]) == {"counters", "selectors", "global registers", "RDPMC"}
    assert "LVTPC" in rows["bare-metal"]["passed_through"]


# -- storms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.001, 0.00003, 1e-6])
@pytest.mark.parametrize("design", GUEST)
def test_a_guest_without_progress_ends_with_a_violation(design: str, seconds: float) -> None:
    scenario = vpmu.Scenario(design=design, guest_perf=["record:instructions:period=1"], seconds=seconds)
    result = vpmu.simulate(scenario)
    testing.assert_conserved(result)
    assert any(violation.startswith("no-progress") for violation in result.violations)
    with pytest.raises(AssertionError, match="no-progress"):
        testing.assert_isolated(result)
    # Stopped when twice the length has passed, or by the end of the step that was running then.
    assert sum(result.cycles.values()) > 2 * scenario.end_cycles
    assert sum(result.cycles.values()) < 2 * scenario.end_cycles + 200_000
    assert result.overhead is not None
    assert result.overhead > 0.99
    assert result.assumed_share is not None
    assert 0 < result.assumed_share < 1
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.pmis["lost"] == 0
    assert not any("lost" in note for note in result.notes)
    if result.counters[0].samples < result.counters[0].value - 1:
        assert any("shorter than a PMI takes" in note for note in result.notes)


def test_a_storm_on_bare_metal_ends_too() -> None:
    result = vpmu.simulate(
        vpmu.Scenario(design="bare-metal", guest_perf=["record:instructions:period=1"], seconds=0.001)
    )
    pmi = result.pmis
    assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
    # Either it makes no progress, or a PMI arrived while LVTPC was masked and the counter was never armed again.
    assert pmi["lost"] > 0 or any(violation.startswith("no-progress") for violation in result.violations)
    assert any("PMI was lost" in note for note in result.notes) == (pmi["lost"] > 0)


@pytest.mark.parametrize("design", vpmu.designs())
def test_a_run_too_short_for_its_set_up_blames_no_pmi(design: str) -> None:
    result = vpmu.simulate(vpmu.Scenario(design=design, seconds=1e-9))
    assert all("PMI" not in violation for violation in result.violations)
    assert any(violation.startswith("no-progress") for violation in result.violations)
    share = result.assumed_share
    assert (share is None) == (result.overhead is None)


# -- samples and engines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["bare-metal", *GUEST])
def test_samples_are_as_many_as_periods(design: str) -> None:
    period = 100_003
    result = vpmu.simulate(vpmu.Scenario(design=design, guest_perf=[f"record:cycles:period={period}"], seconds=0.01))
    (counter,) = result.counters
    assert counter.samples > 50
    assert counter.value // period - 1 <= counter.samples <= counter.value // period
    assert result.pmis["delivered"] >= counter.samples
    counting = vpmu.simulate(vpmu.Scenario(design=design, guest_perf=["stat:cycles"], seconds=0.01))
    assert counting.counters[0].samples == 0


def test_engines_agree() -> None:
    scenario = vpmu.Scenario(guest_perf=["record:cycles,instructions:period=70001"], seconds=0.0004)
    for design in vpmu.designs():
        chosen = dataclasses.replace(scenario, design=design)
        for engine in ("lazy", "stepwise", "reference"):
            result = vpmu.simulate(chosen, engine)
            assert (result.engine, result.provenance["engine"]) == (engine, engine)
            testing.assert_same_counts(vpmu.simulate(chosen), result)
    with pytest.raises(vpmu.UnknownName, match="did you mean stepwise"):
        vpmu.simulate(scenario, engine="stepwize")


def test_progress_rises_towards_the_end() -> None:
    scenario = vpmu.Scenario(workload="fio-4k-read", design="mediated", seconds=30)
    seen: list[tuple[int, int]] = []
    vpmu.simulate(scenario, progress=lambda *step: seen.append(step))
    steps = [at for at, _ in seen]
    assert len(steps) > 1
    assert steps == sorted(set(steps))
    assert all(0 < at < end for at, end in seen)
    assert {end for _, end in seen} == {30 * vpmu.cpu("sapphirerapids").core_hz.value}


def test_progress_of_a_comparison_names_the_design() -> None:
    names = set()
    scenario = vpmu.Scenario(workload="fio-4k-read", seconds=30)
    vpmu.compare(scenario, ["mediated"], progress=lambda name, at, end: names.add(name))
    assert {"mediated"} <= names <= {"none", "mediated"}


def test_provenance_says_what_made_a_result() -> None:
    scenario = vpmu.Scenario(
        cpu="icelake", design="mediated,scope=every-exit", workload="idle", seconds=0.001, seed=9, costs={"wrmsr": 7},
        host_perf=["cycles:pinned:exclude_guest"], guest_perf=["stat:cycles:u"],
    )  # fmt: skip
    assert vpmu.simulate(scenario, "stepwise").provenance == {
        "vpmu": vpmu.__version__, "engine": "stepwise", "cpu": "icelake", "design": "mediated,scope=every-exit",
        "workload": "idle", "guest_perf": ["stat:cycles:u"], "host_perf": ["cycles:pinned:exclude_guest"],
        "seconds": 0.001, "seed": 9, "costs": {"wrmsr": 7},
        "recording": None, "guest_pmu": None, "vm_first": False, "what_if": False, "host_hz": 250, "events_file": "",
        "enable_mediated_pmu": True,
        "guest_hz": 250, "guest_kernel": "6.14",
    }  # fmt: skip


def test_results_and_pmus_travel_between_processes() -> None:
    result = vpmu.simulate(vpmu.Scenario(seconds=0.001))
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.to_dict() == result.to_dict()
    pmu = vpmu.Pmu(vpmu.cpu("skylake"))
    pmu.wrmsr(0x186, 0x4300C0)
    code = "import pickle, sys; pmu = pickle.load(sys.stdin.buffer); print(hex(pmu.rdmsr(0x186)))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(pmu), capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"0x4300c0"), done.stderr.decode()


def test_everything_can_be_imported_with_a_star() -> None:
    assert len(set(vpmu.__all__)) == len(vpmu.__all__)
    code = "from vpmu import *; print(simulate(Scenario(seconds=0.001)).counters[0].event, __version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"instructions {vpmu.__version__}\n", "")


@pytest.mark.parametrize("design", ["bare-metal", *GUEST])
def test_modifiers_count_one_privilege_level(design: str) -> None:
    scenario = vpmu.Scenario(design=design, seconds=0.002, guest_perf=["stat:cycles:u,cycles:k,cycles"])
    result = vpmu.simulate(scenario)
    user, kernel, both = result.counters
    # Perf itself runs in the guest's kernel, so user code is counted from its first to its last cycle.
    assert user.ideal == result.cycles["guest_user"] > 0
    assert kernel.ideal >= result.cycles["guest_kernel"] > 0
    assert user.ideal < both.ideal <= user.ideal + kernel.ideal
    host = ["cycles:pinned:exclude_guest:u", "cycles:pinned:exclude_guest:k"]
    user, kernel = vpmu.simulate(
        dataclasses.replace(scenario, workload="fio-4k-read-suppressed", design="none", host_perf=host)
    ).host_events
    assert kernel.ideal > 0
    assert "exact" in kernel.flags
    assert (
        user.ideal
        == vpmu.simulate(dataclasses.replace(scenario, workload="fio-4k-read-suppressed", design="none")).cycles[
            "host_task"
        ]
    )
