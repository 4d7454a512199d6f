"""KVM's emulated PMU, paragraph by paragraph, with guest software that is not as careful as perf.

Test names have the paragraph of the specification of KVM's behaviour (arch/x86/kvm/pmu.c) or the number of a question.
"""

from __future__ import annotations

import dataclasses

import pytest
from guest_programs import (
    BRANCHES,
    CYCLES,
    EN,
    FIXED,
    INSTRUCTIONS,
    INT,
    ON,
    OS,
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

WAYS = ("emulated", "emulated,reprogram=synchronous", "emulated,reuse=false", "direct-capture")
START: list[Step] = [write(0, 0), select(0, BRANCHES | ON)]


@pytest.mark.parametrize("design", WAYS)
def test_kvm_3_1_a_counter_counts_from_the_entry_after_its_write_to_the_next_exit(design: str) -> None:
    (reading,) = readings(design, [*START, 10_000, read(0)])
    assert reading == (10_000, 10_000)


def test_kvm_3_1_requests_coalesce_and_the_old_way_does_not() -> None:
    """A write of GLOBAL_CTRL asks for every counter; its own instruction, if it is counted, once more for one."""
    steps: list[Step] = [enable(0), select(0, INSTRUCTIONS | ON), enable(0xFF)]
    coalesced, synchronous = (run(program(d, steps)) for d in ("emulated", "emulated,reprogram=synchronous"))
    assert coalesced["reprograms"] == 8 + 1 + 8
    assert synchronous["reprograms"] == 8 + 1 + 8 + 1


def test_kvm_3_2_and_q7_a_rejected_period_is_tried_again_with_the_next_request() -> None:
    cpu = vpmu.cpu("skylake").with_quirks(min_period32=True)
    assert cpu.limit_period("branches", 1) == 32
    # Within 32 of its overflow perf refuses the event: the counter is dead.
    near: list[Step] = [write(0, TOP - 31), select(0, BRANCHES | ON), 1000, read(0)]
    assert readings("emulated", near, cpu=cpu, least_period=32) == [(TOP - 31, 1000 - 31)]
    # A write of another counter's control makes a request, which does not help; moving the counter itself does.
    far: list[Step] = [*near, write(0, 0), select(1, CYCLES | ON), 1000, read(0)]
    result = run(program("emulated", far, cpu=cpu, least_period=32))
    assert result["program"] == [(TOP - 31, 969), (1000, result["program"][1][1])]
    assert result["creates"] == 2
    at_limit: list[Step] = [write(0, TOP - 32), select(0, BRANCHES | ON), 20, read(0)]
    assert readings("emulated", at_limit, cpu=cpu, least_period=32) == [(TOP - 12, TOP - 12)]


@pytest.mark.parametrize("design", WAYS)
def test_q6_an_in_txcp_counter_raises_no_pmi_and_sets_no_status(design: str) -> None:
    """It has no period (pmc_reprogram_counter()), so its event does not sample; IN_TXCP goes with counter 2 alone."""
    txcp = 1 << 33
    for bit, status, pmis in ((0, 4, 1), (txcp, 0, 0)):
        steps: list[Step] = [write(2, TOP - 500), select(2, BRANCHES | ON | bit), 1000, STATUS, read(2)]
        result = run(program(design, steps))
        assert result["program"] == [(status, 0), (500, 500)]
        assert result["pmi"]["raised"] == result["pmu_exits"]["EXCEPTION_NMI"] == pmis
    # Nor can a period be too short for it, which kills any other counter (question 7).
    cpu = vpmu.cpu("skylake").with_quirks(min_period32=True)
    near: list[Step] = [
        write(2, TOP - 5),
        select(2, BRANCHES | ON | txcp),
        1000,
        read(2),
        write(2, TOP - 9),
        100,
        read(2),
    ]
    assert readings(design, near, cpu=cpu, least_period=32) == [(995, 995), (91, 91)]


def test_q7_perf_in_the_guest_loses_what_its_counter_misses() -> None:
    """The ledger names the cause."""
    cpu = dataclasses.replace(vpmu.cpu("skylake").with_quirks(min_period32=True), skid=vpmu.Skid(0, 0))
    scenario = vpmu.Scenario(
        cpu=cpu, design="emulated", workload="fio-4k-read", guest_perf=["record:branches:period=20"], seconds="0.002"
    )
    (counter,) = vpmu.simulate(scenario).counters
    assert set(counter.losses) == {"period_rejected"}
    assert counter.value == 0
    assert "period" in counter.reason


def test_kvm_3_3_the_sample_period_is_the_rest_of_the_counter() -> None:
    """A counter wraps when the guest's would, whatever host perf arms its own with."""
    for start in (1, TOP - 1, TOP - 700):
        (reading,) = readings("emulated", [write(0, start), select(0, BRANCHES | ON), 5000, read(0)])
        assert reading[0] == (start + 5000) % TOP


def test_kvm_3_3_toggling_the_enable_bit_reuses_the_event() -> None:
    """The comparison with the event's configuration comes after the check that the counter is enabled (I25)."""
    toggles: list[Step] = [*START, *[select(0, BRANCHES | ON & ~EN), select(0, BRANCHES | ON)] * 20]
    assert run(program("emulated", toggles))["creates"] == 1
    assert run(program("emulated,reuse=false", toggles))["creates"] == 21
    # Any other bit makes a new one, and so does another event in between.
    others: list[Step] = [*START, select(0, BRANCHES | ON & ~OS), select(0, BRANCHES | ON), select(0, CYCLES | ON)]
    assert run(program("emulated", others))["creates"] == 4


def test_mail_004_a_guest_that_only_toggles_costs_no_reprogramming() -> None:
    """No event is made anew with reuse; with direct capture, nothing at all is reprogrammed."""
    toggles: list[Step] = [select(0, BRANCHES | ON & ~EN), 300, select(0, BRANCHES | ON), 700]
    quiet, busy = (
        {d: run(program(d, [*START, *toggles * n, read(0)])) for d in (*WAYS, "direct-capture,constraints=host")}
        for n in (1, 30)
    )
    for design in busy:
        # The first gap belongs to the counter that was enabled before.
        assert busy[design]["program"][0][0] == busy[design]["program"][0][1] == 30 * 700 + 29 * 0
        more = {name: busy[design][name] - quiet[design][name] for name in ("reprograms", "creates")}
        assert more["creates"] == (29 if design == "emulated,reuse=false" else 0)
        assert more["reprograms"] == (0 if design.startswith("direct-capture") else 2 * 29)
    # And so for GLOBAL_CTRL, by which perf stops and starts.
    brackets: list[Step] = [enable(0), enable(1)] * 30
    first, rest = (run(program("direct-capture", [*START, enable(1), *brackets[:n]])) for n in (2, 60))
    assert (rest["reprograms"], rest["creates"]) == (first["reprograms"], 1)


def test_kvm_3_4_a_pinned_task_event_that_excludes_the_host() -> None:
    """It counts neither the hypervisor's code nor the host's tasks."""
    scenario = vpmu.Scenario(
        design="emulated", workload="windows-legacy-io", guest_perf=["stat:cycles"], seconds="0.01"
    )
    result = vpmu.simulate(scenario)
    (counter,) = result.counters
    assert counter.value == counter.ideal < sum(result.raw["clocks"][:3])
    assert result.raw["clocks"][3] > 100_000


@pytest.mark.parametrize("design", ["emulated", "direct-capture"])
def test_kvm_3_5_cpu_pinned_host_events_go_first_and_the_guest_is_not_told(design: str) -> None:
    """I24: a pinned event in ERROR, and a counter that stands still."""
    host = ("cycles:pinned",) * 3 + ("instructions:pinned",) * 3
    cpu = vpmu.cpu("skylake")
    frozen = readings(design, [*START, 5000, read(0), 5000, read(0)], cpu=cpu, host_perf=host)
    assert [value for value, _ in frozen] == [0, 0]
    # It leaves ERROR with the next reprogramming only if a counter is free then.
    again: list[Step] = [*START, 5000, select(0, BRANCHES | ON & ~EN), select(0, BRANCHES | ON), 5000, read(0)]
    assert readings(design, again, cpu=cpu, host_perf=host)[0][0] == 0


def test_kvm_3_5_cross_mapping_a_gp_counter_of_the_guest_is_a_fixed_one_of_the_host() -> None:
    """Host perf gives instructions fixed counter 0, whichever counter the guest counts them on."""
    steps: list[Step] = [select(3, INSTRUCTIONS | ON), 4000, read(3)]
    result = run(program("emulated", steps))
    ((value, ideal),) = result["program"]
    assert (value, ideal) == (4000, 4001)  # the write that enables is not in it: see 3.9
    # The one register of a control that it needed is FIXED_CTR_CTRL; cycles on another go to fixed counter 1.
    for event in (INSTRUCTIONS, CYCLES):
        assert run(program("emulated", [select(3, event | ON)]))["ops"]["run"]["host"]["wrmsr_selector"] == 1


def test_kvm_3_6_counters_of_exclude_host_events_run_in_guest_mode_only() -> None:
    scenario = vpmu.Scenario(
        design="emulated", workload="fio-4k-read", guest_perf=["stat:cycles"], seconds="0.005",
        host_perf=["cycles:pinned:exclude_host", "cycles:pinned:exclude_guest", "cycles:pinned"],
    )  # fmt: skip
    result = vpmu.simulate(scenario)
    guest, host, both = (event.value for event in result.host_events)
    disabled = {event.event: event.losses.get("pmu_disabled", 0) for event in result.host_events}
    assert guest == sum(result.raw["clocks"][:3])
    assert sum(disabled.values()) > 0
    assert both <= guest + host + sum(disabled.values())


def test_kvm_3_7_an_overflow_reaches_the_guest_through_the_host_nmi() -> None:
    """Status and PMI by software: raised by hardware, taken by the host, injected at the next entry."""
    steps: list[Step] = [UNMASK, write(0, TOP - 500), select(0, BRANCHES | ON), 1000, STATUS]
    result = run(program("emulated", steps))
    assert result["pmu_exits"]["EXCEPTION_NMI"] == 1
    assert result["pmi"]["delivered"] == 1 == result["handlers"]


@pytest.mark.parametrize("design", ["emulated", "direct-capture"])
def test_kvm_3_7_without_int_only_status_is_set(design: str) -> None:
    steps: list[Step] = [UNMASK, write(0, TOP - 500), select(0, BRANCHES | ON & ~INT), 1000, STATUS, read(0)]
    result = run(program(design, steps))
    assert result["program"][0] == (1, 0)
    assert result["program"][1][0] == result["program"][1][1] == 500
    assert (result["pmi"]["raised"], result["pmi"]["delivered"], result["handlers"]) == (1, 0, 0)


def test_kvm_3_7_and_i16_within_the_skid_a_read_sees_a_wrapped_counter_without_its_status_bit() -> None:
    steps: list[Step] = [write(0, TOP - 500), select(0, BRANCHES | ON), 600, read(0), STATUS]
    seen = []
    for skid in (0, 2_000_000):
        (value, _), (status, _) = readings("emulated", steps, skid=skid)
        seen.append((value, status))
    assert seen == [(100, 1), (100, 0)]


def test_kvm_3_8_events_of_counters_that_were_left_alone_are_released() -> None:
    """From one blocking of the vCPU's thread to the next but one; Linux calls it lazy release."""
    stop: list[Step] = [*START, 100, select(0, BRANCHES | ON & ~EN)]
    for wait, creates in ((0, 1), (300_000, 2)):
        again = [*stop, wait, select(0, BRANCHES | ON), 100, read(0)]
        result = run(program("emulated", again, blocking=50_000))
        assert result["creates"] == creates
        assert result["program"][0][0] == result["program"][0][1]
    never = run(program("emulated", [*stop, 300_000, select(0, BRANCHES | ON)]))  # nothing blocks
    assert never["creates"] == 1
    enabled = run(program("emulated", [*START, 300_000, select(0, BRANCHES | ON & ~EN)], blocking=50_000))
    assert enabled["creates"] == 1


def test_q3_a_full_width_write_does_not_count_as_use() -> None:
    """msr_idx_to_pmc() knows 0xC1 and not 0x4C1: the event goes although the counter was written in every slice."""
    stop: list[Step] = [*START, select(0, BRANCHES | ON & ~EN)]
    touched: list[Step] = [*stop, *[20_000, write(0, 7)] * 20, select(0, BRANCHES | ON), 100, read(0)]
    full = vpmu.cpu("emeraldrapids")
    full_width = run(program("emulated", touched, blocking=50_000, cpu=full))
    narrow = program("emulated", touched, blocking=50_000, cpu=full)
    narrow = dataclasses.replace(narrow, guest_cpu=dataclasses.replace(narrow.guest_cpu, perf_capabilities=0))
    assert full_width["creates"] == 2
    assert run(narrow)["creates"] == 1


@pytest.mark.parametrize("design", WAYS)
def test_kvm_3_9_emulated_instructions_are_added_by_software(design: str) -> None:
    """Every trapped access is one, and hardware, which excludes the host, has not seen it."""
    steps: list[Step] = [select(0, INSTRUCTIONS | ON), *[UNMASK] * 10, 1000, read(0)]
    ((value, ideal),) = readings(design, steps)
    # The write that enables is counted if it is reprogrammed at once: KVM's bitmap is as old as the last reprogramming.
    assert ideal == 1000 + 11
    assert value == (ideal if design.endswith("synchronous") else ideal - 1)


def test_kvm_3_9_levels_are_those_of_the_selector() -> None:
    user: list[Step] = [select(0, INSTRUCTIONS | ON & ~OS), *[UNMASK] * 10, read(0)]
    assert readings("emulated", user) == [(0, 0)]  # WRMSR at CPL 0
    kernel: list[Step] = [select(0, INSTRUCTIONS | ON & ~USR), *[UNMASK] * 10, read(0)]
    assert readings("emulated", kernel) == [(10, 11)]


def test_kvm_3_9_an_emulated_wrap_sets_status_and_asks_for_a_pmi() -> None:
    steps: list[Step] = [UNMASK, write(0, TOP - 1), select(0, INSTRUCTIONS | ON & ~USR), UNMASK]
    result = run(program("emulated", steps))
    assert result["pmi"]["raised"] == result["pmi"]["delivered"] == 1
    assert result["pmu_exits"]["EXCEPTION_NMI"] == 0


def test_q24_each_emulated_instruction_pauses_and_resumes_the_event() -> None:
    quiet, busy = (run(program("emulated", [select(0, INSTRUCTIONS | ON), *[UNMASK] * n])) for n in (1, 21))
    assert busy["reprograms"] - quiet["reprograms"] == 20
    assert busy["creates"] == quiet["creates"] == 1
    other = [run(program("emulated", [select(0, CYCLES | ON), *[UNMASK] * n]))["reprograms"] for n in (1, 21)]
    assert other[0] == other[1]


def test_q4_an_emulated_overflow_is_dropped_if_the_counter_was_disabled_in_the_same_exit() -> None:
    """The bitmap of counters that count instructions is as old as the last reprogramming, so the write that clears EN
    is still counted; its wrap is found when the counter is no longer enabled, and no status bit tells of it."""
    start: list[Step] = [write(0, TOP - 1), select(0, INSTRUCTIONS | ON & ~USR)]
    stop: list[Step] = [select(0, INSTRUCTIONS | INT | OS), STATUS, read(0)]
    (status, _), (value, ideal) = readings("emulated", [*start, *stop])
    assert (status, value) == (0, 0)
    # An ideal counter counts the write that starts it and not the one that stops it.
    assert ideal == 0
    # An instruction that stops nothing would have been seen to wrap.
    assert readings("emulated", [*start, write(1, 0), STATUS])[0][0] == 1


def test_q5_an_overflow_is_discarded_while_a_write_to_the_counter_is_pending() -> None:
    """The NMI comes past the exit of the write, between its effect and the reprogramming: its bit is set already."""
    start: list[Step] = [write(0, TOP - 500), select(0, BRANCHES | ON), 600]
    stop: list[Step] = [*start, select(0, BRANCHES | ON & ~EN), STATUS, read(0)]
    lost, late = {}, {}
    for design in ("emulated", "emulated,reprogram=synchronous"):
        results = [run(program(design, stop, skid=skid)) for skid in range(100, 6000, 100)]
        # The counter has wrapped in every one of them, once.
        assert {result["program"][1][0] for result in results} == {100}
        lost[design] = sum(r["program"][0][0] == 0 and r["pmi"]["skid_past_exit"] == 1 for r in results)
        late[design] = sum(r["program"][0][0] == 1 and r["pmi"]["skid_past_exit"] == 1 for r in results)
    assert lost["emulated"] > 0
    assert late["emulated"] > 0


def test_q23_fixed_counter_2_has_no_general_counter_to_go_to() -> None:
    """Pseudo event 0x0300; fixed 0 and 1 can move to general counters when the host takes the fixed ones."""
    host = ("ref-cycles:pinned", "cycles:pinned", "instructions:pinned")
    steps: list[Step] = [(FIXED, 0, 0xBBB), enable(0x7_000000FF), 5000, read(32), read(33), read(34)]
    counts = readings("emulated", steps, host_perf=host)
    assert counts[2][0] == 0 < counts[2][1]
    assert counts[1] == (5000, 5000)
    assert counts[0][0] == counts[0][1] > 5000
    free = readings("emulated", steps)
    assert [value for value, _ in free] == [ideal for _, ideal in free]


def test_q18_a_masked_pmi_is_lost_and_unmasking_does_not_raise_it() -> None:
    """LVTPC is masked at reset."""
    steps: list[Step] = [write(0, TOP - 500), select(0, BRANCHES | ON), 1000, STATUS, UNMASK, 1000, STATUS]
    for design in ("emulated", "mediated", "virtualized"):
        result = run(program(design, steps))
        assert [status & 1 for status, _ in result["program"]] == [1, 1], design
        assert (result["pmi"]["lost"], result["pmi"]["delivered"], result["handlers"]) == (1, 0, 0), design


def test_q8_global_ctrl_comes_up_with_general_counters_on_and_fixed_ones_off() -> None:
    steps: list[Step] = [select(0, BRANCHES | ON), (FIXED, 0, 0xB0), 1000, read(0), read(33)]
    for design in ("emulated", "mediated", "dedicated", "bare-metal", "virtualized", "passthrough"):
        (general, _), (fixed, _) = readings(design, steps)
        assert general >= 1000, design
        assert fixed == 0, design
