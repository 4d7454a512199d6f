# Guest perf: what a Linux guest's perf does to its PMU, access by access (docs/machine.md, section 9).
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport machine_t

cdef void set_up(machine_t *m) noexcept nogil
cdef void pmi_handler(machine_t *m) noexcept nogil
cdef void sample(machine_t *m, guest_event_t *e) noexcept nogil
cdef void serve_timers(machine_t *m) noexcept nogil
cdef void read_out(machine_t *m) noexcept nogil
cdef void run_program(machine_t *m) noexcept nogil
