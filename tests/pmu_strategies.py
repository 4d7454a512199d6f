"""CPU models, settings of a PMU and things to count, drawn so that what is rare on real machines happens often.

A strategy draws one short string of bytes, and :class:`Dice` reads many choices off it: that is fast, leaves room for
long histories in one example of Hypothesis, and shrinks to the first choice everywhere, which is the plainest one.
"""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st

import vpmu

ALL_ONES = (1 << 64) - 1
BITS = [1 << bit for bit in range(64)]
ERRORS = (OverflowError, vpmu.UnknownName, ValueError, TypeError)


def outcome(function, *arguments, **keywords):
    """What a call returns, or which fault or kind of error it raises."""
    try:
        return "returns", function(*arguments, **keywords)
    except vpmu.GeneralProtectionFault as fault:
        return "faults", fault.msr, fault.value
    except ERRORS as error:
        return "raises", next(kind for kind in ERRORS if isinstance(error, kind))


def say(line):
    """Add a line to the report of a failing example."""
    if currently_in_test_context():
        note(line)


def indices(bitmap):
    """Numbers of the bits that are set."""
    return [number for number in range(bitmap.bit_length()) if bitmap >> number & 1]


# MSRs

#: Every MSR of the PMU's ranges, and the neighbours of the ranges.
MSRS = [
    *range(0xC0, 0xCC),
    *range(0x10E, 0x111),
    *range(0x185, 0x191),
    *range(0x19F, 0x1A2),
    *range(0x1D8, 0x1DB),
    *range(0x308, 0x31A),
    *(0x328, 0x329, 0x32A, 0x344, 0x345, 0x346),
    *range(0x38C, 0x395),
    *range(0x3F0, 0x3F7),
    *range(0x4C0, 0x4CC),
    *(0x5FF, 0x600, 0x601, 0x833, 0x834, 0x835),
    *range(0x1308, 0x1311),
    *range(0x14C0, 0x14CC),
    *range(0x18FF, 0x1A01),
    *range(0xC000_00E8, 0xC000_00EB),
    *range(0xC000_02FF, 0xC000_0305),
    *range(0xC000_FFFF, 0xC001_0009),
    *range(0xC001_0014, 0xC001_0017),
    *range(0xC001_01FF, 0xC001_0211),
]
_INTEL_COMMON = [0xC1, 0xC2, 0x186, 0x188, 0x309, 0x30B, 0x30C, 0x329, 0x38D, 0x38E, 0x38F, 0x390, 0x391, 0x834]
_AMD_COMMON = [*range(0xC001_0200, 0xC001_0208), *range(0xC000_0300, 0xC000_0304), 0xC001_0000, 0xC001_0005, 0x834]


def usual_msrs(cpu):
    """MSRs that such a CPU has."""
    return _AMD_COMMON if cpu.vendor == "amd" else _INTEL_COMMON


def addresses(cpu):
    """MSRs: mostly those that the CPU has."""
    return st.one_of(st.sampled_from(usual_msrs(cpu)), st.sampled_from(MSRS), st.integers(0, (1 << 32) - 1))


_NOTABLE = [0, 1, 0xB, 0x33, 1 << 31, (1 << 32) - 1, (1 << 48) - 1, 1 << 48, ALL_ONES, ALL_ONES ^ (1 << 47) - 1]
VALUES = st.one_of(st.sampled_from(_NOTABLE), st.sampled_from(BITS), st.integers(0, 0xFFFF), st.integers(0, ALL_ONES))


# Choices


