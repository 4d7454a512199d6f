"""KVM's event filter as an object: validity, normal form, matching; the vectors of Linux's pmu_event_filter_test."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vpmu
from vpmu._event_filter import MAX_EVENTS

MASKED = vpmu.MaskedEvent
INSTRUCTIONS, BRANCHES, AMD_BRANCHES = 0xC0, 0xC4, 0xC2
OTHERS = (0x003C, 0x412E, 0x4F2E, 0x00C5)  # of the selftest's list, without what it counts


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(vpmu.EventFilterError) as caught:
        vpmu.EventFilter(*arguments, **keywords)
    assert str(caught.value).startswith(f"event filter: {caught.value.errno}: ")
    return caught.value.errno


# -- the paragraphs of KVM's filter ----------------------------------------------------------------------------------


def test_kvm_6_1_actions_are_0_and_1_and_the_only_flag_is_masked_events():
    assert vpmu.EventFilter(0).action == "allow"
    assert vpmu.EventFilter(1).action == "deny"
    assert not vpmu.EventFilter.from_ioctl(0, 0, 0, []).masked
    assert vpmu.EventFilter.from_ioctl(1, 1, 5, [0xC0]) == vpmu.EventFilter("deny", [0xC0], 5, masked=True)


def test_kvm_6_2_errors():
    for action in (2, -1, 1 << 31):
        assert refusal(action) == "EINVAL"
    for flags in (2, 3, 0x80000000):
        with pytest.raises(vpmu.EventFilterError, match="EINVAL"):
            vpmu.EventFilter.from_ioctl(0, flags, 0, [])
    full = [0xC0] * MAX_EVENTS
    assert len(vpmu.EventFilter("allow", full).events) == 300
    assert refusal("allow", [*full, 0xC0]) == "E2BIG"
    assert refusal("allow", [*full, 1 << 16], masked=True) == "E2BIG"  # the length is looked at first


@pytest.mark.parametrize("bit", range(64))
def test_kvm_6_2_a_stray_bit_in_one_masked_entry_refuses_the_whole_filter(bit):
    entries = [MASKED(0xD0, 0x81), 1 << bit, MASKED(0x3C)]
    for vendor, legal in (
        ("intel", {*range(16), *range(55, 64)}),
        ("amd", {*range(16), *range(32, 36), *range(55, 64)}),
    ):
        if bit in legal:
            assert len(vpmu.EventFilter("deny", entries, masked=True, vendor=vendor).events) == 3
        else:
            assert refusal("deny", entries, masked=True, vendor=vendor) == "EINVAL"


def test_kvm_6_3_plain_entries_with_other_bits_are_dropped_and_the_rest_is_matched_in_full():
    stray = [1 << bit for bit in range(16, 64)]
    made = vpmu.EventFilter("allow", [*stray, 0x412E, 0xC0 | 1 << 22])
    assert made.includes == (0x412E | 0xFF << 56,)
    assert made.excludes == ()
    assert made.allows(0x412E)
    assert not made.allows(0xC0)
    assert len(vpmu.EventFilter("allow", stray, vendor="amd").includes) == 4  # 35:32 are event select there
    # Bit 55 is no exclude in this mode.
    assert not vpmu.EventFilter("deny", [0xC0, 0xC0 | 1 << 55]).allows(0xC0)


def test_kvm_6_4_entries_are_sorted_by_exclude_and_event_select():
    given_ = [
        MASKED(0xD0, 2, exclude=True),
        MASKED(0xD0, 1),
        MASKED(0x0E, 7),
        MASKED(0xC4, 3, exclude=True),
        MASKED(0x3C),
    ]
    made = vpmu.EventFilter("allow", given_, masked=True)
    assert [MASKED.decode(entry).event for entry in made.includes] == [0x0E, 0x3C, 0xD0]
    assert [MASKED.decode(entry).event for entry in made.excludes] == [0xC4, 0xD0]
    amd = vpmu.EventFilter("allow", [MASKED(0x1C2), MASKED(0x0C3), MASKED(0x0C2)], masked=True, vendor="amd")
    assert [MASKED.decode(entry).event for entry in amd.includes] == [0x0C2, 0x0C3, 0x1C2]


def test_kvm_6_5_a_match_outside_the_mask_never_matches():
    made = vpmu.EventFilter("allow", [MASKED(0xD0, match=0x81, mask=0x01)], masked=True)
    assert not any(made.allows(0xD0 | umask << 8) for umask in range(256))
    made = vpmu.EventFilter("allow", [MASKED(0xD0, match=0x80, mask=0x80)], masked=True)
    assert [umask for umask in range(256) if made.allows(0xD0 | umask << 8)] == list(range(128, 256))
    assert not made.allows(0x1_0000_80D0 & ~0xFF)


def test_kvm_6_5_event_select_has_8_bits_on_intel_and_12_on_amd():
    assert not vpmu.EventFilter("deny", [AMD_BRANCHES]).allows(1 << 32 | AMD_BRANCHES)
    assert vpmu.EventFilter("deny", [AMD_BRANCHES], vendor="amd").allows(1 << 32 | AMD_BRANCHES)


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_kvm_6_6_a_hit_is_an_include_without_an_exclude(action):
    made = vpmu.EventFilter(action, [MASKED(0xD0, 0, 0x7C), MASKED(0xD0, 0x82, exclude=True)], masked=True)
    hits = [umask for umask in (0x81, 0x82, 0x83, 0x84) if made.allows(0xD0 | umask << 8) == (action == "allow")]
    assert hits == [0x81, 0x83]
    alone = vpmu.EventFilter(action, [MASKED(0xD0, 0x82, exclude=True)], masked=True)
    assert alone.allows(0x82D0) == (action == "deny")


@pytest.mark.parametrize("bitmap", range(16))
def test_kvm_6_7_fixed_counters_go_by_the_bitmap_alone(bitmap):
    for events in ([], [0xC0, 0x3C, 0x300]):
        for index in range(4):
            assert vpmu.EventFilter("allow", events, bitmap).allows_fixed(index) == bool(bitmap >> index & 1)
            assert vpmu.EventFilter("deny", events, bitmap).allows_fixed(index) == (not bitmap >> index & 1)
    assert vpmu.EventFilter("deny", [], 0xFFFFFFFF).fixed_counter_bitmap == 0xFFFFFFFF  # absent counters do no harm


def test_kvm_6_8_an_empty_allow_list_denies_and_an_empty_deny_list_allows_everything():
    allow, deny = vpmu.EventFilter("allow"), vpmu.EventFilter("deny")
    for event in range(256):
        assert not allow.allows(event)
        assert deny.allows(event)
    assert not any(allow.allows_fixed(i) for i in range(4))
    assert all(deny.allows_fixed(i) for i in range(4))


@pytest.mark.parametrize("vendor", ["intel", "amd"])
def test_kvm_6_9_only_event_and_unit_mask_matter(vendor):
    made = vpmu.EventFilter("deny", [0x412E], vendor=vendor)
    kept = {*range(16), *(range(32, 36) if vendor == "amd" else ())}
    for bit in set(range(64)) - kept:
        assert not made.allows(0x412E | 1 << bit)
        assert made.allows(0x4F2E | 1 << bit)


# -- the class against its definition --------------------------------------------------------------------------------

ENTRY = st.builds(
    MASKED,
    st.sampled_from([0x00, 0x2E, 0x3C, 0xC4, 0xD0, 0xFF]) | st.integers(0, 255),
    st.sampled_from([0, 0x41, 0x80, 0x81, 0x82, 0x83, 0xFF]) | st.integers(0, 255),
    st.sampled_from([0, 1, 0x7C, 0xFE, 0xFF]) | st.integers(0, 255),
    st.booleans(),
)


@given(st.sampled_from(["allow", "deny"]), st.lists(ENTRY, max_size=8))
@settings(max_examples=25)
def test_every_event_and_unit_mask_against_the_definition(action, entries):
    made = vpmu.EventFilter(action, entries, masked=True)
    includes = [entry for entry in entries if not entry.exclude]
    excludes = [entry for entry in entries if entry.exclude]
    for event in range(256):
        here = [e for e in includes if e.event == event]
        away = [e for e in excludes if e.event == event]
        for umask in range(256):
            hit = any(umask & e.mask == e.match for e in here) and not any(umask & e.mask == e.match for e in away)
            assert made.allows(event | umask << 8) == (hit if action == "allow" else not hit)


@given(st.lists(st.integers(0, 0xFFFF), max_size=20), st.integers(0, 0xFFFF))
def test_plain_lists_against_the_definition(events, selector):
    assert vpmu.EventFilter("allow", events).allows(selector) == (selector in events)
    assert vpmu.EventFilter("deny", events).allows(selector) == (selector not in events)


@given(st.builds(MASKED, st.integers(0, 0xFFF), st.integers(0, 255), st.integers(0, 255), st.booleans()))
def test_masked_events_encode_and_decode(entry):
    assert MASKED.decode(entry.encode()) == entry
    assert entry.encode() & ~0xFF80_000F_0000_FFFF == 0


def test_a_masked_event_as_the_ioctl_has_it():
    assert MASKED(0xD0, match=0x81, mask=0xFE, exclude=True).encode() == 0xFE80_0000_0000_81D0
    assert MASKED(0x1C2, mask=0).encode() == 0x0000_0001_0000_00C2
    assert MASKED(0xD0, 0x81).matches(0xD0, 0x81)
    assert not MASKED(0xD0, 0x81).matches(0xD1, 0x81)


# -- Linux tools/testing/selftests/kvm/x86/pmu_event_filter_test.c ----------------------------------------------------


@pytest.mark.parametrize(
    ("filter_", "counts"),
    [
        (vpmu.EventFilter("deny", [INSTRUCTIONS, BRANCHES, *OTHERS]), False),
        (vpmu.EventFilter("allow", [INSTRUCTIONS, BRANCHES, *OTHERS]), True),
        (vpmu.EventFilter("deny", OTHERS), True),
        (vpmu.EventFilter("allow", OTHERS), False),
    ],
    ids=["deny list", "allow list", "deny others", "allow others"],
)
def test_lists_of_the_selftest(filter_, counts):
    assert [filter_.allows(event | 0x530000) for event in (INSTRUCTIONS, BRANCHES)] == [counts] * 2


def test_amd_deny_list_of_the_selftest():
    made = vpmu.EventFilter("deny", [1 << 32 | AMD_BRANCHES], vendor="amd")
    assert made.allows(AMD_BRANCHES | 0x530000)
    assert not made.allows(1 << 32 | AMD_BRANCHES | 0x530000)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("vendor", ["intel", "amd"])
@pytest.mark.parametrize(
    ("entries", "counted"),
    [
        ([(0,)], {0}),
        ([(1,)], {1}),
        ([(2,)], {2}),
        ([("any",), (2, "exclude")], {0, 1}),
        ([("any",), (1, "exclude")], {0, 2}),
        ([("two",)], {1, 2}),
        ([("any",)], {0, 1, 2}),
    ],
    ids=["loads", "stores", "both", "all but both", "all but stores", "stores and both", "all"],
)
def test_masked_events_of_the_selftest(vendor, entries, counted, padded):
    event, umasks = (0xD0, (0x81, 0x82, 0x83)) if vendor == "intel" else (0x029, (1, 2, 4))
    words = {"any": (0x7C if vendor == "intel" else 0xF8, 0), "two": (0xFE, 0x82) if vendor == "intel" else (0xF9, 0)}
    made = []
    for which, *exclude in entries:
        mask, match = words[which] if isinstance(which, str) else (0xFF, umasks[which])
        made.append(MASKED(event, match, mask, bool(exclude)))
    if padded:
        made += [MASKED(0x0F, i % 256, exclude=i % 2 == 0) for i in range(MAX_EVENTS - len(made))]
    filter_ = vpmu.EventFilter("allow", made, masked=True, vendor=vendor)
    assert {i for i in range(3) if filter_.allows(event | umasks[i] << 8 | 0x530000)} == counted


def test_errors_of_the_selftest():
    assert refusal(2) == "EINVAL"
    with pytest.raises(vpmu.EventFilterError, match="EINVAL"):
        vpmu.EventFilter.from_ioctl(0, 2, 0, [])
    assert refusal("deny", [INSTRUCTIONS] * 301) == "E2BIG"
    stray = 0xF << 32 | 1 << 20
    assert refusal("deny", [stray], masked=True) == "EINVAL"
    assert vpmu.EventFilter("deny", [stray]).includes == ()
    assert vpmu.EventFilter("allow", [], 0xFFFFFFF8).allows_fixed(3)


# -- this project's own ------------------------------------------------------------------------------------------------


def test_names_are_perfs_and_integers_may_be_strings():
    made = vpmu.EventFilter("deny", ["branches", "0x412e", "192", "slots"])
    assert made.events == (0xC4, 0x412E, 0xC0, 0x01A4)
    assert vpmu.EventFilter("deny", ["branches"], masked=True).events == (MASKED(0xC4).encode(),)


def test_filters_are_values():
    made = vpmu.EventFilter("deny", [MASKED(0xD0, 0x81, exclude=True), MASKED(0x3C)], 3, masked=True, vendor="amd")
    assert vpmu.EventFilter(**made.to_dict()) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert len({made, vpmu.EventFilter(**made.to_dict())}) == 1
    error = pickle.loads(pickle.dumps(vpmu.EventFilterError("E2BIG", "too long")))
    assert (error.errno, str(error)) == ("E2BIG", "event filter: E2BIG: too long")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "dny"}, "did you mean deny"),
        ({"action": True}, "unknown action"),
        ({"action": "deny", "events": "branches"}, "events is a list"),
        ({"action": "deny", "events": 0xC0}, "events is a list"),
        ({"action": "deny", "events": ["branchs"]}, "did you mean branch"),
        ({"action": "deny", "events": ["ref-cycles"]}, "fixed_counter_bitmap"),
        ({"action": "deny", "events": ["bus-cycles"], "vendor": "amd"}, "did you mean cycles or ref-cycles"),
        ({"action": "deny", "events": [True]}, "integer"),
        ({"action": "deny", "events": [1.5]}, "integer"),
        ({"action": "deny", "events": [-1]}, "must be 0 to"),
        ({"action": "deny", "events": [1 << 64]}, "must be 0 to"),
        ({"action": "deny", "events": [MASKED(0xC0)]}, "needs masked=True"),
        ({"action": "deny", "fixed_counter_bitmap": 1 << 32}, "fixed_counter_bitmap"),
        ({"action": "deny", "fixed_counter_bitmap": "1"}, "integer"),
        ({"action": "deny", "masked": 1}, "true or false"),
        ({"action": "deny", "vendor": "amf"}, "did you mean amd"),
    ],
)
def test_what_the_ioctl_cannot_hold_is_refused_in_a_sentence(arguments, said):
    with pytest.raises((vpmu.ScenarioError, vpmu.UnknownName), match=said):
        vpmu.EventFilter(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"event": 0x1000}, "event"), ({"event": 1, "match": 256}, "match"), ({"event": 1, "exclude": 1}, "exclude")],
)
def test_fields_of_a_masked_event_have_their_width(arguments, said):
    with pytest.raises(vpmu.ScenarioError, match=said):
        MASKED(**arguments)
