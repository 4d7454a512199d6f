"""The MSRs of an Intel PMU, versions 2 to 5, as a declarative table.

Each row says for which addresses it stands, when it exists, how it behaves and which bits may be written; it is
evaluated once per CPU model. Adding an MSR is adding a row. Sources: Intel SDM vol. 3B "Architectural Performance
Monitoring" and vol. 4; write masks probed on silicon from the VirtualBox CPU database.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vpmu_core.registers import RegisterFile

from ._cpu import CpuModel

# Kinds, as in registers.pxd.
(
    COUNTER_LEGACY,
    COUNTER,
    SELECTOR,
    FIXED_CTR_CTRL,
    GLOBAL_STATUS,
    GLOBAL_CTRL,
    STATUS_RESET,
    STATUS_SET,
    INUSE,
    STORAGE,
    CANONICAL,
    CONSTANT,
    IGNORED,
    LVTPC,
) = range(1, 15)

#: Storage words in the order of their index in the state of a PMU.
STORAGE_WORDS = ("perf_metrics", "pebs_enable", "pebs_data_cfg", "ds_area", "debugctl", "tsx_force_abort")

ALL = (1 << 64) - 1


@dataclass(frozen=True)
class Row:
    """One MSR, or one bank of MSRs.

    ``bank`` is "" for a single register, "gp" or "fixed" for one register per counter at ``address + index``.
    """

    name: str
    address: int
    kind: int
    exists: Callable[[CpuModel], bool]
    legal: Callable[[CpuModel, int], int]
    bank: str = ""
    storage: str = ""
    value: Callable[[CpuModel], int] = lambda cpu: 0


def any_thread(cpu: CpuModel) -> bool:
    """Whether AnyThread bits may be set: version 3 on, unless deprecated (CPUID.0AH:EDX[15])."""
    return cpu.version >= 3 and not (cpu.version >= 5 and cpu.anythread_deprecated)


def _always(cpu: CpuModel) -> bool:
    return True


def _nothing(cpu: CpuModel, index: int) -> int:
    return 0


def _gp_width(cpu: CpuModel, index: int) -> int:
    return (1 << cpu.gp_width) - 1


def _fixed_width(cpu: CpuModel, index: int) -> int:
    return (1 << cpu.fixed_width) - 1


def _capability(bit: int) -> Callable[[CpuModel], bool]:
    return lambda cpu: bool(cpu.perf_capabilities >> bit & 1)


def selector_legal(cpu: CpuModel, index: int) -> int:
    """Writable bits of IA32_PERFEVTSELx (SDM vol. 3B, layout of IA32_PERFEVTSELx; VirtualBox CPU database)."""
    legal = 0xFFD7FFFF  # event, umask, USR, OS, E, INT, EN, INV, CMASK
    legal |= cpu.pin_control_writable << 19
    legal |= any_thread(cpu) << 21
    transactional = bool(cpu.features & {"rtm", "hle"})
    legal |= transactional << 32
    legal |= (transactional and index == 2) << 33
    legal |= (cpu.perf_capabilities >> 14 & 1) << 34
    return legal


def _fixed_ctr_ctrl_legal(cpu: CpuModel, index: int) -> int:
    legal = 0
    for m in range(16):
        if cpu.fixed_mask >> m & 1:
            legal |= 0b1011 << 4 * m
            legal |= any_thread(cpu) << (4 * m + 2)
            legal |= (cpu.perf_capabilities >> 14 & 1) << (32 + 4 * m)
    return legal | (cpu.perf_capabilities >> 19 & 1) << 14


def _counters(cpu: CpuModel) -> int:
    return cpu.gp_mask | cpu.fixed_mask << 32


def _global_ctrl_legal(cpu: CpuModel, index: int) -> int:
    return _counters(cpu) | (cpu.perf_capabilities >> 15 & 1) << 48


def _status_legal(cpu: CpuModel, index: int) -> int:
    legal = _global_ctrl_legal(cpu, 0) | 1 << 63
    legal |= ("pt" in cpu.features) << 55
    legal |= (0b11 << 58) * (cpu.version >= 4)
    legal |= (cpu.version >= 4 and "sgx" in cpu.features) << 60
    legal |= (cpu.version >= 3) << 61
    return legal | ("ds" in cpu.features) << 62


def _pebs_enable_legal(cpu: CpuModel, index: int) -> int:
    if cpu.perf_capabilities >> 14 & 1:
        return _counters(cpu)
    return (cpu.gp_mask & 0xF) | 0xF << 32


def _debugctl_legal(cpu: CpuModel, index: int) -> int:
    legal = 0x27C3  # LBR, BTF, TR, BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR, ENABLE_UNCORE_PMI
    legal |= 0x1800 * ("pdcm" in cpu.features)  # FREEZE_LBRS_ON_PMI, FREEZE_PERFMON_ON_PMI
    legal |= (cpu.perf_capabilities >> 12 & 1) << 14  # FREEZE_WHILE_SMM
    return legal | ("rtm" in cpu.features) << 15  # RTM_DEBUG


def _has_pebs(cpu: CpuModel) -> bool:
    return bool(cpu.perf_capabilities >> 8 & 15) and "ds" in cpu.features


def _has_data_cfg(cpu: CpuModel) -> bool:
    return bool(cpu.perf_capabilities >> 14 & 1) and cpu.perf_capabilities >> 8 & 15 >= 4


def _version4(cpu: CpuModel) -> bool:
    return cpu.version >= 4


TABLE: tuple[Row, ...] = (
    Row("IA32_PMC", 0x0C1, COUNTER_LEGACY, _always, lambda cpu, index: ALL, bank="gp"),
    Row("IA32_A_PMC", 0x4C1, COUNTER, _capability(13), _gp_width, bank="gp"),
    Row("IA32_PERFEVTSEL", 0x186, SELECTOR, _always, selector_legal, bank="gp"),
    Row("IA32_FIXED_CTR", 0x309, COUNTER, _always, _fixed_width, bank="fixed"),
    Row("IA32_PERF_METRICS", 0x329, STORAGE, _capability(15), lambda cpu, index: ALL, storage="perf_metrics"),
    Row(
        "IA32_PERF_CAPABILITIES",
        0x345,
        CONSTANT,
        lambda cpu: "pdcm" in cpu.features,
        _nothing,
        value=lambda cpu: cpu.perf_capabilities,
    ),
    Row("IA32_FIXED_CTR_CTRL", 0x38D, FIXED_CTR_CTRL, _always, _fixed_ctr_ctrl_legal),
    Row("IA32_PERF_GLOBAL_STATUS", 0x38E, GLOBAL_STATUS, _always, _nothing),
    Row("IA32_PERF_GLOBAL_CTRL", 0x38F, GLOBAL_CTRL, _always, _global_ctrl_legal),
    Row("IA32_PERF_GLOBAL_STATUS_RESET", 0x390, STATUS_RESET, _always, _status_legal),
    Row("IA32_PERF_GLOBAL_STATUS_SET", 0x391, STATUS_SET, _version4, _status_legal),
    Row("IA32_PERF_GLOBAL_INUSE", 0x392, INUSE, _version4, _nothing),
    Row("IA32_PEBS_ENABLE", 0x3F1, STORAGE, _has_pebs, _pebs_enable_legal, storage="pebs_enable"),
    Row("MSR_PEBS_DATA_CFG", 0x3F2, STORAGE, _has_data_cfg, lambda cpu, index: 0xFF00000F, storage="pebs_data_cfg"),
    Row("IA32_DS_AREA", 0x600, CANONICAL, lambda cpu: "ds" in cpu.features, lambda cpu, index: ALL, storage="ds_area"),
    Row("IA32_DEBUGCTL", 0x1D9, STORAGE, _always, _debugctl_legal, storage="debugctl"),
    # Bit 7 (monitoring available) and bit 12 ignore writes, toggling bit 11 faults (VirtualBox CPU database).
    Row("IA32_MISC_ENABLE", 0x1A0, IGNORED, _always, lambda cpu, index: 0x1080, value=lambda cpu: 0x80),
    Row(
        "MSR_TSX_FORCE_ABORT",
        0x10F,
        STORAGE,
        lambda cpu: "tsx_force_abort" in cpu.features,
        lambda cpu, index: 0b111,
        storage="tsx_force_abort",
    ),
    Row("LVTPC", 0x834, LVTPC, _always, lambda cpu, index: 0x117FF),
)


def rows(cpu: CpuModel) -> Iterator[tuple[int, int, int, int, int]]:
    """Evaluate the table for a CPU: (address, kind, slot, legal, value) of every MSR that exists."""
    for row in TABLE:
        if not row.exists(cpu):
            continue
        if not row.bank:
            slot = STORAGE_WORDS.index(row.storage) if row.storage else 0
            yield row.address, row.kind, slot, row.legal(cpu, 0), row.value(cpu)
            continue
        mask, first = (cpu.gp_mask, 0) if row.bank == "gp" else (cpu.fixed_mask, 16)
        for index in range(16):
            if mask >> index & 1:
                yield row.address + index, row.kind, first + index, row.legal(cpu, index), 0


def msr_name(address: int) -> str:
    """Name of an MSR address for messages, such as ``IA32_PMC3``; empty if it is none of the PMU's."""
    for row in TABLE:
        if row.bank and 0 <= address - row.address < (8 if row.bank == "gp" else 16):
            return f"{row.name}{address - row.address}"
        if row.address == address:
            return row.name
    return ""


@functools.cache
def register_file(cpu: CpuModel) -> RegisterFile:
    """Dense register table of a CPU model, made once."""
    return RegisterFile(cpu, rows(cpu))
