"""The vPMU designs: what each traps, what its guest sees and when it cannot be had."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from ._consent import admit
from ._cpu import CpuModel
from ._errors import ScenarioError, UnknownName
from ._filter_schedule import Schedule, filter_schedule, schedule_text
from ._perf import HostEvent
from ._plan import ACCESSES
from ._sequences import Sequence, sequence, sequence_of, sequences

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
        Architectural version, 2 to the CPU's; AMD: 2 for PerfMonV2, 1 without.
    gp, fixed : int
        Number of general-purpose and fixed counters, at most the CPU's.
    """

    version: int = 2
    gp: int = 8
    fixed: int = 3


#: Features of an AMD CPU that say what its selectors count; the others are no business of a guest's PMU.
_AMD_EVENTS = frozenset({"perfctr_core", "extended_event_select", "zen1", "zen2", "zen3", "zen4", "zen5"})
#: Linux KVM_MAX_NR_INTEL_GP_COUNTERS, KVM_MAX_NR_AMD_GP_COUNTERS.
_MOST_GP = {"intel": 8, "amd": 6}


def kvm_guest_cpu(cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
    """The PMU of a KVM guest: version 2, at most 8 (AMD: 6) GP and 3 fixed counters (kvm_init_pmu_capability())."""
    most = _MOST_GP[cpu.vendor]
    limits = wanted or GuestPmu(min(cpu.version, 2), min(cpu.gp_counters, most), min(cpu.fixed_counters, 3))
    least = 2 if cpu.vendor == "intel" else 1
    if not least <= limits.version <= cpu.version:
        raise ScenarioError(
            f"guest_pmu version {limits.version} must be {least} to {cpu.version}, the version of {cpu.name}"
        )
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
        features=cpu.features & _AMD_EVENTS,
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
    #: Least version of the host's PMU, 0 where the host's does not matter.
    host_version: ClassVar[int] = 0
    #: The hypervisor gives guests a PMU only if the administrator has asked for this design.
    needs_opt_in: ClassVar[bool] = False
    #: Host events that include guests and VMs of this design exclude each other (perf_create_mediated_pmu()).
    excludes_include_guest: ClassVar[bool] = False

    @property
    def reactions(self) -> str:
        """Compiled module with the design's table of reactions."""
        return "vpmu_core.designs." + self.name.replace("-", "_")

    @property
    def reference(self) -> str:
        """``MODULE:CLASS`` of the design in the slow machine."""
        words = self.name.split("-")
        return f"vpmu.reference._{'_'.join(words)}:{''.join(word.capitalize() for word in words)}"

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

    def switch_on(self, cpu: CpuModel) -> Sequence | None:
        """The same on a CPU."""
        return self.switch()

    def refusal(self, cpu: CpuModel, host_perf: tuple[HostEvent, ...], vm_first: bool) -> str:
        """Why the design cannot be had with this CPU and host; empty if it can."""
        if cpu.version < self.host_version:
            return f"the host's PMU must have version {self.host_version}; {cpu.name} has version {cpu.version}"
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

    @property
    def reference(self) -> str:
        """One class of several in a module."""
        return "vpmu.reference._designs:NoPmu"

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

    @property
    def reference(self) -> str:
        """One class of several in a module."""
        return "vpmu.reference._designs:BareMetal"

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
        Keep a counter's event when only its enable bit toggles, and release it when the guest has left the counter
        alone for a slice of the vCPU's (Linux since 5.6).
    reprogram : {"coalesced", "synchronous"}
        Whether what a write changes is reprogrammed before the next entry or, as up to Linux 6.0, at once.
    event_filter : EventFilter, str or sequence of (seconds, EventFilter)
        What the guest may count (KVM_SET_PMU_EVENT_FILTER): other counters get no perf event.
    """

    name = "emulated"
    class_ = "emulated"
    summary = "every access traps, host perf events do the counting"
    options_help = "reuse=true|false, reprogram=coalesced|synchronous, event_filter=FILE.toml|FILTER"
    backed_by_host_events = True
    host_version = 1
    reuse: bool = True
    reprogram: str = "coalesced"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reprogram not in ("coalesced", "synchronous"):
            raise UnknownName("way to reprogram", self.reprogram, ("coalesced", "synchronous"))

    def options(self) -> dict[str, str | bool]:
        """Reuse, and when writes take effect."""
        return {"reuse": self.reuse, "reprogram": self.reprogram}


@dataclass(frozen=True)
class Mediated(FilteredDesign):
    """Guest state is switched into hardware around the run loop; controls stay intercepted (Linux 7.0).

    Parameters
    ----------
    scope : {"fastpath-loop", "every-exit", "run-loop", "vcpu-sched"}
        Where it is switched: around KVM's inner loop as merged, at every exit, around all of KVM_RUN but blocking, or
        only where the vCPU's thread is scheduled out and in.
    sequence : str or Sequence
        The switch sequence: one of :func:`vpmu.sequences`, the path of a TOML file, or an object.
        On AMD CPUs ``linux-7.0`` is ``linux-7.0-amd``.
    event_filter : EventFilter, str or sequence of (seconds, EventFilter)
        What the guest may count (KVM_SET_PMU_EVENT_FILTER): other counters are loaded with their enable bits clear.
    exclude_guest : {"guest-mode", "window"}
        What a host event with exclude_guest ought to count: all but guest mode, or all but the time from load to put.
    """

    name = "mediated"
    class_ = "mediated"
    summary = "guest state is switched into hardware around the run loop"
    options_help = (
        "scope=fastpath-loop|every-exit|run-loop|vcpu-sched, sequence=NAME|FILE.toml, exclude_guest=guest-mode|window, "
        "event_filter=FILE.toml|FILTER"
    )
    host_version = 4
    needs_opt_in = True
    excludes_include_guest = True
    scopes: ClassVar[tuple[str, ...]] = ("fastpath-loop", "every-exit", "run-loop", "vcpu-sched")
    scope: str = "fastpath-loop"
    sequence: str | Sequence = "linux-7.0"
    exclude_guest: str = "guest-mode"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in self.scopes:
            raise UnknownName("switch scope", self.scope, self.scopes)
        if self.exclude_guest not in ("guest-mode", "window"):
            raise UnknownName("meaning of exclude_guest", self.exclude_guest, ("guest-mode", "window"))
        found = sequence_of(self.sequence)
        if found.name != self.sequence or self.sequence.endswith(".toml") or "/" in self.sequence:
            object.__setattr__(self, "sequence", found)

    def options(self) -> dict[str, str | bool]:
        """Scope, and what exclude_guest means."""
        return {"scope": self.scope, "exclude_guest": self.exclude_guest}

    def switch(self) -> Sequence:
        """The sequence."""
        return sequence_of(self.sequence)

    def switch_on(self, cpu: CpuModel) -> Sequence:
        """The sequence; the default is the merged one of the CPU's vendor.

        Raises
        ------
        ScenarioError
            For a sequence with another vendor's registers.
        """
        amd = f"{self.sequence}-amd"
        found = sequence(amd) if cpu.vendor == "amd" and amd in sequences() else self.switch()
        if found.vendor != cpu.vendor:
            fitting = ", ".join(name for name in sequences() if sequence(name).vendor == cpu.vendor)
            raise ScenarioError(f"sequence {self.sequence} is for {found.vendor}, not {cpu.name}; use {fitting}")
        return found

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
        """KVM needs version 4 and full-width writes; a VM and an include-guest host event exclude each other.

        perf says whether GLOBAL_STATUS can be written; that nothing is mediated without is KVM's own decision.
        """
        if not cpu.writable_global_status:
            if cpu.vendor == "amd":
                return f"KVM mediates on AMD from PerfMonV2 on (PerfCntrGlobalStatusSet), which {cpu.name} lacks"
            return (
                "KVM mediates from PMU version 4 on (IA32_PERF_GLOBAL_STATUS_SET); "
                f"{cpu.name} has version {cpu.version}"
            )
        if missing := self._missing_control(cpu):
            return missing
        if not cpu.full_width_writes:
            return f"KVM mediates only with full-width counter writes, which {cpu.name} lacks"
        return admit(host_perf, vm_first)[0]

    def _missing_control(self, cpu: CpuModel) -> str:
        """Why the sequence cannot save GLOBAL_CTRL as it wants to; empty if it can."""
        if self.switch().stores_in_list is False and not cpu.exit_save_global_ctrl:
            return f"sequence {self.sequence} saves GLOBAL_CTRL by a VM-exit control that {cpu.name} lacks"
        return ""

    def stores_global_ctrl(self, cpu: CpuModel, guest: CpuModel) -> bool:
        """On CPUs without VM-exit save (all of AMD's), or if the sequence says so; not if the guest's writes exit."""
        in_list = self.switch_on(cpu).stores_in_list
        if in_list is None:
            in_list = not cpu.exit_save_global_ctrl
        return in_list and "global_ctrl" not in self.traps(cpu, guest)

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
    """The host has given its PMU up: guest state stays in hardware and at most LVTPC traps.

    Parameters
    ----------
    lvtpc : {"intercepted", "passthrough"}
        Whether the hypervisor takes PMIs and injects them, or the guest's NMI reaches the guest without an exit.
    """

    name = "dedicated"
    class_ = "virtualized"
    summary = "the host gives the PMU up: guest state stays in hardware"
    options_help = "lvtpc=intercepted|passthrough"
    cedes_pmu = True
    owns_hardware = True
    lvtpc: str = "intercepted"

    def __post_init__(self) -> None:
        if self.lvtpc not in ("intercepted", "passthrough"):
            raise UnknownName("way of LVTPC", self.lvtpc, ("intercepted", "passthrough"))

    @property
    def reference(self) -> str:
        """One class of several in a module."""
        return "vpmu.reference._designs:Dedicated"

    def options(self) -> dict[str, str | bool]:
        """LVTPC."""
        return {"lvtpc": self.lvtpc}

    def guest_cpu(self, cpu: CpuModel, wanted: GuestPmu | None) -> CpuModel:
        """The hardware."""
        return cpu

    def traps(self, cpu: CpuModel, guest: CpuModel) -> frozenset[str]:
        """LVTPC, unless it is passed through; on AMD the selectors, in which the hypervisor sets GuestOnly."""
        selectors = {"selector"} if cpu.vendor == "amd" else set()
        return frozenset(selectors | ({"lvtpc"} if self.lvtpc == "intercepted" else set()))
