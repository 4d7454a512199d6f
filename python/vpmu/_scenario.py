"""Scenarios: what is simulated, and its reduction to the integers of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from . import _calibrate
from ._consent import admit
from ._costs import CostModel
from ._cpu import CpuModel, cpu, with_costs
from ._designs import Design, GuestPmu
from ._errors import ScenarioError
from ._event_files import with_event_file
from ._event_filter import EventFilter
from ._events import CODES, EVENTS, Event, allowed_counters
from ._exits import KINDS
from ._guest_perf import Request, check_perfs, guest_kernel, placement, planned_events, requests
from ._perf import (
    MAX_SAMPLE_RATE,
    WATCHDOG,
    GuestPerf,
    GuestWatchdog,
    HostEvent,
    PerfRecord,
    PerfStat,
    parse_guest_perf,
    parse_host_perf,
)
from ._plan import ACTIVITIES, Plan, PlannedExit, PlannedHostEvent, Stream, Trace
from ._recorded import Recorded, positive_seconds
from ._registry import design
from ._vcpu import Vcpu, check_vcpus
from ._workload import EventRates, Workload, check_integer, plain_integer
from ._workload_file import workload

_NO_STREAM = Stream(0, (), (), ())
#: Longest run: within it no counting host event can wrap, at up to 16 occurrences per cycle.
MAX_CYCLES = 1 << 43
#: Most events of the host's own: more than any CPU has counters, so that they take turns.
MAX_HOST_PERF = 20
#: CONFIG_HZ of Linux (kernel/Kconfig.hz).
HOST_HZ = (100, 250, 300, 1000)


@dataclass(frozen=True)
class Scenario:
    """One logical CPU with one vCPU: hardware, vPMU design, workload, and who uses counters.

    Parameters
    ----------
    cpu : str or CpuModel
        Preset name or model.
    design : str or Design
        A design, or ``NAME[,key=value…]``.
    workload : str, Workload or Recorded
        Built-in name, a workload, or what :func:`read_recording` returned.
    guest_perf : sequence of PerfStat, PerfRecord, GuestWatchdog or str
        Who counts in the guest; ``()`` for nobody.
    host_perf : sequence of HostEvent or str
        The host's own events.
    seconds : number, optional
        Wall time of the logical CPU; 1 by default, the trace's length for a trace that is replayed once.
    seed : int
        0 to 2**64 - 1; the same seed gives the same integers on every machine.
    guest_pmu : GuestPmu, optional
        In place of KVM's limits (version 2, at most 8 GP and 3 fixed counters).
    costs : mapping of str to int
        Cycles that replace figures of the CPU's cost model.
    vm_first : bool
        The VM exists before the host's events: a mediated VM then makes include-guest events fail (EOPNOTSUPP)
        instead of failing itself (EBUSY).
    what_if : bool
        Simulate a design even where it cannot be had; the result is flagged ``hypothetical``.
    events_file : str
        A JSON file of Intel's perfmon: counters that events may use are those that it says, before the CPU's own table.
    enable_mediated_pmu : bool
        The administrator's consent, KVM's module parameter of this name; without it no design that mediates can be had.
        (The kernel's default is N; here it is given unless you take it back.)
    host_hz : {100, 250, 300, 1000}
        The host kernel's CONFIG_HZ: host events take turns every 1000 // host_hz milliseconds (Linux
        PERF_CPU_HRTIMER), and perf adapts periods on the tick.
    guest_hz : {100, 250, 300, 1000}
        CONFIG_HZ of the guest's Linux: its tick adapts periods and throttles, and sets how often events take turns.
    guest_kernel : str
        Version of the guest's Linux, from ``"6.2"``: 6.10 has fewer accesses in a tick, 6.14 starts at longer periods.
    vcpus : sequence of Vcpu, or int
        Several vCPUs, each a guest of its own, that take turns on the logical CPU; a number of equal ones. What a
        :class:`Vcpu` does not say is said here. ``()`` is one vCPU that has its logical CPU to itself.
    slice_ms : number
        After so many milliseconds a vCPU gives way to another that waits, at the host's next tick. 3 is the base slice
        of Linux 6.6 to 6.14 (EEVDF) on 8 CPUs or more: ``sysctl_sched_base_slice`` 0.75 ms, times 1 + log2(8).
    wakeup_preemption : bool
        A vCPU that wakes gets the CPU at once, as with CFS; EEVDF lets the running one finish its slice
        (``RUN_TO_PARITY``).

    Raises
    ------
    UnknownName, ScenarioError, RecordingError
        With the value and what to do.
    """

    cpu: CpuModel = field(default="sapphirerapids")  # type: ignore[assignment]  # names are resolved in __post_init__
    design: Design = field(default="mediated")  # type: ignore[assignment]  # as cpu
    workload: Workload | Recorded = field(default="sysbench-cpu")  # type: ignore[assignment]  # as cpu
    guest_perf: tuple[GuestPerf, ...] = ("stat:instructions,cycles",)  # type: ignore[assignment]  # as cpu
    host_perf: tuple[HostEvent, ...] = ()
    seconds: Fraction | None = None
    seed: int = 1
    guest_pmu: GuestPmu | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    vm_first: bool = False
    what_if: bool = False
    host_hz: int = 250
    events_file: str = ""
    enable_mediated_pmu: bool = True
    guest_hz: int = 250
    guest_kernel: str = "6.14"
    vcpus: tuple[Vcpu, ...] = ()
    slice_ms: Fraction = Fraction(3)
    wakeup_preemption: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("cpu", cpu(self.cpu) if isinstance(self.cpu, str) else self.cpu)
        _check_type("cpu", self.cpu, CpuModel)
        _check_simulated(self.cpu)
        if not isinstance(self.events_file, str):
            raise ScenarioError(f"events_file must be the name of a file, not {self.events_file!r}")
        if self.events_file:
            put("cpu", with_event_file(self.cpu, self.events_file))
        put("design", design(self.design) if isinstance(self.design, str) else self.design)
        _check_type("design", self.design, Design)
        put("workload", workload(self.workload) if isinstance(self.workload, str) else self.workload)
        _check_type("workload", self.workload, Workload, Recorded)
        put("guest_perf", _listed("guest_perf", self.guest_perf, parse_guest_perf, "stat:instructions,cycles"))
        put("host_perf", _listed("host_perf", self.host_perf, parse_host_perf, "cycles:pinned"))
        for guest_perf in self.guest_perf:
            _check_type("guest_perf", guest_perf, PerfStat, PerfRecord, GuestWatchdog)
        check_perfs(self.guest_perf, self.guest_hz, self.guest_kernel)
        for host_perf in self.host_perf:
            _check_type("host_perf", host_perf, HostEvent)
        if len(self.host_perf) > MAX_HOST_PERF:
            raise ScenarioError(f"{len(self.host_perf)} events of host_perf: at most {MAX_HOST_PERF} are simulated")
        for name in ("vm_first", "what_if", "enable_mediated_pmu", "wakeup_preemption"):
            if not isinstance(getattr(self, name), bool):
                raise ScenarioError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if self.guest_pmu is not None:
            _check_type("guest_pmu", self.guest_pmu, GuestPmu)
            for name in ("version", "gp", "fixed"):
                check_integer(getattr(self.guest_pmu, name), 0, 64, f"guest_pmu {name}")
        if not isinstance(self.costs, Mapping):
            raise ScenarioError(f"costs must be a table of cycles by name, not {self.costs!r}")
        fixed_length = self.workload.trace_seconds if isinstance(self.workload, Recorded) else None
        if self.seconds is None:
            put("seconds", fixed_length if fixed_length is not None else Fraction(1))
        else:
            put("seconds", positive_seconds(self.seconds, "seconds"))
        if fixed_length is not None and self.seconds != fixed_length:
            raise ScenarioError(
                f"{self.workload.name} is replayed once, so its length is given; add repeat (--repeat) to loop it"
            )
        put("seed", check_integer(plain_integer(self.seed), 0, (1 << 64) - 1, "seed"))
        if isinstance(self.host_hz, bool) or self.host_hz not in HOST_HZ:
            raise ScenarioError(f"host_hz {self.host_hz!r} must be one of {', '.join(map(str, HOST_HZ))} (CONFIG_HZ)")
        if not 1 <= self.end_cycles < MAX_CYCLES:
            raise ScenarioError(
                f"seconds {float(self.seconds or 0):g} is {self.end_cycles} cycles; a run has 1 to 2**43 - 1 "
                f"({MAX_CYCLES // self.cpu.core_hz.value} seconds on {self.cpu.name})"
            )
        put("costs", {name: plain_integer(cycles) for name, cycles in self.costs.items()})
        for name, cycles in self.costs.items():
            check_integer(cycles, 0, (1 << 40) - 1, f"costs: {name}")
        self.cost_model()
        self.filter_changes()
        if self.design.has_guest_pmu:
            self.placement()
        put("slice_ms", positive_seconds(self.slice_ms, "slice_ms"))
        put("vcpus", check_vcpus(self.vcpus))
        self.guests()

    def guests(self) -> tuple[Scenario, ...]:
        """A scenario for each vCPU, as if it had the logical CPU to itself; this one if there is no other vCPU."""
        if not self.vcpus:
            return (self,)
        if any(event.task for event in self.host_perf):
            raise ScenarioError(
                "host_perf: events of a vCPU's thread are not simulated beside several vCPUs; leave out :task"
            )
        made = []
        for number, vcpu in enumerate(self.vcpus):
            try:
                guest = dataclasses.replace(self, vcpus=(), **vcpu.given())
            except ScenarioError as error:
                raise ScenarioError(f"vCPU {number}: {error}") from None
            if guest.design.name != self.design.name:
                raise ScenarioError(
                    f"vCPU {number}: design {guest.design.name} is not the scenario's, {self.design.name}; vCPUs of "
                    "one logical CPU have one host, so only the design's options may differ"
                )
            if isinstance(guest.workload, Recorded) and guest.workload.trace_seconds is not None:
                raise ScenarioError(
                    f"vCPU {number}: {guest.workload.name} is replayed once, which needs a CPU of its own; add repeat"
                )
            made.append(guest)
        return tuple(made)

    def changed(self, **changes: Any) -> Scenario:
        """The scenario with other values, for all of its vCPUs."""
        vcpus = tuple(vcpu.without(set(changes)) for vcpu in self.vcpus)
        return dataclasses.replace(self, vcpus=vcpus, **changes)

    @property
    def slice_cycles(self) -> int:
        """The time slice in wall cycles, at least one."""
        return max(int(self.slice_ms * self.cpu.core_hz.value / 1000), 1)

    @property
    def end_cycles(self) -> int:
        """Length of the run in wall cycles, rounded half up."""
        assert self.seconds is not None
        return int(self.seconds * self.cpu.core_hz.value + Fraction(1, 2))

    @property
    def guest_cpu(self) -> CpuModel:
        """The PMU that the guest sees."""
        return self.design.guest_cpu(self.cpu, self.guest_pmu)

    def cost_model(self) -> CostModel:
        """The CPU's costs with the scenario's own figures."""
        costs = self.cpu.known_costs()
        return costs.override(self.costs) if self.costs else costs

    def guest_requests(self) -> tuple[Request, ...]:
        """Events of the guest's perf, in the order in which they are opened; none in design ``none``."""
        return requests(self.guest_perf) if self.design.has_guest_pmu else ()

    def guest_events(self) -> tuple[tuple[Event, int], ...]:
        """The same with their fixed period, 0 for all that do not have one."""
        return tuple((request.event, request.fixed_period) for request in self.guest_requests())

    def to_dict(self) -> dict[str, Any]:
        """Everything that makes a run again, the design apart; plain values, as JSON has them."""
        turns = {
            "vcpus": [vcpu.to_dict() for vcpu in self.vcpus],
            "slice_ms": float(self.slice_ms),
            "wakeup_preemption": self.wakeup_preemption,
        }
        return {
            "cpu": self.cpu.name,
            "workload": self.workload.name,
            "recording": self.workload.to_dict() if isinstance(self.workload, Recorded) else None,
            "guest_perf": [str(perf) for perf in self.guest_perf],
            "host_perf": [str(event) for event in self.host_perf],
            "seconds": float(self.seconds or 0),
            "seed": self.seed,
            "guest_pmu": None if self.guest_pmu is None else dataclasses.asdict(self.guest_pmu),
            "costs": dict(self.costs),
            "vm_first": self.vm_first,
            "what_if": self.what_if,
            "host_hz": self.host_hz,
            "events_file": self.events_file,
            "enable_mediated_pmu": self.enable_mediated_pmu,
            "guest_hz": self.guest_hz,
            "guest_kernel": self.guest_kernel,
            **(turns if self.vcpus else {}),
        }

    def placement(self) -> tuple[int, ...]:
        """Counters of the guest events: GP index, or 32 + m; -1 for all if they must take turns."""
        return placement(self.guest_requests(), self.guest_cpu)

    def filter_changes(self) -> tuple[tuple[int, EventFilter], ...]:
        """The design's event filters, each with the wall cycle from which it holds."""
        changes = []
        for at, made in self.design.filters():
            if made.vendor != self.cpu.vendor:
                raise ScenarioError(
                    f"an event filter for {made.vendor} does not fit {self.cpu.name}; make it one with vendor "
                    f"{self.cpu.vendor} (deny:branches:amd)"
                )
            cycle = int(at * self.cpu.core_hz.value + Fraction(1, 2))
            if cycle >= self.end_cycles:
                length = f"{float(self.seconds or 0):g} s"
                raise ScenarioError(f"event_filter: the change at {float(at):g} s is not before the end, {length}")
            changes.append((cycle, made))
        return tuple(changes)

    def refusal(self) -> str:
        """Why the design cannot be had; empty if it can."""
        if self.design.needs_opt_in and not self.enable_mediated_pmu:
            return (
                "nobody has opted in: KVM's module parameter enable_mediated_pmu is off, which is its default; the "
                "administrator sets it for all VMs when the module is loaded"
            )
        return self.unshared() or self.design.refusal(self.cpu, self.host_perf, self.vm_first)

    def unshared(self) -> str:
        """Why several vCPUs cannot share the logical CPU in this design; empty if they can."""
        if len(self.vcpus) < 2 or (self.design.has_host and not self.design.cedes_pmu):
            return ""
        return (
            f"{self.design.name} leaves the PMU to one guest, so no other vCPU can have a turn on its logical CPU "
            "(mediated,scope=vcpu-sched switches the PMU with the threads)"
        )

    def fails(self, event: HostEvent) -> bool:
        """Whether perf_event_open fails with EOPNOTSUPP: a mediated VM exists and the event includes guests."""
        if not self.design.excludes_include_guest:
            return False
        opened = admit(self.host_perf, self.vm_first)[1]
        return any(one == event and not success for one, success in zip(self.host_perf, opened, strict=True))


