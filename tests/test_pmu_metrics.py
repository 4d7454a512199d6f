"""PERF_METRICS: fractions of slots, its overflow, and RDPMC that clears it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import (
    ACK,
    ALL_ONES,
    CTRL,
    FIXED,
    FIXED_CTR_CTRL,
    FULL,
    ICELAKE,
    LVTPC,
    METRICS,
    NMI,
    SAPPHIRERAPIDS,
    SKYLAKE,
    STATUS,
    STATUS_SET,
    capable,
    fixed,
    make,
)

ENABLE, SLOTS = 1 << 48, 1 << 35
LEVEL_1 = ("topdown-retiring", "topdown-bad-spec", "topdown-fe-bound", "topdown-be-bound")
LEVEL_2 = ("topdown-heavy-ops", "topdown-br-mispredict", "topdown-fetch-lat", "topdown-mem-bound")
PERF_METRICS = 0x2000_0000


def running(pmu_class, cpu, *writes, control=ENABLE | SLOTS, fixed_control=0x3000):
    """A PMU that counts slots and metrics at every CPL."""
    return make(pmu_class, cpu, (FIXED_CTR_CTRL, fixed_control), (CTRL, control), *writes)


def fields(value):
    return tuple(value.to_bytes(8, "little"))


def test_level_1(pmu_class):
    """round(255 * slots of the field / slots), half up: 76.5, 38.25, 12.75 and 127.5."""
    pmu = running(pmu_class, ICELAKE)
    given = dict(zip(LEVEL_1, (30, 15, 5, 50), strict=True))
    pmu.count(given | dict.fromkeys(LEVEL_2, 50), cycles=20)
    assert fixed(pmu)[3] == 100
    assert fields(pmu.rdmsr(METRICS)) == (77, 38, 13, 128, 0, 0, 0, 0)
    assert pmu.state()["metrics_slots"][:4] == (30, 15, 5, 50)
    pmu.count({"topdown-retiring": 100}, cycles=20, cpl=3)  # 130 of 200 and so on: 165.75, 19.125, 6.375, 63.75
    assert fields(pmu.rdmsr(METRICS)) == (166, 19, 6, 64, 0, 0, 0, 0)


def test_level_2(pmu_class):
    """Sapphire Rapids: four more fields, each a part of one of the first four."""
    pmu = running(pmu_class, SAPPHIRERAPIDS)
    given = dict(zip(LEVEL_1 + LEVEL_2, (240, 120, 60, 180, 24, 12, 6, 179), strict=True))
    pmu.count(given, cycles=100)
    assert fixed(pmu)[3] == 600
    # 102, 51, 25.5, 76.5; 10.2, 5.1, 2.55, 76.075
    assert fields(pmu.rdmsr(METRICS)) == fields(pmu.rdpmc(PERF_METRICS)) == (102, 51, 26, 77, 10, 5, 3, 76)
    assert pmu.state()["metrics_slots"] == tuple(given.values())
    assert pmu.state()["perf_metrics"] == pmu.rdmsr(METRICS)


def test_upper_fields_without_level_2_keep_what_was_written(pmu_class):
    pmu = running(pmu_class, ICELAKE, (METRICS, 0x04030201_00000000))
    pmu.count({"topdown-retiring": 50, "topdown-heavy-ops": 50}, cycles=20)
    assert fields(pmu.rdmsr(METRICS)) == (128, 0, 0, 0, 1, 2, 3, 4)


def test_fields_saturate(pmu_class):
    """More slots than there were are 255, not a carry into the next field."""
    pmu = running(pmu_class, ICELAKE)
    pmu.count({"topdown-retiring": 1000, "topdown-bad-spec": 100}, cycles=20)
    assert fields(pmu.rdmsr(METRICS))[:3] == (255, 255, 0)


def test_accumulators_wrap(pmu_class):
    """They are modulo 2**64, while FIXED_CTR3 wraps at its own width."""
    pmu = running(pmu_class, ICELAKE)
    for _ in range(2):
        pmu.count({"topdown-retiring": (1 << 64) - 1, "slots": 100}, cycles=20)
    assert pmu.state()["metrics_slots"][0] == (1 << 64) - 2
    pmu.count({"topdown-retiring": 32}, cycles=20)
    assert pmu.state()["metrics_slots"][0] == 30
    assert fields(pmu.rdmsr(METRICS))[0] == 26  # 255 * 30 / 300 = 25.5


def test_no_slots(pmu_class):
    """A fraction of nothing is 0."""
    pmu = running(pmu_class, ICELAKE)
    pmu.count({"topdown-retiring": 5, "slots": 0}, cycles=20)
    assert pmu.rdmsr(METRICS) == 0
    assert pmu.state()["metrics_slots"][0] == 5
    pmu.count({"slots": 10}, cycles=20)
    assert fields(pmu.rdmsr(METRICS))[0] == 128


@pytest.mark.parametrize(
    ("control", "fixed_control", "status", "cpl", "counts"),
    [
        (ENABLE | SLOTS, 0x1000, 0, 0, True),
        (ENABLE | SLOTS, 0x1000, 0, 3, False),
        (ENABLE | SLOTS, 0x2000, 0, 3, True),
        (ENABLE | SLOTS, 0x2000, 0, 0, False),
        (ENABLE | SLOTS, 0, 0, 0, False),
        (ENABLE, 0x3000, 0, 0, False),
        (SLOTS, 0x3000, 0, 0, False),
        (ENABLE | SLOTS, 0x3000, 1 << 59, 0, False),
        (ENABLE | SLOTS, 0x3000, 1 << 58, 0, True),
    ],
)
def test_enables(pmu_class, control, fixed_control, status, cpl, counts):
    """GLOBAL_CTRL bits 48 and 35, fixed counter 3's own enable, and no CTR_FRZ."""
    pmu = running(pmu_class, ICELAKE, (STATUS_SET, status), control=control, fixed_control=fixed_control)
    pmu.count({"topdown-retiring": 50}, cycles=20, cpl=cpl)
    assert pmu.rdmsr(METRICS) == (128 if counts else 0)
    assert pmu.state()["metrics_slots"][0] == (50 if counts else 0)


