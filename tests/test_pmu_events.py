"""Events by name and by code, for both vendors: which selector counts which, and raw names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    AMD_MODELS,
    CTRL,
    EN,
    FIXED_CTR_CTRL,
    GENOA,
    ICELAKE,
    INTEL_MODELS,
    K8,
    LION_COVE,
    OS,
    SKYLAKE,
    SKYMONT,
    TURIN,
    YONAH,
    ZEN1,
    ZEN2,
    fixed,
    gp,
    make,
    model,
)

import vpmu

#: Codes of SDM vol. 3B 18.2.1.2 that every version has.
INTEL = {
    "instructions": 0x00C0,
    "cycles": 0x003C,
    "bus-cycles": 0x013C,
    "cache-references": 0x4F2E,
    "cache-misses": 0x412E,
    "branches": 0x00C4,
    "branch-misses": 0x00C5,
}
LATER = {
    "slots": 0x01A4,
    "topdown-be-bound": 0x02A4,
    "topdown-bad-spec": 0x0073,
    "topdown-fe-bound": 0x019C,
    "topdown-retiring": 0x02C2,
    "lbr-inserts": 0x01E4,
}
#: AMD PPRs as Linux's amd_*_perfmon_event_map repeat them.
AMD = {"instructions": 0x00C0, "cycles": 0x0076, "branches": 0x00C2, "branch-misses": 0x00C3}
BEFORE_ZEN = AMD | {"cache-references": 0x077D, "cache-misses": 0x077E}
BEFORE_ZEN |= {"stalled-cycles-frontend": 0x00D0, "stalled-cycles-backend": 0x00D1}
ZEN = AMD | {"cache-references": 0xFF60, "cache-misses": 0x0964}
FROM_ZEN4 = ZEN | {"stalled-cycles-frontend": 0x00A9, "ref-cycles": 0x1_00000120}

#: A different number of each event; cycles and what follows them are given too.
OCCURRENCES = {name: 1000 + i for i, name in enumerate(sorted({*INTEL, *LATER, *BEFORE_ZEN, *FROM_ZEN4} - {"cycles"}))}
OCCURRENCES |= {f"topdown-{name}": 0 for name in ("heavy-ops", "br-mispredict", "fetch-lat", "mem-bound")}
CYCLES = 5000


def counts_of_every_code(pmu_class, cpu, codes):
    """What one counter gets for each code."""
    selector = 0x186 if cpu.vendor == "intel" else 0xC0010000
    got = {}
    for code in codes:
        pmu = make(pmu_class, cpu, (selector, code | OS | EN))
        pmu.count(OCCURRENCES, cycles=CYCLES)
        got[code] = pmu.rdpmc(0)
    return got


#: Codes that mean nothing by themselves, or something on other parts.
OTHERS = (0, 0x0300, 0x0400, 0x01C0, 0x023C, 0x4F2F, 0xFFFF, 0x00C1, 0x0120, 0x0287, 0x0187, 0x03A4, 0x01C2)


@pytest.mark.parametrize("name", INTEL_MODELS)
def test_intel_codes(pmu_class, name):
    """SDM vol. 3B 18.2.1.2: architectural events of all versions; slots with fixed counter 3, topdown as CPUID says."""
    cpu = INTEL_MODELS[name]
    known = dict(INTEL)
    if cpu.fixed_mask & 8:
        known["slots"] = 0x01A4
    for bit, event in enumerate(list(LATER)[1:], 8):
        if cpu.architectural_events >> bit & 1:
            known[event] = LATER[event]
    by_code = {code: event for event, code in known.items()}
    codes = {*INTEL.values(), *LATER.values(), *BEFORE_ZEN.values(), *ZEN.values(), *OTHERS}
    got = counts_of_every_code(pmu_class, cpu, codes)
    expected = {code: OCCURRENCES.get(by_code.get(code), 0) for code in codes} | {0x003C: CYCLES}
    assert got == expected


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("k8", BEFORE_ZEN),
        ("k10", BEFORE_ZEN),
        ("bulldozer", BEFORE_ZEN),
        ("zen1", ZEN | {"stalled-cycles-frontend": 0x0287, "stalled-cycles-backend": 0x0187}),
        ("zen2", ZEN | {"stalled-cycles-frontend": 0x00A9}),
        ("zen3", ZEN | {"stalled-cycles-frontend": 0x00A9}),
        ("genoa", FROM_ZEN4),
        ("turin", FROM_ZEN4),
    ],
)
def test_amd_codes(pmu_class, name, events):
    """Linux arch/x86/events/amd/core.c: the event maps before Zen, of Zen 1, Zen 2 and Zen 4."""
    cpu = AMD_MODELS[name]
    by_code = {code: event for event, code in events.items()}
    codes = {*INTEL.values(), *BEFORE_ZEN.values(), *FROM_ZEN4.values(), *OTHERS}
    if "extended_event_select" in cpu.features:
        codes |= {1 << 32 | 0xC0, 1 << 32 | 0xC2, 0xF << 32 | 0x76}
    else:
        codes -= {0x1_00000120}
    got = counts_of_every_code(pmu_class, cpu, codes)
    assert got == {code: OCCURRENCES.get(by_code.get(code), 0) for code in codes} | {0x0076: CYCLES}


@pytest.mark.parametrize("cpu", [ICELAKE, SKYMONT, LION_COVE], ids=["icelake", "skymont", "lion-cove"])
def test_fixed_counters(pmu_class, cpu):
    """SDM vol. 3B: fixed counters 0 to 6; E-cores have 4, 5 and 6 but no 3."""
    names = (
        "instructions",
        "cycles",
        "ref-cycles",
        "slots",
        "topdown-bad-spec",
        "topdown-fe-bound",
        "topdown-retiring",
    )
    control = sum(1 << 4 * m for m in range(8) if cpu.fixed_mask >> m & 1)
    pmu = make(pmu_class, cpu, (FIXED_CTR_CTRL, control), (CTRL, cpu.fixed_mask << 32))
    pmu.count(OCCURRENCES, cycles=CYCLES)
    expected = OCCURRENCES | {"cycles": CYCLES}
    assert fixed(pmu) == tuple(
        expected[names[m]] if cpu.fixed_mask >> m & 1 else 0 for m in range(cpu.fixed_mask.bit_length())
    )


def test_availability_is_not_behaviour(pmu_class):
    """SDM vol. 3B 18.2.1.2: CPUID's bits 0 to 6 say what is enumerated; the silicon counts all the same."""
    for events in (0, 0x7F):
        got = counts_of_every_code(pmu_class, replace(SKYLAKE, architectural_events=events), INTEL.values())
        assert got == {code: (OCCURRENCES | {"cycles": CYCLES})[name] for name, code in INTEL.items()}


