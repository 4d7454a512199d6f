"""A scenario reduced to integers: the one input of the compiled machine and of the slow reference machine.

``docs/machine.md`` says what a machine does with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vpmu_core.traceindex import BANKS, CHUNK, sum_chunks

from ._cpu import CpuModel
from ._events import EVENTS
from ._mapped import blocks, release
from ._sequences import Sequence

#: The index that counts nothing.
NO_EVENT = len(EVENTS)

#: Activities in the order of their index, with the privilege level at which their code runs.
ACTIVITIES: tuple[tuple[str, int], ...] = (
    ("guest_user", 3),
    ("guest_kernel", 0),
    ("guest_handler", 0),
    ("hypervisor", 0),
    ("blind", 0),
    ("host_task", 3),
    ("idle", 0),
)

#: Guest accesses that a design may trap, in the order of their bit in ``Plan.traps``.
ACCESSES: tuple[str, ...] = (
    "counter",  # WRMSR of a GP or fixed counter
    "selector",  # WRMSR of an event selector
    "fixed_ctr_ctrl",  # WRMSR of IA32_FIXED_CTR_CTRL
    "global_ctrl",  # WRMSR of IA32_PERF_GLOBAL_CTRL
    "global_status",  # RDMSR of IA32_PERF_GLOBAL_STATUS
    "global_ovf_ctrl",  # WRMSR of IA32_PERF_GLOBAL_OVF_CTRL (STATUS_RESET)
    "rdpmc",
    "lvtpc",  # WRMSR of the x2APIC LVTPC
)


@dataclass(frozen=True)
class PlannedExit:
    """One kind of exit of the plan, in cycles."""

    reason: str
    kind: int
    cpl: int
    emulates: bool
    handling: int
    idle: int


@dataclass(frozen=True)
class Stream:
    """A source of exits: mean gap in cycles (0: never), and an alias table over ``kinds``.

    With ``rates``, in 2**-48 exits per cycle for each of ``kinds``, arrivals are regular and nothing is drawn.
    """

    mean_gap: int
    threshold: tuple[int, ...]
    alias: tuple[int, ...]
    kinds: tuple[int, ...]
    rates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Recorded exits, replayed in order.

    Parameters
    ----------
    gap : ndarray of int64, shape (n,)
        Guest cycles before each exit.
    kind : ndarray of uint16, shape (n,)
        Index into ``Plan.exits``.
    handling, idle : ndarray of int64, shape (n,)
        Cycles of handling and of blocking.
    repeat : bool
        Start again at the end.
    """

    gap: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint16]
    handling: npt.NDArray[np.int64]
    idle: npt.NDArray[np.int64]
    repeat: bool

    def chunks(self, bounds: tuple[int, ...]) -> tuple[npt.NDArray[Any], ...]:
        """Sums over chunks of exits, made once for all machines that replay the trace: for the lazy engine.

        Parameters
        ----------
        bounds : tuple of int
            Of each exit kind, the cycles of handling up to which it is summed apart.

        Returns
        -------
        tuple of ndarray
            Sums of gap and of idle, shape (chunks,); exits, sums of handling and of the part of it within the bound,
            shape (chunks, 2 * kinds): first of the exits that do not block, then of those that do.
        """
        made: dict[tuple[int, ...], tuple[npt.NDArray[Any], ...]] = self.__dict__.setdefault("_chunks", {})
        if bounds not in made:
            n = self.gap.size // CHUNK
            by_kind = (n, 2 * len(bounds))
            sums = (
                np.zeros(n, np.uint64),
                np.zeros(n, np.uint64),
                np.zeros(by_kind, np.uint32),
                np.zeros(by_kind, np.uint64),
                np.zeros(by_kind, np.uint64),
            )
            bound, bank = np.array(bounds * 2, np.int64), np.empty((BANKS, 2 * len(bounds)), np.uint64)
            for rows in blocks(n * CHUNK, self.gap, self.kind, self.handling, self.idle):
                gap, handling, idle = (
                    np.ascontiguousarray(c[rows], np.int64) for c in (self.gap, self.handling, self.idle)
                )
                kind = np.ascontiguousarray(self.kind[rows], np.uint16)
                part: list[Any] = [column[rows.start // CHUNK : rows.stop // CHUNK] for column in sums]
                sum_chunks(gap, kind, handling, idle, bound, bank, *part)
            made.clear()  # other costs, other CPU: the last ones are enough
            made[bounds] = sums
        return made[bounds]

    @property
    def cycles_to_last(self) -> int:
        """Cycles from the start to the last exit, without transitions; the exits before it are handled by then."""
        return self._totals[0]

    @property
    def blocking(self) -> int:
        """Exits that idle."""
        return self._totals[1]

    @cached_property
    def _totals(self) -> tuple[int, int]:
        cycles = blocking = 0
        for rows in blocks(len(self.gap), self.gap, self.handling, self.idle):
            cycles += int(self.gap[rows].sum()) + int(self.handling[rows].sum()) + int(self.idle[rows].sum())
            blocking += int(np.count_nonzero(self.idle[rows]))
        return cycles - (int(self.handling[-1]) + int(self.idle[-1]) if len(self.gap) else 0), blocking

    def blocking_before(self, count: int) -> int:
        """How many of the first exits idle."""
        return sum(int(np.count_nonzero(self.idle[rows])) for rows in blocks(count, self.idle))

    def release(self) -> None:
        """Give back the pages of the columns that have been read, if they are mapped."""
        release(self.gap, self.kind, self.handling, self.idle)


@dataclass(frozen=True)
class PlannedGuestEvent:
    """An event of the guest's perf on its counter.

    Parameters
    ----------
    counter : int
        GP index, or 32 + m for fixed counter m; -1 if it takes what is free when its turn comes.
    period : int
        0 for counting; with ``frequency`` the first one.
    gp_mask, fixed_mask : int
        Counters that it may use; both 0: ``counter`` alone.
    frequency : int
        Samples per second; 0: the period is fixed.
    leader : int
        Index of its group's first event, -1 without a group; a group's events follow each other.
    pinned : bool
        A counter of the guest's kernel that always counts: the NMI watchdog.
    task : bool
        Of a task, which context switches take off the CPU; otherwise of the CPU.
    interval : bool
        Read by the interval timer.
    reads_group : bool
        Its samples have the counts of all events of its group.
    """

    event: int
    selector: int
    counter: int
    user: bool
    kernel: bool
    period: int
    gp_mask: int = 0
    fixed_mask: int = 0
    frequency: int = 0
    leader: int = -1
    pinned: bool = False
    task: bool = False
    interval: bool = False
    reads_group: bool = False


@dataclass(frozen=True)
class GuestKernel:
    """What the guest's kernel does by the clock.

    Parameters
    ----------
    core_hz : int
        Wall cycles per second.
    hz : int
        Ticks per second; 0 if no event needs one.
    tick_per_event : bool
        A tick disables and enables the PMU for each event (before Linux 6.10).
    rotation_ms, interval_ms : int
        Of multiplexing and of ``perf stat -I``; 0: never.
    switches : int
        Context switches per second.
    clones : bool
        They are between threads of the task, whose contexts Linux swaps.
    max_sample_rate, cpu_time_max_percent : int
        Sysctls ``kernel.perf_event_max_sample_rate`` and ``kernel.perf_cpu_time_max_percent``.
    """

    core_hz: int = 1_000_000_000
    hz: int = 0
    tick_per_event: bool = False
    rotation_ms: int = 0
    interval_ms: int = 0
    switches: int = 0
    clones: bool = False
    max_sample_rate: int = 100_000
    cpu_time_max_percent: int = 25


@dataclass(frozen=True)
class PlannedAccess:
    """An access of guest software other than perf: one of :data:`ACCESSES`, after ``gap`` cycles of its own code."""

    gap: int
    access: str
    counter: int = 0
    value: int = 0


@dataclass(frozen=True)
class PlannedHostEvent:
    """An event of the host, with the counters it may use; ``task``: of the vCPU's thread.

    ``period`` is 0 for counting, and with ``freq`` the first of many.
    """

    event: int
    selector: int
    gp_mask: int
    fixed_mask: int
    user: bool
    kernel: bool
    exclude_guest: bool
    exclude_host: bool
    pinned: bool = True
    task: bool = False
    period: int = 0
    freq: int = 0
    throttles: bool = True


@dataclass(frozen=True)
class PlannedFilter:
    """An event filter: masked entries by event select, and the bitmap of fixed counters."""

    allow: bool
    includes: tuple[int, ...]
    excludes: tuple[int, ...]
    event_bits: int
    fixed_counter_bitmap: int


@dataclass(frozen=True)
class Plan:
    """Everything a machine needs; all integers.

    Parameters
    ----------
    design : str
        Its name; what it does is in ``reactions`` and ``reference``.
    options : dict of str to str or bool
        Those of the design, for its own modules.
    traps : frozenset of str
        Guest accesses of :data:`ACCESSES` that exit.
    cpu, guest_cpu : CpuModel
        The hardware's PMU and the guest's.
    gp_constraint : tuple of int
        For each event index and once more for ``NO_EVENT``: GP counters that a host event may use.
    fixed_constraint : tuple of int
        The same for fixed counters.
    end : int
        Wall cycles, < 2**43.
    user_share : int
        0 to 2**32.
    rates : tuple of tuple of int
        ``rates[activity][event]``, 2**-32 events per cycle.
    costs : dict of str to int
        Cycles of each primitive of ``COST_NAMES``.
    exits : tuple of PlannedExit
    work, wall : Stream
    trace : Trace or None
        Replaces ``work``.
    seeds : dict of str to tuple of int
        Three 64-bit seeds of SFC64 for ``work``, ``wall`` and ``skid``.
    guest_events, host_events : tuples
    sequence : Sequence or None
    owns_hardware : bool
        The guest's PMU is the hardware's own.
    backed_by_host_events : bool
        What counts for the guest are host perf events, which may find no counter.
    global_ctrl_in_exit_list : bool
        Every exit stores GLOBAL_CTRL through the VM-exit MSR list.
    mux_interval : int
        Wall cycles between two rotations of the host's flexible events.
    tick, tick_ns : int
        The host's tick, in wall cycles and in nanoseconds.
    max_samples_per_tick : int
        Samples of one host event in one tick after which it is throttled.
    guest_kernel : GuestKernel
        Timers of the guest's kernel.
    event_filter : PlannedFilter or None
        In place before the vCPU runs.
    filter_changes : tuple of (int, PlannedFilter)
        Filters that replace it at these wall cycles, in their order.
    reactions : str
        Compiled module of the design; empty for ``vpmu_core.designs`` and the name.
    reference : str
        ``MODULE:CLASS`` of the design in the slow machine; empty for that of the registered design of this name.
    least_period : int
        Shortest sampling period that host perf accepts on this CPU.
    program : tuple of PlannedAccess
        What guest software other than perf does to the PMU before the workload begins.
    """

    design: str
    options: dict[str, str | bool]
    traps: frozenset[str]
    cpu: CpuModel
    guest_cpu: CpuModel
    gp_constraint: tuple[int, ...]
    fixed_constraint: tuple[int, ...]
    end: int
    user_share: int
    rates: tuple[tuple[int, ...], ...]
    costs: dict[str, int]
    exits: tuple[PlannedExit, ...]
    work: Stream
    wall: Stream
    trace: Trace | None
    seeds: dict[str, tuple[int, int, int]]
    guest_events: tuple[PlannedGuestEvent, ...]
    host_events: tuple[PlannedHostEvent, ...]
    sequence: Sequence | None
    owns_hardware: bool
    backed_by_host_events: bool
    global_ctrl_in_exit_list: bool
    mux_interval: int = 1 << 23
    tick: int = 1 << 23
    tick_ns: int = 4_000_000
    max_samples_per_tick: int = 400
    guest_kernel: GuestKernel = GuestKernel()
    event_filter: PlannedFilter | None = None
    filter_changes: tuple[tuple[int, PlannedFilter], ...] = ()
    reactions: str = ""
    reference: str = ""
    least_period: int = 1
    program: tuple[PlannedAccess, ...] = ()
