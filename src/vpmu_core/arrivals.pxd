# Where exits and host interrupts come from: a random generator, a trace, or regular instants.
from vpmu_core.random cimport draw_gap, draw_kind, stream_t
from vpmu_core.state cimport machine_t

cdef void take_work(machine_t *m) noexcept nogil
cdef void draw_wall(machine_t *m) noexcept nogil


cdef inline void draw_work(machine_t *m) noexcept nogil:
    # The next exit of the workload: gap, kind, times.
    cdef stream_t stream
    if m.trace.gap != NULL or m.work_stream.mean_gap == 0 or m.work_stream.rate != NULL:
        take_work(m)
        return
    stream = m.work_stream
    m.left = draw_gap(&stream)
    m.next_kind = draw_kind(&stream)
    m.work_stream.generator = stream.generator
    m.next_handling = m.exits[m.next_kind].handling
    m.next_idle = m.exits[m.next_kind].idle