@pytest.mark.parametrize("bit", range(8, 13))
def test_events_of_version_6(pmu_class, bit):
    """CPUID.0AH:EBX bits 8 to 12: topdown events and LBR inserts exist where the bit says so."""
    event = list(LATER)[bit - 7]
    for events, expected in ((1 << bit, OCCURRENCES[event]), (0x1FFF ^ 1 << bit, 0)):
        cpu = replace(LION_COVE, architectural_events=events)
        assert counts_of_every_code(pmu_class, cpu, [LATER[event]]) == {LATER[event]: expected}


@pytest.mark.parametrize(
    ("cpu", "name", "code"),
    [
        (SKYLAKE, "r01c2", 0x01C2),
        (SKYLAKE, "r1C2", 0x01C2),
        (SKYLAKE, "rFFFF", 0xFFFF),
        (SKYLAKE, "r0", 0),
        (SKYLAKE, "r01a4", 0x01A4),  # no fixed counter 3, so these are not slots
        (SKYLAKE, "r0300", 0x0300),
        (YONAH, "r00c8", 0x00C8),
        (LION_COVE, "r100000001d3", 0x100_000001D3),
        (LION_COVE, "rff00000000c0", 0xFF00_000000C0),
        (K8, "r0041", 0x0041),
        (ZEN1, "r1000000c2", 0x1_000000C2),
        (TURIN, "rF00000FFF", 0xF_00000FFF),
        (ZEN2, "r0187", 0x0187),
    ],
)
def test_raw_names(pmu_class, cpu, name, code):
    """A code that no name has is counted by its raw name, and by nothing else."""
    selector = 0x186 if cpu.vendor == "intel" else 0xC0010000
    pmu = make(pmu_class, cpu, (selector, code | OS | EN), (selector + 1, 0xC0 | OS | EN))
    pmu.count({name: 7, "instructions": 3})
    assert gp(pmu)[:2] == (7, 3)
    pmu.count(OCCURRENCES, cycles=CYCLES)
    assert gp(pmu)[0] == 7