def _check_type(what: str, value: object, *types: type) -> None:
    if not isinstance(value, types):
        raise ScenarioError(f"{what} must be {' or '.join(t.__name__ for t in types)} or its name, not {value!r}")


def _check_simulated(model: CpuModel) -> None:
    """Refuse a CPU that has a PMU (``vpmu.Pmu``) but on which designs are not simulated."""
    what = ""
    if model.vendor == "intel" and model.version < 2:
        what = "a PMU of version 1"
    elif model.gp_mask > 0xFF or model.fixed_mask > 0xF:
        what = "a PMU with more than 8 general-purpose or 4 fixed counters"
    if what:
        raise ScenarioError(
            f"scenarios on {what} ({model.name}) are not simulated yet, only vpmu.Pmu is; use {', '.join(with_costs())}"
        )
    model.known_costs()


def _listed(what: str, value: object, parse: Callable[[str], object], example: str) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ScenarioError(f"{what} is a list, such as [{example!r}], not {value!r}")
    return tuple(parse(item) if isinstance(item, str) else item for item in value)


def _rates(scenario: Scenario, source: Workload) -> tuple[tuple[int, ...], ...]:
    """2**-32 events per cycle of every activity; halted cycles count nothing."""
    rows = []
    for activity, _ in ACTIVITIES:
        if activity == "idle":
            rows.append((0,) * len(EVENTS))
            continue
        given: EventRates = getattr(
            source,
            {"guest_user": "user", "guest_kernel": "kernel", "guest_handler": "handler", "blind": "hypervisor"}.get(
                activity, activity
            ),
        )
        table = given.as_dict()
        for event in ("cycles", "ref-cycles", "bus-cycles", "slots"):
            table[event] = scenario.cpu.rate_of(event)
        rows.append(tuple(table[event] for event in EVENTS))
    return tuple(rows)


