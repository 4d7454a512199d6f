"""Events by perf's names, raw codes and ``cpu/…/`` forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._cpu import CpuModel
from ._errors import ScenarioError, UnknownName

#: perf's generic names in the order of the core's index, and their selector codes (event | umask << 8); 03H/00 and
#: 04H/00 are perf's pseudo encodings of fixed counters 2 and 3.
CODES: dict[str, int] = {
    "instructions": 0x00C0,
    "cycles": 0x003C,
    "ref-cycles": 0x0300,
    "bus-cycles": 0x013C,
    "cache-references": 0x4F2E,
    "cache-misses": 0x412E,
    "branches": 0x00C4,
    "branch-misses": 0x00C5,
    "slots": 0x0400,
}
#: Events in the order of their index.
EVENTS = tuple(CODES)
_ALIASES = {"cpu-cycles": "cycles", "branch-instructions": "branches"}
#: TOPDOWN.SLOTS_P on a GP counter.
SLOTS_CODE = 0x01A4
_BY_CODE = {code: name for name, code in CODES.items()} | {SLOTS_CODE: "slots"}
#: Fixed counter of an event, and whether it is the only place (perf's pseudo encodings).
FIXED: dict[str, tuple[int, bool]] = {
    "instructions": (0, False),
    "cycles": (1, False),
    "ref-cycles": (2, True),
    "slots": (3, True),
}


@dataclass(frozen=True)
class Event:
    """One event with its privilege filter.

    Parameters
    ----------
    text : str
        As it was written.
    name : str
        perf's generic name, one of :data:`CODES`.
    user, kernel : bool
        Counted at CPL > 0, at CPL 0.
    """

    text: str
    name: str
    user: bool = True
    kernel: bool = True

    @property
    def index(self) -> int:
        """Index in the plan's event list."""
        return EVENTS.index(self.name)

    @property
    def code(self) -> int:
        """Event select and unit mask, 16 bits."""
        return CODES[self.name]

    @property
    def selector_code(self) -> int:
        """The same in an event selector, where perf's pseudo encoding of slots counts nothing."""
        return SLOTS_CODE if self.name == "slots" else self.code


def parse_event(text: str) -> Event:
    """Parse an event as perf writes it.

    Parameters
    ----------
    text : str
        ``name``, ``rUUEE`` or ``cpu/event=…,umask=…/``, with modifiers ``:u`` and ``:k`` (``/…/u``).

    Returns
    -------
    Event

    Raises
    ------
    UnknownName
        For a name that perf does not have.
    ScenarioError
        For a code without a known rate, or a modifier that is not simulated.
    """
    pattern = re.fullmatch(r"cpu/([^/]*)/([a-zA-Z]*)", text)
    if pattern:
        name, modifiers = _from_terms(text, pattern[1]), pattern[2]
    else:
        name, _, modifiers = text.partition(":")
        name = _ALIASES.get(name, name)
        raw = re.fullmatch(r"r([0-9a-fA-F]{1,16})", name)
        if raw:
            name = _from_code(text, int(raw[1], 16))
        elif name not in CODES:
            raise UnknownName("event", name, [*CODES, *_ALIASES])
    if set(modifiers) - set("uk") or (":" in text and not modifiers):
        raise ScenarioError(f"event {text!r}: modifier {modifiers!r} is not simulated; use u, k or neither")
    return Event(text, name, not modifiers or "u" in modifiers, not modifiers or "k" in modifiers)


def _from_code(text: str, code: int) -> str:
    if code not in _BY_CODE:
        known = ", ".join(f"r{value:04x} {name}" for value, name in sorted(_BY_CODE.items()))
        raise ScenarioError(f"event {text!r}: no rate is known for it; known are {known}")
    return _BY_CODE[code]


def _from_terms(text: str, terms: str) -> str:
    code = 0
    seen: set[str] = set()
    for term in filter(None, terms.split(",")):
        key, _, value = term.partition("=")
        if key in seen:
            raise ScenarioError(f"event {text!r}: term {key!r} is given twice")
        seen.add(key)
        if key not in ("event", "umask"):
            raise ScenarioError(f"event {text!r}: term {key!r} is not simulated; use event= and umask=")
        try:
            number = int(value, 0)
        except ValueError:
            raise ScenarioError(f"event {text!r}: {term!r} needs a number, such as {key}=0xc0") from None
        if not 0 <= number <= 255:
            raise ScenarioError(f"event {text!r}: {key} {number:#x} must fit 8 bits")
        code |= number << (8 if key == "umask" else 0)
    return _from_code(text, code)


def allowed_counters(name: str, cpu: CpuModel) -> tuple[int, int]:
    """Counters that perf may use for an event on a CPU (Linux ``intel_get_event_constraints``).

    Returns
    -------
    (int, int)
        Bitmaps of the GP and the fixed counters.
    """
    fixed, only = FIXED.get(name, (None, False))
    fixed_mask = (1 << fixed if fixed is not None else 0) & cpu.fixed_mask
    if only:
        return 0, fixed_mask
    gp_mask = cpu.gp_mask
    if fixed is None:
        code = CODES[name]
        for row in cpu.constraints:
            if row.matches(code & 0xFF, code >> 8):
                return cpu.gp_mask & row.gp_mask, cpu.fixed_mask & row.fixed_mask
    return gp_mask, fixed_mask


def place(events: Sequence[Event], cpu: CpuModel) -> tuple[int, ...]:
    """Give each event a counter as Linux does: most constrained first, fixed counters before GP counters.

    Parameters
    ----------
    events : sequence of Event
    cpu : CpuModel
        The PMU that the software sees.

    Returns
    -------
    tuple of int
        GP index, or 32 + m for fixed counter m.

    Raises
    ------
    ScenarioError
        If they do not all fit.
    """
    allowed = [allowed_counters(event.name, cpu) for event in events]
    for event, masks in zip(events, allowed, strict=True):
        if masks == (0, 0):
            raise ScenarioError(
                f"event {event.text!r}: none of {cpu.gp_counters} GP and {cpu.fixed_counters} fixed counters can count "
                "it; leave it out or give the guest more counters (guest_pmu)"
            )
    counters = [0] * len(events)
    free_gp, free_fixed = cpu.gp_mask, cpu.fixed_mask
    for i in sorted(range(len(events)), key=lambda i: allowed[i][0].bit_count() + allowed[i][1].bit_count()):
        gp, fixed = allowed[i][0] & free_gp, allowed[i][1] & free_fixed
        if fixed:
            lowest = fixed & -fixed
            free_fixed ^= lowest
            counters[i] = 31 + lowest.bit_length()
        elif gp:
            lowest = gp & -gp
            free_gp ^= lowest
            counters[i] = lowest.bit_length() - 1
        else:
            raise ScenarioError(
                f"{len(events)} events do not fit {cpu.gp_counters} GP and {cpu.fixed_counters} fixed counters: none "
                f"is left for {events[i].text!r}; multiplexing is not simulated yet, so count fewer events"
            )
    return tuple(counters)
