"""CPU models: what PMU a logical CPU has, how fast it runs and what its primitives cost."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ._costs import CostModel, Figure, figure
from ._data import data_names, data_text
from ._errors import ScenarioError, UnknownName
from ._quirks import QUIRKS

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
    """

    low: int
    high: int
    umask: int | None
    gp_mask: int
    fixed_mask: int

    def matches(self, event: int, umask: int) -> bool:
        """Whether an event select and unit mask fall under this row."""
        return self.low <= event <= self.high and (self.umask is None or self.umask == umask)


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
        Bitmaps of the general-purpose (not empty) and fixed counters, < 2**16; holes are legal.
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
    misc_enable_ignored: int = 0x1080
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
        if not 0 <= self.fixed_mask < 1 << 16:
            raise ScenarioError(f"fixed_mask {self.fixed_mask:#x} must fit bits 15:0")
        if self.fixed_mask and (self.vendor == "amd" or self.version < 2):
            raise ScenarioError(f"fixed_mask {self.fixed_mask:#x} must be 0: fixed counters came with Intel's version 2")
        for width in (self.gp_width, self.fixed_width):
            if not 32 <= width <= 48:
                raise ScenarioError(f"counter width {width} must be 32 to 48 bits")
        for name in self.features:
            if name not in FEATURES[self.vendor]:
                raise UnknownName("CPU feature", name, FEATURES[self.vendor])
        for name in self.quirks | self.possible_quirks:
            if name not in QUIRKS:
                raise UnknownName("quirk", name, QUIRKS)
        for clock in (self.core_hz, self.tsc_hz, self.bus_cycles_hz):
            if not 10**6 <= clock.value <= 10**10:
                raise ScenarioError(f"a clock of {clock.value} Hz must lie between 1 MHz and 10 GHz")

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
        quirks = (self.quirks - switches.keys()) | on
        mask = self.gp_mask
        if "ht_halves_gp" in switches:
            whole = self.core_gp_mask or self.gp_mask
            mask = whole & (1 << whole.bit_length() // 2) - 1 if "ht_halves_gp" in on else whole
        return replace(self, quirks=quirks, gp_mask=mask)

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
        """IA32_PERF_CAPABILITIES.FW_WRITE: IA32_A_PMCx exist."""
        return bool(self.perf_capabilities >> 13 & 1)


def _constraint(row: Mapping[str, Any]) -> Constraint:
    code: str = row["code"]
    if "-" in code:
        first, last = code.split("-")
        low, high, umask = int(first, 16), int(last, 16), None
    elif len(code) == 4:
        low = high = int(code[2:], 16)
        umask = int(code[:2], 16)
    else:
        low = high = int(code, 16)
        umask = None
    return Constraint(low, high, umask, _mask(row["gp"]), _mask(row["fixed"]))


def _mask(counters: list[int]) -> int:
    return sum(1 << index for index in counters)


#: Integer keys of ``[pmu]`` that a preset may leave out.
_OPTIONAL = (
    *("signature", "architectural_events", "event_vector_length", "pebs_enable_mask", "misc_enable_ignored"),
    *("pebs_caps", "df_counters"),
)


def cpus() -> tuple[str, ...]:
    """Names of the CPU presets, sorted."""
    return data_names("cpus")


@functools.cache
def cpu(name: str) -> CpuModel:
    """Look up a CPU preset.

    Parameters
    ----------
    name : str
        A code name in lower case, one of :func:`cpus`.

    Returns
    -------
    CpuModel

    Raises
    ------
    UnknownName
        With the nearest names.
    """
    if name not in cpus():
        raise UnknownName("CPU", name, cpus())
    table = tomllib.loads(data_text("cpus", f"{name}.toml"))
    pmu = table["pmu"]
    skid = table["skid"]
    core_gp_mask = _mask(pmu["gp_counters"])
    costs = {key: figure(value) for key, value in table.get("costs", {}).items()}
    model = CpuModel(
        name=name,
        summary=table["summary"],
        vendor=table["vendor"],
        version=pmu["version"],
        gp_mask=core_gp_mask,
        fixed_mask=_mask(pmu["fixed_counters"]),
        gp_width=pmu["gp_width"],
        fixed_width=pmu["fixed_width"],
        perf_capabilities=pmu["perf_capabilities"],
        anythread_deprecated=pmu["anythread_deprecated"],
        pin_control_writable=pmu["pin_control_writable"],
        features=frozenset(pmu["features"]),
        slots_per_cycle=pmu["slots_per_cycle"],
        exit_save_global_ctrl=table["vmx"]["exit_save_global_ctrl"] if "vmx" in table else False,
        core_hz=figure(table["clocks"]["core_hz"]),
        tsc_hz=figure(table["clocks"]["tsc_hz"]),
        bus_cycles_hz=figure(table["clocks"]["bus_cycles_hz"]),
        skid=Skid(skid["minimum"], skid["maximum"], skid["quality"], skid["source"]),
        costs=CostModel(costs) if costs else None,
        constraints=tuple(_constraint(row) for row in table.get("constraints", ())),
        possible_quirks=frozenset(pmu.get("possible_quirks", ())),
        core_gp_mask=core_gp_mask,
        **{key: pmu[key] for key in _OPTIONAL if key in pmu},
        **{key: tuple(pmu[key]) for key in ("acr", "pebs_masks") if key in pmu},
    )
    return model.with_quirks(**dict.fromkeys(pmu.get("quirks", ()), True))
