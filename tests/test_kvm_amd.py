"""KVM and host perf on AMD CPUs, paragraph by paragraph.

Test names have the paragraph of the specification of KVM's behaviour (arch/x86/kvm/pmu.c, svm/pmu.c) or the number of a
question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from guest_programs import ON, STATUS, TOP, UNMASK, Step, enable, program, read, readings, run, select, write

import vpmu
from vpmu import testing
from vpmu._plan import Plan
from vpmu._scenario import plan

GENOA, ROME = vpmu.cpu("genoa"), vpmu.cpu("rome")
INSTRUCTIONS, CYCLES, BRANCHES = 0xC0, 0x76, 0xC2
ALL = 0x3F
SCOPES = ("fastpath-loop", "every-exit", "run-loop", "vcpu-sched")
#: Designs of AMD with PerfMonV2.
HAD = ("none", "bare-metal", "emulated", "mediated", "virtualized", "dedicated", "dedicated,lvtpc=passthrough")
OPS = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")


def amd(design: str, steps: Sequence[Step], **changes: Any) -> Plan:
    return program(design, steps, **({"cpu": GENOA} | changes))


def ops_of(design: str, steps: list[Step], before: int, **changes: Any) -> tuple[int, ...]:
    """Instructions that the hypervisor executes for all but the first accesses of a program, in OPS' order."""
    whole, first = (run(amd(design, some, **changes)) for some in (steps, steps[:before]))
    after, ahead = (result["ops"]["run"]["hypervisor"] for result in (whole, first))
    return tuple(after[name] - ahead[name] for name in OPS)


def scenario(**changes: Any) -> vpmu.Scenario:
    return vpmu.Scenario(**({"cpu": "genoa", "workload": "fio-4k-read", "seconds": "0.005"} | changes))


# -- what can be had --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "design", "why"),
    [
        ("rome", "mediated", "from PerfMonV2 on"),
        ("milan", "mediated", "from PerfMonV2 on"),
        ("rome", "virtualized", "registers of PerfMonV2"),
        ("genoa", "mediated-semi", "Intel's PMU versions 2 and 3"),
        ("genoa", "passthrough", "GuestOnly"),
        ("genoa", "direct-capture", "posted for Intel"),
        ("rome", "direct-capture", "posted for Intel"),
    ],
)
def test_kvm_1_2_amd_what_cannot_be_had_has_one_reason(cpu: str, design: str, why: str) -> None:
    result = vpmu.simulate(scenario(cpu=cpu, design=design))
    assert why in result.reason
    assert not result.counters


@pytest.mark.parametrize("design", [*HAD, *(f"mediated,scope={scope}" for scope in SCOPES)])
def test_kvm_1_2_amd_what_can_be_had_counts_exactly(design: str) -> None:
    perf = ["stat:instructions,cycles,branches", "record:cache-references:period=20011"]
    result = vpmu.simulate(scenario(design=design, guest_perf=perf))
    assert result.reason == ""
    assert not result.violations
    if result.counters:
        testing.assert_exact(result)


@pytest.mark.parametrize("version", [1, 2])
def test_kvm_1_4_amd_a_guest_may_have_version_1(version: int) -> None:
    """No global registers for it; on the host KVM loads GLOBAL_CTL with all counters."""
    made = scenario(design="mediated", guest_pmu=vpmu.GuestPmu(version, 6, 0), guest_perf=["stat:instructions,cycles"])
    result = vpmu.simulate(made)
    testing.assert_exact(result)
    accesses = result.raw["guest_accesses"]["setup"]["direct"]
    assert bool(accesses["wrmsr_global"]) is (version == 2)
    assert vpmu.simulate(dataclasses.replace(made, design="emulated")).counters[1].value > 0
    with pytest.raises(vpmu.ScenarioError, match="version 3 must be 1 to 2"):
        vpmu.simulate(scenario(guest_pmu=vpmu.GuestPmu(3, 6, 0)))


def test_kvm_1_3_amd_events_have_amds_codes() -> None:
    """12-bit event selects; cycles of the reference clock from Zen 4 on; none has bus-cycles or slots."""
    names = ["instructions", "cycles", "branches", "branch-misses", "cache-references", "cache-misses"]
    codes = [0xC0, 0x76, 0xC2, 0xC3, 0xFF60, 0x0964]
    planned = plan(scenario(guest_perf=["stat:" + ",".join(names)], design="emulated"))
    assert [event.selector & 0xF_0000_FFFF for event in planned.guest_events] == codes
    for design in ("emulated", "mediated", "dedicated"):
        result = vpmu.simulate(scenario(design=design, guest_perf=["stat:ref-cycles,r76,rff60:u,cycles"]))
        testing.assert_exact(result)
        assert result.counters[0].value > 1_000_000
        assert result.counters[1].event == "r76"
    for event, cpu in (("ref-cycles", "rome"), ("bus-cycles", "genoa"), ("slots", "genoa")):
        with pytest.raises(vpmu.ScenarioError, match="none of 6 GP and 0 fixed counters can count it"):
            scenario(cpu=cpu, guest_perf=[f"stat:{event}"])
    for event, cpu in (("r3c", "genoa"), ("rc4", "genoa"), ("r76", "skylake"), ("r0964", "skylake")):
        with pytest.raises(vpmu.ScenarioError, match=rf"{event}.*no rate is known for it on {cpu}"):
            plan(scenario(cpu=cpu, guest_perf=[f"stat:{event}"]))


