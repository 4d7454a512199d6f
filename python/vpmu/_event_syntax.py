"""perf's grammar of one event: ``name:u``, ``rN:u`` and ``cpu/term=value,term/u``.

Terms and their bits are those of Linux's ``/sys/bus/event_source/devices/cpu/format``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ._cpu import CpuModel
from ._errors import ScenarioError, UnknownName
from ._event_codes import NAMED_CODES, PMU_EVENTS

#: Bits of ``config`` by term: (lowest, highest) of each piece, low bits of the value first.
Format = Mapping[str, tuple[tuple[int, int], ...]]

_INTEL: Format = {
    "event": ((0, 7),),
    "umask": ((8, 15),),
    "edge": ((18, 18),),
    "pc": ((19, 19),),
    "any": ((21, 21),),
    "inv": ((23, 23),),
    "cmask": ((24, 31),),
    "in_tx": ((32, 32),),
    "in_tx_cp": ((33, 33),),
    "eq": ((36, 36),),
}
_INTEL_UMASK2: Format = {**_INTEL, "umask": ((8, 15), (40, 47))}
_AMD: Format = {
    "event": ((0, 7), (32, 35)),
    "umask": ((8, 15),),
    "edge": ((18, 18),),
    "inv": ((23, 23),),
    "cmask": ((24, 31),),
}

_ALIASES = {
    "cpu-cycles": "cycles",
    "branch-instructions": "branches",
    "idle-cycles-frontend": "stalled-cycles-frontend",
    "idle-cycles-backend": "stalled-cycles-backend",
}
#: Names that :func:`read` takes.
NAMES = (*filter(None, PMU_EVENTS), *_ALIASES, *NAMED_CODES)

# What perf's other modifiers ask for.
_REFUSED = {
    "h": "h is a privilege level that x86 does not have",
    "p": "p asks for PEBS or IBS records",
    "P": "P asks for PEBS or IBS records",
    "I": "I is about idle tasks",
    "D": "D pins; write :pinned for host events",
    "S": "S reads groups",
    "e": "e is about groups",
    "W": "W is about groups",
    "b": "b is about BPF",
    ":": "they follow each other without a colon, as in :kG",
}


@dataclass(frozen=True)
class Written:
    """An event as it was written.

    Parameters
    ----------
    name : str
        Without aliases; empty if a code was written.
    config : int
        perf's ``config``; 0 if a name was written.
    modifiers : str
        A subset of ``ukGH``.
    format : Format
        The terms that were known.
    """

    name: str
    config: int
    modifiers: str
    format: Format

    @property
    def user(self) -> bool:
        """Counted at CPL > 0: u, or neither u nor k."""
        return "u" in self.modifiers or "k" not in self.modifiers

    @property
    def kernel(self) -> bool:
        """Counted at CPL 0: k, or neither u nor k."""
        return "k" in self.modifiers or "u" not in self.modifiers

    @property
    def excludes(self) -> tuple[bool, bool]:
        """Exclude_guest (H and not G) and exclude_host (G and not H)."""
        guest, host = "G" in self.modifiers, "H" in self.modifiers
        return host and not guest, guest and not host


def split_modifiers(text: str) -> tuple[str, str, str]:
    """Split an event into what it is, ``:`` if modifiers follow one, and the modifiers.

    Returns
    -------
    (str, str, str)
        Together they are the text.
    """
    if slashed := re.fullmatch(r"(cpu/[^/]*/)(:?)(.*)", text, re.DOTALL):
        return slashed[1], slashed[2], slashed[3]
    return text.partition(":")


def without_host_modifiers(text: str) -> tuple[str, bool, bool]:
    """Take G and H out of an event.

    Parameters
    ----------
    text : str
        An event; what is wrong with it stays.

    Returns
    -------
    (str, bool, bool)
        The event without them, exclude_guest and exclude_host.
    """
    head, colon, modifiers = split_modifiers(text)
    if not set(modifiers) & set("GH"):
        return text, False, False
    rest = modifiers.replace("G", "").replace("H", "")
    return head + (colon if rest else "") + rest, *Written("", 0, modifiers, {}).excludes


def read(text: str, cpu: CpuModel | None = None) -> Written:
    """Read an event; whether it exists is not looked at.

    Parameters
    ----------
    text : str
    cpu : CpuModel, optional
        Whose terms; those of Intel before UMASK2 by default.

    Returns
    -------
    Written

    Raises
    ------
    UnknownName
        For a name that perf does not have.
    ScenarioError
        For a term, value or modifier that is not simulated.
    """
    format = _INTEL
    if cpu is not None:
        format = _AMD if cpu.vendor == "amd" else _INTEL_UMASK2 if "umask2" in cpu.features else _INTEL
    head, colon, modifiers = split_modifiers(text)
    name, config = "", 0
    if head.startswith("cpu/") and head.endswith("/") and len(head) > 4:
        config = _terms(text, head[4:-1], format)
    elif raw := re.fullmatch(r"r([0-9a-fA-F]{1,16})", head):
        config = int(raw[1], 16)
    else:
        name = _ALIASES.get(head, head)
        if name.lower() in NAMED_CODES:  # event files have them in capitals
            name = name.lower()
        elif not name or name not in PMU_EVENTS:
            raise UnknownName("event", name, NAMES)
    if set(modifiers) - set("ukGH") or (colon and not modifiers):
        why = next((f" ({_REFUSED[m]})" for m in modifiers if m in _REFUSED), "")
        raise ScenarioError(
            f"event {text!r}: modifier {modifiers!r} is not simulated{why}; use u, k or neither, and G or H for host "
            "events"
        )
    return Written(name, config, modifiers, format)


def _terms(text: str, terms: str, format: Format) -> int:
    config = 0
    seen: set[str] = set()
    for term in filter(None, terms.split(",")):
        key, equals, value = term.partition("=")
        if key in seen:
            raise ScenarioError(f"event {text!r}: term {key!r} is given twice")
        seen.add(key)
        if key not in format:
            raise ScenarioError(f"event {text!r}: term {key!r} is not simulated; there are {', '.join(format)}")
        width = sum(high - low + 1 for low, high in format[key])
        if width == 1 and not equals:
            value = "1"
        if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", value):
            raise ScenarioError(
                f"event {text!r}: {term!r} needs a number, such as {key}={'1' if width == 1 else '0xc0'}"
            )
        number = int(value, 16 if "x" in value.lower() else 10)
        if not 0 <= number < 1 << width:
            raise ScenarioError(f"event {text!r}: {key} {number:#x} must fit {width} bit{'s' * (width > 1)}")
        for low, high in format[key]:
            config |= (number & (1 << high - low + 1) - 1) << low
            number >>= high - low + 1
    return config


def terms_of(bits: int, format: Format) -> list[str]:
    """Terms that have a part in some bits of ``config``."""
    return [
        term for term, pieces in format.items() if any(bits >> low & (1 << high - low + 1) - 1 for low, high in pieces)
    ]


def extra_terms(config: int, format: Format) -> list[str]:
    """Terms of a ``config`` that say how to count, not what."""
    return [term for term in terms_of(config, format) if term not in ("event", "umask")]