class Dice:
    """Choices read off bytes; when they are used up, always the first one.

    Parameters
    ----------
    rolls : bytes
    """

    def __init__(self, rolls):
        self._rolls = int.from_bytes(rolls, "little")  # the first bytes decide the first choices

    def __repr__(self):
        return "Dice(...)"  # the calls that come of it are noted one by one

    def below(self, n):
        """An integer in [0, n)."""
        self._rolls, choice = divmod(self._rolls, n)
        return choice

    def pick(self, *options):
        """One of the options; repeat one to make it likely."""
        return options[self.below(len(options))]

    def rarely(self, n):
        """True once in n."""
        return self.below(n) == n - 1

    def skips(self):
        """False but for the smallest roll, so that a failing example has no setting that does not matter."""
        return self.below(16) == 0

    def bits(self, bitmap):
        """Some of the bits of a bitmap."""
        return sum(1 << bit for bit in indices(bitmap) if self.below(2))

    def some(self, options, n):
        """About one in n of the options."""
        return [option for option in options if self.rarely(n)]

    def number(self):
        """A count: nearly always small."""
        kind = self.below(32)
        if kind < 29:
            return self.below(32)
        if kind == 29:
            return self.below(256) << 5
        if kind == 30:
            return (self.below(256) << 24) + self.below(256)
        return self.pick((1 << 48) - 1, 1 << 48, (1 << 50) + 7, (1 << 63) + 5, ALL_ONES)


def dice(size):
    """A strategy for dice of so many bytes of choices."""
    return st.binary(min_size=size, max_size=size).map(Dice)


# CPU models

_OF_BOTH = ("irq_overcount", "smm_user", "freeze_late", "rdpmc_ooo", "pmi_skid")
#: Quirks by vendor, without ``ht_halves_gp``, which changes gp_mask.
QUIRKS = {
    "intel": (
        *("atom_far_overcount", "atom_far_overcount_instructions", "ht_leak", "hsw11_bdm11", "min_period32", "tfa"),
        *("cpuid_fixed", "nhm_enable", "txcp_spurious", "gldm_any", "reserved_ignore", "penryn_global"),
        *("p6_perfctr_raz", "kvm_inert_msrs", "ref_xclk", "reftsc_sticky_ovf", *_OF_BOTH),
    ),
    "amd": (
        *("amd_vmrun_branch", "kvm_inert_msrs", "amd_1292", "zen4_status_rsvd", "amd_status_set_extra", "amd_late_nmi"),
        *("evtsel_sticky", *_OF_BOTH),
    ),
}


def _quirks(roll, vendor, version):
    drawn = {*roll.some(QUIRKS[vendor], roll.pick(4, 8, 2)), *roll.pick(("pmi_skid",), ())}
    if version == 1:
        drawn -= {"nhm_enable", "reftsc_sticky_ovf"}
    if version > 3:
        drawn -= {"reserved_ignore", "penryn_global"}
    for one, other in (("reserved_ignore", "penryn_global"), ("atom_far_overcount", "atom_far_overcount_instructions")):
        if one in drawn:
            drawn.discard(other)
    return frozenset(drawn)


def _intel_fields(roll):
    version = roll.pick(4, 5, 2, 3, 6, 1, 6)
    gp_mask = roll.pick(0xF, 0xFF, 0x3, 0x3FF, 0xF, 0xA5, 0x1, 0xC)
    fixed_mask = roll.pick(0x7, 0xF, 0x7F, 0xF, 0xA, 0x5, 0x0, 0x8F) if version > 1 else 0
    pebs = roll.pick(0x100, 0x300, 0x400, 0x600, 0, 0x500, 0xF00 if version == 6 else 0x200)
    capabilities = pebs | roll.bits(0x1_70C5) | roll.pick(0, 1 << 15, 1 << 15, 1 << 15 | 1 << 19)
    intel = (
        "pt",
        "sgx",
        "tsx_force_abort",
        "uncore_pmi",
        "client_uncore",
        "dtes64",
        "topdown_l2",
        "br_cntr",
        "rtm",
        "hle",
    )
    later = ("umask2", "eq", "rdpmc_user_disable") if version >= 5 else ()
    return {
        "vendor": "intel",
        "version": version,
        "gp_mask": gp_mask,
        "fixed_mask": fixed_mask,
        "gp_width": roll.pick(48, 40, 32, 48),
        "fixed_width": roll.pick(48, 40, 32, 48),
        "perf_capabilities": capabilities,
        "anythread_deprecated": bool(roll.below(2)),
        "pin_control_writable": bool(roll.below(2)),
        "features": frozenset({*roll.some((*intel, *later), 2), *roll.pick(("pdcm", "ds"), ("pdcm",), ("ds",))}),
        "architectural_events": roll.pick(0x7F, 0x1FFF, 0xFFF, 0),
        "pebs_enable_mask": roll.pick(0xF_0000000F, 0xF, 0x1, 0xFF),
        "misc_enable_ignored": roll.pick(0x1080, 0x80, 0),
        "acr": (roll.bits(gp_mask), roll.bits(fixed_mask), 0, 0) if version == 6 else (0, 0, 0, 0),
        "pebs_masks": (roll.bits(gp_mask), 0, roll.bits(fixed_mask), 0) if version == 6 else (0, 0, 0, 0),
    }


