"""Several vCPUs as a user has them: scenarios, results, scenario files, the command line."""

import dataclasses
import json

import pytest
from command_line import good, refused, strict_json

import vpmu
from vpmu._logical_cpu import plans, together
from vpmu._scenario import seeds

TWO = (vpmu.Vcpu(), vpmu.Vcpu(workload="hackbench", guest_perf=["record:instructions:period=300007"]))


def scenario(**changes):
    given = {"workload": "sysbench-cpu", "seconds": "0.02", "vcpus": TWO, "host_hz": 1000, "slice_ms": 1} | changes
    return vpmu.Scenario(**given)


@pytest.mark.parametrize("engine", ["stepwise", "reference"])
@pytest.mark.parametrize("design", ["emulated", "mediated,scope=vcpu-sched"])
def test_every_engine_gives_the_same_result(engine, design):
    short = scenario(seconds="0.002", design=design, host_perf=["cycles:exclude_guest"], slice_ms="0.3")
    one, other = vpmu.simulate(short), vpmu.simulate(short, engine)
    assert one.raw == other.raw
    assert one.to_dict() == other.to_dict()
    assert one.violations == other.violations == ()


@pytest.mark.parametrize("design", ["none", "emulated", "mediated"])
def test_one_vcpu_is_what_it_was_without_the_word(design):
    alone = vpmu.simulate(vpmu.Scenario(design=design, seconds="0.02"))
    listed = vpmu.simulate(vpmu.Scenario(design=design, seconds="0.02", vcpus=1))
    assert listed.counters == alone.counters
    assert listed.overhead == alone.overhead
    assert {name: listed.raw[name] for name in alone.raw} == alone.raw
    assert listed.vcpus[0].steal == listed.vcpus[0].slept == 0
    assert alone.vcpus == ()
    assert "vcpus" not in alone.to_dict()


def test_rows_of_the_vcpus_add_up():
    result = vpmu.simulate(scenario(host_perf=["cycles:pinned:exclude_guest"]))
    first, second = result.vcpus
    wall = result.raw["w"]
    assert result.violations == ()
    for vcpu in result.vcpus:
        assert sum(vcpu.cycles.values()) == wall
        assert vcpu.steal > 0
    assert sum(result.cycles.values()) == wall
    for name in ("guest_user", "guest_kernel", "hypervisor", "blind"):
        assert result.cycles[name] == first.cycles[name] + second.cycles[name]
    assert first.cycles["idle"] == second.cycles["idle"] == result.cycles["idle"]
    assert result.counters == first.counters + second.counters
    assert result.exits == {reason: first.exits.get(reason, 0) + second.exits.get(reason, 0) for reason in result.exits}
    assert result.exits["EXTERNAL_INTERRUPT"] > result.raw["pmu_exits"]["EXTERNAL_INTERRUPT"]
    assert len(result.host_events) == 1
    assert second.pmis["delivered"] == result.pmis["delivered"] > 0
    assert 0 < result.overhead < 1


def test_the_whole_is_the_sum_but_for_what_is_shared():
    def row(user, others, rdpmc, stopped, exits):
        clocks, spent = [user, 0, 0, 0, 0, 0, 4], {"idle": 4, "rdpmc": rdpmc}
        return {"w": 9, "clocks": clocks, "spent": spent, "others": others, "stopped": stopped, "exits": exits}

    assert together([row(1, 4, 1, None, [1]), row(4, 1, 2, "x", [2])], 1) == row(5, 0, 3, "x", [1, 2])


def test_each_vcpu_has_random_streams_of_its_own():
    first, second, third = plans(scenario(vcpus=3))
    assert first.seeds == seeds(1)
    streams = [words for one in (first, second, third) for words in one.seeds.values()]
    assert len(set(streams)) == 9
    assert dataclasses.replace(second, seeds=first.seeds) == first


