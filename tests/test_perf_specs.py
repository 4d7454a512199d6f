"""How events and perfs are written: perf's grammar, in all its forms."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu._events import CODES, allowed_counters, place
from vpmu._perf import parse_guest_perf, parse_host_perf

# Intel SDM vol. 3B, "Pre-defined Architectural Performance Events" (umask, event select) and perf's pseudo encodings.
ARCHITECTURAL = {
    "cycles": (0x00, 0x3C),
    "instructions": (0x00, 0xC0),
    "bus-cycles": (0x01, 0x3C),
    "cache-references": (0x4F, 0x2E),
    "cache-misses": (0x41, 0x2E),
    "branches": (0x00, 0xC4),
    "branch-misses": (0x00, 0xC5),
    "ref-cycles": (0x03, 0x00),
    "slots": (0x04, 0x00),
}


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), ARCHITECTURAL.items())
def test_an_event_by_name_raw_code_and_terms_is_the_same(name: str, code: tuple[int, int]) -> None:
    umask, event = code
    for text in (
        name,
        f"r{umask:02x}{event:02x}",
        f"r{umask:02X}{event:02X}",
        f"r{umask << 8 | event:x}",
        f"cpu/event={event:#x},umask={umask:#x}/",
        f"cpu/umask={umask},event={event}/",
    ):
        parsed = vpmu.parse_event(text)
        assert (parsed.name, parsed.user, parsed.kernel, parsed.text) == (name, True, True, text)
        assert parsed.code == umask << 8 | event


def test_aliases_and_terms_that_are_left_out() -> None:
    assert vpmu.parse_event("cpu-cycles").name == "cycles"
    assert vpmu.parse_event("branch-instructions").name == "branches"
    assert vpmu.parse_event("cpu/event=0xc4/").name == "branches"
    assert vpmu.parse_event("cpu/event=0xa4,umask=0x01/").name == "slots"


@pytest.mark.parametrize("form", ["instructions:{}", "rc0:{}", "cpu/event=0xc0/{}", "cpu/event=0xc0,umask=0/{}"])
@pytest.mark.parametrize(
    ("modifiers", "user", "kernel"), [("u", True, False), ("k", False, True), ("uk", True, True), ("ku", True, True)]
)
def test_modifiers_choose_privilege_levels(form: str, modifiers: str, user: bool, kernel: bool) -> None:
    event = vpmu.parse_event(form.format(modifiers))
    assert (event.name, event.user, event.kernel) == ("instructions", user, kernel)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("instuctions", "instructions"),
        ("cycle", "cycles"),
        ("branch-miss", "branch-misses"),
        ("refcycles", "ref-cycles"),
        ("cache-reference:u", "cache-references"),
    ],
)
def test_near_misses_of_names_are_named(text: str, near: str) -> None:
    with pytest.raises(vpmu.UnknownName, match=f"unknown event .*did you mean .*{near}") as caught:
        vpmu.parse_event(text)
    assert near in caught.value.near


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "known: .*instructions"),
        ("r", "unknown event"),
        ("rxyz", "unknown event"),
        ("r1234", "no rate is known"),
        ("r100c0", "no rate is known"),
        ("r00c0c0", "no rate is known"),
        ("r" + "0" * 14 + "c0c0", "unknown event"),
        ("cycles:p", "modifier 'p' is not simulated"),
        ("cycles:ppp", "not simulated"),
        ("cycles:G", "not simulated"),
        ("cycles:", "modifier ''"),
        ("cycles:u:k", "modifier 'u:k'"),
        ("cpu/event=0xc0/p", "modifier 'p'"),
        ("cpu/event=0xc0", "unknown event"),
        ("cpu//", "no rate is known"),
        ("cpu/event=0xc0,inv=1/", "term 'inv' is not simulated"),
        ("cpu/event=0xc0,cmask=1/", "term 'cmask' is not simulated"),
        ("cpu/instructions/", "term 'instructions' is not simulated"),
        ("cpu/event=c0/", "needs a number"),
        ("cpu/event=/", "needs a number"),
        ("cpu/event/", "needs a number"),
        ("cpu/event=256/", "must fit 8 bits"),
        ("cpu/event=0xc0,umask=-1/", "must fit 8 bits"),
        ("cpu/event=0xff/", "no rate is known"),
        (" cycles", "cycles"),
        ("CYCLES", "unknown event"),
    ],
)
def test_events_that_are_none_say_why(text: str, said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        vpmu.parse_event(text)


WORDS = ("stat", "record", "event=0xc0", "umask=0", "r00c0", "pinned", "exclude_guest", "task", "period=5", "freq=1")
PIECES = st.lists(st.sampled_from([*CODES, *WORDS, "cpu/", *"/:,=rukp0{} \n"]), max_size=9).map("".join)


@given(PIECES)
def test_any_text_is_an_event_or_one_of_our_errors(text: str) -> None:
    with contextlib.suppress(vpmu.VpmuError):
        event = vpmu.parse_event(text)
        assert event.name in CODES
        assert event.user or event.kernel


# -- guest perf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "events"),
    [
        ("stat:cycles", ("cycles",)),
        ("stat:instructions,cycles", ("instructions", "cycles")),
        ("stat:cycles:u", ("cycles:u",)),
        ("stat:cycles:u,instructions:k,branches", ("cycles:u", "instructions:k", "branches")),
        ("stat:cpu/event=0xc0,umask=0x00/", ("cpu/event=0xc0,umask=0x00/",)),
        ("stat:cpu/event=0xc0,umask=0x00/u,r003c", ("cpu/event=0xc0,umask=0x00/u", "r003c")),
        ("stat:cycles,cycles,cycles", ("cycles",) * 3),
    ],
)
def test_stat_and_record_take_the_same_events(spec: str, events: tuple[str, ...]) -> None:
    assert parse_guest_perf(spec) == vpmu.PerfStat(events)
    record = spec.replace("stat:", "record:") + ":period=4000"
    assert parse_guest_perf(record) == vpmu.PerfRecord(events, 4000)


@pytest.mark.parametrize("period", [1, 2, 1000003, (1 << 47) - 1])
def test_periods_up_to_half_a_counter(period: int) -> None:
    perf = parse_guest_perf(f"record:cycles:u:period={period}")
    assert perf == vpmu.PerfRecord(["cycles:u"], period)
    assert isinstance(perf, vpmu.PerfRecord)
    assert perf.period == period


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "known: record, stat"),
        ("stat", "names no event; write stat:instructions,cycles"),
        ("stat:", "names no event"),
        ("record::period=5", "names no event; write record:"),
        ("Stat:cycles", "did you mean stat"),
        ("records:cycles:period=5", "did you mean record"),
        ("cycles", "unknown guest perf command"),
        ("stat:cycels", "did you mean cycles"),
        ("stat:{instructions,cycles", "must be written"),
        ("stat:{instructions,{cycles}}", "must be written"),
        ("stat:{instructions}u", "must be written"),
        ("stat:{}", "group '{}' names no event"),
        ("stat:{cycles,branches}:S", "S samples; use record"),
        ("stat:{instructions,cycels}", "did you mean cycles"),
        ("stat:{instructions,cycles}:p", "modifier 'p'"),
        ("stat:cycles:period=5", "write record:cycles:period=N"),
        ("stat:cycles:freq=5", "write record:cycles:freq=N"),
        ("stat:cycles:interval=-1", "interval -1 must be an integer from 0 to 1000000"),
        ("stat:cycles:interval=x", "interval 'x' is no integer"),
        ("stat:cycles:task=x", "task 'x' is no integer"),
        ("stat:cycles:task=100001", "task 100001 must be an integer from 0 to 100000"),
        ("stat:cycles:throttle", "unknown guest perf option 'throttle'"),
        ("record:cycles:period=5:throttle=1", "throttle takes no value"),
        ("stat:cycles:task:threads=1", "threads takes no value"),
        ("stat:cycles:threads", "give task"),
        ("record:cycles:interval=5:period=5", "unknown guest perf option 'interval'"),
        ("record:cycles", "needs a period or a frequency; write record:cycles:period=1000000 or :freq=4000"),
        ("record:cycles:freq=0", "freq 0 must be an integer from 1 to 100000"),
        ("record:cycles:freq=100001", "freq 100001 must be an integer from 1 to 100000"),
        ("record:cycles:freq=1000:period=5", "period= or freq=, not both"),
        ("watchdog:u", "watchdog takes no events"),
        ("record:cycles:period=", "no integer"),
        ("record:cycles:period=many", "no integer"),
        ("record:cycles:period=1.5", "no integer"),
        ("record:cycles:period=0", "from 1 to 2\\*\\*47 - 1"),
        ("record:cycles:period=-1", "from 1 to 2\\*\\*47 - 1"),
        (f"record:cycles:period={1 << 47}", "from 1 to 2\\*\\*47 - 1"),
        ("record:cycles:periods=5", "did you mean period"),
        ("record:cycles:period=5:period=6", "given twice"),
        ("stat:cycles:x=5", "unknown guest perf option 'x'"),
        ("stat:cycles:uk:p", "modifier"),
    ],
)
def test_guest_perf_that_is_none_says_what_to_write(spec: str, said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        parse_guest_perf(spec)


@pytest.mark.parametrize(
    "perf",
    [
        vpmu.PerfStat(["cycles:u", "cpu/event=0xc0,umask=0x00/k"]),
        vpmu.PerfRecord(["instructions", "r003c:k"], 12345),
        vpmu.PerfRecord(["{instructions,cycles}:k", "branches:u"], freq=99, task=0),
        vpmu.PerfRecord(["cycles"], 5, throttle=True, task=3),
        vpmu.PerfStat(["{cycles,cpu/event=0xc0/}", "branches"], interval=10, task=1000, threads=True),
        vpmu.PerfRecord(["{cycles,instructions}:Su"], freq=99),
        vpmu.GuestWatchdog(),
    ],
)
def test_a_perf_is_written_as_it_is_read(perf: Any) -> None:
    assert parse_guest_perf(str(perf)) == perf


def test_perfs_are_checked_when_they_are_made() -> None:
    for make in (vpmu.PerfStat, lambda events: vpmu.PerfRecord(events, 1000)):
        with pytest.raises(vpmu.ScenarioError, match="non-empty list"):
            make([])
        with pytest.raises(vpmu.ScenarioError, match="non-empty list"):
            make("cycles")
        with pytest.raises(vpmu.UnknownName, match="did you mean cycles"):
            make(["cycls"])
    for period in (0, -1, 1 << 47, True, 1.0, "5", None):
        with pytest.raises(vpmu.ScenarioError, match="period"):
            vpmu.PerfRecord(["cycles"], period)  # type: ignore[arg-type]  # what is refused


def test_a_period_must_fit_the_guests_counters() -> None:
    # Without full-width writes a counter takes 32 bits, sign-extended: 2**31 - 1 is the longest way to an overflow.
    narrow = dataclasses.replace(vpmu.cpu("skylake"), perf_capabilities=0)

    def scenario(cpu: vpmu.CpuModel, period: int) -> vpmu.Scenario:
        return vpmu.Scenario(
            cpu=cpu, design="bare-metal", guest_perf=[vpmu.PerfRecord(["cycles"], period)], seconds=1e-4
        )

    vpmu.simulate(scenario(narrow, (1 << 31) - 1))
    vpmu.simulate(scenario(vpmu.cpu("skylake"), 1 << 31))
    with pytest.raises(vpmu.ScenarioError, match=str((1 << 31) - 1)):
        vpmu.simulate(scenario(narrow, 1 << 31))


# -- host perf --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "event", "exclude_guest", "exclude_host"),
    [
        ("cycles:pinned", "cycles", False, False),
        ("cycles:pinned:exclude_guest", "cycles", True, False),
        ("cycles:exclude_host:pinned", "cycles", False, True),
        ("cycles:u:pinned", "cycles:u", False, False),
        ("cycles:pinned:k", "cycles:k", False, False),
        ("cpu/event=0xc0,umask=0x00/k:pinned:exclude_guest", "cpu/event=0xc0,umask=0x00/k", True, False),
        ("r00c4:pinned", "r00c4", False, False),
        ("cycles:pinned:task:freq=4000", "cycles", False, False),
        ("cycles:pinned:exclude_guest:period=1000003", "cycles", True, False),
    ],
)
def test_host_events_and_their_flags(spec: str, event: str, exclude_guest: bool, exclude_host: bool) -> None:
    parsed = parse_host_perf(spec)
    assert (parsed.event, parsed.pinned) == (event, True)
    assert (parsed.exclude_guest, parsed.exclude_host) == (exclude_guest, exclude_host)
    assert parse_host_perf(str(parsed)) == parsed
    assert parsed.task == ("task" in spec)
    assert parse_host_perf(spec.replace(":pinned", "")) == dataclasses.replace(parsed, pinned=False)


def test_the_watchdog_is_pinned_cycles_in_all_modes() -> None:
    watchdog = parse_host_perf("watchdog")
    assert watchdog is vpmu.WATCHDOG
    assert (watchdog.parsed.name, watchdog.pinned) == ("cycles", True)
    assert not watchdog.exclude_guest
    assert not watchdog.exclude_host
    assert str(watchdog) == "watchdog"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "unknown event"),
        ("cycls:pinned", "did you mean cycles"),
        ("watchdog:pinned", "unknown event 'watchdog'"),
        ("cycles:pinend", "did you mean pinned"),
        ("cycles:pinned:exclude_guests", "did you mean exclude_guest"),
        ("cycles:pinned:", "unknown host perf option ''"),
        ("cycles:pinned:exclude_guest:exclude_host", "together count nothing"),
        ("cycles:pinned:freq=0", "freq 0 must be an integer from 1 to 100000"),
        ("cycles:freq=100001", "1 to 100000"),
        ("cycles:freq=x", "freq 'x' is no integer"),
        ("cycles:period=0", "period 0 must be"),
        ("cycles:period=-5", "is no integer"),
        ("cycles:period=140737488355328", r"2\*\*47 - 1"),
        ("cycles:period=5:freq=5", "not both"),
        ("cycles:period=5:period=5", "given twice"),
        ("cycles:p:pinned", "unknown host perf option 'p'"),
        ("{cycles,instructions}:pinned", "unknown event"),
    ],
)
def test_host_perf_that_is_none_says_what_to_write(spec: str, said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        parse_host_perf(spec)


@given(st.sampled_from(["", "stat:", "record:"]), PIECES, st.sampled_from(["", ":pinned", ":period=7"]))
def test_any_spec_is_refused_or_means_what_it_is_written_as(head: str, middle: str, tail: str) -> None:
    for parse in (parse_guest_perf, parse_host_perf):
        with contextlib.suppress(vpmu.VpmuError):
            parsed = parse(head + middle + tail)
            assert parse(str(parsed)) == parsed


# -- placement --------------------------------------------------------------------------------------------------------


def test_events_are_placed_as_linux_places_them() -> None:
    cpu = vpmu.cpu("sapphirerapids")
    events = [vpmu.parse_event(text) for text in ("cycles", "instructions", "branches", "instructions", "ref-cycles")]
    counters = place(events, cpu)
    assert counters[0] == 33
    assert {counters[1], counters[3]} == {32, min(c for c in (counters[1], counters[3]))}
    assert counters[4] == 34
    assert len(set(counters)) == len(events)
    for event, counter in zip(events, counters, strict=True):
        gp, fixed = allowed_counters(event.name, cpu)
        assert (fixed >> (counter - 32) if counter >= 32 else gp >> counter) & 1


@given(st.lists(st.sampled_from(sorted(CODES)), max_size=14), st.sampled_from(vpmu.cpus()))
def test_a_placement_is_legal_and_found_if_there_is_one(names: list[str], cpu_name: str) -> None:
    cpu = vpmu.cpu(cpu_name)
    events = [vpmu.parse_event(name) for name in names]
    try:
        counters = place(events, cpu)
    except vpmu.ScenarioError:
        counters = None  # there is one that no counter can count
    if counters is None:
        # Hall's condition: some set of events is larger than the set of counters that may count it.
        masks = [allowed_counters(name, cpu) for name in names]
        kinds = sorted(set(masks))
        crowded = False
        for chosen in range(1, 1 << len(kinds)):
            subset = [kind for i, kind in enumerate(kinds) if chosen >> i & 1]
            union = (0, 0)
            for gp, fixed in subset:
                union = (union[0] | gp, union[1] | fixed)
            crowded |= sum(mask in subset for mask in masks) > union[0].bit_count() + union[1].bit_count()
        assert crowded
        return
    assert len(set(counters)) == len(names)
    for name, counter in zip(names, counters, strict=True):
        gp, fixed = allowed_counters(name, cpu)
        assert (fixed >> (counter - 32) if counter >= 32 else gp >> counter) & 1
