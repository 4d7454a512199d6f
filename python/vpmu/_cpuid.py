"""What CPUID returns on a CPU model, as far as the PMU is concerned (Intel SDM vol. 2A, AMD APM vol. 3, appendix E)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._errors import ScenarioError

if TYPE_CHECKING:
    from ._cpu import CpuModel

#: EBX, ECX, EDX of leaf 0.
VENDOR_WORDS = {
    "intel": (0x756E6547, 0x6C65746E, 0x49656E69),
    "amd": (0x68747541, 0x444D4163, 0x69746E65),
}
#: Feature bits: (leaf, register, bit) of each; register 0 is EAX. ``br_cntr`` is the field ECX[19:16].
FEATURE_BITS: dict[str, dict[str, tuple[int, int, int]]] = {
    "intel": {
        "dtes64": (0x1, 2, 2),
        "pdcm": (0x1, 2, 15),
        "ds": (0x1, 3, 21),
        "sgx": (0x7, 1, 2),
        "hle": (0x7, 1, 4),
        "rtm": (0x7, 1, 11),
        "pt": (0x7, 1, 25),
        "tsx_force_abort": (0x7, 3, 13),
        "umask2": (0x23, 1, 0),
        "eq": (0x23, 1, 1),
        "rdpmc_user_disable": (0x23, 1, 2),
    },
    "amd": {
        "svm": (0x80000001, 2, 2),
        "perfctr_core": (0x80000001, 2, 23),
        "perfctr_nb": (0x80000001, 2, 24),
        "perfctr_llc": (0x80000001, 2, 28),
        "irperf": (0x80000008, 1, 1),
        "perfmon_v2_freeze": (0x80000022, 0, 2),
    },
}
#: CPUID.1CH:ECX[19:16], the counters that the LBR stack can log.
BR_CNTR = 0xF << 16
#: The leaves that the model knows.
LEAVES = (0x0, 0x1, 0x7, 0xA, 0x1A, 0x1C, 0x23, 0x80000000, 0x80000001, 0x80000008, 0x80000022)


class Cpuid(NamedTuple):
    """The registers after CPUID.

    Parameters
    ----------
    eax, ebx, ecx, edx : int
        32 bits each.
    """

    eax: int
    ebx: int
    ecx: int
    edx: int


ZEROS = Cpuid(0, 0, 0, 0)


def cpuid(model: CpuModel, leaf: int, subleaf: int) -> Cpuid:
    """CPUID of a model: its overrides, else what follows from its fields."""
    for what, value in (("leaf", leaf), ("subleaf", subleaf)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise ScenarioError(f"CPUID {what} must be an integer in [0, 2**32), not {value!r}")
    if leaf in LEAVES and leaf not in (0x7, 0x23):
        subleaf = 0  # ECX is not looked at
    for number, sub, registers in model.cpuid_overrides:
        if (number, sub) == (leaf, subleaf):
            return Cpuid(*registers)
    return derive(model, leaf, subleaf)


def derive(model: CpuModel, leaf: int, subleaf: int) -> Cpuid:
    """What follows from the fields of a model; bits that it does not know are 0."""
    if leaf not in LEAVES or (subleaf and leaf == 0x7):
        return ZEROS
    if leaf in (0x0, 0x80000000):
        return _highest(model, leaf)
    if leaf == 0xA:
        return _architectural(model) if model.vendor == "intel" else ZEROS
    if leaf == 0x23:
        return _extended(model, subleaf)
    registers = [0, 0, 0, 0]
    for name, (number, register, bit) in FEATURE_BITS[model.vendor].items():
        if number == leaf and name in model.features:
            registers[register] |= 1 << bit
    if leaf == 0x1 or (leaf == 0x80000001 and model.vendor == "amd"):
        registers[0] = model.signature
    elif leaf == 0x7 and hybrid(model):
        registers[3] |= 1 << 15
    elif leaf == 0x1C and "br_cntr" in model.features:
        registers[2] |= BR_CNTR
    elif leaf == 0x80000022:
        if model.vendor == "intel" or model.version < 2:
            return ZEROS
        registers[0] |= 1
        registers[1] = model.gp_counters | model.df_counters << 10
    return Cpuid(*registers)


def hybrid(model: CpuModel) -> bool:
    """Whether the model is one type of core of several: CPUID.1AH says which."""
    return any(leaf == 0x1A and registers[0] for leaf, _, registers in model.cpuid_overrides)


def _highest(model: CpuModel, leaf: int) -> Cpuid:
    """Leaves 0 and 80000000H: the highest leaf, and the vendor (on AMD in both)."""
    words = VENDOR_WORDS[model.vendor]
    if leaf == 0:
        least = 0xA if model.vendor == "intel" else 0x1
        highest = max([n for n in LEAVES if least < n < 0x80000000 and any(cpuid(model, n, 0))], default=least)
    else:
        highest = 0x80000022 if any(cpuid(model, 0x80000022, 0)) else 0x80000008
        words = words if model.vendor == "amd" else (0, 0, 0)
    return Cpuid(highest, words[0], words[1], words[2])


def _architectural(model: CpuModel) -> Cpuid:
    """Leaf 0AH."""
    length = model.event_vector_length
    eax = model.version | model.gp_counters << 8 | model.gp_width << 16 | length << 24
    ebx = ~model.architectural_events & (1 << min(length, 32)) - 1
    ecx = model.fixed_mask if model.version >= 5 else 0
    edx = 0
    if model.version >= 2:
        contiguous = (~model.fixed_mask & model.fixed_mask + 1).bit_length() - 1
        edx = contiguous | model.fixed_width << 5
        if "cpuid_fixed" in model.quirks:  # Conroe says nothing, Bonnell 1 and a reserved bit
            edx = 0 if model.version == 2 else 1 | model.fixed_width << 5 | 1 << 13
    return Cpuid(eax, ebx, ecx, edx | model.anythread_deprecated << 15)


def _extended(model: CpuModel, subleaf: int) -> Cpuid:
    """Leaf 23H: from version 6 on; a part of version 5 that has it has overrides."""
    if model.vendor != "intel" or model.version < 6:
        return ZEROS
    pebs = model.perf_capabilities >> 8 & 0xF == 0xF
    if subleaf == 0:
        names = ("umask2", "eq", "rdpmc_user_disable")
        switches = sum(1 << bit for bit, name in enumerate(names) if name in model.features)
        slots = 0 if model.fixed_mask >> 3 & 1 else model.slots_per_cycle  # where no counter counts them
        return Cpuid(0xB | any(model.acr) << 2 | 0x30 * pebs, switches, slots, 0)
    if subleaf == 1:
        return Cpuid(model.gp_mask, model.fixed_mask, 0, 0)
    if subleaf == 2:
        return Cpuid(*model.acr)
    if subleaf == 3:
        return Cpuid(model.architectural_events, 0, 0, 0)
    if subleaf == 4 and pebs:
        return Cpuid(0, model.pebs_caps, 0, 0)
    if subleaf == 5 and pebs:
        return Cpuid(*model.pebs_masks)
    return ZEROS
