"""What KVM's developers say of the designs that keep guest state in hardware, as runs: their scopes, limits and costs.

Test names have the paragraph of the specification of KVM's behaviour that they reproduce, or the question.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from machine_runs import agreed

import vpmu
from vpmu import testing
from vpmu._scenario import plan
from vpmu._sequences import Sequence, sequence

ENGINES = ("lazy", "stepwise", "reference")
RECORD = "record:instructions,cycles:period=100003"


def version(number: int, **changes: Any) -> vpmu.CpuModel:
    """Skylake's clocks and costs with a PMU of another version."""
    return dataclasses.replace(vpmu.cpu("skylake"), name=f"version-{number}", version=number, **changes)


def run(design: str, **changes: Any) -> vpmu.Result:
    fields: dict[str, Any] = {"cpu": "emeraldrapids", "workload": "fio-4k-read", "seconds": "0.01"}
    return vpmu.simulate(vpmu.Scenario(design=design, **fields | changes))


def accesses(result: vpmu.Result, origin: str = "hypervisor") -> int:
    return sum(result.raw["ops"]["run"][origin].values())


# -- mediated-semi ----------------------------------------------------------------------------------------------------


def test_mail_000_a_version_3_pmu_cannot_be_mediated_but_can_be_semi_mediated() -> None:
    refused = run("mediated", cpu=version(3))
    assert "version 4" in refused.reason
    assert refused.counters == ()
    for number in (2, 3):
        result = run("mediated-semi", cpu=version(number), guest_perf=[RECORD])
        assert result.reason == ""
        testing.assert_exact(result)
        testing.assert_conserved(result)
        # An overflow found its way through software: the handler saw each one, and none comes twice.
        assert [c.samples for c in result.counters] == [c.value // 100_003 for c in result.counters]


def test_kvm_8_5_status_and_its_acknowledgement_exit_and_the_rest_passes_through() -> None:
    made = vpmu.design("mediated-semi")
    cpu = version(3)
    guest = made.guest_cpu(cpu, None)
    assert made.traps(cpu, guest) == {"selector", "fixed_ctr_ctrl", "lvtpc", "global_status", "global_ovf_ctrl"}
    assert set(made.passed_through(cpu, guest)) == {"counters", "RDPMC"}
    result = run("mediated-semi", cpu=cpu, guest_perf=["record:branches:period=100003"])
    direct, trapped = (result.raw["guest_accesses"]["run"][way] for way in ("direct", "trapped"))
    handlers = result.raw["handlers"]
    assert handlers > 10
    # GLOBAL_STATUS twice per handler exits, and so do its acknowledgement and LVTPC.
    assert (trapped["rdmsr"], direct["rdmsr"]) == (2 * handlers, 0)
    assert (trapped["wrmsr_global"], direct["wrmsr_global"]) == (handlers, 2 * handlers)
    assert (trapped["rdpmc"], trapped["wrmsr_counter"], trapped["wrmsr_lvtpc"]) == (0, 0, handlers)


def test_kvm_8_5_status_is_cleared_at_put_and_never_set() -> None:
    steps = [step for half in (sequence("semi-v2").load, sequence("semi-v2").put) for step in half]
    assert not [step for step in steps if step.get("op") == "toggle"]
    assert [step for step in sequence("semi-v2").load if step.get("register") == "global_status"] == []
    assert {"op": "rdmsr", "register": "global_status", "save": True} in sequence("semi-v2").put


@pytest.mark.parametrize("number", [1, 2])
def test_a_pmu_that_cannot_be_semi_mediated_is_refused(number: int) -> None:
    cpu = version(2, perf_capabilities=0)
    made = vpmu.design("mediated-semi")
    if number == 1:
        cpu = dataclasses.replace(vpmu.cpu("skylake"), version=1, fixed_mask=0)
        assert "GLOBAL_CTRL" in made.refusal(cpu, (), False)
        semi = vpmu.design("mediated-semi,sequence=linux-7.0")
        assert "STATUS_SET" in semi.refusal(version(3), (), False)
        assert semi.refusal(vpmu.cpu("skylake"), (), False) == ""
    else:
        assert "full-width" in made.refusal(cpu, (), False)


# -- scopes and exclude_guest -----------------------------------------------------------------------------------------

SCOPES = ("vcpu-sched", "run-loop", "fastpath-loop", "every-exit")


@pytest.mark.parametrize("workload", ["windows-legacy-io", "hackbench", "sysbench-cpu"])
def test_mail_001_every_exit_costs_more_accesses_by_the_ratio_of_exits_to_run_loop_iterations(workload: str) -> None:
    """With nobody counting, each switch makes the same accesses, so the ratio is exact."""
    ops, switches = {}, {}
    for scope in SCOPES:
        scenario = vpmu.Scenario(
            cpu="emeraldrapids", design=f"mediated,scope={scope}", workload=workload, guest_perf=(), seconds="0.2"
        )
        result = vpmu.simulate(scenario)
        ops[scope], switches[scope] = accesses(result), result.raw["switches"]
        exits = list(zip(plan(scenario).exits, result.raw["exits"], strict=True))
        iterations = {
            "vcpu-sched": sum(n for e, n in exits if e.idle),
            "run-loop": sum(n for e, n in exits if e.idle or e.kind == 2),
            "fastpath-loop": sum(n for e, n in exits if e.kind != 0),
            "every-exit": sum(n for _, n in exits),
        }
        assert switches[scope] == iterations[scope]
    assert switches["every-exit"] > switches["run-loop"] > 0
    for scope in SCOPES:
        assert ops["every-exit"] * switches[scope] == ops[scope] * switches["every-exit"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("workload", ["fio-4k-read", "windows-legacy-io", "idle-nohz-off"])
def test_kvm_8_4_every_scope_counts_exactly_and_keeps_the_guest_from_the_host(scope: str, workload: str) -> None:
    result = run(
        f"mediated,scope={scope}",
        workload=workload,
        guest_perf=[RECORD],
        host_perf=["instructions:pinned:exclude_guest", "cycles:pinned:exclude_guest"],
    )
    testing.assert_exact(result)
    testing.assert_conserved(result)
    testing.assert_isolated(result)
    assert result.violations == ()


def test_kvm_8_4_the_wider_the_scope_the_more_the_host_is_blind() -> None:
    blind = {}
    for scope in SCOPES[:3]:
        result = run(f"mediated,scope={scope}", workload="windows-legacy-io", host_perf=["cycles:pinned:exclude_guest"])
        (event,) = result.host_events
        blind[scope] = event.losses["window"] / event.ideal
    assert blind["vcpu-sched"] > blind["run-loop"] > blind["fastpath-loop"] > 0
    # Where nothing blocks, the host sees nothing at all.
    assert blind["vcpu-sched"] > 0.99


@pytest.mark.parametrize("scope", SCOPES)
def test_mail_001_exclude_guest_redefined_is_what_host_perf_can_count(scope: str) -> None:
    """Not in guest mode, or not between load and put: the same counts, held against another ideal."""
    host = ["cycles:pinned:exclude_guest", "instructions:pinned:exclude_guest:u"]
    as_is, redefined = (
        run(f"mediated,scope={scope},exclude_guest={meaning}", workload="windows-legacy-io", host_perf=host)
        for meaning in ("guest-mode", "window")
    )
    assert as_is.raw["clocks"] == redefined.raw["clocks"]
    for before, after in zip(as_is.host_events, redefined.host_events, strict=True):
        assert before.value == after.value
        assert after.losses == {}
        assert "exact" in after.flags
        assert before.ideal - after.ideal == before.losses.get("window", 0)
    assert as_is.host_events[0].losses["window"] > 0


def test_mail_002_and_kvm_8_2_a_stale_guest_selector_counts_when_the_host_sets_global_ctrl() -> None:
    """Review of RFC 23/41: a put that only reads counters. Elision shows what they did meanwhile."""
    merged = sequence("linux-7.0")
    reduced = Sequence(
        "reduced",
        "put only reads",
        "review of [RFC PATCH 23/41], 11 April 2024",
        merged.load,
        (
            {"op": "rdmsr", "register": "global_status", "save": True},
            {"for": "gp", "do": [{"op": "rdpmc", "save": True}]},
            {"for": "fixed", "do": [{"op": "rdpmc", "save": True}]},
            {"op": "lvtpc", "value": "host"},
            {"op": "perf_put_guest_context"},
        ),
    )
    written = {}
    for name in ("linux-7.0", "reduced"):
        for host in ((), ("instructions:pinned:exclude_guest",)):
            planned = plan(
                vpmu.Scenario(
                    cpu="emeraldrapids",
                    design="mediated",
                    workload="fio-4k-read",
                    guest_perf=["stat:branches"],
                    host_perf=host,
                    seconds="0.003",
                )
            )
            if name == "reduced":
                planned = dataclasses.replace(planned, sequence=reduced)
            result = agreed(planned)
            assert result["counters"][0]["value"] == result["counters"][0]["ideal"]
            written[name, bool(host)] = result["ops"]["run"]["hypervisor"]["wrmsr_counter"]
            switches = result["switches"]
    # Nothing differs at load while host perf is quiet; with one host event the guest's counter has moved every time.
    assert written["reduced", False] == 0
    assert written["reduced", True] > switches // 2 > 50
    assert min(written["linux-7.0", False], written["linux-7.0", True]) > switches  # saved, cleared, written back


# -- passthrough ------------------------------------------------------------------------------------------------------


def test_mail_003_only_lvtpc_is_left_between_passthrough_and_the_hardware() -> None:
    result = run("passthrough", guest_perf=[RECORD])
    testing.assert_exact(result)
    assert set(result.to_dict()["passed_through"]) == {"counters", "selectors", "global registers", "RDPMC"}
    assert result.to_dict()["class"] == "virtualized"
    trapped = result.raw["guest_accesses"]["run"]["trapped"]
    assert trapped["wrmsr_lvtpc"] == sum(trapped.values()) == result.raw["handlers"] > 10


def test_mail_003_an_erratum_turns_passthrough_into_mediated() -> None:
    """The selectors are intercepted again: the run is mediated's of a guest with the whole PMU, cycle for cycle."""
    whole = vpmu.GuestPmu(version=5, gp=8, fixed=4)
    forced = run("passthrough,erratum=true", guest_perf=[RECORD])
    mediated = run("mediated", guest_perf=[RECORD], guest_pmu=whole)
    assert forced.raw == mediated.raw
    assert set(forced.to_dict()["passed_through"]) == {"counters", "global registers", "RDPMC"}
    free = run("passthrough", guest_perf=[RECORD])
    assert free.raw["guest_accesses"]["setup"]["trapped"]["wrmsr_selector"] == 0
    assert forced.raw["guest_accesses"]["setup"]["trapped"]["wrmsr_selector"] > 0


def test_passthrough_pays_for_what_it_does_not_know_at_every_put() -> None:
    """Eight selectors and FIXED_CTR_CTRL are read before they can be cleared (RFC 23/41 did the same)."""
    reads = {
        name: run(name, guest_perf=(), seconds="0.02").raw
        for name in ("passthrough,scope=every-exit", "mediated,scope=every-exit")
    }
    ((_, passthrough), (_, mediated)) = reads.items()
    per_put = [raw["ops"]["run"]["hypervisor"]["rdmsr"] / raw["switches"] for raw in (passthrough, mediated)]
    asked = passthrough["refused"]
    assert asked == 0
    assert per_put[0] - per_put[1] >= 9


def test_q17_counting_instructions_makes_fastpaths_slow() -> None:
    for design in ("mediated", "mediated-semi", "passthrough"):
        slow_exits = run(design, workload="sysbench-cpu", guest_perf=["stat:instructions"], seconds="0.1").raw
        none = run(design, workload="sysbench-cpu", guest_perf=["stat:cycles"], seconds="0.1").raw
        kinds = dict(zip(slow_exits["exit_reasons"], slow_exits["exits"], strict=True))
        assert slow_exits["refused"] == kinds["MSR_WRITE"] > 0
        assert none["refused"] == 0
    for scope in ("run-loop", "vcpu-sched"):  # guest state stays in hardware: the instruction is added there
        raw = run(f"mediated,scope={scope}", workload="sysbench-cpu", guest_perf=["stat:instructions"]).raw
        assert raw["refused"] == 0


# -- virtualized ------------------------------------------------------------------------------------------------------


def test_kvm_11_the_hypervisor_executes_no_pmu_access_and_no_pmi_exits() -> None:
    result = run("virtualized", guest_perf=[RECORD], host_perf=["cycles:pinned:exclude_guest"])
    testing.assert_exact(result)
    testing.assert_isolated(result)
    assert accesses(result) == 0
    assert result.raw["handlers"] > 10
    assert result.exits.get("EXTERNAL_INTERRUPT", 0) == dict(
        zip(result.raw["exit_reasons"], result.raw["exits"], strict=True)
    ).get("EXTERNAL_INTERRUPT", 0)
    assert result.raw["pmu_exits"]["EXCEPTION_NMI"] == result.raw["pmu_exits"]["EXTERNAL_INTERRUPT"] == 0
    # Host perf's own events still go out and in.
    assert accesses(result, "host") > 4 * result.raw["switches"] > 0


def test_kvm_11_rdpmc_exits_only_for_guests_with_fewer_counters() -> None:
    made, cpu = vpmu.design("virtualized"), vpmu.cpu("emeraldrapids")
    whole = made.guest_cpu(cpu, vpmu.GuestPmu(5, 8, 4))
    fewer = made.guest_cpu(cpu, None)
    assert made.traps(cpu, fewer) - made.traps(cpu, whole) == {"rdpmc"}
    assert made.traps(cpu, whole) == {"selector", "fixed_ctr_ctrl", "lvtpc"}


def test_kvm_11_the_hardware_switch_costs_what_is_asked_for() -> None:
    free, dear = (run("virtualized", guest_perf=(), costs={"hardware_pmu_switch": c}) for c in (0, 1000))
    transitions = 2 * sum(dear.exits.values()) + 1
    assert dear.raw["spent"]["hardware_pmu_switch"] == 1000 * transitions
    assert free.raw["spent"]["hardware_pmu_switch"] == 0
    assert dear.overhead is None or dear.raw["clocks"][0] < free.raw["clocks"][0]
    assert any("hardware_pmu_switch" in note for note in dear.notes)


# -- dedicated --------------------------------------------------------------------------------------------------------


def test_mail_003_lvtpc_passed_through_leaves_no_pmu_exit() -> None:
    emulated_pmis = run("dedicated", guest_perf=[RECORD])
    complete = run("dedicated,lvtpc=passthrough", guest_perf=[RECORD])
    assert sum(emulated_pmis.raw["pmu_exits"].values()) > 2 * emulated_pmis.raw["handlers"] - 3 > 20
    assert sum(complete.raw["pmu_exits"].values()) == 0
    assert complete.raw["handlers"] > 10
    testing.assert_exact(complete)
    assert set(complete.to_dict()["passed_through"]) == {
        *("counters", "selectors", "global registers", "RDPMC", "LVTPC")
    }


def test_mail_001_the_host_that_gives_its_pmu_up_counts_nothing() -> None:
    for design in ("dedicated", "dedicated,lvtpc=passthrough"):
        result = run(design, host_perf=["watchdog", "cycles:pinned:exclude_guest"])
        for event in result.host_events:
            assert event.value == 0
            assert event.losses == {"ceded": event.ideal}


def test_a_guest_nmi_that_hits_the_host_is_injected() -> None:
    """PMI skid past VM-exit (mail 001) with LVTPC passed through: nothing is lost, the host's handler costs time."""
    cpu = dataclasses.replace(vpmu.cpu("emeraldrapids"), skid=vpmu.Skid(2000, 2000))
    result = run("dedicated,lvtpc=passthrough", cpu=cpu, guest_perf=["record:cycles:period=50021"])
    assert result.pmis["skid_past_exit"] > 0
    assert result.pmis["lost"] == 0
    assert result.raw["spent"]["host_nmi"] == result.pmis["skid_past_exit"] * cpu.costs["host_nmi"].value
    testing.assert_exact(result)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("dedicated,lvtpc=direct", "passthrough"),
        ("passthrough,scope=run-loop", "fastpath-loop"),
        ("mediated-semi,scope=vcpu-sched", "every-exit"),
        ("virtualized,scope=never", "every-exit"),
        ("mediated,exclude_guest=never", "guest-mode"),
        ("passthrough,erratum=maybe", "true or false"),
    ],
)
def test_options_that_do_not_exist(spec: str, word: str, engine: str) -> None:
    with pytest.raises((vpmu.UnknownName, vpmu.ScenarioError), match=word):
        vpmu.simulate(vpmu.Scenario(design=spec), engine)