@pytest.mark.parametrize(
    ("cpu", "raw", "event", "code"),
    [
        (SKYLAKE, "rC0", "instructions", 0xC0),
        (SKYLAKE, "r00c4", "branches", 0xC4),
        (SKYLAKE, "r412E", "cache-misses", 0x412E),
        (ICELAKE, "r01a4", "slots", 0x01A4),
        (ICELAKE, "r013c", "bus-cycles", 0x013C),
        (LION_COVE, "r2c2", "topdown-retiring", 0x02C2),
        (ZEN1, "r00c2", "branches", 0xC2),
        (GENOA, "r100000120", "ref-cycles", 0x1_00000120),
        (K8, "r077D", "cache-references", 0x077D),
    ],
)
def test_raw_names_of_named_events(pmu_class, cpu, raw, event, code):
    """Such a raw name is the event itself; both at once are an error, and nothing has changed."""
    selector = 0x186 if cpu.vendor == "intel" else 0xC0010000
    pmu = make(pmu_class, cpu, (selector, code | OS | EN))
    pmu.count({raw: 9}, cycles=1)
    assert gp(pmu)[0] == 9
    before = pmu.state()
    with pytest.raises(ValueError, match=event):
        pmu.count({raw: 1, event: 1})
    assert pmu.state() == before
    pmu.count({event: 2}, cycles=1)
    assert gp(pmu)[0] == 11


def test_raw_name_of_a_fixed_counters_event(pmu_class):
    """A raw name that is instructions moves fixed counter 0 as well."""
    pmu = make(pmu_class, SKYLAKE, (FIXED_CTR_CTRL, 1), (CTRL, 1 << 32))
    pmu.count({"r00c0": 5})
    assert fixed(pmu) == (5, 0, 0)


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        (SKYLAKE, "r100c0"),  # USR
        (SKYLAKE, "r4300c0"),
        (SKYLAKE, "r1000000c0"),  # IN_TX
        (SKYLAKE, "r10000000000c0"),  # bit 52
        (ZEN1, "r1000000000c0"),  # bit 44
        (ZEN1, "r10000000000"),  # GuestOnly
        (ZEN1, "r4300c0"),
        (SKYLAKE, "r"),
        (SKYLAKE, "rc0x"),
        (SKYLAKE, "R00C0"),
        (SKYLAKE, "r-c0"),
        (SKYLAKE, "c0"),
        (SKYLAKE, ""),
    ],
)
def test_names_that_are_no_event(pmu_class, cpu, name):
    """Bits of the selector that do not say which event, and what is no hexadecimal number."""
    pmu = pmu_class(cpu)
    before = pmu.state()
    with pytest.raises(ValueError, match=r"bits 0x[0-9a-f]+|unknown event"):
        pmu.count({name: 1})
    assert pmu.state() == before


def test_two_spellings_of_one_code(pmu_class):
    """r01c2 and r1C2 are the same event, so giving both is an error."""
    pmu = pmu_class(SKYLAKE)
    with pytest.raises(ValueError, match=r"(?i)r0?1c2"):
        pmu.count({"r01c2": 1, "r1C2": 1})


def test_topdown_events_do_not_follow(pmu_class):
    """Cycles make slots, but no topdown event."""
    writes = [(0x186 + i, code | OS | EN) for i, code in enumerate((0x01A4, 0x02A4, 0x0073, 0x019C, 0x02C2))]
    pmu = make(pmu_class, replace(LION_COVE, architectural_events=0x1FFF), *writes)
    pmu.count({}, cycles=100)
    assert gp(pmu)[:5] == (800, 0, 0, 0, 0)


def test_slots_need_fixed_counter_3(pmu_class):
    """TOPDOWN.SLOTS has a GP code where it has its fixed counter."""
    for fixed_mask in range(16):
        pmu = make(pmu_class, model("sapphirerapids", fixed_mask=fixed_mask), (0x186, 0x01A4 | OS | EN))
        pmu.count({}, cycles=10)
        assert pmu.rdpmc(0) == (60 if fixed_mask & 8 else 0)


def test_unknown_event_names_the_nearest(pmu_class):
    with pytest.raises(vpmu.UnknownName, match="topdown-retiring"):
        pmu_class(SKYLAKE).count({"topdown-retirin": 1})
