"""What the guest's perf asks of the PMU, reduced to the integers of a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._cpu import CpuModel
from ._errors import ScenarioError
from ._events import Event, allowed_counters, parse_event, place
from ._perf import GuestPerf, GuestWatchdog, PerfRecord, PerfStat
from ._plan import GuestKernel, PlannedGuestEvent

#: CONFIG_HZ of Linux on x86.
GUEST_HZ = (100, 250, 300, 1000)
#: Most events of all perfs of a guest.
MAX_GUEST_EVENTS = 24

#: Numerators of the first period that Linux takes for a frequency (intel_pmu_freq_start_period()); all other events
#: are raw codes to it.
_START = {
    **dict.fromkeys(("instructions", "cycles", "cpu-cycles", "ref-cycles", "bus-cycles"), 500_000_000),
    **dict.fromkeys(("branches", "branch-instructions", "branch-misses"), 125_000_000),
    **dict.fromkeys(("cache-references", "cache-misses"), 25_000_000),
}
_START_RAW = 256_000


@dataclass(frozen=True)
class Request:
    """One event that somebody in the guest has opened.

    Parameters
    ----------
    event : Event
    perf : PerfStat, PerfRecord or GuestWatchdog
    leader : int
        Index of its group's first event, its own without a group.
    samples, reads_group : bool
        Of ``{a,b}:S`` only a samples, and reads b.
    """

    event: Event
    perf: GuestPerf
    leader: int
    samples: bool = True
    reads_group: bool = False

    @property
    def pinned(self) -> bool:
        """It always counts."""
        return isinstance(self.perf, GuestWatchdog)

    @property
    def frequency(self) -> int:
        """Samples per second, 0 without a frequency."""
        return self.perf.freq if isinstance(self.perf, PerfRecord) and self.samples else 0

    @property
    def fixed_period(self) -> int:
        """Period of a sampling event that stays as it is; 0 for others."""
        return self.perf.period if isinstance(self.perf, PerfRecord) and self.samples else 0


def requests(perfs: Sequence[GuestPerf]) -> tuple[Request, ...]:
    """All events of the guest in the order in which they are opened."""
    found: list[Request] = []
    for perf in perfs:
        for group, alone in zip(perf.groups, perf.leaders_sample, strict=True):
            leader = len(found)
            first, *others = group
            found.append(Request(parse_event(first), perf, leader, reads_group=alone))
            found += [Request(parse_event(name), perf, leader, samples=not alone) for name in others]
    return tuple(found)


def kernel_version(text: str) -> tuple[int, int]:
    """Major and minor number of the guest's Linux."""
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text) if isinstance(text, str) else None
    if match is None:
        raise ScenarioError(f"guest_kernel {text!r} must be a version of Linux such as '6.14'")
    version = int(match[1]), int(match[2])
    if version < (6, 2):
        raise ScenarioError(f"guest_kernel {text!r}: Linux before 6.2 is not simulated; its ticks made other accesses")
    return version


def check_perfs(perfs: Sequence[GuestPerf], hz: int, kernel: str) -> None:
    """Refuse what one guest cannot have.

    Raises
    ------
    ScenarioError
    """
    if isinstance(hz, bool) or hz not in GUEST_HZ:
        raise ScenarioError(f"guest_hz {hz!r} must be one of {', '.join(map(str, GUEST_HZ))} (CONFIG_HZ)")
    kernel_version(kernel)
    events = requests(perfs)
    if len(events) > MAX_GUEST_EVENTS:
        raise ScenarioError(f"{len(events)} events of guest_perf: at most {MAX_GUEST_EVENTS} are simulated")
    if sum(isinstance(perf, GuestWatchdog) for perf in perfs) > 1:
        raise ScenarioError("guest_perf: a guest has one watchdog")
    for name, values in (
        ("interval", {perf.interval for perf in perfs if isinstance(perf, PerfStat) and perf.interval}),
        ("task", {perf.task for perf in perfs if perf.task is not None}),
        ("threads", {perf.threads for perf in perfs if perf.task is not None}),
    ):
        if len(values) > 1:
            several = " and ".join(f"{name}={value}" for value in sorted(values))
            raise ScenarioError(f"guest_perf: {several} in one guest are not simulated; give all the same")


