"""What CPUID says of a model, and models of what a CPUID dump says."""

from __future__ import annotations

import contextlib
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu

#: The leaves that a dump of a model has, as (leaf, subleaf).
DUMPED = (
    *((0x0, 0), (0x1, 0), (0x7, 0), (0xA, 0), (0x1A, 0), (0x1C, 0)),
    *((0x23, subleaf) for subleaf in range(6)),
    *((0x80000000, 0), (0x80000001, 0), (0x80000008, 0), (0x80000022, 0)),
)

#: CPUID.0AH as EAX EBX ECX EDX.
ARCHITECTURAL = {
    "yonah": "07280201 0 0 0",
    "conroe": "07280202 0 0 0",
    "penryn": "07280202 0 0 503",
    "bonnell": "07280203 0 0 2501",
    "silvermont": "07280203 0 0 4503",
    "knightslanding": "07280203 0 0 503",
    "nehalem": "07300403 40 0 603",
    "nehalem-client": "07300403 44 0 603",
    "westmere": "07300403 4 0 603",
    **dict.fromkeys(("sandybridge", "sandybridge-client", "ivybridge", "ivybridge-client"), "07300403 0 0 603"),
    **dict.fromkeys(("haswell", "haswell-client", "broadwell", "broadwell-client"), "07300403 0 0 603"),
    "goldmont": "07300404 0 0 603",
    "goldmontplus": "07300404 0 0 8603",
    **dict.fromkeys(("skylake", "skylake-client"), "07300404 0 0 603"),
    "tremont": "07300405 0 7 8603",
    **dict.fromkeys(("icelake", "icelake-client", "tigerlake"), "08300805 0 F 8604"),
    **dict.fromkeys(("gracemont", "alderlake-p", "alderlake-e"), "07300605 0 7 8603"),
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids"), "08300805 0 F 8604"),
    "sierraforest": "07300805 0 7 8603",
    **dict.fromkeys(("lunarlake-p", "arrowlake-p", "pantherlake-p"), "0D300806 280 7 8603"),
    **dict.fromkeys(("lunarlake-e", "arrowlake-e", "pantherlake-e"), "0D300806 280 7 8603"),
}

#: CPUID.23H by subleaf; what is not here is 0.
EXTENDED = {
    "graniterapids": {0: "B 0 0 0", 1: "FF F 0 0", 3: "DFF 0 0 0"},
    "sierraforest": {0: "B 0 6 0", 1: "FF 7 0 0", 3: "7F 0 0 0"},
    "lunarlake-p": {0: "B 3 0 0", 1: "3FF F 0 0", 3: "1DFF 0 0 0"},
    "lunarlake-e": {0: "F 3 8 0", 1: "FF 77 0 0", 2: "FC 3 FC 3", 3: "1F7F 0 0 0"},
    "arrowlake-p": {0: "B 3 0 0", 1: "3FF F 0 0", 3: "1DFF 0 0 0"},
    "arrowlake-e": {0: "F 3 8 0", 1: "FF 77 0 0", 2: "FC 3 FC 3", 3: "1F7F 0 0 0"},
    "pantherlake-p": {0: "3B 3 0 0", 1: "3FF F 0 0", 3: "1DFF 0 0 0", 4: "0 60060378 0 0", 5: "3FF 3 F 1"},
    "pantherlake-e": {
        **{0: "3F 3 8 0", 1: "FF 77 0 0", 2: "FC 3 FC 3", 3: "1F7F 0 0 0"},
        **{4: "0 60060338 0 0", 5: "FF 3 77 1"},
    },
}

#: CPUID.80000022H.
PERFMON_V2 = {
    "genoa": "7 304106 FFF 0",
    "raphael": "7 84106 3 0",
    "bergamo": "3 204106 FFF 0",
    "turin": "7 304106 FFF 0",
    "graniteridge": "7 84106 3 0",
}


def words(text):
    return tuple(int(word, 16) for word in text.split())