def test_what_differs_from_vcpu_to_vcpu():
    denied = vpmu.EventFilter("deny", ["instructions"])
    guests = scenario(
        design="mediated",
        vcpus=[
            vpmu.Vcpu(design=vpmu.Mediated(event_filter=denied)),
            vpmu.Vcpu(design="mediated,scope=vcpu-sched", guest_pmu=vpmu.GuestPmu(2, 4, 3), guest_hz=1000),
        ],
        guest_perf=["stat:branches"],
    )
    first, second = plans(guests)
    assert first.event_filter is not None
    assert second.event_filter is None
    assert (first.options["scope"], second.options["scope"]) == ("fastpath-loop", "vcpu-sched")
    assert second.guest_cpu.gp_mask == 0xF
    result = vpmu.simulate(guests)
    assert result.violations == ()
    assert str(result.vcpus[1].scenario.design) == "mediated,scope=vcpu-sched"


def test_slices_and_wakeups():
    def turns(**changes):
        return vpmu.simulate(scenario(seconds="0.05", **changes)).vcpus[1]

    long, short, eager = turns(slice_ms=8), turns(slice_ms=1), turns(slice_ms=8, wakeup_preemption=True)
    assert long.raw["turns"] < short.raw["turns"] < eager.raw["turns"]
    assert eager.steal < short.steal < long.steal


def test_compare_and_baselines_have_the_same_vcpus():
    results = vpmu.compare(scenario(), ["none", "bare-metal", "emulated", "mediated,scope=every-exit", "dedicated"])
    assert results["none"].overhead == 0
    for name in ("emulated", "mediated,scope=every-exit"):
        assert results[name].overhead > 0
        assert len(results[name].vcpus) == 2
        assert str(results[name].vcpus[1].scenario.design) == name
        assert results[name].overhead_of_profiling is not None
    for name in ("bare-metal", "dedicated"):
        assert results[name].overhead is None
        assert "leaves the PMU to one guest" in results[name].reason


def test_a_put_that_leaves_counters_enabled_is_a_violation(monkeypatch):
    good_ = vpmu.sequence("linux-7.0")
    put = [step for step in good_.put if not ("fixed_ctr_ctrl" in str(dict(step)) and "zero" in str(dict(step)))]
    bad = vpmu.Sequence("leaves-fixed", "", "", good_.load, tuple(put))
    assert vpmu.simulate(scenario(design="mediated")).violations == ()
    monkeypatch.setattr(vpmu.Mediated, "switch", lambda self: bad)
    result = vpmu.simulate(scenario(design="mediated"))
    assert any(violation.startswith("leftovers") for violation in result.violations)
    assert any(violation.startswith("leftovers") for violation in result.vcpus[0].violations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vcpus": 0}, "vcpus 0 must be in 1 to 64"),
        ({"vcpus": 65}, "vcpus 65 must be in 1 to 64"),
        ({"vcpus": [vpmu.Vcpu()] * 65}, "at most 64"),
        ({"vcpus": "two"}, "list of vpmu.Vcpu or a number, not 'two'"),
        ({"vcpus": ["hackbench"]}, "'hackbench' is none"),
        ({"slice_ms": 0}, "slice_ms 0 must be more than 0"),
        ({"wakeup_preemption": "yes"}, "wakeup_preemption must be true or false"),
        ({"vcpus": [vpmu.Vcpu(workload="nothing")]}, "nothing"),
        ({"vcpus": [vpmu.Vcpu(), vpmu.Vcpu(design="emulated")]}, "vCPU 1: design emulated is not the scenario's"),
        ({"vcpus": [vpmu.Vcpu(), vpmu.Vcpu(guest_hz=7)]}, "vCPU 1: guest_hz"),
        ({"host_perf": ["cycles:task"]}, "leave out :task"),
    ],
)
def test_what_cannot_be_is_said_when_the_scenario_is_made(changes, message):
    with pytest.raises((vpmu.ScenarioError, vpmu.UnknownName), match=message):
        scenario(**changes)


def test_batches_refuse_several_vcpus():
    with pytest.raises(vpmu.ScenarioError, match="several vCPUs are not simulated in batches"):
        vpmu.simulate_many([scenario()])


# -- files and the command line ---------------------------------------------------------------------------------------

FILE = """
design = "mediated"
workload = "sysbench-cpu"
seconds = 0.02
slice_ms = 1
host_hz = 1000

[[vcpu]]

[[vcpu]]
workload = "hackbench"
guest_perf = ["record:instructions:period=300007"]
[vcpu.event_filter]
action = "deny"
events = ["branches"]
"""


@pytest.fixture
def path(tmp_path):
    def write(text):
        file = tmp_path / "scenario.toml"
        file.write_text(text)
        return str(file)

    return write