def _exits(scenario: Scenario) -> tuple[tuple[PlannedExit, ...], Stream, Stream, Trace | None]:
    source = scenario.workload
    if not scenario.design.has_host:
        return (), _NO_STREAM, _NO_STREAM, None
    if isinstance(source, Recorded):
        if source.trace_seconds is not None or source.repeat:
            planned, trace = source.trace(scenario.cpu, scenario.cost_model())
            return planned, _NO_STREAM, _NO_STREAM, trace
        source = source.workload()
    costs = scenario.cpu.known_costs()
    calibrated = _calibrate.calibrate(
        source,
        core_hz=scenario.cpu.core_hz.value,
        transition=costs["vm_exit"].value + costs["vm_entry"].value,
        handling={kind: costs[f"handling_{kind}"].value for kind in (*KINDS, "hlt")},
    )
    # The gaps are those of the machine that was recorded; exits without a recorded time take what this one's costs say.
    mine = scenario.cost_model()
    planned = tuple(
        PlannedExit(
            e.reason,
            KINDS.index(e.kind),
            e.cpl,
            e.emulates,
            e.handling if e.handling_quality != "model" else mine[f"handling_{'hlt' if e.blocks else e.kind}"].value,
            e.idle,
        )
        for e in calibrated.kinds
    )
    c = calibrated
    work = Stream(c.work_mean_gap, c.work_threshold, c.work_alias, c.work_kinds, c.work_rates)
    wall = Stream(c.wall_mean_gap, c.wall_threshold, c.wall_alias, c.wall_kinds, c.wall_rates)
    return planned, work, wall, None


