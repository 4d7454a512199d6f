"""The MSRs of Intel's PMUs, versions 1 to 6.

Intel SDM vol. 3B, "Performance Monitoring", and vol. 4; masks probed on silicon from the VirtualBox CPU database;
what is newer than the manuals at hand from Linux's and KVM's headers.
"""

from __future__ import annotations

from collections.abc import Callable

from ._cpu import CpuModel
from ._registers import (
    ALL,
    READ_CONSTANT,
    READ_INUSE,
    READ_WORD,
    WRITE_CANONICAL,
    WRITE_COUNTER_LEGACY,
    WRITE_DROPPED,
    WRITE_FIXED_CTR_CTRL,
    WRITE_GLOBAL_CTRL,
    WRITE_LVTPC,
    WRITE_METRICS,
    WRITE_READ_ONLY,
    WRITE_RELOAD_MASK,
    WRITE_SELECTOR,
    WRITE_STATUS_RESET,
    WRITE_STATUS_SET,
    WRITE_WORD,
    Bits,
    Row,
    fixed_counters,
    gp_counters,
    inert_row,
)

ARCH_PEBS = 15  # IA32_PERF_CAPABILITIES.PEBS_REC_FMT


def _capability(cpu: CpuModel, bit: int) -> int:
    return cpu.perf_capabilities >> bit & 1


def _with_capability(bit: int) -> Callable[[CpuModel], bool]:
    return lambda cpu: bool(_capability(cpu, bit))


def _from_version(version: int) -> Callable[[CpuModel], bool]:
    return lambda cpu: cpu.version >= version


def _with_feature(name: str) -> Callable[[CpuModel], bool]:
    return lambda cpu: name in cpu.features


def _constant(bits: int) -> Bits:
    return lambda cpu, index: bits


def any_thread(cpu: CpuModel) -> bool:
    """Whether AnyThread bits may be set: version 3 on, unless deprecated (CPUID.0AH:EDX[15])."""
    return cpu.version >= 3 and not (cpu.version >= 5 and cpu.anythread_deprecated)


def pebs_format(cpu: CpuModel) -> int:
    """IA32_PERF_CAPABILITIES.PEBS_REC_FMT."""
    return cpu.perf_capabilities >> 8 & 15


def selector_writable(cpu: CpuModel, index: int) -> int:
    """Bits of IA32_PERFEVTSELx that hold what is written."""
    bits = 0xFFD7FFFF  # event, umask, USR, OS, E, INT, EN, INV, CMASK
    bits |= cpu.pin_control_writable << 19
    bits |= any_thread(cpu) << 21
    transactional = bool(cpu.features & {"rtm", "hle"})
    bits |= transactional << 32  # IN_TX
    bits |= (transactional and index == 2) << 33  # IN_TXCP
    bits |= _capability(cpu, 14) << 34  # adaptive PEBS
    bits |= ("br_cntr" in cpu.features) << 35
    bits |= ("eq" in cpu.features) << 36
    bits |= ("rdpmc_user_disable" in cpu.features) << 37
    return bits | (0xFF << 40) * ("umask2" in cpu.features)


def _fixed_ctr_ctrl(cpu: CpuModel, index: int) -> int:
    bits = _capability(cpu, 19) << 14  # METRICS_CLEAR_EN
    for m in fixed_counters(cpu):
        bits |= (0b1011 | any_thread(cpu) << 2) << 4 * m
        bits |= _capability(cpu, 14) << (32 + 4 * m)
        bits |= ("rdpmc_user_disable" in cpu.features) << (33 + 4 * m)
    return bits


def _counters(cpu: CpuModel, index: int = 0) -> int:
    return cpu.gp_mask | cpu.fixed_mask << 32


def _global_ctrl(cpu: CpuModel, index: int = 0) -> int:
    if cpu.quirks & {"reserved_ignore", "penryn_global"}:
        return ALL
    return _counters(cpu) | _capability(cpu, 15) << 48


def _status(cpu: CpuModel, index: int) -> int:
    bits = _counters(cpu) | _capability(cpu, 15) << 48 | 1 << 63
    bits |= (pebs_format(cpu) == ARCH_PEBS) << 54
    bits |= ("pt" in cpu.features) << 55
    bits |= (0b11 << 58) * (cpu.version >= 4)
    bits |= (cpu.version >= 4 and "sgx" in cpu.features) << 60
    bits |= (cpu.version >= 4 or (cpu.version == 3 and "uncore_pmi" in cpu.features)) << 61
    return bits | ("ds" in cpu.features) << 62


def _status_reset_reads(cpu: CpuModel) -> int:
    # VirtualBox CPU database, Merom and Penryn.
    if "reserved_ignore" in cpu.quirks:
        return 0x7_00000007
    return ALL if "penryn_global" in cpu.quirks else 0


def _pebs_enable(cpu: CpuModel, index: int) -> int:
    if _capability(cpu, 14):
        return _counters(cpu)
    return cpu.pebs_enable_mask & (cpu.gp_mask | ALL << 32)


