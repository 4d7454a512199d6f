"""Which MSRs exist, what they hold after RESET, and which writes raise #GP(0)."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vpmu

ALL_ONES = (1 << 64) - 1
CTR_BITS = (1 << 48) - 1


def model(name="skylake", **changes):
    return replace(vpmu.cpu(name), **changes)


# The rows of VirtualBox's CPU database (src/VBox/VMM/VMMR3/cpus), masks probed on silicon, as CPU models.
BONNELL = {"version": 3, "gp_mask": 3, "gp_width": 40, "fixed_width": 40, "perf_capabilities": 0xC1}
BONNELL |= {"pin_control_writable": True, "features": frozenset({"pdcm", "ds"})}
SANDYBRIDGE = {"version": 3, "perf_capabilities": 0x31C3, "features": frozenset({"pdcm", "ds"})}
IVYBRIDGE_8 = SANDYBRIDGE | {"gp_mask": 0xFF}
BROADWELL = {
    "version": 3,
    "perf_capabilities": 0x32C4,
    "features": frozenset({"pdcm", "ds", "rtm", "hle", "pt"}),
}
SKYLAKE_6700K = {"features": frozenset({"pdcm", "ds", "rtm", "hle", "pt", "sgx"})}


@pytest.mark.parametrize(
    ("changes", "msr", "faulting"),
    [
        (BONNELL, 0x186, 0xFFFFFFFF_00000000),
        (BONNELL, 0x38D, 0xFFFFFFFF_FFFFF000),
        (SANDYBRIDGE, 0x186, 0xFFFFFFFF_00080000),
        (SANDYBRIDGE, 0x188, 0xFFFFFFFF_00080000),
        (SANDYBRIDGE, 0x390, ~0xE0000007_0000000F & ALL_ONES),
        (SANDYBRIDGE, 0x1D9, 0xFFFFFFFF_FFFF803C),
        (IVYBRIDGE_8, 0x390, ~0xE0000007_000000FF & ALL_ONES),
        (BROADWELL, 0x186, 0xFFFFFFFE_00080000),
        (BROADWELL, 0x187, 0xFFFFFFFE_00080000),
        (BROADWELL, 0x188, 0xFFFFFFFC_00080000),
        (BROADWELL, 0x189, 0xFFFFFFFE_00080000),
        (BROADWELL, 0x390, ~0xE0800007_0000000F & ALL_ONES),
        (BROADWELL, 0x3F1, 0xFFFFFFF0_FFFFFFF0),
        (SKYLAKE_6700K, 0x186, 0xFFFFFFFE_00080000),
        (SKYLAKE_6700K, 0x188, 0xFFFFFFFC_00080000),
        (SKYLAKE_6700K, 0x309, 0xFFFF0000_00000000),
        (SKYLAKE_6700K, 0x38D, 0xFFFFFFFF_FFFFF000),
        (SKYLAKE_6700K, 0x38F, 0xFFFFFFF8_FFFFFFF0),
        (SKYLAKE_6700K, 0x390, ~0xFC800007_0000000F & ALL_ONES),
        (SKYLAKE_6700K, 0x391, ~0xFC800007_0000000F & ALL_ONES),
        (SKYLAKE_6700K, 0x392, ALL_ONES),
        (SKYLAKE_6700K, 0x3F1, 0xFFFFFFF0_FFFFFFF0),
        (SKYLAKE_6700K, 0x4C1, 0xFFFF0000_00000000),
        (SKYLAKE_6700K, 0x1D9, 0xFFFFFFFF_FFFF003C),
    ],
)
def test_write_masks_probed_on_silicon(pmu_class, accepts, legal_bits, changes, msr, faulting):
    """VirtualBox's CPU database: the bits of each MSR whose write raises #GP."""
    pmu = pmu_class(model(**changes))
    assert legal_bits(pmu, msr) == ~faulting & ALL_ONES
    assert not accepts(pmu, msr, ALL_ONES)


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


VERSIONS = (2, 3, 4, 5)
CAPABILITIES = (0, 1 << 13)


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_gp_counters_exist(pmu_class, accepts, exists, version, capabilities):
    """Linux selftests, pmu_counters_test, test_gp_counters, for every number of counters and bitmap.

    On hardware, unlike in KVM, PMC0 and PMC1 that do not exist raise #GP like the others.
    """
    base = 0x4C1 if capabilities else 0xC1
    for gp_mask in range(1, 0x100):
        cpu = model(version=version, gp_mask=gp_mask, perf_capabilities=capabilities)
        pmu = pmu_class(cpu)
        assert pmu.rdmsr(0x38F) == gp_mask
        for x in range(8):
            there = bool(gp_mask >> x & 1)
            assert accepts(pmu, base + x, 0xFFFF) is there
            assert accepts(pmu, 0x186 + x, 0x4300C0) is there
            assert accepts(pmu, 0x38F, 1 << x) is there
            assert accepts(pmu, 0x390, 1 << x) is there
            for msr in (0xC1 + x, 0x186 + x):
                assert exists(pmu, msr) is there
            assert exists(pmu, 0x4C1 + x) is (there and capabilities != 0)
            if there:
                assert pmu.rdmsr(0xC1 + x) == pmu.rdmsr(base + x) == pmu.rdpmc(x) == 0xFFFF
            else:
                with pytest.raises(vpmu.GeneralProtectionFault):
                    pmu.rdpmc(x)
            with pytest.raises(vpmu.GeneralProtectionFault):
                pmu.rdpmc(x | 0x8000_0000)


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_fixed_counters_exist(pmu_class, accepts, exists, version, capabilities):
    """Linux selftests, pmu_counters_test, test_fixed_counters: number and bitmap swept independently."""
    for number in range(5):
        for bitmap in range(16):
            fixed_mask = (1 << number) - 1 | (bitmap if version >= 5 else 0)
            pmu = pmu_class(model(version=version, fixed_mask=fixed_mask, perf_capabilities=capabilities))
            for m in range(4):
                there = m < number or (version >= 5 and bool(bitmap >> m & 1))
                assert accepts(pmu, 0x309 + m, 0xFFFF) is there
                assert accepts(pmu, 0x38D, 1 << 4 * m) is there
                assert accepts(pmu, 0x38F, 1 << (32 + m)) is there
                assert exists(pmu, 0x309 + m) is there
                if not there:
                    with pytest.raises(vpmu.GeneralProtectionFault):
                        pmu.rdpmc(m | 0x4000_0000)
                    continue
                assert pmu.rdmsr(0x309 + m) == pmu.rdpmc(m | 0x4000_0000) == 0xFFFF
                pmu.wrmsr(0x309 + m, 0)
                pmu.count({"instructions": 20, "ref-cycles": 5, "slots": 7}, cycles=10)
                pmu.wrmsr(0x38F, 0)
                assert pmu.rdmsr(0x309 + m) == (20, 10, 5, 7)[m]


