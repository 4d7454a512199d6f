"""Switch sequences of any shape, compiled to blocks: the core does what the steps say, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_plans import plans
from machine_runs import fast as run

import vpmu
from vpmu._scenario import plan
from vpmu._sequences import sequence
from vpmu.reference import machine as slow

BASE = sequence("linux-7.0")
AMD = sequence("linux-7.0-amd")
STATUS = {"op": "rdmsr", "register": "global_status"}
GP = {"for": "gp", "do": [{"op": "rdpmc", "save": True}]}
ZERO_FIXED = {"op": "wrmsr", "register": "fixed_ctr_ctrl", "value": "zero"}


@st.composite
def steps(draw: Any, half: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """A half with steps left out, doubled and moved; host perf keeps its places, first in a load and last in a put."""
    perf = [step for step in half if step.get("op", "").startswith("perf_")]
    others = [step for step in half if step not in perf]
    some = draw(st.lists(st.sampled_from(others), min_size=1, max_size=12))
    return (*perf, *some) if half in (BASE.load, AMD.load) else (*some, *perf)


@given(plans().filter(lambda p: p.sequence is not None), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])
def test_sequences_of_any_shape(planned: Any, data: Any) -> None:
    base = AMD if planned.cpu.vendor == "amd" else BASE
    odd = dataclasses.replace(base, name="odd", load=data.draw(steps(base.load)), put=data.draw(steps(base.put)))
    planned = dataclasses.replace(planned, sequence=odd, host_events=())
    expected = slow.run(planned)
    assert run(planned) == expected
    assert run(planned, "lazy") == expected


@pytest.mark.parametrize(
    ("load", "put"),
    [
        (BASE.load, (STATUS, GP, *BASE.put)),  # two loops over one bank
        (BASE.load, (*BASE.put[:-1], STATUS, BASE.put[-1])),  # STATUS read twice
        ((*BASE.load, ZERO_FIXED, BASE.load[-1]), BASE.put),  # one register written three times
        ((BASE.load[-1], *BASE.load), BASE.put),  # registers on both sides of host perf
        ((*BASE.load, BASE.load[2]), (*BASE.put, BASE.put[-2])),  # LVTPC written twice
    ],
    ids=["loops", "status", "fixed", "sides", "lvtpc"],
)
@pytest.mark.parametrize("host_perf", [(), ("branches:pinned:exclude_guest",)], ids=["", "host"])
def test_steps_that_cannot_be_joined(load: Any, put: Any, host_perf: tuple[str, ...]) -> None:
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design="mediated,scope=every-exit",
        workload="fio-4k-read",
        guest_perf=("record:instructions,branches:period=90000",),
        host_perf=host_perf,
        seconds="0.0006",
    )
    planned = dataclasses.replace(plan(scenario), sequence=dataclasses.replace(BASE, name="odd", load=load, put=put))
    expected = slow.run(planned)
    assert expected["switches"] > 20
    assert run(planned) == expected
    assert run(planned, "lazy") == expected
