"""Plans written by hand for the slow reference machine, random ones, and what holds for each of their runs."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

from vpmu._costs import COST_NAMES
from vpmu._cpu import CpuModel, Skid, cpu
from vpmu._plan import ACCESSES, ACTIVITIES, EVENTS, Plan, PlannedExit, PlannedGuestEvent, PlannedHostEvent, Stream
from vpmu._sequences import sequence
from vpmu.reference import machine as reference

DESIGNS = ("none", "bare-metal", "emulated", "mediated", "dedicated")
FASTPATH, KERNEL, USERSPACE = range(3)
CODES = (0xC0, 0x3C, 0x0300, 0x013C, 0x4F2E, 0x412E, 0xC4, 0xC5, 0x01A4)
ONE = 1 << 32
#: Events per cycle in guest code, halved in the host; index order of EVENTS.
RATES = tuple(int(x * ONE) for x in (1.3, 1.0, 0.7, 0.01, 0.05, 0.003, 0.21, 0.004, 4.0))
NEVER = Stream(0, (), (), ())
MERGED_TRAPS = frozenset({"selector", "fixed_ctr_ctrl", "lvtpc"})
EXITS = (
    PlannedExit("CPUID", KERNEL, 3, True, 600, 0),
    PlannedExit("MSR_WRITE", FASTPATH, 0, True, 300, 0),
    PlannedExit("HLT", KERNEL, 0, True, 600, 5000),
    PlannedExit("IO_INSTRUCTION", USERSPACE, 0, True, 9000, 0),
    PlannedExit("PREEMPTION_TIMER", FASTPATH, 0, False, 250, 0),
    PlannedExit("EXTERNAL_INTERRUPT", KERNEL, 3, False, 900, 0),
)


def hardware(**changes: Any) -> CpuModel:
    """Eight GP and three fixed counters, like KVM's widest guest, so that everything can pass through."""
    values: dict[str, Any] = {"fixed_mask": 7, "skid": Skid(10, 60), **changes}
    return dataclasses.replace(cpu("emeraldrapids"), **values)


def guest_event(name: str, counter: int, period: int = 0, user: bool = True, kernel: bool = True) -> PlannedGuestEvent:
    event = EVENTS.index(name)
    return PlannedGuestEvent(event, CODES[event], counter, user, kernel, period)


def host_event(name: str, gp_mask: int = 0xFF, fixed_mask: int = 0, **attributes: bool) -> PlannedHostEvent:
    event = EVENTS.index(name)
    values = {"user": True, "kernel": True, "exclude_guest": True, "exclude_host": False} | attributes
    return PlannedHostEvent(event, CODES[event], gp_mask, fixed_mask, **values)


