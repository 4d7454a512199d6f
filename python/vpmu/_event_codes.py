"""Which code in an event selector counts which event, per CPU model and for both vendors.

Intel SDM vol. 3B, "Pre-Defined Architectural Performance Events"; AMD PPRs as Linux's ``amd_*_perfmon_event_map``
repeat them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

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

# Names with a code and nothing else: Linux's tools/perf/pmu-events/arch/x86/amdzen1 to amdzen5. "merge" has no name
# there; it is MERGE in libpfm4, MergeEvent in the PPRs.
_ZEN_NAMES = {
    "ex_ret_brn_tkn": 0x00C4,
    "ex_ret_brn_far": 0x00C6,
    "ex_ret_near_ret": 0x00C8,
    "ex_ret_cond": 0x00D1,
    "ls_dispatch.ld_dispatch": 0x0129,
    "ls_dispatch.store_dispatch": 0x0229,
    "ls_dispatch.ld_st_dispatch": 0x0429,
}
_OPS = 0x00C1  # ex_ret_cops until Zen 2
_INTERRUPTS = 0x002C  # not in amdzen1
_MERGE = 0xF_000000FF
_FLOPS = {1: 0xFF03, 2: 0xFF03, 3: 0xFF03, 4: 0x1F03, 5: 0x0F03}
# The same directory, skylake to alderlake (cpu_core); 83H of Lion Cove is another sum.
_MEM_INST = {
    "mem_inst_retired.all_loads": 0x81D0,
    "mem_inst_retired.all_stores": 0x82D0,
    "mem_inst_retired.any": 0x83D0,
}
# Models (family 6) that have them, as Linux's mapfile.csv goes by them: Skylake and its successors; Ice Lake, Rocket
# Lake, Tiger Lake; Sapphire, Emerald and Granite Rapids, Alder and Raptor Lake.
_MEM_INST_MODELS = frozenset(
    {
        *(0x4E, 0x55, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6),
        *(0x6A, 0x6C, 0x7D, 0x7E, 0xA7, 0x8C, 0x8D),
        *(0x8F, 0xCF, 0xAD, 0xAE, 0x97, 0x9A, 0xB7, 0xBA, 0xBF),
    }
)

#: Names that some CPU has with a code and nothing else.
NAMED_CODES: tuple[str, ...] = (
    *("ex_ret_ops", "ex_ret_cops", *_ZEN_NAMES, "ls_int_taken", "fp_ret_sse_avx_ops.all", "merge"),
    *_MEM_INST,
)


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


@functools.lru_cache(maxsize=64)
def selector_codes(cpu: CpuModel) -> Mapping[int, str]:
    """Events that selectors of a CPU can count by name.

    Returns
    -------
    mapping of int to str
        Event name by selector code, that is by the bits of :func:`code_mask`. Read-only; one per model.
    """
    return MappingProxyType(_selector_codes(cpu))


def _selector_codes(cpu: CpuModel) -> dict[int, str]:
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


def generic_amd_codes() -> dict[int, str]:
    """Codes that some AMD CPU since Zen counts by one of perf's generic names."""
    return _AMD | _ZEN | _FROM_ZEN4


@functools.lru_cache(maxsize=64)
def named_codes(cpu: CpuModel) -> Mapping[str, int]:
    """Names of a CPU that are codes and nothing else: no workload has a rate, and ``Pmu.count`` takes the code.

    Returns
    -------
    mapping of str to int
        Selector code by name. Read-only; one per model.
    """
    return MappingProxyType(_named_codes(cpu))


def _named_codes(cpu: CpuModel) -> dict[str, int]:
    if cpu.vendor == "intel":
        family = cpu.signature >> 8 & 0xF
        model = cpu.signature >> 4 & 0xF | cpu.signature >> 12 & 0xF0
        e_core = cpu.cpuid(0x1A).eax >> 24 == 0x20
        return dict(_MEM_INST) if family == 6 and model in _MEM_INST_MODELS and not e_core else {}
    zen = _zen(cpu)
    if not zen:
        return {}
    names = {"ex_ret_ops" if zen >= 3 else "ex_ret_cops": _OPS} | _ZEN_NAMES
    if zen >= 2:
        names["ls_int_taken"] = _INTERRUPTS
    return names | {"fp_ret_sse_avx_ops.all": _FLOPS[zen], "merge": _MERGE}


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