def test_sequences_are_for_one_vendors_registers() -> None:
    """The default is the merged one of the CPU's vendor."""
    assert plan(scenario(design="mediated")).sequence == vpmu.sequence("linux-7.0-amd")
    assert plan(scenario(design="mediated", cpu="skylake")).sequence == vpmu.sequence("linux-7.0")
    for cpu, name, fitting in (
        ("genoa", "linux-7.0-no-elision", "linux-7.0-amd"),
        ("skylake", "linux-7.0-amd", "every-register, linux-7.0, linux-7.0-autostore"),
    ):
        with pytest.raises(vpmu.ScenarioError, match=f"sequence {name} is for .*, not {cpu}; use {fitting}"):
            vpmu.simulate(scenario(cpu=cpu, design=f"mediated,sequence={name}"))


# -- interception -----------------------------------------------------------------------------------------------------


def test_kvm_2_2_amd_selectors_and_lvtpc_are_intercepted_and_with_fewer_counters_rdpmc_and_global_registers() -> None:
    made = vpmu.design("mediated")
    passed = made.passed_through(GENOA, made.guest_cpu(GENOA, None))
    assert passed == ("counters", "global registers", "RDPMC")
    fewer = made.guest_cpu(GENOA, vpmu.GuestPmu(2, 4, 0))
    assert made.passed_through(GENOA, fewer) == ("counters",)
    for pmu in (None, vpmu.GuestPmu(2, 4, 0)):
        testing.assert_exact(vpmu.simulate(scenario(design="mediated", guest_pmu=pmu)))


# -- the switch -------------------------------------------------------------------------------------------------------

#: RDMSR, RDPMC, counters, selectors, global registers, LVTPC.
LOAD = (1, 6, 0, 6, 3, 1)  # GLOBAL_CTL=0, STATUS_SET, GLOBAL_CTL
PUT = (1, 6, 0, 0, 1, 1)  # GLOBAL_CTL=0
EXIT = (1, 0, 0, 0, 0, 0)  # GLOBAL_CTL is read after each exit


