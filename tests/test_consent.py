"""Capability and consent: who decides whether a PMU is mediated, and what fails where somebody else counts."""

from __future__ import annotations

import dataclasses

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu._consent import PerfExclusion, admit


def test_perf_has_the_capability_where_global_status_can_be_written() -> None:
    """Intel has STATUS_SET from version 4 on, AMD from PerfMonV2 on; nothing else is asked of perf."""
    having = {name for name in vpmu.cpus() if vpmu.cpu(name).writable_global_status}
    for name in vpmu.cpus():
        cpu = vpmu.cpu(name)
        assert (name in having) == sets_a_status_bit(cpu)
    assert {"skylake", "icelake", "sapphirerapids", "genoa"} <= having
    assert not {"haswell", "broadwell", "milan", "nehalem"} & having


def sets_a_status_bit(cpu: vpmu.CpuModel) -> bool:
    """Whether the PMU has a register by which bit 0 of GLOBAL_STATUS can be set."""
    pmu = vpmu.Pmu(cpu)
    write, read = (0x391, 0x38E) if cpu.vendor == "intel" else (0xC0000303, 0xC0000300)
    try:
        pmu.wrmsr(write, 1)
        return bool(pmu.rdmsr(read) & 1)
    except vpmu.GeneralProtectionFault:
        return False


@pytest.mark.parametrize(("design", "version"), [("none", 0), ("bare-metal", 0), ("emulated", 1), ("mediated", 4)])
def test_host_versions_that_designs_need(design: str, version: int) -> None:
    assert vpmu.design(design).host_version == version
    old = dataclasses.replace(vpmu.cpu("skylake"), version=3)
    refusal = vpmu.Scenario(cpu=old, design=design, seconds=0.001).refusal()
    assert bool(refusal) == (version > 3)
    if refusal:
        assert "mediates from PMU version 4 on" in refusal


def test_whether_to_mediate_is_kvms_decision_and_the_administrators() -> None:
    """The module parameter is for all VMs; without it the design is a row with a reason, and the others go on."""
    scenario = vpmu.Scenario(enable_mediated_pmu=False, seconds=0.001)
    results = vpmu.compare(scenario)
    assert results["mediated"].overhead is None
    assert "enable_mediated_pmu is off" in results["mediated"].reason
    for name, result in results.items():
        assert (result.reason != "") == vpmu.design(name).needs_opt_in
    status, out, _ = call("compare", "sysbench-cpu", "--seconds", "0.001", "--no-mediated-pmu", "--format", "csv")
    assert status == 0
    assert "enable_mediated_pmu is off" in out
    with pytest.raises(vpmu.ScenarioError, match="enable_mediated_pmu must be true or false"):
        vpmu.Scenario(enable_mediated_pmu=1)  # type: ignore[arg-type]  # what is refused


def test_a_switch_without_the_capability_is_a_warning_in_the_result() -> None:
    """What a kernel would WARN() of; only what_if gets there, since KVM itself does not."""
    old = dataclasses.replace(vpmu.cpu("skylake"), version=3)
    scenario = vpmu.Scenario(cpu=old, design="mediated", workload="fio-4k-read", what_if=True, seconds=0.001)
    result = vpmu.simulate(scenario)
    assert result.raw["switches"] > 0
    assert len(result.warnings) == 1
    assert "writable global status" in result.warnings[0]
    assert f"({2 * result.raw['switches'] + 1} loads and puts)" in result.warnings[0]
    assert any(note.startswith("WARNING: ") for note in result.to_dict()["notes"])
    for other in ("none", "emulated"):
        assert vpmu.simulate(dataclasses.replace(scenario, design=other)).warnings == ()
    assert vpmu.simulate(dataclasses.replace(scenario, cpu="skylake")).warnings == ()


# -- creation ---------------------------------------------------------------------------------------------------------


