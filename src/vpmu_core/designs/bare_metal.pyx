# cython: freethreading_compatible=True
"""Design ``bare-metal``: no hypervisor; the software's accesses reach the PMU, and PMIs reach the software."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core.state cimport design_t
from vpmu_core.timeline cimport pend_nmi


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.arrive = pend_nmi


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
