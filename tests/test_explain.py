"""Result.explain: every cause in real runs, and each number in it against the result."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

import vpmu
import vpmu._simulate
from vpmu._explain import _WORDS, mean, share
from vpmu._plan import Plan, PlannedAccess
from vpmu._result import CAUSES
from vpmu.report import run_table

SHORT = dataclasses.replace(vpmu.cpu("skylake").with_quirks(min_period32=True), skid=vpmu.Skid(0, 0))
SAMPLED = "record:cycles:period=5000:throttle"

#: Cause, how it shows, counter, words of the paragraph, and the run.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "not_scheduled": (
        "guest branches",
        "found no counter and was in ERROR; it may use GP 0-3; at the end cycles:pinned has GP 0-3.*unpin or end one",
        {"design": "emulated", "cpu": "skylake", "guest_perf": ["stat:branches"], "host_perf": ["cycles:pinned"] * 5},
    ),
    "multiplexed": (
        "guest branches",
        r"had a counter for [\d.]+ ms of [\d.]+ ms.*fewer than 5 events in the guest.*scaled by its times",
        {"design": "mediated", "cpu": "skylake", "guest_perf": ["stat:" + ",".join(["branches"] * 5)]},
    ),
    "throttled": (
        "guest cycles",
        r"stopped it \d+ times? for its [\d,]+ samples.*a longer period.*Of [\d,]+ samples expected",
        {"design": "mediated", "guest_perf": [SAMPLED], "seconds": "0.03"},
    ),
    "filtered": (
        "guest branches",
        "event filter denies branches \\(selector 0xc4\\).*a filter that admits branches",
        {"design": "mediated,event_filter=deny:branches", "guest_perf": ["stat:branches,instructions"]},
    ),
    "period_rejected": (
        "guest branches",
        "its period of 20 is below the least that skylake takes \\(32\\).*a period of 32 or more",
        {"design": "emulated", "cpu": SHORT, "guest_perf": ["record:branches:period=20"], "seconds": "0.002"},
    ),
    "wrong_counter": (
        "guest branches",
        "counts something else .*direct-capture,constraints=host, or emulated",
        {
            "design": "direct-capture",
            "cpu": "skylake",
            "guest_pmu": vpmu.GuestPmu(2, 1, 0),
            "guest_perf": ["stat:instructions,branches"],
        },
    ),
    "window": (
        "host cycles:pinned:exclude_guest",
        r"out of the PMU while guest state is loaded: [\d,]+ of [\d,]+ cycles of host code .*design that leaves",
        {"design": "mediated", "host_perf": ["cycles:pinned:exclude_guest"]},
    ),
    "pmu_disabled": (
        "host cycles:pinned",
        r"GLOBAL_CTRL at 0 while it schedules and samples \([\d,]+ reprogrammings of guest counters\)",
        {"design": "emulated", "host_perf": ["cycles:pinned"], "guest_perf": ["record:instructions:period=100003"]},
    ),
    "ceded": (
        "host watchdog",
        "given its PMU up to the guest \\(design dedicated\\).*a design that shares the PMU",
        {"design": "dedicated", "host_perf": ["watchdog"]},
    ),
    "emulated_instruction": (
        "guest instructions",
        r"instructions that the hypervisor emulated in [\d,]+ exits were not added to it",
        {"design": "emulated", "cpu": "skylake", "guest_perf": ["stat:instructions"]},
    ),
    "overwritten": (
        "host cycles:freq=20000",
        r"milan has no global enable bits.*\([\d,]+ PMIs?\).*PerfMonV2",
        {"design": "none", "cpu": "milan", "guest_perf": [], "host_perf": ["cycles:freq=20000"]},
    ),
    "host_stale": (
        "host cycles:pinned:exclude_guest",
        r"hardware counted for it where its attributes exclude it \([\d,]+ switches\).*a switch sequence that takes",
        {"design": "mediated", "guest_perf": ["stat:cycles"], "host_perf": ["cycles:pinned:exclude_guest"]},
    ),
}


def careless(planned: Plan) -> Plan:
    """Software that starts a fixed counter by its own control, with GLOBAL_CTRL on: perf never does."""
    stop, start = PlannedAccess(100, "fixed_ctr_ctrl", 0, 0), PlannedAccess(100, "fixed_ctr_ctrl", 0, 0xB)
    return dataclasses.replace(planned, program=(stop, start))


def forgetful(planned: Plan) -> Plan:
    """A switch of which host perf is not told: its events stay in the PMU."""
    assert planned.sequence is not None
    load, put = (
        tuple(step for step in half if not str(step.get("op")).startswith("perf_"))
        for half in (planned.sequence.load, planned.sequence.put)
    )
    return dataclasses.replace(planned, sequence=dataclasses.replace(planned.sequence, load=load, put=put))


#: What no scenario does, since neither perf nor the built-in switch sequences make this mistake.
CHANGED: dict[str, Callable[[Plan], Plan]] = {"emulated_instruction": careless, "host_stale": forgetful}


@pytest.fixture(params=sorted(RUNS))
def explained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, vpmu.Result]:
    """A cause and a run that shows it."""
    cause: str = request.param
    plain = vpmu._simulate.plan
    monkeypatch.setattr(vpmu._simulate, "plan", lambda s: CHANGED.get(cause, lambda p: p)(plain(s)))
    scenario = vpmu.Scenario(**{"workload": "fio-4k-read", "seconds": "0.01", **RUNS[cause][2]})
    return cause, vpmu.simulate(scenario)


def paragraphs(result: vpmu.Result) -> list[tuple[vpmu.Counter, str]]:
    counters = result.counters + result.host_events
    return [(counter, result.explain(i)) for i, counter in enumerate(counters)]


def test_every_cause_has_words_and_a_run() -> None:
    assert set(_WORDS) == set(CAUSES) == set(RUNS)


def test_each_cause_in_words(explained: tuple[str, vpmu.Result]) -> None:
    cause, result = explained
    name, words, _ = RUNS[cause]
    texts = [(counter, text) for counter, text in paragraphs(result) if text.startswith(f"{name} ")]
    counter, text = max(texts, key=lambda entry: entry[0].losses.get(cause, 0) + entry[0].gains.get(cause, 0))
    assert cause in {*counter.losses, *counter.gains}
    assert re.search(words, text), text
    assert "\n" not in text


def test_the_numbers_are_the_counters_and_add_up(explained: tuple[str, vpmu.Result]) -> None:
    cause, result = explained
    for counter, text in paragraphs(result):
        if counter.value == counter.ideal:
            assert f"is exact: it read {counter.value:,} and" in text
            continue
        assert f"read {counter.value:,} and should have read {counter.ideal:,}: " in text
        found = [
            (way, int(n.replace(",", "")), cause)
            for way, n, cause in re.findall(
                r"It (lost|gained) ([\d,]+) \((?:\S+ % of what it should have read, )?(\w+)\)", text
            )
        ]
        assert {c: n for way, n, c in found if way == "lost"} == counter.losses
        assert {c: n for way, n, c in found if way == "gained"} == counter.gains
        assert [n for _, n, _ in found] == sorted((n for _, n, _ in found), reverse=True)
        lost, gained = (sum(n for w, n, _ in found if w == way) for way in ("lost", "gained"))
        # A careless switch writes the guest's value over the host's: that is no loss by a cause, but a violation.
        kept = counter.ideal - lost + gained == counter.value
        assert kept != any(f"conservation: {counter.event}:" in violation for violation in result.violations)
        assert kept or cause == "host_stale"
        assert "To change: " in text
        for way, n, name in found:
            if counter.ideal:
                assert f"It {way} {n:,} ({share(n, counter.ideal)} of what it should have read, {name}): " in text


def test_without_an_argument_it_explains_what_is_off(explained: tuple[str, vpmu.Result]) -> None:
    _, result = explained
    off = [
        text
        for counter, text in paragraphs(result)
        if counter.value != counter.ideal or counter.samples < counter.samples_expected
    ]
    assert off
    assert result.explain() == "\n".join(off)


def test_it_says_plainly_when_a_counter_is_exact() -> None:
    result = vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds="0.002"))
    instructions, cycles = (counter.value for counter in result.counters)
    assert result.explain() == (
        "Every counter is exact, each read what it should: "
        f"guest instructions {instructions:,}, guest cycles {cycles:,}."
    )
    assert result.explain("cycles") == result.explain(1) == (
        f"guest cycles is exact: it read {cycles:,} and should have read as many, with no loss and no gain."
    )  # fmt: skip
    assert (
        vpmu.simulate(vpmu.Scenario(design="none", guest_perf=(), seconds="0.001")).explain()
        == "There are no counters."
    )


def test_exact_by_cancellation_is_said_to_be_that() -> None:
    result = vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds="0.001"))
    odd = dataclasses.replace(result.counters[0], losses={"emulated_instruction": 3}, gains={"emulated_instruction": 3})
    text = dataclasses.replace(result, counters=(odd,)).explain(0)
    assert "only because what it lost and what it gained cancel" in text
    assert "It gained 3 (" in text
    assert "It lost 3 (" in text


def test_one_is_missing_and_one_is_too_many() -> None:
    result = vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds="0.001"))
    first = result.counters[0]
    for change, said in ((-1, "1 is missing"), (1, "1 is too many"), (2, "2 are too many")):
        odd = dataclasses.replace(first, value=first.ideal + change, flags=())
        assert f": {said} (<0.1 %)" in dataclasses.replace(result, counters=(odd,)).explain(0)
    nothing = dataclasses.replace(first, value=5, ideal=0, gains={"emulated_instruction": 5}, flags=())
    text = dataclasses.replace(result, counters=(nothing,)).explain(0)
    assert "read 5 and should have read 0: 5 are too many. It gained 5 (emulated_instruction)" in text


def test_a_name_that_guest_and_host_share_gives_both() -> None:
    result = vpmu.simulate(
        vpmu.Scenario(design="emulated", guest_perf=["stat:cycles"], host_perf=["cycles"], seconds="0.002")
    )
    assert result.explain("cycles").count("\n") == 1
    assert result.explain("host cycles") == result.explain(1)


@pytest.mark.parametrize("counter", [2, -1, True, 1.0, ["cycles"]])
def test_a_counter_that_is_not_there_is_refused(counter: Any) -> None:
    result = vpmu.simulate(vpmu.Scenario(workload="fio-4k-read", seconds="0.001"))
    with pytest.raises(vpmu.ScenarioError, match="must be an event's name or 0 to 1"):
        result.explain(counter)
    with pytest.raises(vpmu.UnknownName, match="did you mean cycles"):
        result.explain("cycle")


def test_a_design_that_cannot_be_had_has_its_reason() -> None:
    result = vpmu.simulate(vpmu.Scenario(design="mediated", host_perf=["watchdog"], seconds="0.001"))
    assert result.explain() == f"mediated has no counters: {result.reason}."
    assert "EBUSY" in result.explain()


def test_samples_expected_taken_late_and_lost() -> None:
    result = vpmu.simulate(vpmu.Scenario(design="mediated", guest_perf=["record:cycles:period=100003"], seconds="0.01"))
    (counter,) = result.counters
    text = result.explain(0)
    assert f"Of {counter.samples_expected:,} samples expected, {counter.samples:,} were taken" in text
    late = Fraction(counter.samples_late, counter.samples)
    said = int(re.search(r"on average one came ([\d,]+) cycles after its overflow", text)[1].replace(",", ""))
    assert abs(said - late) <= Fraction(1, 2)
    odd = dataclasses.replace(counter, samples=counter.samples - 3)
    worse = dataclasses.replace(result, counters=(odd,))
    assert f"and {counter.samples_expected - odd.samples} lost (" in worse.explain(0)
    assert worse.explain() == worse.explain(0)


def test_host_events_in_turns_and_throttled() -> None:
    scenario = vpmu.Scenario(
        cpu="skylake", design="emulated", workload="fio-4k-read", guest_perf=(),
        host_perf=["cache-misses"] * 5 + ["cycles:pinned:period=5000"], seconds="0.05",
    )  # fmt: skip
    result = vpmu.simulate(scenario)
    turns, sampling = result.explain(0), result.explain(5)
    assert re.search(r"waited for its turn for [\d.]+ ms of 50 ms; it may use GP 0-3; at the end ", turns)
    assert f"there are 5 others (scaled by its times, as perf does, it is {result.host_events[0].scaled:,})" in turns
    throttles = result.raw["host"][5]["throttled"]
    assert throttles > 0
    sampler = result.host_events[5]
    assert f"perf throttled it {throttles} times for its {sampler.samples:,} samples" in sampling
    assert f"Of {sampler.samples_expected:,} samples expected, {sampler.samples:,} were taken" in sampling
    refused = vpmu.simulate(
        vpmu.Scenario(design="mediated", host_perf=["cycles"], vm_first=True, seconds="0.001")
    ).explain("host cycles")
    assert "EOPNOTSUPP" in refused
    assert "To change: add :exclude_guest to it." in refused


def test_scopes_in_the_words_of_the_window() -> None:
    for scope, words in (("run-loop", "scope=every-exit in place of run-loop"), ("every-exit", "a design that leaves")):
        result = vpmu.simulate(
            vpmu.Scenario(
                design=f"mediated,scope={scope}",
                workload="fio-4k-read",
                host_perf=["cycles:exclude_guest"],
                seconds="0.005",
            )
        )
        assert f"To change: {words}" in result.explain("host cycles:exclude_guest")


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, ""), (3, 0, ""), (0, 7, "0 %"), (7, 7, "100 %"), (1, 2, "50.0 %"), (1, 3, "33.3 %"), (2, 3, "66.7 %"),
        (1, 2000, "0.1 %"), (1, 2001, "<0.1 %"), (1, 10**15, "<0.1 %"), (10**15 - 1, 10**15, ">99.9 %"),
        (9994, 10_000, "99.9 %"), (9995, 10_000, ">99.9 %"), (25, 20_000, "0.1 %"), (3, 2, "150.0 %"),
        (10**15 + 1, 10**15, ">100 %"), (15, 10_000, "0.2 %"), (14, 10_000, "0.1 %"),
    ],
)  # fmt: skip
def test_percentages_have_one_decimal_and_are_0_or_100_only_if_they_are(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


@pytest.mark.parametrize(("total", "n", "rounded"), [(0, 3, 0), (1, 2, 1), (1, 3, 0), (5, 3, 2), (3, 2, 2)])
def test_averages_are_rounded_half_up(total: int, n: int, rounded: int) -> None:
    assert mean(total, n) == rounded


def test_run_prints_it() -> None:
    result = vpmu.simulate(vpmu.Scenario(**{**RUNS["ceded"][2], "seconds": "0.001"}))
    parts = run_table(result, "heading", 120)
    assert all(line in parts for line in result.explain().splitlines())
