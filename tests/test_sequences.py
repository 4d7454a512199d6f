"""The library of switch sequences against its sources, files of one's own, and what unsafe ones are caught at."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call as command
from plan_files import assert_engines_agree

import vpmu
from vpmu._scenario import plan
from vpmu._sequence_listing import STATES, sequence_rows, switch_cost

#: Those of Intel's PMU.
LIBRARY = tuple(name for name in vpmu.sequences() if not name.endswith("-amd"))
SAFE = tuple(name for name in LIBRARY if name != "rfc-v1-reviewed")
ENGINES = ("lazy", "stepwise", "reference")
LINUX = vpmu.sequence("linux-7.0")
EVENT = "branches:pinned:exclude_guest"


def simulated(sequence: Any, host_perf: tuple[str, ...] = (), **options: Any) -> tuple[vpmu.Result, dict[str, Any]]:
    """A run of two live counters and the raw result, which all machines have in common."""
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=vpmu.Mediated(scope="every-exit", sequence=sequence, **options),
        workload="fio-4k-read",
        guest_perf=("stat:instructions,branches,branch-misses",),
        host_perf=host_perf,
        seconds="0.001",
    )
    raw = assert_engines_agree(plan(scenario), ENGINES)
    return vpmu.simulate(scenario), raw


# -- the library ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", vpmu.sequences())
def test_every_sequence_names_its_source(name: str) -> None:
    found = vpmu.sequence(name)
    assert found.source
    assert found.summary
    assert str(found) == found.name == name


@pytest.mark.parametrize("host_perf", [(), (EVENT,), ("cycles:period=4000:exclude_guest", EVENT)], ids=["", "c", "s"])
@pytest.mark.parametrize("name", SAFE)
def test_safe_sequences_are_exact_and_leave_nothing(name: str, host_perf: tuple[str, ...]) -> None:
    # semi-v2 does not restore STATUS, which its own design need not.
    result, raw = simulated(name, host_perf)
    assert raw["switches"] > 30
    assert result.violations == ()
    assert all("exact" in counter.flags for counter in result.counters)
    assert not any(raw["breaches"].values())


def accesses(name: str, state: str, cpu: str = "emeraldrapids") -> dict[str, int]:
    return switch_cost(vpmu.Mediated(scope="every-exit", sequence=name), vpmu.cpu(cpu), state)


@pytest.mark.parametrize("state", STATES)
def test_accesses_of_the_first_posting(state: str) -> None:
    """8 GP and 3 fixed counters, access by access as in intel_save_pmu_context() and intel_restore_pmu_context()."""
    gp, fixed = {"idle": (0, 0), "half": (4, 1), "full": (8, 3)}[state]
    found = accesses("rfc-v1-2024", state)
    assert found["rdmsr"] == 1 + 1 + 8 + 1  # STATUS twice; each selector; FIXED_CTR_CTRL
    assert found["rdpmc"] == 8 + 3
    assert found["wrmsr_counter"] == 8 + 3 + gp + fixed  # all at load; at put what is not 0
    assert found["wrmsr_selector"] == 8 + 1 + gp + (fixed > 0)
    assert found["wrmsr_global"] == 1 + 1  # GLOBAL_CTRL = 0 and STATUS_SET; no bit was to be cleared
    assert found["wrmsr_lvtpc"] == 2


@pytest.mark.parametrize("state", STATES)
def test_accesses_of_the_reduction_do_not_depend_on_the_guest(state: str) -> None:
    found = accesses("rfc-v1-reviewed", state)
    assert (found["rdmsr"], found["rdpmc"]) == (1, 11)
    assert (found["wrmsr_counter"], found["wrmsr_selector"], found["wrmsr_global"]) == (11, 9, 1)


def test_accesses_of_the_tdx_module() -> None:
    """29 RDMSR at TD exit; 30 WRMSR and 1 RDMSR at TD entry, for 8 GP and 4 fixed counters."""
    scenario = vpmu.Scenario(
        cpu="sapphirerapids",
        design="mediated,scope=every-exit,sequence=tdx-module-1.5",
        workload="fio-4k-read",
        guest_perf=(),
        guest_pmu=vpmu.GuestPmu(version=2, gp=8, fixed=4),
        seconds="0.001",
    )
    raw = assert_engines_agree(plan(scenario), ENGINES)
    loads, puts = raw["switches"] + 1, raw["switches"]
    ops = {name: sum(raw["ops"][phase]["hypervisor"][name] for phase in ("setup", "run")) for name in (
        "rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global"
    )}  # fmt: skip
    assert (ops["rdmsr"], ops["rdpmc"]) == (29 * puts + loads, 0)
    # An idle guest: put has nothing to clear. GLOBAL_CTRL = 0 is KVM's.
    writes = ops["wrmsr_counter"] + ops["wrmsr_selector"] + ops["wrmsr_global"]
    assert writes == (30 + 1) * loads


@pytest.mark.parametrize("state", STATES)
def test_accesses_of_every_register_do_not_depend_on_anything(state: str) -> None:
    found = accesses("every-register", state)
    stored, gp, fixed = 4, 8, 3
    assert found["rdmsr"] == 2 * (2 * gp + fixed + stored + 2) + 1  # FIXED_CTR_CTRL, STATUS; GLOBAL_CTRL once
    assert found["rdpmc"] == 0
    assert found["wrmsr_counter"] == 2 * (gp + fixed)
    assert found["wrmsr_selector"] == 2 * (gp + 1 + stored)
    assert found["wrmsr_global"] == 5  # GLOBAL_CTRL, STATUS_RESET both ways, STATUS_SET


@pytest.mark.parametrize(("name", "more"), [("linux-7.0", 0), ("linux-7.0-no-elision", 0)])
def test_elision_reads_to_spare_writes(name: str, more: int) -> None:
    elides = name == "linux-7.0"
    for state, live in (("idle", 0), ("half", 5), ("full", 11)):
        found = accesses(name, state)
        assert found["rdpmc"] == 11 * (2 if elides else 1)
        assert found["wrmsr_counter"] == live + (live if elides else 11)


def test_autostore_costs_a_list_entry_where_the_guest_owns_global_ctrl() -> None:
    """Ice Lake clients have 8 and 4 counters; a guest with as many writes GLOBAL_CTRL without exits."""
    results = {}
    for name in ("linux-7.0", "linux-7.0-autostore"):
        scenario = vpmu.Scenario(
            cpu="sapphirerapids",
            design=f"mediated,sequence={name}",
            workload="fio-4k-read",
            guest_perf=(),
            guest_pmu=vpmu.GuestPmu(version=2, gp=8, fixed=4),
            seconds="0.001",
        )
        results[name] = assert_engines_agree(plan(scenario), ENGINES)
    entry = vpmu.cpu("sapphirerapids").known_costs()["msr_list_entry"].value
    stored = results["linux-7.0-autostore"]
    assert results["linux-7.0"]["spent"]["msr_list_entry"] == 0
    exits = sum(stored["exits"]) + sum(stored["pmu_exits"].values())
    assert stored["spent"]["msr_list_entry"] == entry * exits
    # What the register is saved with is a choice on such a CPU, and none on one without the control.
    saves = dataclasses.replace(
        LINUX,
        name="saves",
        exit=(
            {"op": "vmcs_exit_save", "register": "global_ctrl"},
            {"op": "msr_list_load", "register": "global_ctrl", "value": "zero"},
        ),
        entry=({"op": "msr_list_load", "register": "global_ctrl", "value": "guest"},),
    )
    for design in (vpmu.Mediated, vpmu.MediatedSemi):
        refusal = design(sequence=saves).refusal(vpmu.cpu("skylake"), (), False)
        assert refusal == "sequence saves saves GLOBAL_CTRL by a VM-exit control that skylake lacks"
    _, raw = simulated(saves)
    exits = sum(raw["exits"]) + sum(raw["pmu_exits"].values())
    assert raw["spent"]["msr_list_entry"] >= 2 * entry * exits


# -- unsafe sequences -------------------------------------------------------------------------------------------------


def without(half: tuple[Any, ...], **step: Any) -> tuple[Any, ...]:
    return tuple(s for s in half if not all(s.get(key) == value for key, value in step.items()))


def in_loops(half: tuple[Any, ...], register: str) -> tuple[Any, ...]:
    """A half without the writes of a register in its loops."""
    return tuple({**s, "do": [o for o in s["do"] if o.get("register") != register]} if "for" in s else s for s in half)


def test_the_reduction_counts_host_code_and_is_caught() -> None:
    """Dapeng Mi's objection: perf enables all counters at once, the guest's stale selectors with them."""
    quiet, raw = simulated("rfc-v1-reviewed")
    assert raw["breaches"]["selectors"] > 0
    assert raw["breaches"]["fixed_fields"] > 0
    assert raw["breaches"]["counters"] > 0
    assert raw["breaches"]["host_counts"] == 0  # nobody turns GLOBAL_CTRL on
    assert any(v.startswith("isolation: put left") for v in quiet.violations)
    busy, raw = simulated("rfc-v1-reviewed", (EVENT,))
    assert raw["breaches"]["host_counts"] > 1000
    assert any("occurrences of host code" in violation for violation in busy.violations)
    assert not all("exact" in counter.flags for counter in busy.counters)  # GLOBAL_CTRL is on while counters are loaded
    from vpmu.testing import assert_isolated

    with pytest.raises(AssertionError, match="isolation: put left"):
        assert_isolated(busy)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({"put": in_loops(LINUX.put, "selector")}, {"selectors"}),
        ({"put": in_loops(LINUX.put, "counter")}, {"counters"}),
        ({"put": without(LINUX.put, register="fixed_ctr_ctrl")}, {"fixed_fields"}),
        ({"put": without(LINUX.put, op="lvtpc")}, {"lvtpc"}),
        ({"load": without(LINUX.load, op="lvtpc")}, {"not_loaded"}),
        ({"load": in_loops(LINUX.load, "selector")}, {"not_loaded"}),
        ({"load": in_loops(LINUX.load, "counter")}, {"not_loaded"}),
        ({"load": without(LINUX.load, register="fixed_ctr_ctrl")}, {"not_loaded"}),
    ],
)
def test_each_step_that_is_left_out_is_found(fault: dict[str, Any], found: set[str]) -> None:
    result, raw = simulated(dataclasses.replace(LINUX, name="fault", **fault))
    assert found <= {name for name, n in raw["breaches"].items() if n}
    assert len(result.violations) >= len(found)
    for host_perf in ((EVENT,), ("cycles:period=4000:exclude_guest",)):
        assert found <= {name for name, n in simulated(dataclasses.replace(LINUX, **fault), host_perf)[1][
            "breaches"
        ].items() if n}  # fmt: skip


def test_a_stale_status_is_found() -> None:
    """The guest samples, so that bits are set; put forgets to clear them."""
    odd = dataclasses.replace(LINUX, name="stale", put=without(LINUX.put, register="global_ovf_ctrl"))
    scenario = vpmu.Scenario(
        cpu="emeraldrapids",
        design=vpmu.Mediated(scope="every-exit", sequence=odd),
        workload="fio-4k-read",
        guest_perf=("record:instructions:period=5000",),
        seconds="0.001",
    )
    assert assert_engines_agree(plan(scenario), ENGINES)["breaches"]["status"] > 0


def test_stale_selectors_alone_count_host_code_beside_host_events() -> None:
    stale = dataclasses.replace(LINUX, name="stale", put=in_loops(LINUX.put, "selector"))
    _, raw = simulated(stale, (EVENT,))
    assert raw["breaches"]["host_counts"] > 100


@pytest.mark.parametrize("value", ["zero", "guest"])
def test_host_perf_goes_by_its_own_fixed_ctr_ctrl(value: str) -> None:
    """intel_pmu_disable_fixed() changes cpuc->fixed_ctrl_val; what the register holds does not matter to it."""
    before = {"op": "wrmsr", "register": "fixed_ctr_ctrl", "value": value}
    event = ("cycles:pinned:exclude_guest",)
    odd, raw = simulated(dataclasses.replace(LINUX, name="odd", load=(before, *LINUX.load)), event)
    usual, plain = simulated("linux-7.0", event)
    # One write when the event in fixed counter 1 leaves, one when it returns, whatever KVM wrote before.
    host = raw["ops"]["run"]["host"]
    assert host == plain["ops"]["run"]["host"]
    assert host["wrmsr_selector"] == 2 * host["wrmsr_counter"] > 50
    assert usual.violations == ()
    assert odd.host_events[0].value < usual.host_events[0].value  # it stopped a little too early


# -- files of one's own -----------------------------------------------------------------------------------------------

GOOD = """\
summary = "mine"
source = "me"
load = [
    { op = "perf_load_guest_context" },
    { op = "wrmsr", register = "global_ctrl", value = "zero" },
    { for = "gp", do = [
        { op = "rdpmc" },
        { op = "wrmsr", register = "counter", value = "guest", if = "differs" },
        { op = "wrmsr", register = "selector", value = "guest" },
    ] },
]
put = [
    { op = "perf_put_guest_context" },
]
"""


def test_a_file_is_a_sequence(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    found = vpmu.read_sequence(path)
    assert (found.name, found.summary, len(found.load), len(found.put)) == (str(path), "mine", 3, 1)
    made = vpmu.design(f"mediated,sequence={path}")
    assert str(made) == f"mediated,sequence={path}"
    assert made.switch() == found
    assert hash(made.switch()) == hash(found)
    assert vpmu.design(str(made)) == made
    assert vpmu.design("mediated-semi,sequence=" + str(path)).switch() == found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"global_ctrl"', '"global_ctl"', ":5: load step 2: unknown register to write 'global_ctl'; did"),
        ('"rdpmc"', '"rdpcm"', ":7: load step 3: unknown operation of a loop over gp counters 'rdpcm'"),
        ('if = "differs"', 'if = "difers"', ":8: load step 3: unknown condition 'difers'; did you mean differs"),
        ('if = "differs"', 'iff = "differs"', ":8: load step 3: unknown key of wrmsr 'iff'; did you mean if"),
        ('for = "gp"', 'for = "pg"', ":6: load step 3: unknown kind of counters 'pg'; did you mean gp"),
        ('"perf_put_guest_context"', '"perf_put_context"', ":13: put step 1: unknown operation 'perf_put_context'"),
        ("summary =", "sumary =", ":1: unknown key of a switch sequence 'sumary'; did you mean summary"),
        ('{ op = "rdpmc" },', "", ":8: load step 3: 'differs' takes a value that no rdpmc or rdmsr of counter read"),
        ('"gp"', "gp", ":6: this is no TOML: Invalid value"),
        ('put = [', 'put = "x" #', ":12: put is a list of steps, not 'x'"),
        ('{ op = "perf_put_guest_context" }', "3", ":13: put step 1: a step is a table"),
        ('{ op = "perf_put_guest_context" },', "", ":12: put must have 1 to 64 steps, not 0"),
        ('source = "me"', "source = 7", ":2: source is a text, not 7"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    path.write_text(text if 'put = "x"' not in text else text[: text.index("#")] + "\n")
    with pytest.raises(vpmu.ScenarioError) as caught:
        vpmu.read_sequence(path)
    assert str(caught.value).startswith(f"{path}{message}")
    status, out, err = command("compare", "idle", "--seconds", "0.001", "--design", f"mediated,sequence={path}")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert f"bad.toml{message[:3]}" in err


def test_lines_are_found_in_any_layout_of_toml(tmp_path: Path) -> None:
    """Arrays of tables, strings with brackets, comments, several steps on a line."""
    path = tmp_path / "odd.toml"
    path.write_text(
        'summary = """a ] } # "quoted"\n"""\nsource = \'[[load]]\'\nexit = [] # x ]\n'
        '[[load]]\nop = "perf_load_guest_context"\n'
        '[[load]]\nfor = "gp"\n[[load.do]]\nop = "rdpmc"\n'
        '[[load.do]]\nop = "wrmsr"\nregister = "countr"\nvalue = "zero"\n'
        '[[put]]\nop = "perf_put_guest_context"\n'
    )
    with pytest.raises(vpmu.ScenarioError, match=r"odd\.toml:13: load step 2: unknown register to write 'countr'"):
        vpmu.read_sequence(path)
    path.write_text(
        'load = [{ op = "perf_load_guest_context" }, { "op" = "lvtpc",\n value = \'gest\' }]\nput = []\n'.replace(
            ",\n", ", "
        )
    )
    with pytest.raises(vpmu.ScenarioError, match=r"odd\.toml:1: load step 2: unknown value of lvtpc 'gest'"):
        vpmu.read_sequence(path)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"op": "vmcs_exit_save", "register": "global_ctrl"}], "exit has one of"),
        ([{"op": "vmcs_exit_sav", "register": "global_ctrl"}], "did you mean vmcs_exit_save"),
        ([{"op": "vmcs_exit_load", "register": "global_ctrl", "value": "one"}], "unknown value of exit 'one'"),
        ([{"op": "vmcs_exit_load", "register": "global", "value": "zero"}], "unknown register of exit 'global'"),
    ],
)
def test_exit_steps_are_checked(steps: list[dict[str, str]], message: str) -> None:
    with pytest.raises(vpmu.ScenarioError, match=message):
        dataclasses.replace(LINUX, exit=tuple(steps))


