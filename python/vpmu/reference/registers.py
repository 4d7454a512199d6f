"""Which MSRs a PMU has, which of their bits software may set, and what they hold.

Intel SDM vol. 3B, chapter 18 (edition 059); where it is silent or silicon differs, the write masks that
VirtualBox's CPU database probed on silicon.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .._cpu import CpuModel
from .._errors import GeneralProtectionFault, ScenarioError

# IA32_PERF_CAPABILITIES
SMM_FREEZE, FW_WRITE, PEBS_BASELINE, METRICS_AVAILABLE, METRICS_CLEAR = 12, 13, 14, 15, 19
# IA32_PERFEVTSELx
USR, OS, EDGE, PIN, INT, ANY, EN, INV, IN_TX, IN_TXCP, ADAPTIVE = 16, 17, 18, 19, 20, 21, 22, 23, 32, 33, 34
# IA32_PERF_GLOBAL_STATUS, above the counters
OVF_METRICS, TOPA_PMI = 48, 55
LBR_FRZ, CTR_FRZ, ASCI, OVF_UNCORE, OVF_BUFFER, COND_CHGD = 58, 59, 60, 61, 62, 63
# Local vector table entry for performance counters (SDM vol. 3A 10.5.1)
LVTPC_STATUS, LVTPC_MASKED = 12, 16
LVTPC_MODES = {0: "fixed", 2: "smi", 4: "nmi"}


class Kind(enum.Enum):
    """How a register reacts to RDMSR and WRMSR."""

    STORAGE = "what is written is read back"
    PMC = "a write stores the sign-extended low half"
    READ_ONLY = "every write faults"
    CAPABILITIES = "a constant; every write faults"
    INUSE = "computed from the controls; every write faults"
    STATUS_RESET = "ones clear bits of IA32_PERF_GLOBAL_STATUS; reads 0"
    STATUS_SET = "ones set bits of IA32_PERF_GLOBAL_STATUS; reads 0"
    MISC_ENABLE = "a constant; some bits may be written without effect"
    DS_AREA = "storage of a canonical address"
    LVTPC = "storage with a legal delivery mode"


UNWRITABLE = frozenset({Kind.READ_ONLY, Kind.CAPABILITIES, Kind.INUSE})


@dataclass(frozen=True)
class Register:
    """One MSR of one CPU model.

    Parameters
    ----------
    address : int
    name : str
        Name in the SDM.
    kind : Kind
    field : str
        Attribute of :class:`RegisterFile` that holds the value; empty if none does.
    index : int or None
        Place in that attribute if it is a list.
    legal : int
        Bits that can be held, and that may be 1 in a write.
    ignored : int
        Bits that may be 1 in a write and are dropped.
    """

    address: int
    name: str
    kind: Kind = Kind.STORAGE
    field: str = ""
    index: int | None = None
    legal: int = 0
    ignored: int = 0

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
        if self.kind is Kind.LVTPC and (value >> 8 & 7) not in LVTPC_MODES:
            return f"{self.name} cannot have delivery mode {value >> 8 & 7}"
        return None


def bits(*numbers: int) -> int:
    """Return the integer with these bits set."""
    return sum(1 << number for number in numbers)


def ones(width: int) -> int:
    """Return the integer with the low `width` bits set."""
    return (1 << width) - 1


def indices(bitmap: int) -> tuple[int, ...]:
    """Return the numbers of the set bits, lowest first."""
    return tuple(number for number in range(bitmap.bit_length()) if bitmap >> number & 1)


def has_capability(cpu: CpuModel, bit: int) -> bool:
    """Whether a bit of IA32_PERF_CAPABILITIES is set."""
    return bool(cpu.perf_capabilities >> bit & 1)


def has_any_thread(cpu: CpuModel) -> bool:
    """Whether the AnyThread bits may be set: from version 3 on, until CPUID.0AH:EDX[15] withdraws them."""
    return cpu.version >= 3 and not (cpu.version >= 5 and cpu.anythread_deprecated)


def selector_bits(cpu: CpuModel, index: int) -> int:
    """Legal bits of IA32_PERFEVTSELx (SDM vol. 3B 18.2.1.1)."""
    legal = ones(32) & ~bits(PIN, ANY)
    if cpu.pin_control_writable:
        legal |= bits(PIN)
    if has_any_thread(cpu):
        legal |= bits(ANY)
    if cpu.features & {"rtm", "hle"}:
        legal |= bits(IN_TX, IN_TXCP) if index == 2 else bits(IN_TX)
    if has_capability(cpu, PEBS_BASELINE):
        legal |= bits(ADAPTIVE)
    return legal


def fixed_control_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_FIXED_CTR_CTRL: OS, USR, AnyThread, PMI and adaptive PEBS of each counter."""
    legal = bits(14) if has_capability(cpu, METRICS_CLEAR) else 0
    for m in indices(cpu.fixed_mask):
        legal |= 0b1011 << 4 * m
        if has_any_thread(cpu):
            legal |= 0b0100 << 4 * m
        if has_capability(cpu, PEBS_BASELINE):
            legal |= bits(32 + 4 * m)
    return legal


