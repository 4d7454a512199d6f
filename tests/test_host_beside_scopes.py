"""Host perf's timers and PMIs beside designs whose guest state outlives an exit, or never meets the physical LVTPC."""

from __future__ import annotations

import dataclasses

import pytest
from test_host_scheduling import host, quiet, run

import vpmu
from vpmu._plan import Plan, PlannedExit, Stream


def halting(design: str, idle: int, *, sampling: bool = False) -> Plan:
    """Two flexible events want one counter; about every 5000 cycles the vCPU exits, and halts for so long."""
    events = [host(gp=1, exclude_guest=True) for _ in range(2)]
    if sampling:
        events = [dataclasses.replace(host(pinned=True, exclude_guest=True), period=700)]
    kind = PlannedExit("HLT", 1, 0, False, 3000, idle)
    work = Stream(5000, (0xFFFFFFFF,), (0,), (0,), ())
    return dataclasses.replace(quiet(*events, design=design, end=200_000), exits=(kind,), work=work)


@pytest.mark.parametrize("scope", ["run-loop", "vcpu-sched"])
def test_no_event_takes_its_turn_while_guest_state_stays_loaded(scope: str) -> None:
    """The timer makes its exits and is served in each; whose turn it is waits for the vCPU to halt."""
    loaded = run(halting(f"mediated,scope={scope}", 0))
    assert loaded["pmu_exits"]["EXTERNAL_INTERRUPT"] > 50
    assert loaded["rotations"] == 0
    assert [row["running"] for row in loaded["host"]] == [0, 0]
    halts = run(halting(f"mediated,scope={scope}", 4000))
    assert halts["rotations"] > 10
    assert all(row["running"] > 0 for row in halts["host"])


def test_exits_that_switch_serve_the_timer_with_the_hosts_events_in() -> None:
    assert run(halting("mediated", 0))["rotations"] > 50


@pytest.mark.parametrize("design", ["virtualized", "mediated", "mediated-semi", "passthrough"])
def test_host_events_sample_in_host_code_of_every_design_that_switches(design: str) -> None:
    """Their PMIs are the host's NMIs; virtualized leaves the guest's own delivery alone."""
    result = run(halting(design, 0, sampling=True))
    assert result["host_pmi"]["handled"] > 20
    assert result["host"][0]["samples"] > 20
    assert result["pmi"]["raised"] == 0


def test_who_must_agree_and_what_the_cpu_must_have() -> None:
    made = {name: vpmu.design(name) for name in vpmu.designs()}
    assert {name: d.host_version for name, d in made.items() if d.host_version} == {
        "emulated": 1, "direct-capture": 1, "mediated": 4, "mediated-semi": 2, "passthrough": 4,
    }  # fmt: skip
    asks = {"mediated", "mediated-semi", "passthrough"}
    assert {name for name, d in made.items() if d.needs_opt_in} == asks
    assert {name for name, d in made.items() if d.excludes_include_guest} == asks | {"virtualized"}
    for name in made:
        scenario = vpmu.Scenario(design=name, host_perf=["cycles"], vm_first=False)
        assert ("EBUSY" in scenario.refusal()) == made[name].excludes_include_guest
        off = vpmu.Scenario(design=name, enable_mediated_pmu=False)
        assert ("nobody has opted in" in off.refusal()) == made[name].needs_opt_in
