"""Linux KVM selftests: pmu_counters_test, vmx_pmu_caps_test, svm_pmu_host_guest_test and AMD's status registers.

Their version 0 (no PMU at all) and their zero counters are left out: a :class:`vpmu.CpuModel` has a PMU of version 1
or later with at least one counter; what a guest without a PMU sees is not a PMU's business.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pmu_models import (
    ACK,
    ALL_ONES,
    AMD_CLEAR,
    AMD_SET,
    AMD_STATUS,
    CTRL,
    EN,
    FIXED,
    FIXED_CTR_CTRL,
    GENOA,
    OS,
    TURIN,
    ZEN1,
    ctl,
    ctr,
    gp,
    make,
    model,
    quirky,
    wrmsr_counted,
)

import vpmu

#: The thirteen architectural events (CPUID.0AH:EBX) and their selector codes.
EVENTS = {
    "cycles": 0x003C,
    "instructions": 0x00C0,
    "bus-cycles": 0x013C,
    "cache-references": 0x4F2E,
    "cache-misses": 0x412E,
    "branches": 0x00C4,
    "branch-misses": 0x00C5,
    "slots": 0x01A4,
    "topdown-be-bound": 0x02A4,
    "topdown-bad-spec": 0x0073,
    "topdown-fe-bound": 0x019C,
    "topdown-retiring": 0x02C2,
    "lbr-inserts": 0x01E4,
}
FIXED_EVENTS = ("instructions", "cycles", "ref-cycles", "slots")
#: 10 iterations of four instructions and five more, one of the two WRMSRs among them: 45 instructions, 10 branches.
GIVEN = {"instructions": 44, "branches": 10, "branch-misses": 1, "cache-references": 20, "cache-misses": 10}
GIVEN |= {"topdown-be-bound": 700, "topdown-bad-spec": 90, "topdown-fe-bound": 400, "topdown-retiring": 50}
GIVEN |= {"lbr-inserts": 10}
CYCLES = 300
EXPECTED = GIVEN | {"instructions": 45, "cycles": 300, "bus-cycles": 229, "slots": 1800, "ref-cycles": 229}

VERSIONS = (1, 2, 3, 4, 5, 6)
CAPABILITIES = (0, 1 << 13)


def machine(version, capabilities, **changes):
    """Ice Lake's eight and four counters, six slots per cycle, under another version."""
    fields = {"version": version, "perf_capabilities": capabilities, "slots_per_cycle": 6, "fixed_mask": 0xF}
    if version == 1:
        fields["fixed_mask"] = 0
    return model("icelake", **(fields | changes))


def counted(cpu, event):
    """What a GP counter has after the payload; silicon does not have slots and topdown events of later versions."""
    if event == "slots" and not cpu.fixed_mask & 8:
        return 0
    place = list(EVENTS).index(event)
    if place >= 8 and not cpu.architectural_events >> place & 1:
        return 0
    return EXPECTED[event]


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_architectural_events(pmu_class, version, capabilities):
    """pmu_counters_test, a1 to a3: each event on each counter, started by its selector, which counts itself or not.

    Then the counter does not move while it is disabled, and takes a value that is written.
    """
    cpu = machine(version, capabilities, architectural_events=0x1FFF)
    for i, (event, select) in itertools.product(range(8), EVENTS.items()):
        pmu = pmu_class(cpu)
        counter, selector = (0x4C1 if capabilities else 0xC1) + i, 0x186 + i
        wrmsr_counted(pmu, (selector, 0))
        if version >= 2:
            wrmsr_counted(pmu, (CTRL, 1 << i))
        wrmsr_counted(pmu, (counter, 0), (selector, OS | EN | select))
        pmu.count(GIVEN, cycles=CYCLES)
        wrmsr_counted(pmu, (selector, 0))
        assert pmu.rdpmc(i) == counted(cpu, event)
        pmu.count({"instructions": 20, "branches": 10}, cycles=30)
        assert pmu.rdpmc(i) == counted(cpu, event)
        wrmsr_counted(pmu, (counter, 0xDEAD))
        assert pmu.rdpmc(i) == pmu.rdmsr(0xC1 + i) == 0xDEAD


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_fixed_counter_events(pmu_class, version, capabilities):
    """pmu_counters_test, a4: the same on fixed counters, started by IA32_PERF_GLOBAL_CTRL."""
    for m, event in enumerate(FIXED_EVENTS):
        pmu = pmu_class(machine(version, capabilities))
        wrmsr_counted(pmu, (FIXED_CTR_CTRL, 1 << 4 * m), (0x309 + m, 0), (CTRL, 1 << (32 + m)))
        pmu.count(GIVEN, cycles=CYCLES)
        wrmsr_counted(pmu, (CTRL, 0))
        assert pmu.rdpmc(FIXED | m) == EXPECTED[event]
        pmu.count({"instructions": 20}, cycles=30)
        assert pmu.rdpmc(FIXED | m) == EXPECTED[event]
        wrmsr_counted(pmu, (0x309 + m, 0xDEAD))
        assert pmu.rdpmc(FIXED | m) == 0xDEAD


