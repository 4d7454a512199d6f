# cython: freethreading_compatible=True
"""Design ``passthrough``: mediated, but the guest writes its selectors without exits (a sole tenant, no event filter).

What the counters count is then known to the hardware alone, so put reads the selectors before it clears them.
"""
from cpython.pycapsule cimport PyCapsule_New

from vpmu_core._types cimport lowest_bit, uint32_t
from vpmu_core.designs.mediated cimport mediated_put, mediated_reactions, mediated_retire
from vpmu_core.eventfilter cimport load_controls
from vpmu_core.kvmpmu cimport recompute_counting
from vpmu_core.resident cimport read_msrs, selector_reads
from vpmu_core.unit cimport EVENT_INSTRUCTIONS, FIXED_SLOT, slots_of, write_fixed_ctr_ctrl, write_selector
from vpmu_core.state cimport design_t, machine_t

from vpmu_core.designs import mediated as _mediated


cdef bint _refuses(machine_t *m) noexcept nogil:
    # The fastpath must ask the selectors of the counters that GLOBAL_CTRL enables.
    cdef uint32_t on = slots_of(m.guest.global_ctrl) & m.guest.slots, left = on
    cdef bint counts = False
    cdef int slot
    read_msrs(m, selector_reads(on))
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if m.hardware.event[slot] == EVENT_INSTRUCTIONS and (m.hardware.local[0] | m.hardware.local[1]) >> slot & 1:
            counts = True
    return counts


cdef void _put(machine_t *m) noexcept nogil:
    cdef uint32_t left = m.guest.slots & 0xFFFF
    cdef int slot
    read_msrs(m, selector_reads(m.guest.slots))
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if m.guest.selector[slot] != m.hardware.selector[slot]:
            write_selector(&m.guest, slot, m.hardware.selector[slot])
            m.unloaded |= <uint32_t>1 << slot
    if m.guest.slots >> FIXED_SLOT and m.guest.fixed_ctr_ctrl != m.hardware.fixed_ctr_ctrl:
        write_fixed_ctr_ctrl(&m.guest, m.hardware.fixed_ctr_ctrl)
        m.unloaded |= m.guest.slots & ~<uint32_t>0xFFFF
    load_controls(m, m.guest.slots)
    mediated_put(m)
    recompute_counting(m, m.guest.slots)


cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil:
    # In the fastpath: it was asked whether anything counts instructions, and nothing does.
    return 0 if m.guest_in_hardware else mediated_retire(m, cpl)


cdef design_t _DESIGN
mediated_reactions(&_DESIGN)
_DESIGN.put = _put
_DESIGN.requests = NULL  # no control traps
_DESIGN.refuses = _refuses
_DESIGN.retire = _retire


flags = _mediated.flags


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
