"""The CPUs on which scenarios run, against CPUID dumps and Linux's tables of constraints."""

from __future__ import annotations

import tomllib
from importlib import resources
from itertools import pairwise

import pytest

import vpmu
from vpmu._costs import COST_NAMES

QUALITIES = {"published", "derived", "assumed"}

# CPUID leaf 0AH as dumped (EAX, ECX, EDX), IA32_PERF_CAPABILITIES, slots, VM-exit save of GLOBAL_CTRL, 3CH/01H.
PRESETS = {
    "skylake": (0x07300404, 0x0, 0x603, 0x33C5, 4, False, 25_000_000),
    "icelake": (0x08300805, 0xF, 0x8604, 0xF4C5, 5, False, 25_000_000),
    "sapphirerapids": (0x08300805, 0xF, 0x8604, 0xF5FF, 6, True, "tsc"),
    "emeraldrapids": (0x08300805, 0xF, 0x8604, 0xF5FF, 6, True, "tsc"),
}


AMD = ("genoa", "milan", "rome")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_cpuid_says(name: str) -> None:
    eax, ecx, edx, capabilities, slots, exit_save, bus = PRESETS[name]
    cpu = vpmu.cpu(name)
    assert (cpu.name, cpu.vendor) == (name, "intel")
    assert cpu.version == eax & 0xFF
    assert cpu.gp_mask == (1 << (eax >> 8 & 0xFF)) - 1
    assert cpu.gp_width == eax >> 16 & 0xFF == 48
    assert cpu.fixed_mask == ecx | (1 << (edx & 0x1F)) - 1
    assert cpu.fixed_width == edx >> 5 & 0xFF == 48
    assert cpu.anythread_deprecated == bool(edx >> 15)
    assert cpu.perf_capabilities == capabilities
    assert cpu.full_width_writes
    assert cpu.slots_per_cycle == slots
    assert cpu.exit_save_global_ctrl is exit_save
    assert not cpu.pin_control_writable
    assert cpu.bus_cycles_hz.value == (cpu.tsc_hz.value if bus == "tsc" else bus)
    assert cpu.summary


def test_all_presets_are_looked_at() -> None:
    assert {name for name in vpmu.cpus() if vpmu.cpu(name).costs} == {*PRESETS, *AMD}


@pytest.mark.parametrize("name", [*PRESETS, *AMD])
def test_every_figure_of_a_cpu_has_a_source_and_a_quality(name: str) -> None:
    cpu = vpmu.cpu(name)
    assert tuple(cpu.costs) == COST_NAMES
    for cost, figure in cpu.costs.items():
        assert figure.source.strip(), cost
        assert figure.quality in QUALITIES, cost
        assert figure.unit == "cycles", cost
        assert 0 < figure.value < 1_000_000 or (cost == "msr_list_entry" and name in AMD), cost
    for clock in (cpu.core_hz, cpu.tsc_hz, cpu.bus_cycles_hz):
        assert clock.source.strip()
        assert clock.quality in QUALITIES
        assert clock.unit == "Hz"
    assert cpu.skid.source.strip()
    assert cpu.skid.quality in QUALITIES
    text = (resources.files("vpmu") / "data" / "cpus" / f"{name}.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["pmu"]["source"].strip()


@pytest.mark.parametrize("name", PRESETS)
def test_costs_are_in_a_plausible_order(name: str) -> None:
    costs = {cost: figure.value for cost, figure in vpmu.cpu(name).costs.items()}
    for less, more in pairwise(("rdpmc", "rdmsr", "wrmsr")):
        assert costs[less] < costs[more]
    for less, more in pairwise(("handling_fastpath", "handling_kernel", "handling_userspace")):
        assert costs[less] < costs[more]


def bits(*counters: int) -> int:
    return sum(1 << counter for counter in counters)


@pytest.mark.parametrize(
    ("names", "codes", "gp", "fixed"),
    [
        # Linux intel_skl_event_constraints[], without the rows of fixed counters; UUEE.
        (["skylake"], [0x01C0], bits(1), 0),
        (["skylake"], [0x01D0, 0x20D1, 0x04D2, 0x01CD, 0x01C6], 0xF, 0),
        (["skylake"], [0x00C0, 0x02C0, 0x01D3, 0x412E, 0x013C, 0x00C4, 0x00C5, 0x14A3], None, 0),
        # intel_icl_event_constraints[]
        (["icelake"], [0x01C0, 0x0100], 0, bits(0)),
        (["icelake"], [0x04A3, 0x10A3, 0x14A3], 0xFF, 0),
        (["icelake"], [0x01A3, 0x0CA3, 0x0103, 0x010A, 0x011F, 0x0128, 0x0132, 0x0148, 0x0156, 0x0160, 0x018B], 0xF, 0),
        (["icelake"], [0x01A8, 0x01B0, 0x01B7, 0x01BD, 0x01D0, 0x01E6, 0x01EF, 0x01F0, 0x01F4], 0xF, 0),
        (["icelake"], [0x0102, 0x010B, 0x0129, 0x412E, 0x013C, 0x0147, 0x018C, 0x01A4, 0x01B1], None, 0),
        (["icelake"], [0x00C4, 0x00C5, 0x01E7, 0x01F5], None, 0),
        # intel_glc_event_constraints[]: 2E and 3C come before the range in which they lie
        (["sapphirerapids", "emeraldrapids"], [0x4F2E, 0x412E, 0x003C], 0xFF, 0),
        (["sapphirerapids", "emeraldrapids"], [0x0101, 0x012D, 0x012F, 0x013B, 0x013D, 0x018F], 0xF, 0),
        (["sapphirerapids", "emeraldrapids"], [0x01A3, 0x02A3, 0x08A3, 0x01D0, 0x01DF], 0xF, 0),
        (["sapphirerapids", "emeraldrapids"], [0x04A4, 0x08A4, 0x02CD, 0x01CE], bits(0), 0),
        (["sapphirerapids", "emeraldrapids"], [0x0190, 0x04A3, 0x01A4, 0x01CD, 0x00C4, 0x00C5, 0x01E0], None, 0),
    ],
)
def test_constraints_are_those_of_linux(names: list[str], codes: list[int], gp: int | None, fixed: int) -> None:
    """Without a row (None), an event goes to any general-purpose counter."""
    for name in names:
        for code in codes:
            rows = [row for row in vpmu.cpu(name).constraints if row.matches(code & 0xFF, code >> 8)]
            found = (rows[0].gp_mask, rows[0].fixed_mask) if rows else (None, 0)
            assert found in [(gp, fixed), (vpmu.cpu(name).gp_mask if gp is None else gp, fixed)], f"{name} {code:04x}"
