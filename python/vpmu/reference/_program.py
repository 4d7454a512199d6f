"""Guest software other than perf: single accesses, for what a driver as careful as Linux's never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine


def run_program(machine: Machine, readings: list[tuple[int, int]]) -> None:
    """Execute a plan's program.

    Parameters
    ----------
    machine : Machine
    readings : list of (int, int)
        Gets, for each RDPMC and each RDMSR of GLOBAL_STATUS, what was read and what the ideal PMU shows (it has no
        STATUS).
    """
    for step in machine.plan.program:
        machine.run_handler("guest_perf_call", step.gap)
        if step.access == "rdpmc":
            machine.perf.read_counter(step.counter, lambda value, ideal: readings.append((value, ideal)))
        elif step.access == "global_status":
            readings.append((machine.perf.read_status(), 0))
        else:
            machine.perf.write(step.access, step.value, step.counter)
