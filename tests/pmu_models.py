"""CPU models, register addresses and small helpers that the tests of the PMU share.

The models are rows of VirtualBox's CPU database (src/VBox/VMM/VMMR3/cpus, masks probed on silicon) and of CPUID dumps,
written as fields here, so that a test does not depend on what a preset says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import vpmu
import vpmu.reference

ALL_ONES = (1 << 64) - 1
USR, OS, EDGE, INT, ANY, EN, INV = (1 << bit for bit in (16, 17, 18, 20, 21, 22, 23))
IN_TX, IN_TXCP, EQ, USER_DISABLE = (1 << bit for bit in (32, 33, 36, 37))
STATUS, CTRL, ACK, STATUS_SET, INUSE = 0x38E, 0x38F, 0x390, 0x391, 0x392
FIXED_CTR_CTRL, DEBUGCTL, LVTPC, METRICS = 0x38D, 0x1D9, 0x834, 0x329
AMD_STATUS, AMD_CTRL, AMD_CLEAR, AMD_SET, HWCR = 0xC0000300, 0xC0000301, 0xC0000302, 0xC0000303, 0xC0010015
NMI = 0x400
FIXED = 0x4000_0000
FULL = (1 << 48) - 1


def model(preset="skylake", **changes):
    """A preset with other fields, and no quirks unless they are given."""
    return replace(vpmu.cpu(preset), **({"quirks": frozenset()} | changes))


def intel(version, gp, fixed, capabilities, features="pdcm ds", **changes):
    """An Intel PMU of `gp` and `fixed` counters (numbers), 48 bits wide."""
    fields = {"name": f"intel-{version}", "version": version, "gp_mask": (1 << gp) - 1, "fixed_mask": (1 << fixed) - 1}
    fields |= {"perf_capabilities": capabilities, "features": frozenset(features.split())}
    fields |= {"anythread_deprecated": version >= 5, "core_gp_mask": None}
    return model(**(fields | changes))


OLD = {"gp_width": 40, "fixed_width": 40, "pin_control_writable": True, "misc_enable_ignored": 0x1880}
ATOM = OLD | {"pebs_enable_mask": 1}
YONAH = intel(1, 2, 0, 0, "", **OLD)
MEROM = intel(2, 2, 3, 0x82, **OLD, pebs_enable_mask=1, quirks=frozenset({"reserved_ignore"}))
PENRYN = intel(2, 2, 3, 0x10C2, **OLD, pebs_enable_mask=1, quirks=frozenset({"penryn_global"}))
BONNELL = intel(3, 2, 3, 0xC1, **ATOM | {"misc_enable_ignored": 0x1884})
SILVERMONT = intel(3, 2, 3, 0x32C1, **ATOM | {"misc_enable_ignored": 0x44_00C51089})
NEHALEM = intel(3, 4, 3, 0x11C3, "pdcm ds uncore_pmi")
SANDYBRIDGE = intel(3, 4, 3, 0x31C3, "pdcm ds uncore_pmi", pebs_enable_mask=0x8000000F_0000000F)
IVYBRIDGE = replace(SANDYBRIDGE, gp_mask=0xFF)  # hyper-threading off
SANDYBRIDGE_CLIENT = replace(SANDYBRIDGE, features=SANDYBRIDGE.features | {"client_uncore"})
BROADWELL = intel(3, 4, 3, 0x32C4, "pdcm ds uncore_pmi rtm hle pt")
GOLDMONT = intel(4, 4, 3, 0x33C6, "pdcm ds uncore_pmi pt", pebs_enable_mask=0xF, quirks=frozenset({"gldm_any"}))
SKYLAKE = intel(4, 4, 3, 0x33C5, "pdcm ds uncore_pmi rtm hle pt sgx")
TREMONT = intel(5, 4, 3, 0x174C7, "pdcm ds uncore_pmi pt")
ICELAKE = intel(5, 8, 4, 0xF4C5, "pdcm ds uncore_pmi rtm hle pt sgx", slots_per_cycle=5)
SAPPHIRERAPIDS = intel(5, 8, 4, 0xF5FF, "pdcm ds uncore_pmi rtm pt sgx topdown_l2", slots_per_cycle=6)
V6 = "pdcm ds uncore_pmi pt umask2 eq"
LION_COVE = intel(6, 10, 4, 0x2F5FF, V6 + " topdown_l2", slots_per_cycle=8, architectural_events=0x1DFF)
SKYMONT = intel(
    6,
    8,
    7,
    0x275FF,
    V6,
    fixed_mask=0x77,
    slots_per_cycle=8,
    architectural_events=0x1F7F,
    acr=(0xFC, 3, 0xFC, 3),
)
COUGAR_COVE = replace(
    LION_COVE,
    perf_capabilities=0xAFFFF,
    features=LION_COVE.features | {"br_cntr", "rdpmc_user_disable"},
    acr=(0x3FC, 3, 0x3FC, 3),
    pebs_caps=0x60060378,
    pebs_masks=(0x3FF, 3, 0xF, 1),
)


def amd(version, gp, features, **changes):
    """An AMD PMU of `gp` counters."""
    fields = {"name": f"amd-{version}", "vendor": "amd", "version": version, "gp_mask": (1 << gp) - 1, "fixed_mask": 0}
    fields |= {"features": frozenset(features.split()), "perf_capabilities": 0, "core_gp_mask": None}
    return model(**(fields | {"constraints": (), "possible_quirks": frozenset()} | changes))


K8 = amd(1, 4, "")
K10 = amd(1, 4, "extended_event_select svm perfctr_nb")
CORE = "extended_event_select svm perfctr_core perfctr_nb"
BULLDOZER = amd(1, 6, CORE)
ZEN1 = amd(1, 6, CORE + " perfctr_llc irperf zen1")
ZEN2 = amd(1, 6, CORE + " perfctr_llc irperf zen2")
ZEN3 = amd(1, 6, CORE + " perfctr_llc irperf zen3")
GENOA = amd(2, 6, CORE + " perfctr_llc irperf zen4 perfmon_v2_freeze", df_counters=16)
TURIN = amd(2, 6, CORE + " perfctr_llc irperf zen5 perfmon_v2_freeze", df_counters=16)

INTEL_MODELS = {
    **{"yonah": YONAH, "merom": MEROM, "penryn": PENRYN, "bonnell": BONNELL, "silvermont": SILVERMONT},
    **{"nehalem": NEHALEM, "sandybridge": SANDYBRIDGE, "ivybridge": IVYBRIDGE, "broadwell": BROADWELL},
    **{"goldmont": GOLDMONT, "skylake": SKYLAKE, "tremont": TREMONT, "icelake": ICELAKE},
    **{"sapphirerapids": SAPPHIRERAPIDS, "lion-cove": LION_COVE, "skymont": SKYMONT, "cougar-cove": COUGAR_COVE},
}
AMD_MODELS = {
    **{"k8": K8, "k10": K10, "bulldozer": BULLDOZER, "zen1": ZEN1, "zen2": ZEN2, "zen3": ZEN3},
    **{"genoa": GENOA, "turin": TURIN},
}


def quirky(cpu, *names, **changes):
    """The model with quirks that are on."""
    return replace(cpu, quirks=cpu.quirks | set(names), **changes)


def but(cpu, *names, **changes):
    """The model without some features."""
    return replace(cpu, features=cpu.features - set(names), **changes)


def have(cpu, *names, **changes):
    """The model with more features."""
    return replace(cpu, features=cpu.features | set(names), **changes)


def capable(cpu, *bits):
    """The model with more bits of IA32_PERF_CAPABILITIES."""
    return replace(cpu, perf_capabilities=cpu.perf_capabilities | sum(1 << bit for bit in bits))


def ctl(n):
    """Address of AMD's PERF_CTLn."""
    return 0xC0010200 + 2 * n


