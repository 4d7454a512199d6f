"""What counters count: enables, events, privilege, clocks; what happens when one wraps; the interrupt."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

import vpmu
import vpmu.reference

OS, USR, INT, EN = 1 << 17, 1 << 16, 1 << 20, 1 << 22
GLOBAL_STATUS, GLOBAL_CTRL, ACK = 0x38E, 0x38F, 0x390
NMI = 0x400

#: Event select and unit mask (SDM vol. 3B 18.2.1.2).
SELECTORS = {
    "instructions": 0x00C0,
    "cycles": 0x003C,
    "bus-cycles": 0x013C,
    "cache-references": 0x4F2E,
    "cache-misses": 0x412E,
    "branches": 0x00C4,
    "branch-misses": 0x00C5,
    "slots": 0x01A4,
}
FIXED = ("instructions", "cycles", "ref-cycles", "slots")

# kvm-unit-tests x86/pmu.c, loop(): 10 N + 17 instructions, one of them a WRMSR; N + 2 branches.
N = 1_000_000
INSTRUCTIONS, BRANCHES = 10 * N + 17, N + 2
PAYLOAD = {"instructions": INSTRUCTIONS - 1, "branches": BRANCHES, "branch-misses": 3}
PAYLOAD |= {"cache-references": 5, "cache-misses": 4}
CYCLES = 3 * N


def wrmsr(pmu, *writes):
    """Execute WRMSRs that are themselves counted, as an instruction stream does."""
    ops = np.zeros(len(writes), vpmu.reference.OP_DTYPE)
    for op, (msr, value) in zip(ops, writes, strict=True):
        op["op"], op["flags"], op["address"], op["value"] = 1, 1, msr, value
    assert not pmu.execute(ops)["fault"].any()


def measure(pmu, enable, msrs_and_values, payload=PAYLOAD, cycles=CYCLES):
    """The protocol of kvm-unit-tests: program, one write that starts, the payload, one write that stops."""
    wrmsr(pmu, *msrs_and_values, (GLOBAL_CTRL, enable))
    pmu.count(payload, cycles=cycles)
    wrmsr(pmu, (GLOBAL_CTRL, 0))


def model(name="sapphirerapids", **changes):
    return replace(vpmu.cpu(name), **changes)


def stopped(pmu_class, cpu):
    """A PMU with nothing enabled; after RESET, GLOBAL_CTRL enables the general-purpose counters."""
    pmu = pmu_class(cpu)
    pmu.wrmsr(GLOBAL_CTRL, 0)
    return pmu


@pytest.fixture(params=["C1", "4C1"])
def bank(request):
    """Where the general-purpose counters are written."""
    return int(request.param, 16)


def preset(bank, value, width):
    """A counter value as kvm-unit-tests passes it: whole in the old bank, cut to the width in the new one."""
    return value & (1 << (64 if bank == 0xC1 else width)) - 1


def test_init(pmu_class):
    """kvm-unit-tests x86/pmu.c, pmu_init: everything may be cleared."""
    for name in vpmu.cpus():
        cpu = vpmu.cpu(name)
        pmu = pmu_class(cpu)
        for x in range(cpu.gp_counters):
            pmu.wrmsr(0x186 + x, 0)
            pmu.wrmsr(0xC1 + x, 0)
        pmu.wrmsr(0x38D, 0)
        for m in range(cpu.fixed_counters):
            pmu.wrmsr(0x309 + m, 0)
        pmu.wrmsr(GLOBAL_CTRL, 0)
        assert pmu.rdmsr(GLOBAL_CTRL) == 0


@pytest.mark.parametrize("event", SELECTORS)
def test_gp_events(pmu_class, bank, event):
    """kvm-unit-tests x86/pmu.c, check_gp_counter: every event on every counter, and exact."""
    cpu = vpmu.cpu("sapphirerapids")
    clocks = {"cycles": CYCLES, "bus-cycles": 2 * N, "slots": 18 * N}
    expected = PAYLOAD | clocks | {"instructions": INSTRUCTIONS}
    for i in range(cpu.gp_counters):
        pmu = stopped(pmu_class, cpu)
        measure(pmu, 1 << i, [(bank + i, 0), (0x186 + i, SELECTORS[event] | OS | USR | EN)])
        assert pmu.rdpmc(i) == expected[event]
        assert [pmu.rdpmc(x) for x in range(8) if x != i] == [0] * 7


def test_fixed_events(pmu_class):
    """kvm-unit-tests x86/pmu.c, check_fixed_counters."""
    for m, expected in enumerate((INSTRUCTIONS, CYCLES, 2 * N, 18 * N)):
        pmu = stopped(pmu_class, vpmu.cpu("sapphirerapids"))
        measure(pmu, 1 << (32 + m), [(0x309 + m, 0), (0x38D, 3 << 4 * m)])
        assert pmu.rdpmc(0x4000_0000 | m) == expected


def test_all_counters(pmu_class, bank):
    """kvm-unit-tests x86/pmu.c, check_counters_many: all counters started by one write."""
    pmu = stopped(pmu_class, vpmu.cpu("skylake"))
    events = ("instructions", "branches", "cycles", "branch-misses")
    writes = [(bank + i, 0) for i in range(4)]
    writes += [(0x186 + i, SELECTORS[event] | OS | USR | EN) for i, event in enumerate(events)]
    measure(pmu, 0x7_0000000F, [*writes, (0x38D, 0x333)])
    assert [pmu.rdpmc(i) for i in range(4)] == [INSTRUCTIONS, BRANCHES, CYCLES, 3]
    assert [pmu.rdpmc(0x4000_0000 | m) for m in range(3)] == [INSTRUCTIONS, CYCLES, CYCLES]


@pytest.mark.parametrize("width", [40, 48])
def test_overflow(pmu_class, bank, width):
    """kvm-unit-tests x86/pmu.c, check_counter_overflow: ends at 1; status without INT too, PMI not."""
    cpu = model("skylake", gp_width=width, fixed_width=width)
    pmu = stopped(pmu_class, cpu)
    for i in range(cpu.gp_counters + 1):
        fixed = i == cpu.gp_counters
        bit, interrupts = (32, False) if fixed else (i, i % 2 == 1)
        pmu.wrmsr(0x834, 0xF5)
        if fixed:
            writes = [(0x309, preset(0x309, 1 - INSTRUCTIONS, width)), (0x38D, 3)]
        else:
            start = preset(bank, 1 - INSTRUCTIONS, width)
            writes = [(bank + i, start), (0x186 + i, 0xC0 | OS | USR | EN | (INT if interrupts else 0))]
        measure(pmu, 1 << bit, writes)
        assert pmu.rdpmc(0x4000_0000 if fixed else i) == 1
        status = pmu.rdmsr(GLOBAL_STATUS)
        assert status == 1 << bit
        pmu.wrmsr(ACK, status)
        assert pmu.rdmsr(GLOBAL_STATUS) == 0
        assert pmu.pmi_pending is interrupts
        assert pmu.take_pmi() == (("fixed", 0xF5) if interrupts else None)
        assert not pmu.pmi_pending


def test_running_counter_wrmsr(pmu_class, bank):
    """kvm-unit-tests x86/pmu.c, check_running_counter_wrmsr: a write takes effect while the counter runs."""
    pmu = stopped(pmu_class, vpmu.cpu("skylake"))
    wrmsr(pmu, (bank, 0), (0x186, 0xC0 | OS | USR | EN), (GLOBAL_CTRL, 1))
    pmu.count(PAYLOAD)
    wrmsr(pmu, (bank, 0), (GLOBAL_CTRL, 0))
    assert pmu.rdpmc(0) == 1  # the write of the counter itself
    assert pmu.rdmsr(GLOBAL_STATUS) == 0
    wrmsr(pmu, (GLOBAL_CTRL, 1), (bank, preset(bank, -1, 48)))
    # The write of -1 signals nothing, but is itself the next instruction.
    assert pmu.rdmsr(GLOBAL_STATUS) == 1
    pmu.count(PAYLOAD)
    wrmsr(pmu, (GLOBAL_CTRL, 0))
    assert pmu.rdmsr(GLOBAL_STATUS) == 1


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("capabilities", [0, 1 << 13])
def test_architectural_events(pmu_class, version, capabilities):
    """Linux selftests, pmu_counters_test, test_arch_events: 45 instructions and 10 branches at CPL 0.

    The counter is started by its selector or, if fixed, by GLOBAL_CTRL; one of the two WRMSRs is one of the
    45. Then it does not move while it is disabled, and takes a value that is written.
    """
    cpu = model(version=version, perf_capabilities=capabilities)
    payload = {"instructions": 44, "branches": 10, "branch-misses": 1}
    payload |= {"cache-references": 20, "cache-misses": 10}
    clocks = {"cycles": 300, "ref-cycles": 200, "bus-cycles": 200, "slots": 1800}
    expected = payload | clocks | {"instructions": 45}
    for i, (event, select) in itertools.product(range(8), SELECTORS.items()):
        pmu = pmu_class(cpu)
        counter, selector = (0x4C1 if capabilities else 0xC1) + i, 0x186 + i
        wrmsr(pmu, (selector, 0), (GLOBAL_CTRL, 1 << i), (counter, 0), (selector, OS | EN | select))
        pmu.count(payload, cycles=300)
        wrmsr(pmu, (selector, 0))
        assert pmu.rdpmc(i) == expected[event]
        pmu.count({"instructions": 20, "branches": 10}, cycles=30)
        assert pmu.rdpmc(i) == expected[event]
        wrmsr(pmu, (counter, 0xDEAD))
        assert pmu.rdpmc(i) == 0xDEAD
    for m, event in enumerate(FIXED):
        pmu = pmu_class(cpu)
        wrmsr(pmu, (0x38D, 1 << 4 * m), (0x309 + m, 0), (GLOBAL_CTRL, 1 << (32 + m)))
        pmu.count(payload, cycles=300)
        wrmsr(pmu, (GLOBAL_CTRL, 0))
        assert pmu.rdpmc(0x4000_0000 | m) == expected[event]
        pmu.count({"instructions": 20}, cycles=30)
        wrmsr(pmu, (0x309 + m, 0xDEAD))
        assert pmu.rdpmc(0x4000_0000 | m) == 0xDEAD


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_enable_equation(pmu_class, version):
    """SDM vol. 3B 18.2.1.1 and 18.2.2: all enables and privileges; with USR = OS = 0 nothing counts."""
    cpu = model(version=version)
    for globally, en, user, system, cpl in itertools.product((0, 1), (0, 1), (0, 1), (0, 1), range(4)):
        pmu = pmu_class(cpu)
        pmu.wrmsr(0x188, 0xC0 | en << 22 | user << 16 | system << 17)
        pmu.wrmsr(0x38D, (system | user << 1) << 4)
        pmu.wrmsr(GLOBAL_CTRL, globally << 2 | globally << 33)
        pmu.count({"instructions": 7}, cycles=9, cpl=cpl)
        privileged = system if cpl == 0 else user
        assert pmu.rdpmc(2) == (7 if globally and en and privileged else 0)
        assert pmu.rdpmc(0x4000_0001) == (9 if globally and privileged else 0)


@pytest.mark.parametrize("version", [4, 5])
def test_counter_freeze_bit(pmu_class, version):
    """SDM vol. 3B 18.2.4.1 and 18.2.4.2: CTR_FRZ stops every counter until software clears it."""
    pmu = pmu_class(model(version=version))
    pmu.wrmsr(0x186, 0xC0 | OS | EN)
    pmu.wrmsr(0x38D, 1)
    pmu.wrmsr(GLOBAL_CTRL, 0x1_00000001)
    pmu.wrmsr(0x391, 1 << 59)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == pmu.rdpmc(0x4000_0000) == 0
    assert pmu.rdmsr(GLOBAL_CTRL) == 0x1_00000001
    pmu.wrmsr(ACK, 1 << 58)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == 0
    pmu.wrmsr(ACK, 1 << 59)
    pmu.count({"instructions": 5})
    assert pmu.rdpmc(0) == pmu.rdpmc(0x4000_0000) == 5


def test_unknown_events_count_nothing(pmu_class):
    """SDM vol. 3B 18.2.1.1: a selector may hold any event; only those we know occur."""
    cpu = vpmu.cpu("skylake")
    everything = dict.fromkeys(FIXED + tuple(SELECTORS), 1)
    everything.pop("cycles")
    known = set(SELECTORS.values()) - {SELECTORS["slots"]}  # Skylake has no fixed counter 3
    for select in (*SELECTORS.values(), 0, 0x0300, 0x0400, 0x01C0, 0x023C, 0x4F2F, 0xFFFF, 0x00C1):
        pmu = pmu_class(cpu)
        pmu.wrmsr(0x186, select | OS | EN)
        pmu.count(everything, cycles=1)
        assert pmu.rdpmc(0) == (1 if select in known else 0)


def test_slots_need_fixed_counter_3(pmu_class):
    for fixed_mask in range(16):
        pmu = pmu_class(model(fixed_mask=fixed_mask))
        pmu.wrmsr(0x186, SELECTORS["slots"] | OS | EN)
        pmu.count({}, cycles=10)
        assert pmu.rdpmc(0) == (60 if fixed_mask & 8 else 0)


def test_inversion_without_cmask_is_ignored(pmu_class):
    """SDM vol. 3B 18.2.1.1: INV is ignored when CMASK is 0."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x186, 0xC0 | OS | EN | 1 << 23)
    pmu.wrmsr(0x187, 0xC0 | OS | EN)
    pmu.count({"instructions": 31}, cycles=100)
    assert pmu.rdpmc(0) == pmu.rdpmc(1) == 31


