# cython: freethreading_compatible=True
"""Design ``mediated-semi``: mediated without STATUS_SET (PMU versions 2 and 3).

Bits of GLOBAL_STATUS can be cleared in hardware but not set, so the guest's register is kept in software: reads and
acknowledgements exit, and every put adds what hardware has raised since.
"""
from cpython.pycapsule cimport PyCapsule_New

from vpmu_core._types cimport uint64_t
from vpmu_core.designs.mediated cimport mediated_put, mediated_reactions
from vpmu_core.state cimport design_t, machine_t

from vpmu_core.designs import mediated as _mediated


cdef void _put(machine_t *m) noexcept nogil:
    cdef uint64_t kept = m.guest.global_status
    mediated_put(m)
    m.guest.global_status |= kept


cdef design_t _DESIGN
mediated_reactions(&_DESIGN)
_DESIGN.put = _put


flags = _mediated.flags


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
