"""Switch sequences: the ordered MSR operations of one load and one put, read from TOML and checked.

A sequence is data. Its steps are tables:

- ``{op = "perf_load_guest_context"}``, ``{op = "perf_put_guest_context"}``: host perf leaves or returns;
- ``{op = "wrmsr", register, value, if}``, ``{op = "rdmsr", register = "global_status", save}``;
- ``{op = "toggle", register = "global_status"}``: only differing bits, through RESET and SET;
- AMD: ``{op = "wrmsr", register = "global_status_set"|"global_ctrl", value = "guest"}``;
- ``{op = "lvtpc", value = "guest"|"host"}``;
- ``{for = "gp"|"fixed", do = [...]}``: over the guest's counters, of ``{op = "rdpmc", save}`` and ``wrmsr``
  of ``counter`` or ``selector``.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._data import data_names, data_text
from ._errors import ScenarioError, UnknownName

#: Block operations of the compiled core, see ``switching.pxd``.
(
    PERF_LOAD,
    PERF_PUT,
    GLOBAL_CTRL_ZERO,
    LVTPC_GUEST,
    LVTPC_HOST,
    LOOP,
    RDMSR_STATUS,
    OVF_CTRL,
    TOGGLE_STATUS,
    FIXED_CTR_CTRL,
    STATUS_SET,  # AMD: PerfCntrGlobalStatusSet, whatever it is
    GLOBAL_CTRL_GUEST,  # AMD: GuestOnly keeps the counters from counting up to the entry
) = range(12)

# Flags of LOOP.
FIXED, RDPMC, SAVE = 1, 2, 4
COUNTER_GUEST, COUNTER_ZERO, COUNTER_DIFFERS, COUNTER_NONZERO = 8, 16, 32, 64
SELECTOR_GUEST, SELECTOR_ZERO, SELECTOR_NONZERO = 128, 256, 512
_COUNTER = COUNTER_GUEST | COUNTER_ZERO
_SELECTOR = SELECTOR_GUEST | SELECTOR_ZERO
# Flags of RDMSR_STATUS, FIXED_CTR_CTRL.
STATUS_SAVE = 1
FIXED_CTR_CTRL_GUEST, FIXED_CTR_CTRL_ZERO_IF_NONZERO, FIXED_CTR_CTRL_ZERO = 1, 2, 3

_PLAIN: Mapping[tuple[tuple[str, Any], ...], tuple[int, int]] = {
    (("op", "perf_load_guest_context"),): (PERF_LOAD, 0),
    (("op", "perf_put_guest_context"),): (PERF_PUT, 0),
    (("op", "wrmsr"), ("register", "global_ctrl"), ("value", "zero")): (GLOBAL_CTRL_ZERO, 0),
    (("op", "lvtpc"), ("value", "guest")): (LVTPC_GUEST, 0),
    (("op", "lvtpc"), ("value", "host")): (LVTPC_HOST, 0),
    (("op", "rdmsr"), ("register", "global_status")): (RDMSR_STATUS, 0),
    (("op", "rdmsr"), ("register", "global_status"), ("save", True)): (RDMSR_STATUS, STATUS_SAVE),
    (("if", "nonzero"), ("op", "wrmsr"), ("register", "global_ovf_ctrl"), ("value", "status")): (OVF_CTRL, 0),
    (("op", "toggle"), ("register", "global_status")): (TOGGLE_STATUS, 0),
    (("op", "wrmsr"), ("register", "fixed_ctr_ctrl"), ("value", "guest")): (FIXED_CTR_CTRL, FIXED_CTR_CTRL_GUEST),
    (("if", "nonzero"), ("op", "wrmsr"), ("register", "fixed_ctr_ctrl"), ("value", "zero")): (
        FIXED_CTR_CTRL,
        FIXED_CTR_CTRL_ZERO_IF_NONZERO,
    ),
    (("op", "wrmsr"), ("register", "fixed_ctr_ctrl"), ("value", "zero")): (FIXED_CTR_CTRL, FIXED_CTR_CTRL_ZERO),
    (("op", "wrmsr"), ("register", "global_status_set"), ("value", "guest")): (STATUS_SET, 0),
    (("op", "wrmsr"), ("register", "global_ctrl"), ("value", "guest")): (GLOBAL_CTRL_GUEST, 0),
}

_LOOP: Mapping[tuple[tuple[str, Any], ...], int] = {
    (("op", "rdpmc"),): RDPMC,
    (("op", "rdpmc"), ("save", True)): RDPMC | SAVE,
    (("op", "wrmsr"), ("register", "counter"), ("value", "guest")): COUNTER_GUEST,
    (("if", "differs"), ("op", "wrmsr"), ("register", "counter"), ("value", "guest")): COUNTER_GUEST | COUNTER_DIFFERS,
    (("op", "wrmsr"), ("register", "counter"), ("value", "zero")): COUNTER_ZERO,
    (("if", "nonzero"), ("op", "wrmsr"), ("register", "counter"), ("value", "zero")): COUNTER_ZERO | COUNTER_NONZERO,
    (("op", "wrmsr"), ("register", "selector"), ("value", "guest")): SELECTOR_GUEST,
    (("op", "wrmsr"), ("register", "selector"), ("value", "zero")): SELECTOR_ZERO,
    (("if", "nonzero"), ("op", "wrmsr"), ("register", "selector"), ("value", "zero")): SELECTOR_ZERO | SELECTOR_NONZERO,
}


def _key(step: object) -> tuple[tuple[str, Any], ...] | None:
    """A step as the tables have it; None for what cannot be a step."""
    if not isinstance(step, Mapping) or not all(isinstance(word, (str, bool)) for word in (*step, *step.values())):
        return None
    return tuple(sorted(step.items()))


def _compile_step(where: str, step: Mapping[str, Any]) -> tuple[int, int]:
    """Compile one step to (operation, flags)."""
    if not isinstance(step, Mapping):
        raise ScenarioError(f"{where}: a step is a table, not {step!r}")
    if "for" in step:
        if set(step) != {"for", "do"} or step["for"] not in ("gp", "fixed") or not isinstance(step["do"], list):
            raise ScenarioError(f"{where}: a loop is {{for = 'gp' or 'fixed', do = [...]}}, not {dict(step)}")
        flags = FIXED if step["for"] == "fixed" else 0
        for inner in step["do"]:
            key = _key(inner)
            known = None if key is None else _LOOP.get(key)
            if known is None or (flags & FIXED and inner.get("register") == "selector"):
                raise ScenarioError(f"{where}: {inner!r} is no operation of a loop over {step['for']} counters")
            if known & (COUNTER_DIFFERS | COUNTER_NONZERO) and not flags & RDPMC:
                raise ScenarioError(f"{where}: {dict(inner)} compares with a value that no rdpmc read before it")
            # One block does, for every counter, RDPMC, then the counter, then the selector.
            if known < flags & ~FIXED:
                raise ScenarioError(f"{where}: {inner!r} comes too late: a loop has rdpmc, then counter, then selector")
            if any(known & group and flags & group for group in (RDPMC, _COUNTER, _SELECTOR)):
                raise ScenarioError(f"{where}: {inner!r} comes twice")
            flags |= known
        return LOOP, flags
    key = _key(step)
    found = None if key is None else _PLAIN.get(key)
    if found is None:
        raise ScenarioError(f"{where}: {dict(step)} is no operation of a switch sequence")
    return found


@dataclass(frozen=True)
class Sequence:
    """One load and one put.

    Parameters
    ----------
    name, summary, source : str
    load, put : tuple of mapping
        The steps as in the TOML file.
    vendor : {"intel", "amd"}
        Whose registers they access.

    Raises
    ------
    ScenarioError
        For a step that is no operation.
    """

    name: str
    summary: str
    source: str
    load: tuple[Mapping[str, Any], ...]
    put: tuple[Mapping[str, Any], ...]
    vendor: str = "intel"

    def __post_init__(self) -> None:
        self.programs()

    def programs(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """The load and the put as (operation, flags) pairs for the compiled core."""
        compiled = []
        for half, steps in (("load", self.load), ("put", self.put)):
            if not 0 < len(steps) <= 64:
                raise ScenarioError(f"sequence {self.name}: {half} must have 1 to 64 steps, not {len(steps)}")
            compiled.append(
                tuple(_compile_step(f"sequence {self.name}, {half} step {i}", s) for i, s in enumerate(steps, 1))
            )
        return compiled[0], compiled[1]


def sequences() -> tuple[str, ...]:
    """Names of the switch sequences, sorted."""
    return data_names("sequences")


@functools.cache
def sequence(name: str) -> Sequence:
    """Look up a switch sequence by name; raises :class:`UnknownName`."""
    if name not in sequences():
        raise UnknownName("switch sequence", name, sequences())
    table = tomllib.loads(data_text("sequences", f"{name}.toml"))
    load, put = tuple(table["load"]), tuple(table["put"])
    return Sequence(name, table["summary"], table["source"], load, put, table.get("vendor", "intel"))