@pytest.mark.parametrize(
    "bits", [1 << 24, 0xFF << 24, 2 << 24 | 1 << 23, 1 << 18, 1 << 18 | 1 << 23, 1 << 21, 1 << 32, 1 << 33]
)
def test_counting_per_cycle_is_refused(pmu_class, bits):
    """CMASK, edge detection, AnyThread, IN_TX and IN_TXCP need more than sums: no silently wrong count."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x188, 0xC0 | OS | EN | bits)
    pmu.wrmsr(0x186, 0xC0 | OS | EN)
    before = pmu.state()
    for events, cycles in (({"instructions": 1}, 0), ({}, 5), ({}, 0)):
        with pytest.raises(ValueError, match="per_cycle") as caught:
            pmu.count(events, cycles=cycles)
        assert re.search(r"(?<!\d)2(?!\d)", str(caught.value)), "the message names the counter"
        assert pmu.state() == before
    pmu.count({"instructions": 1}, cpl=3)  # the counter is not enabled there
    pmu.wrmsr(0x391, 1 << 59)
    pmu.count({"instructions": 1})  # nor while it is frozen
    pmu.wrmsr(ACK, 1 << 59)
    pmu.wrmsr(GLOBAL_CTRL, 3)
    pmu.count({"instructions": 1})
    assert pmu.rdpmc(0) == 1
    assert pmu.rdpmc(2) == 0


@pytest.mark.parametrize("width", [32, 40, 48])
def test_wraps(pmu_class, width):
    """SDM vol. 3B 18.2.2: the counter goes on from 0; each counter has its own width."""
    cpu = model("skylake", gp_width=width, fixed_width=80 - width if width != 32 else 48)
    numbers = (0, 1, 1 << width, 5 << width, (1 << 64) - 1)
    for start, number in itertools.product((0, 1, (1 << width) - 1), numbers):
        pmu = pmu_class(cpu)
        pmu.wrmsr(0x4C1, start)
        pmu.wrmsr(0x186, 0xC4 | OS | EN)
        pmu.wrmsr(0x38D, 1)
        pmu.wrmsr(GLOBAL_CTRL, 0x1_00000001)
        pmu.count({"branches": number, "instructions": number})
        assert pmu.rdpmc(0) == (start + number) % (1 << width)
        assert pmu.rdpmc(0x4000_0000) == number % (1 << cpu.fixed_width)
        wrapped = (start + number) >> width != 0
        assert pmu.rdmsr(GLOBAL_STATUS) == wrapped | (number >> cpu.fixed_width != 0) << 32


def test_status_is_sticky(pmu_class):
    """SDM vol. 3B 18.2.2: a status bit stays until software clears it."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0xC1, 0xFFFFFFFF)
    pmu.wrmsr(0x186, 0xC0 | OS | EN)
    pmu.count({"instructions": 1})
    pmu.wrmsr(0x186, 0)
    pmu.wrmsr(GLOBAL_CTRL, 0)
    pmu.wrmsr(0xC1, 0)
    pmu.wrmsr(ACK, 0xE)
    assert pmu.rdmsr(GLOBAL_STATUS) == 1
