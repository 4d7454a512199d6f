"""Benchmarks: each group has its references; only ratios within one run mean anything."""

import dataclasses

import pytest

import vpmu
from vpmu._plan import Plan
from vpmu._scenario import plan

LIVE = "stat:instructions,cycles,ref-cycles," + ",".join(
    ["branches", "branch-misses", "cache-references", "cache-misses"] * 2
)


def _switching_plan(seconds: str, live: bool = True) -> Plan:
    """A full switch of 8 GP + 3 fixed counters at every exit: one kind of kernel exit, 80,000 a second.

    The hypervisor emulates no instruction in it, as the limit does not.
    """
    fio = vpmu.workload("fio-4k-read")
    only = dataclasses.replace(fio, exits=tuple(e for e in fio.exits if e.reason == "EPT_MISCONFIG"))
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=vpmu.Mediated(scope="every-exit"),
        workload=only,
        guest_perf=(LIVE,) if live else (),
        seconds=seconds,
    )
    planned = plan(scenario)
    return dataclasses.replace(planned, exits=tuple(dataclasses.replace(e, emulates=False) for e in planned.exits))


@pytest.fixture
def report_rate(benchmark):
    """Put nanoseconds per operation into the report; the minimum is what the machine can do.

    ``limit``: the others of the group are compared with this one (``compare_runs.py``).
    """

    def report(operations: int, limit: bool = False) -> None:
        if benchmark.stats is not None:
            benchmark.extra_info["limit"] = limit
            benchmark.extra_info["ns_per_operation"] = benchmark.stats.stats.min / operations * 1e9
            benchmark.extra_info["operations_per_second"] = operations / benchmark.stats.stats.min

    return report


@pytest.fixture(scope="session")
def switching_plan():
    """Make plans with a full switch at every exit."""
    return _switching_plan
