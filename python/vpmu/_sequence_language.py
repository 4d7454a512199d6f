"""The language of switch sequences (docs/sequences.md): which steps there are, and what they may say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ._errors import ScenarioError, UnknownName

#: A step as it is written: a table of TOML.
Step = Mapping[str, Any]

#: Registers that KVM shows no guest, by name: moving them costs RDMSR and WRMSR, and does nothing else.
STORAGE: dict[str, int] = {
    "offcore_rsp_0": 0x1A6,
    "offcore_rsp_1": 0x1A7,
    "perf_metrics": 0x329,
    "pebs_enable": 0x3F1,
    "pebs_data_cfg": 0x3F2,
    "pebs_ld_lat": 0x3F6,
    "pebs_frontend": 0x3F7,
}

# Operations, registers, values and conditions as the core numbers them (stepping.pxd).
PERF_LOAD, PERF_PUT, LVTPC, RDMSR, WRMSR, TOGGLE, RDPMC, LOOP_GP, LOOP_FIXED = range(9)
_REGISTERS = (
    "counter", "selector", "fixed_ctr_ctrl", "global_ctrl", "global_status", "global_ovf_ctrl", "global_status_set",
)  # fmt: skip
_STORED = len(_REGISTERS)
_VALUES = ("zero", "guest", "cached", "host", "status")
_ALWAYS, _NONZERO_READ, _NONZERO_COPY, _DIFFERS, _SELECTOR_READ, _SELECTOR_COPY = range(6)
_SAVE = {None: 0, False: 0, True: 1, "guest": 1, "host": 2}

_OUTER = ("perf_load_guest_context", "perf_put_guest_context", "lvtpc", "rdmsr", "wrmsr", "toggle")
_INNER = ("rdpmc", "rdmsr", "wrmsr")
_KEYS: dict[str, tuple[str, ...]] = {
    "perf_load_guest_context": ("op",),
    "perf_put_guest_context": ("op",),
    "lvtpc": ("op", "value"),
    "rdmsr": ("op", "register", "save"),
    "wrmsr": ("op", "register", "value", "if"),
    "toggle": ("op", "register"),
    "rdpmc": ("op", "save"),
}
#: What may be read, written with what, on what condition; in and outside of loops.
_READ = {"fixed_ctr_ctrl": ("host",), "global_ctrl": ("host",), "global_status": ("guest", "host")}
_READ_IN_LOOP = {"counter": ("guest", "host"), "selector": ("host",)}
_WRITTEN: dict[str, tuple[str, ...]] = {
    "fixed_ctr_ctrl": ("zero", "guest", "cached", "host"),
    "global_ctrl": ("zero", "guest", "host"),
    "global_ovf_ctrl": ("status",),
    "global_status_set": ("guest", "host"),
}
_WRITTEN_IN_LOOP: dict[str, tuple[str, ...]] = {
    "counter": ("zero", "guest", "cached", "host"),
    "selector": ("zero", "guest", "cached", "host"),
}
_CONDITIONS = ("nonzero", "differs")
_COUNTER_CONDITIONS = (*_CONDITIONS, "selector-nonzero")

# GLOBAL_CTRL at VM exit and entry: by a field of the VMCS, or an entry of an MSR list.
_EXIT = ("vmcs_exit_save", "msr_list_store", "vmcs_exit_load", "msr_list_load")
_ENTRY = ("vmcs_entry_load", "msr_list_load")
_LISTS = ("msr_list_store", "msr_list_load")


class Operation(NamedTuple):
    """A step, or the head of a loop that is followed by ``inner`` operations, as integers for the core."""

    op: int
    register: int = 0
    value: int = 0
    condition: int = 0
    save: int = 0
    inner: int = 0


class Misstep(ScenarioError):
    """A step that says nothing; ``where`` is its place: half, index from 0, and of an operation in a loop its own.

    Parameters
    ----------
    message : str
    where : tuple of str or int
        Keys and indices, as one would reach it in the file.
    """

    def __init__(self, message: str, where: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.where = where

    def __reduce__(self) -> tuple[type[Misstep], tuple[str, tuple[str | int, ...]]]:
        return type(self), (str(self), self.where)


class Misorder(Misstep):
    """A step of the language's own that lacks what it needs, such as another one before it."""


