"""The MSRs of AMD's PMUs: legacy, core (PERFCTR_CORE) and PerfMonV2.

AMD APM vol. 2 and the PPRs as Linux (arch/x86/events/amd), KVM and mails of AMD's engineers repeat them; masks probed
on silicon from the VirtualBox CPU database. Reserved bits are dropped; nothing of the counters raises #GP.
"""

from __future__ import annotations

from collections.abc import Callable

from ._cpu import CpuModel
from ._registers import (
    ALL,
    READ_CONSTANT,
    READ_WORD,
    WRITE_DROPPED,
    WRITE_GLOBAL_CTRL,
    WRITE_LVTPC,
    WRITE_READ_ONLY,
    WRITE_SELECTOR,
    WRITE_STATUS_RESET,
    WRITE_STATUS_SET,
    WRITE_WORD,
    Bits,
    Row,
    gp_counters,
    inert_row,
)


def _constant(bits: int) -> Bits:
    return lambda cpu, index: bits


_NOTHING_FAULTS = _constant(0)


def selector_writable(cpu: CpuModel, index: int) -> int:
    """Bits of PERF_CTL that hold what is written."""
    bits = 0xFFDFFFFF  # bit 21 never sticks
    bits |= (0x30F << 32) * ("extended_event_select" in cpu.features)  # event select 11:8, GuestOnly, HostOnly
    return bits | (0b11 << 42) * ("evtsel_sticky" in cpu.quirks)


def _width(cpu: CpuModel, index: int) -> int:
    return (1 << cpu.gp_width) - 1


def _extra(cpu: CpuModel) -> int:
    return 0xC0 if "amd_status_set_extra" in cpu.quirks else 0


def _status_set(cpu: CpuModel, index: int) -> int:
    return cpu.gp_mask | (_extra(cpu) | 0x3 << 58 if _extra(cpu) else 0)


def status_bits(cpu: CpuModel) -> int:
    """Bits that PerfCntrGlobalStatus can have."""
    bits = cpu.gp_mask | _status_set(cpu, 0)
    bits |= 0x3 << 58 if "perfmon_v2_freeze" in cpu.features else 0
    return bits | (0x80 if "zen4_status_rsvd" in cpu.quirks else 0)


def _legacy(cpu: CpuModel) -> list[int]:
    return [n for n in gp_counters(cpu) if n < 4]


def _absent_legacy(cpu: CpuModel) -> list[int]:
    return [n for n in range(4) if not cpu.gp_mask >> n & 1]


def _version2(cpu: CpuModel) -> bool:
    return cpu.version >= 2


def _feature(name: str) -> Callable[[CpuModel], bool]:
    return lambda cpu: name in cpu.features


_CORE = _feature("perfctr_core")
_IRPERF = _feature("irperf")

TABLE: tuple[Row, ...] = (
    Row("PERF_CTL", 0xC0010200, WRITE_SELECTOR, "selector", selector_writable, _CORE, gp_counters, 2, _NOTHING_FAULTS),
    Row("PERF_CTR", 0xC0010201, WRITE_WORD, "counter", _width, _CORE, gp_counters, 2, _NOTHING_FAULTS),
    Row(
        "PERF_LEGACY_CTL",
        0xC0010000,
        WRITE_SELECTOR,
        "selector",
        selector_writable,
        bank=_legacy,
        length=4,
        faulting=_NOTHING_FAULTS,
    ),
    Row("PERF_LEGACY_CTR", 0xC0010004, WRITE_WORD, "counter", _width, bank=_legacy, length=4, faulting=_NOTHING_FAULTS),
    Row(
        "PerfCntrGlobalStatus",
        0xC0000300,
        WRITE_DROPPED,
        "global_status",
        exists=_version2,
        faulting=_NOTHING_FAULTS,
        read=READ_WORD,
    ),
    Row(
        "PerfCntrGlobalCtl",
        0xC0000301,
        WRITE_GLOBAL_CTRL,
        "global_ctrl",
        lambda cpu, index: cpu.gp_mask | _extra(cpu),
        _version2,
        faulting=_NOTHING_FAULTS,
    ),
    Row(
        "PerfCntrGlobalStatusClr",
        0xC0000302,
        WRITE_STATUS_RESET,
        "",
        _constant(ALL),
        _version2,
        read=READ_CONSTANT,
    ),
    Row(
        "PerfCntrGlobalStatusSet",
        0xC0000303,
        WRITE_STATUS_SET,
        "",
        _status_set,
        _version2,
        faulting=_NOTHING_FAULTS,
        read=READ_CONSTANT,
    ),
    Row(
        "DebugCtl",
        0x1D9,
        WRITE_WORD,
        "debugctl",
        lambda cpu, index: 0x3F | (0x1800 if "perfmon_v2_freeze" in cpu.features else 0),
        faulting=_constant(1 << 6),
    ),
    Row("HWCR", 0xC0010015, WRITE_WORD, "hwcr", _constant(1 << 30), _IRPERF, faulting=_NOTHING_FAULTS),
    Row("IRPerfCount", 0xC00000E9, WRITE_READ_ONLY, "irperf", exists=_IRPERF),
    inert_row("P6_PERFCTR", 0x0C1, lambda cpu: [0, 1]),
    inert_row("P6_EVNTSEL", 0x186, lambda cpu: [0, 1]),
    inert_row("PERF_LEGACY_CTL", 0xC0010000, _absent_legacy),
    inert_row("PERF_LEGACY_CTR", 0xC0010004, _absent_legacy),
    Row("LVTPC", 0x834, WRITE_LVTPC, "lvtpc", _constant(0x107FF), faulting=_constant(ALL & ~0x117FF)),
)
