"""The vPMU designs: what each traps, what its guest sees and when it cannot be had."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ._cpu import CpuModel
from ._errors import ScenarioError, UnknownName
from ._filter_schedule import Schedule, filter_schedule, read_event_filter, schedule_of_table, schedule_text
from ._perf import HostEvent
from ._plan import ACCESSES
from ._sequences import Sequence, sequence, sequences

#: What can be passed through, and the accesses that are then direct.
_ASSETS: tuple[tuple[str, frozenset[str]], ...] = (
    ("counters", frozenset({"counter"})),
    ("selectors", frozenset({"selector", "fixed_ctr_ctrl"})),
    ("global registers", frozenset({"global_ctrl", "global_status", "global_ovf_ctrl"})),
    ("RDPMC", frozenset({"rdpmc"})),
    ("LVTPC", frozenset({"lvtpc"})),
)


@dataclass(frozen=True)
class GuestPmu:
    """The PMU that a guest is given, in place of the design's limits.

    Parameters
    ----------
    version : int
        Architectural version, 2 to the CPU's.
    gp, fixed : int
        Number of general-purpose and fixed counters, at most the CPU's.
    """

    version: int = 2
    gp: int = 8
    fixed: int = 3


def kvm_guest_cpu(cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
    """The PMU of a KVM guest: version 2, at most 8 GP and 3 fixed counters (Linux kvm_init_pmu_capability())."""
    limits = wanted or GuestPmu(min(cpu.version, 2), min(cpu.gp_counters, 8), min(cpu.fixed_counters, 3))
    if not 2 <= limits.version <= cpu.version:
        raise ScenarioError(f"guest_pmu version {limits.version} must be 2 to {cpu.version}, the version of {cpu.name}")
    if not 1 <= limits.gp <= cpu.gp_counters or not 0 <= limits.fixed <= cpu.fixed_counters:
        raise ScenarioError(
            f"guest_pmu with {limits.gp} GP and {limits.fixed} fixed counters does not fit {cpu.name}, which has "
            f"{cpu.gp_counters} and {cpu.fixed_counters}"
        )
    return dataclasses.replace(
        cpu,
        version=limits.version,
        gp_mask=(1 << limits.gp) - 1,
        fixed_mask=(1 << limits.fixed) - 1,
        perf_capabilities=cpu.perf_capabilities & 1 << 13,
        features=frozenset(),
        anythread_deprecated=True,
    )


@dataclass(frozen=True)
class Design:
    """Base of the designs; see the subclasses.

    Attributes
    ----------
    name : str
        As in ``vpmu list designs``.
    class_ : str or None
        "emulated", "mediated" or "virtualized": whether guest state is in hardware, and with what access.
    summary : str
    """

    name: ClassVar[str]
    class_: ClassVar[str | None] = None
    summary: ClassVar[str]
    has_guest_pmu: ClassVar[bool] = True
    has_host: ClassVar[bool] = True
    cedes_pmu: ClassVar[bool] = False
    owns_hardware: ClassVar[bool] = False
    backed_by_host_events: ClassVar[bool] = False
    options_help: ClassVar[str] = ""

    def guest_cpu(self, cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
        """The PMU that the guest sees."""
        return kvm_guest_cpu(cpu, wanted)

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """Guest accesses that exit, a subset of ``ACCESSES``."""
        return frozenset(ACCESSES)

    def options(self) -> dict[str, str | bool]:
        """What the machine must know."""
        return {}

    def filters(self) -> Schedule:
        """Event filters, with the second of the run from which each holds."""
        return ()

    def switch(self) -> Sequence | None:
        """The switch sequence, if the design switches."""
        return None

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """Why the design cannot be had with this CPU and host; empty if it can."""
        return ""

    def stores_global_ctrl(self, cpu: CpuModel, guest: CpuModel) -> bool:
        """Whether each exit stores GLOBAL_CTRL through the VM-exit MSR list."""
        return False

    def note(self, cpu: CpuModel, guest: CpuModel) -> str:
        """A sentence that belongs under the row; empty if there is none."""
        return ""

    def passed_through(self, cpu: CpuModel, guest: CpuModel) -> tuple[str, ...]:
        """The assets that the guest reaches without exits."""
        traps = self.traps(cpu, guest)
        return tuple(asset for asset, accesses in _ASSETS if not accesses & traps)

    def __str__(self) -> str:
        changed = [
            f"{field.name}={_option_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ",".join([self.name, *changed])


def _option_text(value: object) -> str:
    if isinstance(value, tuple):
        return schedule_text(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class FilteredDesign(Design):
    """Base of the designs whose selectors the hypervisor intercepts, so that it can refuse events.

    Parameters
    ----------
    event_filter : EventFilter, str or sequence of (seconds, EventFilter)
        What the guest may count; a filter with a time comes into force during the run, in place of the one before.
    """

    event_filter: Schedule = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_filter", filter_schedule(self.event_filter))

    def filters(self) -> Schedule:
        """The option."""
        return self.event_filter


@dataclass(frozen=True)
class NoPmu(Design):
    """No PMU in the guest and nobody profiling in it: the baseline."""

    name = "none"
    summary = "no PMU in the guest: the baseline for overhead"
    has_guest_pmu = False

    def passed_through(self, cpu: CpuModel, guest: CpuModel) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class BareMetal(Design):
    """No hypervisor: the software's own PMU, the yardstick for accuracy and for what profiling costs anyway."""

    name = "bare-metal"
    summary = "no hypervisor: the yardstick for accuracy"
    owns_hardware = True
    has_host = False

    def guest_cpu(self, cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
        """The hardware."""
        return cpu

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """Nothing traps."""
        return frozenset()


@dataclass(frozen=True)
class Emulated(FilteredDesign):
    """Every access traps; each guest counter is backed by a pinned, exclude_host host perf event (KVM since 2011).

    Parameters
    ----------
    reuse : bool
        Keep a counter's event when only its enable bit toggles (Linux since 5.6).
    event_filter : EventFilter, str or sequence of (seconds, EventFilter)
        What the guest may count (KVM_SET_PMU_EVENT_FILTER): other counters get no perf event.
    """

    name = "emulated"
    class_ = "emulated"
    summary = "every access traps, host perf events do the counting"
    options_help = "reuse=true|false, event_filter=FILE.toml|FILTER"
    backed_by_host_events = True
    reuse: bool = True

    def options(self) -> dict[str, str | bool]:
        """Reuse."""
        return {"reuse": self.reuse}


@dataclass(frozen=True)
class Mediated(FilteredDesign):
    """Guest state is switched into hardware around the run loop; controls stay intercepted (Linux 7.0).

    Parameters
    ----------
    scope : {"fastpath-loop", "every-exit"}
        Where it is switched: around KVM's inner loop as merged, or at every exit.
    sequence : str
        The switch sequence, one of :func:`vpmu.sequences`.
    event_filter : EventFilter, str or sequence of (seconds, EventFilter)
        What the guest may count (KVM_SET_PMU_EVENT_FILTER): other counters are loaded with their enable bits clear.
    """

    name = "mediated"
    class_ = "mediated"
    summary = "guest state is switched into hardware around the run loop"
    options_help = "scope=fastpath-loop|every-exit, sequence=NAME, event_filter=FILE.toml|FILTER"
    scope: str = "fastpath-loop"
    sequence: str = "linux-7.0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in ("fastpath-loop", "every-exit"):
            raise UnknownName("switch scope", self.scope, ("fastpath-loop", "every-exit"))
        if self.sequence not in sequences():
            raise UnknownName("switch sequence", self.sequence, sequences())

    def options(self) -> dict[str, str | bool]:
        """Scope."""
        return {"scope": self.scope}

    def switch(self) -> Sequence:
        """The sequence."""
        return sequence(self.sequence)

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """Controls and LVTPC always; RDPMC and the global registers if guest and host counters differ.

        Linux kvm_need_any_pmc_intercept(), kvm_need_perf_global_ctrl_intercept(), kvm_need_rdpmc_intercept(): compared
        with the host's counters, not with KVM's limits.
        """
        traps = {"selector", "fixed_ctr_ctrl", "lvtpc"}
        counters_differ = guest.gp_mask != cpu.gp_mask or guest.fixed_mask != cpu.fixed_mask
        if counters_differ or guest.version < 2:
            traps |= {"global_ctrl", "global_status", "global_ovf_ctrl"}
        if counters_differ or (guest.gp_width, guest.fixed_width) != (cpu.gp_width, cpu.fixed_width):
            traps.add("rdpmc")
        return frozenset(traps)

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """KVM needs version 4 and full-width writes; a VM and an include-guest host event exclude each other."""
        if cpu.version < 4:
            return (
                "KVM mediates from PMU version 4 on (IA32_PERF_GLOBAL_STATUS_SET); "
                f"{cpu.name} has version {cpu.version}"
            )
        if not cpu.full_width_writes:
            return f"KVM mediates only with full-width counter writes, which {cpu.name} lacks"
        included = [str(event) for event in host_perf if not event.exclude_guest]
        if included and not vm_first:
            return f"EBUSY: the host already counts in guests ({', '.join(included)}), so the VM cannot be created"
        return ""

    def stores_global_ctrl(self, cpu: CpuModel, guest: CpuModel) -> bool:
        """On CPUs without VM-exit save, if the guest writes the register without exits."""
        return not cpu.exit_save_global_ctrl and "global_ctrl" not in self.traps(cpu, guest)

    def note(self, cpu: CpuModel, guest: CpuModel) -> str:
        """Say when the host's counters make KVM intercept what published figures passed through."""
        if "rdpmc" in self.traps(cpu, guest):
            return (
                f"{cpu.name} has {cpu.gp_counters} GP and {cpu.fixed_counters} fixed counters, the guest "
                f"{guest.gp_counters} and {guest.fixed_counters}: merged KVM then intercepts RDPMC and the global "
                "registers (published figures are of an earlier series that passed them through)"
            )
        return ""


@dataclass(frozen=True)
class Dedicated(Design):
    """The host has given the PMU up: guest state stays in hardware and only LVTPC traps."""

    name = "dedicated"
    class_ = "virtualized"
    summary = "the host gives the PMU up: guest state stays in hardware"
    cedes_pmu = True
    owns_hardware = True

    def guest_cpu(self, cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
        """The hardware."""
        return cpu

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """LVTPC."""
        return frozenset({"lvtpc"})


_REGISTRY: dict[str, Callable[..., Design]] = {
    design.name: design for design in (NoPmu, BareMetal, Emulated, Mediated, Dedicated)
}


def designs() -> tuple[str, ...]:
    """Names of the designs, in the order in which ``compare`` shows them."""
    return tuple(_REGISTRY)


def design(spec: str | Design) -> Design:
    """Make a design from ``NAME[,key=value…]``.

    Parameters
    ----------
    spec : str or Design
        A design object is returned as it is.

    Returns
    -------
    Design

    Raises
    ------
    UnknownName
        For an unknown name, option or value.
    """
    if isinstance(spec, Design):
        return spec
    name, *options = spec.split(",")
    if name not in _REGISTRY:
        raise UnknownName("design", name, _REGISTRY)
    make = _REGISTRY[name]
    fields = {field.name: field for field in dataclasses.fields(make)}  # type: ignore[arg-type]  # every row is a dataclass
    arguments: dict[str, str | bool] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in fields:
            raise UnknownName(f"option of design {name}", key, fields or ("(none)",))
        if isinstance(fields[key].default, bool):
            if value.lower() not in ("true", "false"):
                raise ScenarioError(f"design {spec!r}: {key} must be true or false, not {value!r}")
            arguments[key] = value.lower() == "true"
        else:
            arguments[key] = value
    return make(**arguments)


def with_event_filter(spec: str, given: object, path: str) -> Design:
    """A design of a scenario file with the file's own ``event_filter``: a table, or a file's name relative to it.

    Parameters
    ----------
    spec : str
    given : object
        What the scenario file has.
    path : str
        The scenario file.

    Returns
    -------
    Design

    Raises
    ------
    EventFilterError, UnknownName, ScenarioError
    """
    made = design(spec)
    if not isinstance(made, FilteredDesign):
        takers = ", ".join(name for name in _REGISTRY if isinstance(design(name), FilteredDesign))
        raise ScenarioError(f"{path}: design {made.name} has no event filter; those that have one: {takers}")
    if made.event_filter:
        raise ScenarioError(f"{path}: give event_filter as a key or in design, not both")
    if isinstance(given, dict):
        schedule = schedule_of_table(given, f"{path}: event_filter")
    elif isinstance(given, str):
        schedule = read_event_filter(os.path.join(os.path.dirname(path), given))
    else:
        raise ScenarioError(f"{path}: event_filter is a table or the name of a file, not {given!r}")
    return dataclasses.replace(made, event_filter=schedule)