def _one_of(what: str, value: object, known: Sequence[str], where: tuple[str | int, ...]) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise Misstep(str(UnknownName(what, value if isinstance(value, str) else repr(value), known)), where)


class _Half:
    """Checks the steps of one half in their order and makes operations of them."""

    def __init__(self, half: str) -> None:
        self._half = half
        self._read: set[str] = set()
        self.operations: list[Operation] = []

    def add(self, i: int, step: Step) -> None:
        where: tuple[str | int, ...] = (self._half, i)
        _check_table(step, where)
        if "for" not in step:
            self.operations.append(self._operation(step, where, None))
            return
        for key in step:
            _one_of("key of a loop", key, ("for", "do"), (*where, key))
        bank = _one_of("kind of counters", step["for"], ("gp", "fixed"), (*where, "for"))
        body = step.get("do")
        if not isinstance(body, (list, tuple)) or not 0 < len(body) <= 16:
            raise Misorder(f"a loop over {bank} counters does 1 to 16 operations, do = [...], not {body!r}", where)
        self.operations.append(Operation(LOOP_FIXED if bank == "fixed" else LOOP_GP, inner=len(body)))
        self._read -= {"counter", "selector"}
        for j, inner in enumerate(body):
            place = (*where, "do", j)
            _check_table(inner, place)
            self.operations.append(self._operation(inner, place, bank))
        self._read -= {"counter", "selector"}

    def _operation(self, step: Step, where: tuple[str | int, ...], bank: str | None) -> Operation:
        known = _OUTER if bank is None else _INNER
        what = "operation" if bank is None else f"operation of a loop over {bank} counters"
        if "op" not in step:
            raise Misstep(f"{dict(step)} has no op; operations: {', '.join(known)}", where)
        op = _one_of(what, step["op"], known, (*where, "op"))
        for key in step:
            _one_of(f"key of {op}", key, _KEYS[op], (*where, key))
        if op == "perf_load_guest_context":
            return Operation(PERF_LOAD)
        if op == "perf_put_guest_context":
            return Operation(PERF_PUT)
        if op == "lvtpc":
            return Operation(
                LVTPC, value=_VALUES.index(_given(step, "value", "value of lvtpc", ("guest", "host"), where))
            )
        if op == "toggle":
            _given(step, "register", "register to toggle", ("global_status",), where)
            self._must_be_read("global_status", "toggle", where)
            return Operation(TOGGLE)
        if op == "rdpmc":
            self._read.add("counter")
            return Operation(RDPMC, save=_save(step, "counter", ("guest", "host"), where))
        return self._read_msr(step, where, bank) if op == "rdmsr" else self._write_msr(step, where, bank)

    def _read_msr(self, step: Step, where: tuple[str | int, ...], bank: str | None) -> Operation:
        readable = dict(_READ) if bank is None else dict(_READ_IN_LOOP)
        if bank == "fixed":
            del readable["selector"]
        if bank is None:
            readable |= dict.fromkeys(STORAGE, ("guest", "host"))
        register = _given(step, "register", "register to read", tuple(readable), where)
        self._read.add(register)
        return Operation(RDMSR, _number(register), save=_save(step, register, readable[register], where))

    def _write_msr(self, step: Step, where: tuple[str | int, ...], bank: str | None) -> Operation:
        writable = dict(_WRITTEN) if bank is None else dict(_WRITTEN_IN_LOOP)
        if bank == "fixed":
            del writable["selector"]
        if bank is None:
            writable |= dict.fromkeys(STORAGE, ("zero", "guest", "host"))
        register = _given(step, "register", "register to write", tuple(writable), where)
        value = _given(step, "value", f"value of {register}", writable[register], where)
        if value == "status":
            self._must_be_read("global_status", "what was read", where)
        condition = _ALWAYS
        if "if" in step:
            conditions = _COUNTER_CONDITIONS if register == "counter" else _CONDITIONS
            condition = self._condition(_given(step, "if", "condition", conditions, where), register, where)
        return Operation(WRMSR, _number(register), _VALUES.index(value), condition)

    def _condition(self, name: str, register: str, where: tuple[str | int, ...]) -> int:
        if name == "selector-nonzero":
            return _SELECTOR_READ if "selector" in self._read else _SELECTOR_COPY
        read = {"global_ovf_ctrl": "global_status", "global_status_set": "global_status"}.get(register, register)
        if name == "differs":
            self._must_be_read(read, "differs", where)
            return _DIFFERS
        if read in self._read and register != "global_status_set":
            return _NONZERO_READ
        if read in ("counter", "global_ctrl"):
            self._must_be_read(read, "nonzero", where)
        return _NONZERO_COPY

    def _must_be_read(self, register: str, why: str, where: tuple[str | int, ...]) -> None:
        if register not in self._read:
            how = "rdpmc or rdmsr" if register == "counter" else "rdmsr"
            raise Misorder(f"{why!r} takes a value that no {how} of {register} read before it", where)


