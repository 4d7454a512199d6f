"""The MSRs of a PMU as declarative tables, evaluated once per CPU model: adding an MSR is adding a row.

``_intel_msrs.py`` and ``_amd_msrs.py`` hold the rows; here is what a row is, and what becomes of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from vpmu_core.registers import WORDS, RegisterFile

from ._cpu import CpuModel
from ._event_codes import PMU_EVENTS, code_mask, selector_codes

ALL = (1 << 64) - 1
FIXED_SLOT = 16

# What a read and a write do, as in registers.pxd.
READ_WORD, READ_CONSTANT, READ_INUSE = 1, 2, 3
(
    WRITE_READ_ONLY,
    WRITE_WORD,
    WRITE_DROPPED,
    WRITE_COUNTER_LEGACY,
    WRITE_SELECTOR,
    WRITE_FIXED_CTR_CTRL,
    WRITE_GLOBAL_CTRL,
    WRITE_STATUS_RESET,
    WRITE_STATUS_SET,
    WRITE_METRICS,
    WRITE_CANONICAL,
    WRITE_LVTPC,
    WRITE_RELOAD_MASK,
) = range(13)

#: Quirks that change what the core does, in the order of their bits in registers.pxd.
CORE_QUIRKS = (
    "irq_overcount",
    "atom_far_overcount",
    "atom_far_overcount_instructions",
    "amd_vmrun_branch",
    "amd_1292",
    "zen4_status_rsvd",
    "amd_late_nmi",
    "ht_leak",
    "tfa",
    "nhm_enable",
    "smm_user",
    "freeze_late",
    "txcp_spurious",
    "rdpmc_ooo",
    "gldm_any",
    "reftsc_sticky_ovf",
)

Bits = Callable[[CpuModel, int], int]


def always(cpu: CpuModel) -> bool:
    """For rows that every CPU of a vendor has."""
    return True


def gp_counters(cpu: CpuModel) -> Iterator[int]:
    """Indices of the general-purpose counters."""
    return (x for x in range(16) if cpu.gp_mask >> x & 1)


def fixed_counters(cpu: CpuModel) -> Iterator[int]:
    """Indices of the fixed counters."""
    return (m for m in range(16) if cpu.fixed_mask >> m & 1)


@dataclass(frozen=True)
class Row:
    """One MSR, or a bank of MSRs.

    Parameters
    ----------
    name : str
        As in the manuals; of a bank without the index.
    address : int
    write : int
        ``WRITE_*``.
    field : str
        Where it is stored: a key of ``vpmu_core.registers.WORDS``, or "" if nowhere.
    writable : callable
        Bits that a write stores, of a model and an index.
    exists : callable
        Whether a model has it.
    bank : callable or None
        Indices that exist, or None for a single register.
    stride : int
        Distance of a bank's addresses.
    faulting : callable or None
        Bits that raise #GP; None: those that are not writable.
    read : int
        ``READ_*``.
    constant : callable
        What READ_CONSTANT reads.
    fixed : bool
        A bank of fixed counters.
    suffix : str
        Follows the index in the name.
    length : int
        Most members of a bank.
    """

    name: str
    address: int
    write: int
    field: str = ""
    writable: Bits = lambda cpu, index: 0
    exists: Callable[[CpuModel], bool] = always
    bank: Callable[[CpuModel], Iterable[int]] | None = None
    stride: int = 1
    faulting: Bits | None = None
    read: int = READ_WORD
    constant: Callable[[CpuModel], int] = lambda cpu: 0
    fixed: bool = False
    suffix: str = ""
    length: int = 16


def inert_row(name: str, address: int, bank: Callable[[CpuModel], Iterable[int]]) -> Row:
    """MSRs that do not exist, and do not fault either: KVM's, of old CPUs."""
    return Row(
        name,
        address,
        WRITE_DROPPED,
        exists=lambda cpu: "kvm_inert_msrs" in cpu.quirks,
        bank=bank,
        faulting=lambda cpu, index: 0,
        read=READ_CONSTANT,
    )


class Msr(NamedTuple):
    """A row evaluated for one index of one CPU model, as the core takes it."""

    address: int
    read: int
    write: int
    slot: int
    word: int
    writable: int
    faulting: int
    constant: int


def _table(cpu: CpuModel) -> tuple[Row, ...]:
    if cpu.vendor == "amd":
        from ._amd_msrs import TABLE
    else:
        from ._intel_msrs import TABLE
    return TABLE