def test_kvm_4_1_events_that_include_guests_and_mediated_vms_exclude_each_other() -> None:
    host = PerfExclusion()
    assert host.open_event(exclude_guest=False) == ""
    assert host.create_vm() == "EBUSY"
    # While one such event exists, more may be opened.
    assert host.open_event(exclude_guest=False) == ""
    host.close_event(exclude_guest=False)
    assert host.create_vm() == "EBUSY"
    host.close_event(exclude_guest=False)
    assert host.create_vm() == ""
    assert host.open_event(exclude_guest=False) == "EOPNOTSUPP"
    assert host.open_event(exclude_guest=True) == ""
    assert host.create_vm() == ""
    host.destroy_vm()
    assert host.open_event(exclude_guest=False) == "EOPNOTSUPP"
    host.destroy_vm()
    assert host.open_event(exclude_guest=False) == ""


@given(st.lists(st.sampled_from(["vm", "-vm", "event", "-event", "host event"]), max_size=30))
def test_kvm_4_1_never_are_both_there(steps: list[str]) -> None:
    host = PerfExclusion()
    for step in steps:
        if step == "vm":
            assert (host.create_vm() == "") == (host.including == 0)
        elif step == "event":
            assert (host.open_event(exclude_guest=False) == "") == (host.vms == 0)
        elif step == "host event":
            assert host.open_event(exclude_guest=True) == ""
        elif step == "-vm" and host.vms:
            host.destroy_vm()
        elif step == "-event" and host.including:
            host.close_event(exclude_guest=False)
        assert not (host.vms and host.including)


def test_kvm_4_1_the_order_of_creation_decides_who_fails() -> None:
    events = [vpmu.WATCHDOG, vpmu.HostEvent("cycles", exclude_guest=True)]
    refusal, opened = admit(events, vm_first=False)
    assert refusal.startswith("EBUSY")
    assert "nmi_watchdog=0" in refusal
    assert opened == (True, True)
    assert admit(events, vm_first=True) == ("", (False, True))
    assert admit(events[1:], vm_first=False) == ("", (True,))
    assert "watchdog" not in admit([vpmu.HostEvent("cycles")], vm_first=False)[0]


def test_kvm_4_1_an_event_that_fails_says_what_the_perf_tool_does_about_it() -> None:
    scenario = vpmu.Scenario(design="mediated", host_perf=["cycles"], vm_first=True, seconds=0.001)
    (event,) = vpmu.simulate(scenario).host_events
    assert "EOPNOTSUPP" in event.reason
    assert ":exclude_guest" in event.reason
    assert "never-scheduled" in event.flags
    again = vpmu.simulate(dataclasses.replace(scenario, host_perf=("cycles:exclude_guest",)))
    assert again.host_events[0].value > 0


def test_kvm_4_6_exclude_guest_means_not_between_load_and_put() -> None:
    """The same event beside an emulated and a mediated PMU: the second also loses host code around the guest."""
    scenario = vpmu.Scenario(workload="fio-4k-read", host_perf=["cycles:pinned:exclude_guest"], seconds=0.01)
    emulated = vpmu.simulate(dataclasses.replace(scenario, design=vpmu.Emulated())).host_events[0]
    mediated = vpmu.simulate(scenario)
    assert set(emulated.losses) <= {"pmu_disabled"}
    assert mediated.host_events[0].losses["window"] == mediated.cycles["blind"]


def test_kvm_4_6_a_host_pmi_is_nobodys_while_the_guests_lvtpc_is_loaded() -> None:
    """perf's handler returns at once: an NMI past the switch costs its entry, and no register is touched."""
    cpu = dataclasses.replace(vpmu.cpu("sapphirerapids"), skid=vpmu.Skid(2500, 2500))
    scenario = vpmu.Scenario(
        cpu=cpu,
        design="mediated",
        workload="fio-4k-read",
        guest_perf=["record:instructions:period=20011"],
        seconds=0.02,
    )
    result = vpmu.simulate(scenario)
    assert result.pmis["skid_past_exit"] > 0
    assert result.raw["ops"]["run"]["host"] == dict.fromkeys(result.raw["ops"]["run"]["host"], 0)
    assert result.raw["spent"]["host_nmi"] > 0
