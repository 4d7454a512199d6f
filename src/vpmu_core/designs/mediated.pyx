# cython: freethreading_compatible=True
"""Design ``mediated``: guest PMU state is switched into hardware around the run loop (Linux 7.0)."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core._types cimport lowest_bit, uint32_t
from vpmu_core.hostperf cimport place_host_events
from vpmu_core.kvmpmu cimport access_registers, counting_at, recompute_counting
from vpmu_core.unit cimport LVTPC_NMI, bits_of, slots_of, width_mask
from vpmu_core.switching cimport load_guest, put_guest
from vpmu_core.counting cimport spend
from vpmu_core.state cimport (
    ACCESS_COUNTER, ACCESS_GLOBAL_CTRL, ACCESS_RDPMC, COST_HOST_NMI, COST_REPROGRAM, EFFECT_PMI,
    EXIT_EXTERNAL_INTERRUPT, KERNEL, access_t, design_t, machine_t,
)
from vpmu_core.timeline cimport request_guest_pmi, vm_exit


cdef void _leave(machine_t *m) noexcept nogil:
    # VM-exit saves GLOBAL_CTRL (into the cache, if the guest writes it without exits) and loads 0.
    if not m.traps >> ACCESS_GLOBAL_CTRL & 1:
        m.guest.global_ctrl = m.hardware.global_ctrl
    m.hardware.global_ctrl = 0


cdef void _enter(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = m.guest.global_ctrl


cdef bint _refuses(machine_t *m) noexcept nogil:
    # The counter values are in hardware, so the fastpath cannot account for the instruction that it skips.
    return (m.counting_instructions & slots_of(m.guest.global_ctrl)) != 0


cdef void _access(machine_t *m, access_t *a) noexcept nogil:
    if a.access == ACCESS_RDPMC:
        a.value = m.guest.counter[a.slot]
    elif a.access == ACCESS_COUNTER:
        m.guest.counter[a.slot] = a.value & width_mask(&m.guest, a.slot)
    else:
        access_registers(m, a)


cdef uint32_t _retire(machine_t *m, int cpl) noexcept nogil:
    cdef uint32_t counted = counting_at(m, cpl), left = counted, bit
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        bit = <uint32_t>1 << slot
        m.guest.counter[slot] = (m.guest.counter[slot] + 1) & width_mask(&m.guest, slot)
        if m.guest.counter[slot] == 0:
            m.overflow_at[slot] = m.wall
            m.guest.global_status |= bits_of(bit)
            if m.guest.interrupt & bit:
                m.pmi.raised += 1
                request_guest_pmi(m)
    return counted


cdef void _requests(machine_t *m) noexcept nogil:
    # Without an event filter a selector reaches hardware as the guest wrote it.
    cdef uint32_t processed = m.reprogram, left = processed
    m.reprogram = 0
    while left:
        left &= left - 1
        m.reprograms += 1
        spend(m, COST_REPROGRAM)
    recompute_counting(m, processed)


cdef void _arrive(machine_t *m) noexcept nogil:
    if m.in_guest:
        m.pmu_exits[EXIT_EXTERNAL_INTERRUPT] += 1
        vm_exit(m, KERNEL, 0, False, 0, 0, EFFECT_PMI, NULL)
    elif m.hardware.lvtpc & LVTPC_NMI:
        # Past the switch of LVTPC: an NMI that host perf has no use for.
        m.pmi.skid_past_exit += 1
        m.pmi.lost += 1
        spend(m, COST_HOST_NMI)
    elif m.vector_pending:
        m.pmi.coalesced += 1
    else:
        m.vector_pending = True


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.start = place_host_events
_DESIGN.leave = _leave
_DESIGN.enter = _enter
_DESIGN.put = put_guest
_DESIGN.load = load_guest
_DESIGN.requests = _requests
_DESIGN.arrive = _arrive
_DESIGN.refuses = _refuses
_DESIGN.access = _access
_DESIGN.retire = _retire


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
