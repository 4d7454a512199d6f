# cython: freethreading_compatible=True, cdivision=True
"""Counters advance: overflow, freeze and the PMI on its way to the local APIC (docs/pmu.md, sections 6 to 8)."""
from vpmu_core._types cimport ALL_ONES, int64_t, lowest_bit, uint32_t, uint64_t, uint128_t
from vpmu_core.random cimport sfc64_next
from vpmu_core.registers cimport (
    QUIRK_AMD_LATE_NMI, QUIRK_FREEZE_LATE, QUIRK_REFTSC_STICKY_OVF, QUIRK_SMM_USER, QUIRK_ZEN4_STATUS_RSVD,
)
from vpmu_core.unit cimport (
    CTR_FRZ, FIXED_SLOT, LBR_FRZ, LVTPC_MASKED, METRICS, SELECTOR_ENABLE, bits_of, enabled, unit_t, width_mask,
)

cdef uint64_t MERGE = 0xF000000FFULL  # event select FFFH
cdef int SLOTS_COUNTER = FIXED_SLOT + 3
cdef int REFERENCE_COUNTER = FIXED_SLOT + 2


cdef struct instant_t:  # p/q of a call's occurrences, which advance evenly
    uint128_t p
    uint64_t q  # 0: never


cdef bint is_pair(const unit_t *unit, int slot) noexcept nogil:
    """AMD PPR, Large Increment per Cycle: an odd counter with the merge event extends the even one to 64 bits."""
    if not unit.file.amd or slot & 1 or not unit.pmu.slots >> (slot + 1) & 1:
        return False
    return unit.pmu.selector[slot + 1] & MERGE == MERGE and unit.pmu.selector[slot + 1] & SELECTOR_ENABLE != 0


cdef uint32_t counting(const unit_t *unit, bint user) noexcept nogil:
    """Slots that count; in SMM, where QUIRK_SMM_USER has it, the user's too."""
    cdef uint32_t on = enabled(&unit.pmu, user)
    if unit.smm and unit.file.quirks & QUIRK_SMM_USER:
        on |= enabled(&unit.pmu, not user)
    return on


cdef bint metrics_count(const unit_t *unit, bint user) noexcept nogil:
    """PERF_METRICS counts beside FIXED_CTR3, with an enable bit of its own in GLOBAL_CTRL."""
    if not unit.file.perf_metrics or not unit.pmu.global_ctrl >> 48 & 1:
        return False
    return counting(unit, user) >> SLOTS_COUNTER & 1


cdef inline uint128_t _room(const unit_t *unit, int slot) noexcept nogil:
    # Occurrences up to the next wrap.
    if is_pair(unit, slot):
        return (<uint128_t>1 << 64) - (unit.pmu.counter[slot + 1] << 48 | unit.pmu.counter[slot])
    return <uint128_t>width_mask(&unit.pmu, slot) + 1 - unit.pmu.counter[slot]


cdef instant_t _first_wrap(const unit_t *unit, const happening_t *h, uint32_t slots) noexcept nogil:
    """The first instant at which one of these counters wraps."""
    cdef instant_t first
    cdef uint128_t room
    cdef int slot
    first.p = 0
    first.q = 0
    while slots:
        slot = lowest_bit(slots)
        slots &= slots - 1
        room = _room(unit, slot)
        if h.got[slot] >= room and (first.q == 0 or room * first.q < first.p * h.got[slot]):
            first.p = room
            first.q = h.got[slot]
    return first


