"""What a switch sequence leaves where, whatever the values: which ones need not be watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ._sequence_language import Step


class Analysis(NamedTuple):
    """What is known of a sequence without running it.

    Parameters
    ----------
    saves, restores : bool
        Put saves every counter before it writes it; load writes every counter.
    clears : bool
        Nothing of the guest's is left where host perf returns, and host perf returns last.
    loads : bool
        GLOBAL_CTRL is 0 as soon as host perf has left, and all but STATUS holds the guest's at the end of load.
    loads_status : bool
        STATUS, too.
    """

    saves: bool
    restores: bool
    clears: bool
    loads: bool
    loads_status: bool


def _flat(steps: Sequence[Step]) -> list[tuple[str, Step]]:
    """Each operation with the bank that it is done for."""
    return [(step.get("for", ""), inner) for step in steps for inner in (step["do"] if "for" in step else (step,))]


def _of(step: Step, bank: str) -> str:
    register = str(step.get("register", "counter" if step["op"] == "rdpmc" else step["op"]))
    return f"{register} {bank}" if bank else register


def _load(steps: Sequence[Step]) -> dict[str, str]:
    """What each register holds at the end of load: guest, zero, or something else."""
    holds: dict[str, str] = {}
    lost: set[str] = set()  # of the guest's, for what is saved over it
    for bank, step in _flat(steps):
        name, value = _of(step, bank), str(step.get("value", ""))
        if step["op"] == "lvtpc":
            holds["lvtpc"] = value
        elif step["op"] in ("rdpmc", "rdmsr"):
            name = "status" if name == "global_status" else name
            if step.get("save") in (True, "guest") and holds.get(name) != "guest":
                lost.add(name)
        elif step["op"] == "toggle" or name == "global_ovf_ctrl":
            # Both go by what was read: before anything else was written.
            holds["status"] = "mixed" if "status" in holds else "guest" if step["op"] == "toggle" else "zero"
        elif name == "global_status_set":
            holds["status"] = value if holds.get("status") == "zero" and "if" not in step else "mixed"
        elif step["op"] == "wrmsr":
            conditional = "if" in step and (step["if"] != "differs" or name in holds)
            holds[name] = "mixed" if conditional else value
    return holds | dict.fromkeys(lost, "mixed")


def _put(steps: Sequence[Step]) -> tuple[dict[str, str], set[str]]:
    """What each register holds at the end of put, and which were saved before they were written."""
    holds: dict[str, str] = {}
    saved: set[str] = set()
    for bank, step in _flat(steps):
        name, value = _of(step, bank), str(step.get("value", ""))
        if step["op"] == "lvtpc":
            holds["lvtpc"] = value
        elif step["op"] in ("rdpmc", "rdmsr"):
            name = "status" if name == "global_status" else name
            if step.get("save") in (True, "guest"):
                # After a write it saves what was written.
                (saved.discard if name in holds else saved.add)(name)
        elif step["op"] == "toggle" or name == "global_status_set":
            holds["status"] = "mixed"
        elif name == "global_ovf_ctrl":
            holds["status"] = "mixed" if "status" in holds else "zero"
        elif step["op"] == "wrmsr":
            conditional = "if" in step and (step["if"] != "nonzero" or holds.get(name, value) != value)
            holds[name] = "mixed" if conditional else value
    return holds, saved


def analyse(load: Sequence[Step], put: Sequence[Step], banks: Sequence[str] = ("gp", "fixed")) -> Analysis:
    """Follow a sequence's steps.

    Parameters
    ----------
    load, put : sequence of mapping
        Checked steps.
    banks : sequence of str
        Those that the CPU has counters in.

    Returns
    -------
    Analysis
    """
    loaded, (left, saved) = _load(load), _put(put)
    counters = [f"counter {bank}" for bank in banks]
    quiet = (
        [step.get("op") for step in load[:2]] == ["perf_load_guest_context", "wrmsr"]
        and load[1].get("register") == "global_ctrl"
        and load[1].get("value") == "zero"
        and "if" not in load[1]
        and not any(
            step.get("register") == "global_ctrl" or str(step.get("op")).startswith("perf_")
            for step in (*load[2:], *put[:-1])
        )
    )
    cleared = all(left.get(name) == "zero" for name in (*counters, "selector gp", "fixed_ctr_ctrl", "status"))
    return Analysis(
        saves=saved.issuperset(counters),
        restores=all(loaded.get(name) == "guest" for name in counters),
        clears=cleared
        and saved.issuperset((*counters, "status"))
        and left.get("lvtpc") == "host"
        and put[-1].get("op") == "perf_put_guest_context",
        loads=quiet
        and all(loaded.get(name) == "guest" for name in (*counters, "selector gp", "fixed_ctr_ctrl", "lvtpc")),
        loads_status=loaded.get("status") == "guest",
    )
