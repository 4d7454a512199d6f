"""Which MSRs an Intel PMU has, and which of their bits software may set.

Intel SDM vol. 3B, "Performance Monitoring", and vol. 4; where they are silent or silicon differs, the write masks
that VirtualBox's CPU database probed on silicon.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._cpu import CpuModel
from ._register import (
    ADAPTIVE,
    ANY,
    ARCH_PEBS,
    ASCI,
    BR_CNTR,
    COND_CHGD,
    CTR_FRZ,
    EQ,
    FREEZE_LBRS,
    FREEZE_PERFMON,
    FREEZE_SMM,
    FW_WRITE,
    IN_TX,
    IN_TXCP,
    LBR_FRZ,
    METRICS_AVAILABLE,
    METRICS_CLEAR,
    METRICS_CLEAR_EN,
    OVF_BUFFER,
    OVF_METRICS,
    OVF_UNCORE,
    PEBS_BASELINE,
    PEBS_OUTPUT_PT,
    PEBS_THRESHOLD,
    PIN,
    SMM_FREEZE,
    TOPA_PMI,
    UNCORE_PMI,
    USER_DISABLE,
    Kind,
    Register,
    bits,
    field,
    has_capability,
    indices,
    lvtpc,
    ones,
    pebs_format,
)

ALL = ones(64)
#: What IA32_PERF_GLOBAL_OVF_CTRL reads where it does not read 0: Merom and Penryn, probed on silicon.
MEROM_RESET, PENRYN_RESET = 0x7_00000007, ALL


def registers(cpu: CpuModel) -> Iterator[Register]:
    """List the MSRs of an Intel model's PMU; any other address raises #GP(0)."""
    yield from _counters(cpu)
    if cpu.version >= 2:
        yield from _global_registers(cpu)
    yield from _uncore(cpu)
    yield from _pebs(cpu)
    if cpu.version >= 6:
        yield from _block(cpu)
    if has_capability(cpu, METRICS_AVAILABLE):
        yield Register(0x329, "IA32_PERF_METRICS", Kind.METRICS, "perf_metrics", None, ALL)
    if "pdcm" in cpu.features:
        yield Register(0x345, "IA32_PERF_CAPABILITIES", Kind.READ_ONLY, constant=cpu.perf_capabilities)
    yield Register(0x1D9, "IA32_DEBUGCTL", Kind.STORAGE, "debugctl", None, debugctl_bits(cpu))
    if "tsx_force_abort" in cpu.features:
        yield Register(0x10F, "MSR_TSX_FORCE_ABORT", Kind.STORAGE, "tsx_force_abort", None, ones(3))
    # Bit 7, EMON, is 1 and read-only; which bits may be written to no effect differs by generation.
    yield Register(0x1A0, "IA32_MISC_ENABLE", Kind.INERT, ignored=cpu.misc_enable_ignored, constant=bits(7))
    yield lvtpc(cpu)


def _counters(cpu: CpuModel) -> Iterator[Register]:
    storage, width, fixed_width = Kind.STORAGE, ones(cpu.gp_width), ones(cpu.fixed_width)
    for x in indices(cpu.gp_mask):
        yield Register(0xC1 + x, f"IA32_PMC{x}", Kind.PMC, "counters", x, width)
        if has_capability(cpu, FW_WRITE):
            yield Register(0x4C1 + x, f"IA32_A_PMC{x}", storage, "counters", x, width)
        yield _selector(cpu, 0x186 + x, f"IA32_PERFEVTSEL{x}", x)
        if has_capability(cpu, PEBS_OUTPUT_PT):
            yield Register(0x14C1 + x, f"MSR_RELOAD_PMC{x}", storage, "reload", x, width)
    absent = {0, 1} - set(indices(cpu.gp_mask))
    if cpu.quirks & {"p6_perfctr_raz", "kvm_inert_msrs"}:
        for x in absent:
            yield Register(0xC1 + x, f"P6 PERFCTR{x}", Kind.INERT, ignored=ALL, constant=0)
    if "kvm_inert_msrs" in cpu.quirks:
        # Those of a K7, and of a P6, which kvm_get_msr_common() lists whatever the guest is.
        for address in (*(0x186 + x for x in absent), *range(0xC0010000, 0xC0010008)):
            yield Register(address, f"MSR {address:#x}", Kind.INERT, ignored=ALL, constant=0)
    for m in indices(cpu.fixed_mask):
        yield _fixed_counter(cpu, 0x309 + m, f"IA32_FIXED_CTR{m}", m)
        if has_capability(cpu, PEBS_OUTPUT_PT):
            yield Register(0x1309 + m, f"MSR_RELOAD_FIXED_CTR{m}", storage, "reload", 16 + m, fixed_width)