MASKS = (0, 0x1FFF, *(1 << bit for bit in range(13)))


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_enumeration_does_not_change_what_counts(pmu_class, version, capabilities):
    """pmu_counters_test, a1 for every mask of CPUID.0AH:EBX and length of it: the silicon counts all the same.

    Bits 8 to 12 stand for events that only some silicon has. The thirteen events share the eight counters in two turns.
    """
    names = list(EVENTS)
    turns = [[names[(first + i) % 13] for i in range(8)] for first in (0, 8)]
    programs = [[(0x186 + i, OS | EN | EVENTS[event]) for i, event in enumerate(turn)] for turn in turns]
    for length, mask in itertools.product(range(15), MASKS):
        available = ~mask & (1 << length) - 1
        cpu = machine(version, capabilities, event_vector_length=length, architectural_events=available)
        for turn, program in zip(turns, programs, strict=True):
            pmu = make(pmu_class, cpu, *program)
            pmu.count(GIVEN | {"instructions": 45}, cycles=CYCLES)
            assert gp(pmu) == tuple(counted(cpu, event) for event in turn)


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kvm", [False, True], ids=["hardware", "kvm"])
def test_gp_counters(pmu_class, accepts, exists, version, capabilities, kvm):
    """pmu_counters_test, b1 to b3: GLOBAL_CTRL after RESET, and every number and bitmap of counters.

    In KVM, unlike on hardware, C1H and C2H of counters that do not exist drop writes and read 0.
    """
    base = 0x4C1 if capabilities else 0xC1
    quirks = frozenset({"p6_perfctr_raz"} if kvm else ())
    for gp_mask in (*range(1, 0x40), 0x7F, 0x80, 0xA5, 0xFF):
        pmu = pmu_class(machine(version, capabilities, gp_mask=gp_mask, quirks=quirks))
        if version >= 2:
            assert pmu.rdmsr(CTRL) == gp_mask
        for x in range(8):
            there = bool(gp_mask >> x & 1)
            ignored = kvm and base == 0xC1 and x < 2 and not there
            assert accepts(pmu, base + x, 0xFFFF) is exists(pmu, base + x) is (there or ignored)
            assert accepts(pmu, 0x186 + x, 0x4300C0) is exists(pmu, 0x186 + x) is there
            if version >= 2:
                assert accepts(pmu, CTRL, 1 << x) is accepts(pmu, ACK, 1 << x) is there
            assert exists(pmu, 0xC1 + x) is (there or (kvm and x < 2))
            assert exists(pmu, 0x4C1 + x) is (there and capabilities != 0)
            if there:
                assert pmu.rdmsr(0xC1 + x) == pmu.rdmsr(base + x) == pmu.rdpmc(x) == 0xFFFF
            elif ignored:
                assert pmu.rdmsr(0xC1 + x) == 0
            if not there:
                with pytest.raises(vpmu.GeneralProtectionFault):
                    pmu.rdpmc(x)
            with pytest.raises(vpmu.GeneralProtectionFault):
                pmu.rdpmc(x | 1 << 31)


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_fixed_counters(pmu_class, accepts, exists, version, capabilities):
    """pmu_counters_test, c1 to c4: number and bitmap swept independently; the bitmap is honoured from version 5 on."""
    for number, bitmap in itertools.product(range(5) if version >= 2 else (0,), range(16)):
        fixed_mask = (1 << number) - 1 | (bitmap if version >= 5 else 0)
        pmu = pmu_class(machine(version, capabilities, fixed_mask=fixed_mask))
        for m in range(4):
            there = m < number or (version >= 5 and bool(bitmap >> m & 1))
            assert accepts(pmu, 0x309 + m, 0xFFFF) is exists(pmu, 0x309 + m) is there
            assert accepts(pmu, FIXED_CTR_CTRL, 1 << 4 * m) is there
            assert accepts(pmu, CTRL, 1 << (32 + m)) is there
            if not there:
                with pytest.raises(vpmu.GeneralProtectionFault):
                    pmu.rdpmc(FIXED | m)
                continue
            assert pmu.rdmsr(0x309 + m) == pmu.rdpmc(FIXED | m) == 0xFFFF
            pmu.wrmsr(0x309 + m, 0)
            pmu.count({"instructions": 20, "ref-cycles": 5, "slots": 7}, cycles=10)
            pmu.wrmsr(CTRL, 0)
            assert pmu.rdmsr(0x309 + m) == (20, 10, 5, 7)[m]


