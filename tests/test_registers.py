"""Which MSRs exist, what they hold after RESET, and which writes raise #GP(0)."""

from __future__ import annotations

import pytest
from pmu_models import (
    ALL_ONES,
    BONNELL,
    BROADWELL,
    GOLDMONT,
    IVYBRIDGE,
    LION_COVE,
    MEROM,
    NEHALEM,
    PENRYN,
    SANDYBRIDGE,
    SANDYBRIDGE_CLIENT,
    SILVERMONT,
    SKYLAKE,
    SKYMONT,
    TREMONT,
    YONAH,
    but,
    capable,
    have,
    model,
)

import vpmu

#: MSRs and the bits whose write raises #GP.
PROBED = {
    "penryn": (
        PENRYN,
        {
            0x186: 0xFFFFFFFF_00200000,
            0x38D: 0xFFFFFFFF_FFFFF444,
            0x309: 0xFFFFFF00_00000000,
            0x1D9: 0xFFFFFFFF_FFFFA03C,
        },
    ),
    "merom": (MEROM, {0x1D9: 0xFFFFFFFF_FFFFE03C}),
    "bonnell": (
        BONNELL,
        {
            **{0x186: 0xFFFFFFFF_00000000, 0x38D: 0xFFFFFFFF_FFFFF000, 0x390: ~0xC0000007_00000003 & ALL_ONES},
            **{0x30B: 0xFFFFFF00_00000000, 0x1D9: 0xFFFFFFFF_FFFFE03C, 0x1A0: ~0x1884 & ALL_ONES},
        },
    ),
    "silvermont": (
        SILVERMONT,
        {
            **{0x187: 0xFFFFFFFF_00000000, 0x38D: 0xFFFFFFFF_FFFFF000, 0x390: ~0xC0000007_00000003 & ALL_ONES},
            **{0x4C1: 0xFFFFFF00_00000000, 0x4C2: 0xFFFFFF00_00000000, 0x3F1: ~1 & ALL_ONES},
            **{0x1D9: 0xFFFFFFFF_FFFFA03C, 0x1A0: 0xFFFFFFBB_FF3AEF76},
        },
    ),
    "sandybridge": (
        SANDYBRIDGE,
        {
            **{0x186: 0xFFFFFFFF_00080000, 0x188: 0xFFFFFFFF_00080000, 0x390: ~0xE0000007_0000000F & ALL_ONES},
            **{0x1D9: 0xFFFFFFFF_FFFF803C, 0x3F1: ~0x8000000F_0000000F & ALL_ONES, 0x38F: ~0x7_0000000F & ALL_ONES},
        },
    ),
    "ivybridge": (IVYBRIDGE, {0x390: ~0xE0000007_000000FF & ALL_ONES, 0x18D: 0xFFFFFFFF_00080000}),
    "broadwell": (
        BROADWELL,
        {
            **{0x186: 0xFFFFFFFE_00080000, 0x187: 0xFFFFFFFE_00080000, 0x188: 0xFFFFFFFC_00080000},
            **{0x189: 0xFFFFFFFE_00080000, 0x390: ~0xE0800007_0000000F & ALL_ONES, 0x3F1: 0xFFFFFFF0_FFFFFFF0},
        },
    ),
    "skylake": (
        SKYLAKE,
        {
            **{0x186: 0xFFFFFFFE_00080000, 0x188: 0xFFFFFFFC_00080000, 0x309: 0xFFFF0000_00000000, 0xC4: 0},
            **{0x38D: 0xFFFFFFFF_FFFFF000, 0x38F: 0xFFFFFFF8_FFFFFFF0, 0x390: 0x037FFFF8_FFFFFFF0},
            **{0x391: 0x037FFFF8_FFFFFFF0, 0x392: ALL_ONES, 0x3F1: 0xFFFFFFF0_FFFFFFF0, 0x4C4: 0xFFFF0000_00000000},
            **{0x1D9: 0xFFFFFFFF_FFFF003C, 0x38E: ALL_ONES, 0x345: ALL_ONES},
        },
    ),
}


@pytest.mark.parametrize(("cpu", "msr", "mask"), [(cpu, *row) for cpu, rows in PROBED.values() for row in rows.items()])
def test_write_masks_probed_on_silicon(pmu_class, accepts, legal_bits, cpu, msr, mask):
    """VirtualBox's CPU database: the bits of each MSR whose write raises #GP."""
    pmu = pmu_class(cpu)
    assert legal_bits(pmu, msr) == ~mask & ALL_ONES
    assert accepts(pmu, msr, ALL_ONES) is (mask == 0)