def test_vcpu_tables_are_the_scenario_s_vcpus(path):
    answer = strict_json(good("run", path(FILE), "--format", "json"))
    denied = vpmu.Mediated(event_filter=vpmu.EventFilter("deny", ["branches"]))
    same = vpmu.simulate(scenario(design="mediated", vcpus=(TWO[0], dataclasses.replace(TWO[1], design=denied))))
    assert answer["vcpus"] == json.loads(json.dumps(same.to_dict()["vcpus"]))
    assert [row["workload"] for row in answer["vcpus"]] == ["sysbench-cpu", "hackbench"]
    keys = {"vcpu", "design", "workload", "guest_perf", "guest", "pmi", "cycles", "exits", "steal", "slept", "turns",
            "preemptions", "switches", "violations"}  # fmt: skip
    assert all(set(row) == keys for row in answer["vcpus"])
    assert answer["provenance"]["vcpus"][1]["workload"] == "hackbench"
    assert answer["ledger"]["cycles"]["guest_user"] == sum(row["cycles"]["guest_user"] for row in answer["vcpus"])


def test_equal_vcpus_by_number(path):
    text = FILE[: FILE.index("[[vcpu]]")]
    by_option = strict_json(good("run", path(text), "--vcpus", "3", "--format", "json"))
    by_key = strict_json(good("run", path("vcpus = 3\n" + text), "--format", "json"))
    assert by_option == by_key
    assert [row["vcpu"] for row in by_key["vcpus"]] == [0, 1, 2]


def test_the_table_shows_who_had_the_cpu(path):
    out = good("run", path(FILE))
    assert "2 vCPUs, slice 1 ms" in out
    heading = next(line for line in out.splitlines() if line.startswith("vCPU  Workload"))
    assert heading.split() == [
        "vCPU",
        "Workload",
        "Guest",
        "work",
        "Steal",
        "Slept",
        "Turns",
        "Preempted",
        "Exits",
        "PMIs",
    ]
    assert "Counts by vCPU" in out
    assert "vCPUs" not in good("run", path(FILE[: FILE.index("[[vcpu]]")]))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (FILE, ["--vcpus", "2"], "not both"),
        ("vcpus = 2\n" + FILE, [], "not both"),
        ('vcpus = "2"\n', [], "tables are called [[vcpu]]"),
        ("vcpu = 2\n", [], "must be tables, [[vcpu]]"),
        ("vcpu = []\n", [], "must be tables, [[vcpu]]"),
        ("[[vcpu]]\nseconds = 1\n", [], "unknown key of [[vcpu]] 0"),
        ("[[vcpu]]\nguest_perf = 3\n", [], "guest_perf must be a list of strings"),
        ("[[vcpu]]\nworkload = 3\n", [], "workload must be a name, not 3"),
        ("[[vcpu]]\n[[vcpu]]\nguest_hz = 3\n", [], "vCPU 1: guest_hz 3"),
        ("vcpus = 65\n", [], "vcpus 65 must be in 1 to 64"),
        ("slice_ms = -1\n", ["--vcpus", "2"], "slice_ms -1 must be more than 0"),
    ],
)
def test_bad_files_are_refused_in_one_line(path, text, options, message):
    assert message in refused("run", path(text), *options)


def test_help_says_how():
    out = good("run", "--help")
    assert "[[vcpu]]" in out
    assert "--vcpus N" in out


def test_a_host_event_says_who_had_its_counters_at_the_end():
    """Of the guests it was the one that had the CPU then, whatever the others count."""
    events = "instructions,cycles,branches,branch-misses,cache-references,cache-misses"
    guests = (vpmu.Vcpu(guest_perf=()), vpmu.Vcpu(workload="fio-4k-read", guest_perf=(f"stat:{events}",)))
    for vcpus in (guests, guests[::-1], guests[1:]):
        result = vpmu.simulate(
            scenario(
                cpu="skylake",
                design="emulated",
                guest_perf=(),
                host_perf=("branches", "branches:exclude_guest", "cycles", "instructions", "cache-misses"),
                vcpus=vcpus,
                seconds="0.003",
            )
        )
        waited = [event for event in result.host_events if event.losses.get("not_scheduled")]
        assert waited
        assert all("it may use GP" in event.reason for event in waited)
