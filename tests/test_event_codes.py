"""Which selector code counts which event, per CPU model: docs/pmu.md section 3."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu._event_codes import (
    NAMED_CODES,
    PMU_EVENTS,
    code_mask,
    fixed_events,
    named_codes,
    parse_raw,
    selector_codes,
)
from vpmu._events import EVENTS

SKYLAKE = vpmu.cpu("skylake")
INTEL = {
    "instructions": 0x00C0,
    "cycles": 0x003C,
    "bus-cycles": 0x013C,
    "cache-references": 0x4F2E,
    "cache-misses": 0x412E,
    "branches": 0x00C4,
    "branch-misses": 0x00C5,
}


def amd(*features: str) -> vpmu.CpuModel:
    """An AMD CPU with the counters of Milan and other features."""
    return dataclasses.replace(
        SKYLAKE,
        name="-".join(("amd", *features)),
        vendor="amd",
        version=1,
        gp_mask=0x3F,
        fixed_mask=0,
        perf_capabilities=0,
        features=frozenset(features),
        quirks=frozenset(),
        possible_quirks=frozenset(),
        constraints=(),
    )


def test_indices_are_those_that_the_core_has() -> None:
    assert PMU_EVENTS[:9] == EVENTS
    assert PMU_EVENTS[9] == ""
    assert len(PMU_EVENTS) == len(set(PMU_EVENTS)) == 21
    assert PMU_EVENTS.index("topdown-retiring") == 10
    assert PMU_EVENTS.index("lbr-inserts") == 18
    assert PMU_EVENTS[20] == "stalled-cycles-backend"
    assert all(name in PMU_EVENTS for name in fixed_events)
    assert (fixed_events[3], fixed_events[6], len(fixed_events)) == ("slots", "topdown-retiring", 7)


def test_intel_codes() -> None:
    assert selector_codes(SKYLAKE) == {code: name for name, code in INTEL.items()}
    assert selector_codes(vpmu.cpu("sapphirerapids"))[0x01A4] == "slots"


@pytest.mark.parametrize(
    ("bit", "code", "name"),
    [
        (8, 0x02A4, "topdown-be-bound"),
        (9, 0x0073, "topdown-bad-spec"),
        (10, 0x019C, "topdown-fe-bound"),
        (11, 0x02C2, "topdown-retiring"),
        (12, 0x01E4, "lbr-inserts"),
    ],
)
def test_later_architectural_events_follow_cpuid(bit: int, code: int, name: str) -> None:
    with_it = dataclasses.replace(SKYLAKE, architectural_events=1 << bit)
    assert set(selector_codes(with_it).items()) - set(selector_codes(SKYLAKE).items()) == {(code, name)}


def test_availability_of_the_first_seven_changes_nothing() -> None:
    assert selector_codes(dataclasses.replace(SKYLAKE, architectural_events=0)) == selector_codes(SKYLAKE)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (
            (),
            {
                "cache-references": 0x077D,
                "cache-misses": 0x077E,
                "stalled-cycles-frontend": 0xD0,
                "stalled-cycles-backend": 0xD1,
            },
        ),
        (
            ("zen1",),
            {
                "cache-references": 0xFF60,
                "cache-misses": 0x0964,
                "stalled-cycles-frontend": 0x0287,
                "stalled-cycles-backend": 0x0187,
            },
        ),
        (("zen2",), {"cache-references": 0xFF60, "cache-misses": 0x0964, "stalled-cycles-frontend": 0xA9}),
        (("zen1", "zen2"), {"cache-references": 0xFF60, "cache-misses": 0x0964, "stalled-cycles-frontend": 0xA9}),
        (("zen3",), {"cache-references": 0xFF60, "cache-misses": 0x0964, "stalled-cycles-frontend": 0xA9}),
        (
            ("zen4",),
            {
                "cache-references": 0xFF60,
                "cache-misses": 0x0964,
                "stalled-cycles-frontend": 0xA9,
                "ref-cycles": 0x1_00000120,
            },
        ),
        (
            ("zen1", "zen2", "zen3", "zen4", "zen5"),
            {
                "cache-references": 0xFF60,
                "cache-misses": 0x0964,
                "stalled-cycles-frontend": 0xA9,
                "ref-cycles": 0x1_00000120,
            },
        ),
    ],
)
def test_amd_codes_by_generation(features: tuple[str, ...], expected: dict[str, int]) -> None:
    always = {"instructions": 0xC0, "cycles": 0x76, "branches": 0xC2, "branch-misses": 0xC3}
    assert {name: code for code, name in selector_codes(amd(*features)).items()} == always | expected


@pytest.mark.parametrize("name", vpmu.cpus())
def test_codes_of_every_preset_are_codes_and_unambiguous(name: str) -> None:
    cpu = vpmu.cpu(name)
    codes = selector_codes(cpu)
    assert len(set(codes.values())) == len(codes)
    assert {"instructions", "cycles", "branches", "branch-misses"} <= set(codes.values()) <= set(PMU_EVENTS) - {""}
    assert all(code & ~code_mask(cpu) == 0 for code in codes)


def test_tables_are_made_once_and_cannot_be_changed() -> None:
    for table in (selector_codes, named_codes):
        assert table(SKYLAKE) is table(dataclasses.replace(SKYLAKE))
        changed: Any = table(SKYLAKE)
        with pytest.raises(TypeError):
            changed[0] = "instructions"


# -- names that have only a code --------------------------------------------------------------------------------------

#: Linux, tools/perf/pmu-events/arch/x86/amdzen1 to amdzen5; "merge" is the PPRs' and libpfm4's.
ZEN = {
    "ex_ret_brn_tkn": 0xC4,
    "ex_ret_brn_far": 0xC6,
    "ex_ret_near_ret": 0xC8,
    "ex_ret_cond": 0xD1,
    "ls_dispatch.ld_dispatch": 0x0129,
    "ls_dispatch.store_dispatch": 0x0229,
    "ls_dispatch.ld_st_dispatch": 0x0429,
    "merge": 0xF_000000FF,
}


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("zen", {"ex_ret_cops": 0xC1, "fp_ret_sse_avx_ops.all": 0xFF03}),
        ("rome", {"ex_ret_cops": 0xC1, "fp_ret_sse_avx_ops.all": 0xFF03, "ls_int_taken": 0x2C}),
        ("milan", {"ex_ret_ops": 0xC1, "fp_ret_sse_avx_ops.all": 0xFF03, "ls_int_taken": 0x2C}),
        ("genoa", {"ex_ret_ops": 0xC1, "fp_ret_sse_avx_ops.all": 0x1F03, "ls_int_taken": 0x2C}),
        ("turin", {"ex_ret_ops": 0xC1, "fp_ret_sse_avx_ops.all": 0x0F03, "ls_int_taken": 0x2C}),
    ],
)
def test_names_of_zen(name: str, others: dict[str, int]) -> None:
    assert named_codes(vpmu.cpu(name)) == ZEN | others


@pytest.mark.parametrize("name", ["k8", "k10", "bulldozer", "jaguar"])
def test_no_names_before_zen(name: str) -> None:
    assert named_codes(vpmu.cpu(name)) == {}


def test_names_of_memory_instructions() -> None:
    """Event files of Linux: from Skylake to Golden Cove; D0H of an E-core and 83H of Lion Cove are something else."""
    umasks = {"all_loads": 0x81, "all_stores": 0x82, "any": 0x83}
    codes = {f"mem_inst_retired.{what}": umask << 8 | 0xD0 for what, umask in umasks.items()}
    having = {name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "intel" and named_codes(vpmu.cpu(name))}
    assert having == {
        *("skylake", "skylake-client", "icelake", "icelake-client", "tigerlake"),
        *("sapphirerapids", "emeraldrapids", "graniterapids", "alderlake-p"),
    }
    assert all(named_codes(vpmu.cpu(name)) == codes for name in having)


@pytest.mark.parametrize("name", vpmu.cpus())
def test_names_that_have_only_a_code_are_codes_of_nothing_else(name: str) -> None:
    cpu = vpmu.cpu(name)
    codes = named_codes(cpu)
    assert len(set(codes.values())) == len(codes)
    assert not set(codes.values()) & set(selector_codes(cpu))
    assert set(codes) <= set(NAMED_CODES)
    assert not set(codes) & set(PMU_EVENTS)
    for event, code in codes.items():
        pmu = vpmu.Pmu(cpu)
        assert code & ~code_mask(cpu) == 0
        pmu.count({f"r{code:04x}": 1}, cycles=1)
        with pytest.raises(vpmu.UnknownName):
            pmu.count({event: 1}, cycles=1)


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([SKYLAKE, amd("zen4")]), st.booleans())
def test_raw_names_are_the_selectors_event_bits(code: int, cpu: vpmu.CpuModel, upper: bool) -> None:
    mask = 0xFF00_0000FFFF if cpu.vendor == "intel" else 0xF_0000FFFF
    assert code_mask(cpu) == mask
    text = f"r{code:X}" if upper else f"r{code:04x}"
    if code & ~mask:
        with pytest.raises(vpmu.ScenarioError, match=f"bits {code & ~mask:#x}"):
            parse_raw(text, cpu)
    assert parse_raw(f"r{code & mask:x}", cpu) == code & mask


@pytest.mark.parametrize("text", ["", "r", "rxyz", "ref-cycles", "c0", "r-1", "r 1", "R00C0", "r0x12", "r" + "0" * 17])
def test_what_is_no_raw_name(text: str) -> None:
    assert parse_raw(text, SKYLAKE) is None