def stream(mean_gap: int, *kinds: int, regular: bool = False) -> Stream:
    n = len(kinds)
    rates = (-(-(1 << 48) // (n * mean_gap)),) * n if regular and mean_gap else ()
    return Stream(mean_gap, (ONE,) * n, tuple(range(n)), kinds, rates)


def make_plan(design: str, **changes: Any) -> Plan:
    model = changes.pop("cpu", hardware())
    costs = {name: figure.value for name, figure in model.costs.items()} | changes.pop("costs", {})
    guest = tuple(RATES)
    host = tuple(rate // 2 for rate in RATES)
    by_name = {"guest": guest, "idle": (0,) * len(EVENTS)}
    rates = tuple(by_name.get(name.split("_")[0], host) for name, _ in ACTIVITIES)
    fixed = {0: 1, 1: 2, 2: 4}
    values: dict[str, Any] = {
        "design": design,
        "options": {"scope": "fastpath-loop"} if design == "mediated" else {"reuse": True},
        "traps": MERGED_TRAPS if design == "mediated" else frozenset(ACCESSES),
        "cpu": model,
        "guest_cpu": model,
        "gp_constraint": tuple(0 if e == 2 else model.gp_mask for e in range(len(EVENTS) + 1)),
        "fixed_constraint": tuple(fixed.get(e, 0) & model.fixed_mask for e in range(len(EVENTS) + 1)),
        "end": 400_000,
        "user_share": ONE * 3 // 4,
        "rates": rates,
        "costs": costs,
        "exits": EXITS,
        "work": NEVER,
        "wall": NEVER,
        "trace": None,
        "seeds": {"work": (1, 2, 3), "wall": (4, 5, 6), "skid": (7, 8, 9)},
        "guest_events": (),
        "host_events": (),
        "sequence": sequence("linux-7.0") if design == "mediated" else None,
        "owns_hardware": design in ("bare-metal", "dedicated"),
        "backed_by_host_events": design == "emulated",
        "global_ctrl_in_exit_list": False,  # the slow machine finds it out by itself
        **changes,
    }
    return Plan(**values)


def run(plan: Plan, cycle_by_cycle: bool = False) -> dict[str, Any]:
    return reference.run(plan, cycle_by_cycle)


def check(result: dict[str, Any]) -> None:
    """What holds for every run."""
    assert result["w"] == sum(result["clocks"])
    # All cycles but those of the workload have a name.
    assert sum(result["spent"].values()) == result["w"] - result["clocks"][0] - result["clocks"][1]
    pmi = result["pmi"]
    assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + pmi["lost"] + pmi["pending"]
    for row in (*result["counters"], *result["host"]):
        assert row["value"] == row["ideal"] - sum(row["losses"].values()) + sum(row["gains"].values()), row
        assert all(n > 0 for n in (*row["losses"].values(), *row["gains"].values()))


def occurrences(plan: Plan, event: int, clocks: list[int], activities: tuple[int, ...]) -> int:
    return sum(plan.rates[a][event] * clocks[a] >> 32 for a in activities)


STAT = (guest_event("cycles", 33), guest_event("instructions", 32))


def random_plan(seed: int, end: int) -> Plan:
    random = Random(seed)
    design = random.choice(DESIGNS)
    names = ("instructions", "cycles", "branches", "cache-references")
    events = []
    if design != "none":
        for c in random.sample((0, 1, 2, 7, 32, 33), random.randint(0, 4)):
            name = {32: "instructions", 33: "cycles"}.get(c) or random.choice(names)
            period = random.choice((0, 0, 500, 3000, 20_000))
            user = random.random() < 0.7
            events.append(guest_event(name, c, period, user, not user or random.random() < 0.8))
    events.sort(key=lambda event: event.counter < 32)
    hosts = []
    if design != "bare-metal":
        # Sometimes more than there are counters, so that some events find none.
        for name in random.choices(names, k=random.choice((0, 1, 2, 3, 6))):
            excluded = random.choice(("neither", "guest", "host"))
            hosts.append(
                host_event(
                    name,
                    random.choice((0xFF, 0x3, 0x1)),
                    random.choice((0, {"instructions": 1, "cycles": 2}.get(name, 0))),
                    exclude_guest=excluded == "guest",
                    exclude_host=excluded == "host",
                    kernel=random.random() < 0.8,
                )
            )
    model = hardware(
        skid=Skid(0, random.choice((0, 60, 5000))),
        gp_mask=random.choice((0xFF, 0x87)),
        exit_save_global_ctrl=random.random() < 0.5,
    )
    options: dict[str, str | bool] = {
        "scope": random.choice(("fastpath-loop", "every-exit")),
        "reuse": random.random() < 0.8,
    }
    cheap = random.random() < 0.5
    few = random.choice((50, 200))
    costs = dict.fromkeys(COST_NAMES, few) if cheap else {}
    kinds = random.choices(range(len(EXITS)), k=random.randint(1, 6))
    return make_plan(
        design,
        cpu=model,
        costs=costs,
        guest_events=tuple(events),
        host_events=tuple(hosts),
        traps=MERGED_TRAPS | set(random.sample(ACCESSES, random.randint(0, 4))),
        options=options,
        end=end,
        user_share=random.choice((0, ONE // 3, ONE)),
        work=stream(random.choice((0, 400, 5000)), *kinds, regular=random.random() < 0.3),
        wall=stream(random.choice((0, 3000, 40_000)), 5, regular=random.random() < 0.3),
        seeds={purpose: (seed, i, 3) for i, purpose in enumerate(("work", "wall", "skid"))},
        sequence=sequence(random.choice(("linux-7.0", "linux-7.0-no-elision"))) if design == "mediated" else None,
    )
