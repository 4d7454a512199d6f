# Guest perf on AMD CPUs: what differs from guestaccess.pxd and guestperf.pxd.
from vpmu_core.state cimport machine_t

cdef void amd_disable(machine_t *m) noexcept nogil
cdef void amd_enable(machine_t *m) noexcept nogil
cdef void wait_on_overflow(machine_t *m, int slot) noexcept nogil
cdef void amd_pmi_handler(machine_t *m) noexcept nogil
