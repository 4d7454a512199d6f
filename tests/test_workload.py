"""Workloads: exact rates, the TOML schema, tables, exit kinds, and the workloads that come with vpmu."""

from __future__ import annotations

import pickle
import tomllib
from dataclasses import FrozenInstanceError, dataclass, replace
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpmu._errors import ScenarioError, UnknownName
from vpmu._exits import ExitKind, exit_kind, exit_reasons
from vpmu._workload import (
    RATE_FIGURES,
    EventRates,
    ExitSource,
    decimal_text,
    exact,
    round_half_up,
    table_workload,
)
from vpmu._workload_file import parse_workload, rates_names, workload, workloads


@dataclass(frozen=True)
class Row:
    reason: str
    count: int
    mean_ns: int | Fraction | None = None


def source(**changes: Any) -> ExitSource:
    """Make an ExitSource with some fields replaced."""
    fields: dict[str, Any] = {
        "reason": "CPUID",
        "count": 10,
        "seconds": Fraction(2),
        "vcpus": 1,
        "handling_ns": None,
        "kind": "kernel",
        "clock": "work",
        "cpl": 3,
        "emulates": True,
        "blocks": False,
    }
    return ExitSource(**fields | changes)


# Exit kinds


@pytest.mark.parametrize(
    ("reason", "arguments", "kind"),
    [
        ("MSR_WRITE", {}, "fastpath"),
        ("MSR_WRITE", {"msr": 0x6E0}, "fastpath"),
        ("MSR_WRITE", {"msr": 0x830}, "fastpath"),
        ("MSR_WRITE", {"msr": 0x838}, "kernel"),
        ("PREEMPTION_TIMER", {}, "fastpath"),
        ("HLT", {"mean_ns": 10**9}, "kernel"),
        ("IO_INSTRUCTION", {}, "kernel"),
        ("IO_INSTRUCTION", {"mean_ns": 3999}, "kernel"),
        ("IO_INSTRUCTION", {"mean_ns": 4000}, "userspace"),
        ("EPT_MISCONFIG", {"mean_ns": Fraction(7999, 2)}, "kernel"),
        ("EPT_MISCONFIG", {"mean_ns": 4000}, "userspace"),
        ("EPT_MISCONFIG", {"mean_ns": 4000, "userspace": False}, "kernel"),
        ("EPT_MISCONFIG", {"mean_ns": 1, "userspace": True}, "userspace"),
        ("CPUID", {"mean_ns": 10**6}, "kernel"),
        ("CPUID", {"userspace": True}, "userspace"),
        ("EPT_VIOLATION", {"mean_ns": 10**6}, "kernel"),
    ],
)
def test_kind_follows_the_rules_for_reason_mean_and_msr(reason: str, arguments: dict[str, Any], kind: str) -> None:
    assert exit_kind(reason, **arguments).kind == kind


def test_only_hlt_blocks_and_asynchronous_exits_are_on_the_wall_clock() -> None:
    assert [reason for reason in exit_reasons() if exit_kind(reason).blocks] == ["HLT"]
    wall = {reason for reason in exit_reasons() if exit_kind(reason).clock == "wall"}
    assert {"EXTERNAL_INTERRUPT", "EXCEPTION_NMI", "PREEMPTION_TIMER", "INTERRUPT_WINDOW"} <= wall
    assert not wall & {"HLT", "CPUID", "MSR_WRITE", "IO_INSTRUCTION", "EPT_VIOLATION", "PAUSE_INSTRUCTION"}
    assert not any(exit_kind(reason).emulates for reason in wall)


def test_emulated_instructions() -> None:
    emulated = "CPUID MSR_READ MSR_WRITE IO_INSTRUCTION EPT_MISCONFIG VMCALL PAUSE_INSTRUCTION"
    for reason in (*emulated.split(), "HLT", "RDPMC", "CR_ACCESS"):
        assert exit_kind(reason).emulates, reason
    for reason in ("EXTERNAL_INTERRUPT", "EXCEPTION_NMI", "EPT_VIOLATION", "EOI_INDUCED", "APIC_WRITE"):
        assert not exit_kind(reason).emulates, reason