cdef inline uint64_t _share(uint64_t amount, instant_t instant) noexcept nogil:
    return <uint64_t>(amount * instant.p // instant.q)


cdef void _freeze(unit_t *unit) noexcept nogil:
    """Freeze on PMI: SDM vol. 3B 17.4.7 (legacy, versions 2 and 3) and 18.2.4 (streamlined); AMD as the latter."""
    cdef bint legacy = not unit.file.amd and unit.file.version < 4
    if unit.file.version < 2:
        return
    if unit.debugctl >> 12 & 1:
        if legacy:
            unit.pmu.global_ctrl = 0
        else:
            unit.pmu.global_status |= <uint64_t>1 << CTR_FRZ
    if unit.debugctl >> 11 & 1:
        if legacy:
            unit.debugctl &= ~<uint64_t>1
        else:
            unit.pmu.global_status |= <uint64_t>1 << LBR_FRZ


cdef void _request_pmi(unit_t *unit, uint64_t at) noexcept nogil:
    """A PMI leaves the PMU; one that is on its way already takes this one along."""
    cdef uint64_t skid = 0
    if unit.pmi_arrival >= 0:
        return
    if unit.has_skid:
        skid = unit.file.skid_minimum + ((sfc64_next(&unit.skid) >> 32) * unit.file.skid_range >> 32)
    unit.pmi_arrival = <int64_t>(at + skid)


cdef void _arrive(unit_t *unit) noexcept nogil:
    """The local APIC handles a PMI: dropped while LVTPC is masked; Intel's masks LVTPC (SDM vol. 3A 10.5.1)."""
    if unit.pmi_arrival < 0 or <uint64_t>unit.pmi_arrival > unit.cycles:
        return
    unit.pmi_arrival = -1
    if unit.pmu.lvtpc & LVTPC_MASKED:
        return
    unit.pmi_pending = 2 if unit.pmi_pending and unit.file.quirks & QUIRK_AMD_LATE_NMI else 1
    unit.pmi_entry = unit.pmu.lvtpc & 0x7FF
    if not unit.file.amd:
        unit.pmu.lvtpc |= LVTPC_MASKED
    if unit.file.quirks & QUIRK_FREEZE_LATE:
        _freeze(unit)


cdef bint _add(unit_t *unit, int slot, uint64_t got) noexcept nogil:
    """Advance one counter; whether it wrapped, however often."""
    cdef uint64_t mask = width_mask(&unit.pmu, slot)
    cdef uint128_t total
    if is_pair(unit, slot):
        total = <uint128_t>(unit.pmu.counter[slot + 1] << 48 | unit.pmu.counter[slot]) + got
        unit.pmu.counter[slot] = <uint64_t>total & mask
        unit.pmu.counter[slot + 1] = (unit.pmu.counter[slot + 1] & ~<uint64_t>0xFFFF) | <uint64_t>total >> 48
        return total > ALL_ONES
    total = <uint128_t>unit.pmu.counter[slot] + got
    unit.pmu.counter[slot] = <uint64_t>total & mask
    return total > mask


cdef void _count_metrics(unit_t *unit, const happening_t *h) noexcept nogil:
    cdef uint64_t slots = unit.pmu.counter[SLOTS_COUNTER], field
    cdef uint128_t scaled
    cdef bint moved = h.got[SLOTS_COUNTER] != 0
    cdef int i
    for i in range(unit.file.perf_metrics):
        unit.metrics_slots[i] += h.metrics[i]
        moved |= h.metrics[i] != 0
    if not moved:
        return
    for i in range(unit.file.perf_metrics):
        field = 0
        if slots:
            scaled = (<uint128_t>510 * unit.metrics_slots[i] + slots) // (2 * <uint128_t>slots)
            field = 255 if scaled > 255 else <uint64_t>scaled
        unit.perf_metrics = (unit.perf_metrics & ~(<uint64_t>0xFF << 8 * i)) | field << 8 * i


cdef void advance(unit_t *unit, happening_t *h) noexcept nogil:
    """Everything in ``h`` happens evenly over its cycles; a freeze cuts it at the overflow."""
    cdef uint32_t left, wrapped = 0, moved = 0
    cdef uint64_t start = unit.cycles
    cdef bint again = False
    cdef instant_t first, request
    cdef int slot, i
    first = _first_wrap(unit, h, h.on & unit.pmu.interrupt)
    request = _first_wrap(unit, h, (h.on | h.spurious) & unit.pmu.interrupt) if h.spurious else first
    if unit.hwcr >> 30 & 1:
        unit.irperf += h.instructions
    if first.q and unit.file.version >= 2 and unit.debugctl >> 12 & 1 and not unit.file.quirks & QUIRK_FREEZE_LATE:
        left = h.on
        while left:
            slot = lowest_bit(left)
            left &= left - 1
            h.got[slot] = _share(h.got[slot], first)
        for i in range(METRICS):
            h.metrics[i] = _share(h.metrics[i], first)
    left = h.on
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if h.got[slot]:
            moved |= <uint32_t>1 << slot
            if _add(unit, slot, h.got[slot]):
                wrapped |= <uint32_t>1 << slot
    unit.in_flight = moved
    unit.cycles = start + h.cycles
    if wrapped:
        # SDM vol. 3B: STATUS is set on a wrap whatever INT; INT decides whether a PMI is requested.
        if unit.file.status:
            unit.pmu.global_status |= bits_of(wrapped) & unit.file.status
            if unit.file.quirks & QUIRK_ZEN4_STATUS_RSVD and unit.file.amd:
                unit.pmu.global_status |= 0x80
            if wrapped >> SLOTS_COUNTER & 1 and unit.pmu.global_ctrl >> 48 & 1 and unit.file.perf_metrics:
                unit.pmu.global_status |= <uint64_t>1 << 48
        if unit.file.quirks & QUIRK_REFTSC_STICKY_OVF and wrapped >> REFERENCE_COUNTER & 1:
            unit.reftsc_latch = 1
    if unit.reftsc_latch and moved >> REFERENCE_COUNTER & 1 and not unit.pmu.global_status >> 34 & 1:
        # Intel's event files, REF_TSC: its clock is slower, and the bit may set once more after it was cleared.
        again = True
        unit.reftsc_latch = 0
    if h.metrics_on:
        _count_metrics(unit, h)
    if request.q:
        _request_pmi(unit, start + _share(h.cycles, request))
    if again:
        unit.pmu.global_status |= <uint64_t>1 << 34
        if unit.pmu.interrupt >> REFERENCE_COUNTER & 1:
            _request_pmi(unit, unit.cycles)
    if first.q and not unit.file.quirks & QUIRK_FREEZE_LATE:
        _freeze(unit)
    _arrive(unit)
