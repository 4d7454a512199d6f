# cython: freethreading_compatible=True
"""When the workload exits next, and when the host is interrupted next (docs/machine.md, section 2)."""
from vpmu_core._types cimport NEVER, uint64_t
from vpmu_core.random cimport draw_gap, draw_kind, next_regular
from vpmu_core.state cimport machine_t


cdef void take_work(machine_t *m) noexcept nogil:
    """The next exit of a trace, or of regular arrivals."""
    cdef uint64_t i = m.trace_position
    if m.trace.gap != NULL:
        if i == m.trace.n and m.trace.repeat:
            i = 0
        if i == m.trace.n:
            m.left = NEVER
            return
        m.trace_position = i + 1
        m.left = m.trace.gap[i]
        m.next_kind = m.trace.kind[i]
        m.next_handling = m.trace.handling[i]
        m.next_idle = m.trace.idle[i]
    elif m.work_stream.mean_gap == 0:
        m.left = NEVER
    else:
        m.left = next_regular(&m.work_stream) - m.work
        m.next_kind = m.work_stream.kind[m.work_stream.pending]
        m.next_handling = m.exits[m.next_kind].handling
        m.next_idle = m.exits[m.next_kind].idle


cdef void draw_wall(machine_t *m) noexcept nogil:
    """The next host interrupt, on the wall clock less idle time."""
    if m.wall_stream.mean_gap == 0:
        m.next_wall = NEVER
        return
    if m.wall_stream.rate != NULL:
        m.next_wall = next_regular(&m.wall_stream)
        m.next_wall_kind = m.wall_stream.kind[m.wall_stream.pending]
    else:
        m.next_wall += draw_gap(&m.wall_stream)
        m.next_wall_kind = draw_kind(&m.wall_stream)