def global_ctrl_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_PERF_GLOBAL_CTRL."""
    metrics = bits(OVF_METRICS) if has_capability(cpu, METRICS_AVAILABLE) else 0
    return cpu.gp_mask | cpu.fixed_mask << 32 | metrics


def global_status_bits(cpu: CpuModel) -> int:
    """Bits that IA32_PERF_GLOBAL_STATUS can have (SDM vol. 3B 18.2.2 to 18.2.4)."""
    legal = global_ctrl_bits(cpu) | bits(COND_CHGD)
    if "pt" in cpu.features:
        legal |= bits(TOPA_PMI)
    if cpu.version >= 4:
        legal |= bits(LBR_FRZ, CTR_FRZ)
    if cpu.version >= 4 and "sgx" in cpu.features:
        legal |= bits(ASCI)
    if cpu.version >= 3:
        legal |= bits(OVF_UNCORE)
    if "ds" in cpu.features:
        legal |= bits(OVF_BUFFER)
    return legal


def pebs_enable_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_PEBS_ENABLE; before the PEBS baseline, those of Broadwell and Skylake."""
    if has_capability(cpu, PEBS_BASELINE):
        return cpu.gp_mask | cpu.fixed_mask << 32
    return cpu.gp_mask & ones(4) | ones(4) << 32


def debugctl_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_DEBUGCTL (SDM vol. 3B 17.4.1)."""
    legal = bits(0, 1, 6, 7, 8, 9, 10, 13)
    if "pdcm" in cpu.features:
        legal |= bits(11, 12)
    if has_capability(cpu, SMM_FREEZE):
        legal |= bits(14)
    if "rtm" in cpu.features:
        legal |= bits(15)
    return legal


def registers(cpu: CpuModel) -> Iterator[Register]:
    """List the MSRs of a CPU model's PMU; any other address raises #GP(0)."""
    storage = Kind.STORAGE
    for x in indices(cpu.gp_mask):
        width = ones(cpu.gp_width)
        yield Register(0xC1 + x, f"IA32_PMC{x}", Kind.PMC, "counters", x, width)
        if cpu.full_width_writes:
            yield Register(0x4C1 + x, f"IA32_A_PMC{x}", storage, "counters", x, width)
        yield Register(0x186 + x, f"IA32_PERFEVTSEL{x}", storage, "selectors", x, selector_bits(cpu, x))
    for m in indices(cpu.fixed_mask):
        yield Register(0x309 + m, f"IA32_FIXED_CTR{m}", storage, "fixed", m, ones(cpu.fixed_width))
    yield Register(0x38D, "IA32_FIXED_CTR_CTRL", storage, "fixed_ctr_ctrl", None, fixed_control_bits(cpu))
    yield Register(0x38F, "IA32_PERF_GLOBAL_CTRL", storage, "global_ctrl", None, global_ctrl_bits(cpu))
    status = global_status_bits(cpu)
    yield Register(0x38E, "IA32_PERF_GLOBAL_STATUS", Kind.READ_ONLY, "global_status", None, status)
    reset_name = "IA32_PERF_GLOBAL_STATUS_RESET" if cpu.version >= 4 else "IA32_PERF_GLOBAL_OVF_CTRL"
    yield Register(0x390, reset_name, Kind.STATUS_RESET, legal=status)
    if cpu.version >= 4:
        yield Register(0x391, "IA32_PERF_GLOBAL_STATUS_SET", Kind.STATUS_SET, legal=status)
        yield Register(0x392, "IA32_PERF_GLOBAL_INUSE", Kind.INUSE)
    if "pdcm" in cpu.features:
        yield Register(0x345, "IA32_PERF_CAPABILITIES", Kind.CAPABILITIES)
    if has_capability(cpu, METRICS_AVAILABLE):
        yield Register(0x329, "IA32_PERF_METRICS", storage, "perf_metrics", None, ones(64))
    pebs_format = cpu.perf_capabilities >> 8 & 15
    if pebs_format and "ds" in cpu.features:
        yield Register(0x3F1, "IA32_PEBS_ENABLE", storage, "pebs_enable", None, pebs_enable_bits(cpu))
    if pebs_format >= 4 and has_capability(cpu, PEBS_BASELINE):
        yield Register(0x3F2, "MSR_PEBS_DATA_CFG", storage, "pebs_data_cfg", None, ones(4) | ones(8) << 24)
    if "ds" in cpu.features:
        yield Register(0x600, "IA32_DS_AREA", Kind.DS_AREA, "ds_area", None, ones(64))
    yield Register(0x1D9, "IA32_DEBUGCTL", storage, "debugctl", None, debugctl_bits(cpu))
    if "tsx_force_abort" in cpu.features:
        yield Register(0x10F, "MSR_TSX_FORCE_ABORT", storage, "tsx_force_abort", None, ones(3))
    # A write cannot change EMON, bit 7, and PEBS-unavailable, bit 12; BTS-unavailable, bit 11, faults.
    yield Register(0x1A0, "IA32_MISC_ENABLE", Kind.MISC_ENABLE, ignored=bits(7, 12))
    legal = ones(11) | bits(LVTPC_MASKED)
    yield Register(0x834, "LVTPC", Kind.LVTPC, "lvtpc", None, legal, ignored=bits(LVTPC_STATUS))


