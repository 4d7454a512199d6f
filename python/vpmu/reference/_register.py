"""One MSR: which bits it can hold, which of them fault when written, how it reacts; and the names of the bits."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .._cpu import CpuModel
from .._errors import ScenarioError

# IA32_PERF_CAPABILITIES
SMM_FREEZE, FW_WRITE, PEBS_BASELINE, METRICS_AVAILABLE, PEBS_OUTPUT_PT, METRICS_CLEAR = 12, 13, 14, 15, 16, 19
ARCH_PEBS = 15  # the PEBS record format, bits 11:8, of architectural PEBS
# IA32_PERFEVTSELx and PERF_CTLn
USR, OS, EDGE, PIN, INT, ANY, EN, INV, CMASK = 16, 17, 18, 19, 20, 21, 22, 23, 24
IN_TX, IN_TXCP, ADAPTIVE, BR_CNTR, EQ, USER_DISABLE = 32, 33, 34, 35, 36, 37
GUEST_ONLY, HOST_ONLY = 40, 41
# IA32_FIXED_CTR_CTRL: the field of a counter, and the bit that fixed counter 3's AnyThread bit gave way to
FIXED_OS, FIXED_USR, FIXED_ANY, FIXED_PMI = 0, 1, 2, 3
METRICS_CLEAR_EN = 14
# IA32_DEBUGCTL
LBR, BTF, TR, BTS, FREEZE_LBRS, FREEZE_PERFMON, UNCORE_PMI, FREEZE_SMM = 0, 1, 6, 7, 11, 12, 13, 14
# IA32_PERF_GLOBAL_STATUS, above the counters; the first is in IA32_PERF_GLOBAL_CTRL too
OVF_METRICS, PEBS_THRESHOLD, TOPA_PMI = 48, 54, 55
LBR_FRZ, CTR_FRZ, ASCI, OVF_UNCORE, OVF_BUFFER, COND_CHGD = 58, 59, 60, 61, 62, 63
# MSR_TSX_FORCE_ABORT; HWCR
RTM_FORCE_ABORT = 0
IRPERF_EN = 30
# Local vector table entry for performance counters (SDM vol. 3A 10.5.1)
LVTPC_STATUS, LVTPC_MASKED = 12, 16
LVTPC_MODES = {0: "fixed", 2: "smi", 4: "nmi"}


class Kind(enum.Enum):
    """How a register reacts to RDMSR and WRMSR."""

    STORAGE = "what is written is read back"
    PMC = "a write stores the sign-extended low half"
    READ_ONLY = "every write faults"
    INERT = "a write changes nothing"
    INUSE = "computed from the controls; every write faults"
    STATUS_RESET = "ones clear bits of the global status"
    STATUS_SET = "ones set bits of the global status"
    GLOBAL_CTRL = "storage; a write of 0 ends the hazard of the first enable"
    METRICS = "storage; a write also sets what the fields are computed from"
    DS_AREA = "storage of a canonical address"
    LVTPC = "storage with a legal delivery mode"


UNWRITABLE = frozenset({Kind.READ_ONLY, Kind.INUSE})


@dataclass(frozen=True)
class Register:
    """One MSR of one CPU model.

    Parameters
    ----------
    address : int
    name : str
        Name in the manual.
    kind : Kind
    field : str
        Attribute of :class:`~.registers.RegisterFile` that holds the value; empty if none does.
    index : int or None
        Place in that attribute if it is a list.
    legal : int
        Bits that can be held, and that may be 1 in a write.
    ignored : int
        Bits that may be 1 in a write and are dropped.
    constant : int or None
        What a read returns, whatever is held.
    """

    address: int
    name: str
    kind: Kind = Kind.STORAGE
    field: str = ""
    index: int | None = None
    legal: int = 0
    ignored: int = 0
    constant: int | None = None

    def refusal(self, value: int) -> str | None:
        """Say why a write of `value` raises #GP(0), or return None if it does not."""
        if self.kind in UNWRITABLE:
            return f"{self.name} is read-only"
        return None if self.kind is Kind.PMC else self.misfit(value & ~self.ignored)

    def misfit(self, value: int) -> str | None:
        """Say why the register cannot hold `value`, or return None if it can."""
        reserved = value & ~self.legal
        if reserved:
            return f"{self.name} has reserved bits {reserved:#x}"
        if self.kind is Kind.DS_AREA and value >> 47 not in (0, ones(17)):
            return f"{self.name} must be a canonical address of 48 bits"
        if self.kind is Kind.LVTPC and delivery_mode(value) not in LVTPC_MODES:
            return f"{self.name} cannot have delivery mode {delivery_mode(value)}"
        return None


def bits(*numbers: int) -> int:
    """Return the integer with these bits set."""
    return sum(1 << number for number in numbers)


def ones(width: int) -> int:
    """Return the integer with the low `width` bits set."""
    return (1 << width) - 1


def field(high: int, low: int) -> int:
    """Return the integer with bits `high` to `low` set."""
    return ones(high + 1) & ~ones(low)


def indices(bitmap: int) -> tuple[int, ...]:
    """Return the numbers of the set bits, lowest first."""
    return tuple(number for number in range(bitmap.bit_length()) if bitmap >> number & 1)


def delivery_mode(entry: int) -> int:
    """Bits 10:8 of an entry of the local vector table."""
    return entry >> 8 & 7


def has_capability(cpu: CpuModel, bit: int) -> bool:
    """Whether a bit of IA32_PERF_CAPABILITIES, which only Intel has, is set."""
    return cpu.vendor == "intel" and bool(cpu.perf_capabilities >> bit & 1)


def pebs_format(cpu: CpuModel) -> int:
    """IA32_PERF_CAPABILITIES.PEBS_REC_FMT."""
    return cpu.perf_capabilities >> 8 & 15


def lvtpc(cpu: CpuModel) -> Register:
    """The x2APIC register, the same on both vendors (SDM vol. 3A 10.5.1; APM vol. 2 16.4)."""
    legal = ones(11) | bits(LVTPC_MASKED)
    return Register(0x834, "LVTPC", Kind.LVTPC, "lvtpc", None, legal, ignored=bits(LVTPC_STATUS))


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return a value of a snapshot, an integer in [low, high]; raise ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"state: {name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ScenarioError(f"state: {name} must be {low} to {high}, not {value}")
    return value


def check_tuple(name: str, value: object, length: int) -> tuple[object, ...]:
    """Return a tuple of a snapshot, if it has so many elements; raise ValueError naming it otherwise."""
    if not isinstance(value, tuple) or len(value) != length:
        raise ScenarioError(f"state: {name} must be a tuple of {length} integers, not {value!r}")
    return value


def check_bits(name: str, value: object, legal: int) -> int:
    """Return a value of a snapshot, an integer without bits outside `legal`; raise ValueError otherwise."""
    number = check_integer(name, value, 0, ones(64))
    if number & ~legal:
        raise ScenarioError(f"state: {name} cannot have the bits {number & ~legal:#x}")
    return number