PRESETS = {
    **{"conroe": "merom", "penryn": "penryn", "bonnell": "bonnell", "silvermont": "silvermont"},
    **{"sandybridge-client": "sandybridge", "ivybridge-client": "ivybridge", "broadwell-client": "broadwell"},
    **{"skylake-client": "skylake"},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_masks_that_were_probed(pmu_class, legal_bits, preset):
    """The presets of the same parts, Ivy Bridge with hyper-threading off."""
    cpu = vpmu.cpu(preset)
    if preset == "ivybridge-client":
        cpu = cpu.with_quirks(ht_halves_gp=False)
    pmu = pmu_class(cpu)
    expected = {msr: ~mask & ALL_ONES for msr, mask in PROBED[PRESETS[preset]][1].items()}
    assert {msr: legal_bits(pmu, msr) for msr in expected} == expected


@pytest.mark.parametrize(
    ("cpu", "legal"),
    [
        (YONAH, {0x186: 0xFFDFFFFF, 0x187: 0xFFDFFFFF, 0x1D9: 0x7C3, 0x1A0: 0x1880}),
        (NEHALEM, {0x186: 0xFFF7FFFF, 0x390: 0xE0000007_0000000F, 0x3F1: 0xF_0000000F, 0x1D9: 0x7FC3}),
        (GOLDMONT, {0x186: 0xFFF7FFFF, 0x390: 0xEC800007_0000000F, 0x3F1: 0xF, 0x1D9: 0x7FC3, 0x38D: 0xFFF}),
        (TREMONT, {0x186: 0x4_FFD7FFFF, 0x390: 0xEC800007_0000000F, 0x3F1: 0x7_0000000F, 0x38D: 0x111_00000BBB}),
        (LION_COVE, {0x186: 0xFF14_FFD7FFFF, 0x38F: 0x1000F_000003FF, 0x390: 0xEC81000F_000003FF}),
        (
            SKYMONT,
            {0x186: 0xFF14_FFD7FFFF, 0x38F: 0x77_000000FF, 0x38D: 0x01110111_0BBB0BBB, 0x390: 0xEC800077_000000FF},
        ),
    ],
    ids=["yonah", "nehalem", "goldmont", "tremont", "lion-cove", "skymont"],
)
def test_write_masks_by_the_manual(pmu_class, legal_bits, cpu, legal):
    """SDM vol. 3B and vol. 4, where no silicon was probed."""
    pmu = pmu_class(cpu)
    assert {msr: legal_bits(pmu, msr) for msr in legal} == legal


@pytest.mark.parametrize("name", ["icelake", "sapphirerapids", "emeraldrapids"])
def test_write_masks_of_version_5(pmu_class, legal_bits, name):
    """SDM vol. 3B 18.2: eight and four counters, AnyThread withdrawn, PEBS baseline, PERF_METRICS."""
    pmu = pmu_class(vpmu.cpu(name))
    without_any = 0x00000000_FFD7FFFF
    assert legal_bits(pmu, 0x186) == without_any | 1 << 34 | 1 << 32
    assert legal_bits(pmu, 0x188) == without_any | 1 << 34 | 1 << 33 | 1 << 32
    assert legal_bits(pmu, 0x18D) == without_any | 1 << 34 | 1 << 32
    assert legal_bits(pmu, 0x38D) == 0x1111_0000BBBB
    assert legal_bits(pmu, 0x38F) == 0x1000F_000000FF
    assert legal_bits(pmu, 0x390) == legal_bits(pmu, 0x391) == 0xFC81000F_000000FF
    assert legal_bits(pmu, 0x3F1) == 0xF_000000FF
    assert legal_bits(pmu, 0x3F2) == 0xFF00000F
    assert legal_bits(pmu, 0x329) == ALL_ONES
    assert legal_bits(pmu, 0x1D9) == 0xFFC3


def test_reset(pmu_class):
    """SDM vol. 3A, register values after RESET; GLOBAL_CTRL enables the general-purpose counters."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    zero = [*range(0xC1, 0xC9), *range(0x4C1, 0x4C9), *range(0x186, 0x18E), *range(0x309, 0x30D)]
    zero += [0x329, 0x38D, 0x38E, 0x390, 0x391, 0x392, 0x3F1, 0x3F2, 0x600, 0x1D9]
    assert {msr: pmu.rdmsr(msr) for msr in zero} == dict.fromkeys(zero, 0)
    assert pmu.rdmsr(0x38F) == 0xFF
    assert pmu.rdmsr(0x834) == 0x10000
    assert pmu.rdmsr(0x345) == 0xF5FF
    assert pmu.rdmsr(0x1A0) == 1 << 7
    assert pmu.pmi_pending is False
    assert pmu.take_pmi() is None
    assert pmu.cpu is vpmu.cpu("sapphirerapids")


@pytest.mark.parametrize("msr", [0, 0xC0, 0xC9, 0x18E, 0x308, 0x30D, 0x393, 0x3F4, 0x3F5, 0x4C9, 0x1900, 0xC0010200])
def test_no_such_msr(pmu_class, accepts, exists, msr):
    """Among them IA32_PMC_GP0_CTR, 1900H, which version 6 brings."""
    pmu = pmu_class(vpmu.cpu("sapphirerapids"))
    assert not exists(pmu, msr)
    assert not accepts(pmu, msr, 0)
    with pytest.raises(vpmu.GeneralProtectionFault, match="#GP"):
        pmu.rdmsr(msr)


VERSIONS = (2, 3, 4, 5, 6)


@pytest.mark.parametrize("width", [32, 40, 48])
def test_pmc_write_is_sign_extended(pmu_class, accepts, width):
    """SDM vol. 3B 18.2.1.1: only EAX is used, and its sign fills the counter."""
    pmu = pmu_class(model(gp_width=width))
    full = (1 << width) - 1
    pmu.wrmsr(0xC1, 0xFFFFFFFF)
    assert pmu.rdmsr(0xC1) == full
    pmu.wrmsr(0xC1, 0x80000000)
    assert pmu.rdmsr(0xC1) == full & ~0x7FFFFFFF
    pmu.wrmsr(0xC1, 0xFFFFFFFF_7FFFFFFF)
    assert pmu.rdmsr(0xC1) == 0x7FFFFFFF
    assert accepts(pmu, 0xC1, ALL_ONES)


@pytest.mark.parametrize("width", [32, 40, 48])
def test_fixed_counter_write(pmu_class, accepts, width):
    """VirtualBox's CPU database: bits above the width raise #GP; no sign extension."""
    pmu = pmu_class(model(fixed_width=width))
    full = (1 << width) - 1
    assert accepts(pmu, 0x309, full)
    assert pmu.rdmsr(0x309) == full
    assert not accepts(pmu, 0x309, 1 << width)
    assert pmu.rdmsr(0x309) == full
    pmu.wrmsr(0x309, 0x80000000)
    assert pmu.rdmsr(0x309) == 0x80000000


def test_selector_bits_by_feature(pmu_class, accepts):
    """SDM vol. 3B: TSX bits with RTM or HLE, AnyThread from version 3 until it is deprecated."""
    for feature, there in ((None, False), ("rtm", True), ("hle", True)):
        pmu = pmu_class(model(features=frozenset({feature} - {None})))
        assert [accepts(pmu, 0x186 + x, 1 << 32) for x in range(4)] == [there] * 4
        assert [accepts(pmu, 0x186 + x, 1 << 33) for x in range(4)] == [False, False, there, False]
    for version in VERSIONS:
        for deprecated in (False, True):
            pmu = pmu_class(model(version=version, anythread_deprecated=deprecated))
            any_thread = version >= 3 and not (version >= 5 and deprecated)
            assert accepts(pmu, 0x186, 1 << 21) is any_thread
            assert [accepts(pmu, 0x38D, 1 << (4 * m + 2)) for m in range(3)] == [any_thread] * 3


@pytest.mark.parametrize(
    ("feature", "bits"),
    [
        ("br_cntr", 1 << 35),
        ("eq", 1 << 36),
        ("rdpmc_user_disable", 1 << 37),
        ("umask2", 0xFF00_00000000),
        ("hle", 1 << 32),
    ],
)
def test_high_selector_bits(pmu_class, legal_bits, feature, bits):
    """CPUID.1CH:ECX and CPUID.23H.0:EBX: each feature its own bits, and on a fixed counter only one of them."""
    bare = but(SKYMONT, "umask2", "eq")
    before, after = pmu_class(bare), pmu_class(have(bare, feature))
    assert legal_bits(before, 0x186) == 0x4_FFD7FFFF
    assert legal_bits(after, 0x186) == 0x4_FFD7FFFF | bits
    fixed_bits = 0x02220222_00000000 if feature == "rdpmc_user_disable" else 0
    assert legal_bits(before, 0x38D) == 0x01110111_0BBB0BBB
    assert legal_bits(after, 0x38D) == 0x01110111_0BBB0BBB | fixed_bits


def test_adaptive_pebs_bits(pmu_class, legal_bits):
    """IA32_PERF_CAPABILITIES.PEBS_BASELINE, bit 14: bit 34 of selectors, 32 + 4m of IA32_FIXED_CTR_CTRL."""
    pmu = pmu_class(capable(BROADWELL, 14))
    assert legal_bits(pmu, 0x186) == 0x5_FFF7FFFF
    assert legal_bits(pmu, 0x188) == 0x7_FFF7FFFF
    assert legal_bits(pmu, 0x38D) == 0x111_00000FFF
    assert legal_bits(pmu, 0x3F1) == 0x7_0000000F


def test_metrics_clear_enable(pmu_class, accepts, legal_bits):
    """IA32_PERF_CAPABILITIES.RDPMC_METRICS_CLEAR, bit 19, makes bit 14 of IA32_FIXED_CTR_CTRL legal."""
    cpu = vpmu.cpu("sapphirerapids")
    assert not accepts(pmu_class(cpu), 0x38D, 1 << 14)
    assert legal_bits(pmu_class(capable(cpu, 19)), 0x38D) == 0x1111_0000FBBB


def test_status_bits_by_version(pmu_class, accepts, exists):
    """SDM vol. 3B 18.2.2 to 18.2.4, bits of IA32_PERF_GLOBAL_STATUS."""
    for version in VERSIONS:
        cpu = but(model(version=version), "uncore_pmi")
        pmu = pmu_class(cpu)
        assert accepts(pmu, 0x390, 1 << 61) is (version >= 4)
        assert accepts(pmu_class(have(cpu, "uncore_pmi")), 0x390, 1 << 61) is (version >= 3)
        assert accepts(pmu, 0x390, 1 << 59) is (version >= 4)
        assert accepts(pmu, 0x390, 1 << 58) is (version >= 4)
        assert accepts(pmu, 0x390, 1 << 63)
        for msr in (0x391, 0x392):  # server parts have no uncore MSRs at these addresses before version 4
            assert exists(pmu, msr) is (version >= 4)
        assert accepts(pmu, 0x391, 0) is (version >= 4)
    for feature, bit in (("pt", 55), ("sgx", 60), ("ds", 62)):
        features = vpmu.cpu("skylake").features - {feature}
        if feature == "sgx":
            assert not accepts(pmu_class(model(version=3, features=features | {feature})), 0x390, 1 << bit)
        assert not accepts(pmu_class(model(features=features)), 0x390, 1 << bit)
        assert accepts(pmu_class(model(features=features | {feature})), 0x390, 1 << bit)


def test_version_1_has_no_global_registers(pmu_class, exists, accepts):
    """SDM vol. 3B 18.2.2: fixed counters and the global registers came with version 2."""
    pmu = pmu_class(YONAH)
    there = {0xC1, 0xC2, 0x186, 0x187, 0x1D9, 0x1A0, 0x834}
    candidates = {*range(0xC0, 0xCA), *range(0x184, 0x190), *range(0x300, 0x350), *range(0x38C, 0x394), 0x10F}
    candidates |= {*range(0x3F0, 0x3F6), *range(0x4C0, 0x4CA), 0x600, *range(0x1900, 0x1990), *there}
    assert {msr for msr in candidates if exists(pmu, msr)} == there
    assert {msr for msr in candidates if accepts(pmu, msr, 0)} == there
    assert pmu.state()["global_ctrl"] == 3


def test_client_uncore_registers(pmu_class, exists, legal_bits):
    """VirtualBox's CPU database: on client parts before version 4, 391H to 393H are the uncore PMU's."""
    server, client = pmu_class(SANDYBRIDGE), pmu_class(SANDYBRIDGE_CLIENT)
    assert legal_bits(pmu_class(have(BROADWELL, "client_uncore")), 0x391) == 0xE000007F
    for msr, mask in ((0x391, 0xE000001F), (0x392, 0xF), (0x393, 0xF)):
        assert not exists(server, msr)
        assert legal_bits(client, msr) == mask
        client.wrmsr(msr, mask)
        assert client.rdmsr(msr) == mask
    assert client.state()["uncore"] == (0xE000001F, 0xF, 0xF)
    assert client.rdmsr(0x38E) == 0  # 391H is not the status set register here
    later = pmu_class(have(SKYLAKE, "client_uncore"))
    assert not exists(later, 0x393)
    later.wrmsr(0x391, 1)
    assert later.rdmsr(0x38E) == 1