def plus(*rows: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def test_kvm_4_3_amd_what_a_load_executes() -> None:
    """STATUS_SET and GLOBAL_CTL are always written, even with 0 (Q13)."""
    ops = run(amd("mediated", []))["ops"]["setup"]["hypervisor"]
    assert tuple(ops[name] for name in OPS) == LOAD


def test_kvm_4_4_amd_what_a_put_executes_and_q15_a_selector_once_written_is_always_cleared() -> None:
    """GuestOnly stays in what KVM loads, even if the guest's own selector is 0 again."""

    def switch(steps: list[Step]) -> tuple[int, ...]:
        return ops_of("mediated", [*steps, UNMASK], len(steps))

    assert switch([enable(0)]) == plus(EXIT, PUT, LOAD)
    one_selector = (0, 0, 0, 1, 0, 0)
    assert switch([enable(0), select(2, BRANCHES), select(2, 0)]) == plus(EXIT, PUT, LOAD, one_selector)
    assert switch([select(2, 0)]) == plus(EXIT, PUT, LOAD)  # nothing changed
    counted = (0, 0, 2, 1, 0, 0)
    assert switch([select(0, BRANCHES | ON), 100]) == plus(EXIT, PUT, LOAD, counted)


@pytest.mark.parametrize("overflowed", [False, True])
def test_q13_amd_status_is_cleared_at_put_and_always_set_at_load(overflowed: bool) -> None:
    steps: list[Step] = [
        write(0, TOP - 5000),
        select(0, BRANCHES | ON & ~(1 << 20)),
        6000 if overflowed else 10,
        STATUS,
    ]
    after: list[Step] = [UNMASK, STATUS]
    assert [status for status, _ in run(amd("mediated", [*steps, *after]))["program"]] == [overflowed, overflowed]
    assert ops_of("mediated", [*steps, UNMASK], len(steps))[4] == 1 + 3 + overflowed


def test_kvm_4_5_amd_global_ctl_is_read_after_each_exit_unless_it_is_intercepted() -> None:
    """svm_vcpu_run(); there are no VMCS fields and no MSR lists."""
    for pmu, reads in ((None, 1), (vpmu.GuestPmu(2, 4, 0), 0)):
        result = vpmu.simulate(scenario(design="mediated", guest_pmu=pmu, guest_perf=(), seconds="0.02"))
        exits = sum(result.exits.values())
        ops = result.raw["ops"]["run"]["hypervisor"]
        assert ops["rdmsr"] == exits * reads + 2 * result.raw["switches"]
        assert exits > result.raw["switches"] > 100
        assert result.raw["spent"]["msr_list_entry"] == 0


@pytest.mark.parametrize("design", [f"mediated,scope={scope}" for scope in SCOPES] + ["virtualized", "dedicated"])
def test_kvm_4_3_amd_i6_guest_only_counters_stand_still_in_host_mode(design: str) -> None:
    """Every activity counts at the same rate, and exits take long: what is read is the guest's own."""
    steps: list[Step] = [select(0, BRANCHES | ON & ~(1 << 20)), enable(ALL), 100]
    ((once, ideal),) = readings(design, [*steps, read(0)], cpu=GENOA)
    assert once == ideal
    for blocking in (0, 20_000):
        ((value, ideal),) = readings(design, [*steps, *[UNMASK] * 8, 1000, read(0)], cpu=GENOA, blocking=blocking)
        assert value == ideal < 5000


@pytest.mark.parametrize("scope", SCOPES)
def test_kvm_4_7_amd_filter_matches_twelve_bits_and_keeps_guest_only(scope: str) -> None:
    """Denying 1C2 does not deny 0C2; a denied selector is loaded with EN clear, and reads back as written."""
    for code, denied in ((0x1_0000_00C2, False), (0x00C2, True)):
        rule = vpmu.EventFilter(1, [code], masked=False, vendor="amd")
        design = vpmu.Mediated(scope=scope, event_filter=rule)
        result = vpmu.simulate(scenario(design=design, guest_perf=["stat:branches,cycles"]))
        branches, cycles = result.counters
        assert (branches.value == 0) is denied
        assert (branches.losses.keys() == {"filtered"}) is denied
        assert cycles.value == cycles.ideal > 0
        assert not result.violations


def test_kvm_6_amd_filters_are_for_one_vendor() -> None:
    """Names are those of AMD's events, 12 bits; a filter for Intel is no filter here."""
    result = vpmu.simulate(scenario(design="emulated,event_filter=deny:branches:amd", guest_perf=["stat:branches"]))
    assert "filtered" in result.counters[0].flags
    with pytest.raises(vpmu.ScenarioError, match="for intel does not fit genoa; make it one with vendor amd"):
        scenario(design="emulated,event_filter=deny:0xc2")
    with pytest.raises(vpmu.UnknownName, match="did you mean cycles"):
        vpmu.EventFilter("deny", ["bus-cycles"], vendor="amd")


def test_kvm_4_8_amd_emulated_instructions_are_added() -> None:
    for design in ("mediated", "mediated,scope=vcpu-sched", "virtualized", "dedicated", "emulated"):
        steps: list[Step] = [select(0, INSTRUCTIONS | ON), enable(ALL), *[UNMASK] * 10, 1000, read(0)]
        ((value, ideal),) = readings(design, steps, cpu=GENOA)
        assert ideal - value in (0, 1)
        assert value >= 1010


# -- PMIs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpu", [GENOA, ROME], ids=lambda cpu: cpu.name)
@pytest.mark.parametrize("design", ["bare-metal", "emulated", "mediated", "virtualized", *HAD[-2:]])
def test_kvm_5_2_amd_q19_delivery_does_not_mask_lvtpc(cpu: vpmu.CpuModel, design: str) -> None:
    """PerfMonV2's handler never writes LVTPC, and PMIs come all the same; before it the handler writes it first."""
    if vpmu.design(design).refusal(cpu, (), False):
        return
    result = vpmu.simulate(scenario(cpu=cpu, design=design, guest_perf=["record:cycles:period=100003"]))
    handlers = result.raw["handlers"]
    lvtpc = [result.raw["guest_accesses"]["run"][way]["wrmsr_lvtpc"] for way in ("direct", "trapped")]
    assert sum(lvtpc) == (0 if cpu is GENOA else handlers)
    assert handlers == result.raw["pmi"]["delivered"] > 20
    assert result.raw["pmi"]["lost"] == 0
    testing.assert_exact(result)


def test_kvm_5_2_amd_software_that_never_unmasks_is_asked_again() -> None:
    """With LVTPC unmasked once, a second overflow interrupts, too; an Intel guest's would be masked by then."""

    def delivered(cpu: vpmu.CpuModel, branches: int) -> int:
        again: list[Step] = [write(0, TOP - 500), enable(1), 3000]
        steps: list[Step] = [UNMASK, enable(0), select(0, branches | ON), *again, enable(0), *again, enable(0)]
        planned = program("dedicated,lvtpc=passthrough", steps, cpu=cpu)
        return int(run(planned)["pmi"]["delivered"])

    assert delivered(GENOA, BRANCHES) == 2


def test_kvm_5_2_amd_a_masked_lvtpc_loses_the_pmi_and_keeps_status() -> None:
    steps: list[Step] = [write(0, TOP - 500), select(0, BRANCHES | ON), enable(1), 3000, STATUS]
    for design in ("emulated", "mediated", "virtualized", "dedicated"):
        result = run(amd(design, steps))
        assert (result["pmi"]["lost"], result["pmi"]["delivered"]) == (1, 0)
        assert result["program"][0][0] == 1


def test_kvm_3_7_amd_what_arrives_before_the_host_takes_nmis_is_one_nmi() -> None:
    """GIF is clear after #VMEXIT: a second PMI in the exit of the first joins it (`emulated`)."""
    model = dataclasses.replace(GENOA, skid=vpmu.Skid(0, 3000))
    made = scenario(
        cpu=model, design="emulated", guest_perf=["record:cycles:period=9001"], seconds="0.01",
        host_perf=["instructions:exclude_guest:period=3001", "cycles:period=7001"],
    )  # fmt: skip
    result = vpmu.simulate(made)
    assert not result.violations
    assert result.raw["host_pmi"]["coalesced"] > 0
    testing.assert_same_counts(result, vpmu.simulate(made, "reference"))


# -- host perf --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "row"), [("genoa", (1, 1, 1, 0, 3, 0)), ("rome", (0, 1, 1, 0, 0, 1)), ("skylake", (2, 1, 1, 0, 3, 1))]
)
def test_host_perf_amd_accesses_of_a_pmi(cpu: str, row: tuple[int, ...]) -> None:
    made = scenario(cpu=cpu, design="none", host_perf=["branches:exclude_guest:period=2003"], workload="sysbench-cpu")
    result = vpmu.simulate(dataclasses.replace(made, seconds="0.05"))
    handled = result.raw["host_pmi"]["handled"]
    ops = result.raw["ops"]["run"]["host"]
    assert tuple(ops[name] for name in OPS) == tuple(handled * n for n in row)
    assert result.host_events[0].samples == handled > 5


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_host_perf_amd_accesses_of_a_rotation(cpu: str) -> None:
    """As in a guest: eight events on six counters."""
    made = scenario(cpu=cpu, design="none", host_perf=["branches"] * 8, seconds="0.05")
    result = vpmu.simulate(made)
    rotations = result.raw["rotations"]
    row = (12, 6, 6, 12, 2, 1) if cpu == "genoa" else (18, 6, 6, 18, 0, 1)
    ops = result.raw["ops"]["run"]["host"]
    assert tuple(ops[name] for name in OPS) == tuple(rotations * n for n in row)
    assert rotations > 10
    assert not result.violations