def _check_table(step: object, where: tuple[str | int, ...]) -> None:
    if not isinstance(step, Mapping):
        raise Misstep(
            f"a step is a table, such as {{ op = 'toggle', register = 'global_status' }}, not {step!r}", where
        )


def _number(register: str) -> int:
    return _STORED if register in STORAGE else _REGISTERS.index(register)


def _given(step: Step, key: str, what: str, known: Sequence[str], where: tuple[str | int, ...]) -> str:
    if key not in step:
        raise Misstep(f"{step['op']} needs {key} = one of {', '.join(known)}", where)
    return _one_of(what, step[key], known, (*where, key))


def _save(step: Step, register: str, into: Sequence[str], where: tuple[str | int, ...]) -> int:
    given = step.get("save")
    if not isinstance(given, (str, bool, type(None))) or given not in _SAVE:
        _one_of("place to save to", given, into, (*where, "save"))
    name = "guest" if given is True else given
    if name and name not in into:
        raise Misstep(
            f"{register} can be saved for the host alone: KVM's own copy of it is exact, since the guest's writes exit",
            (*where, "save"),
        )
    return _SAVE[given]


def operations(half: str, steps: Sequence[Step]) -> tuple[Operation, ...]:
    """Check the steps of a load or a put.

    Parameters
    ----------
    half : {"load", "put"}
    steps : sequence of mapping

    Returns
    -------
    tuple of Operation

    Raises
    ------
    Misstep
        For a step that is none, with its place.
    """
    checked = _Half(half)
    for i, step in enumerate(steps):
        checked.add(i, step)
    return tuple(checked.operations)


def transition(half: str, steps: Sequence[Step]) -> int:
    """Check what moves GLOBAL_CTRL at VM exit or entry.

    Parameters
    ----------
    half : {"exit", "entry"}
    steps : sequence of mapping
        Empty: what KVM chooses on this CPU.

    Returns
    -------
    int
        MSR list entries that are loaded, but for that which stores.

    Raises
    ------
    Misstep
    """
    loads = stores = lists = 0
    for i, step in enumerate(steps):
        where = (half, i)
        _check_table(step, where)
        op = _one_of(f"operation of {half}", step.get("op"), _EXIT if half == "exit" else _ENTRY, (*where, "op"))
        stored = op in ("vmcs_exit_save", "msr_list_store")
        for key in step:
            _one_of(f"key of {op}", key, ("op", "register") if stored else ("op", "register", "value"), (*where, key))
        _given(step, "register", f"register of {half}", ("global_ctrl",), where)
        if not stored:
            _given(step, "value", f"value of {half}", ("zero",) if half == "exit" else ("guest",), where)
        stores += stored
        loads += not stored
        lists += op == "msr_list_load"
    if steps and (loads, stores) != (1, 1 if half == "exit" else 0):
        raise Misstep(
            "exit has one of vmcs_exit_save and msr_list_store, and one of vmcs_exit_load and msr_list_load"
            if half == "exit"
            else "entry has one of vmcs_entry_load and msr_list_load",
            (half, 0),
        )
    return lists
