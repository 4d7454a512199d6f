"""Which MSRs an AMD PMU has, and which of their bits software may set.

AMD APM vol. 2 13.2, "Performance Monitoring Counters", as Linux and mails of AMD's engineers repeat it, and the write
masks that VirtualBox's CPU database probed on silicon. Reserved bits are dropped, hardly anything faults.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._cpu import CpuModel
from ._register import (
    CTR_FRZ,
    FREEZE_LBRS,
    FREEZE_PERFMON,
    IRPERF_EN,
    LBR_FRZ,
    TR,
    Kind,
    Register,
    bits,
    field,
    indices,
    lvtpc,
    ones,
)

ALL = ones(64)
#: What the global registers of some parts latch besides the counters' bits (Turin).
EXTRA_COUNTERS, EXTRA_FREEZE = bits(6, 7), bits(LBR_FRZ, CTR_FRZ)
#: Reserved bit of PerfCntrGlobalStatus that old microcode of Zen 4 sets.
STATUS_RESERVED = 7


def registers(cpu: CpuModel) -> Iterator[Register]:
    """List the MSRs of an AMD model's PMU; any other address raises #GP(0)."""
    for n in indices(cpu.gp_mask):
        if "perfctr_core" in cpu.features:
            yield _dropping(0xC0010200 + 2 * n, f"PERF_CTL{n}", "selectors", n, selector_bits(cpu))
            yield _dropping(0xC0010201 + 2 * n, f"PERF_CTR{n}", "counters", n, ones(cpu.gp_width))
        if n <= 3:
            yield _dropping(0xC0010000 + n, f"PERF_LEGACY_CTL{n}", "selectors", n, selector_bits(cpu))
            yield _dropping(0xC0010004 + n, f"PERF_LEGACY_CTR{n}", "counters", n, ones(cpu.gp_width))
    if "kvm_inert_msrs" in cpu.quirks:
        # kvm_get_msr_common() lists them whatever the guest is.
        absent = [n for n in range(4) if n not in indices(cpu.gp_mask)]
        old = (0xC1, 0xC2, 0x186, 0x187, *(0xC0010000 + n for n in absent), *(0xC0010004 + n for n in absent))
        for address in old:
            yield Register(address, f"MSR {address:#x}", Kind.INERT, ignored=ALL, constant=0)
    if cpu.version >= 2:
        yield from _global_registers(cpu)
    legal = field(5, 0)
    if "perfmon_v2_freeze" in cpu.features:
        legal |= bits(FREEZE_LBRS, FREEZE_PERFMON)
    yield Register(0x1D9, "DebugCtl", Kind.STORAGE, "debugctl", None, legal, ALL & ~legal & ~bits(TR))
    if "irperf" in cpu.features:
        yield _dropping(0xC0010015, "HWCR", "hwcr", None, bits(IRPERF_EN))
        yield Register(0xC00000E9, "IRPerfCount", Kind.READ_ONLY, "irperf", None, ALL)
    yield lvtpc(cpu)


def _global_registers(cpu: CpuModel) -> Iterator[Register]:
    status, control, settable = global_status_bits(cpu), cpu.gp_mask, cpu.gp_mask
    if "amd_status_set_extra" in cpu.quirks:
        control |= EXTRA_COUNTERS
        settable |= EXTRA_COUNTERS | EXTRA_FREEZE
    yield Register(0xC0000300, "PerfCntrGlobalStatus", Kind.INERT, "global_status", None, status, ALL)
    yield _dropping(0xC0000301, "PerfCntrGlobalCtl", "global_ctrl", None, control, Kind.GLOBAL_CTRL)
    # Nobody has seen what the write-only registers read on silicon; KVM returns 0.
    clear, put = Kind.STATUS_RESET, Kind.STATUS_SET
    yield Register(0xC0000302, "PerfCntrGlobalStatusClr", clear, legal=status, ignored=ALL & ~status, constant=0)
    yield Register(0xC0000303, "PerfCntrGlobalStatusSet", put, legal=settable, ignored=ALL & ~settable, constant=0)


def _dropping(
    address: int, name: str, place: str, index: int | None, legal: int, kind: Kind = Kind.STORAGE
) -> Register:
    return Register(address, name, kind, place, index, legal, ALL & ~legal)


def selector_bits(cpu: CpuModel) -> int:
    """Bits of PERF_CTLn that hold what is written (probed: bits 19 and 20 do on every part, bit 21 on none)."""
    legal = field(20, 0) | field(31, 22)
    if "extended_event_select" in cpu.features:
        legal |= field(35, 32) | field(41, 40)
    if "evtsel_sticky" in cpu.quirks:
        legal |= field(43, 42)
    return legal


def global_status_bits(cpu: CpuModel) -> int:
    """Bits that PerfCntrGlobalStatus can have."""
    legal = cpu.gp_mask
    if "perfmon_v2_freeze" in cpu.features:
        legal |= EXTRA_FREEZE
    if "amd_status_set_extra" in cpu.quirks:
        legal |= EXTRA_COUNTERS | EXTRA_FREEZE
    if "zen4_status_rsvd" in cpu.quirks:
        legal |= bits(STATUS_RESERVED)
    return legal
