# cython: freethreading_compatible=True
"""Design ``none``: no PMU in the guest; host perf lives as beside any guest (Linux intel_guest_get_msrs())."""
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset

from vpmu_core.hostsample cimport host_arrive, host_nmi_handler
from vpmu_core.hostdriver cimport host_global_ctrl
from vpmu_core.hostsched cimport place_host_events, thread_sleeps, thread_wakes
from vpmu_core.state cimport design_t, machine_t


cdef void _leave(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = host_global_ctrl(m, False)


cdef void _enter(machine_t *m) noexcept nogil:
    m.hardware.global_ctrl = host_global_ctrl(m, True)


cdef design_t _DESIGN
memset(&_DESIGN, 0, sizeof(design_t))
_DESIGN.start = place_host_events
_DESIGN.leave = _leave
_DESIGN.enter = _enter
_DESIGN.block = thread_sleeps
_DESIGN.wake = thread_wakes
_DESIGN.arrive = host_arrive
_DESIGN.nmi = host_nmi_handler


def reactions():
    """Return the design's table of reactions as a capsule for the machine."""
    return PyCapsule_New(<void *>&_DESIGN, "vpmu.design", NULL)
