"""Kinds of VM-exit: which path each exit reason takes through the hypervisor, and on whose clock it comes."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

from ._costs import QUALITIES, Quality
from ._data import data_text
from ._errors import ScenarioError, UnknownName

Kind = Literal["fastpath", "kernel", "userspace"]
Clock = Literal["work", "wall"]

#: In the order of their index.
KINDS: tuple[Kind, ...] = ("fastpath", "kernel", "userspace")
CLOCKS: tuple[Clock, ...] = ("work", "wall")


@dataclass(frozen=True)
class ExitKind:
    """What an exit of one reason is.

    Parameters
    ----------
    reason : str
        perf's name of the exit reason, as it was printed.
    kind : {"fastpath", "kernel", "userspace"}
        How far out of KVM's run loop the exit goes.
    clock : {"work", "wall"}
        Whether it comes with the guest's work or with time.
    cpl : {0, 3}
        Privilege level of the guest when it exits.
    emulates : bool
        The hypervisor completes or skips one guest instruction.
    blocks : bool
        The vCPU sleeps: the recorded time is idle time.
    quality : {"published", "derived", "assumed"}
        How far to trust this row.
    source, note : str
        Where it comes from, and what is particular about it.
    """

    reason: str
    kind: Kind
    clock: Clock = "work"
    cpl: int = 0
    emulates: bool = False
    blocks: bool = False
    quality: Quality = "assumed"
    source: str = "given with the scenario"
    note: str = ""

    def __post_init__(self) -> None:
        check_exit(self.reason, self.kind, self.clock, self.cpl, self.emulates, self.blocks, self.quality)


def check_exit(reason: str, kind: str, clock: str, cpl: int, emulates: bool, blocks: bool, quality: str) -> None:
    """Raise ScenarioError unless the fields describe an exit."""
    if not isinstance(reason, str) or not reason or not reason.isprintable() or len(reason) > 100:
        raise ScenarioError(f"an exit reason must be a name such as 'CPUID', not {str(reason)[:40]!r}")
    if kind not in KINDS:
        raise ScenarioError(f"{reason}: kind {kind!r} must be one of {', '.join(KINDS)}")
    if clock not in CLOCKS:
        raise ScenarioError(f"{reason}: clock {clock!r} must be 'work' or 'wall'")
    if isinstance(cpl, bool) or cpl not in (0, 3):
        raise ScenarioError(f"{reason}: cpl {cpl!r} must be 0 (guest kernel) or 3 (guest user)")
    for name, value in (("emulates", emulates), ("blocks", blocks)):
        if not isinstance(value, bool):
            raise ScenarioError(f"{reason}: {name} {value!r} must be true or false")
    if quality not in QUALITIES:
        raise ScenarioError(f"{reason}: quality {quality!r} must be one of {', '.join(QUALITIES)}")


@dataclass(frozen=True)
class _Row:
    """One row of the table: an exit kind with the two rules that may change its path."""

    exit: ExitKind
    userspace_from_ns: int | None = None
    fastpath_msrs: frozenset[int] | None = None


@functools.cache
def _table() -> tuple[Mapping[str, _Row], Mapping[str, str], ExitKind]:
    text = data_text("exits.toml")
    data: dict[str, Any] = tomllib.loads(text)
    sources: dict[str, str] = data["sources"]

    def row(reason: str, table: Mapping[str, Any]) -> _Row:
        values = dict(table)
        values["source"] = sources[values["source"]]
        limit = values.pop("userspace_from_ns", None)
        msrs = values.pop("fastpath_msrs", None)
        return _Row(ExitKind(reason, **values), limit, None if msrs is None else frozenset(msrs))

    rows = {reason: row(reason, table) for reason, table in data["exits"].items()}
    return rows, data["aliases"], row("unknown", data["unknown"]).exit


def exit_reasons() -> tuple[str, ...]:
    """Names of the exit reasons that the table knows, sorted."""
    return tuple(sorted(_table()[0]))


def exit_kind(
    reason: str,
    mean_ns: int | Fraction | None = None,
    msr: int | None = None,
    userspace: bool | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> ExitKind:
    """Decide what an exit is.

    Parameters
    ----------
    reason : str
        perf's name of the exit reason. An unknown one is a kernel exit that emulates nothing, marked
        ``quality="assumed"``.
    mean_ns : int or Fraction, optional
        Mean handling time. For IO_INSTRUCTION and EPT_MISCONFIG, 4,000 ns or more mean userspace.
    msr : int, optional
        MSR number, where it is known: only TSC_DEADLINE and the x2APIC ICR are written in the fast path.
    userspace : bool, optional
        Whether the trace shows a return to userspace; decides before `mean_ns`.
    overrides : mapping of str to mapping, optional
        By reason, the fields of :class:`ExitKind` to replace. A `kind` given here is final.

    Returns
    -------
    ExitKind
    """
    rows, aliases, unknown = _table()
    found = rows.get(aliases.get(reason, reason))
    result = replace(unknown if found is None else found.exit, reason=reason)
    if userspace:
        result = replace(result, kind="userspace")
    elif found is not None:
        slow = found.userspace_from_ns
        if slow is not None and userspace is None and mean_ns is not None and mean_ns >= slow:
            result = replace(result, kind="userspace")
        if found.fastpath_msrs is not None and msr is not None:
            result = replace(result, kind="fastpath" if msr in found.fastpath_msrs else "kernel")
    if overrides is not None and reason in overrides:
        known = [field.name for field in fields(ExitKind) if field.name != "reason"]
        for name in overrides[reason]:
            if name not in known:
                raise UnknownName("field of an exit kind", name, known)
        given: dict[str, Any] = {"quality": "assumed", "source": "given with the scenario", "note": ""}
        result = replace(result, **given | dict(overrides[reason]))
    return result
