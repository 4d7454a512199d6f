"""The option ``event_filter``: in Python, on the command line, in TOML."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from command_line import good, refused, rows

import vpmu
from vpmu._scenario import plan

Filter = vpmu.EventFilter
SHORT = ("fio-4k-read", "--seconds", "0.002", "--guest-perf", "stat:branches,cycles")


@pytest.mark.parametrize("made", [vpmu.Emulated, vpmu.Mediated])
def test_one_filter_or_filters_with_times(made):
    deny, allow = Filter("deny", ["branches"]), Filter("allow", ["branches"], 7)
    assert made().event_filter == made(event_filter=None).event_filter == ()
    assert made(event_filter=deny).event_filter == ((0, deny),)
    changes = [(0, deny), ("0.5", "allow:0xc4:fixed=7"), (Fraction(2, 3), deny)]
    assert made(event_filter=changes).event_filter == ((0, deny), (Fraction(1, 2), allow), (Fraction(2, 3), deny))
    assert made(event_filter=changes).filters() == made(event_filter=changes).event_filter


@pytest.mark.parametrize(
    ("text", "event_filter"),
    [
        ("deny", Filter("deny")),
        ("deny:0xc4", Filter("deny", [0xC4])),
        ("allow:branches+0x412e:fixed=0x3", Filter("allow", [0xC4, 0x412E], 3)),
        ("deny:fixed=2", Filter("deny", [], 2)),
        ("allow:0xff000000000081d0:masked", Filter("allow", [vpmu.MaskedEvent(0xD0, 0x81)], masked=True)),
    ],
)
def test_the_short_form_reads_what_it_writes(text, event_filter):
    for design in ("emulated", "mediated,scope=every-exit"):
        made = vpmu.design(f"{design},event_filter={text}")
        assert made.event_filter == ((0, event_filter),)
        assert vpmu.design(str(made)) == made
        later = vpmu.design(f"{design},event_filter=deny;{text}@0.25;{text}@1/3")
        assert later.event_filter == (
            (0, Filter("deny")),
            (Fraction(1, 4), event_filter),
            (Fraction(1, 3), event_filter),
        )
        assert vpmu.design(str(later)) == later
        assert str(later).endswith(("@0.25", "@1/3", "every-exit"))


def test_the_plan_has_wall_cycles():
    changes = [(0, Filter("deny", ["branches"])), ("0.001", Filter("deny"))]
    scenario = vpmu.Scenario(design=vpmu.Mediated(event_filter=changes), seconds="0.01")
    made = plan(scenario)
    assert made.event_filter == changes[0][1].planned()
    assert made.filter_changes == ((scenario.cpu.core_hz.value // 1000, changes[1][1].planned()),)
    late = plan(vpmu.Scenario(design=vpmu.Mediated(event_filter=changes[1:]), seconds="0.01"))
    assert (late.event_filter, late.filter_changes) == (None, made.filter_changes)


def test_provenance_has_the_filters():
    design = vpmu.Mediated(event_filter=[("0.001", Filter("deny", ["branches"], 1))])
    result = vpmu.simulate(vpmu.Scenario(design=design, workload="fio-4k-read", seconds="0.002"))
    (kept,) = result.provenance["event_filter"]
    assert Fraction(kept.pop("at")) == Fraction(1, 1000)
    assert Filter(**kept) == Filter("deny", ["branches"], 1)
    assert "event_filter" not in vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds="0.002")).provenance


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("dny", "did you mean deny"),
        ("", "allow"),
        ("deny:branchs", "branches"),
        ("deny:0xc4:fixed=x", "no integer"),
        ("deny:0xc4:0xc0", "joined by +"),
        ("deny@soon", "seconds"),
        ("deny@-1", "0 or more"),
        ("deny;allow", "0 s does not come after 0 s"),
        ("deny@0.002;allow@0.001", "0.001 s does not come after 0.002 s"),
        ("none.toml", "none.toml"),
        (7, "list of"),
        ([7], "pair"),
        ([(1, None)], "one EventFilter"),
        ([(1, [(1, Filter("deny"))])], "one EventFilter"),
        ([(True, Filter("deny"))], "seconds"),
        ([(i, Filter("deny")) for i in range(1001)], "at most 1000"),
        ("deny:" + "+".join(["1"] * 301), "E2BIG"),
        ("deny:0x10000:masked", "EINVAL"),
    ],
)
def test_bad_options_are_refused(value, said):
    with pytest.raises(vpmu.VpmuError) as caught:
        vpmu.Mediated(event_filter=value)
    assert said in str(caught.value)


def test_filters_must_fit_the_run():
    with pytest.raises(vpmu.ScenarioError, match=r"change at 0\.01 s is not before the end, 0\.01 s"):
        vpmu.Scenario(design="mediated,event_filter=deny@0.01", seconds="0.01")
    with pytest.raises(vpmu.ScenarioError, match="filter for amd does not fit sapphirerapids"):
        vpmu.Scenario(design="mediated,event_filter=deny:amd")


# -- files and the command line ---------------------------------------------------------------------------------------

FILE = """
action = "deny"
events = ["branches", 0xC0, {event = 0xD0, match = 0x81, mask = 0xFE, exclude = true}]
masked = true
fixed_counter_bitmap = 2
[[changes]]
at = 0.001
action = "allow"
events = [0x3C]
"""


@pytest.fixture
def filter_file(tmp_path: Path) -> Path:
    path = tmp_path / "filter.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_file_has_the_arguments_as_keys(filter_file):
    first, later = vpmu.read_event_filter(str(filter_file))
    entries = [vpmu.MaskedEvent(0xC4), 0xC0, vpmu.MaskedEvent(0xD0, 0x81, 0xFE, exclude=True)]
    assert first == (0, Filter("deny", entries, 2, masked=True))
    assert later == (Fraction(1, 1000), Filter("allow", [0x3C]))
    design = vpmu.design(f"mediated,event_filter={filter_file}")
    assert design.event_filter == (first, later)
    assert str(design) == f"mediated,event_filter={filter_file}"


def test_only_changes(tmp_path):
    path = tmp_path / "late.toml"
    path.write_text('[[changes]]\nat = 1\naction = "deny"\n', encoding="utf-8")
    assert vpmu.read_event_filter(str(path)) == ((1, Filter("deny")),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs an action"),
        ("events = []", "needs an action"),
        ("action = 'deny'\nevent = [1]", "did you mean events"),
        ("action = 'deny'\nevents = 1", "events is a list"),
        ("action = 'deny'\nevents = [{mask = 1}]", "event = 0xD0"),
        ("action = 'deny'\nmasked = true\nevents = [{event = 1, maks = 1}]", "did you mean mask"),
        ("action = 'deny'\nevents = [{event = 1}]", "masked=True"),
        ("action = 'deny'\nchanges = 1", "changes are tables"),
        ("action = 'deny'\n[[changes]]\naction = 'deny'", "change 1 needs at"),
        ("action = 'deny'\n[[changes]]\nat = 0\naction = 'deny'", "does not come after"),
        ("action = 'deny'\n[[changes]]\nat = true\naction = 'deny'", "seconds"),
        ("action = 3", "EINVAL"),
        ("action = [", "no TOML"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    assert said in refused("compare", *SHORT, "--design", f"mediated,event_filter={path}")


def test_on_the_command_line(filter_file):
    for name in (f"mediated,event_filter={filter_file}", "emulated,event_filter=deny:branches", "mediated"):
        (row,) = rows(*SHORT, "--design", name).values()
        flags = {counter["event"]: counter["flags"] for counter in row["guest"]}
        assert ("filtered" in flags["branches"]) == ("event_filter" in name)
        assert ("filtered" in flags["cycles"]) == ("toml" in name)
    assert "event_filter=FILE.toml" in good("list", "designs", "--format", "csv")
    assert "option of design dedicated" in refused("compare", *SHORT, "--design", "dedicated,event_filter=deny")


SCENARIO = 'workload = "fio-4k-read"\nguest_perf = ["stat:branches"]\nseconds = 0.002\n'


@pytest.mark.parametrize(
    "text",
    [
        'event_filter = "filter.toml"\n' + SCENARIO,
        'design = "emulated"\n' + SCENARIO + '[event_filter]\naction = "deny"\nevents = [0xC4]\n',
        SCENARIO + '[[event_filter.changes]]\nat = 0.001\naction = "deny"\nevents = ["branches"]\n',
        'design = "mediated,event_filter=deny:0xc4"\n' + SCENARIO,
    ],
    ids=["file", "table", "changes", "option"],
)
def test_in_a_scenario_file(tmp_path, filter_file, text):
    path = tmp_path / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    answer = json.loads(good("run", str(path), "--format", "json"))
    (branches,) = answer["guest"]
    assert branches["flags"] == ["lost", "filtered"]
    assert branches["losses"]["filtered"] == branches["ideal"] - branches["value"]
    assert "filtered: the VM's event filter denied" in good("run", str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('design = "none"\nevent_filter = "filter.toml"\n', "those that have one: emulated, mediated"),
        ('design = "mediated,event_filter=deny"\nevent_filter = "filter.toml"\n', "not both"),
        ("event_filter = 3\n", "a table or the name of a file"),
        ('event_filter = "there.toml"\n', "there.toml: No such file"),
        ('event_filter = {action = "deny", evnts = []}\n', "did you mean events"),
        ('event_filter = {action = "deny", changes = [{at = 5, action = "deny"}]}\n', "not before the end"),
    ],
)
def test_bad_scenario_files_are_refused_in_one_line(tmp_path, filter_file, text, said):
    path = tmp_path / "scenario.toml"
    path.write_text(text + SCENARIO, encoding="utf-8")
    assert said in refused("run", str(path))
