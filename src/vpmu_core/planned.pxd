# A machine filled from a plan.
from vpmu_core.blocks cimport program_t
from vpmu_core.lazy cimport lazy_t
from vpmu_core.perfevents cimport guest_timer_t
from vpmu_core.random cimport sfc64_t, stream_t
from vpmu_core.registers cimport RegisterFile
from vpmu_core.steps cimport steps_t
from vpmu_core.state cimport event_filter_t, filter_change_t, machine_t


cdef class Planned:
    cdef machine_t m
    cdef Py_ssize_t n_exits
    cdef lazy_t lazy
    cdef program_t load
    cdef program_t put
    cdef steps_t steps[2]  # load, put
    cdef filter_change_t *filters
    cdef object keep  # arrays that the machine points into
    cdef object regular  # of these, the state of regular arrivals
    cdef RegisterFile hardware_file
    cdef RegisterFile guest_file
    cdef readonly object plan

    cdef _fill_lazy(self)
    cdef _fill_steps(self, plan)
    cdef _compile(self, program_t *program, steps)
    cdef _seed(self, words, sfc64_t *generator)
    cdef const void *_column(self, values, dtype) except? NULL
    cdef _fill_stream(self, stream_t *stream, planned, seed)
    cdef _fill_timer(self, guest_timer_t *timer, periods, second)
    cdef _fill_filter(self, event_filter_t *f, planned)