def _pebs_data_cfg(cpu: CpuModel, index: int) -> int:
    return 0xFF00000F | (0x00FFFFFF_00000030 if pebs_format(cpu) >= 6 else 0)


def _debugctl(cpu: CpuModel, index: int) -> int:
    bits = 0x7C3  # LBR, BTF, TR, BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR
    bits |= 0x1800 * ("pdcm" in cpu.features and cpu.version >= 2)  # FREEZE_LBRS_ON_PMI, FREEZE_PERFMON_ON_PMI
    bits |= ("uncore_pmi" in cpu.features) << 13  # ENABLE_UNCORE_PMI
    bits |= _capability(cpu, 12) << 14  # FREEZE_WHILE_SMM
    return bits | ("rtm" in cpu.features) << 15  # RTM_DEBUG


def _cfg_c(pebs: int) -> Callable[[CpuModel, int], int]:
    def bits(cpu: CpuModel, index: int) -> int:
        # Reload value; arch-PEBS: all above but 34:32, 39 and 48:42.
        return 0xFFFFFFFF | (0xFFFE0378_00000000 if cpu.pebs_masks[pebs] >> index & 1 else 0)

    return bits


def _unless(*quirks: str) -> Callable[[Bits], Bits]:
    """Unwritable bits fault, except where a quirk drops them."""

    def wrap(writable: Bits) -> Bits:
        return lambda cpu, index: 0 if cpu.quirks.intersection(quirks) else ALL & ~writable(cpu, index)

    return wrap


def _gp_width(cpu: CpuModel, index: int) -> int:
    return (1 << cpu.gp_width) - 1


def _fixed_width(cpu: CpuModel, index: int) -> int:
    return (1 << cpu.fixed_width) - 1


def _absent_p6_counters(cpu: CpuModel) -> list[int]:
    return [x for x in (0, 1) if not cpu.gp_mask >> x & 1]


def _acr(group: int, pebs: int | None = None) -> Callable[[CpuModel], list[int]]:
    def indices(cpu: CpuModel) -> list[int]:
        masks = cpu.acr[group] | (0 if pebs is None else cpu.pebs_masks[pebs])
        return [index for index in range(16) if masks >> index & 1]

    return indices


_MEROM = _unless("reserved_ignore")
_CORE2 = _unless("reserved_ignore", "penryn_global")


def _has_uncore(cpu: CpuModel) -> bool:
    return cpu.version <= 3 and "client_uncore" in cpu.features


def _has_arch_pebs(cpu: CpuModel) -> bool:
    return pebs_format(cpu) == ARCH_PEBS


def _has_pebs(cpu: CpuModel) -> bool:
    # Core 2 and Bonnell have record format 0, and the MSR: what tells is any of bits 11:6.
    return cpu.perf_capabilities >> 6 & 0x3F != 0 and not _has_arch_pebs(cpu) and "ds" in cpu.features


def _has_data_cfg(cpu: CpuModel) -> bool:
    return _has_pebs(cpu) and pebs_format(cpu) >= 4 and _capability(cpu, 14) == 1