def instlatx64(cpu, separator=":"):
    """A model as a text file of InstLatx64 would show it."""
    lines = ["------[ CPUID Registers / Logical CPU #0 ]------", "", "allcpu: Package 0 / Core 0 / Thread 0: Valid", ""]
    for leaf, subleaf in DUMPED:
        registers = "-".join(f"{value:08X}" for value in cpu.cpuid(leaf, subleaf))
        numbered = f" [SL {subleaf:02X}]" if leaf in (0x7, 0x23) else ""
        lines.append(f"CPUID {leaf:08X}{separator} {registers}{numbered}")
    return "\n".join(lines) + "\n"


def cpuid_r(cpu):
    """A model as ``cpuid -r`` would show it."""
    lines = ["CPU 0:"]
    for leaf, subleaf in DUMPED:
        registers = zip(("eax", "ebx", "ecx", "edx"), cpu.cpuid(leaf, subleaf), strict=True)
        shown = " ".join(f"{name}={value:#010x}" for name, value in registers)
        lines.append(f"   {leaf:#010x} {subleaf:#04x}: {shown}")
    return "\n".join(lines) + "\n"


# -- CPUID of the presets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "intel"])
def test_leaf_0a_is_that_of_the_dumps(name):
    """InstLatx64, github.com/InstLatx64/InstLatx64, text files of July 2026."""
    cpu = vpmu.cpu(name)
    assert cpu.cpuid(0xA) == words(ARCHITECTURAL[name])
    assert cpu.cpuid(0xA, 7) == cpu.cpuid(0xA)  # the leaf has no subleaves


@pytest.mark.parametrize("name", vpmu.cpus())
@pytest.mark.parametrize("subleaf", range(7))
def test_leaf_23_is_that_of_the_dumps(name, subleaf):
    """InstLatx64; subleaves 2 and 3 of Panther Lake are those of Lunar Lake, Sierra Forest is a Meteor Lake E-core."""
    assert vpmu.cpu(name).cpuid(0x23, subleaf) == words(EXTENDED.get(name, {}).get(subleaf, "0 0 0 0"))


@pytest.mark.parametrize("name", vpmu.cpus())
def test_leaf_80000022_is_that_of_the_dumps(name):
    """InstLatx64; leaf 0AH of every AMD CPU is 0."""
    cpu = vpmu.cpu(name)
    assert cpu.cpuid(0x80000022) == words(PERFMON_V2.get(name, "0 0 0 0"))
    if cpu.vendor == "amd":
        assert cpu.cpuid(0xA) == (0, 0, 0, 0)
        assert ("perfctr_core" in cpu.features) == bool(cpu.cpuid(0x80000001).ecx >> 23 & 1) == (cpu.gp_mask == 0x3F)


@pytest.mark.parametrize(
    ("name", "alone"),
    [("skylake", "07300804 0 0 603"), ("ivybridge", "07300803 0 0 603"), ("haswell-client", "07300803 0 0 603")],
)
def test_hyper_threading_halves_what_0a_says(name, alone):
    """Intel SDM vol. 3B: eight counters if hyper-threading is off."""
    cpu = vpmu.cpu(name).with_quirks(ht_halves_gp=False)
    assert cpu.cpuid(0xA) == words(alone)
    assert cpu.with_quirks(ht_halves_gp=True) == vpmu.cpu(name)


def test_quirk_of_conroe_and_bonnell():
    """InstLatx64: Conroe reports no fixed counters, Bonnell one; both have three."""
    for name, right in (("conroe", 0x503), ("bonnell", 0x503)):
        cpu = vpmu.cpu(name)
        assert cpu.fixed_mask == 7
        assert cpu.with_quirks(cpuid_fixed=False).cpuid(0xA).edx == right


