"""The CPU model: what PMU a logical CPU has, how fast it runs and what its primitives cost."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ._costs import CostModel, Figure
from ._errors import ScenarioError, UnknownName
from ._quirks import QUIRKS

if TYPE_CHECKING:
    from ._cpuid import Cpuid

#: CPUID features that change what is legal or what is counted.
INTEL_FEATURES = frozenset(
    {
        *("pdcm", "ds", "dtes64", "rtm", "hle", "pt", "sgx", "tsx_force_abort", "uncore_pmi", "client_uncore"),
        *("br_cntr", "umask2", "eq", "rdpmc_user_disable", "topdown_l2"),
    }
)
AMD_FEATURES = frozenset(
    {
        *("perfctr_core", "perfctr_nb", "perfctr_llc", "perfmon_v2_freeze", "extended_event_select", "irperf", "svm"),
        *("zen1", "zen2", "zen3", "zen4", "zen5"),
    }
)
FEATURES = {"intel": INTEL_FEATURES, "amd": AMD_FEATURES}
#: Models (family 6) of Broadwell, whose erratum BDM55 is Broadwell's alone.
_BROADWELL = (0x3D, 0x47, 0x4F, 0x56)
VERSIONS = {"intel": range(1, 7), "amd": range(1, 3)}


@dataclass(frozen=True)
class Constraint:
    """Counters that an event may use (Linux ``struct event_constraint``).

    Parameters
    ----------
    low, high : int
        First and last event select of the range.
    umask : int or None
        Unit mask, or None for any.
    gp_mask, fixed_mask : int
        Bitmaps of the counters that can count it.
    umask_mask : int
        Bits of the unit mask that ``umask`` is compared with.
    """

    low: int
    high: int
    umask: int | None
    gp_mask: int
    fixed_mask: int
    umask_mask: int = 0xFF

    def matches(self, event: int, umask: int) -> bool:
        """Whether an event select and unit mask fall under this row."""
        return self.low <= event <= self.high and (self.umask is None or self.umask == umask & self.umask_mask)


@dataclass(frozen=True)
class Skid:
    """Wall cycles between an overflow and the arrival of its PMI, uniform on [minimum, maximum]."""

    minimum: int
    maximum: int
    quality: str = "assumed"
    source: str = "given with the scenario"

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum < 1 << 32:
            raise ScenarioError(f"skid {self.minimum}..{self.maximum} must satisfy 0 <= minimum <= maximum < 2**32")


@dataclass(frozen=True)
class CpuModel:
    """A logical CPU: its PMU (Intel SDM vol. 3B, chapter "Performance Monitoring"), clocks and costs.

    Parameters
    ----------
    name, summary, vendor : str
        Preset name, one line about it, ``"intel"`` or ``"amd"``.
    version : int
        Intel: architectural perfmon version, CPUID.0AH:EAX[7:0], 1 to 6. AMD: 1, or 2 for PerfMonV2.
    gp_mask, fixed_mask : int
        Bitmaps of the general-purpose (not empty, < 2**16) and fixed counters (< 2**8); holes are legal.
    gp_width, fixed_width : int
        Counter widths in bits, 32 to 48.
    perf_capabilities : int
        IA32_PERF_CAPABILITIES.
    anythread_deprecated, pin_control_writable : bool
        CPUID.0AH:EDX[15]; whether PERFEVTSEL bit 19 may be written.
    features : frozenset of str
        Feature bits that change what is legal or counted: see ``FEATURES``.
    slots_per_cycle : int
        Issue width, for TOPDOWN.SLOTS.
    exit_save_global_ctrl : bool
        VM-exit control "save IA32_PERF_GLOBAL_CTRL" exists.
    core_hz, tsc_hz, bus_cycles_hz : Figure
        Core clock, TSC, and the rate of event 3CH/01H where quirk ``ref_xclk`` is on (else it is the TSC's).
    skid : Skid
        Of the PMI.
    costs : CostModel or None
        None: nobody has measured this CPU, so it has a PMU but no scenario can run on it.
    constraints : tuple of Constraint
        First matching row wins; no row means any general-purpose counter.
    quirks : frozenset of str
        Oddities that are on: see ``vpmu.quirks()`` and :meth:`with_quirks`.
    possible_quirks : frozenset of str
        Known on this hardware, but off: circumstances or microcode decide whether they show.
    core_gp_mask : int or None
        General-purpose counters of a thread that has its core alone (quirk ``ht_halves_gp``); None: ``gp_mask``.
    signature : int
        CPUID.1:EAX (family, model, stepping); 0 if not known.
    architectural_events : int
        Bit i: CPUID says that architectural event i is available.
    event_vector_length : int
        CPUID.0AH:EAX[31:24].
    pebs_enable_mask : int
        Writable bits of IA32_PEBS_ENABLE before the PEBS baseline; of its GP bits those in ``gp_mask``.
    misc_enable_ignored : int
        Bits of IA32_MISC_ENABLE that can be written without effect.
    acr, pebs_masks : tuple of 4 ints
        CPUID.23H.2 and CPUID.23H.5 as EAX, EBX, ECX, EDX.
    pebs_caps : int
        CPUID.23H.4:EBX.
    df_counters : int
        Data-fabric (northbridge) counters, AMD.
    cpuid_overrides : tuple of (leaf, subleaf, (eax, ebx, ecx, edx))
        What CPUID returns where it does not follow from the other fields.
    """

    name: str
    summary: str
    vendor: str
    version: int
    gp_mask: int
    fixed_mask: int
    gp_width: int
    fixed_width: int
    perf_capabilities: int
    anythread_deprecated: bool
    pin_control_writable: bool
    features: frozenset[str]
    slots_per_cycle: int
    exit_save_global_ctrl: bool
    core_hz: Figure
    tsc_hz: Figure
    bus_cycles_hz: Figure
    skid: Skid
    costs: CostModel | None
    constraints: tuple[Constraint, ...] = ()
    quirks: frozenset[str] = frozenset()
    possible_quirks: frozenset[str] = frozenset()
    core_gp_mask: int | None = None
    signature: int = 0
    architectural_events: int = 0x7F
    event_vector_length: int = 7
    pebs_enable_mask: int = 0xF_0000000F
    misc_enable_ignored: int = 0x44_00C51089
    acr: tuple[int, int, int, int] = (0, 0, 0, 0)
    pebs_masks: tuple[int, int, int, int] = (0, 0, 0, 0)
    pebs_caps: int = 0
    df_counters: int = 4
    cpuid_overrides: tuple[tuple[int, int, tuple[int, int, int, int]], ...] = ()

    def __post_init__(self) -> None:
        if self.vendor not in FEATURES:
            raise UnknownName("vendor", str(self.vendor), FEATURES)
        versions = VERSIONS[self.vendor]
        if self.version not in versions:
            raise ScenarioError(
                f"PMU version {self.version} does not exist for {self.vendor}; use {versions[0]} to {versions[-1]}"
            )
        if not 0 < self.gp_mask < 1 << 16:
            raise ScenarioError(f"gp_mask {self.gp_mask:#x} must have 1 to 16 counters, bits 15:0")
        if not 0 <= self.fixed_mask < 1 << 8:
            raise ScenarioError(f"fixed_mask {self.fixed_mask:#x} must fit bits 7:0")
        if self.fixed_mask and (self.vendor == "amd" or self.version < 2):
            raise ScenarioError(f"fixed_mask {self.fixed_mask:#x} must be 0: they came with Intel's version 2")
        for width in (self.gp_width, self.fixed_width):
            if not 32 <= width <= 48:
                raise ScenarioError(f"counter width {width} must be 32 to 48 bits")
        if self.vendor == "amd" and self.gp_width != 48:
            raise ScenarioError(f"counter width {self.gp_width} must be 48 bits on AMD")
        self._check_numbers()
        for name in self.features:
            if name not in FEATURES[self.vendor]:
                raise UnknownName("CPU feature", name, FEATURES[self.vendor])
        for name in self.quirks | self.possible_quirks:
            if name not in QUIRKS:
                raise UnknownName("quirk", name, QUIRKS)
        for clock in (self.core_hz, self.tsc_hz, self.bus_cycles_hz):
            if not 10**6 <= clock.value <= 10**10:
                raise ScenarioError(f"a clock of {clock.value} Hz must lie between 1 MHz and 10 GHz")

    def _check_numbers(self) -> None:
        bounds = {
            "perf_capabilities": 64,
            "pebs_enable_mask": 64,
            "misc_enable_ignored": 64,
            "pebs_caps": 32,
            "signature": 32,
            "architectural_events": 32,
            "event_vector_length": 8,
            "df_counters": 6,
            "slots_per_cycle": 4,
        }
        values = {name: (getattr(self, name), width) for name, width in bounds.items()}
        values |= {f"acr[{i}]": (value, 32) for i, value in enumerate(self.acr)}
        values |= {f"pebs_masks[{i}]": (value, 32) for i, value in enumerate(self.pebs_masks)}
        for name, (value, width) in values.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << width:
                raise ScenarioError(f"{name} {value!r} must be an integer from 0 to 2**{width} - 1")
        if len(self.acr) != 4 or len(self.pebs_masks) != 4:
            raise ScenarioError(f"acr {self.acr!r} and pebs_masks {self.pebs_masks!r} must have 4 integers each")
        if self.core_gp_mask is not None and not 0 < self.core_gp_mask < 1 << 16:
            raise ScenarioError(f"core_gp_mask {self.core_gp_mask:#x} must have 1 to 16 counters, bits 15:0")

    def __hash__(self) -> int:
        # Tables are looked up by model; hashing forty fields each time would cost more than making a PMU.
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash((self.name, self.version, self.gp_mask, self.fixed_mask, self.features, self.quirks))
            object.__setattr__(self, "_hash", known)
        return known

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of strings differ between processes.
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    def with_quirks(self, **switches: bool) -> CpuModel:
        """Turn quirks on or off.

        Parameters
        ----------
        **switches : bool
            By name; see ``vpmu.quirks()``.

        Returns
        -------
        CpuModel
            ``ht_halves_gp`` also changes ``gp_mask``.

        Raises
        ------
        UnknownName
            For a name that is no quirk.
        """
        for name in switches:
            if name not in QUIRKS:
                raise UnknownName("quirk", name, QUIRKS)
        on = {name for name, switch in switches.items() if switch}
        quirks = (self.quirks - frozenset(switches)) | on
        mask = self.gp_mask
        if "ht_halves_gp" in switches:
            whole = self.core_gp_mask or self.gp_mask
            mask = whole & (1 << whole.bit_length() // 2) - 1 if "ht_halves_gp" in on else whole
        return replace(self, quirks=quirks, gp_mask=mask)

    @classmethod
    def from_cpuid(cls, dump: str | os.PathLike[str], *, like: str | None = None, cpu: int = 0) -> CpuModel:
        """Make a model of a CPUID dump.

        Counters, widths, events and features are what the dump says; everything else (IA32_PERF_CAPABILITIES, quirks,
        clocks, skid, costs, constraints) is that of the preset with the same family and model. Where the dump says of
        counters what the preset would say, the preset's are kept: CPUID of a hybrid part hides some of them.

        Parameters
        ----------
        dump : str or os.PathLike
            Output of ``cpuid -r`` or a text file of InstLatx64; a path is read.
        like : str, optional
            The preset to take the rest from, in place of the one with the same family and model.
        cpu : int
            Which CPU of the dump, from 0; the first by default.

        Returns
        -------
        CpuModel
            With the preset's name if it is that CPU, else with ``-cpuid`` after it.

        Raises
        ------
        ScenarioError
            If it is no dump, or no PMU is in it, or no preset is like it.
        """
        from ._cpuid_dump import model_from_dump

        return model_from_dump(dump, like, cpu)

    def cpuid(self, leaf: int, subleaf: int = 0) -> Cpuid:
        """What the CPUID instruction returns.

        Parameters
        ----------
        leaf, subleaf : int
            EAX and ECX. Leaves 0, 1, 7, 0AH, 1AH, 1CH, 23H, 80000000H, 80000001H, 80000008H and 80000022H are known as
            far as they concern the PMU; other bits and leaves are 0.

        Returns
        -------
        Cpuid
            A named tuple of eax, ebx, ecx, edx.

        Raises
        ------
        ScenarioError
            If leaf or subleaf is no integer of 32 bits.
        """
        from ._cpuid import cpuid

        return cpuid(self, leaf, subleaf)

    @property
    def writable_global_status(self) -> bool:
        """Whether software can set bits of GLOBAL_STATUS, as a switch of PMU state needs to: perf's capability.

        Intel: IA32_PERF_GLOBAL_STATUS_SET, version 4; AMD: PerfCntrGlobalStatusSet, PerfMonV2.
        """
        return self.version >= (4 if self.vendor == "intel" else 2)

    def limit_period(self, event: str, period: int) -> int:
        """Smallest sampling period at or above a wish that Linux takes for safe on this CPU.

        Parameters
        ----------
        event : str
            As :func:`vpmu.event` takes it. Quirk ``hsw11_bdm11`` concerns INST_RETIRED.ALL (``r01c0``) only.
        period : int
            The wish, > 0.

        Returns
        -------
        int
            At least 32 with quirk ``min_period32``; for INST_RETIRED.ALL at least 128 with quirk ``hsw11_bdm11``, and
            on Broadwell a multiple of 64 (BDM55; Linux rounds down there and makes up for it in later periods).
        """
        from ._events import event as parse

        code = parse(event, self).selector
        if isinstance(period, bool) or not isinstance(period, int) or period <= 0:
            raise ScenarioError(f"a sampling period must be a positive integer, not {period!r}")
        least = 32 if "min_period32" in self.quirks else 1
        if "hsw11_bdm11" in self.quirks and code & 0xFFFF == 0x01C0:
            least = 128
            if (self.signature >> 4 & 0xF | self.signature >> 12 & 0xF0) in _BROADWELL:
                period = -(-period // 64) * 64
        return max(period, least)

    def known_costs(self) -> CostModel:
        """The costs.

        Raises
        ------
        ScenarioError
            If nobody has published any.
        """
        if self.costs is None:
            from ._cpu import with_costs

            raise ScenarioError(
                f"nobody has published what the hypervisor's primitives cost on {self.name}, so no scenario can run on "
                f"it, only vpmu.Pmu can; use {', '.join(with_costs())}"
            )
        return self.costs

    @property
    def gp_counters(self) -> int:
        """Number of general-purpose counters."""
        return self.gp_mask.bit_count()

    @property
    def fixed_counters(self) -> int:
        """Number of fixed counters."""
        return self.fixed_mask.bit_count()

    def rate_of(self, event: str) -> int:
        """Rate of an event that follows the core clock.

        Parameters
        ----------
        event : {"cycles", "ref-cycles", "bus-cycles", "slots"}

        Returns
        -------
        int
            In 2**-32 events per unhalted core cycle, rounded to nearest.
        """
        if event == "cycles":
            return 1 << 32
        if event == "slots":
            return self.slots_per_cycle << 32
        bus_hz = self.bus_cycles_hz if "ref_xclk" in self.quirks else self.tsc_hz
        hz = {"ref-cycles": self.tsc_hz, "bus-cycles": bus_hz}[event].value
        return (2 * (hz << 32) + self.core_hz.value) // (2 * self.core_hz.value)

    @property
    def full_width_writes(self) -> bool:
        """Software can write counters in full width: IA32_A_PMCx (IA32_PERF_CAPABILITIES.FW_WRITE), always on AMD."""
        return self.vendor == "amd" or bool(self.perf_capabilities >> 13 & 1)