TABLE: tuple[Row, ...] = (
    Row("IA32_PMC", 0x0C1, WRITE_COUNTER_LEGACY, "counter", _constant(ALL), bank=gp_counters),
    Row(
        "IA32_PMC",
        0x0C1,
        WRITE_DROPPED,
        exists=lambda cpu: bool(cpu.quirks & {"p6_perfctr_raz", "kvm_inert_msrs"}),
        bank=_absent_p6_counters,
        faulting=_constant(0),
        read=READ_CONSTANT,
    ),
    inert_row("IA32_PERFEVTSEL", 0x186, _absent_p6_counters),
    inert_row("K7_PERF", 0xC0010000, lambda cpu: list(range(8))),
    Row("IA32_A_PMC", 0x4C1, WRITE_WORD, "counter", _gp_width, _with_capability(13), bank=gp_counters),
    Row(
        "IA32_PERFEVTSEL",
        0x186,
        WRITE_SELECTOR,
        "selector",
        selector_writable,
        bank=gp_counters,
        faulting=_MEROM(selector_writable),
    ),
    Row(
        "IA32_FIXED_CTR",
        0x309,
        WRITE_WORD,
        "counter",
        _fixed_width,
        _from_version(2),
        bank=fixed_counters,
        fixed=True,
        faulting=_MEROM(_fixed_width),
    ),
    Row("IA32_PERF_METRICS", 0x329, WRITE_METRICS, "perf_metrics", _constant(ALL), _with_capability(15)),
    Row(
        "IA32_PERF_CAPABILITIES",
        0x345,
        WRITE_READ_ONLY,
        exists=_with_feature("pdcm"),
        read=READ_CONSTANT,
        constant=lambda cpu: cpu.perf_capabilities,
    ),
    Row(
        "IA32_FIXED_CTR_CTRL",
        0x38D,
        WRITE_FIXED_CTR_CTRL,
        "fixed_ctr_ctrl",
        _fixed_ctr_ctrl,
        _from_version(2),
        faulting=_MEROM(_fixed_ctr_ctrl),
    ),
    Row("IA32_PERF_GLOBAL_STATUS", 0x38E, WRITE_READ_ONLY, "global_status", exists=_from_version(2)),
    Row("IA32_PERF_GLOBAL_CTRL", 0x38F, WRITE_GLOBAL_CTRL, "global_ctrl", _global_ctrl, _from_version(2)),
    Row(
        "IA32_PERF_GLOBAL_STATUS_RESET",
        0x390,
        WRITE_STATUS_RESET,
        "",
        _status,
        _from_version(2),
        read=READ_CONSTANT,
        constant=_status_reset_reads,
    ),
    Row(
        "IA32_PERF_GLOBAL_STATUS_SET",
        0x391,
        WRITE_STATUS_SET,
        "",
        _status,
        _from_version(4),
        read=READ_CONSTANT,
    ),
    Row("IA32_PERF_GLOBAL_INUSE", 0x392, WRITE_READ_ONLY, exists=_from_version(4), read=READ_INUSE),
    # Client parts of version 3 have their uncore's PMU at these addresses.
    Row(
        "MSR_UNC_PERF_",
        0x391,
        WRITE_WORD,
        "uncore",
        lambda cpu, index: 0xF if index else 0xE000007F if "pt" in cpu.features else 0xE000001F,
        _has_uncore,
        bank=lambda cpu: (0, 1, 2),
        length=3,
    ),
    Row("IA32_PEBS_ENABLE", 0x3F1, WRITE_WORD, "pebs_enable", _pebs_enable, _has_pebs, faulting=_CORE2(_pebs_enable)),
    Row("MSR_PEBS_DATA_CFG", 0x3F2, WRITE_WORD, "pebs_data_cfg", _pebs_data_cfg, _has_data_cfg),
    Row("IA32_PEBS_BASE", 0x3F4, WRITE_WORD, "pebs_base", _constant(ALL), _has_arch_pebs),
    Row("IA32_PEBS_INDEX", 0x3F5, WRITE_WORD, "pebs_index", _constant(0x07FFFFF1_87FFFFF0), _has_arch_pebs),
    Row("IA32_DS_AREA", 0x600, WRITE_CANONICAL, "ds_area", _constant(ALL), _with_feature("ds")),
    Row("IA32_DEBUGCTL", 0x1D9, WRITE_WORD, "debugctl", _debugctl),
    # Performance monitoring available, bit 7, reads 1; what can be written changes nothing.
    Row(
        "IA32_MISC_ENABLE",
        0x1A0,
        WRITE_DROPPED,
        "",
        lambda cpu, index: cpu.misc_enable_ignored,
        read=READ_CONSTANT,
        constant=lambda cpu: 0x80,
    ),
    Row(
        "MSR_TSX_FORCE_ABORT", 0x10F, WRITE_WORD, "tsx_force_abort", _constant(0b111), _with_feature("tsx_force_abort")
    ),
    Row("MSR_RELOAD_PMC", 0x14C1, WRITE_WORD, "reload", _gp_width, _with_capability(16), bank=gp_counters),
    Row(
        "MSR_RELOAD_FIXED_CTR",
        0x1309,
        WRITE_WORD,
        "reload",
        _fixed_width,
        _with_capability(16),
        bank=fixed_counters,
        fixed=True,
    ),
    Row("IA32_PMC_GP", 0x1900, WRITE_WORD, "counter", _gp_width, _from_version(6), gp_counters, 4, suffix="_CTR"),
    Row(
        "IA32_PMC_GP",
        0x1901,
        WRITE_SELECTOR,
        "selector",
        selector_writable,
        _from_version(6),
        gp_counters,
        4,
        faulting=_MEROM(selector_writable),
        suffix="_CFG_A",
    ),
    Row("IA32_PMC_GP", 0x1902, WRITE_RELOAD_MASK, "cfg_b", _counters, _from_version(6), _acr(0), 4, suffix="_CFG_B"),
    Row("IA32_PMC_GP", 0x1903, WRITE_WORD, "cfg_c", _cfg_c(0), _from_version(6), _acr(0, 0), 4, suffix="_CFG_C"),
    Row(
        "IA32_PMC_FX",
        0x1980,
        WRITE_WORD,
        "counter",
        _fixed_width,
        _from_version(6),
        fixed_counters,
        4,
        faulting=_MEROM(_fixed_width),
        fixed=True,
        suffix="_CTR",
    ),
    Row(
        "IA32_PMC_FX",
        0x1982,
        WRITE_RELOAD_MASK,
        "cfg_b",
        _counters,
        _from_version(6),
        _acr(1),
        4,
        fixed=True,
        suffix="_CFG_B",
    ),
    Row(
        "IA32_PMC_FX",
        0x1983,
        WRITE_WORD,
        "cfg_c",
        _cfg_c(2),
        _from_version(6),
        _acr(1, 2),
        4,
        fixed=True,
        suffix="_CFG_C",
    ),
    Row("LVTPC", 0x834, WRITE_LVTPC, "lvtpc", _constant(0x107FF), faulting=_constant(ALL & ~0x117FF), read=READ_WORD),
)
