"""The CPU presets: their fields, their quirks, and where they can be used."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from importlib import resources

import pytest
from command_line import good, refused

import vpmu
from vpmu._costs import QUALITIES

SIMULATED = ("emeraldrapids", "genoa", "icelake", "milan", "rome", "sapphirerapids", "skylake")
AMD = tuple(name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "amd")
INTEL = tuple(name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "intel")


def having(quirk, possible=False):
    return {
        name for name in vpmu.cpus() if quirk in (vpmu.cpu(name).possible_quirks if possible else vpmu.cpu(name).quirks)
    }


@pytest.mark.parametrize("name", vpmu.cpus())
def test_every_preset_has_sources_and_says_what_it_is(name):
    cpu = vpmu.cpu(name)
    assert cpu.name == name
    assert cpu.summary
    assert cpu.signature
    text = (resources.files("vpmu") / "data" / "cpus" / f"{name}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    assert table["pmu"]["source"].strip()
    assert all(row["source"].strip() for row in table.get("cpuid", ()))
    for figure in (cpu.core_hz, cpu.tsc_hz, cpu.bus_cycles_hz):
        assert figure.source.strip()
        assert figure.quality in QUALITIES
        assert figure.unit == "Hz"
    assert cpu.skid.quality == "assumed"
    assert cpu.skid.source.strip()
    assert "pmi_skid" in cpu.quirks
    assert not cpu.quirks & cpu.possible_quirks
    assert "/work" not in text
    vpmu.Pmu(cpu)


def test_no_two_presets_have_one_signature():
    """But for the two types of core of a hybrid part."""
    seen = {}
    for name in vpmu.cpus():
        kind = "-e" if name.endswith("-e") else "-p" if name.endswith("-p") else ""
        also = tomllib.loads((resources.files("vpmu") / "data" / "cpus" / f"{name}.toml").read_text(encoding="utf-8"))[
            "pmu"
        ].get("also", [])
        for signature in {value & 0x0FFF0FF0 for value in (vpmu.cpu(name).signature, *also)}:
            assert seen.setdefault((signature, kind), name) == name


@pytest.mark.parametrize(
    ("names", "capabilities"),
    [
        # VirtualBox's CPU database, read on silicon
        (["yonah"], 0),
        (["conroe"], 0x82),
        (["penryn"], 0x10C2),
        (["bonnell"], 0xC1),
        (["silvermont"], 0x32C1),
        (["sandybridge", "ivybridge", "sandybridge-client", "ivybridge-client"], 0x31C3),
        (["broadwell", "broadwell-client"], 0x32C4),
        (["skylake", "skylake-client"], 0x33C5),
        # derived: see the files
        (["nehalem", "nehalem-client", "westmere"], 0x11C3),
        (["haswell", "haswell-client"], 0x32C4),
        (["goldmont"], 0x33C6),
        (["goldmontplus"], 0x33C7),
        (["tremont"], 0x174C7),
        (["icelake", "icelake-client", "tigerlake"], 0xF4C5),
        (["sapphirerapids", "emeraldrapids"], 0xF5FF),
        (["graniterapids"], 0x2F5FF),
        (["sierraforest"], 0x275FF),
        (list(AMD), 0),
    ],
)
def test_perf_capabilities(names, capabilities):
    assert {vpmu.cpu(name).perf_capabilities for name in names} == {capabilities}


@pytest.mark.parametrize(
    ("name", "gp", "fixed"),
    [
        ("yonah", 0x3, 0),
        ("conroe", 0x3, 7),
        ("bonnell", 0x3, 7),
        ("westmere", 0xF, 7),
        ("sandybridge", 0xF, 7),
        ("goldmont", 0xF, 7),
        ("skylake", 0xF, 7),
        ("alderlake-p", 0xFF, 0xF),
        ("alderlake-e", 0x3F, 7),
        ("lunarlake-p", 0x3FF, 0xF),
        ("lunarlake-e", 0xFF, 0x77),
        ("k10", 0xF, 0),
        ("jaguar", 0xF, 0),
        ("bulldozer", 0x3F, 0),
        ("genoa", 0x3F, 0),
    ],
)
def test_counters_are_those_that_exist(name, gp, fixed):
    """Not those that CPUID.0AH admits."""
    assert (vpmu.cpu(name).gp_mask, vpmu.cpu(name).fixed_mask) == (gp, fixed)


def test_the_presets_with_costs_are_as_they_were():
    """Their effective counters, which runs depend on."""
    masks = {name: (vpmu.cpu(name).gp_mask, vpmu.cpu(name).fixed_mask) for name in SIMULATED}
    usual = {name: (0x3F, 0) if name in AMD else (0xFF, 0xF) for name in SIMULATED}
    assert masks == usual | {"skylake": (0xF, 7)}
    assert {name for name in vpmu.cpus() if vpmu.cpu(name).costs} == set(SIMULATED)


def both(*names):
    return {kind for name in names for kind in (name, f"{name}-client")}


@pytest.mark.parametrize(
    ("quirk", "names"),
    [
        (
            "irq_overcount",
            {"conroe", "penryn", "westmere", "k10", "bobcat", "bulldozer"}
            | both("nehalem", "sandybridge", "ivybridge"),
        ),
        ("ht_halves_gp", both("sandybridge", "ivybridge", "haswell", "broadwell", "skylake")),
        ("ht_leak", both("sandybridge", "ivybridge", "haswell")),
        ("hsw11_bdm11", both("haswell", "broadwell")),
        ("min_period32", both("nehalem", "haswell")),
        ("tfa", both("skylake")),
        ("cpuid_fixed", {"conroe", "bonnell"}),
        ("reserved_ignore", {"conroe"}),
        ("penryn_global", {"penryn"}),
        ("gldm_any", {"goldmont"}),
        ("atom_far_overcount", {"silvermont", "goldmont", "tremont", "sierraforest"}),
        ("amd_vmrun_branch", set(AMD)),
        ("amd_1292", {"zen", "rome", "milan", "vermeer"}),
        ("evtsel_sticky", {"milan", "vermeer"}),
        ("amd_status_set_extra", {"turin"}),
        ("pmi_skid", set(vpmu.cpus())),
        *((quirk, set()) for quirk in ("nhm_enable", "zen4_status_rsvd", "freeze_late", "txcp_spurious")),
        *((quirk, set()) for quirk in ("p6_perfctr_raz", "kvm_inert_msrs", "rdpmc_ooo", "reftsc_sticky_ovf")),
    ],
)
def test_quirks_that_are_on(quirk, names):
    assert having(quirk) == names


@pytest.mark.parametrize(
    ("quirk", "names"),
    [
        ("nhm_enable", both("nehalem") | {"westmere"}),
        ("zen4_status_rsvd", {"genoa", "raphael", "bergamo"}),
        ("freeze_late", {"goldmont", "goldmontplus"}),
        ("txcp_spurious", {name for name in INTEL if "rtm" in vpmu.cpu(name).features}),
        ("rdpmc_ooo", set(INTEL)),
        (
            "reftsc_sticky_ovf",
            {name for name in INTEL if name.endswith("-p")} | {"sapphirerapids", "emeraldrapids", "graniterapids"},
        ),
    ],
)
def test_quirks_that_may_show(quirk, names):
    assert having(quirk, possible=True) == names


def test_the_bus_clock_is_no_longer_its_own_from_golden_cove_and_tremont_on():
    """Intel perfmon event files, REF_XCLK and REF_TSC_P."""
    newer = {name for name in INTEL if name.endswith(("-p", "-e", "rapids"))} | {"tremont", "gracemont", "sierraforest"}
    assert having("ref_xclk") == set(INTEL) - newer
    for name in newer:
        assert vpmu.cpu(name).bus_cycles_hz.value == vpmu.cpu(name).tsc_hz.value


@pytest.mark.parametrize("name", vpmu.cpus())
def test_what_relatives_do_not_have_is_something_that_the_preset_has(name):
    pmu = tomllib.loads((resources.files("vpmu") / "data" / "cpus" / f"{name}.toml").read_text(encoding="utf-8"))["pmu"]
    assert set(pmu.get("also_without", ())) <= set(pmu["quirks"])
    assert "also" in pmu or "also_without" not in pmu


def test_quirks_are_explained():
    explained = vpmu.quirks()
    used = set().union(*(vpmu.cpu(name).quirks | vpmu.cpu(name).possible_quirks for name in vpmu.cpus()))
    assert used <= set(explained)
    assert all(len(text) > 20 for text in explained.values())
    with pytest.raises(TypeError):
        explained["pmi_skid"] = ""


# -- sampling periods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "event", "period", "expected"),
    [
        # Linux nhm_limit_period()
        ("nehalem", "cycles", 1, 32),
        ("nehalem", "r01c0", 33, 33),
        ("westmere", "cycles", 1, 1),
        # hsw_limit_period(): INST_RETIRED.ALL 128, everything else 32
        ("haswell", "r01c0", 1, 128),
        ("haswell", "cpu/event=0xc0,umask=0x01/u", 31, 128),
        ("haswell", "r01c0", 129, 129),
        ("haswell", "instructions", 1, 32),
        ("haswell-client", "branches:u", 40, 40),
        # bdw_limit_period(): the low six bits are 0, and never below 128
        ("broadwell", "r01c0", 1, 128),
        ("broadwell", "r01c0", 128, 128),
        ("broadwell", "r01c0", 129, 192),
        ("broadwell-client", "r01c0", 1_000_000, 1_000_000),
        ("broadwell-client", "r01c0", 1_000_001, 1_000_064),
        ("broadwell", "instructions", 1, 1),
        ("skylake", "r01c0", 1, 1),
        ("genoa", "cycles", 7, 7),
    ],
)
def test_limit_period(name, event, period, expected):
    assert vpmu.cpu(name).limit_period(event, period) == expected


def test_limit_period_follows_the_quirks():
    cpu = vpmu.cpu("haswell").with_quirks(hsw11_bdm11=False, min_period32=False)
    assert cpu.limit_period("r01c0", 1) == 1
    assert vpmu.cpu("skylake").with_quirks(min_period32=True).limit_period("cycles", 1) == 32
    for period in (0, -1, 1.5, True, "1"):
        with pytest.raises(vpmu.ScenarioError, match="positive integer"):
            cpu.limit_period("cycles", period)


# -- scenarios --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in INTEL if name not in SIMULATED])
def test_no_scenario_without_costs(name):
    with pytest.raises(vpmu.ScenarioError) as caught:
        vpmu.Scenario(cpu=name)
    message = str(caught.value)
    assert name in message
    assert all(known in message for known in SIMULATED)
    with pytest.raises(vpmu.ScenarioError, match="nobody has published"):
        vpmu.cpu(name).known_costs()


def test_why_no_scenario():
    costs = vpmu.cpu("skylake").costs

    def message(name):
        with pytest.raises(vpmu.ScenarioError) as caught:
            vpmu.Scenario(cpu=with_costs(name, costs))
        return str(caught.value)

    assert "version 1" in message("yonah")
    assert "more than 8" in message("lunarlake-p")
    assert "more than 8" in message("lunarlake-e")
    for name in ("graniterapids", "turin", "k8"):
        assert vpmu.Scenario(cpu=with_costs(name, costs), workload="idle").cpu.name == name


def with_costs(name, costs):
    return replace(vpmu.cpu(name), costs=costs)


@pytest.mark.parametrize(("name", "why"), [("nehalem", "nobody has published"), ("turin", "nobody has published")])
def test_command_line_refuses_in_one_line(name, why):
    message = refused("compare", "idle", "--cpu", name)
    assert why in message
    assert "skylake" in message


# -- vpmu list cpus ---------------------------------------------------------------------------------------------------


def test_list_fits_100_columns(monkeypatch):
    from rich.console import Console

    from vpmu import report
    from vpmu._listing import list_rows

    columns, rows = list_rows("cpus")
    table = report.rich_table([(name, "wrap" if name == "quirks" else "left") for name in columns], rows)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 100
    for name in vpmu.cpus():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        cpu = vpmu.cpu(name)
        assert line.split()[1:3] == [cpu.vendor, str(cpu.version)]
        assert ("yes" in line.split()) == (name in SIMULATED)
    assert not any("…" in line for line in lines)


def test_list_as_json_has_everything():
    listed = {row["name"]: row for row in json.loads(good("list", "cpus", "--format", "json"))}
    assert set(listed) == set(vpmu.cpus())
    zen4 = listed["genoa"]
    assert zen4["possible_quirks"]["zen4_status_rsvd"] == vpmu.quirks()["zen4_status_rsvd"]
    assert zen4["quirks"]["amd_late_nmi"] == vpmu.quirks()["amd_late_nmi"]
    assert (zen4["vendor"], zen4["version"], zen4["gp"], zen4["fixed"], zen4["scenarios"]) == ("amd", 2, 6, 0, True)
    assert listed["skylake"]["scenarios"] is True
    assert listed["turin"]["scenarios"] is False
    assert listed["lunarlake-e"]["fixed_mask"] == 0x77


def test_list_says_what_its_columns_are():
    text = good("list", "cpus")
    assert "0-2,4-6" in text
    assert "core nb l3 frz" in text
    assert "pmi_skid" in text.splitlines()[-1]
