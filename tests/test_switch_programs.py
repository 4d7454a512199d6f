"""Switch sequences of any shape, compiled to blocks: the core does what the steps say, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from directed_plans import AMD_CPUS, CPUS, all_designs, cpus_for, directed_plans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_plans import plans
from machine_runs import fast as run
from plan_files import assert_engines_agree

import vpmu
from vpmu._scenario import plan
from vpmu._sequence_language import STORAGE
from vpmu._sequences import sequence
from vpmu.reference import machine as slow

BASE = sequence("linux-7.0")
AMD = sequence("linux-7.0-amd")
ENGINES = ("lazy", "stepwise", "reference")
STATUS = {"op": "rdmsr", "register": "global_status"}
GP = {"for": "gp", "do": [{"op": "rdpmc", "save": True}]}
ZERO_FIXED = {"op": "wrmsr", "register": "fixed_ctr_ctrl", "value": "zero"}


def has_sequence(spec: str) -> bool:
    """Whether a design switches guest state by steps."""
    design = vpmu.design(spec)
    return isinstance(design, vpmu.Mediated) and not vpmu.sequence(str(design.sequence)).by_hardware


ON_INTEL = tuple(filter(has_sequence, all_designs()))
ON_AMD = tuple(spec for spec in ON_INTEL if set(AMD_CPUS) & set(cpus_for(spec)))


@st.composite
def block_loops(draw: Any) -> Mapping[str, Any]:
    """A loop over GP counters as one block does it: RDPMC, the counter, the selector."""
    body: list[dict[str, Any]] = [draw(st.sampled_from([{"op": "rdpmc"}, {"op": "rdpmc", "save": True}]))]
    for register in ("counter", "selector"):
        value = draw(st.sampled_from([None, "zero", "guest"]))
        condition = {"zero": "nonzero", "guest": "differs" if register == "counter" else None}.get(value)
        if value:
            step = {"op": "wrmsr", "register": register, "value": value}
            body.append(step | ({"if": condition} if condition and draw(st.booleans()) else {}))
    return {"for": "gp", "do": body}


@st.composite
def amd_steps(draw: Any, half: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """A half with loops of other kinds, or with steps left out, doubled and moved.

    Host perf keeps its places, first in a load and last in a put.
    """
    if draw(st.booleans()):
        return tuple(draw(block_loops() | st.just(step)) if "for" in step else step for step in half)
    perf = [step for step in half if step.get("op", "").startswith("perf_")]
    others = [step for step in half if step not in perf]
    some = draw(st.lists(block_loops() | st.sampled_from(others), min_size=1, max_size=12))
    read = {"op": "rdmsr", "register": "global_status"}  # whatever takes its value comes later
    return (*perf, read, *some) if half is AMD.load else (read, *some, *perf)


@st.composite
def with_amd_steps(draw: Any, planned: Any) -> Any:
    odd = dataclasses.replace(AMD, name="odd", load=draw(amd_steps(AMD.load)), put=draw(amd_steps(AMD.put)))
    return dataclasses.replace(planned, sequence=odd, host_events=())


@given(plans(designs=ON_AMD, cpus=AMD_CPUS).flatmap(with_amd_steps))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_amd_sequences_of_any_shape(planned: Any) -> None:
    assert_engines_agree(planned, test="amd-shape", engines=ENGINES)


@given(directed_plans("handled", designs=ON_AMD, cpus=AMD_CPUS).flatmap(with_amd_steps))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_amd_sequences_of_any_shape_in_longer_runs(planned: Any) -> None:
    """A put that does not save, or a load that does not restore: no switch is like the one before."""
    assert_engines_agree(planned, test="amd-shape-handled")


@given(directed_plans("handled", designs=ON_INTEL, cpus=CPUS), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_sequences_of_any_shape_in_longer_runs(planned: Any, data: Any) -> None:
    odd = dataclasses.replace(
        planned.sequence, name="odd", load=data.draw(steps(BASE.load)), put=data.draw(steps(BASE.put))
    )
    assert_engines_agree(dataclasses.replace(planned, sequence=odd), test="any-shape-handled")


CONTROLS = ("fixed_ctr_ctrl", "global_ctrl", "global_status", *STORAGE)
ZERO_IF = st.sampled_from([{}, {}, {"if": "nonzero"}, {"if": "differs"}])
READ_ALL = tuple({"op": "rdmsr", "register": register} for register in CONTROLS)


def calm(planned: Any) -> Any:
    """A plan whose host events are all throttled: a storm of samples leaves no machine any time."""
    host_events = tuple(dataclasses.replace(event, throttles=True) for event in planned.host_events)
    return dataclasses.replace(planned, host_events=host_events)


@st.composite
def loops(draw: Any) -> Mapping[str, Any]:
    """A loop of up to six operations in any order; what a condition needs has been read before it."""
    bank = draw(st.sampled_from(["gp", "fixed"]))
    registers = ("counter", "selector") if bank == "gp" else ("counter",)
    body: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        register = draw(st.sampled_from(registers))
        op = draw(st.sampled_from(["rdpmc", "rdmsr", "wrmsr", "wrmsr"]))
        if op == "wrmsr":
            value = draw(st.sampled_from(["zero", "guest", "guest", "cached", "host"]))
            condition = draw(st.sampled_from([None, None, "nonzero", "differs", "selector-nonzero"]))
            reads = [o for o in body if o["op"] == "rdpmc" or (o["op"] == "rdmsr" and o["register"] == "counter")]
            if register == "selector":
                condition = None if condition == "selector-nonzero" else condition
                reads = [o for o in body if (o["op"], o.get("register")) == ("rdmsr", "selector")]
            if not reads and condition in ("differs", "nonzero") and (register == "counter" or condition == "differs"):
                condition = None
            body.append({"op": op, "register": register, "value": value, **({"if": condition} if condition else {})})
        elif op == "rdpmc":
            body.append({"op": op, "save": draw(st.sampled_from([True, True, False, "guest", "host"]))})
        else:
            save = draw(st.sampled_from([False, "host"] + ["guest"] * (register == "counter")))
            body.append({"op": op, "register": register, "save": save})
    return {"for": bank, "do": body}


@st.composite
def control_steps(draw: Any) -> Mapping[str, Any]:
    """An operation of a register that there is one of; all have been read."""
    register = draw(
        st.sampled_from(["fixed_ctr_ctrl", "global_ctrl", "global_status_set", "global_ovf_ctrl", "pebs_enable"])
    )
    if register == "global_ovf_ctrl":
        return {"op": "wrmsr", "register": register, "value": "status", **draw(ZERO_IF)}
    values = {"fixed_ctr_ctrl": ["zero", "guest", "cached", "host"], "global_status_set": ["guest", "host"]}
    value = draw(st.sampled_from(values.get(register, ["zero", "guest", "host"])))
    return {"op": "wrmsr", "register": register, "value": value, **draw(ZERO_IF)}


@st.composite
def steps(draw: Any, half: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """A half with steps left out, doubled, moved and others between them; host perf once, mostly in its place."""
    perf = next(step for step in half if step.get("op", "").startswith("perf_"))
    others = st.sampled_from([step for step in half if step is not perf])
    if draw(st.booleans()):
        reads = st.builds(
            lambda register, save: {"op": "rdmsr", "register": register, **({"save": "host"} if save else {})},
            st.sampled_from(CONTROLS),
            st.booleans(),
        )
        others = others | loops() | control_steps() | reads
    some = draw(st.lists(others, min_size=1, max_size=12))
    first = half is BASE.load
    last = 0 if first else len(some)
    at = draw(st.sampled_from([last, last, last, len(some) // 2]))
    outside = [
        step for step in (some[:at] if first else some[at:]) if "for" not in step
    ]  # host perf's counters are left
    window = some[at:] if first else some[:at]
    return (*READ_ALL, *outside, perf, *window) if first else (*READ_ALL, *window, perf, *outside)


@given(
    plans(designs=ON_INTEL, cpus=CPUS),
    steps(BASE.load),
    steps(BASE.put),
)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_sequences_of_any_shape(planned: Any, load: Any, put: Any) -> None:
    """Beside host events, too, which then count what they should not, and the guest what the host does."""
    odd = dataclasses.replace(planned.sequence, name="odd", load=load, put=put)
    assert_engines_agree(dataclasses.replace(calm(planned), sequence=odd), test="any-shape", engines=ENGINES)


@given(
    plans(designs=ON_INTEL, cpus=CPUS),
    st.permutations(BASE.load[2:]),
)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_safe_sequences_leave_nothing(planned: Any, load: Any) -> None:
    """Whatever the order in which a load that is safe anyway does its steps: blocks do them, and nothing is found."""
    read = next(i for i, step in enumerate(load) if step.get("op") == "rdmsr")
    toggle = next(i for i, step in enumerate(load) if step.get("op") == "toggle")
    if toggle < read:
        load[read], load[toggle] = load[toggle], load[read]
    moved = dataclasses.replace(planned.sequence, name="moved", load=(*BASE.load[:2], *load), put=BASE.put)
    assert not moved.is_watched(False)
    result = assert_engines_agree(dataclasses.replace(calm(planned), sequence=moved), test="safe", engines=ENGINES)
    assert not any(result["breaches"].values())


SAVE = {"op": "rdpmc", "save": True}


@pytest.mark.parametrize(
    ("base", "load", "put", "kept"),
    [
        (BASE, BASE.load, BASE.put, True),
        (BASE, BASE.load, (*BASE.put[:-2], {"for": "gp", "do": [SAVE]}, *BASE.put[-2:]), False),  # zeros
        (BASE, (*BASE.load[:2], {"for": "fixed", "do": [SAVE]}, *BASE.load[2:]), BASE.put, False),  # the host's
        (AMD, AMD.load, AMD.put, True),
        (AMD, AMD.load, tuple(step for step in AMD.put if "for" not in step), False),
        (AMD, tuple(step for step in AMD.load if "for" not in step), AMD.put, False),
    ],
    ids=["as it is", "saved twice", "saved at load", "amd", "amd: not saved", "amd: not loaded"],
)
def test_whether_a_switch_brings_back_what_it_takes_out(base: Any, load: Any, put: Any, kept: bool) -> None:
    odd = dataclasses.replace(base, name="odd", load=load, put=put)
    assert odd.keeps_counters == kept
    assert odd.is_watched(True) == (base is BASE and not kept)


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
