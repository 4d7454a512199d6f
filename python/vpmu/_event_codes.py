"""Which code in an event selector counts which event, per CPU model and for both vendors.

Intel SDM vol. 3B, "Pre-Defined Architectural Performance Events"; AMD PPRs as Linux's ``amd_*_perfmon_event_map``
repeat them.
"""

from __future__ import annotations

import re

from ._cpu import CpuModel
from ._errors import ScenarioError

#: Events that a PMU knows by name, in the order of the core's index; "" is no event.
PMU_EVENTS: tuple[str, ...] = (
    *("instructions", "cycles", "ref-cycles", "bus-cycles", "cache-references", "cache-misses"),
    *("branches", "branch-misses", "slots"),
    "",
    *("topdown-retiring", "topdown-bad-spec", "topdown-fe-bound", "topdown-be-bound"),
    *("topdown-heavy-ops", "topdown-br-mispredict", "topdown-fetch-lat", "topdown-mem-bound"),
    *("lbr-inserts", "stalled-cycles-frontend", "stalled-cycles-backend"),
)

#: Events of fixed counters 0 to 6.
fixed_events: tuple[str, ...] = (
    *("instructions", "cycles", "ref-cycles", "slots"),
    *("topdown-bad-spec", "topdown-fe-bound", "topdown-retiring"),
)

# Selector bits that say which event: Intel event select, unit mask, UMASK2; AMD event select (12 bits), unit mask.
_CODE_MASKS = {"intel": 0xFF00_0000FFFF, "amd": 0xF_0000FFFF}

_INTEL = {
    0x00C0: "instructions",
    0x003C: "cycles",
    0x013C: "bus-cycles",
    0x4F2E: "cache-references",
    0x412E: "cache-misses",
    0x00C4: "branches",
    0x00C5: "branch-misses",
}
# Bit of CpuModel.architectural_events: code and event.
_ARCHITECTURAL = {
    8: (0x02A4, "topdown-be-bound"),
    9: (0x0073, "topdown-bad-spec"),
    10: (0x019C, "topdown-fe-bound"),
    11: (0x02C2, "topdown-retiring"),
    12: (0x01E4, "lbr-inserts"),
}
_AMD = {
    0x00C0: "instructions",
    0x0076: "cycles",
    0x00C2: "branches",
    0x00C3: "branch-misses",
}
_BEFORE_ZEN = {
    0x077D: "cache-references",
    0x077E: "cache-misses",
    0x00D0: "stalled-cycles-frontend",
    0x00D1: "stalled-cycles-backend",
}
_ZEN = {0xFF60: "cache-references", 0x0964: "cache-misses"}
_ZEN1 = {0x0287: "stalled-cycles-frontend", 0x0187: "stalled-cycles-backend"}
_FROM_ZEN2 = {0x00A9: "stalled-cycles-frontend"}
_FROM_ZEN4 = {0x1_00000120: "ref-cycles"}


def code_mask(cpu: CpuModel) -> int:
    """Selector bits that say which event is counted.

    Returns
    -------
    int
        Intel: bits 47:40 and 15:0; AMD: bits 35:32 and 15:0.
    """
    return _CODE_MASKS[cpu.vendor]


def _zen(cpu: CpuModel) -> int:
    """Zen generation, 0 before Zen."""
    return max((n for n in range(1, 6) if f"zen{n}" in cpu.features), default=0)


def selector_codes(cpu: CpuModel) -> dict[int, str]:
    """Events that selectors of a CPU can count by name.

    Returns
    -------
    dict of int to str
        Event name by selector code, that is by the bits of :func:`code_mask`.
    """
    if cpu.vendor == "intel":
        codes = dict(_INTEL)
        if cpu.fixed_mask >> 3 & 1:
            codes[0x01A4] = "slots"
        for bit, (code, name) in _ARCHITECTURAL.items():
            if cpu.architectural_events >> bit & 1:
                codes[code] = name
        return codes
    zen = _zen(cpu)
    codes = _AMD | (_ZEN if zen else _BEFORE_ZEN)
    if zen == 1:
        codes |= _ZEN1
    if zen >= 2:
        codes |= _FROM_ZEN2
    if zen >= 4:
        codes |= _FROM_ZEN4
    return codes


def parse_raw(text: str, cpu: CpuModel) -> int | None:
    """Read an event by its code.

    Parameters
    ----------
    text : str
        ``rUUEE``: 1 to 16 hexadecimal digits, upper or lower case, of the selector's event bits.
    cpu : CpuModel

    Returns
    -------
    int or None
        The code; None if this is no raw name.

    Raises
    ------
    ScenarioError
        If bits are set that do not say which event.
    """
    match = re.fullmatch(r"r([0-9a-fA-F]{1,16})", text)
    if not match:
        return None
    code = int(match[1], 16)
    if other := code & ~code_mask(cpu):
        raise ScenarioError(
            f"event {text!r}: bits {other:#x} do not say which event; on {cpu.name} those of {code_mask(cpu):#x} do"
        )
    return code
