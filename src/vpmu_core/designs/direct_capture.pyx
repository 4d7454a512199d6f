# cython: freethreading_compatible=True
"""Design ``direct-capture``: emulated, but writes of controls go to the hardware counter of the event that stands behind.

After "Intel Virtual PMU Optimization" v2 (Like Xu, March 2019). Host perf placed the event by the selector that it was created
with; whether it checks the later ones is the option ``constraints``.
"""
from cpython.pycapsule cimport PyCapsule_New

from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t
from vpmu_core.counting cimport spend, tally
from vpmu_core.designs.emulated cimport _access as emulated_access, _fixed_selector, emulated_reactions
from vpmu_core.hostdriver cimport write_host_nibble, write_host_selector
from vpmu_core.kinds cimport (
    ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL, ACCESS_SELECTOR, COST_WRMSR, FIRST_OWN_FLAG, OP_WRMSR_SELECTOR,
    ORIGIN_HYPERVISOR, REUSE_EVENTS,
)
from vpmu_core.kvmpmu cimport locally_enabled, recompute_counting
from vpmu_core.perfevents cimport host_event_t, vcpu_counter_t
from vpmu_core.state cimport access_t, design_t, machine_t
from vpmu_core.unit cimport (
    FIXED_SLOT, SELECTOR_ENABLE, SELECTOR_INT, SELECTOR_OS, SELECTOR_USR, slots_of, write_fixed_ctr_ctrl, write_selector,
)

cdef enum:
    HOST_CONSTRAINTS = FIRST_OWN_FLAG << 1


cdef bint _assigned(const machine_t *m, int slot) noexcept nogil:
    cdef const vcpu_counter_t *c = &m.vcpu[slot]
    return (
        c.event >= 0 and not c.paused and m.host_event[c.event].slot >= 0 and not m.reprogram >> slot & 1
    )


cdef void _capture(machine_t *m, int slot) noexcept nogil:
    """Write the guest's control to the counter that the event is scheduled on, whatever counter that is."""
    cdef vcpu_counter_t *c = &m.vcpu[slot]
    cdef host_event_t *e = &m.host_event[c.event]
    cdef uint64_t selector = m.guest.selector[slot] if slot < FIXED_SLOT else _fixed_selector(m, slot)
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_SELECTOR, 1)
    spend(m, COST_WRMSR)
    m.settled = m.settled_gp = m.settled_slots = 0
    e.held = not (locally_enabled(m, slot) and slots_of(m.guest.global_ctrl) >> slot & 1)
    e.selector = (selector & (0xFFFF | SELECTOR_USR | SELECTOR_OS)) | SELECTOR_INT
    e.event = m.guest.event[slot]
    e.user = (selector & SELECTOR_USR) != 0
    e.kernel = (selector & SELECTOR_OS) != 0
    if not e.held:
        c.key = m.guest.selector[slot] if slot < FIXED_SLOT else m.guest.fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 15
    if e.slot < FIXED_SLOT:
        write_host_selector(m, e)
    else:
        write_host_nibble(m, e)  # the event of a fixed counter is what it is


cdef inline bint _toggles(uint64_t old, uint64_t new) noexcept nogil:
    # The enable bits of a fixed counter's field.
    return (old & 3 == 0) != (new & 3 == 0)


cdef uint32_t _changed(machine_t *m, const access_t *a, uint32_t *through_perf) noexcept nogil:
    """Slots whose control a write changes; those of them that host perf must see."""
    cdef uint32_t changed = 0
    cdef uint64_t old, new
    cdef int i
    through_perf[0] = 0
    if a.access == ACCESS_GLOBAL_CTRL:
        return slots_of(a.value ^ m.guest.global_ctrl) & m.guest.slots
    if a.access == ACCESS_SELECTOR:
        if m.flags & HOST_CONSTRAINTS and a.value ^ m.guest.selector[a.slot] != SELECTOR_ENABLE and _assigned(m, a.slot):
            through_perf[0] = <uint32_t>1 << a.slot  # as it was written, a value that changes nothing goes this way, too
        elif a.value == m.guest.selector[a.slot]:
            return 0
        return <uint32_t>1 << a.slot
    for i in range(16):
        old, new = m.guest.fixed_ctr_ctrl >> 4 * i & 15, a.value >> 4 * i & 15
        if old != new and m.guest.slots >> (FIXED_SLOT + i) & 1:
            changed |= <uint32_t>1 << (FIXED_SLOT + i)
            if m.flags & HOST_CONSTRAINTS and not _toggles(old, new):
                through_perf[0] |= <uint32_t>1 << (FIXED_SLOT + i)
    return changed


cdef void _access(machine_t *m, access_t *a) noexcept nogil:
    cdef uint32_t changed, through_perf = 0, captured = 0, left
    cdef int slot
    if a.access not in (ACCESS_SELECTOR, ACCESS_FIXED_CTR_CTRL, ACCESS_GLOBAL_CTRL):
        emulated_access(m, a)
        return
    m.ledger_stale = True
    changed = _changed(m, a, &through_perf)
    left = changed & ~through_perf
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if _assigned(m, slot):
            captured |= <uint32_t>1 << slot
    m.reprogram |= changed & ~captured
    if a.access == ACCESS_SELECTOR:
        m.in_use |= <uint32_t>1 << a.slot
        write_selector(&m.guest, a.slot, a.value)
    elif a.access == ACCESS_FIXED_CTR_CTRL:
        write_fixed_ctr_ctrl(&m.guest, a.value)
    else:
        m.guest.global_ctrl = a.value
    left = captured
    while left:
        _capture(m, lowest_bit(left))
        left &= left - 1
    recompute_counting(m, captured)


cdef design_t _DESIGN
emulated_reactions(&_DESIGN)
_DESIGN.access = _access


def flags(options):
    """Return the design_flag bits that the options of a plan mean."""
    return REUSE_EVENTS | (HOST_CONSTRAINTS if options.get("constraints") == "host" else 0)


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
