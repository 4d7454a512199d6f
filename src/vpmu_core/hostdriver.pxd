# Host perf's PMU driver: control registers, all counters at once, and brackets (docs/machine.md, section 7.1).
from vpmu_core._types cimport int8_t, int64_t, uint32_t, uint64_t
from vpmu_core.perfevents cimport host_event_t
from vpmu_core.state cimport machine_t

cdef uint64_t host_global_ctrl(const machine_t *m, bint guest) noexcept nogil
cdef uint64_t host_nibble(const host_event_t *e) noexcept nogil
cdef void write_host_selector(machine_t *m, const host_event_t *e) noexcept nogil
cdef void write_host_nibble(machine_t *m, const host_event_t *e) noexcept nogil
cdef void write_global_ctrl(machine_t *m, uint64_t value) noexcept nogil
cdef void spend_ops(machine_t *m, uint64_t rdpmc, uint64_t counters, uint64_t selectors, uint64_t lvtpc) noexcept nogil
cdef void spend_rdmsr(machine_t *m, uint64_t n) noexcept nogil
cdef uint64_t host_pmu_disable(machine_t *m) noexcept nogil
cdef void host_pmu_enable(machine_t *m) noexcept nogil
cdef void put_in(machine_t *m, host_event_t *e, int slot) noexcept nogil
cdef void bracket(
    machine_t *m, uint32_t out, uint32_t into, const int8_t *slots, int64_t new_period, bint lvtpc, bint window,
    uint32_t settled,
) noexcept nogil