def ctr(n):
    """Address of AMD's PERF_CTRn."""
    return 0xC0010201 + 2 * n


def make(pmu_class, cpu, *writes, seed=None):
    """A PMU after some WRMSRs."""
    pmu = pmu_class(cpu) if seed is None else pmu_class(cpu, seed=seed)
    for msr, value in writes:
        pmu.wrmsr(msr, value)
    return pmu


def wrmsr_counted(pmu, *writes):
    """Execute WRMSRs that are themselves instructions at CPL 0, as in a real instruction stream."""
    ops = np.zeros(len(writes), vpmu.reference.OP_DTYPE)
    for op, (msr, value) in zip(ops, writes, strict=True):
        op["op"], op["flags"], op["address"], op["value"] = 1, 1, msr, value
    assert not pmu.execute(ops)["fault"].any()


def gp(pmu):
    """The GP counters: counter x at place x."""
    return pmu.state()["counters"]


def fixed(pmu):
    """The fixed counters: counter m at place m."""
    return pmu.state()["fixed"]


def legal_bits(pmu, msr):
    """Bits of an MSR that may be written as 1, each alone."""
    legal = 0
    for bit in range(64):
        try:
            pmu.wrmsr(msr, 1 << bit)
        except vpmu.GeneralProtectionFault:
            continue
        legal |= 1 << bit
    return legal


def stored(pmu, msr):
    """What an MSR keeps of all ones."""
    pmu.wrmsr(msr, ALL_ONES)
    return pmu.rdmsr(msr)


def draws(seed):
    """SFC64 as the page fixes it: words (seed, 0, 0), counter 1, twelve outputs discarded; 64-bit integers."""
    a, b, c, counter, index = seed, 0, 0, 1, 0
    while True:
        output = (a + b + counter) & ALL_ONES
        counter += 1
        a = b ^ b >> 11
        b = (c + (c << 3)) & ALL_ONES
        c = ((c << 24 | c >> 40) + output) & ALL_ONES
        if index >= 12:
            yield output
        index += 1
