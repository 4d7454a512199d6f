# Host perf samples: PMIs, throttling, period adaptation on the tick (docs/machine.md, section 7.1.2).
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport machine_t

cdef void host_nmi_handler(machine_t *m) noexcept nogil
cdef void host_arrive(machine_t *m) noexcept nogil
cdef void serve_tick(machine_t *m) noexcept nogil
cdef void host_code(machine_t *m, int a, uint64_t cycles) noexcept nogil
