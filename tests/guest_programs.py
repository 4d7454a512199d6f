"""Guest software as a list of accesses, for what perf never does; run on all machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from machine_runs import agreed as run

import vpmu
from vpmu._plan import Plan, PlannedAccess, PlannedExit, Stream
from vpmu._scenario import plan

EN, INT, USR, OS = 1 << 22, 1 << 20, 1 << 16, 1 << 17
INSTRUCTIONS, CYCLES, BRANCHES, CACHE_MISSES = 0xC0, 0x3C, 0xC4, 0x412E
ON = EN | INT | USR | OS
TOP = 1 << 48
FULL = 0xFFFFFFFF

#: (what, counter, value), or an int: cycles of the guest's own code before the next access.
Step = tuple[str, int, int] | int


def select(counter: int, selector: int) -> Step:
    return "selector", counter, selector


def write(counter: int, value: int) -> Step:
    return "counter", counter, value


def read(counter: int) -> Step:
    return "rdpmc", counter, 0


def enable(value: int) -> Step:
    return "global_ctrl", 0, value


FIXED = "fixed_ctr_ctrl"
STATUS: Step = ("global_status", 0, 0)
UNMASK: Step = ("lvtpc", 0, 0x400)


def program(design: str, steps: Sequence[Step], **changes: Any) -> Plan:
    """A plan of one program: regular host interrupts that block if wanted, no workload exits, no guest perf."""
    cpu = changes.pop("cpu", vpmu.cpu("emeraldrapids"))
    skid = changes.pop("skid", 0)
    blocking = changes.pop("blocking", 0)
    host = changes.pop("host_perf", ())
    cpu = dataclasses.replace(cpu, skid=vpmu.Skid(skid, skid))
    base = plan(
        vpmu.Scenario(
            cpu=cpu,
            design=design,
            workload="fio-4k-read",
            guest_perf=(),
            host_perf=host,
            seconds="0.0005",
            what_if=True,
        )
    )
    planned, gap = [], 0
    for step in steps:
        if isinstance(step, int):
            gap += step
        else:
            planned.append(PlannedAccess(gap, *step))
            gap = 0
    one = (1 << 32,) * 9
    rate = (-(-(1 << 48) // blocking),) if blocking else ()
    return dataclasses.replace(
        base,
        rates=(one,) * 6 + ((0,) * 9,),
        exits=(PlannedExit("EXTERNAL_INTERRUPT", 1, 0, False, 0, 100 if blocking else 0),),
        work=Stream(0, (FULL,), (0,), (0,)),
        wall=Stream(blocking, (FULL,), (0,), (0,), rate),
        program=tuple(planned),
        **changes,
    )


def readings(design: str, steps: Sequence[Step], **changes: Any) -> list[tuple[int, int]]:
    """What the program read, and should have."""
    found: list[tuple[int, int]] = run(program(design, steps, **changes))["program"]
    return found