def _selector(cpu: CpuModel, address: int, name: str, x: int) -> Register:
    legal = selector_bits(cpu, x)
    return Register(address, name, Kind.STORAGE, "selectors", x, legal, _dropped(cpu, legal))


def _fixed_counter(cpu: CpuModel, address: int, name: str, m: int) -> Register:
    legal = ones(cpu.fixed_width)
    return Register(address, name, Kind.STORAGE, "fixed", m, legal, _dropped(cpu, legal))


def _dropped(cpu: CpuModel, legal: int, *more_quirks: str) -> int:
    """Bits that a write may set in vain: none, except on Merom, where nothing faults."""
    return ALL & ~legal if cpu.quirks & {"reserved_ignore", *more_quirks} else 0


def _global_registers(cpu: CpuModel) -> Iterator[Register]:
    control = fixed_control_bits(cpu)
    dropped = _dropped(cpu, control)
    yield Register(0x38D, "IA32_FIXED_CTR_CTRL", Kind.STORAGE, "fixed_ctr_ctrl", None, control, dropped)
    status = global_status_bits(cpu)
    yield Register(0x38E, "IA32_PERF_GLOBAL_STATUS", Kind.READ_ONLY, "global_status", None, status)
    yield Register(0x38F, "IA32_PERF_GLOBAL_CTRL", Kind.GLOBAL_CTRL, "global_ctrl", None, global_ctrl_bits(cpu))
    reset_name = "IA32_PERF_GLOBAL_STATUS_RESET" if cpu.version >= 4 else "IA32_PERF_GLOBAL_OVF_CTRL"
    reads = 0
    if "reserved_ignore" in cpu.quirks:
        reads = MEROM_RESET
    elif "penryn_global" in cpu.quirks:
        reads = PENRYN_RESET
    yield Register(0x390, reset_name, Kind.STATUS_RESET, legal=status, constant=reads)
    if cpu.version >= 4:
        yield Register(0x391, "IA32_PERF_GLOBAL_STATUS_SET", Kind.STATUS_SET, legal=status, constant=0)
        yield Register(0x392, "IA32_PERF_GLOBAL_INUSE", Kind.INUSE)


def _uncore(cpu: CpuModel) -> Iterator[Register]:
    """List the uncore PMU of client parts, where version 4 put other registers."""
    if cpu.version <= 3 and "client_uncore" in cpu.features:
        enables = field(6, 0) if "pt" in cpu.features else field(4, 0)  # Broadwell has more slices
        for i, legal in enumerate((field(31, 29) | enables, ones(4), ones(4))):
            yield Register(0x391 + i, f"MSR_UNC_PERF_{0x391 + i:X}H", Kind.STORAGE, "uncore", i, legal)


def _pebs(cpu: CpuModel) -> Iterator[Register]:
    record_format, storage = pebs_format(cpu), Kind.STORAGE
    if record_format == ARCH_PEBS:
        yield Register(0x3F4, "IA32_PEBS_BASE", storage, "pebs_base", None, ALL)
        reserved = field(63, 59) | field(35, 33) | field(30, 27) | field(3, 0)
        yield Register(0x3F5, "IA32_PEBS_INDEX", storage, "pebs_index", None, ALL & ~reserved)
    if "ds" not in cpu.features:
        return
    yield Register(0x600, "IA32_DS_AREA", Kind.DS_AREA, "ds_area", None, ALL)
    if record_format != ARCH_PEBS and cpu.perf_capabilities & field(11, 6):  # Core 2 and Bonnell have format 0
        legal = pebs_enable_bits(cpu)
        dropped = _dropped(cpu, legal, "penryn_global")
        yield Register(0x3F1, "IA32_PEBS_ENABLE", storage, "pebs_enable", None, legal, dropped)
    if 4 <= record_format < ARCH_PEBS and has_capability(cpu, PEBS_BASELINE):
        legal = field(3, 0) | field(31, 24)
        if record_format >= 6:
            legal |= field(5, 4) | field(55, 32)
        yield Register(0x3F2, "MSR_PEBS_DATA_CFG", storage, "pebs_data_cfg", None, legal)


