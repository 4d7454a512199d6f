"""Intel's perfmon event files: JSON, as github.com/intel/perfmon and Linux's tools/perf/pmu-events have it.

Every value is a string, in decimal or hexadecimal; "null", "NA" and a missing key mean none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._cpu import Constraint, CpuModel
from ._errors import EventFileError
from ._events import legal_selector

#: Bitmap of an event without a list of counters.
ANY_COUNTER = 0xFFFF

_NONE = ("", "null", "na", "n/a", "none")
_CORE_UNITS = ("", "core", "cpu", "cpu_core", "cpu_atom", "cpu_lowpower")
_FIXED_NAMES = {
    "INST_RETIRED.ANY": 0,
    "CPU_CLK_UNHALTED.THREAD": 1,
    "CPU_CLK_UNHALTED.CORE": 1,
    "CPU_CLK_UNHALTED.REF_TSC": 2,
    "CPU_CLK_UNHALTED.REF": 2,
    "TOPDOWN.SLOTS": 3,
}


@dataclass(frozen=True)
class FileEvent:
    """One event of an event file.

    Parameters
    ----------
    name, description : str
        ``EventName``, ``BriefDescription``.
    codes, umasks : tuple of int
        Event selects and unit masks; where there are several, the one at position i goes with ``msr_index[i]``.
    cmask : int
        ``CounterMask``.
    inv, edge, any_thread, equal : bool
        ``Invert``, ``EdgeDetect``, ``AnyThread``, ``Equal``.
    umask2 : int
        ``UMaskExt``, bits 47:40 of the selector.
    gp_counters, fixed_counters : int
        Bitmaps of the counters that can count it; all 16 GP counters if the file does not say.
    sample_after_value : int
        Period that Intel proposes for sampling; 0 for none.
    msr_index, msr_value : tuple of int
        Registers that the event needs besides its selector, each with its value. With several *one* of them is used.
    taken_alone : bool
        No other general-purpose counter may be in use.
    deprecated : bool
        The description names the successor.
    errata : str
        Comma-separated; empty for none.
    restriction : str
        ``ProgrammingRestriction``; empty for none.
    unit : str
        ``cpu_core`` or ``cpu_atom`` in files of hybrid CPUs, else empty.
    """

    name: str
    description: str
    codes: tuple[int, ...]
    umasks: tuple[int, ...]
    cmask: int = 0
    inv: bool = False
    edge: bool = False
    any_thread: bool = False
    equal: bool = False
    umask2: int = 0
    gp_counters: int = 0
    fixed_counters: int = 0
    sample_after_value: int = 0
    msr_index: tuple[int, ...] = ()
    msr_value: tuple[int, ...] = ()
    taken_alone: bool = False
    deprecated: bool = False
    errata: str = ""
    restriction: str = ""
    unit: str = ""

    @property
    def positions(self) -> int:
        """In how many ways it can be programmed: see ``codes``."""
        return max(len(self.codes), len(self.umasks))

    def selector(self, position: int = 0, *, user: bool = True, kernel: bool = True) -> int:
        """PERFEVTSEL of a general-purpose counter, without EN and INT.

        Parameters
        ----------
        position : int
            Which of the ``codes`` and ``umasks``.
        user, kernel : bool
            Bits USR and OS.

        Returns
        -------
        int
        """
        if not 0 <= position < self.positions:
            raise IndexError(f"{self.name} has {self.positions} selectors, not {position + 1}")
        code = self.codes[position if len(self.codes) > 1 else 0]
        umask = self.umasks[position if len(self.umasks) > 1 else 0]
        flags = user << 16 | kernel << 17 | self.edge << 18 | self.any_thread << 21 | self.inv << 23
        return code | umask << 8 | flags | self.cmask << 24 | self.equal << 36 | self.umask2 << 40


class _Wrong(Exception):
    """What is wrong with an entry."""


def read_events(path: str | os.PathLike[str], cpu: CpuModel | None = None) -> tuple[FileEvent, ...]:
    """Read an event file of Intel's perfmon.

    Parameters
    ----------
    path : str or path-like
        A core event file: ``{"Header": …, "Events": […]}``, or a bare list as Linux has it.
    cpu : CpuModel, optional
        Whose counters to keep; every selector must be one that this CPU takes. By default the file is taken as it is.

    Returns
    -------
    tuple of FileEvent
        In the order of the file. An event that is there twice, for a fixed and for general-purpose counters, is one
        with both; deprecated duplicates stay.

    Raises
    ------
    EventFileError
        With the file and the entry.
    """
    where = os.fspath(path)
    if not where:
        raise EventFileError(where, None, "the name of the file is empty")
    if cpu is not None and cpu.vendor != "intel":
        raise EventFileError(where, None, f"event files are Intel's, and {cpu.name} is a CPU of {cpu.vendor}")
    events: list[FileEvent] = []
    seen: dict[tuple[str, str, bool], list[int]] = {}
    for number, entry in enumerate(_entries(where), 1):
        name = entry.get("EventName") if isinstance(entry, dict) else None
        label = f"{number} ({_short(name)})" if name else f"{number}"
        try:
            if not isinstance(entry, dict):
                raise _Wrong(f"must be an object, not {_short(entry)}")
            if not name and "MetricName" in entry:
                continue
            event = _event(entry)
            if cpu is not None:
                event = _on(event, cpu)
        except _Wrong as wrong:
            raise EventFileError(where, label, str(wrong)) from None
        twins = seen.setdefault((event.unit, event.name, event.deprecated), [])
        for i in twins:
            if (merged := _merged(events[i], event)) is not None:
                events[i] = merged
                break
        else:
            twins.append(len(events))
            events.append(event)
    if not events:
        raise EventFileError(where, None, "there is no event in it")
    return tuple(events)


def with_event_file(cpu: CpuModel, path: str | os.PathLike[str]) -> CpuModel:
    """The CPU with the constraints of an event file, which go before its own.

    Parameters
    ----------
    cpu : CpuModel
    path : str or path-like
        A core event file of this CPU, as for :func:`read_events`.

    Returns
    -------
    CpuModel

    Raises
    ------
    EventFileError
        With the file and the entry.
    """
    rows = []
    for event in read_events(path, cpu):
        # A mask, an edge or a register beside the selector makes it another event, with counters of its own.
        if event.deprecated or event.positions > 1 or event.msr_index or not event.gp_counters:
            continue
        if event.selector(user=False, kernel=False) >> 16:
            continue
        rows.append(
            Constraint(event.codes[0], event.codes[0], event.umasks[0], event.gp_counters, event.fixed_counters)
        )
    return replace(cpu, constraints=(*dict.fromkeys(rows), *cpu.constraints))


def _entries(path: str) -> list[Any]:
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise EventFileError(path, None, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise EventFileError(path, None, f"this is no JSON: {error}") from None
    if isinstance(content, dict):
        content = content.get("Events")
    if not isinstance(content, list):
        raise EventFileError(path, None, 'this is no event file: it needs a list, or an object with the list "Events"')
    return content


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(entry: Mapping[str, Any], key: str) -> str:
    """A value as stripped text; "" for every way to write none."""
    value = entry.get(key)
    if isinstance(value, (dict, list, float)):
        raise _Wrong(f"{key} must be a string, not {_short(value)}")
    text = "" if value is None else str(int(value)) if isinstance(value, bool) else str(value).strip()
    return "" if text.lower() in _NONE else text


def _number(key: str, text: str, limit: int) -> int:
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text):
        raise _Wrong(f"{key} {_short(text)} is no number, such as 0x3C or 60")
    number = int(text, 16 if text[:2].lower() == "0x" else 10)
    if number > limit:
        raise _Wrong(f"{key} {_short(text)} is above {limit:#x}")
    return number


def _one(entry: Mapping[str, Any], key: str, limit: int) -> int:
    text = _text(entry, key)
    return _number(key, text, limit) if text else 0


def _several(entry: Mapping[str, Any], key: str, limit: int) -> tuple[int, ...]:
    pieces = (piece.strip() for piece in _text(entry, key).split(","))
    return tuple(_number(key, piece, limit) for piece in pieces if piece.lower() not in _NONE)


def _event(entry: Mapping[str, Any]) -> FileEvent:
    name = _text(entry, "EventName")
    if not name:
        raise _Wrong("has no EventName")
    unit = _text(entry, "Unit").lower()
    if unit not in _CORE_UNITS:
        raise _Wrong(f"is an event of the uncore unit {_short(unit)}; give a core event file")
    codes = _several(entry, "EventCode", 0xFF)
    umasks = _several(entry, "UMask", 0xFFFF) or (0,)  # Linux has UMaskExt in bits 15:8
    # Linux leaves out what is 0: the event select of a fixed counter's pseudo encoding.
    pseudo = not any(codes) and len(umasks) == 1 and 1 <= umasks[0] <= 16
    gp, fixed = _counters(entry, name, umasks[0] - 1 if pseudo else None)
    if not codes:
        if gp or not fixed:
            raise _Wrong("has no EventCode")
        codes = (0,)
    if len(umasks) > 1 and len(codes) > 1 and len(umasks) != len(codes):
        raise _Wrong(f"EventCode has {len(codes)} values and UMask {len(umasks)}")
    umask2 = _one(entry, "UMaskExt", 0xFF) or _one(entry, "UMask2", 0xFF)
    above = {umask >> 8 for umask in umasks}
    if above != {0}:
        above |= {umask2} - {0}
        if len(above) > 1:
            raise _Wrong("has more than one UMaskExt")
        umask2 = above.pop()
    msr_index = tuple(index for index in _several(entry, "MSRIndex", 0xFFFFFFFF) if index)
    msr_value = _several(entry, "MSRValue", (1 << 64) - 1) or (0,)
    if len(msr_value) == 1:
        msr_value *= len(msr_index)
    if msr_index and len(msr_value) != len(msr_index):
        raise _Wrong(f"MSRIndex has {len(msr_index)} values and MSRValue {len(msr_value)}")
    errata = _text(entry, "Errata")
    return FileEvent(
        name=name,
        description=_text(entry, "BriefDescription"),
        codes=codes,
        umasks=tuple(umask & 0xFF for umask in umasks),
        cmask=_one(entry, "CounterMask", 0xFF),
        inv=bool(_one(entry, "Invert", 1)),
        edge=bool(_one(entry, "EdgeDetect", 1)),
        any_thread=bool(_one(entry, "AnyThread", 1)),
        equal=bool(_one(entry, "Equal", 1)),
        umask2=umask2,
        gp_counters=gp,
        fixed_counters=fixed,
        sample_after_value=_one(entry, "SampleAfterValue", (1 << 64) - 1),
        msr_index=msr_index,
        msr_value=msr_value if msr_index else (),
        taken_alone=bool(_one(entry, "TakenAlone", 1)),
        deprecated=bool(_one(entry, "Deprecated", 1)),
        errata="" if errata == "0" else errata,
        restriction=_text(entry, "ProgrammingRestriction"),
        unit=unit if unit.startswith("cpu_") else "",
    )


def _counters(entry: Mapping[str, Any], name: str, pseudo: int | None) -> tuple[int, int]:
    """Bitmaps of the GP and the fixed counters; ``pseudo`` is the fixed counter of a pseudo encoding."""
    text = _text(entry, "Counter")
    if not text:
        return (ANY_COUNTER, 0) if pseudo is None else (0, 1 << pseudo)
    masks = [0, 0]
    all_fixed = _text(entry, "CounterType").lower() == "fixed"
    for kind, low, high in _ranges(text):
        is_fixed = all_fixed or kind != "" or low >= 32
        if low < 0:
            unnumbered = _FIXED_NAMES.get(name.upper(), -1) if pseudo is None else pseudo
            if unnumbered < 0:
                raise _Wrong(f"Counter {_short(text)} does not say which fixed counter")
            low = high = unnumbered
        elif low >= 32:
            low, high = low - 32, high - 32
        if not low <= high < 16:
            raise _Wrong(f"Counter {_short(text)}: there is no such counter")
        masks[is_fixed] |= (2 << high) - (1 << low)
    return masks[0], masks[1]


def _ranges(text: str) -> Iterator[tuple[str, int, int]]:
    """Pieces of a ``Counter`` as ("fixed" or "", first, last), -1 for a fixed counter without a number."""
    for piece in text.lower().split(","):
        match = re.fullmatch(r"\s*(fixed)?(?:\s*counter)?\s*(?:([0-9]{1,3})(?:\s*-\s*([0-9]{1,3}))?)?\s*", piece)
        if match is None or not (match[1] or match[2]):
            raise _Wrong(f"Counter {_short(text)} is no list of counters, such as 0,1,2,3 or Fixed counter 0")
        first = int(match[2]) if match[2] else -1
        yield match[1] or "", first, int(match[3]) if match[3] else first


def _merged(old: FileEvent, new: FileEvent) -> FileEvent | None:
    """One event of two of the same name, if one is for fixed counters only or both have the same selectors."""
    if new.gp_counters and old.gp_counters:
        same = replace(new, gp_counters=old.gp_counters, fixed_counters=old.fixed_counters, description=old.description)
        if same != old:
            return None
    base = old if old.gp_counters or not new.gp_counters else new
    return replace(
        base,
        gp_counters=old.gp_counters | new.gp_counters,
        fixed_counters=old.fixed_counters | new.fixed_counters,
    )


def _on(event: FileEvent, cpu: CpuModel) -> FileEvent:
    """The event with a CPU's counters."""
    for position in range(event.positions):
        if illegal := event.selector(position) & ~legal_selector(cpu):
            raise _Wrong(f"selectors of {cpu.name} have no bits {illegal:#x}; is the file another CPU's?")
    return replace(
        event,
        gp_counters=event.gp_counters & cpu.gp_mask,
        fixed_counters=event.fixed_counters & cpu.fixed_mask,
    )