def test_features_are_where_the_manuals_have_them():
    """Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E."""
    skylake = vpmu.cpu("skylake-client")
    assert skylake.cpuid(1) == (0x506E3, 0, 1 << 15 | 1 << 2, 1 << 21)
    assert skylake.cpuid(7) == (0, 1 << 2 | 1 << 4 | 1 << 11 | 1 << 25, 0, 1 << 13)
    assert skylake.cpuid(0) == (0xA, 0x756E6547, 0x6C65746E, 0x49656E69)
    assert skylake.cpuid(0x80000000) == (0x80000008, 0, 0, 0)
    assert vpmu.cpu("yonah").cpuid(1).ecx == 1 << 15
    hybrid = vpmu.cpu("lunarlake-e")
    assert hybrid.cpuid(0).eax == 0x23
    assert hybrid.cpuid(7).edx == 1 << 15
    assert hybrid.cpuid(0x1A).eax >> 24 == 0x20
    assert vpmu.cpu("lunarlake-p").cpuid(0x1A).eax >> 24 == 0x40
    assert hybrid.cpuid(0x1C).ecx == 0xF0000
    genoa = vpmu.cpu("genoa")
    assert genoa.cpuid(0)[1:] == genoa.cpuid(0x80000000)[1:] == (0x68747541, 0x444D4163, 0x69746E65)
    assert genoa.cpuid(0x80000000).eax == 0x80000022
    assert genoa.cpuid(0x80000001) == (0xA10F11, 0, 1 << 2 | 1 << 23 | 1 << 24 | 1 << 28, 0)
    assert genoa.cpuid(0x80000008) == (0, 2, 0, 0)
    bare = replace(genoa, cpuid_overrides=(), features=genoa.features - {"perfmon_v2_freeze"})
    assert bare.cpuid(0x80000022) == (1, 6 | 16 << 10, 0, 0)


def test_the_registers_have_names():
    found = vpmu.cpu("penryn").cpuid(0xA)
    assert (found.eax, found.ebx, found.ecx, found.edx) == found == (0x07280202, 0, 0, 0x503)
    assert isinstance(found, vpmu.Cpuid)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.sampled_from(vpmu.cpus()))
def test_other_leaves_are_zeros(leaf, subleaf, name):
    found = vpmu.cpu(name).cpuid(leaf, subleaf)
    if (leaf & 0x7FFFFFFF) > 0x23:
        assert found == (0, 0, 0, 0)
    assert all(0 <= value < 1 << 32 for value in found)


@pytest.mark.parametrize("name", vpmu.cpus())
def test_every_known_leaf_fits_32_bits(name):
    for leaf, subleaf in DUMPED:
        assert all(0 <= value < 1 << 32 for value in vpmu.cpu(name).cpuid(leaf, subleaf))


@pytest.mark.parametrize("leaf", [-1, 1 << 32, 1.0, "0xA", None, True])
def test_what_is_no_leaf_is_refused(leaf):
    cpu = vpmu.cpu("skylake")
    with pytest.raises(vpmu.ScenarioError, match="CPUID leaf must be an integer"):
        cpu.cpuid(leaf)
    with pytest.raises(vpmu.ScenarioError, match="CPUID subleaf must be an integer"):
        cpu.cpuid(0x23, leaf)


def test_overrides_win():
    cpu = replace(vpmu.cpu("skylake"), cpuid_overrides=((0xA, 0, (1, 2, 3, 4)), (0x4, 2, (5, 6, 7, 8))))
    assert cpu.cpuid(0xA) == (1, 2, 3, 4)
    assert cpu.cpuid(0x4, 2) == (5, 6, 7, 8)
    assert cpu.cpuid(0x4, 1) == (0, 0, 0, 0)


# -- models of dumps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", vpmu.cpus())
def test_a_dump_of_a_preset_is_the_preset(name):
    cpu = vpmu.cpu(name)
    texts = (instlatx64(cpu), instlatx64(cpu, separator=""), cpuid_r(cpu), cpuid_r(cpu).replace("\n", "\r\n"))
    for text in texts:
        assert vpmu.CpuModel.from_cpuid(text) == cpu


@pytest.mark.parametrize("name", [name for name in vpmu.cpus() if "ht_halves_gp" in vpmu.cpu(name).quirks])
def test_a_dump_with_hyper_threading_off(name):
    """The preset with its quirk off, and nothing else."""
    alone = vpmu.cpu(name).with_quirks(ht_halves_gp=False)
    found = vpmu.CpuModel.from_cpuid(instlatx64(alone))
    assert found == replace(alone, name=found.name, summary=found.summary)
    assert found.name == f"{name}-cpuid"


