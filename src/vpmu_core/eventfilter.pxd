# KVM's event filter (docs/machine.md, section 13): looked at when a control changes, never on the way of an exit.
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.unit cimport FIXED_SLOT
from vpmu_core.state cimport event_filter_t, machine_t


cdef bint filter_denies(const event_filter_t *f, uint64_t selector) noexcept nogil


cdef inline bint filter_denies_fixed(const event_filter_t *f, int index) noexcept nogil:
    # KVM is_fixed_event_allowed(): the bitmap alone.
    return (f.fixed >> index & 1) != f.allow


cdef inline void filter_slot(machine_t *m, int slot) noexcept nogil:
    # What the filter says of a guest counter as its control stands now.
    cdef uint32_t bit = <uint32_t>1 << slot
    cdef bint denied = False
    if m.filter != NULL:
        if slot < FIXED_SLOT:
            denied = filter_denies(m.filter, m.guest.selector[slot])
        else:
            denied = filter_denies_fixed(m.filter, slot - FIXED_SLOT)
    m.denied = (m.denied | bit) if denied else (m.denied & ~bit)
    m.unloaded |= bit


cdef void filter_slots(machine_t *m) noexcept nogil
cdef void change_filter(machine_t *m) noexcept nogil
cdef void load_controls(machine_t *m, uint32_t slots) noexcept nogil
