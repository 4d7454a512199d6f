"""States that a PMU refuses to be made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pmu_models import SKYLAKE, ZEN1, have, make

import vpmu

#: Ice Lake with a skid of 40 cycles.
CPU = have(vpmu.cpu("icelake"), "tsx_force_abort", skid=vpmu.Skid(40, 40)).with_quirks(pmi_skid=True)
WRITES = {0xC1: 0xFFFFFFFF, 0x4C8: 123, 0x186: 0x5300C0, 0x18D: 0xC4, 0x309: 9, 0x30C: 11, 0x38D: 0xB}
WRITES |= {0x38F: 0x1_00000001, 0x329: 0xFF, 0x3F1: 1, 0x3F2: 3, 0x600: 0x1000, 0x1D9: 0x1800, 0x10F: 1}
WRITES |= {0x834: 0x4F5, 0x391: 1 << 62}


def busy(pmu_class):
    """Make a PMU with something in many fields of its state."""
    pmu = make(pmu_class, CPU, *WRITES.items(), seed=6)
    pmu.count({"instructions": 4}, cycles=1001, cpl=3)
    return pmu


#: Values that no register can hold, of the PMU that `busy` makes.
IMPOSSIBLE = [
    {"version": 1},
    {"version": 3},
    {"version": None},
    {"cpu": "skylake"},
    {"counters": (0,) * 4},
    {"counters": (0,) * 9},
    {"counters": (1 << 48,) + (0,) * 7},
    {"counters": (-1,) + (0,) * 7},
    {"counters": ("0",) * 8},
    {"counters": 5},
    {"fixed": (0,) * 3},
    {"fixed": (1 << 48, 0, 0, 0)},
    {"selectors": ()},
    {"selectors": (1 << 63,) + (0,) * 7},
    {"fixed_ctr_ctrl": 1 << 20},
    {"global_ctrl": 1 << 64},
    {"global_ctrl": -1},
    {"global_ctrl": 1 << 8},
    {"global_status": 1 << 40},
    {"debugctl": 4},
    {"tsx_force_abort": 8},
    {"pebs_enable": 1 << 20},
    {"ds_area": 1 << 47},
    {"lvtpc": None},
    {"lvtpc": 0x100},
    {"lvtpc": 1 << 12},
    {"pmi_pending": 3},
    {"pmi_pending": -1},
    {"pmi_entry": 1 << 11},
    {"pmi_arrival": -2},
    {"skid": (1, 2, 3)},
    {"skid": (1, 2, 3, 1 << 64)},
    {"metrics_slots": (0,) * 7},
    {"metrics_slots": (-1,) + (0,) * 7},
    {"uncore": (0, 0)},
    {"uncore": (1, 0, 0)},
    {"reload": (0,) * 31},
    {"reload": (1,) + (0,) * 31},
    {"cfg_b": (1,) + (0,) * 31},
    {"cfg_c": (0,) * 33},
    {"pebs_base": 1},
    {"hwcr": 1 << 30},
    {"irperf": 1},
    {"svme": 1},
    {"guest": 1},
    {"smm": 2},
    {"enable_hazard": 1},
    {"in_flight": 1 << 8},
    {"cycles": -1},
    {"cycles": 1 << 64},
]


@pytest.mark.parametrize(
    "change",
    [*IMPOSSIBLE, *({key: ...} for key in sorted(vpmu.Pmu(CPU).state()))],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
def test_foreign_states(pmu_class, change):
    """Another version, CPU or shape, a value out of range, a missing key (...): a ValueError naming it."""
    pmu = busy(pmu_class)
    state = {key: value for key, value in (pmu.state() | change).items() if value is not ...}
    (name,) = change
    with pytest.raises(ValueError, match=name):
        pmu_class.from_state(pmu.cpu, state)


def test_state_of_another_model(pmu_class):
    """A state is loaded only into the CPU that it is of, even if the names are the same."""
    state = busy(pmu_class).state()
    for cpu in (vpmu.cpu("skylake"), replace(CPU, gp_mask=0xF)):
        with pytest.raises(ValueError, match=r"cpu|counters"):
            pmu_class.from_state(cpu, state)
    for cpu, other in ((ZEN1, SKYLAKE), (SKYLAKE, ZEN1)):
        with pytest.raises(ValueError, match="cpu"):
            pmu_class.from_state(other, pmu_class(cpu).state())