@given(st.sampled_from(vpmu.cpus()), st.data())
def test_a_dump_of_a_changed_model(name, data):
    """CPUID says of the new model what the dump said, whatever it is like."""
    cpu = vpmu.cpu(name)
    if cpu.vendor == "intel":
        changes = {
            "gp_mask": (1 << data.draw(st.integers(1, 10))) - 1,
            "gp_width": data.draw(st.integers(32, 48)),
            "architectural_events": data.draw(st.integers(0, 0x1FFF)),
        }
        if cpu.version >= 2:
            changes["fixed_mask"] = (1 << data.draw(st.integers(1, 4))) - 1
    else:
        changes = {"features": cpu.features ^ {data.draw(st.sampled_from(("perfctr_nb", "irperf", "svm")))}}
    changed = replace(cpu, cpuid_overrides=(), **changes)
    found = vpmu.CpuModel.from_cpuid(cpuid_r(changed), like=name)
    for key in DUMPED:
        if key[0] not in (0x1A, 0x7):
            assert found.cpuid(*key) == changed.cpuid(*key)
    if cpu.vendor == "amd":
        assert found.features == changed.features
    elif "cpuid_fixed" not in cpu.quirks:
        assert (found.gp_mask, found.fixed_mask, found.gp_width) == (
            changed.gp_mask,
            changed.fixed_mask,
            changed.gp_width,
        )


#: InstLatx64, GenuineIntel0050654_SkylakeXeon_CPUID.txt (Xeon Gold 6154): lines of CPU 0 and the beginning of CPU 1.
SKYLAKE_SP = """
CPU#000 AffMask: 0x0000000000000001
CPUID 00000000: 00000016-756E6547-6C65746E-49656E69 [GenuineIntel]
CPUID 00000001: 00050654-00400800-7FFEFBFF-BFEBFBFF
CPUID 00000004: 7C004121-01C0003F-0000003F-00000000 [SL 00]
CPUID 00000004: 7C004122-01C0003F-0000003F-00000000 [SL 01]
CPUID 00000006: 00000077-00000002-00000009-00000000
CPUID 00000007: 00000000-D39FFFFB-00000008-00000000 [SL 00]
CPUID 0000000A: 07300404-00000000-00000000-00000603
CPUID 00000015: 00000002-000000F0-00000000-00000000 [120 / 0]
CPUID 80000000: 80000008-00000000-00000000-00000000
CPUID 80000001: 00000000-00000000-00000121-2C100800
CPUID 80000002: 65746E49-2952286C-6F655820-2952286E [Intel(R) Xeon(R)]
CPUID 80000008: 0000302E-00000000-00000000-00000000

CPU#001 AffMask: 0x0000000000000002
CPUID 00000000: 00000016-756E6547-6C65746E-49656E69 [GenuineIntel]
CPUID 00000001: 00050654-01400800-7FFEFBFF-BFEBFBFF
"""

#: InstLatx64, GenuineIntel0090672_AlderLake_CPUID01.txt (Core i9-12900K, E-cores off): CPU 0.
ALDER_LAKE = """
CPUID Registers (CPU #0):
CPUID 00000000: 00000020-756E6547-6C65746E-49656E69 [GenuineIntel]
CPUID 00000001: 00090672-00800800-7FFAFBFF-BFEBFBFF
CPUID 00000007: 00000001-F3BFA7EB-98C07FEE-FC9CC510 [SL 00]
CPUID 00000007: 00401C30-00000000-00000000-00000000 [SL 01]
CPUID 0000000A: 08300805-00000000-0000000F-00008604
CPUID 0000001A: 40000001-00000000-00000000-00000000 [Core]
CPUID 0000001C: 4000000B-00000007-00000007-00000000
CPUID 80000000: 80000008-00000000-00000000-00000000
CPUID 80000001: 00000000-00000000-00000121-2C100000
"""