def test_write(pmu_class):
    """Software restores FIXED_CTR3 first and then the fields, whose slots follow: round(field * slots / 255)."""
    pmu = running(pmu_class, SAPPHIRERAPIDS, (0x30C, 1000))
    written = int.from_bytes(bytes((102, 51, 0, 255, 1, 2, 128, 127)), "little")
    pmu.wrmsr(METRICS, written)
    assert pmu.rdmsr(METRICS) == written
    # 400, 200, 0, 1000; 3.92, 7.84, 501.96, 498.04
    assert pmu.state()["metrics_slots"] == (400, 200, 0, 1000, 4, 8, 502, 498)
    pmu.count({"topdown-fe-bound": 500}, cycles=0)
    # With the slots as they were: 102, 51, 127.5, 255; 1.02, 2.04, 128.01, 126.99
    assert fields(pmu.rdmsr(METRICS)) == (102, 51, 128, 255, 1, 2, 128, 127)


def test_write_rounds_half_up(pmu_class):
    """255 * 3 / 510 = 1.5."""
    pmu = running(pmu_class, ICELAKE, (0x30C, 510 // 4), (METRICS, 1))
    assert pmu.state()["metrics_slots"][0] == 0  # 127 / 255 = 0.498
    pmu = running(pmu_class, ICELAKE, (0x30C, 255 * 3 // 2 + 1), (METRICS, 1))
    assert pmu.state()["metrics_slots"][0] == 2  # 383 / 255 = 1.502
    pmu = running(pmu_class, ICELAKE, (0x30C, 51), (METRICS, 0x0305_0000_0000_02FF))
    assert pmu.state()["metrics_slots"][:2] == (51, 0)  # 0.4


def test_write_without_slots(pmu_class):
    """Fields written before FIXED_CTR3 have no slots behind them, and are gone after the next count."""
    pmu = running(pmu_class, ICELAKE, (METRICS, 0x80808080))
    assert pmu.state()["metrics_slots"] == (0,) * 8
    assert pmu.rdmsr(METRICS) == 0x80808080
    pmu.count({}, cycles=0)
    assert pmu.rdmsr(METRICS) == 0x80808080  # nothing has moved
    pmu.count({}, cycles=1)
    assert pmu.rdmsr(METRICS) == 0


def test_zeroing_both_starts_again(pmu_class):
    pmu = running(pmu_class, ICELAKE)
    pmu.count({"topdown-retiring": 50}, cycles=20)
    pmu.wrmsr(0x30C, 0)
    pmu.wrmsr(METRICS, 0)
    assert pmu.state()["metrics_slots"] == (0,) * 8
    pmu.count({"topdown-be-bound": 25}, cycles=20)
    assert fields(pmu.rdmsr(METRICS))[:4] == (0, 0, 0, 64)


@pytest.mark.parametrize("enable", [ENABLE, 0])
@pytest.mark.parametrize("interrupts", [0, 0x8000])
def test_overflow(pmu_class, enable, interrupts):
    """When FIXED_CTR3 wraps, bit 48 is set with bit 35; the PMI is fixed counter 3's."""
    writes = ((LVTPC, NMI), (0x30C, FULL))
    pmu = running(pmu_class, ICELAKE, *writes, control=enable | SLOTS, fixed_control=0x3000 | interrupts)
    pmu.count({}, cycles=1)
    assert fixed(pmu)[3] == 4
    assert pmu.rdmsr(STATUS) == enable | SLOTS
    assert pmu.pmi_pending is bool(interrupts)
    pmu.wrmsr(ACK, ENABLE | SLOTS) if enable else pmu.wrmsr(ACK, SLOTS)
    assert pmu.rdmsr(STATUS) == 0


@pytest.mark.parametrize("cpl", [0, 3])
def test_rdpmc_clears(pmu_class, cpl):
    """METRICS_CLEAR_EN, FIXED_CTR_CTRL[14]: RDPMC reads, then clears both; RDMSR and other counters never do."""
    pmu = running(pmu_class, capable(SAPPHIRERAPIDS, 19), fixed_control=0x7000)
    pmu.count({"topdown-retiring": 60}, cycles=20)
    value = pmu.rdmsr(METRICS)
    assert value == 128
    assert pmu.rdpmc(FIXED | 3) == 120
    assert pmu.rdmsr(METRICS) == value
    assert pmu.rdpmc(PERF_METRICS, cpl=cpl) == value
    assert pmu.rdpmc(PERF_METRICS, cpl=cpl) == pmu.rdmsr(METRICS) == pmu.rdpmc(FIXED | 3) == 0
    assert pmu.state()["metrics_slots"] == (0,) * 8
    pmu.count({"topdown-retiring": 30}, cycles=20)
    assert pmu.rdmsr(METRICS) == 64
    pmu.wrmsr(FIXED_CTR_CTRL, 0x3000)
    assert pmu.rdpmc(PERF_METRICS) == pmu.rdpmc(PERF_METRICS) == 64


def test_written_fields_that_do_not_count(pmu_class):
    """Without the second level the upper four have no slots; metrics that are off keep their fields."""
    pmu = running(pmu_class, ICELAKE, (0x30C, 1000), (METRICS, 0x80808080_80808080))
    assert pmu.state()["metrics_slots"] == (502, 502, 502, 502, 0, 0, 0, 0)
    pmu.wrmsr(CTRL, SLOTS)
    pmu.count({"topdown-retiring": 50}, cycles=20)
    assert pmu.rdmsr(METRICS) == 0x80808080_80808080
    assert pmu.state()["metrics_slots"] == (502, 502, 502, 502, 0, 0, 0, 0)


def test_metrics_need_no_slots_counter_to_be_stored(pmu_class):
    """The MSR is there with the capability, and holds anything while nothing counts."""
    pmu = make(pmu_class, replace(ICELAKE, fixed_mask=7), (METRICS, ALL_ONES))
    pmu.count({"topdown-retiring": 5}, cycles=5)
    assert pmu.rdmsr(METRICS) == ALL_ONES


def test_without_the_capability(pmu_class):
    """Topdown events are no error; they move nothing."""
    pmu = make(pmu_class, SKYLAKE, (FIXED_CTR_CTRL, 0x111), (CTRL, 7 << 32))
    pmu.count(dict.fromkeys(LEVEL_1 + LEVEL_2, 5), cycles=5)
    assert fixed(pmu) == (0, 5, 5)
    assert pmu.state()["perf_metrics"] == 0
