"""The MSRs of one PMU: what they hold after RESET, what RDMSR and WRMSR do, what can be held at all."""

from __future__ import annotations

from collections.abc import Mapping

from .._cpu import CpuModel
from .._errors import GeneralProtectionFault, ScenarioError
from . import _amd_registers, _intel_registers
from ._metrics import levels, slots_of
from ._register import (
    FIXED_PMI,
    INT,
    LVTPC_MASKED,
    METRICS_AVAILABLE,
    Kind,
    Register,
    bits,
    check_integer,
    check_tuple,
    has_capability,
    indices,
    ones,
)

#: What a register file holds: lists with counter x in place x (in use or not), and single values.
LISTS = ("counters", "fixed", "selectors", "uncore", "reload", "cfg_b", "cfg_c")
VALUES = (
    *("fixed_ctr_ctrl", "global_ctrl", "global_status", "perf_metrics", "pebs_enable", "pebs_data_cfg"),
    *("pebs_base", "pebs_index", "ds_area", "debugctl", "tsx_force_abort", "hwcr", "irperf", "lvtpc"),
)


class RegisterFile:
    """The registers of one PMU, with their values after RESET.

    Parameters
    ----------
    cpu : CpuModel
    """

    def __init__(self, cpu: CpuModel) -> None:
        self.cpu = cpu
        every = _intel_registers.registers(cpu) if cpu.vendor == "intel" else _amd_registers.registers(cpu)
        self.table = {register.address: register for register in every}
        self.stored = {(register.field, register.index): register for register in self.table.values()}
        self.counters = [0] * cpu.gp_mask.bit_length()
        self.selectors = [0] * cpu.gp_mask.bit_length()
        self.fixed = [0] * cpu.fixed_mask.bit_length()
        self.uncore = [0] * 3
        # Counter x in place x, fixed counter m in place 16 + m.
        self.reload = [0] * 32
        self.cfg_b = [0] * 32
        self.cfg_c = [0] * 32
        self.fixed_ctr_ctrl = 0
        self.global_ctrl = cpu.gp_mask
        self.global_status = 0
        self.perf_metrics = 0
        self.pebs_enable = 0
        self.pebs_data_cfg = 0
        self.pebs_base = 0
        self.pebs_index = 0
        self.ds_area = 0
        self.debugctl = 0
        self.tsx_force_abort = 0
        self.hwcr = 0
        self.irperf = 0
        self.lvtpc = bits(LVTPC_MASKED)
        #: The slots behind the fields of IA32_PERF_METRICS, which no instruction reads.
        self.metrics_slots = [0] * 8
        #: Whether the first enable of the counters may still miscount (errata AAK100, AAP53, BD53).
        self.enable_hazard = "nhm_enable" in cpu.quirks

    @property
    def slots(self) -> int:
        """FIXED_CTR3, or 0 if there is none."""
        return self.fixed[3] if self.cpu.fixed_mask >> 3 & 1 else 0

    def read(self, address: int) -> int:
        """Execute RDMSR at CPL 0."""
        register = self._find(address, None)
        if register.constant is not None:
            return register.constant
        return self.in_use() if register.kind is Kind.INUSE else self.held(register)

    def write(self, address: int, value: int) -> None:
        """Execute WRMSR at CPL 0."""
        register = self._find(address, value)
        reason = register.refusal(value)
        if reason is not None:
            raise GeneralProtectionFault(address, value, reason)
        kept = value & register.legal
        match register.kind:
            case Kind.INERT:
                pass
            case Kind.STATUS_RESET:
                self.global_status &= ~kept
            case Kind.STATUS_SET:
                self.global_status |= kept
            case Kind.PMC:
                low = value & ones(32)
                self._hold(register, (low | ~ones(32) if low >> 31 else low) & register.legal)
            case Kind.METRICS:
                self._hold(register, kept)
                self.metrics_slots = slots_of(self.cpu, kept, self.slots)
            case Kind.GLOBAL_CTRL:
                self._hold(register, kept)
                self.enable_hazard = self.enable_hazard and value != 0
            case _:
                self._hold(register, kept)

    def in_use(self) -> int:
        """IA32_PERF_GLOBAL_INUSE (SDM vol. 3B 18.2.4.3)."""
        used = 0
        interrupts = self.pebs_enable & self.cpu.gp_mask
        for x in indices(self.cpu.gp_mask):
            used |= bits(x) if self.selectors[x] & 0xFF else 0
            interrupts |= self.selectors[x] >> INT & 1
        for m in indices(self.cpu.fixed_mask):
            used |= bits(32 + m) if self.fixed_ctr_ctrl >> 4 * m & 0b0011 else 0
            interrupts |= self.fixed_ctr_ctrl >> (4 * m + FIXED_PMI) & 1
        return used | (bits(63) if interrupts else 0)

    def clear_metrics(self) -> None:
        """Zero IA32_PERF_METRICS, what is behind it, and FIXED_CTR3, as RDPMC may do."""
        self.perf_metrics = 0
        self.metrics_slots = [0] * 8
        if self.cpu.fixed_mask >> 3 & 1:
            self.fixed[3] = 0

    def state(self) -> dict[str, object]:
        """Return every value by name, lists as tuples."""
        lists = {name: tuple(getattr(self, name)) for name in (*LISTS, "metrics_slots")}
        own = {**lists, **{name: getattr(self, name) for name in VALUES}}
        return {**own, "enable_hazard": int(self.enable_hazard)}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state` returned; raise ValueError for what these registers cannot hold."""
        for name in LISTS:
            held = getattr(self, name)
            given = check_tuple(name, state[name], len(held))
            setattr(self, name, [self.check(name, i, value) for i, value in enumerate(given)])
        for name in VALUES:
            setattr(self, name, self.check(name, None, state[name]))
        slots = check_tuple("metrics_slots", state["metrics_slots"], 8)
        counted = levels(self.cpu) if has_capability(self.cpu, METRICS_AVAILABLE) else 0
        most = [ones(64) if i < counted else 0 for i in range(8)]
        self.metrics_slots = [check_integer(f"metrics_slots[{i}]", value, 0, most[i]) for i, value in enumerate(slots)]
        hazard = check_integer("enable_hazard", state["enable_hazard"], 0, int("nhm_enable" in self.cpu.quirks))
        self.enable_hazard = bool(hazard)

    def check(self, name: str, index: int | None, value: object) -> int:
        """Return a value of a snapshot that a register can hold; one that does not exist holds what RESET left."""
        shown = name if index is None else f"{name}[{index}]"
        number = check_integer(shown, value, 0, ones(64))
        register = self.stored.get((name, index))
        if register is None:
            reset = self.cpu.gp_mask if name == "global_ctrl" else 0
            reason = f"{self.cpu.name} has no such register" if number != reset else None
        else:
            reason = register.misfit(number)
        if reason is not None:
            raise ScenarioError(f"state: {shown} cannot be {number:#x}: {reason}")
        return number

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