def test_every_exit_kind_has_a_source_and_a_note() -> None:
    assert len(exit_reasons()) >= 60
    for reason in exit_reasons():
        kind = exit_kind(reason)
        assert kind.source, reason
        assert kind.note, reason
        assert kind.quality in ("derived", "assumed")


def test_old_name_is_the_same_exit_and_keeps_its_name() -> None:
    kind = exit_kind("INTERRUPT_WINDOW")
    assert exit_kind("PENDING_INTERRUPT") == replace(kind, reason="PENDING_INTERRUPT")


def test_unknown_reason_is_an_assumed_kernel_exit() -> None:
    kind = exit_kind("FLUX_CAPACITOR", mean_ns=10**6)
    assert (kind.kind, kind.clock, kind.cpl) == ("kernel", "work", 0)
    assert not kind.emulates
    assert not kind.blocks
    assert kind.quality == "assumed"


def test_overrides_are_final_and_checked() -> None:
    overrides = {"IO_INSTRUCTION": {"kind": "kernel", "cpl": 3}}
    kind = exit_kind("IO_INSTRUCTION", mean_ns=9000, overrides=overrides)
    assert (kind.kind, kind.cpl, kind.emulates, kind.quality) == ("kernel", 3, True, "assumed")
    assert exit_kind("CPUID", overrides=overrides) == exit_kind("CPUID")
    with pytest.raises(UnknownName, match="'kidn'; did you mean kind"):
        exit_kind("CPUID", overrides={"CPUID": {"kidn": "kernel"}})
    with pytest.raises(ScenarioError, match="cpl 1 must be 0"):
        exit_kind("CPUID", overrides={"CPUID": {"cpl": 1}})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("reason", "", "must be a name"),
        ("reason", "A\nB", "must be a name"),
        ("kind", "slow", "must be one of fastpath"),
        ("clock", "tsc", "'work' or 'wall'"),
        ("cpl", True, "must be 0"),
        ("emulates", 1, "must be true or false"),
        ("blocks", "no", "must be true or false"),
        ("quality", "good", "must be one of published"),
    ],
)
def test_exit_kind_is_validated(field: str, value: Any, words: str) -> None:
    arguments: dict[str, Any] = {"reason": "CPUID", "kind": "kernel"}
    with pytest.raises(ScenarioError, match=words):
        ExitKind(**arguments | {field: value})


# Exact numbers and event rates


