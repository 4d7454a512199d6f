"""Events by perf's names, raw codes and ``cpu/…/`` forms, and the counters that may count them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from ._cpu import Constraint, CpuModel
from ._errors import ScenarioError
from ._event_codes import PMU_EVENTS, code_mask, fixed_events, generic_amd_codes, named_codes, selector_codes
from ._event_syntax import Format, extra_terms, read, terms_of

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
#: Fields of PERF_METRICS in their order.
METRICS = PMU_EVENTS[10:18]
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
# AMD's large increments per cycle, 003H, need an even counter, with the merge event, FFFH, in the odd one after it
# (Linux amd_get_event_constraints_f17h).
_PAIRED = (Constraint(0x003, 0x003, None, 0x5555, 0), Constraint(0xFFF, 0xFFF, None, 0xAAAA, 0))


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
        """Event select and unit mask on Intel CPUs, 16 bits."""
        return CODES[self.name]

    @property
    def selector_code(self) -> int:
        """The same in an event selector, where perf's pseudo encoding of slots counts nothing."""
        return SLOTS_CODE if self.name == "slots" else self.code

    def code_on(self, cpu: CpuModel) -> int:
        """What an event selector of a CPU has for it; 0 if the CPU does not have the event.

        Raises
        ------
        ScenarioError
            If it was written as a code that is another vendor's.
        """
        codes = {name: code for code, name in selector_codes(cpu).items()}
        code = self.selector_code if cpu.vendor == "intel" else codes.get(self.name, 0)
        written = read(self.text)
        if not written.name and written.config not in (code, self.code if cpu.vendor == "intel" else code):
            known = ", ".join(f"r{value:04x} {name}" for name, value in codes.items() if name in CODES)
            raise ScenarioError(f"event {self.text!r}: no rate is known for it on {cpu.name}; known are {known}")
        return code


@dataclass(frozen=True)
class EventSpec:
    """One event of a CPU, down to the bits of its selector.

    Parameters
    ----------
    text : str
        As it was written.
    name : str or None
        Name of the event, whatever CMASK, INV and EDGE make of it; None if its code has none. ``Pmu.count`` takes the
        names of AMD's and Intel's own, such as ``ex_ret_ops``, by their codes (``rc1``) only.
    selector : int
        What PERFEVTSEL (PERF_CTL) gets, without EN and INT.
    fixed : int or None
        Fixed counter that alone can count it, where the code is a pseudo encoding.
    metric : int or None
        Field of PERF_METRICS, where the code is a pseudo encoding.
    exclude_guest, exclude_host : bool
        Not in guest mode; only in guest mode. On AMD the selector says so (HostOnly, GuestOnly); on Intel the
        hypervisor sees to it.
    """

    text: str
    name: str | None
    selector: int
    fixed: int | None = None
    metric: int | None = None
    exclude_guest: bool = False
    exclude_host: bool = False

    @property
    def user(self) -> bool:
        """Counted at CPL > 0."""
        return bool(self.selector >> 16 & 1)

    @property
    def kernel(self) -> bool:
        """Counted at CPL 0."""
        return bool(self.selector >> 17 & 1)