def _amd_fields(roll):
    version = roll.pick(2, 1)
    core = roll.pick("perfctr_core", "perfctr_core", "perfctr_core", "")
    zen = roll.below(6)
    features = {core, *(f"zen{n}" for n in range(1, zen + 1))} - {""}
    features |= set(roll.some(("perfctr_nb", "perfctr_llc", "extended_event_select", "irperf", "svm"), 2))
    if version == 2 and roll.pick(True, True, False):
        features.add("perfmon_v2_freeze")
    return {
        "vendor": "amd",
        "version": version,
        "gp_mask": roll.pick(0x3F, 0x3F, 0x1F, 0x2D) if core else roll.pick(0xF, 0x7, 0xB),
        "fixed_mask": 0,
        "gp_width": 48,
        "fixed_width": 48,
        "perf_capabilities": 0,
        "anythread_deprecated": False,
        "pin_control_writable": False,
        "features": frozenset(features),
        "df_counters": roll.pick(4, 8, 12, 16),
        "acr": (0, 0, 0, 0),
        "pebs_masks": (0, 0, 0, 0),
    }


def model(name, roll):
    """A preset, the preset with other quirks, or a model with all that matters to a PMU drawn anew."""
    cpu = vpmu.cpu(name)
    kind = roll.below(8)
    if kind == 0:
        say(f"cpu = vpmu.cpu({cpu.name!r})")
        return cpu
    if kind < 3:
        on = _quirks(roll, cpu.vendor, cpu.version)
        switches = {quirk: quirk in on for quirk in QUIRKS[cpu.vendor]}
        if "ht_halves_gp" in cpu.quirks | cpu.possible_quirks:
            switches["ht_halves_gp"] = roll.rarely(2)
        say(f"cpu = vpmu.cpu({cpu.name!r}).with_quirks(**{switches})")
        return cpu.with_quirks(**switches)
    fields = _amd_fields(roll) if roll.rarely(3) else _intel_fields(roll)
    fields["slots_per_cycle"] = 1 + roll.below(8)
    clocks = {name: (1 + roll.below(256)) * 20_000_003 for name in ("core_hz", "tsc_hz", "bus_cycles_hz")}
    fields["quirks"] = _quirks(roll, fields["vendor"], fields["version"])
    fields["skid"] = vpmu.Skid(*roll.pick((0, 20), (0, 0), (7, 7), (0, 300), (0, 0xFFFF_FFFF)))
    figures = ", ".join(f"{name}=replace(cpu.{name}, value={value})" for name, value in clocks.items())
    say(f"cpu = vpmu.cpu({cpu.name!r})")
    say(f"cpu = replace(cpu, **{fields}, {figures})".replace("Skid(", "vpmu.Skid("))
    fields |= {name: replace(getattr(cpu, name), value=value) for name, value in clocks.items()}
    return replace(
        cpu, name="drawn", costs=None, constraints=(), possible_quirks=frozenset(), core_gp_mask=None, **fields
    )


def drawn_model(number):
    """The model with that number, with all that matters drawn anew."""
    draw = random.Random(number)
    while True:
        cpu = model(draw.choice(vpmu.cpus()), Dice(draw.randbytes(40)))
        if cpu.name == "drawn":
            return cpu


@st.composite
def models(draw):
    """CPU models."""
    return model(draw(st.sampled_from(vpmu.cpus())), draw(dice(40)))