@pytest.mark.parametrize(
    ("value", "fraction"),
    [
        (10, Fraction(10)),
        ("22.6607", Fraction(226607, 10000)),
        ("3/4", Fraction(3, 4)),
        (0.1, Fraction(1, 10)),
        (Decimal("1e-3"), Fraction(1, 1000)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_exact_takes_decimals_as_written(value: Any, fraction: Fraction) -> None:
    assert exact(value, "x") == fraction


@pytest.mark.parametrize(
    "value",
    ["", "abc", "nan", float("-inf"), "1/0", "1/x", "1e999999999", "9" * 90, True, None, [1], 10**50],
)
def test_exact_refuses_what_is_no_number_at_once(value: Any) -> None:
    with pytest.raises(ScenarioError, match="seconds"):
        exact(value, "seconds")


@given(st.fractions())
def test_rounding_is_to_the_nearest_halves_up(value: Fraction) -> None:
    assert -Fraction(1, 2) <= value - round_half_up(value) < Fraction(1, 2)


def test_decimal_text() -> None:
    assert decimal_text(Fraction(2469135, 2), 1) == "1,234,567.5"
    assert decimal_text(Fraction(-1, 3)) == "-0.333"
    assert decimal_text(Fraction(7, 2), 0) == "4"


def test_rates_are_products_rounded_once() -> None:
    rates = EventRates.from_figures({"instructions_per_cycle": "1.9", "branches_per_instruction": "0.2"})
    assert rates.instructions == round_half_up(Fraction("1.9") * 2**32) == 8160437862
    assert rates.branches == round_half_up(Fraction("0.38") * 2**32) == 1632087572
    assert rates.as_dict() == {
        "instructions": 8160437862,
        "branches": 1632087572,
        "branch-misses": 0,
        "cache-references": 0,
        "cache-misses": 0,
    }


@given(st.fractions(0, 16, max_denominator=10**12), st.fractions(0, 1, max_denominator=10**12))
def test_rates_are_within_half_a_unit(ipc: Fraction, share: Fraction) -> None:
    rates = EventRates.from_figures({"instructions_per_cycle": ipc, "cache_misses_per_instruction": share})
    assert abs(rates.instructions - ipc * 2**32) <= Fraction(1, 2)
    assert abs(rates.cache_misses - ipc * share * 2**32) <= Fraction(1, 2)


def test_rates_are_bounded() -> None:
    assert EventRates(instructions=2**36).instructions == 2**36
    with pytest.raises(ScenarioError, match="rate of branch-misses"):
        EventRates(branch_misses=-1)
    with pytest.raises(ScenarioError, match="rate of instructions"):
        EventRates.from_figures({"instructions_per_cycle": "16.001"})
    with pytest.raises(UnknownName, match="rate figure"):
        EventRates.from_figures({"ipc": 1})


# Workloads made by hand


def test_rate_of_one_vcpu_is_exact() -> None:
    assert source(count=25, seconds="22.6607", vcpus=4).per_second == Fraction(250000, 906428)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "CPUID: count 0"),
        ({"count": 2.0}, "CPUID: count 2.0"),
        ({"seconds": 0}, "must be more than 0"),
        ({"vcpus": 0}, "CPUID: vcpus 0"),
        ({"handling_ns": -1}, "handling_ns -1"),
        ({"handling_ns": 10**19}, "handling_ns"),
        ({"kind": "slow"}, "CPUID: kind"),
        ({"handling_quality": "good"}, "handling_quality"),
    ],
)
def test_exit_source_is_validated(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as caught:
        source(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"user_share": 2**32 + 1}, "user_share"),
        ({"user_share": 0.5}, "user_share"),
        ({"arrivals": "bursty"}, "arrivals 'bursty' must be 'exponential' or 'regular'"),
        ({"kernel": None}, "kernel must be EventRates"),
        ({"exits": ("CPUID",)}, "must be an ExitSource"),
        ({"name": ""}, "name"),
    ],
)
def test_workload_is_validated(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        replace(workload("generic"), **changes)


def test_workload_is_frozen_hashable_and_pickles() -> None:
    made = replace(workload("generic"), name="mine", exits=(source(), source(reason="HLT", blocks=True)))
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))
    assert made == pickle.loads(pickle.dumps(made))
    assert made.exits_per_second == 10
    with pytest.raises(FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]  # what is refused


# The TOML schema

MINIMAL = """
summary = "s"
[recorded]
seconds = 2
vcpus = 4
source = "here"
quality = "published"
[[exits]]
reason = "CPUID"
count = 100
"""


def test_minimal_workload_takes_the_rest_from_generic() -> None:
    made = parse_workload(MINIMAL, "mine")
    generic = workload("generic")
    assert made == replace(generic, name="mine", summary="s", exits=made.exits, figures=made.figures)
    assert made.exits[0].per_second == Fraction(100, 8)
    assert (made.exits[0].kind, made.exits[0].cpl, made.exits[0].handling_ns) == ("kernel", 3, None)


def test_toml_floats_are_read_as_written() -> None:
    text = MINIMAL + "handling_ns = 0.1\nseconds = 0.3\n"
    text += '[user_share]\nvalue = 0.1\nquality = "assumed"\nsource = "x"'
    made = parse_workload(text, "mine")
    assert made.exits[0].handling_ns == Fraction(1, 10)
    assert made.exits[0].seconds == Fraction(3, 10)
    assert made.user_share == round_half_up(Fraction(2**32, 10))


