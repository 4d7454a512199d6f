# cython: freethreading_compatible=True, cdivision=True
"""Register accesses of one PMU, by the table of its CPU model."""
from libc.string cimport memset

from vpmu_core._types cimport uint8_t, uint32_t, uint64_t, uint128_t
from vpmu_core.registers cimport (
    QUIRK_NHM_ENABLE, QUIRK_RDPMC_OOO, READ_ABSENT, READ_CONSTANT, READ_WORD, WRITE_CANONICAL, WRITE_COUNTER_LEGACY,
    WRITE_FIXED_CTR_CTRL, WRITE_GLOBAL_CTRL, WRITE_LVTPC, WRITE_METRICS, WRITE_READ_ONLY, WRITE_RELOAD_MASK,
    WRITE_SELECTOR, WRITE_STATUS_RESET, WRITE_STATUS_SET, WRITE_WORD, find_msr, msr_t, register_file_t,
)
from vpmu_core.unit cimport (
    FIXED_SLOT, LVTPC_MASKED, METRICS, NO_EVENT, SLOTS, event_of_fixed, pmu_t, unit_t, width_mask,
    write_fixed_ctr_ctrl, write_selector,
)


cdef void reset(pmu_t *pmu, const register_file_t *file) noexcept nogil:
    """Bring a PMU into its RESET state (SDM vol. 3A, processor state after reset; GLOBAL_CTRL has all GP bits)."""
    cdef int slot
    memset(pmu, 0, sizeof(pmu_t))
    pmu.slots = file.slots
    pmu.codes = &file.codes
    pmu.width_mask[0] = file.gp_width_mask
    pmu.width_mask[1] = file.fixed_width_mask
    pmu.global_ctrl = file.reset_global_ctrl
    pmu.lvtpc = LVTPC_MASKED
    pmu.admitted = 0xF
    for slot in range(SLOTS):
        pmu.event[slot] = NO_EVENT if slot < FIXED_SLOT else event_of_fixed(slot - FIXED_SLOT)


cdef void reset_unit(unit_t *unit, const register_file_t *file) noexcept nogil:
    """The same with everything that software sees."""
    memset(unit, 0, sizeof(unit_t))
    reset(&unit.pmu, file)
    unit.file = file
    unit.pmi_arrival = -1
    unit.enable_hazard = (file.quirks & QUIRK_NHM_ENABLE) != 0
    if file.amd:
        set_mode(unit, False, False)


cdef void set_mode(unit_t *unit, bint svme, bint guest) noexcept nogil:
    """EFER.SVME and guest mode decide what HostOnly and GuestOnly let count (AMD APM vol. 2, PERF_CTL)."""
    cdef int slot
    unit.svme = svme
    unit.guest = guest
    unit.pmu.admitted = 0x1 if not svme else (0xB if guest else 0xD)
    for slot in range(FIXED_SLOT):
        if unit.pmu.slots >> slot & 1:
            write_selector(&unit.pmu, slot, unit.pmu.selector[slot])


cdef uint64_t _inuse(const unit_t *unit) noexcept nogil:
    # SDM vol. 3B, IA32_PERF_GLOBAL_INUSE; PMI_InUse is bit 63.
    cdef const pmu_t *pmu = &unit.pmu
    cdef uint64_t value = 0
    cdef int slot
    for slot in range(16):
        if pmu.slots >> slot & 1 and pmu.selector[slot] & 0xFF:
            value |= <uint64_t>1 << slot
        if pmu.slots >> (FIXED_SLOT + slot) & 1 and pmu.fixed_ctr_ctrl >> 4 * slot & 3:
            value |= <uint64_t>1 << (32 + slot)
    if pmu.interrupt or unit.pebs_enable & 0xFFFFFFFFU:
        value |= <uint64_t>1 << 63
    return value