#: The dump above in the format of ``cpuid -r``, with the signature and leaf 0AH of a Core i9-13900K with all its cores.
RAPTOR_LAKE = """
CPU 0:
   0x00000000 0x00: eax=0x00000020 ebx=0x756e6547 ecx=0x6c65746e edx=0x49656e69
   0x00000001 0x00: eax=0x000b0671 ebx=0x00800800 ecx=0x7ffafbff edx=0xbfebfbff
   0x00000007 0x00: eax=0x00000001 ebx=0xf3bfa7eb ecx=0x98c07fee edx=0xfc9cc510
   0x0000000a 0x00: eax=0x07300605 ebx=0x00000000 ecx=0x00000007 edx=0x00008603
   0x0000001a 0x00: eax=0x40000001 ebx=0x00000000 ecx=0x00000000 edx=0x00000000
CPU 1:
   0x00000000 0x00: eax=0x00000020 ebx=0x756e6547 ecx=0x6c65746e edx=0x49656e69
   0x00000001 0x00: eax=0x000b0671 ebx=0x80800800 ecx=0x7ffafbff edx=0xbfebfbff
   0x00000007 0x00: eax=0x00000001 ebx=0xf3bfa7eb ecx=0x98c07fee edx=0xfc9cc510
   0x0000000a 0x00: eax=0x07300605 ebx=0x00000000 ecx=0x00000007 edx=0x00008603
   0x0000001a 0x00: eax=0x20000001 ebx=0x00000000 ecx=0x00000000 edx=0x00000000
"""

#: InstLatx64, AuthenticAMD0A10F11_K19_Genoa_02_CPUID.txt (EPYC 9124): CPU 0.
GENOA = """
------[ CPUID Registers / Logical CPU #0 ]------

allcpu: Package 0 / Core 0 / Thread 0: Valid

CPUID 00000000: 00000010-68747541-444D4163-69746E65 [AuthenticAMD]
CPUID 00000001: 00A10F11-00200800-7EFA320B-178BFBFF
CPUID 00000007: 00000001-F1BF97A9-00415FCE-10000010 [SL 00]
CPUID 0000000A: 00000000-00000000-00000000-00000000
CPUID 80000000: 80000028-68747541-444D4163-69746E65 [AuthenticAMD]
CPUID 80000001: 00A10F11-40000000-75C237FF-2FD3FBFF
CPUID 80000008: 00003934-79BEF25F-0000601F-00010007
CPUID 80000022: 00000007-00044106-00000008-00000000
"""


def test_skylake_sp():
    cpu = vpmu.CpuModel.from_cpuid(SKYLAKE_SP)
    base = vpmu.cpu("skylake")
    assert (cpu.version, cpu.gp_mask, cpu.fixed_mask, cpu.gp_width) == (4, 0xF, 7, 48)
    assert cpu.quirks == base.quirks
    assert cpu.features == base.features - {"tsx_force_abort"} | {"hle"}  # microcode of 2018 has no 10FH yet
    assert (cpu.name, cpu.costs, cpu.perf_capabilities) == ("skylake-cpuid", base.costs, 0x33C5)
    assert vpmu.simulate(vpmu.Scenario(cpu=cpu, workload="idle", seconds=0.001)).counters
    assert vpmu.Pmu(cpu).rdmsr(0x38F) == 0xF


def test_alder_lake_with_the_e_cores_off():
    cpu = vpmu.CpuModel.from_cpuid(ALDER_LAKE)
    assert (cpu.name, cpu.gp_mask, cpu.fixed_mask) == ("alderlake-p", 0xFF, 0xF)
    assert cpu.cpuid(0xA) == (0x08300805, 0, 0xF, 0x8604)
    assert cpu.cpuid(0x1A).eax == 0x40000001
    assert "pt" in cpu.features


