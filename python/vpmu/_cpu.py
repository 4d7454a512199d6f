"""CPU models: what PMU a logical CPU has, how fast it runs and what its primitives cost."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._costs import CostModel, Figure, figure
from ._data import data_names, data_text
from ._errors import ScenarioError, UnknownName

FEATURES = frozenset({"pdcm", "ds", "dtes64", "rtm", "hle", "pt", "sgx", "tsx_force_abort"})


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
        Preset name, one line about it, ``"intel"``.
    version : int
        Architectural perfmon version, CPUID.0AH:EAX[7:0]; 2 to 5.
    gp_mask, fixed_mask : int
        Bitmaps of the general-purpose (< 2**8) and fixed (< 2**4) counters.
    gp_width, fixed_width : int
        Counter widths in bits, 32 to 48.
    perf_capabilities : int
        IA32_PERF_CAPABILITIES.
    anythread_deprecated, pin_control_writable : bool
        CPUID.0AH:EDX[15]; whether PERFEVTSEL bit 19 may be written.
    features : frozenset of str
        Feature bits that change what is legal: see ``FEATURES``.
    slots_per_cycle : int
        Issue width, for TOPDOWN.SLOTS.
    exit_save_global_ctrl : bool
        VM-exit control "save IA32_PERF_GLOBAL_CTRL" exists.
    core_hz, tsc_hz, bus_cycles_hz : Figure
        Core clock, TSC, and the rate of event 3CH/01H.
    skid : Skid
    costs : CostModel
    constraints : tuple of Constraint
        First matching row wins; no row means any general-purpose counter.
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
    costs: CostModel
    constraints: tuple[Constraint, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.vendor != "intel":
            raise ScenarioError(f"vendor {self.vendor!r} is not simulated yet; use 'intel'")
        if self.version not in (2, 3, 4, 5):
            raise ScenarioError(f"PMU version {self.version} is not simulated yet; use 2 to 5")
        if not 0 < self.gp_mask < 1 << 8:
            raise ScenarioError(f"gp_mask {self.gp_mask:#x} must have 1 to 8 counters, bits 7:0")
        if not 0 <= self.fixed_mask < 1 << 4:
            raise ScenarioError(f"fixed_mask {self.fixed_mask:#x} must fit bits 3:0")
        for width in (self.gp_width, self.fixed_width):
            if not 32 <= width <= 48:
                raise ScenarioError(f"counter width {width} must be 32 to 48 bits")
        for name in self.features:
            if name not in FEATURES:
                raise UnknownName("CPU feature", name, FEATURES)
        for clock in (self.core_hz, self.tsc_hz, self.bus_cycles_hz):
            if not 10**6 <= clock.value <= 10**10:
                raise ScenarioError(f"a clock of {clock.value} Hz must lie between 1 MHz and 10 GHz")

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
        hz = {"ref-cycles": self.tsc_hz, "bus-cycles": self.bus_cycles_hz}[event].value
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
    return CpuModel(
        name=name,
        summary=table["summary"],
        vendor=table["vendor"],
        version=pmu["version"],
        gp_mask=_mask(pmu["gp_counters"]),
        fixed_mask=_mask(pmu["fixed_counters"]),
        gp_width=pmu["gp_width"],
        fixed_width=pmu["fixed_width"],
        perf_capabilities=pmu["perf_capabilities"],
        anythread_deprecated=pmu["anythread_deprecated"],
        pin_control_writable=pmu["pin_control_writable"],
        features=frozenset(pmu["features"]),
        slots_per_cycle=pmu["slots_per_cycle"],
        exit_save_global_ctrl=table["vmx"]["exit_save_global_ctrl"],
        core_hz=figure(table["clocks"]["core_hz"]),
        tsc_hz=figure(table["clocks"]["tsc_hz"]),
        bus_cycles_hz=figure(table["clocks"]["bus_cycles_hz"]),
        skid=Skid(skid["minimum"], skid["maximum"], skid["quality"], skid["source"]),
        costs=CostModel({key: figure(value) for key, value in table["costs"].items()}),
        constraints=tuple(_constraint(row) for row in table["constraints"]),
    )