def _end(scenario: Scenario, trace: Trace | None, costs: CostModel) -> int:
    """Length of the run; a trace that is replayed once ends after its last exit."""
    if trace is None or trace.repeat or not len(trace.gap):
        return scenario.end_cycles
    transitions = len(trace.gap) * (costs["vm_exit"].value + costs["vm_entry"].value)
    last = trace.cycles_to_last + transitions
    return min(max(scenario.end_cycles, last + 1), MAX_CYCLES - 1)


def seeds(seed: int, vcpu: int = 0) -> dict[str, tuple[int, int, int]]:
    """One stream per (seed, scenario, vCPU, purpose); a scenario simulated alone is number 0, so is its only vCPU."""
    words = {}
    for purpose, name in enumerate(("work", "wall", "skid")):
        state = np.random.SeedSequence(seed, spawn_key=(0, vcpu, purpose)).generate_state(3, np.uint64).tolist()
        words[name] = (state[0], state[1], state[2])
    return words


def _host_event(event: HostEvent, scenario: Scenario) -> PlannedHostEvent:
    parsed = event.parsed
    gp, fixed = allowed_counters(parsed.name, scenario.cpu)
    if (scenario.fails(event) and not scenario.what_if) or scenario.design.cedes_pmu:
        gp = fixed = 0  # perf_event_open fails: there is no counter that could count it
    return PlannedHostEvent(
        parsed.index,
        parsed.code_on(scenario.cpu),
        gp,
        fixed,
        parsed.user,
        parsed.kernel,
        event.exclude_guest,
        event.exclude_host,
        event.pinned,
        event.task,
        event.first_period(scenario.cpu.core_hz.value),
        event.freq or 0,
        event != WATCHDOG,
    )