@pytest.mark.parametrize("name", vpmu.cpus())
def test_perf_capabilities_is_read_only(pmu_class, accepts, exists, name):
    """Linux selftests, vmx_pmu_caps_test: any write raises #GP, and without PDCM the MSR is absent."""
    cpu = vpmu.cpu(name)
    pmu = pmu_class(cpu)
    current = pmu.rdmsr(0x345)
    assert current == cpu.perf_capabilities
    for value in (current, 0, ALL_ONES, *(current ^ 1 << bit for bit in range(64))):
        assert not accepts(pmu, 0x345, value)
    assert pmu.rdmsr(0x345) == current
    assert not exists(pmu_class(replace(cpu, features=cpu.features - {"pdcm"})), 0x345)


@pytest.mark.parametrize("width", [40, 48])
def test_full_width_writes(pmu_class, accepts, width):
    """kvm-unit-tests x86/pmu.c, check_gp_counters_write_width."""
    pmu = pmu_class(model(gp_width=width))
    low, v48, v64 = 0x0123456789, 0xFF0123456789, 0xFFFFFF0123456789
    for i in range(4):
        for value in (low & 0xFFFFFFFF, v48, v64):
            pmu.wrmsr(0xC1 + i, value)
            assert pmu.rdmsr(0xC1 + i) == pmu.rdmsr(0x4C1 + i) == 0x23456789
        for value in (low & 0xFFFFFFFF, v64 & ((1 << width) - 1)):
            pmu.wrmsr(0x4C1 + i, value)
            assert pmu.rdmsr(0xC1 + i) == pmu.rdmsr(0x4C1 + i) == value
        assert not accepts(pmu, 0x4C1 + i, v64)
        assert not accepts(pmu, 0x4C1 + i, 1 << width)


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


def test_selector_bits_by_capability(pmu_class, accepts):
    """VirtualBox's CPU database: Penryn, Sandy Bridge, Bonnell; SDM vol. 3B for TSX."""
    penryn = {"version": 2, "gp_mask": 3, "perf_capabilities": 0x10C2, "pin_control_writable": True}
    assert not accepts(pmu_class(model(**penryn)), 0x186, 1 << 21)
    assert accepts(pmu_class(model(**penryn)), 0x186, 1 << 19)
    assert not accepts(pmu_class(model(**SANDYBRIDGE)), 0x186, 1 << 19)
    assert accepts(pmu_class(model(**BONNELL)), 0x186, 1 << 19)
    for feature, there in ((None, False), ("rtm", True), ("hle", True)):
        pmu = pmu_class(model(features=frozenset({feature} - {None})))
        assert [accepts(pmu, 0x186 + x, 1 << 32) for x in range(4)] == [there] * 4
        assert [accepts(pmu, 0x186 + x, 1 << 33) for x in range(4)] == [False, False, there, False]
    for version in VERSIONS:
        for deprecated in (False, True):
            pmu = pmu_class(model(version=version, anythread_deprecated=deprecated))
            any_thread = version >= 3 and not (version == 5 and deprecated)
            assert accepts(pmu, 0x186, 1 << 21) is any_thread
            assert [accepts(pmu, 0x38D, 1 << (4 * m + 2)) for m in range(3)] == [any_thread] * 3


def test_metrics_clear_enable(pmu_class, accepts):
    """IA32_PERF_CAPABILITIES.RDPMC_METRICS_CLEAR, bit 19, makes bit 14 of IA32_FIXED_CTR_CTRL legal."""
    cpu = vpmu.cpu("sapphirerapids")
    assert not accepts(pmu_class(cpu), 0x38D, 1 << 14)
    assert accepts(pmu_class(replace(cpu, perf_capabilities=cpu.perf_capabilities | 1 << 19)), 0x38D, 1 << 14)


def test_status_bits_by_version(pmu_class, accepts, exists):
    """SDM vol. 3B 18.2.2 to 18.2.4, bits of IA32_PERF_GLOBAL_STATUS."""
    for version in VERSIONS:
        pmu = pmu_class(model(version=version))
        assert accepts(pmu, 0x390, 1 << 61) is (version >= 3)
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