cdef void write_metrics(unit_t *unit, uint64_t value) noexcept nogil:
    """Restore PERF_METRICS: what each field means in slots follows from FIXED_CTR3, which software restores first."""
    cdef uint64_t slots = unit.pmu.counter[FIXED_SLOT + 3]
    cdef int i
    unit.perf_metrics = value
    memset(unit.metrics_slots, 0, METRICS * sizeof(uint64_t))
    for i in range(unit.file.perf_metrics):
        unit.metrics_slots[i] = <uint64_t>((<uint128_t>2 * (value >> 8 * i & 0xFF) * slots + 255) // 510)


cdef fault read_msr(const unit_t *unit, uint32_t address, uint64_t *value) noexcept nogil:
    """RDMSR at CPL 0."""
    cdef const msr_t *msr = find_msr(unit.file, address)
    if msr.read == READ_WORD:
        value[0] = (<const uint64_t *>unit)[msr.word]
    elif msr.read == READ_ABSENT:
        return FAULT_ABSENT
    elif msr.read == READ_CONSTANT:
        value[0] = msr.constant
    else:
        value[0] = _inuse(unit)
    return FAULT_NONE


cdef fault write_msr(unit_t *unit, uint32_t address, uint64_t value) noexcept nogil:
    """WRMSR at CPL 0; a fault changes nothing."""
    cdef const msr_t *msr = find_msr(unit.file, address)
    cdef pmu_t *pmu = &unit.pmu
    cdef uint8_t write = msr.write
    cdef uint64_t mode
    if write == WRITE_READ_ONLY:
        return FAULT_ABSENT if msr.read == READ_ABSENT else FAULT_READ_ONLY
    if value & msr.faulting:
        return FAULT_RESERVED
    if write == WRITE_GLOBAL_CTRL and value == 0:
        unit.enable_hazard = 0
    value &= msr.writable
    if write == WRITE_WORD:
        (<uint64_t *>unit)[msr.word] = value
    elif write == WRITE_COUNTER_LEGACY:
        if value & 0x80000000U:
            value |= 0xFFFFFFFF00000000ULL
        else:
            value &= 0xFFFFFFFFU
        pmu.counter[msr.slot] = value & pmu.width_mask[0]
    elif write == WRITE_SELECTOR:
        write_selector(pmu, msr.slot, value)
    elif write == WRITE_FIXED_CTR_CTRL:
        write_fixed_ctr_ctrl(pmu, value)
    elif write == WRITE_GLOBAL_CTRL:
        pmu.global_ctrl = value
    elif write == WRITE_STATUS_RESET:
        pmu.global_status &= ~value
    elif write == WRITE_STATUS_SET:
        pmu.global_status |= value
    elif write == WRITE_METRICS:
        write_metrics(unit, value)
    elif write == WRITE_CANONICAL:
        mode = value >> 47
        if mode != 0 and mode != 0x1FFFF:
            return FAULT_CANONICAL
        (<uint64_t *>unit)[msr.word] = value
    elif write == WRITE_LVTPC:
        mode = value >> 8 & 7
        if mode != 0 and mode != 2 and mode != 4:
            return FAULT_DELIVERY_MODE
        pmu.lvtpc = value
    elif write == WRITE_RELOAD_MASK:
        (<uint64_t *>unit)[msr.word] = value
        if value:
            unit.reloads |= <uint32_t>1 << msr.slot
        else:
            unit.reloads &= ~(<uint32_t>1 << msr.slot)
    unit.in_flight = 0
    return FAULT_NONE


cdef inline uint64_t _counter(const unit_t *unit, int slot, bint user) noexcept nogil:
    cdef uint64_t value = unit.pmu.counter[slot]
    cdef uint64_t control
    if unit.file.quirks & QUIRK_RDPMC_OOO and unit.in_flight >> slot & 1:
        value = (value - 1) & width_mask(&unit.pmu, slot)
    if user and unit.file.user_disable:
        if slot < FIXED_SLOT:
            control = unit.pmu.selector[slot] & unit.file.user_disable
        else:
            control = unit.pmu.fixed_ctr_ctrl >> (33 + 4 * (slot - FIXED_SLOT)) & 1
        if control:
            return 0
    return value


cdef fault read_pmc(unit_t *unit, uint32_t ecx, int cpl, bint allowed, uint64_t *value) noexcept nogil:
    """RDPMC: on Intel ECX[31:16] is the type and ECX[15:0] the index (SDM vol. 2), on AMD ECX is the index."""
    cdef uint32_t kind = ecx >> 16
    cdef uint32_t index = ecx & 0xFFFF
    if cpl and not allowed:
        return FAULT_PRIVILEGE
    if unit.file.amd:
        if ecx >= 32 or not (unit.pmu.slots | unit.file.rdpmc_shared) >> ecx & 1:
            return FAULT_RDPMC_INDEX
        value[0] = _counter(unit, ecx, False) if unit.pmu.slots >> ecx & 1 else 0
        return FAULT_NONE
    if kind == 0x2000 and index == 0 and unit.file.perf_metrics:
        value[0] = unit.perf_metrics
        if unit.file.metrics_clear and unit.pmu.fixed_ctr_ctrl >> 14 & 1:
            unit.pmu.counter[FIXED_SLOT + 3] = 0
            write_metrics(unit, 0)
        return FAULT_NONE
    if index >= 16 or (kind and kind != 0x4000):
        return FAULT_RDPMC_INDEX
    if kind:
        index += FIXED_SLOT
    if not unit.pmu.slots >> index & 1:
        return FAULT_RDPMC_INDEX
    value[0] = _counter(unit, index, cpl > 0)
    return FAULT_NONE