def msrs(cpu: CpuModel) -> Iterator[Msr]:
    """Every MSR that exists on a CPU."""
    for row in _table(cpu):
        if not row.exists(cpu):
            continue
        for index in (0,) if row.bank is None else row.bank(cpu):
            writable = row.writable(cpu, index)
            faulting = ALL & ~writable if row.faulting is None else row.faulting(cpu, index)
            slot = index + FIXED_SLOT if row.fixed else index
            word = WORDS[row.field] + (slot if row.bank is not None else 0) if row.field else 0
            address = row.address + row.stride * index
            yield Msr(address, row.read, row.write, slot, word, writable, faulting, row.constant(cpu))


def selector_legal(cpu: CpuModel, index: int) -> int:
    """Bits of event selector ``index`` that a CPU stores."""
    if cpu.vendor == "amd":
        from ._amd_msrs import selector_writable
    else:
        from ._intel_msrs import selector_writable
    return selector_writable(cpu, index)


def msr_name(cpu: CpuModel, address: int) -> str:
    """Name of an MSR, such as ``IA32_PMC3``, whether or not this CPU has it; empty if it is none of the PMU's."""
    for row in _table(cpu):
        index, rest = divmod(address - row.address, row.stride)
        if row.bank is None and address == row.address:
            return row.name
        most = min(row.length, 8 if row.stride == 1 else 16)
        if row.bank is not None and rest == 0 and (0 <= index < most or index in row.bank(cpu)):
            return f"{row.name}{index}{row.suffix}"
    return ""


def _figures(cpu: CpuModel) -> dict[str, int]:
    counters = cpu.gp_mask | cpu.fixed_mask << 32
    amd = cpu.vendor == "amd"
    # CMASK and edge detection; Intel: AnyThread, IN_TX and IN_TXCP, which on AMD are bits of the event select.
    special = 0xFF040000 if amd else 0x3_FF240000
    shared = (0xF << 6) * ("perfctr_nb" in cpu.features) | (0x3F << 10) * ("perfctr_llc" in cpu.features)
    if "perfctr_nb" in cpu.features and cpu.df_counters > 4:
        shared |= ((1 << min(cpu.df_counters, 16) - 4) - 1) << 16
    metrics = cpu.perf_capabilities >> 15 & 1 and not amd
    return {
        "code_mask": code_mask(cpu),
        "rate_ref_cycles": cpu.rate_of("ref-cycles"),
        "rate_bus_cycles": 0 if amd else cpu.rate_of("bus-cycles"),
        "rate_slots": 0 if amd else cpu.rate_of("slots"),
        "special": special,
        "status": counters if cpu.version >= 2 else 0,
        "user_disable": 1 << 37 if "rdpmc_user_disable" in cpu.features else 0,
        "quirks": sum(1 << bit for bit, name in enumerate(CORE_QUIRKS) if name in cpu.quirks),
        "rdpmc_shared": shared if amd else 0,
        "perf_metrics": (8 if "topdown_l2" in cpu.features else 4) if metrics else 0,
    }


@functools.lru_cache(maxsize=256)
def register_file(cpu: CpuModel) -> RegisterFile:
    """Dense register table of a CPU model, made once."""
    codes = {code: PMU_EVENTS.index(name) for code, name in selector_codes(cpu).items()}
    return RegisterFile(cpu, msrs(cpu), codes, _figures(cpu))


@functools.lru_cache(maxsize=256)
def holdable(cpu: CpuModel) -> Mapping[int, int]:
    """Bits that each stored register can hold, by its word; what is not there holds 0."""
    legal: dict[int, int] = {}
    for msr in msrs(cpu):
        if msr.read == READ_WORD:
            legal[msr.word] = legal.get(msr.word, 0) | msr.writable
        if msr.write in (WRITE_STATUS_RESET, WRITE_STATUS_SET) and cpu.vendor == "intel":
            status = WORDS["global_status"]
            legal[status] = legal.get(status, 0) | msr.writable
    if cpu.vendor == "amd" and cpu.version >= 2:
        from ._amd_msrs import status_bits

        legal[WORDS["global_status"]] = status_bits(cpu)
    for index in range(32):
        if (cpu.gp_mask | cpu.fixed_mask << FIXED_SLOT) >> index & 1:
            legal[WORDS["counter"] + index] = (1 << (cpu.gp_width if index < FIXED_SLOT else cpu.fixed_width)) - 1
    if cpu.version < 2:
        legal[WORDS["global_ctrl"]] = cpu.gp_mask
    if "irperf" in cpu.features:
        legal[WORDS["irperf"]] = ALL
    return MappingProxyType(legal)