def test_the_cores_of_a_hybrid_part():
    """Both report the intersection; leaf 1AH tells them apart, and the preset knows what a P-core really has."""
    p_core, e_core = (vpmu.CpuModel.from_cpuid(RAPTOR_LAKE, cpu=n) for n in (0, 1))
    assert (p_core.name, p_core.gp_mask, p_core.fixed_mask) == ("alderlake-p", 0xFF, 0xF)
    assert (e_core.name, e_core.gp_mask, e_core.fixed_mask) == ("alderlake-e", 0x3F, 7)
    assert p_core.cpuid(0xA) == e_core.cpuid(0xA) == words("07300605 0 7 8603")
    assert p_core.signature == 0xB0671


def test_genoa():
    """An EPYC 9124 has 4 memory-controller counters where the preset's EPYC 9654 has 48."""
    cpu = vpmu.CpuModel.from_cpuid(GENOA)
    base = vpmu.cpu("genoa")
    assert (cpu.version, cpu.gp_mask, cpu.df_counters) == (2, 0x3F, 16)
    assert (cpu.features, cpu.quirks) == (base.features, base.quirks)
    assert cpu.cpuid(0x80000022) == (7, 0x44106, 8, 0)


def test_a_file(tmp_path):
    path = tmp_path / "dump.txt"
    path.write_text(GENOA, encoding="utf-8")
    assert vpmu.CpuModel.from_cpuid(path) == vpmu.CpuModel.from_cpuid(GENOA)
    with pytest.raises(vpmu.ScenarioError, match=r"absent\.txt: No such file"):
        vpmu.CpuModel.from_cpuid(tmp_path / "absent.txt")


def test_steppings_and_relatives():
    """A Kaby Lake is a Skylake to the PMU, whatever its stepping; a Beckton a Nehalem with other event bits."""
    skylake = instlatx64(vpmu.cpu("skylake-client"))
    for signature in ("000506E3", "000806EC", "000906ED", "000A0655"):
        cpu = vpmu.CpuModel.from_cpuid(skylake.replace("000506E3", signature))
        assert (cpu.name, cpu.signature) == ("skylake-client", int(signature, 16))
    beckton = instlatx64(vpmu.cpu("nehalem-client")).replace("000106E5", "000206E6")
    assert vpmu.CpuModel.from_cpuid(beckton).architectural_events == 0x3B


#: Signature and its preset; whether kvm-unit-tests and the specification updates name it for ``atom_far_overcount``.
ATOMS = [
    ("000406D8", "silvermont", True),
    ("00030678", "silvermont", False),
    ("000406C4", "silvermont", False),
    ("000506D0", "silvermont", False),
    ("000506F1", "goldmont", True),
    ("000506C9", "goldmont", False),
    ("00080665", "tremont", True),
    ("00080664", "tremont", True),
    ("00090661", "tremont", False),
    ("000906C0", "tremont", False),
]


@pytest.mark.parametrize(("signature", "name", "documented"), ATOMS)
def test_an_erratum_is_not_handed_to_relatives(signature, name, documented):
    base = vpmu.cpu(name)
    dump = instlatx64(base).replace(f"{base.signature:08X}", signature)
    cpu = vpmu.CpuModel.from_cpuid(dump)
    assert ("atom_far_overcount" in cpu.quirks) == documented
    assert cpu.quirks | {"atom_far_overcount"} == base.quirks
    assert "atom_far_overcount" not in cpu.possible_quirks
    assert cpu.name == (name if documented else f"{name}-cpuid")
    assert vpmu.CpuModel.from_cpuid(dump, like=name).quirks == base.quirks


def test_a_virtual_machine_without_pdcm():
    """No IA32_PERF_CAPABILITIES, so no full-width writes and no PEBS."""
    text = instlatx64(vpmu.cpu("icelake"))
    ecx = f"{vpmu.cpu('icelake').cpuid(1).ecx:08X}"
    cpu = vpmu.CpuModel.from_cpuid(text.replace(ecx, f"{int(ecx, 16) & ~(1 << 15):08X}"))
    assert "pdcm" not in cpu.features
    assert cpu.perf_capabilities == 0


UNKNOWN = SKYLAKE_SP.replace("00050654", "000F0F00")


