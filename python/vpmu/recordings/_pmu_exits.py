"""Which recorded exits are the PMU's own: the scenario's guest perf makes those itself."""

from __future__ import annotations

_RANGES = (
    (0xC1, 0xC8),  # IA32_PMCx
    (0x186, 0x18D),  # IA32_PERFEVTSELx
    (0x309, 0x318),  # IA32_FIXED_CTRx
    (0x329, 0x329),  # IA32_PERF_METRICS
    (0x345, 0x345),  # IA32_PERF_CAPABILITIES
    (0x38D, 0x392),  # FIXED_CTR_CTRL, PERF_GLOBAL_*
    (0x3F1, 0x3F5),  # PEBS
    (0x4C1, 0x4C8),  # IA32_A_PMCx
    (0x834, 0x834),  # x2APIC LVTPC
    (0x1900, 0x19FF),  # version 6: IA32_PMC_GPn_*, IA32_PMC_FXm_*
    (0xC0000300, 0xC0000303),  # AMD PerfMonV2: PerfCntrGlobal*
    (0xC0010000, 0xC0010007),  # AMD legacy counters
    (0xC0010200, 0xC001020B),  # AMD core counters
)

PMU_MSRS = frozenset(msr for first, last in _RANGES for msr in range(first, last + 1))
"""Addresses of the MSRs of Intel's and AMD's core PMU, and of LVTPC."""

RDPMC_REASONS = frozenset({"RDPMC", "rdpmc", "EXIT_RDPMC"})
"""Names of the RDPMC exit: VMX, SVM, and SVM as trace-cmd's plugin prints it."""

MSR_REASONS = frozenset({"MSR_READ", "MSR_WRITE", "MSR_READ_IMM", "MSR_WRITE_IMM", "msr", "EXIT_MSR"})
"""Names of exits that access one MSR."""

MSR_WRITE_REASONS = frozenset({"MSR_WRITE", "MSR_WRITE_IMM"})
"""Names of exits that write an MSR; SVM's ``msr`` does not tell."""

PMI_VECTOR = 0xF5
"""Linux's PERF_GUEST_MEDIATED_PMI_VECTOR."""

_VALID = 1 << 31


def is_pmi(intr_info: int) -> bool:
    """Tell whether VM-exit interruption information names a mediated PMU's PMI.

    Parameters
    ----------
    intr_info : int
        The VMCS field of an EXTERNAL_INTERRUPT exit.

    Returns
    -------
    bool
        True when it is valid and its vector is `PMI_VECTOR`.
    """
    return bool(intr_info & _VALID) and intr_info & 0xFF == PMI_VECTOR