def test_host_perf_amd_v1_counters_run_on_in_the_handler() -> None:
    """What they count between the read and the write of a new period is overwritten."""
    for cpu, overwritten in (("genoa", False), ("rome", True)):
        made = scenario(cpu=cpu, design="none", host_perf=["cycles:period=30011"], seconds="0.01")
        (event,) = vpmu.simulate(made).host_events
        assert ("overwritten" in event.losses) is overwritten
        assert event.value == event.ideal - sum(event.losses.values()) + sum(event.gains.values())
        assert ("ran on" in event.reason) is overwritten


@pytest.mark.parametrize("cpu", ["genoa", "rome"])
def test_kvm_3_6_amd_selectors_do_what_vmcs_fields_do(cpu: str) -> None:
    """GuestOnly for exclude_host, HostOnly for exclude_guest: each counts in its mode alone."""
    events = ["cycles:exclude_guest", "cycles:exclude_host", "cycles"]
    made = scenario(cpu=cpu, design="none", host_perf=events, seconds="0.02")
    host, guest, both = vpmu.simulate(made).host_events
    for event in (host, guest, both):
        assert event.value == event.ideal
    assert host.value + guest.value == both.value
    assert min(host.value, guest.value) > 10_000


@pytest.mark.parametrize("scope", SCOPES)
def test_kvm_4_6_amd_host_events_leave_for_the_window(scope: str) -> None:
    made = scenario(design=f"mediated,scope={scope}", host_perf=["cycles:exclude_guest:freq=4000"], seconds="0.02")
    result = vpmu.simulate(made)
    (event,) = result.host_events
    assert event.losses["window"] > 0
    assert not result.violations
    testing.assert_exact(dataclasses.replace(result, host_events=()))
    reference = vpmu.simulate(made, "reference")
    assert reference.raw["ops"] == result.raw["ops"]