def test_an_unknown_signature_needs_like():
    with pytest.raises(vpmu.ScenarioError, match=r"signature 0xf0f00 .*like='"):
        vpmu.CpuModel.from_cpuid(UNKNOWN)
    cpu = vpmu.CpuModel.from_cpuid(UNKNOWN, like="skylake")
    assert (cpu.signature, cpu.gp_mask, cpu.perf_capabilities) == (0xF0F00, 0xF, 0x33C5)


@pytest.mark.parametrize(
    ("dump", "options", "message"),
    [
        ("", {}, "no CPUID dump"),
        ("hello\nworld", {}, "no CPUID dump"),
        ("dump.txt", {}, r"'dump.txt' is text, and no CPUID dump; for a file pass pathlib.Path\('dump.txt'\)"),
        ("a b\n", {}, r"pathlib.Path\('a b'\)"),
        (SKYLAKE_SP, {"cpu": 2}, "has 2 CPUs"),
        (SKYLAKE_SP, {"cpu": -1}, "has 2 CPUs"),
        (SKYLAKE_SP, {"cpu": "0"}, "has 2 CPUs"),
        (SKYLAKE_SP, {"cpu": 1}, "no leaf 0AH"),
        (SKYLAKE_SP, {"like": "genoa"}, "is of intel, and genoa is of amd"),
        (SKYLAKE_SP, {"like": "skylaek"}, "did you mean skylake"),
        (SKYLAKE_SP.replace("07300404-0000", "07300404-"), {}, "line 9 of the CPUID dump is cut"),
        (SKYLAKE_SP.replace("07300404", "00000000"), {}, "version 0"),
        (SKYLAKE_SP.replace("07300404", "07300409"), {}, "version 9 does not exist"),
        (SKYLAKE_SP.replace("07300404", "07300004"), {}, "1 to 16 counters"),
        (SKYLAKE_SP.replace("07300404", "07FF0404"), {}, "counter width 255"),
        (SKYLAKE_SP.replace("756E6547", "756E6548"), {}, "of 'HenuineIntel'"),
        (GENOA.replace("CPUID 80000001", "other 80000001"), {}, "no leaf 80000001H"),
        (GENOA.replace("CPUID 00000001", "other 00000001"), {}, "no leaf 1;"),
        (RAPTOR_LAKE[:-30], {"cpu": 1}, "line 13 of the CPUID dump is cut"),
        (b"CPUID", {}, "text or a path, not bytes"),
        (None, {}, "text or a path, not NoneType"),
    ],
)
def test_what_is_no_dump_is_refused(dump, options, message):
    with pytest.raises(vpmu.VpmuError, match=message):
        vpmu.CpuModel.from_cpuid(dump, **options)


@given(st.sampled_from([SKYLAKE_SP, GENOA, RAPTOR_LAKE]), st.integers(0, 2000), st.text(string.printable, max_size=8))
def test_a_damaged_dump_is_a_model_or_one_error(text, at, junk):
    damaged = text[:at] + junk + text[at + len(junk) :]
    with contextlib.suppress(vpmu.VpmuError):
        cpu = vpmu.CpuModel.from_cpuid(damaged)
        assert all(0 <= value < 1 << 32 for key in DUMPED for value in cpu.cpuid(*key))


@pytest.mark.parametrize("version", range(1, 7))
@pytest.mark.parametrize("ecx", [0, 0b1000, 0b1101])
@pytest.mark.parametrize("contiguous", [1, 3])
def test_fixed_counters_of_a_dump(version, ecx, contiguous):
    """KVM selftests, pmu_counters_test: EDX[4:0] counts them from version 2 on, ECX is a bitmap from version 5 on."""
    dump = (
        "CPUID 00000000: 0000000D-756E6547-6C65746E-49656E69\n"
        "CPUID 00000001: 00050654-00000800-7FFEFBFF-BFEBFBFF\n"
        f"CPUID 0000000A: 073005{version:02X}-00000000-{ecx:08X}-{0x600 | contiguous:08X}\n"
    )
    counted = (1 << contiguous) - 1 if version >= 2 else 0
    expected = counted | (ecx if version >= 5 else 0)
    assert vpmu.CpuModel.from_cpuid(dump, like="skylake").fixed_mask == expected
