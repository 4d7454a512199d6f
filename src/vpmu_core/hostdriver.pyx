# cython: freethreading_compatible=True
"""Host perf's brackets by vendor and version (Linux arch/x86/events: intel/core.c, amd/core.c, core.c)."""
from vpmu_core._types cimport uint64_t
from vpmu_core.counting cimport host_activity, host_advance, tally
from vpmu_core.hostsched cimport host_global_ctrl, spend_ops, write_global_ctrl
from vpmu_core.kinds cimport COST_RDMSR, OP_RDMSR, ORIGIN_HOST
from vpmu_core.state cimport machine_t


cdef uint64_t _active(const machine_t *m) noexcept nogil:
    # cpuc->active_mask
    cdef uint64_t n = 0
    cdef int i
    for i in range(m.host_events):
        n += m.host_event[i].slot >= 0 and not m.host_event[i].throttled
    return n


cdef void spend_rdmsr(machine_t *m, uint64_t n) noexcept nogil:
    """RDMSRs in a row."""
    tally(m, ORIGIN_HOST, OP_RDMSR, n)
    m.spent[COST_RDMSR] += n * m.cost[COST_RDMSR]
    host_advance(m, host_activity(m), n * m.cost[COST_RDMSR])


cdef uint64_t host_pmu_disable(machine_t *m) noexcept nogil:
    """x86_pmu_disable(): nothing counts afterwards.

    Returns the RDMSRs that AMD's wait for overflows adds, one for each active counter (amd_pmu_check_overflow()).
    """
    cdef uint64_t n = _active(m) if m.amd else 0
    if m.host_v1:
        spend_rdmsr(m, n)
        spend_ops(m, 0, 0, n, 0)
        m.hardware.global_ctrl = 0
    else:
        write_global_ctrl(m, 0)
    return n


cdef void host_pmu_enable(machine_t *m) noexcept nogil:
    """The end of x86_pmu_enable()."""
    if m.host_v1:
        spend_ops(m, 0, 0, _active(m), 0)
        m.hardware.global_ctrl = host_global_ctrl(m, False)
    else:
        write_global_ctrl(m, host_global_ctrl(m, False))
