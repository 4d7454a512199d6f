"""RDPMC: types and indices, who may execute it, what it reads (SDM vol. 2B, RDPMC; APM vol. 3, RDPMC)."""

from __future__ import annotations

from .._cpu import CpuModel
from .._errors import GeneralProtectionFault
from ._register import METRICS_AVAILABLE, METRICS_CLEAR, METRICS_CLEAR_EN, USER_DISABLE, has_capability, ones
from .registers import RegisterFile

#: Types of Intel, ECX[31:16].
GENERAL, METRICS, FIXED = 0, 0x2000, 0x4000
#: First and last index of AMD's core counters, and its shared ones: northbridge, L3, data fabric.
CORE, NORTHBRIDGE, L3, FABRIC = range(6), range(6, 10), range(10, 16), range(16, 28)


def rdpmc(cpu: CpuModel, registers: RegisterFile, ecx: int, cpl: int, in_flight: int) -> int:
    """Read a counter, after the check of permission.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
    ecx, cpl : int
    in_flight : int
        Counters that moved just now: GP x is bit x, fixed m is bit 16 + m.
    """
    late = in_flight if "rdpmc_ooo" in cpu.quirks else 0
    if cpu.vendor == "amd":
        return _amd(cpu, registers, ecx, late)
    kind, index = ecx >> 16, ecx & 0xFFFF
    user_disable = cpl > 0 and "rdpmc_user_disable" in cpu.features
    if kind == GENERAL and cpu.gp_mask >> index & 1:
        if user_disable and registers.selectors[index] >> USER_DISABLE & 1:
            return 0
        return (registers.counters[index] - (late >> index & 1)) & ones(cpu.gp_width)
    if kind == FIXED and cpu.fixed_mask >> index & 1:
        if user_disable and registers.fixed_ctr_ctrl >> (33 + 4 * index) & 1:
            return 0
        return (registers.fixed[index] - (late >> (16 + index) & 1)) & ones(cpu.fixed_width)
    if kind == METRICS and index == 0 and has_capability(cpu, METRICS_AVAILABLE):
        value = registers.perf_metrics
        if has_capability(cpu, METRICS_CLEAR) and registers.fixed_ctr_ctrl >> METRICS_CLEAR_EN & 1:
            registers.clear_metrics()
        return value
    raise GeneralProtectionFault(ecx, None, "there is no such counter", "RDPMC")


def _amd(cpu: CpuModel, registers: RegisterFile, ecx: int, late: int) -> int:
    if ecx in CORE and cpu.gp_mask >> ecx & 1:
        return (registers.counters[ecx] - (late >> ecx & 1)) & ones(cpu.gp_width)
    # Shared by several CPUs, so that they are not simulated; the fabric's are numbered on after the L3's.
    fabric = ecx in FABRIC and ecx < 12 + cpu.df_counters
    if (ecx in NORTHBRIDGE or fabric) and "perfctr_nb" in cpu.features:
        return 0
    if ecx in L3 and "perfctr_llc" in cpu.features:
        return 0
    raise GeneralProtectionFault(ecx, None, "there is no such counter", "RDPMC")
