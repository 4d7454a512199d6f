"""KVM's mediated PMU and its PMIs, paragraph by paragraph.

Test names have the paragraph of the specification of KVM's behaviour (arch/x86/kvm/pmu.c) or the number of a question.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from guest_programs import (
    BRANCHES,
    CYCLES,
    FIXED,
    INSTRUCTIONS,
    INT,
    ON,
    STATUS,
    TOP,
    UNMASK,
    USR,
    Step,
    enable,
    program,
    read,
    readings,
    run,
    select,
    write,
)  # fmt: skip

import vpmu
from vpmu import testing
from vpmu._plan import ACCESSES

MEDIATED = ("mediated", "mediated-semi", "passthrough", "virtualized")


def ops_of(design: str, steps: list[Step], before: int, **changes: Any) -> dict[str, int]:
    """Instructions that the hypervisor executes for all but the first accesses of a program."""
    whole, first = (run(program(design, some, **changes)) for some in (steps, steps[:before]))
    after, ahead = (result["ops"]["run"]["hypervisor"] for result in (whole, first))
    return {name: after[name] - ahead[name] for name in after}


@pytest.mark.parametrize("design", MEDIATED)
def test_kvm_4_1_and_8_8_a_vm_and_an_event_that_includes_guests_exclude_each_other(design: str) -> None:
    scenario = vpmu.Scenario(design=design, host_perf=["watchdog", "cycles:pinned:exclude_guest"], seconds="0.002")
    assert "EBUSY" in vpmu.simulate(scenario).reason
    watchdog, excluding = vpmu.simulate(dataclasses.replace(scenario, vm_first=True)).host_events
    assert "EOPNOTSUPP" in watchdog.reason
    assert watchdog.value == 0 < excluding.value
    assert vpmu.simulate(dataclasses.replace(scenario, host_perf=["cycles:pinned:exclude_guest"])).reason == ""


def test_kvm_4_2_the_switch_encloses_the_fastpath_loop() -> None:
    """Fastpath exits re-enter without one; each other exit pays one put and one load (I26)."""
    scenario = vpmu.Scenario(design="mediated", workload="sysbench-cpu", guest_perf=(), seconds="0.5")
    result = vpmu.simulate(scenario)
    fastpath = result.exits["MSR_WRITE"] + result.exits["PREEMPTION_TIMER"]
    assert result.raw["switches"] == sum(result.exits.values()) - fastpath
    assert fastpath > 100


def test_kvm_4_3_what_a_load_executes() -> None:
    """GLOBAL_CTRL, LVTPC, an RDPMC per counter, each selector, STATUS, FIXED_CTR_CTRL; no counter that is equal."""
    result = run(program("mediated", []))
    assert result["ops"]["setup"]["hypervisor"] == {
        "rdmsr": 1, "rdpmc": 11, "wrmsr_counter": 0, "wrmsr_selector": 8 + 1, "wrmsr_global": 1, "wrmsr_lvtpc": 1
    }  # fmt: skip


def test_kvm_4_4_what_a_put_executes() -> None:
    """STATUS, an RDPMC for each counter, LVTPC; and what is not 0 is cleared."""
    load = run(program("mediated", []))["ops"]["setup"]["hypervisor"]

    def put(steps: list[Step]) -> dict[str, int]:
        both = ops_of("mediated", [*steps, UNMASK], len(steps))  # an exit for LVTPC: one put, one load
        return {name: both[name] - load[name] for name in both}

    idle = {"rdmsr": 1, "rdpmc": 11, "wrmsr_counter": 0, "wrmsr_selector": 0, "wrmsr_global": 0, "wrmsr_lvtpc": 1}
    assert put([enable(0)]) == idle
    # One live counter is saved, cleared and written back; its selector is cleared, the load writes it anyway.
    assert put([select(0, BRANCHES | ON), 100]) == idle | {"wrmsr_counter": 2, "wrmsr_selector": 1}
    assert put([(FIXED, 0, 0xB), enable(1 << 32), 100]) == idle | {"wrmsr_counter": 2, "wrmsr_selector": 1}


def test_kvm_4_5_counters_stop_at_the_exit_and_start_at_the_entry() -> None:
    """I5: nothing advances between load and entry, exit and put, whatever that takes."""
    steps: list[Step] = [select(0, CYCLES | ON), *[100, UNMASK] * 20, read(0)]
    for costs in ({}, {"vm_exit": 50_000, "vm_entry": 70_000, "wrmsr": 9_000}):
        planned = program("mediated", steps)
        planned = dataclasses.replace(planned, costs=planned.costs | costs, end=100_000_000)
        assert run(planned)["program"] == [(2000, 2000)]


@pytest.mark.parametrize(("cpu", "listed"), [("skylake", True), ("sapphirerapids", False)])
def test_kvm_4_5_a_cpu_without_exit_save_pays_for_the_store_list(cpu: str, listed: bool) -> None:
    """Only while the guest writes GLOBAL_CTRL without exits; semi and passthrough designs do as mediated does."""
    for design in ("mediated", "mediated-semi", "passthrough", "mediated,scope=run-loop"):
        pmu = vpmu.GuestPmu(5, 8, 4) if cpu == "sapphirerapids" else None
        scenario = vpmu.Scenario(cpu=cpu, design=design, workload="fio-4k-read", guest_pmu=pmu, seconds="0.002")
        result = vpmu.simulate(scenario)
        cost = scenario.cpu.costs["msr_list_entry"].value
        assert result.raw["spent"]["msr_list_entry"] == (cost * sum(result.exits.values()) if listed else 0)


def test_kvm_4_6_an_exclude_guest_event_does_not_count_from_load_to_put() -> None:
    scenario = vpmu.Scenario(
        design="mediated", workload="sysbench-cpu", host_perf=["cycles:pinned:exclude_guest"], seconds="0.05"
    )
    result = vpmu.simulate(scenario)
    (event,) = result.host_events
    assert event.value == result.cycles["hypervisor"] + result.cycles["host_task"]
    assert event.losses == {"window": result.cycles["blind"]}
    assert result.cycles["blind"] > 0


def test_kvm_4_7_a_selector_goes_to_the_counter_of_its_number_and_no_perf_event_is_made() -> None:
    """I17: what the guest reads back of its control is what it wrote, and host perf has no say."""
    host = ("cycles:pinned:exclude_guest",) * 6
    steps: list[Step] = [select(0, BRANCHES | ON), select(1, CYCLES | ON), 3000, read(0), read(1)]
    result = run(program("mediated", steps, cpu=vpmu.cpu("skylake"), host_perf=host))
    rdpmc = vpmu.cpu("skylake").costs["rdpmc"].value  # direct, and time of the guest's
    assert [value for value, _ in result["program"]] == [3000 + rdpmc, 3000 + 2 * rdpmc]
    assert all(value == ideal for value, ideal in result["program"])
    assert result["creates"] == 0
    assert result["reprograms"] == 2


def test_kvm_4_8_intercepted_counters_are_read_and_written_in_the_cache() -> None:
    """The exit of the access has put guest state away, so the copy is exact."""
    traps = frozenset(ACCESSES)
    steps: list[Step] = [write(0, 5), select(0, BRANCHES | ON), 100, read(0), write(0, TOP - 7), 200, read(0)]
    direct, trapped = (
        run(dataclasses.replace(planned, traps=chosen, global_ctrl_in_exit_list=False))
        for planned in [program("mediated", steps)]
        for chosen in (planned.traps - {"counter"}, traps)
    )
    assert [value for value, _ in trapped["program"]] == [105, 193]
    assert all(value == ideal for value, ideal in trapped["program"])
    assert all(value == ideal for value, ideal in direct["program"])


@pytest.mark.parametrize("design", [*MEDIATED[:3], "mediated,scope=run-loop", "dedicated"])
def test_kvm_4_8_emulated_instructions_are_added_to_the_saved_or_the_resident_counter(design: str) -> None:
    for levels in (ON, ON & ~USR):
        steps: list[Step] = [select(0, INSTRUCTIONS | levels), *[UNMASK] * 10, 1000, read(0)]
        ((value, ideal),) = readings(design, steps)
        # The write that enables a counter is in it only if it exits: then it is an emulated one, and comes too early.
        assert ideal - value in (0, 1)
        assert value >= 1010


def test_kvm_4_8_an_emulated_wrap_sets_status_and_requests_a_pmi() -> None:
    for design in ("mediated", "mediated-semi", "passthrough", "virtualized", "dedicated", "mediated,scope=vcpu-sched"):
        steps: list[Step] = [UNMASK, write(0, TOP - 2), select(0, INSTRUCTIONS | ON & ~USR), *[UNMASK] * 3]
        planned = program(design, steps)
        planned = dataclasses.replace(planned, rates=((0,) * 9,) * 7)  # no instructions but the emulated ones
        result = run(planned)
        assert result["pmi"]["raised"] == result["pmi"]["delivered"] == 1, design
        assert result["handlers"] == 1, design


def test_kvm_4_9_elision_takes_about_a_quarter_off_a_cpuid_exit() -> None:
    """Emerald Rapids, ~4000 to ~3000 cycles (commit b0b6a8d3be16); Q16: CPUID is no fastpath exit."""
    source = vpmu.ExitSource(
        reason="CPUID", count=10_000, seconds=1, vcpus=1, handling_ns=None, kind="kernel", clock="work", cpl=3,
        emulates=True, blocks=False,
    )  # fmt: skip
    base = vpmu.workload("sysbench-cpu")
    cpuid = dataclasses.replace(base, exits=(source,), arrivals="regular")
    cycles = {}
    for sequence in ("linux-7.0", "linux-7.0-no-elision"):
        scenario = vpmu.Scenario(
            cpu="emeraldrapids", design=f"mediated,sequence={sequence}", workload=cpuid, guest_perf=(), seconds="0.02"
        )
        raw = vpmu.simulate(scenario).raw
        assert raw["switches"] == raw["exits"][0] > 100
        cycles[sequence] = (raw["w"] - raw["clocks"][0] - raw["clocks"][1]) / raw["exits"][0]
    assert 0.65 < cycles["linux-7.0"] / cycles["linux-7.0-no-elision"] < 0.85


# -- PMIs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["mediated", "mediated-semi", "passthrough", "virtualized", "dedicated", "emulated"])
def test_kvm_5_1_status_bits_are_the_counters_numbers(design: str) -> None:
    steps: list[Step] = [
        write(2, TOP - 100), write(33, TOP - 100), select(2, BRANCHES | ON), (FIXED, 0, 0xB0), enable(1 << 33 | 4), 500,
        STATUS,
    ]  # fmt: skip
    assert readings(design, steps)[0][0] == 1 << 33 | 1 << 2


@pytest.mark.parametrize("design", ["mediated", "mediated-semi", "passthrough", "virtualized", "emulated"])
def test_kvm_5_2_several_overflows_are_one_pmi_and_q19_delivery_masks_lvtpc(design: str) -> None:
    two: list[Step] = [
        UNMASK, enable(0), write(0, TOP - 300), write(1, TOP - 310), select(0, BRANCHES | ON), select(1, CYCLES | ON),
        enable(3), 2000,
    ]  # fmt: skip
    result = run(program(design, two, skid=50))
    pmi = result["pmi"]
    assert pmi["raised"] == 2 == pmi["delivered"] + pmi["coalesced"]
    assert (pmi["delivered"], result["handlers"]) == (1, 1)
    # The handler unmasks; software that does not is not asked again.
    scenario = vpmu.Scenario(design=design, guest_perf=["record:cycles:period=100003"], seconds="0.005")
    counted = vpmu.simulate(scenario)
    assert counted.raw["handlers"] == counted.raw["pmi"]["delivered"] > 10


def test_kvm_5_3_and_5_4_an_nmi_exit_against_an_external_interrupt() -> None:
    """And none at all where hardware or a passed-through LVTPC delivers."""
    expected = {
        "emulated": "EXCEPTION_NMI", "direct-capture": "EXCEPTION_NMI", "mediated": "EXTERNAL_INTERRUPT",
        "mediated-semi": "EXTERNAL_INTERRUPT", "passthrough": "EXTERNAL_INTERRUPT", "dedicated": "EXTERNAL_INTERRUPT",
        "virtualized": None, "dedicated,lvtpc=passthrough": None, "bare-metal": None,
    }  # fmt: skip
    steps: list[Step] = [UNMASK, write(0, TOP - 500), select(0, BRANCHES | ON), 3000]
    for design, reason in expected.items():
        result = run(program(design, steps))
        exits = {name: result["pmu_exits"][name] for name in ("EXCEPTION_NMI", "EXTERNAL_INTERRUPT")}
        assert sum(exits.values()) == (0 if reason is None else exits[reason]) == (reason is not None), design
        assert result["handlers"] == 1, design


def test_kvm_5_4_a_pmi_that_arrives_after_the_exit_waits_as_a_vector() -> None:
    """Mail 001's skid past VM-exit: up to put it is an interrupt like any other; after put the host's NMI."""
    steps: list[Step] = [UNMASK, write(0, TOP - 500), select(0, BRANCHES | ON), 510, UNMASK, 3000]
    fates = set()
    for skid in range(0, 6000, 100):
        pmi = run(program("mediated", steps, skid=skid))["pmi"]
        fates.add((pmi["delivered"], pmi["lost"], pmi["skid_past_exit"]))
    assert {(1, 0, 0), (0, 1, 1)} <= fates


# -- questions --------------------------------------------------------------------------------------------------------


def test_q1_a_legacy_counter_write_is_sign_extended() -> None:
    pmu = vpmu.Pmu(vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(0xC1, 0x80000000)
    assert pmu.rdpmc(0) == 0xFFFF80000000
    pmu.wrmsr(0x4C1, 0x80000000)
    assert pmu.rdpmc(0) == 0x80000000


def test_q2_a_full_width_write_beyond_the_width_faults() -> None:
    pmu = vpmu.Pmu(vpmu.cpu("sapphirerapids"))
    with pytest.raises(vpmu.GeneralProtectionFault):
        pmu.wrmsr(0x4C1, 1 << 48)


def test_q12_an_intercepted_status_read_is_exact() -> None:
    for design in ("mediated", "mediated-semi", "mediated,scope=run-loop"):
        steps: list[Step] = [write(0, TOP - 500), select(0, BRANCHES | ON & ~INT), 490, STATUS, 9, STATUS, 1, STATUS]
        planned = program(design, steps)
        assert "global_status" in planned.traps
        assert [status for status, _ in run(planned)["program"]] == [0, 0, 1]


@pytest.mark.parametrize(("bits", "writes"), [(0, 0), (1, 2)])
def test_q13_status_is_toggled_with_at_most_two_writes(bits: int, writes: int) -> None:
    """Put clears what it read, if anything (one write), load sets what the guest had (another)."""
    start: list[Step] = [write(0, TOP - 50), select(0, BRANCHES | ON), 100 if bits else 10, select(0, 0)]
    ops = ops_of("mediated", [*start, UNMASK], len(start))
    assert ops["wrmsr_global"] == 1 + writes  # and GLOBAL_CTRL=0
    semi = ops_of("mediated-semi", [*start, UNMASK], len(start))
    assert semi["wrmsr_global"] == 1  # hardware has no bit by now, and none can be set


def test_q14_controls_are_always_written_at_load_and_q15_cleared_at_put_if_they_are_not_zero() -> None:
    for n in range(4):
        start: list[Step] = [enable(0), *[select(i, BRANCHES | INT) for i in range(n)]]
        ops = ops_of("mediated", [*start, UNMASK], len(start))
        assert ops["wrmsr_selector"] == 8 + 1 + n
        assert ops["wrmsr_counter"] == 0  # nothing has counted: elided


@pytest.mark.parametrize(
    ("cpu", "intercepted"), [("icelake", True), ("sapphirerapids", True), ("emeraldrapids", True), ("skylake", False)]
)
def test_q21_hosts_with_four_fixed_counters_never_pass_rdpmc_through(cpu: str, intercepted: bool) -> None:
    scenario = vpmu.Scenario(cpu=cpu, design="mediated", guest_perf=["stat:cycles"], seconds="0.001")
    result = vpmu.simulate(scenario)
    assert ("RDPMC" in result.to_dict()["passed_through"]) is not intercepted
    readout = result.raw["guest_accesses"]["readout"]
    assert readout["trapped" if intercepted else "direct"]["rdpmc"] == 1
    testing.assert_exact(result)


def test_kvm_8_3_the_merged_switch_reads_no_selector_and_writes_only_counters_that_differ() -> None:
    """RFC 23/41 read each selector at put; passthrough, which cannot know them, still does."""
    start: list[Step] = [select(0, BRANCHES | ON), 100]
    merged, plain, reading = (
        ops_of(design, [*start, UNMASK], len(start), **changes)
        for design, changes in (
            ("mediated", {}),
            ("mediated,sequence=linux-7.0-no-elision", {}),
            ("passthrough", {}),
        )
    )
    assert merged["rdmsr"] == plain["rdmsr"] == 2
    assert reading["rdmsr"] == 2 + 8 + 1
    assert merged["wrmsr_counter"] == 1 + 1  # cleared, written back
    assert plain["wrmsr_counter"] == 1 + 11


def test_kvm_8_6_classes_by_mail_003() -> None:
    """Emulated: never in hardware; mediated: in hardware without full access; virtualized: with it."""
    classes = {name: vpmu.design(name).class_ for name in vpmu.designs()}
    for name, class_ in classes.items():
        made = vpmu.design(name)
        passed = set(made.passed_through(vpmu.cpu("skylake"), made.guest_cpu(vpmu.cpu("skylake"), None)))
        if class_ == "emulated":
            assert passed == set()
        elif class_ == "mediated":
            assert "counters" in passed
            assert "selectors" not in passed
        elif class_ == "virtualized" and name != "virtualized":  # its selectors are intercepted by choice
            assert {"counters", "selectors"} <= passed
