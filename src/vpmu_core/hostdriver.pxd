# How host perf stops and starts all counters: GLOBAL_CTRL, or on AMD before PerfMonV2 every selector.
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport machine_t

cdef uint64_t host_pmu_disable(machine_t *m) noexcept nogil
cdef void host_pmu_enable(machine_t *m) noexcept nogil
cdef void spend_rdmsr(machine_t *m, uint64_t n) noexcept nogil