def test_one_figure_replaces_one_of_generic() -> None:
    text = MINIMAL + (
        '[rates.kernel.instructions_per_cycle]\nvalue = "1.6"\nquality = "assumed"\nsource = "twice generic"\n'
    )
    made, generic = parse_workload(text, "mine"), workload("generic")
    assert made.kernel.instructions == round_half_up(Fraction("1.6") * 2**32)
    assert abs(made.kernel.branches - 2 * generic.kernel.branches) <= 1
    assert made.user == generic.user


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("summary =", "sumary ="), "did you mean summary"),
        (('summary = "s"', ""), "lacks 'summary'"),
        (('summary = "s"', "summary = 3"), "must be of type str"),
        (("count = 100", "count = true"), "must be of type int"),
        (("count = 100", "count = 100\nper_second = 12"), "must be 13:"),
        (("count = 100", 'count = 100\nper_second = "12.6"'), "must be 12.5"),
        (('source = "here"', ""), "lacks 'source'"),
        (('quality = "published"', ""), "lacks 'quality'"),
        (('quality = "published"', 'quality = "sure"'), "must be one of published"),
        (("seconds = 2", "seconds = 0"), "more than 0"),
        (("seconds = 2", ""), "seconds"),
        (("count = 100", "count = 100\ncpl = 2"), "cpl 2"),
        (("count = 100", "count = 100\nhandling_ns = []"), "handling_ns"),
        (("[[exits]]", "[exits]"), "must be of type list"),
        (("[recorded]", "[recorded"), "not TOML"),
        (("count = 100", "count = 100\n[rates.gest]"), "unknown key in workload 'mine': \\[rates\\] 'gest'"),
        (("count = 100", "count = 100\n[rates.user]\nipc = 1"), "key in workload 'mine'"),
        (("count = 100", "count = 100\n[user_share]\nvalue = -1"), "0 or more"),
        (("count = 100", "count = " + "9" * 5000), "not TOML|integer"),
    ],
)
def test_bad_files_say_where_in_one_line(change: tuple[str, str], words: str) -> None:
    text = MINIMAL.replace(*change)
    with pytest.raises((ScenarioError, UnknownName), match=words) as caught:
        parse_workload(text, "mine")
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_workload_or_an_error_of_ours(text: str) -> None:
    with pytest.raises((ScenarioError, UnknownName)):
        parse_workload(text, "fuzz")


# The workloads that come with vpmu


def test_names() -> None:
    expected = {"idle", "idle-nohz-off", "sysbench-cpu", "fio-4k-read", "fio-4k-read-suppressed"}
    expected |= {"hackbench", "windows-legacy-io", "pause-storm"}
    assert expected <= set(workloads())
    assert set(rates_names()) == {*workloads(), "generic"}
    with pytest.raises(UnknownName, match="'sysbench'; did you mean sysbench-cpu"):
        workload("sysbench")


@pytest.mark.parametrize("name", rates_names())
def test_every_figure_has_a_source_and_assumptions_say_so(name: str) -> None:
    made = workload(name)
    assert made.summary
    assert "\n" not in made.summary
    assert {item.name for item in made.figures} == {"user_share"} | {
        f"{activity}.{figure}"
        for activity in ("user", "kernel", "handler", "hypervisor", "host_task")
        for figure in RATE_FIGURES
    }
    assert all(item.source for item in made.figures)
    for item in made.exits:
        assert item.source
        assert item.quality in ("published", "derived", "assumed")
        assert item.handling_quality in ("published", "derived", "assumed")
        assert exit_kind(item.reason).source != exit_kind("FLUX_CAPACITOR").source, item.reason