@pytest.mark.parametrize("name", [name for name in vpmu.cpus() if vpmu.cpu(name).vendor == "intel"])
def test_perf_capabilities_are_read_only(pmu_class, accepts, exists, name):
    """vmx_pmu_caps_test: any write raises #GP, and without PDCM the MSR is absent."""
    cpu = vpmu.cpu(name)
    there = replace(cpu, features=cpu.features | {"pdcm"})
    pmu = pmu_class(there)
    current = pmu.rdmsr(0x345)
    assert current == cpu.perf_capabilities
    for value in (current, 0, ALL_ONES, *(current ^ 1 << bit for bit in range(64))):
        assert not accepts(pmu, 0x345, value)
    assert pmu.rdmsr(0x345) == current
    assert not exists(pmu_class(replace(cpu, features=cpu.features - {"pdcm"})), 0x345)


@pytest.mark.parametrize("cpu", [ZEN1, GENOA], ids=["zen1", "genoa"])
def test_host_and_guest(pmu_class, cpu):
    """svm_pmu_host_guest_test: four counters with GuestOnly (bit 40) and HostOnly (41) as 00, 10, 01, 11."""
    pmu = pmu_class(cpu)
    host_only, guest_only = 1 << 41, 1 << 40
    for n, bits in enumerate((0, guest_only, host_only, guest_only | host_only)):
        pmu.wrmsr(ctl(n), bits | 0xC0 | OS | EN)

    def moved(**mode):
        pmu.set_mode(**mode)
        before = gp(pmu)
        pmu.count({"instructions": 10})
        return [n for n in range(4) if gp(pmu)[n] != before[n]]

    assert moved() == [0]
    assert moved(svme=True) == [0, 2, 3]
    assert moved(guest=True) == [0, 1, 3]
    assert moved(guest=False) == [0, 2, 3]
    pmu.wrmsr(ctl(3), guest_only | 0xC0 | OS | EN)
    assert moved() == [0, 2]
    pmu.wrmsr(ctl(3), guest_only | host_only | 0xC0 | OS | EN)
    assert moved() == [0, 2, 3]
    assert moved(svme=False) == [0]
    assert gp(pmu)[:4] == (70, 10, 40, 40)


@pytest.mark.parametrize("turin", [False, True], ids=["ideal", "turin"])
def test_amd_status(pmu_class, turin):
    """pmu_counters_test for PerfMonV2: what GlobalStatusSet and -Clr do with all ones; the status ignores writes."""
    pmu = pmu_class(quirky(TURIN, "amd_status_set_extra") if turin else TURIN)
    everything = 0x0C000000_000000FF if turin else 0x3F
    for msr, value, status in (
        (AMD_CLEAR, ALL_ONES, 0),
        (AMD_SET, ALL_ONES, everything),
        (AMD_STATUS, 0, everything),
        (AMD_CLEAR, 0, everything),
        (AMD_CLEAR, ALL_ONES, 0),
        (AMD_SET, 0, 0),
        (AMD_STATUS, ALL_ONES, 0),
    ):
        pmu.wrmsr(msr, value)
        assert pmu.rdmsr(AMD_STATUS) == status


@pytest.mark.parametrize(
    ("cpu", "selectors", "counters", "codes"),
    [
        (machine(5, 1 << 13), (0x186, 0x187), (0xC1, 0xC2), (0xC4, 0xC0)),
        (GENOA, (0xC0010000, 0xC0010001), (0xC0010004, 0xC0010005), (0xC2, 0xC0)),
        (ZEN1, (ctl(0), ctl(1)), (ctr(0), ctr(1)), (0xC2, 0xC0)),
    ],
    ids=["intel", "amd-legacy", "amd-core"],
)
def test_event_filter_sanity(pmu_class, cpu, selectors, counters, codes):
    """pmu_event_filter_test, its sanity check and its payload of 42 branches, global control as RESET leaves it."""
    pmu = pmu_class(cpu)
    for msr in (selectors[0], counters[0]):
        pmu.wrmsr(msr, 0xFFFF)
        assert pmu.rdmsr(msr) == 0xFFFF
        pmu.wrmsr(msr, 0)
    for msr, code in zip(selectors, codes, strict=True):
        pmu.wrmsr(msr, code | OS | EN)
    pmu.count({"branches": 42, "instructions": 45})
    assert [pmu.rdmsr(msr) for msr in counters] == [42, 45]
