"""Engines by designs by live counters by kinds of exits; each cell against the loop that does only what it must."""

import dataclasses

import pytest

import vpmu
from vpmu.reference import machine as slow

#: Kind of an exit, whether it emulates an instruction, whether it blocks.
KINDS = {
    "fastpath": (0, False, 0),
    "kernel": (1, False, 0),
    "userspace": (2, False, 0),
    "emulating": (1, True, 0),
    "blocking": (1, False, 3000),
}
#: A guest in a design without exits runs on, and is not measured here.
DESIGNS = [name for name in vpmu.designs() if vpmu.design(name).has_host]


@pytest.fixture(scope="module")
def cell(quiet):
    def planned(design, counters, kind, seconds="0.5"):
        base = quiet(design, counters if vpmu.design(design).has_guest_pmu else 0, seconds)
        number, emulates, idle = KINDS[kind]
        exits = (dataclasses.replace(base.exits[0], kind=number, emulates=emulates, idle=idle), *base.exits[1:])
        return dataclasses.replace(base, exits=exits)

    return planned


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counters", [0, 2, 11])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.benchmark(group="matrix, lazy")
def test_lazy(measure, cell, run, limits, exits_of, design, counters, kind):
    planned = cell(design, counters, kind)
    result = measure(run, planned, operations=exits_of, limit=limits["draw"])
    assert result == run(planned, "stepwise")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counters", [0, 2, 11])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.benchmark(group="matrix, stepwise")
def test_stepwise(measure, cell, run, limits, exits_of, design, counters, kind):
    planned = cell(design, counters, kind, "0.02")
    result = measure(run, planned, "stepwise", operations=exits_of, limit=limits["switch"])
    assert sum(result["exits"]) > 100
    assert all(row["value"] + sum(row["losses"].values()) >= row["ideal"] for row in result["counters"])


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.benchmark(group="matrix, python")
def test_python(measure, cell, run, limits, exits_of, design):
    planned = cell(design, 2, "kernel", "0.001")
    result = measure(slow.run, planned, operations=exits_of, limit=limits["switch"])
    compiled = run(planned, "stepwise")
    assert compiled.pop("stray_counts") == 0
    assert result == compiled
