"""The data that comes with vpmu: switch sequences, exits and CPUs, against their sources and published figures."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import pytest

import vpmu
from vpmu import _sequences as seq
from vpmu._exits import exit_kind, exit_reasons
from vpmu._scenario import plan
from vpmu._workload import table_workload

ENGINES = ("lazy", "stepwise")
QUALITIES = {"published", "derived", "assumed"}

# -- switch sequences -------------------------------------------------------------------------------------------------

Step = Mapping[str, Any]


def wrmsr(register: str, value: str, **condition: str) -> Step:
    return {"op": "wrmsr", "register": register, "value": value, **condition}


# Linux 7.0, arch/x86/kvm/pmu.c, kvm_mediated_pmu_load(); Intel's part is intel_mediated_pmu_load().
LOAD: list[Step] = [
    {"op": "perf_load_guest_context"},  # host events go out
    wrmsr("global_ctrl", "zero"),  # unconditional; perf may have left it on
    {"op": "lvtpc", "value": "guest"},  # perf_load_guest_lvtpc()
    {
        "for": "gp",
        "do": [
            {"op": "rdpmc"},
            wrmsr("counter", "guest", **{"if": "differs"}),
            wrmsr("selector", "guest"),  # always
        ],
    },
    {"for": "fixed", "do": [{"op": "rdpmc"}, wrmsr("counter", "guest", **{"if": "differs"})]},
    {"op": "rdmsr", "register": "global_status"},
    {"op": "toggle", "register": "global_status"},  # the bits that differ, by STATUS_RESET and STATUS_SET
    wrmsr("fixed_ctr_ctrl", "guest"),  # always; GLOBAL_CTRL is loaded by VM-entry
]
# kvm_mediated_pmu_put(); GLOBAL_CTRL is 0 and the guest's is saved since VM-exit.
PUT: list[Step] = [
    {"op": "rdmsr", "register": "global_status", "save": True},
    wrmsr("global_ovf_ctrl", "status", **{"if": "nonzero"}),
    wrmsr("fixed_ctr_ctrl", "zero", **{"if": "nonzero"}),
    {
        "for": "gp",
        "do": [
            {"op": "rdpmc", "save": True},
            wrmsr("counter", "zero", **{"if": "nonzero"}),
            wrmsr("selector", "zero", **{"if": "nonzero"}),
        ],
    },
    {"for": "fixed", "do": [{"op": "rdpmc", "save": True}, wrmsr("counter", "zero", **{"if": "nonzero"})]},
    {"op": "lvtpc", "value": "host"},  # after all is cleared
    {"op": "perf_put_guest_context"},  # host events come back: perf writes GLOBAL_CTRL with all bits
]
# Before commit b0b6a8d3be16 counters were written without a look.
LOAD_NO_ELISION: list[Step] = [
    *LOAD[:3],
    {"for": "gp", "do": [wrmsr("counter", "guest"), wrmsr("selector", "guest")]},
    {"for": "fixed", "do": [wrmsr("counter", "guest")]},
    *LOAD[5:],
]


@pytest.mark.parametrize(("name", "load"), [("linux-7.0", LOAD), ("linux-7.0-no-elision", LOAD_NO_ELISION)])
def test_sequences_are_those_of_linux_step_by_step(name: str, load: list[Step]) -> None:
    found = vpmu.sequence(name)
    assert list(found.load) == load
    assert list(found.put) == PUT
    assert "kvm_mediated_pmu_load" in found.source
    assert "56bb27369750" in found.source
    assert ("b0b6a8d3be16" in found.source) == (load is LOAD)
    assert found.summary
    assert found.name == name


def test_there_are_no_other_sequences() -> None:
    assert vpmu.sequences() == (
        "every-register",
        "linux-7.0",
        "linux-7.0-amd",
        "linux-7.0-autostore",
        "linux-7.0-no-elision",
        "rfc-v1-2024",
        "rfc-v1-reviewed",
        "semi-v2",
        "tdx-module-1.5",
    )
    assert vpmu.Mediated().sequence == "linux-7.0"
    with pytest.raises(vpmu.UnknownName, match=r"linux-7\.0"):
        vpmu.sequence("linux-7.1")


def test_programs_have_one_operation_for_each_step_in_order() -> None:
    load, put = vpmu.sequence("linux-7.0").programs()
    gp = seq.RDPMC | seq.COUNTER_GUEST | seq.COUNTER_DIFFERS | seq.SELECTOR_GUEST
    assert load == (
        (seq.PERF_LOAD, 0),
        (seq.GLOBAL_CTRL_ZERO, 0),
        (seq.LVTPC_GUEST, 0),
        (seq.LOOP, gp),
        (seq.LOOP, seq.FIXED | seq.RDPMC | seq.COUNTER_GUEST | seq.COUNTER_DIFFERS),
        (seq.RDMSR_STATUS, 0),
        (seq.TOGGLE_STATUS, 0),
        (seq.FIXED_CTR_CTRL, seq.FIXED_CTR_CTRL_GUEST),
    )
    read = seq.RDPMC | seq.SAVE
    zero = seq.COUNTER_ZERO | seq.COUNTER_NONZERO
    assert put == (
        (seq.RDMSR_STATUS, seq.STATUS_SAVE),
        (seq.OVF_CTRL, 0),
        (seq.FIXED_CTR_CTRL, seq.FIXED_CTR_CTRL_ZERO_IF_NONZERO),
        (seq.LOOP, read | zero | seq.SELECTOR_ZERO | seq.SELECTOR_NONZERO),
        (seq.LOOP, seq.FIXED | read | zero),
        (seq.LVTPC_HOST, 0),
        (seq.PERF_PUT, 0),
    )
    plain, same_put = vpmu.sequence("linux-7.0-no-elision").programs()
    assert same_put == put
    assert plain == (
        *load[:3],
        (seq.LOOP, seq.COUNTER_GUEST | seq.SELECTOR_GUEST),
        (seq.LOOP, seq.FIXED | seq.COUNTER_GUEST),
        *load[5:],
    )


def test_programs_keep_order_and_count_of_any_steps() -> None:
    steps = [
        *PUT,
        wrmsr("fixed_ctr_ctrl", "zero"),
        *LOAD_NO_ELISION,
        *LOAD,
        *reversed(PUT),
        *LOAD[:3],
        LOAD[1],
        LOAD[1],
    ]
    read = {"op": "rdmsr", "register": "global_status"}
    alone = [
        tuple(half[1:] for half in vpmu.Sequence("one", "", "", (read, step), (read, step)).programs())
        for step in steps
    ]
    assert all(len(load) == 1 and load == put for load, put in alone)
    forwards, backwards = vpmu.Sequence("all", "", "", (read, *steps), (read, *reversed(steps))).programs()
    assert list(forwards[1:]) == [load[0] for load, _ in alone]
    assert list(backwards[1:]) == [load[0] for load, _ in reversed(alone)]
    # Different steps are different operations, and the other way round.
    for step, (load, _) in zip(steps, alone, strict=True):
        assert [other == step for other in steps] == [other == load for other, _ in alone]


RDPMC = {"op": "rdpmc"}
DIFFERS = wrmsr("counter", "guest", **{"if": "differs"})


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"op": "nop"},
        {"op": "perf_load_guest_context", "value": "guest"},
        {"op": "perf_put_guest_context", "if": "nonzero"},
        {"op": "wrmsr"},
        {"op": "wrmsr", "register": "global_ctrl"},
        wrmsr("global_ctrl", "cached"),
        wrmsr("global_ctrl", "zero", **{"if": "nonzero"}),
        wrmsr("global_status", "zero"),
        wrmsr("global_ovf_ctrl", "status"),
        wrmsr("fixed_ctr_ctrl", "guest", **{"if": "differs"}),
        wrmsr("fixed_ctr_ctrl", "status"),
        wrmsr("counter", "guest"),
        wrmsr("selector", "guest"),
        RDPMC,
        {"op": "rdmsr", "register": "global_ctrl", "save": True},
        {"op": "rdmsr", "register": "global_status", "save": "both"},
        {"op": "rdmsr", "register": "global_ovf_ctrl"},
        {"op": "wrmsr", "register": "offcore_rsp_0", "value": "status"},
        {"for": "gp", "do": [{"op": "rdmsr", "register": "selector", "save": True}]},
        {"for": "fixed", "do": [{"op": "rdmsr", "register": "selector"}]},
        {"for": "gp", "do": []},
        {"op": "toggle", "register": "global_ctrl"},
        {"op": "lvtpc"},
        {"op": "lvtpc", "value": "none"},
        {"for": "gp"},
        {"for": "all", "do": [RDPMC]},
        {"for": ["gp"], "do": [RDPMC]},
        {"for": "gp", "do": [RDPMC], "if": "nonzero"},
        {"for": "gp", "do": "rdpmc"},
        {"for": "gp", "do": [{"op": "lvtpc", "value": "guest"}]},
        {"for": "gp", "do": [{"for": "fixed"}]},
        {"for": "gp", "do": [DIFFERS]},
        {"for": "gp", "do": [DIFFERS, RDPMC]},
        {"for": "gp", "do": [wrmsr("counter", "zero", **{"if": "nonzero"}), RDPMC]},
        {"for": "gp", "do": [wrmsr("selector", "guest", **{"if": "differs"})]},
        {"for": "fixed", "do": [RDPMC, wrmsr("selector", "guest")]},
        {"for": "fixed", "do": [RDPMC, wrmsr("selector", "zero", **{"if": "nonzero"})]},
    ],
)
def test_malformed_steps_are_refused(step: Step) -> None:
    good = vpmu.sequence("linux-7.0")
    with pytest.raises(vpmu.ScenarioError, match="sequence odd, load step 2"):
        vpmu.Sequence("odd", "", "", (good.load[0], step), good.put)
    with pytest.raises(vpmu.ScenarioError, match="sequence odd, put step 1"):
        vpmu.Sequence("odd", "", "", good.load, (step, *good.put))


@pytest.mark.parametrize(
    "step",
    [
        {"for": "gp", "do": [{"for": "fixed", "do": [RDPMC]}]},
        {"for": "gp", "do": ["rdpmc"]},
        {"op": "wrmsr", "register": ["global_ctrl"], "value": "zero"},
    ],
)
def test_steps_of_odd_types_are_refused(step: Step) -> None:
    with pytest.raises(vpmu.ScenarioError, match="sequence odd, load step 1"):
        vpmu.Sequence("odd", "", "", (step,), (LOAD[1],))


def test_sequences_have_1_to_64_steps() -> None:
    one = LOAD[1]
    assert [len(half) for half in vpmu.Sequence("long", "", "", (one,) * 64, (one,)).programs()] == [64, 1]
    for load, put in (((), (one,)), ((one,), ()), ((one,) * 65, (one,)), ((one,), (one,) * 65)):
        with pytest.raises(vpmu.ScenarioError, match=f"1 to 64 steps, not {0 if () in (load, put) else 65}"):
            vpmu.Sequence("odd", "", "", load, put)


# -- exits ------------------------------------------------------------------------------------------------------------

# Linux 7.0's handlers (vmx.c), fault-like or trap-like by the Intel SDM, privileged or not; levels of CPUID, HLT,
# IO_INSTRUCTION, EPT_MISCONFIG and EXTERNAL_INTERRUPT as measured (perf-prof, docs/kvm-exit.md).
ROWS = {
    "HLT": ("kernel", "work", 0, True, True),
    "MSR_WRITE": ("fastpath", "work", 0, True, False),
    "PREEMPTION_TIMER": ("fastpath", "wall", 3, False, False),
    "CPUID": ("kernel", "work", 3, True, False),
    "EPT_MISCONFIG": ("kernel", "work", 0, True, False),
    "IO_INSTRUCTION": ("kernel", "work", 0, True, False),
    "EXTERNAL_INTERRUPT": ("kernel", "wall", 3, False, False),
    "EXCEPTION_NMI": ("kernel", "wall", 3, False, False),
    "EPT_VIOLATION": ("kernel", "work", 3, False, False),
    "MSR_READ": ("kernel", "work", 0, True, False),
    "PAUSE_INSTRUCTION": ("kernel", "work", 0, True, False),
    "VMCALL": ("kernel", "work", 0, True, False),
    "APIC_WRITE": ("kernel", "work", 0, False, False),
    "EOI_INDUCED": ("kernel", "work", 0, False, False),
    "INVD": ("fastpath", "work", 0, True, False),
    "WBINVD": ("kernel", "work", 0, True, False),
}


@pytest.mark.parametrize("reason", ROWS)
def test_rows_of_the_table_of_exits(reason: str) -> None:
    found = exit_kind(reason)
    assert (found.kind, found.clock, found.cpl, found.emulates, found.blocks) == ROWS[reason]


@dataclasses.dataclass(frozen=True)
class Row:
    reason: str
    count: int
    mean_ns: int


@pytest.mark.parametrize("reason", ROWS)
@pytest.mark.parametrize("mean", [3_999, 4_000])
def test_rows_reach_the_plan_and_two_kinds_go_to_userspace_from_4_us_on(reason: str, mean: int) -> None:
    kind, clock, cpl, emulates, blocks = ROWS[reason]
    if reason in ("IO_INSTRUCTION", "EPT_MISCONFIG") and mean == 4_000:
        kind = "userspace"
    recorded = table_workload(
        [Row(reason, 1000, mean)], recorded_seconds=1, rates=vpmu.workload("hackbench"), name="table"
    )
    scenario = vpmu.Scenario(workload=recorded)
    planned = plan(scenario)
    (found,) = planned.exits
    index = ["fastpath", "kernel", "userspace"].index(kind)
    assert (found.reason, found.kind, found.cpl, found.emulates) == (reason, index, cpl, emulates)
    cycles = mean * 3  # at 3 GHz
    idle = cycles - scenario.cpu.costs["handling_hlt"].value if blocks else 0
    assert (found.handling, found.idle) == (cycles - idle, idle)
    assert (planned.work.mean_gap > 0, planned.wall.mean_gap > 0) == (clock == "work", clock == "wall")


def test_every_row_of_exits_has_a_source_and_every_source_a_row() -> None:
    text = (resources.files("vpmu") / "data" / "exits.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    rows = [*data["exits"].values(), data["unknown"]]
    assert {row["source"] for row in rows} == set(data["sources"])
    assert all(source.strip() for source in data["sources"].values())
    assert set(data["exits"]) == set(exit_reasons())
    for reason in exit_reasons():
        assert exit_kind(reason).source == data["sources"][data["exits"][reason]["source"]]
        assert exit_kind(reason).quality in ("derived", "assumed")
    assert all(name in data["exits"] for name in data["aliases"].values())


def test_nothing_that_comes_with_time_completes_an_instruction_or_blocks() -> None:
    for reason in exit_reasons():
        kind = exit_kind(reason)
        assert kind.clock == "work" or not (kind.emulates or kind.blocks), reason