def test_what_is_no_sequence() -> None:
    with pytest.raises(vpmu.ScenarioError, match="No such file"):
        vpmu.design("mediated,sequence=nowhere.toml")
    with pytest.raises(vpmu.ScenarioError, match="must be a name, a file or a Sequence, not 3"):
        vpmu.Mediated(sequence=3)  # type: ignore[arg-type]
    with pytest.raises(vpmu.UnknownName, match=r"linux-7\.0"):
        vpmu.design("mediated,sequence=linux-7")


def test_a_sequence_can_be_pickled_and_its_errors_too() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(LINUX)) == LINUX
    with pytest.raises(vpmu.ScenarioError) as caught:
        dataclasses.replace(LINUX, load=({"op": "nop"},))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_worked_example(tmp_path: Path) -> None:
    """docs/sequences.md: what it says of its file is so."""
    text = (Path(__file__).parents[1] / "docs" / "sequences.md").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    mine = vpmu.read_sequence(path)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(path.read_text().replace('register = "selector" }', 'register = "selectr" }', 1))
    with pytest.raises(vpmu.ScenarioError) as caught:
        vpmu.read_sequence(wrong)
    assert f"mine.toml{str(caught.value).removeprefix(str(wrong))}\n" in text
    result, raw = simulated(str(path), ("cycles:pinned:exclude_guest",))
    assert result.violations == ()
    assert not any(raw["breaches"].values())
    assert all("exact" in counter.flags for counter in result.counters)
    cycles = {}
    for state in STATES:
        for name, sequence in (("linux", LINUX), ("mine", mine)):
            found = switch_cost(vpmu.Mediated(scope="every-exit", sequence=sequence), vpmu.cpu("emeraldrapids"), state)
            cycles[state, name] = found["cycles"]
    assert cycles["idle", "mine"] < cycles["idle", "linux"]
    assert cycles["full", "mine"] > cycles["full", "linux"]


