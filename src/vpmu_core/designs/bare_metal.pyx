# cython: freethreading_compatible=True
"""Design ``bare-metal``: no hypervisor; the software's accesses reach the PMU, and PMIs reach the software."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core.state cimport design_t, machine_t


cdef void _arrive(machine_t *m) noexcept nogil:
    # LVTPC is an NMI: one may wait behind the one in service.
    if m.nmi_pending:
        m.pmi.coalesced += 1
        return
    m.nmi_pending = True
    m.pmi.delivered += 1


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.arrive = _arrive


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