def _block(cpu: CpuModel) -> Iterator[Register]:
    """List the MSRs from 1900H on, which version 6 brings: other names for the counters, and two more of each."""
    for x in indices(cpu.gp_mask):
        width = ones(cpu.gp_width)
        yield Register(0x1900 + 4 * x, f"IA32_PMC_GP{x}_CTR", Kind.STORAGE, "counters", x, width)
        yield _selector(cpu, 0x1901 + 4 * x, f"IA32_PMC_GP{x}_CFG_A", x)
    for m in indices(cpu.fixed_mask):
        yield _fixed_counter(cpu, 0x1980 + 4 * m, f"IA32_PMC_FX{m}_CTR", m)
    # CPUID.23H.2 and .5 order their words differently: GP, fixed, ... and GP, GP (PDIST), fixed, ...
    yield from _reload_controls(cpu, 0x1900, "GP", 0, cpu.acr[0], cpu.pebs_masks[0])
    yield from _reload_controls(cpu, 0x1980, "FX", 16, cpu.acr[1], cpu.pebs_masks[2])


def _reload_controls(cpu: CpuModel, base: int, kind: str, place: int, acr: int, pebs: int) -> Iterator[Register]:
    counters = cpu.gp_mask | cpu.fixed_mask << 32
    for i in indices(acr & ones(16)):
        name = f"IA32_PMC_{kind}{i}_CFG_B"
        yield Register(base + 4 * i + 2, name, Kind.STORAGE, "cfg_b", place + i, counters)
    for i in indices((acr | pebs) & ones(16)):
        legal = field(31, 0)
        if pebs >> i & 1:
            legal |= field(38, 35) | field(41, 40) | field(63, 49)
        name = f"IA32_PMC_{kind}{i}_CFG_C"
        yield Register(base + 4 * i + 3, name, Kind.STORAGE, "cfg_c", place + i, legal)


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
    for feature, bit in (("br_cntr", BR_CNTR), ("eq", EQ), ("rdpmc_user_disable", USER_DISABLE)):
        if feature in cpu.features:
            legal |= bits(bit)
    return legal | field(47, 40) if "umask2" in cpu.features else legal


def fixed_control_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_FIXED_CTR_CTRL: OS, USR, AnyThread, PMI, adaptive PEBS and RDPMC of each counter."""
    legal = bits(METRICS_CLEAR_EN) if has_capability(cpu, METRICS_CLEAR) else 0
    for m in indices(cpu.fixed_mask):
        legal |= 0b1011 << 4 * m
        if has_any_thread(cpu):
            legal |= 0b0100 << 4 * m
        if has_capability(cpu, PEBS_BASELINE):
            legal |= bits(32 + 4 * m)
        if "rdpmc_user_disable" in cpu.features:
            legal |= bits(33 + 4 * m)
    return legal & ALL


def global_ctrl_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_PERF_GLOBAL_CTRL; Merom and Penryn take any."""
    if cpu.quirks & {"reserved_ignore", "penryn_global"}:
        return ALL
    metrics = bits(OVF_METRICS) if has_capability(cpu, METRICS_AVAILABLE) else 0
    return cpu.gp_mask | cpu.fixed_mask << 32 | metrics


def global_status_bits(cpu: CpuModel) -> int:
    """Bits that IA32_PERF_GLOBAL_STATUS can have (SDM vol. 3B 18.2.2 to 18.2.4)."""
    optional = {
        OVF_METRICS: has_capability(cpu, METRICS_AVAILABLE),
        PEBS_THRESHOLD: pebs_format(cpu) == ARCH_PEBS,
        TOPA_PMI: "pt" in cpu.features,
        LBR_FRZ: cpu.version >= 4,
        CTR_FRZ: cpu.version >= 4,
        ASCI: cpu.version >= 4 and "sgx" in cpu.features,
        OVF_UNCORE: cpu.version >= 4 or (cpu.version == 3 and "uncore_pmi" in cpu.features),
        OVF_BUFFER: "ds" in cpu.features,
        COND_CHGD: True,
    }
    return cpu.gp_mask | cpu.fixed_mask << 32 | bits(*(bit for bit, there in optional.items() if there))


def pebs_enable_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_PEBS_ENABLE; before the PEBS baseline they differ by generation."""
    if has_capability(cpu, PEBS_BASELINE):
        return cpu.gp_mask | cpu.fixed_mask << 32
    return cpu.pebs_enable_mask & (cpu.gp_mask | field(63, 32))


def debugctl_bits(cpu: CpuModel) -> int:
    """Legal bits of IA32_DEBUGCTL (SDM vol. 3B 17.4.1)."""
    legal = field(1, 0) | field(10, 6)
    if "pdcm" in cpu.features and cpu.version >= 2:
        legal |= bits(FREEZE_LBRS, FREEZE_PERFMON)
    if "uncore_pmi" in cpu.features:
        legal |= bits(UNCORE_PMI)
    if has_capability(cpu, SMM_FREEZE):
        legal |= bits(FREEZE_SMM)
    if "rtm" in cpu.features:
        legal |= bits(15)
    return legal