# -- the listing ------------------------------------------------------------------------------------------------------


def test_the_listing_has_a_row_for_each_sequence_and_state() -> None:
    status, out, err = command("list", "sequences", "--cpu", "emeraldrapids", "--format", "json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [(row["name"], row["counters"]) for row in rows] == [(n, s) for n in LIBRARY for s in STATES]
    costs = {name: figure.value for name, figure in vpmu.cpu("emeraldrapids").known_costs().items()}
    for row in rows:
        writes = row["wrmsr_counter"] + row["wrmsr_selector"] + row["wrmsr_global"]
        cycles = row["rdmsr"] * costs["rdmsr"] + row["rdpmc"] * costs["rdpmc"] + writes * costs["wrmsr"]
        cycles += row["wrmsr_lvtpc"] * costs["wrmsr_lvtpc"] + 2 * costs["perf_guest_context"]
        assert row["cycles"] == cycles
    status, out, err = command("list", "sequences", "--cpu", "emeraldrapids")
    assert status == 0
    assert "half" in out
    assert "one load and one put" in out


def test_the_listing_leaves_out_what_a_cpu_cannot_do() -> None:
    old = dataclasses.replace(vpmu.cpu("skylake"), version=3, gp_mask=15)
    assert {row[0] for row in sequence_rows(old)} == {"semi-v2"}  # no STATUS_SET
    with pytest.raises(vpmu.ScenarioError, match="can do none of the sequences"):
        sequence_rows(dataclasses.replace(old, perf_capabilities=0))
    status, _, err = command("list", "sequences", "--cpu", "milan")
    assert status == 2
    assert err.count("\n") == 1