@pytest.mark.parametrize("name", workloads())
def test_every_file_shows_its_division(name: str) -> None:
    text = (resources.files("vpmu") / "data" / "workloads" / f"{name}.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    for row, item in zip(data["exits"], workload(name).exits, strict=True):
        digits = len(row["per_second"].partition(".")[2])
        assert round_half_up(item.per_second * 10**digits) == Fraction(row["per_second"]) * 10**digits
        seconds = data["recorded"]["seconds"]
        assert f"# {row['count']} / ({seconds} s * {item.vcpus} vCPU" in text


def test_fio_is_the_recording_divided() -> None:
    counts = {
        "fio-4k-read": {"EPT_MISCONFIG": 797440, "MSR_WRITE": 3672, "EXTERNAL_INTERRUPT": 1638},
        "fio-4k-read-suppressed": {"EPT_MISCONFIG": 151, "MSR_WRITE": 3524, "EXTERNAL_INTERRUPT": 515},
    }
    for name, rows in counts.items():
        made = workload(name)
        assert {item.reason: item.per_second for item in made.exits} == {
            reason: Fraction(count, 10) for reason, count in rows.items()
        }
    assert workload("fio-4k-read").exits_per_second == 80275
    assert workload("fio-4k-read-suppressed").exits_per_second == 419
    assert workload("fio-4k-read").exits[0].kind == "kernel"


def test_published_totals() -> None:
    assert workload("idle").exits_per_second == Fraction(645, 32)
    assert workload("idle-nohz-off").exits_per_second == Fraction(66300, 32)
    assert workload("pause-storm").exits_per_second == Fraction(4996283 - 182, 10)  # all rows but HLT
    assert sum(item.count for item in workload("sysbench-cpu").exits) == 25898 - 2232
    assert workload("windows-legacy-io").exits_per_second == 7582
    assert workload("windows-legacy-io").exits[0].kind == "userspace"
    share = Fraction(6726109, sum(item.count for item in workload("hackbench").exits))
    assert round_half_up(share * 10000) == 9073


# Tables


ROWS = (
    Row("MSR_WRITE", 9167, 3000),
    Row("HLT", 2232, 30567940),
    Row("IO_INSTRUCTION", 12, 5000),
    Row("CPUID", 0, 1),
)


def test_table_is_divided_and_kinds_follow_the_means() -> None:
    made = table_workload(ROWS, recorded_seconds="22.66", vcpus=4, rates=workload("generic"), name="t")
    assert [item.reason for item in made.exits] == ["MSR_WRITE", "HLT", "IO_INSTRUCTION"]
    assert [item.kind for item in made.exits] == ["fastpath", "kernel", "userspace"]
    assert made.exits[0].per_second == Fraction(9167 * 100, 2266 * 4)
    assert made.user == workload("generic").user
    assert made.figures == workload("generic").figures
    assert made.exits[0].quality == "published"
    assert "t" in made.exits[0].source


def test_table_that_does_not_fit_names_the_smallest_number_of_vcpus() -> None:
    with pytest.raises(ScenarioError, match=r"68\.255 s .* 22\.660 s x 1 vCPU.*--vcpus 4$"):
        table_workload(ROWS, recorded_seconds="22.66", rates=workload("generic"), name="t")
    for vcpus in (1, 2, 3):
        with pytest.raises(ScenarioError, match="--vcpus 4"):
            table_workload(ROWS, recorded_seconds="22.66", vcpus=vcpus, rates=workload("generic"), name="t")


def test_table_that_fits_exactly_fits() -> None:
    rows, rates = [Row("HLT", 10, 10**9)], workload("generic")
    assert table_workload(rows, recorded_seconds=10, rates=rates, name="t").exits
    with pytest.raises(ScenarioError, match=r"--vcpus 2$"):
        table_workload(rows, recorded_seconds="9.999999999", rates=rates, name="t")


@given(st.integers(1, 10**12), st.integers(1, 10**6), st.fractions("1/1000", 1000))
def test_smallest_number_of_vcpus_is_the_smallest(mean: int, count: int, seconds: Fraction) -> None:
    rows, rates = [Row("HLT", count, mean)], workload("generic")
    fits = max(1, -(-Fraction(mean * count) // (seconds * 10**9)))
    if fits > 2**20:
        return
    assert table_workload(rows, recorded_seconds=seconds, vcpus=fits, rates=rates, name="t").exits
    if fits > 1:
        with pytest.raises(ScenarioError, match=rf"--vcpus {fits}$"):
            table_workload(rows, recorded_seconds=seconds, vcpus=fits - 1, rates=rates, name="t")


@pytest.mark.parametrize("seconds", [0, "0", -1, "-2.5", "nan", "inf", float("inf"), "soon", None])
def test_table_needs_a_positive_finite_duration(seconds: Any) -> None:
    with pytest.raises(ScenarioError, match="recorded-seconds"):
        table_workload(ROWS, recorded_seconds=seconds, rates=workload("generic"), name="t")


def test_table_without_exits_and_with_unknown_reasons() -> None:
    rates = workload("generic")
    with pytest.raises(ScenarioError, match="no exits"):
        table_workload([Row("CPUID", 0)], recorded_seconds=1, rates=rates, name="t")
    made = table_workload([Row("NEW_REASON", 3)], recorded_seconds=1, rates=rates, name="t")
    assert made.exits[0].handling_ns is None
    assert "unknown exit reason" in made.exits[0].source
    made = table_workload([Row("CPUID", 3)], recorded_seconds=1, rates=rates, name="t", overrides={"CPUID": {"cpl": 0}})
    assert made.exits[0].cpl == 0
