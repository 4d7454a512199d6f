"""What one switch of each sequence accesses on a CPU, found by letting a machine switch."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from ._cpu import CpuModel
from ._designs import Design, Mediated
from ._errors import ScenarioError
from ._mediated_semi import MediatedSemi
from ._plan import Plan, PlannedAccess, PlannedExit, Stream
from ._scenario import Scenario, plan
from ._sequences import sequence, sequences
from ._workload_file import workload

SEQUENCES_NOTE = (
    "one load and one put, without host events, of a guest with KVM's limits: idle (nothing programmed), half (half\n"
    "of the GP and of the fixed counters count) and full (all do). cycles: with host perf's part and MSR list entries."
)
STATES = ("idle", "half", "full")
_CLASSES = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")
COLUMNS = ("name", "counters", *_CLASSES, "cycles")
_COSTS = ("rdmsr", "rdpmc", "wrmsr", "wrmsr_lvtpc", "perf_guest_context", "msr_list_entry")
_GAP = 20_000
_EXITS = 8
#: Cycles in user and kernel code, enabled (SDM vol. 3B, "Pre-defined Architectural Performance Events").
_CYCLES = {"intel": 0x43003C, "amd": 0x430076}


def _program(guest: CpuModel, state: str) -> tuple[PlannedAccess, ...]:
    """What guest software writes to have none, half or all of its counters count."""
    if state == "idle":
        return ()
    gp = [i for i in range(16) if guest.gp_mask >> i & 1]
    fixed = [m for m in range(16) if guest.fixed_mask >> m & 1]
    if state == "half":
        gp, fixed = gp[: len(gp) // 2], fixed[: len(fixed) // 2]
    enabled = sum(1 << i for i in gp) | sum(1 << 32 + m for m in fixed)
    return (
        *(PlannedAccess(0, "selector", i, _CYCLES[guest.vendor]) for i in gp),
        *([PlannedAccess(0, "fixed_ctr_ctrl", 0, sum(3 << 4 * m for m in fixed))] if fixed else ()),
        PlannedAccess(0, "global_ctrl", 0, enabled),
    )


def _run(planned: Plan, exits: int) -> dict[str, Any]:
    from vpmu_core.machine import Machine

    machine = Machine(dataclasses.replace(planned, end=planned.end * exits), "stepwise")
    while not machine.advance():
        pass
    return machine.result()


def switch_cost(design: Design, model: CpuModel, state: str) -> dict[str, int]:
    """Accesses and cycles of one load and one put.

    Parameters
    ----------
    design : Design
        One that switches.
    model : CpuModel
    state : {"idle", "half", "full"}
        How much of the guest's PMU counts.

    Returns
    -------
    dict of str to int
        By class of access, and ``cycles``.
    """
    base = plan(Scenario(cpu=model, design=design, workload=workload("idle"), guest_perf=(), seconds=Fraction(1, 1000)))
    guest = base.cpu if base.owns_hardware else base.guest_cpu
    planned = dataclasses.replace(
        base,
        end=4 * _GAP,
        exits=(PlannedExit("EXIT", 1, 0, False, 0, 0),),
        work=Stream(_GAP, (0xFFFFFFFF,), (0,), (0,), ((1 << 48) // _GAP,)),
        wall=Stream(0, (), (), ()),
        trace=None,
        program=_program(guest, state),
    )
    before, after = _run(planned, _EXITS), _run(planned, 3 * _EXITS)
    switches = after["exits"][0] - before["exits"][0]
    accesses = {
        name: after["ops"]["run"]["hypervisor"][name] - before["ops"]["run"]["hypervisor"][name] for name in _CLASSES
    }
    accesses["cycles"] = sum(after["spent"][name] - before["spent"][name] for name in _COSTS)
    return {name: n // switches for name, n in accesses.items()}


def _design(name: str, model: CpuModel) -> Design:
    """What can switch by this sequence on this CPU."""
    made: Mediated = Mediated(scope="every-exit", sequence=name)
    if name == "semi-v2" or made.refusal(model, (), False):
        return MediatedSemi(scope="every-exit", sequence=name)
    return made


def sequence_rows(model: CpuModel) -> list[tuple[Any, ...]]:
    """One row for each sequence that the CPU can do and each state of the guest's PMU.

    Parameters
    ----------
    model : CpuModel

    Returns
    -------
    list of tuple
        As :data:`COLUMNS`.

    Raises
    ------
    ScenarioError
        For a CPU on which nothing is simulated, or that can do none of them.
    """
    rows: list[tuple[Any, ...]] = []
    why = ""
    for name in sequences():
        if sequence(name).vendor != model.vendor:
            continue
        made = _design(name, model)
        refusal = made.refusal(model, (), False)
        if refusal:
            why = refusal
            continue
        for state in STATES:
            found = switch_cost(made, model, state)
            rows.append((name, state, *(found[column] for column in COLUMNS[2:])))
    if not rows:
        raise ScenarioError(f"{model.name} can do none of the sequences: {why}")
    return rows
