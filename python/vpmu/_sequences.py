"""Switch sequences: the ordered MSR operations of one load and one put, read from TOML and checked.

A sequence is data; docs/sequences.md has its language. The steps of those that are safe whatever the values are
compiled to blocks here (switchprogram.pyx); all others are done one by one, and watched (stepping.pyx).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._data import data_names, data_text
from ._errors import ScenarioError, UnknownName
from ._sequence_analysis import Analysis, analyse
from ._sequence_file import parse_sequence
from ._sequence_language import Misorder, Misstep, Operation, operations, transition

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
    """One load and one put; docs/sequences.md has the language.

    Parameters
    ----------
    name : str
        Of the library, or the file that it was read from.
    summary, source : str
        What it is, and where it was published.
    load, put : tuple of mapping
        The steps as in the TOML file: tables with ``op``, or ``for`` and ``do``.
    exit, entry : tuple of mapping
        How VM exit saves and clears GLOBAL_CTRL and how VM entry loads it; empty: as the CPU can.
    by_hardware : bool
        The CPU itself moves the guest's state, and the steps move host perf alone.
    vendor : {"intel", "amd"}
        Whose registers they access.

    Raises
    ------
    ScenarioError
        For a step that is no operation, with its number and the nearest valid name.

    Examples
    --------
    >>> import vpmu
    >>> careless = vpmu.Sequence(
    ...     "careless",
    ...     "put only reads the counters",
    ...     "",
    ...     load=vpmu.sequence("linux-7.0").load,
    ...     put=(
    ...         {"for": "gp", "do": [{"op": "rdpmc", "save": True}]},
    ...         {"for": "fixed", "do": [{"op": "rdpmc", "save": True}]},
    ...         {"op": "lvtpc", "value": "host"},
    ...         {"op": "perf_put_guest_context"},
    ...     ),
    ... )
    >>> result = vpmu.simulate(vpmu.Scenario(design=vpmu.Mediated(sequence=careless), seconds="0.001"))
    >>> [violation.partition(":")[0] for violation in result.violations]
    ['isolation', 'isolation']
    """

    name: str
    summary: str
    source: str
    load: tuple[Mapping[str, Any], ...]
    put: tuple[Mapping[str, Any], ...]
    exit: tuple[Mapping[str, Any], ...] = ()
    entry: tuple[Mapping[str, Any], ...] = ()
    by_hardware: bool = False
    vendor: str = "intel"

    def __post_init__(self) -> None:
        try:
            for half, steps in (("load", self.load), ("put", self.put)):
                if not 0 < len(steps) <= 64:
                    raise Misstep(f"{half} must have 1 to 64 steps, not {len(steps)}", (half,))
                try:
                    operations(half, steps)
                except Misorder:
                    raise
                except Misstep:
                    if self._blocks(half) is None:
                        raise
            if self.vendor == "amd":
                self._check_amd()
            transition("exit", self.exit)
            transition("entry", self.entry)
        except Misstep as error:
            where, *index = error.where
            place = f", {where} step {int(index[0]) + 1}" if index else ""
            raise Misstep(f"sequence {self.name}{place}: {error}", error.where) from None

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash((self.name, self.source, len(self.load), len(self.put)))

    def _check_amd(self) -> None:
        """Without a VMCS there is nothing that VM exit and VM entry do, and only blocks know AMD's registers."""
        for half in ("load", "put"):
            if self._blocks(half) is None:
                raise Misstep(
                    f"the steps of a sequence for AMD are those of linux-7.0-amd, in any order: {half} has others",
                    (half,),
                )
        if self.exit or self.entry:
            raise Misstep("VMRUN and #VMEXIT of AMD CPUs have no MSR lists", ("exit" if self.exit else "entry",))

    def _blocks(self, half: str) -> tuple[tuple[int, int], ...] | None:
        """A half as block operations, if it can be that; found out once, for every machine asks."""
        made: dict[str, tuple[tuple[int, int], ...] | None] = self.__dict__.setdefault("_made", {})
        if half not in made:
            try:
                steps = self.load if half == "load" else self.put
                made[half] = tuple(_compile_step("", step) for step in steps)
            except ScenarioError:
                made[half] = None
        return made[half]

    @functools.cached_property
    def analysis(self) -> Analysis:
        """What is known of it without running it."""
        return analyse(self.load, self.put, ("gp",) if self.vendor == "amd" else ("gp", "fixed"))

    @functools.cached_property
    def _has_steps(self) -> bool:
        """Whether it can be done step by step: some operations of blocks cannot."""
        try:
            self.steps()
        except Misstep:
            return False
        return True

    def is_watched(self, status_traps: bool) -> bool:
        """Whether it must be done step by step, and watched: it is not plainly safe, or more than blocks can do.

        Parameters
        ----------
        status_traps : bool
            The guest's reads of GLOBAL_STATUS exit, so that it need not be in hardware.

        Returns
        -------
        bool
        """
        known = self.analysis
        if self.by_hardware or not self._has_steps or self.vendor == "amd":
            return False
        safe = known.clears and known.loads and (known.loads_status or status_traps)
        return not safe or self._blocks("load") is None or self._blocks("put") is None

    @property
    def keeps_counters(self) -> bool:
        """Whether each counter that a put takes out comes back: two switches in a row are then alike."""
        return self.by_hardware or (self.analysis.saves and self.analysis.restores)

    def steps(self) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
        """The load and the put as operations for the core, a loop's following its head."""
        return operations("load", self.load), operations("put", self.put)

    def programs(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """The load and the put as (operation, flags) pairs, for those that blocks can do."""
        load, put = self._blocks("load"), self._blocks("put")
        if load is None or put is None:
            raise ScenarioError(f"sequence {self.name} has steps that are not block operations")
        return load, put

    @property
    def stores_in_list(self) -> bool | None:
        """Whether VM exit saves GLOBAL_CTRL through the MSR list; None: as the CPU can."""
        if not self.exit:
            return None
        return any(step["op"] == "msr_list_store" for step in self.exit)

    @property
    def list_loads(self) -> tuple[int, int]:
        """MSR list entries that VM exit and VM entry load."""
        return transition("exit", self.exit), transition("entry", self.entry)

    @property
    def needs_status_set(self) -> bool:
        """Whether it writes IA32_PERF_GLOBAL_STATUS_SET, which PMUs have from version 4 on."""
        return self.vendor == "intel" and any(
            step.get("op") == "toggle" or step.get("register") == "global_status_set" for step in self.load
        )


def sequences() -> tuple[str, ...]:
    """Names of the switch sequences of the library, sorted."""
    return data_names("sequences")


@functools.cache
def sequence(name: str) -> Sequence:
    """Look up a switch sequence of the library by name; raises :class:`UnknownName`."""
    if name not in sequences():
        raise UnknownName("switch sequence", name, sequences())
    return _made(name, data_text("sequences", f"{name}.toml"), f"{name}.toml")


def _made(name: str, text: str, path: str) -> Sequence:
    table, line_of = parse_sequence(text, path)
    try:
        load, put, at_exit, entry = (tuple(table[half]) for half in ("load", "put", "exit", "entry"))
        return Sequence(name, table["summary"], table["source"], load, put, at_exit, entry, vendor=table["vendor"])
    except Misstep as error:
        message = str(error).removeprefix(f"sequence {name}")
        raise ScenarioError(f"{path}:{line_of(error.where)}: {message.lstrip(', :')}") from None


def read_sequence(path: str | os.PathLike[str]) -> Sequence:
    """Read a switch sequence from a TOML file; docs/sequences.md has the language.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Sequence
        Its name is the path, as given.

    Raises
    ------
    ScenarioError
        In one line, with the file, the line and the nearest valid name.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ScenarioError(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{name}: not UTF-8 at byte {error.start}") from None
    return _made(name, text, name)


def sequence_of(given: str | Sequence) -> Sequence:
    """The sequence that an option of a design means: an object, a name of the library, or a file's."""
    if isinstance(given, Sequence):
        return given
    if not isinstance(given, str):
        raise ScenarioError(f"sequence must be a name, a file or a Sequence, not {given!r}")
    if given.endswith(".toml") or os.sep in given:
        return read_sequence(given)
    return sequence(given)