def plan(scenario: Scenario) -> Plan:
    """Reduce a scenario to integers."""
    design = scenario.design
    guest = scenario.guest_cpu
    source = scenario.workload.rates if isinstance(scenario.workload, Recorded) else scenario.workload
    exits, work, wall, trace = _exits(scenario)
    allowed = [allowed_counters(name, scenario.cpu) for name in EVENTS] + [(scenario.cpu.gp_mask, 0)]
    if scenario.host_perf and not design.has_host:
        host: tuple[PlannedHostEvent, ...] = ()
    else:
        host = tuple(_host_event(event, scenario) for event in scenario.host_perf)
    needs_full_width = bool(host) or design.backed_by_host_events
    if needs_full_width and not scenario.cpu.full_width_writes:
        raise ScenarioError(
            f"host perf on a CPU without full-width counter writes ({scenario.cpu.name}) is not simulated yet"
        )
    core_hz = scenario.cpu.core_hz.value
    guest_events = planned_events(scenario.guest_requests(), guest, core_hz, scenario.guest_kernel)
    costs = scenario.cost_model()
    filters = [(at, made.planned()) for at, made in scenario.filter_changes()]
    first = filters.pop(0)[1] if filters and not design.filters()[0][0] else None
    return Plan(
        design=design.name,
        options=design.options(),
        traps=design.traps(scenario.cpu, guest),
        cpu=scenario.cpu,
        guest_cpu=guest,
        gp_constraint=tuple(gp for gp, _ in allowed),
        fixed_constraint=tuple(fixed for _, fixed in allowed),
        end=_end(scenario, trace, costs),
        user_share=source.user_share,
        rates=_rates(scenario, source),
        costs={name: figure.value for name, figure in costs.items()},
        exits=exits,
        work=work,
        wall=wall,
        trace=trace,
        seeds=seeds(scenario.seed),
        guest_events=guest_events,
        host_events=host,
        sequence=design.switch_on(scenario.cpu),
        owns_hardware=design.owns_hardware,
        backed_by_host_events=design.backed_by_host_events,
        global_ctrl_in_exit_list=design.stores_global_ctrl(scenario.cpu, guest),
        mux_interval=scenario.cpu.core_hz.value * (1000 // scenario.host_hz) // 1000,
        tick=scenario.cpu.core_hz.value // scenario.host_hz,
        tick_ns=10**9 // scenario.host_hz,
        max_samples_per_tick=-(-MAX_SAMPLE_RATE // scenario.host_hz),
        guest_kernel=guest_kernel(scenario.guest_perf, guest_events, core_hz, scenario.guest_hz, scenario.guest_kernel),
        event_filter=first,
        filter_changes=tuple(filters),
        reactions=design.reactions,
        reference=design.reference,
        least_period=scenario.cpu.limit_period("instructions", 1),
    )


assert set(CODES) == set(EVENTS)