#: What a register file holds: lists with counter x in place x (in use or not), and single values.
LISTS = ("counters", "fixed", "selectors")
VALUES = (
    *("fixed_ctr_ctrl", "global_ctrl", "global_status", "pebs_enable", "pebs_data_cfg"),
    *("ds_area", "debugctl", "tsx_force_abort", "perf_metrics", "lvtpc"),
)


class RegisterFile:
    """The registers of one PMU, with their values after RESET.

    Parameters
    ----------
    cpu : CpuModel
    """

    def __init__(self, cpu: CpuModel) -> None:
        self.cpu = cpu
        self.table = {register.address: register for register in registers(cpu)}
        self.counters = [0] * cpu.gp_mask.bit_length()
        self.selectors = [0] * cpu.gp_mask.bit_length()
        self.fixed = [0] * cpu.fixed_mask.bit_length()
        self.fixed_ctr_ctrl = 0
        self.global_ctrl = cpu.gp_mask
        self.global_status = 0
        self.pebs_enable = 0
        self.pebs_data_cfg = 0
        self.ds_area = 0
        self.debugctl = 0
        self.tsx_force_abort = 0
        self.perf_metrics = 0
        self.lvtpc = bits(LVTPC_MASKED)

    def read(self, address: int) -> int:
        """Execute RDMSR at CPL 0."""
        register = self._find(address, None)
        match register.kind:
            case Kind.STATUS_RESET | Kind.STATUS_SET:
                return 0
            case Kind.CAPABILITIES:
                return self.cpu.perf_capabilities
            case Kind.MISC_ENABLE:
                return bits(7)  # performance monitoring available
            case Kind.INUSE:
                return self.in_use()
        return self.held(register)

    def write(self, address: int, value: int) -> None:
        """Execute WRMSR at CPL 0."""
        register = self._find(address, value)
        reason = register.refusal(value)
        if reason is not None:
            raise GeneralProtectionFault(address, value, reason)
        match register.kind:
            case Kind.MISC_ENABLE:
                pass
            case Kind.STATUS_RESET:
                self.global_status &= ~value
            case Kind.STATUS_SET:
                self.global_status |= value
            case Kind.PMC:
                low = value & ones(32)
                self._hold(register, (low | ~ones(32) if low >> 31 else low) & register.legal)
            case _:
                self._hold(register, value & register.legal)

    def in_use(self) -> int:
        """IA32_PERF_GLOBAL_INUSE (SDM vol. 3B 18.2.4.3)."""
        used = 0
        interrupts = self.pebs_enable & self.cpu.gp_mask
        for x in indices(self.cpu.gp_mask):
            used |= bits(x) if self.selectors[x] & 0xFF else 0
            interrupts |= self.selectors[x] >> INT & 1
        for m in indices(self.cpu.fixed_mask):
            used |= bits(32 + m) if self.fixed_ctr_ctrl >> 4 * m & 0b0011 else 0
            interrupts |= self.fixed_ctr_ctrl >> 4 * m & 0b1000
        return used | (bits(63) if interrupts else 0)

    def state(self) -> dict[str, object]:
        """Return every value by name, lists as tuples."""
        lists = {name: tuple(getattr(self, name)) for name in LISTS}
        return {**lists, **{name: getattr(self, name) for name in VALUES}}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state` returned; raise ValueError for what these registers cannot hold."""
        stored = {(register.field, register.index): register for register in self.table.values()}
        for name in LISTS:
            given, places = state[name], len(getattr(self, name))
            if not isinstance(given, tuple) or len(given) != places:
                raise ScenarioError(f"state: {name} must be a tuple of {places} integers, not {given!r}")
            for index, value in enumerate(given):
                _check(f"{name}[{index}]", stored.get((name, index)), value)
            setattr(self, name, list(given))
        for name in VALUES:
            _check(name, stored.get((name, None)), state[name])
            setattr(self, name, state[name])

    def held(self, register: Register) -> int:
        """Value of a register that is stored."""
        value: int = getattr(self, register.field)
        return value if register.index is None else getattr(self, register.field)[register.index]

    def _hold(self, register: Register, value: int) -> None:
        if register.index is None:
            setattr(self, register.field, value)
        else:
            getattr(self, register.field)[register.index] = value

    def _find(self, address: int, value: int | None) -> Register:
        register = self.table.get(address)
        if register is None:
            raise GeneralProtectionFault(address, value, f"{self.cpu.name} has no such MSR")
        return register


def _check(name: str, register: Register | None, value: object) -> None:
    """Raise ValueError if a register cannot hold `value`; one that does not exist (None) holds 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"state: {name} must be an integer, not {value!r}")
    reason = register.misfit(value) if register else "the CPU has no such register" if value else None
    if reason is not None:
        raise ScenarioError(f"state: {name} cannot be {value:#x}: {reason}")