def placement(events: Sequence[Request], cpu: CpuModel) -> tuple[int, ...]:
    """Counters of the events: GP index, or 32 + m; -1 for all if there are more events than counters.

    Raises
    ------
    ScenarioError
        For an event that no counter can count, and a group that does not fit the PMU alone.
    """
    # Pinned events are on the PMU before all others.
    order = sorted(range(len(events)), key=lambda i: not events[i].pinned)
    placed = place([events[i].event for i in order], cpu)
    if placed is not None:
        return tuple(counter for _, counter in sorted(zip(order, placed, strict=True)))
    for leader in {request.leader for request in events}:
        group = [request.event for request in events if request.leader == leader]
        if place(group, cpu) is None:
            raise ScenarioError(
                f"group {{{','.join(event.text for event in group)}}} does not fit {cpu.gp_counters} GP and "
                f"{cpu.fixed_counters} fixed counters: perf_event_open fails with EINVAL; take events out of it"
            )
    return (-1,) * len(events)


def _start_period(event: Event, frequency: int, version: tuple[int, int], cpu: CpuModel) -> int:
    if version < (6, 14) or cpu.vendor == "amd":
        return 1
    name = event.text.partition(":")[0]
    return max(-(-_START.get(name, _START_RAW) // frequency) - 1, 1)


def planned_events(
    events: Sequence[Request], cpu: CpuModel, core_hz: int, kernel: str
) -> tuple[PlannedGuestEvent, ...]:
    """Events of the plan.

    Raises
    ------
    ScenarioError
        For a period that no counter of the guest can be armed with.
    """
    longest = (1 << (cpu.gp_width - 1 if cpu.full_width_writes else 31)) - 1
    version = kernel_version(kernel)
    planned = []
    for i, (request, counter) in enumerate(zip(events, placement(events, cpu), strict=True)):
        event, perf = request.event, request.perf
        period = request.fixed_period
        if period > longest:
            raise ScenarioError(f"period {period} is above {longest}, the longest that {cpu.name} can arm")
        if request.frequency:
            period = _start_period(event, request.frequency, version, cpu)
        if request.pinned:
            period = GuestWatchdog.THRESHOLD * core_hz
        gp, fixed = allowed_counters(event.name, cpu) if counter < 0 else (0, 0)
        planned.append(
            PlannedGuestEvent(
                event=event.index,
                selector=event.code_on(cpu) | event.user << 16 | event.kernel << 17 | 1 << 20,
                counter=counter,
                user=event.user,
                kernel=event.kernel,
                period=period,
                gp_mask=gp,
                fixed_mask=fixed,
                frequency=request.frequency,
                leader=-1 if request.leader == i else request.leader,
                pinned=request.pinned,
                task=perf.task is not None,
                interval=isinstance(perf, PerfStat) and perf.interval > 0,
                reads_group=request.reads_group,
            )
        )
    return tuple(planned)


def guest_kernel(
    perfs: Sequence[GuestPerf], events: Sequence[PlannedGuestEvent], core_hz: int, hz: int, kernel: str
) -> GuestKernel:
    """Timers that these events need."""
    throttled = any(isinstance(perf, PerfRecord) and perf.throttle for perf in perfs)
    ticks = throttled or any(event.frequency for event in events)
    return GuestKernel(
        core_hz=core_hz,
        hz=hz if ticks and events else 0,
        tick_per_event=kernel_version(kernel) < (6, 10),
        rotation_ms=1000 // hz if any(event.counter < 0 for event in events) else 0,
        interval_ms=max((perf.interval for perf in perfs if isinstance(perf, PerfStat)), default=0),
        switches=max((perf.task or 0 for perf in perfs), default=0),
        clones=any(perf.threads for perf in perfs),
    )
