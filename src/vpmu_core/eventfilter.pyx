# cython: freethreading_compatible=True
"""KVM's event filter (Linux arch/x86/kvm/pmu.c, check_pmu_event_filter(); docs/machine.md, section 13)."""
from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t
from vpmu_core.unit cimport FIXED_SLOT, GUEST_ONLY, SELECTOR_ENABLE
from vpmu_core.counting cimport meter_denied
from vpmu_core.state cimport event_filter_t, machine_t

cdef uint64_t EVENT_SELECT = 0xF000000FFULL  # of a masked entry


cdef bint _contains(const uint64_t *entries, uint32_t n, uint64_t event, uint64_t umask) noexcept nogil:
    """Whether an entry matches; they are sorted by event select."""
    cdef uint32_t low = 0, high = n, middle
    while low < high:
        middle = low + ((high - low) >> 1)
        if entries[middle] & EVENT_SELECT < event:
            low = middle + 1
        else:
            high = middle
    while low < n and entries[low] & EVENT_SELECT == event:
        if umask & entries[low] >> 56 == entries[low] >> 8 & 0xFF:
            return True
        low += 1
    return False


cdef bint filter_denies(const event_filter_t *f, uint64_t selector) noexcept nogil:
    """KVM is_gp_event_allowed(), the other way round."""
    cdef uint64_t event = selector & f.event_bits, umask = selector >> 8 & 0xFF
    cdef bint hit = _contains(f.included, f.includes, event, umask) and not _contains(f.excluded, f.excludes, event, umask)
    return hit != f.allow


cdef void filter_slots(machine_t *m) noexcept nogil:
    """What the filter says of every guest counter."""
    cdef uint32_t left = m.guest.slots
    while left:
        filter_slot(m, lowest_bit(left))
        left &= left - 1


cdef void change_filter(machine_t *m) noexcept nogil:
    """The filters that are due come into force; KVM then reprograms every counter."""
    while m.wall >= m.filter_due:
        m.filter = &m.filters[m.next_filter].filter
        m.next_filter += 1
        m.filter_due = m.filters[m.next_filter].at
    filter_slots(m)
    m.reprogram |= m.guest.slots
    meter_denied(m)


cdef void _load_control(machine_t *m, int slot) noexcept nogil:
    cdef uint32_t bit = <uint32_t>1 << slot, on = 0 if m.denied & bit else bit
    cdef uint64_t field
    if slot < FIXED_SLOT:
        field = m.loaded.selector[slot] & <uint64_t>m.amd << GUEST_ONLY
        m.loaded.selector[slot] = (m.guest.selector[slot] & ~(<uint64_t>SELECTOR_ENABLE if not on else 0)) | field
        m.loaded.nonzero = (m.loaded.nonzero & ~bit) | (bit if m.loaded.selector[slot] else 0)
        m.loaded.interrupt = (m.loaded.interrupt & ~bit) | (m.guest.interrupt & bit)
    else:
        field = <uint64_t>15 << 4 * (slot - FIXED_SLOT)
        m.loaded.fixed_ctr_ctrl = (m.loaded.fixed_ctr_ctrl & ~field) | (m.guest.fixed_ctr_ctrl & field if on else 0)
        m.loaded.interrupt = (m.loaded.interrupt & ~bit) | (m.guest.interrupt & on)
    m.loaded.local[0] = (m.loaded.local[0] & ~bit) | (m.guest.local[0] & on)
    m.loaded.local[1] = (m.loaded.local[1] & ~bit) | (m.guest.local[1] & on)


cdef void load_controls(machine_t *m, uint32_t slots) noexcept nogil:
    """KVM kvm_mediated_pmu_refresh_event_filter(): eventsel_hw, or the counter's field of fixed_ctr_ctrl_hw."""
    cdef uint32_t left = slots & m.unloaded
    m.unloaded &= ~slots
    while left:
        _load_control(m, lowest_bit(left))
        left &= left - 1