def parse_event(text: str) -> Event:
    """Parse an event of a simulation as perf writes it; :func:`event` knows more.

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
    written = read(text)
    name = written.name or _BY_CODE.get(written.config, "") or generic_amd_codes().get(written.config, "")
    if name not in CODES:
        if terms := extra_terms(written.config, written.format):
            raise ScenarioError(
                f"event {text!r}: term {terms[0]!r} is not simulated in a run: a workload says how often an event "
                "occurs, not how often in one cycle, in transactions or on the sibling; use event= and umask="
            )
        known = ", ".join(f"r{value:04x} {name}" for value, name in sorted(_BY_CODE.items()))
        raise ScenarioError(f"event {text!r}: no rate is known for it; known are {known}")
    if set(written.modifiers) & set("GH"):
        raise ScenarioError(
            f"event {text!r}: modifier {written.modifiers!r} is not simulated here; G and H are for host events"
        )
    return Event(text, name, written.user, written.kernel)


def event(text: str, cpu: CpuModel) -> EventSpec:
    """Parse an event as perf writes it on a CPU, in full: what would be in its selector.

    Parameters
    ----------
    text : str
        A name; ``rN`` with the bits of the selector in hexadecimal; or ``cpu/TERM,…/`` with the terms of Linux's
        ``format`` directory (Intel: event, umask, edge, pc, any, inv, cmask, in_tx, in_tx_cp, eq; AMD: event, umask,
        edge, inv, cmask). Modifiers u, k, G and H follow after ``:``, or after the second ``/``.
    cpu : CpuModel

    Returns
    -------
    EventSpec

    Raises
    ------
    UnknownName
        For a name that perf does not have.
    ScenarioError
        For an event that the CPU does not have, a bit that its selectors do not have, or a modifier that is not
        simulated.

    Examples
    --------
    >>> import vpmu
    >>> hex(vpmu.event("cpu/event=0xc0,cmask=2,inv/u", vpmu.cpu("skylake")).selector)
    '0x28100c0'
    """
    written = read(text, cpu)
    config = written.config
    if written.name:
        codes = perf_codes(cpu)
        if written.name not in codes:
            names = ", ".join(codes)
            raise ScenarioError(f"event {text!r}: {cpu.name} does not have {written.name}; it has {names}")
        config = codes[written.name]
    _check_legal(text, config, cpu, written.format)
    code = config & code_mask(cpu)
    fixed = metric = None
    if cpu.vendor == "intel" and not code & 0xFF:
        umask = code >> 8
        if umask in range(1, 17):
            fixed = umask - 1
            if not cpu.fixed_mask >> fixed & 1:
                raise ScenarioError(f"event {text!r}: {cpu.name} has no fixed counter {fixed}")
        elif umask in range(0x80, 0x80 + _metrics(cpu)):
            metric = umask - 0x80
    if fixed is not None or metric is not None:
        where = "PERF_METRICS" if fixed is None else f"fixed counter {fixed}"
        for term in extra_terms(config, written.format):
            if term != "any" or fixed is None:
                raise ScenarioError(f"event {text!r}: {where} has no {term!r}")
    exclude_guest, exclude_host = written.excludes
    selector = config | written.user << 16 | written.kernel << 17
    if cpu.vendor == "amd":
        selector |= exclude_host << 40 | exclude_guest << 41
        if (exclude_host or exclude_guest) and not legal_selector(cpu) >> 40 & 1:
            raise ScenarioError(f"event {text!r}: {cpu.name} cannot tell guest from host; leave G and H out")
    if metric is not None:
        name: str | None = METRICS[metric]
    elif fixed is not None:
        name = fixed_events[fixed] if fixed < len(fixed_events) else None
    else:
        own = {code: name for name, code in named_codes(cpu).items()}
        name = selector_codes(cpu).get(code) or own.get(code)
    return EventSpec(text, name, selector, fixed, metric, exclude_guest, exclude_host)


def perf_codes(cpu: CpuModel) -> dict[str, int]:
    """Events that a CPU has by name, with perf's code: in the order of ``PMU_EVENTS``, then those that are only a code.

    Fixed counters 2 and 3 have pseudo encodings 00/03 and 00/04, the fields of PERF_METRICS 00/80 to 00/87.
    """
    codes = {name: code for code, name in selector_codes(cpu).items()}
    if cpu.vendor == "intel":
        codes |= {name: 0x8000 + (i << 8) for i, name in enumerate(METRICS[: _metrics(cpu)])}
        for name, (fixed, only) in FIXED.items():
            if only and cpu.fixed_mask >> fixed & 1:
                codes[name] = CODES[name]
    return {name: codes[name] for name in PMU_EVENTS if name in codes} | dict(named_codes(cpu))


def gp_codes(cpu: CpuModel) -> dict[str, tuple[int, int]]:
    """Codes of general-purpose counters for events to which perf gives a pseudo encoding.

    Returns
    -------
    dict of str to (int, int)
        Code, and bitmap of the counters, by name.
    """
    perf = perf_codes(cpu)
    codes = {name: code for code, name in selector_codes(cpu).items() if perf[name] != code}
    return {name: (code, _counters(code, cpu, (cpu.gp_mask, 0))[0]) for name, code in codes.items()}


def _metrics(cpu: CpuModel) -> int:
    """Fields of PERF_METRICS."""
    return (8 if "topdown_l2" in cpu.features else 4) if cpu.perf_capabilities >> 15 & 1 else 0


def legal_selector(cpu: CpuModel) -> int:
    """Bits that the selector of at least one counter has."""
    from ._registers import selector_legal

    return functools.reduce(operator.or_, (selector_legal(cpu, x) for x in range(16) if cpu.gp_mask >> x & 1))


def _check_legal(text: str, config: int, cpu: CpuModel, format: Format) -> None:
    own = 0x530000 | (0x300_00000000 if cpu.vendor == "amd" else 0)  # USR, OS, INT, EN; GuestOnly, HostOnly
    if config & own:
        raise ScenarioError(
            f"event {text!r}: bits {config & own:#x} of the selector are not the event's; choose modes by modifiers, "
            "such as :u"
        )
    if illegal := config & ~legal_selector(cpu):
        terms = ", ".join(repr(term) for term in terms_of(illegal, format))
        raise ScenarioError(
            f"event {text!r}: selectors of {cpu.name} have no bits {illegal:#x}" + (f" ({terms})" if terms else "")
        )


def allowed_counters(name: str, cpu: CpuModel) -> tuple[int, int]:
    """Counters that perf may use for an event on a CPU (Linux ``intel_get_event_constraints``).

    Returns
    -------
    (int, int)
        Bitmaps of the GP and the fixed counters; both 0 for what the CPU does not have, or has in PERF_METRICS only.
    """
    fixed_mask = (1 << fixed_events.index(name) if name in fixed_events else 0) & cpu.fixed_mask
    _, only = FIXED.get(name, (0, False))
    if only and cpu.vendor == "intel":
        return 0, fixed_mask
    code = perf_codes(cpu).get(name, 0)
    if not code & 0xFF:
        return 0, 0
    if name not in FIXED or cpu.vendor == "amd":
        return _counters(code, cpu, (cpu.gp_mask, fixed_mask))
    return cpu.gp_mask, fixed_mask


def _counters(code: int, cpu: CpuModel, default: tuple[int, int]) -> tuple[int, int]:
    """Counters of the first constraint that a selector code matches."""
    for row in (*cpu.constraints, *(_PAIRED if cpu.vendor == "amd" else ())):
        if row.matches(code & 0xFF | code >> 24 & 0xF00, code >> 8 & 0xFF):
            return cpu.gp_mask & row.gp_mask, cpu.fixed_mask & row.fixed_mask
    return default


def place(events: Sequence[Event], cpu: CpuModel) -> tuple[int, ...] | None:
    """Give each event a counter as Linux does: most constrained first, fixed counters before GP counters.

    Parameters
    ----------
    events : sequence of Event
    cpu : CpuModel
        The PMU that the software sees.

    Returns
    -------
    tuple of int or None
        GP index, or 32 + m for fixed counter m; None if they do not all fit.

    Raises
    ------
    ScenarioError
        For an event that no counter can count.
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
            return None
    return tuple(counters)
