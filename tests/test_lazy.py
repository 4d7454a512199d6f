"""Skipping must not show: lazy and stepwise compared in every field, over every design with every option."""

import dataclasses
import json

import numpy as np
import pytest
from directed_plans import CPUS, THEMES, all_designs, base, directed_plans, horizon_plans, one_by_one, options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_plans import filters, plans, plans_with_clock, traces
from plan_files import KEPT, assert_engines_agree, dumps, loads, main

import vpmu

LAX = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(plans(), st.sampled_from([1, 5, 40]))
@LAX
def test_uniform_plans(planned, longer):
    planned = dataclasses.replace(planned, end=planned.end * longer if planned.end > 1 else 1)
    assert_engines_agree(planned, test="uniform")


@pytest.mark.parametrize("theme", THEMES)
@given(data=st.data())
@LAX
def test_directed_plans(theme, data):
    assert_engines_agree(data.draw(directed_plans(theme)), test=f"directed-{theme}")


@given(data=st.data())
@LAX
def test_handled_plans_beside_filters(data):
    """What the hypervisor lets count changes between two handlers, and in one."""
    mediated = directed_plans("handled").filter(lambda planned: planned.design.startswith("mediated"))
    planned = data.draw(mediated)
    codes = [event.selector & 0xFFFF for event in planned.guest_events]
    first, changes = data.draw(filters(codes, planned.end, planned.cpu.vendor))
    planned = dataclasses.replace(planned, event_filter=first, filter_changes=changes)
    assert_engines_agree(planned, test="handled-filters")


@given(horizon_plans())
@LAX
def test_plans_with_many_horizons(planned):
    """What lies beyond a horizon by chance is taken back, whichever horizon it is."""
    assert_engines_agree(planned, test="horizons")


@given(plans_with_clock(), st.sampled_from([20, 100, 700]))
@LAX
def test_plans_with_a_clock(planned, gap):
    """What the guest's perf does between exits: turns, tasks, frequencies."""
    work = dataclasses.replace(planned.work, mean_gap=gap, rates=()) if planned.work.mean_gap else planned.work
    assert_engines_agree(dataclasses.replace(planned, work=work), test="clock")


@given(plans(), traces())
@LAX
def test_traces(planned, trace):
    if planned.design != "bare-metal":  # which has no exits
        assert_engines_agree(dataclasses.replace(planned, trace=trace), test="traces")


@given(directed_plans(short=True))
@LAX
def test_directed_plans_on_all_machines(planned):
    """The slow machine shares no code with the two engines, not even the reactions."""
    assert_engines_agree(planned, ("lazy", "stepwise", "reference"), test="machines")


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_kept_plans(path):
    """Plans that only a wrong engine gets wrong, each found by taking a guard out of the lazy engine."""
    assert_engines_agree(loads(path.read_text()), ("lazy", "stepwise", "reference"), test=path.stem)


# -- what the comparisons themselves rest on ---------------------------------------------------------------------------


def test_every_design_and_option_of_the_registry_is_compared():
    for name in vpmu.designs():
        assert name in one_by_one()
        for field in dataclasses.fields(vpmu.design(name)):
            if field.name == "event_filter":  # drawn by plans() of its own
                continue
            assert len(options(name)[field.name]) > 1, f"{field.name} of {name} has one value"
    assert {spec.partition(",")[0] for spec in all_designs()} == set(vpmu.designs())
    assert "mediated,scope=every-exit,sequence=linux-7.0-no-elision,exclude_guest=guest-mode" in all_designs()
    assert "emulated,reuse=false,reprogram=coalesced" in all_designs()


@given(plans() | directed_plans(), st.none() | traces())
@LAX
def test_plan_files_say_everything(planned, trace):
    planned = dataclasses.replace(planned, trace=trace)
    again = loads(dumps(planned))
    for field in dataclasses.fields(planned):
        mine, theirs = getattr(planned, field.name), getattr(again, field.name)
        if field.name == "trace" and trace is not None:
            for name in ("gap", "kind", "handling", "idle"):
                assert np.array_equal(getattr(mine, name), getattr(theirs, name))
                assert getattr(mine, name).dtype == getattr(theirs, name).dtype
            assert mine.repeat == theirs.repeat
        else:
            assert mine == theirs, field.name


def test_a_difference_becomes_a_file_that_replays(tmp_path, monkeypatch, capsys):
    """With an engine that loses an exit: the assertion names the field and the file, and the file is the plan."""
    import plan_files

    real = plan_files.run

    def forgetful(planned, engine):
        result = real(planned, engine)
        if engine == "lazy":
            result["exits"][0] -= 1
        return result

    planned = base("mediated", CPUS[0])
    monkeypatch.setattr(plan_files, "FOUND", tmp_path / "found")
    with monkeypatch.context() as broken:
        broken.setattr(plan_files, "run", forgetful)
        with pytest.raises(AssertionError, match=r"lazy and stepwise differ.*\nexits\[0\]"):
            assert_engines_agree(planned, test="forgetful")
        (path,) = (tmp_path / "found").iterdir()
        assert main([str(path)]) == 1
    assert json.loads(path.read_text())["design"] == "mediated"
    assert loads(path.read_text()) == planned
    assert main([str(path)]) == 0
    assert "agree" in capsys.readouterr().out
