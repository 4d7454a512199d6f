"""A scenario reduced to integers: the one input of the compiled machine and of the slow reference machine.

``docs/machine.md`` says what a machine does with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._cpu import CpuModel
from ._events import EVENTS
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


@dataclass(frozen=True)
class PlannedGuestEvent:
    """An event of the guest's perf on its counter.

    ``counter`` is the GP index, or 32 + m for fixed counter m. ``period`` is 0 for counting.
    """

    event: int
    selector: int
    counter: int
    user: bool
    kernel: bool
    period: int


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
class Plan:
    """Everything a machine needs; all integers.

    Parameters
    ----------
    design : str
        ``none``, ``bare-metal``, ``emulated``, ``mediated`` or ``dedicated``.
    options : dict of str to str or bool
        ``scope`` (mediated), ``reuse`` (emulated).
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
