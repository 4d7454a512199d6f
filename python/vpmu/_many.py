"""Many scenarios in one call, on several threads: structured arrays in and out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vpmu_core.batch import COLUMNS, GUEST_COLUMNS, HOST_COLUMNS, TOTALS, Template

from ._cpu import Skid
from ._errors import ScenarioError, UnknownName
from ._perf import PerfRecord
from ._plan import Plan
from ._recorded import Recorded
from ._result import Result
from ._scenario import MAX_CYCLES, Scenario, plan
from ._simulate import simulate

#: Rows that a thread takes at a time: enough to hide the hand-over, few enough to share the work out.
_MOST_ROWS_AT_ONCE = 64
_TURNS = 4  # of each thread, at least, where there are so many rows
#: Where a value may lie, by name; every other name is a cost in cycles.
_BOUNDS = {
    "seed": (0, (1 << 64) - 1),
    "cycles": (1, MAX_CYCLES - 1),
    "period": (1, (1 << 47) - 1),
    "skid_minimum": (0, (1 << 32) - 1),
    "skid_maximum": (0, (1 << 32) - 1),
}
#: Parts of a plan that take most of its memory, 10 KiB, and are often those of another one.
_SHARED = (
    *("options", "traps", "guest_cpu", "gp_constraint", "fixed_constraint", "rates", "costs", "exits", "work", "wall"),
    *("guest_events", "host_events", "guest_kernel"),
)
_GUEST = ("value", "ideal", "samples", "losses", "gains")
_HOST = ("host_value", "host_ideal", "host_losses", "host_gains")


@dataclass(frozen=True, eq=False)
class Batch:
    """What :func:`simulate_many` returns.

    Parameters
    ----------
    rows : ndarray, shape (n,)
        One structured row a scenario, uint64 throughout: ``cycles`` (wall), the clocks of the activities
        (``guest_user`` … ``idle``), ``exits``, ``pmu_exits``, ``host_interrupts``, ``switches``, ``refused``,
        ``handlers``, ``reprograms``, register accesses ``rdmsr``, ``rdpmc``, ``wrmsr`` of set-up, run and read-out,
        PMIs ``raised`` … ``skid_past_exit``, ``stopped`` (1: no-progress); ``value``, ``ideal``, ``samples``,
        ``losses``, ``gains`` of each guest event, and ``host_value``, ``host_ideal``, ``host_losses``,
        ``host_gains`` of each host event, as subarrays (0 beyond a scenario's own events).
    """

    rows: npt.NDArray[np.void]
    _scenarios: tuple[Scenario, ...]
    _parameters: npt.NDArray[np.void] | None

    def __len__(self) -> int:
        return len(self.rows)

    def scenario(self, i: int) -> Scenario:
        """The scenario of a row.

        Parameters
        ----------
        i : int
            Row, 0 to n - 1.

        Raises
        ------
        IndexError
            For a row that does not exist.
        ScenarioError
            For what is no number of a row.
        """
        if isinstance(i, bool) or not isinstance(i, (int, np.integer)):
            raise ScenarioError(f"row {i!r} must be an integer from 0 to {len(self.rows) - 1}")
        if not 0 <= i < len(self.rows):
            raise IndexError(f"row {i} of {len(self.rows)}")
        if self._parameters is None:
            return self._scenarios[i]
        return _apply(self._scenarios[0], {name: int(self._parameters[name][i]) for name in _names(self._parameters)})

    def result(self, i: int) -> Result:
        """The full result of a row, simulated once more: the same integers."""
        return simulate(self.scenario(i))


def _names(parameters: npt.NDArray[np.void]) -> tuple[str, ...]:
    return parameters.dtype.names or ()


def _apply(scenario: Scenario, values: dict[str, int]) -> Scenario:
    changes: dict[str, Any] = {}
    costs = dict(scenario.costs)
    skid = scenario.cpu.skid
    for name, value in values.items():
        if name == "seed":
            changes["seed"] = value
        elif name == "cycles":
            changes["seconds"] = Fraction(value, scenario.cpu.core_hz.value)
        elif name == "period":
            changes["guest_perf"] = tuple(
                replace(perf, period=value) if isinstance(perf, PerfRecord) else perf for perf in scenario.guest_perf
            )
        elif name in ("skid_minimum", "skid_maximum"):
            low = values.get("skid_minimum", skid.minimum)
            high = values.get("skid_maximum", skid.maximum)
            changes["cpu"] = replace(scenario.cpu, skid=Skid(low, high))
        else:
            costs[name] = value
    return replace(scenario, costs=costs, **changes)


def _check_parameters(scenario: Scenario, parameters: npt.NDArray[np.void]) -> None:
    if not isinstance(parameters, np.ndarray) or parameters.ndim != 1 or not _names(parameters):
        raise ScenarioError("parameters must be a structured array of one dimension, one row a scenario")
    if isinstance(parameters, np.ma.MaskedArray):
        raise ScenarioError("parameters are masked, but every row is simulated: give parameters[~mask].data")
    once = isinstance(scenario.workload, Recorded) and scenario.workload.trace_seconds is not None
    for name in _names(parameters):
        if name not in COLUMNS:
            raise UnknownName("parameter", name, COLUMNS)
        column = parameters[name]
        if column.dtype.kind not in "ui" or column.ndim != 1:
            raise ScenarioError(f"parameter {name}: must be integers, not {column.dtype}")
        low, high = _BOUNDS.get(name, (0, (1 << 40) - 1))
        if len(column) and not low <= int(column.min()) <= int(column.max()) <= high:
            odd = int(column.min()) if int(column.min()) < low else int(column.max())
            raise ScenarioError(f"parameter {name}: {odd} must be an integer from {low} to {high}")
        if name.startswith("handling_"):
            raise ScenarioError(f"parameter {name}: handling times are planned with a scenario; give several scenarios")
        if once and name in ("cycles", "vm_exit", "vm_entry"):
            raise ScenarioError(f"parameter {name}: a trace that is replayed once has a length of its own; use repeat")
        changes = scenario.filter_changes() if name == "cycles" and len(column) else ()
        if changes and int(column.min()) <= max(at for at, _ in changes):
            raise ScenarioError(
                f"parameter cycles: {int(column.min())} is not after the last change of the event filter"
            )
        if name == "period" and not any(isinstance(perf, PerfRecord) for perf in scenario.guest_perf):
            raise ScenarioError("parameter period: nothing is recorded in the guest; use record:… in guest_perf")
        if name == "period" and any(isinstance(perf, PerfRecord) and perf.freq for perf in scenario.guest_perf):
            raise ScenarioError("parameter period: guest_perf records by frequency; use record:…:period=N")
    skid = scenario.cpu.skid
    names = _names(parameters)
    low_skid = parameters["skid_minimum"] if "skid_minimum" in names else np.full(1, skid.minimum)
    high_skid = parameters["skid_maximum"] if "skid_maximum" in names else np.full(1, skid.maximum)
    crossed = np.flatnonzero(low_skid > high_skid)
    if len(crossed):
        row = int(crossed[0])
        skids = [column[row % len(column)] for column in (low_skid, high_skid)]
        raise ScenarioError(f"parameters, row {row}: skid_minimum {skids[0]} is above skid_maximum {skids[1]}")


def _checked(scenario: Scenario, where: str) -> Scenario:
    if not isinstance(scenario, Scenario):
        raise ScenarioError(f"{where} must be a Scenario, not {scenario!r}")
    if scenario.vcpus:
        raise ScenarioError(f"{where}: several vCPUs are not simulated in batches; use vpmu.simulate()")
    refusal = scenario.refusal()
    if refusal and not scenario.what_if:
        raise ScenarioError(f"{where}: {refusal}")
    return scenario


def _dtype(guests: int, hosts: int) -> np.dtype[np.void]:
    return np.dtype(
        [(name, "<u8") for name in TOTALS]
        + [(name, "<u8", (guests,)) for name in _GUEST]
        + [(name, "<u8", (hosts,)) for name in _HOST]
    )


def _fill(rows: npt.NDArray[np.void], raw: npt.NDArray[np.uint64], guests: int) -> None:
    """Put the core's columns into their fields."""
    for i, name in enumerate(TOTALS):
        rows[name] = raw[:, i]
    split = len(TOTALS) + GUEST_COLUMNS * guests
    for i, name in enumerate(_GUEST):
        values = raw[:, len(TOTALS) + i : split : GUEST_COLUMNS]
        rows[name][:, : values.shape[1]] = values
    for i, name in enumerate(_HOST):
        values = raw[:, split + i :: HOST_COLUMNS]
        rows[name][:, : values.shape[1]] = values


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pieces(n: int, workers: int) -> Iterator[slice]:
    rows = max(1, min(_MOST_ROWS_AT_ONCE, n // (_TURNS * workers)))
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _sharing(planned: Plan, before: Plan) -> Plan:
    """Return the plan with those parts of the plan before that are equal: of many scenarios, most are."""
    parts = ((name, getattr(planned, name), getattr(before, name)) for name in _SHARED)
    return replace(planned, **{name: other for name, mine, other in parts if mine is not other and mine == other})


def simulate_many(
    scenarios: Scenario | Sequence[Scenario],
    parameters: npt.NDArray[np.void] | None = None,
    *,
    threads: int | None = None,
    engine: str = "lazy",
) -> Batch:
    """Simulate many scenarios.

    Parameters
    ----------
    scenarios : Scenario, or sequence of Scenario
        One, of which ``parameters`` makes n; or one a row.
    parameters : ndarray, shape (n,), optional
        Structured array of integers, whose fields replace: ``seed``, ``cycles`` (wall cycles of the run: seconds times
        the CPU's ``core_hz``), ``period`` (of everything that the guest records), ``skid_minimum``, ``skid_maximum``,
        and any cost by its name (``wrmsr``, ``vm_exit`` …; cycles), those of handling times apart.
    threads : int, optional
        How many work; default as many as this process may use CPUs. Neither their number nor the order changes a row.
    engine : {"lazy", "stepwise"}
        As in :func:`simulate`.

    Returns
    -------
    Batch
        ``rows`` has one row a scenario; ``result(i)`` makes a full result of one.

    Raises
    ------
    UnknownName, ScenarioError
        Naming the parameter or the scenario, its value and the bound; nothing has been simulated.
    """
    if engine not in ("lazy", "stepwise"):
        raise UnknownName("engine", engine, ("lazy", "stepwise"))
    workers = _cpus() if threads is None else threads
    if isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or not 1 <= workers <= 1024:
        raise ScenarioError(f"threads {threads!r} must be an integer from 1 to 1024")
    if isinstance(scenarios, Scenario):
        mine: tuple[Scenario, ...] = (_checked(scenarios, "the scenario"),)
        if parameters is not None:
            _check_parameters(scenarios, parameters)
    else:
        if parameters is not None:
            raise ScenarioError("parameters belong to one scenario; give one, or put them into the scenarios")
        if not isinstance(scenarios, Iterable):
            raise ScenarioError(f"scenarios must be a Scenario or several, not {scenarios!r}")
        mine = tuple(_checked(scenario, f"scenario {i}") for i, scenario in enumerate(scenarios))
    plans: list[Plan] = []
    for scenario in mine:
        planned = plan(scenario)
        plans.append(_sharing(planned, plans[-1]) if plans else planned)
    guests = max((len(planned.guest_events) for planned in plans), default=0)
    hosts = max((len(planned.host_events) for planned in plans), default=0)
    names = () if parameters is None else _names(parameters)
    columns = np.array([COLUMNS[name] for name in names], dtype=np.uint32)
    n = len(plans) if parameters is None else len(parameters)
    rows = np.zeros(n, dtype=_dtype(guests, hosts))
    values = np.zeros((n, len(names)), dtype=np.uint64)
    for i, name in enumerate(names):
        assert parameters is not None
        values[:, i] = parameters[name].astype(np.uint64)

    def work(template: Template, which: slice, guests: int) -> None:
        raw = np.zeros((which.stop - which.start, template.columns), dtype=np.uint64)
        running.add(template)
        if ended:
            return  # nobody would cancel this one any more
        template.run(columns, values[which], raw)
        _fill(rows[which], raw, guests)

    def work_on(i: int) -> None:
        template = Template(plans[i], engine == "lazy")
        work(template, slice(i, i + 1), len(plans[i].guest_events))
        running.discard(template)

    running: set[Template] = set()
    ended = False
    with ThreadPoolExecutor(int(workers)) as pool:
        try:
            if parameters is None:
                jobs = [pool.submit(work_on, i) for i in range(n)]
            else:
                template = Template(plans[0], engine == "lazy")
                jobs = [pool.submit(work, template, which, guests) for which in _pieces(n, workers)]
            for job in jobs:
                job.result()
        except BaseException:
            ended = True
            pool.shutdown(wait=False, cancel_futures=True)
            for template in tuple(running):
                template.cancel()
            raise
    return Batch(rows, mine, parameters if parameters is None else parameters.copy())
