# Guest perf's accesses to its PMU, and what starts and stops one event.
from vpmu_core._types cimport uint64_t
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport access_t, machine_t

cdef void make_access(machine_t *m, access_t *a, int trap, int op, int cost, int reason) noexcept nogil
cdef access_t guest_access(machine_t *m, int kind, int slot, uint64_t value) noexcept nogil
cdef void guest_work(machine_t *m, int cost) noexcept nogil
cdef void pmu_disable(machine_t *m) noexcept nogil
cdef void pmu_enable(machine_t *m) noexcept nogil
cdef void write_guest_lvtpc(machine_t *m) noexcept nogil
cdef void read_event(machine_t *m, guest_event_t *e) noexcept nogil
cdef void expect_samples(guest_event_t *e) noexcept nogil
cdef bint arm_event(machine_t *m, guest_event_t *e) noexcept nogil
cdef void start_event(machine_t *m, guest_event_t *e, bint reload) noexcept nogil
cdef void stop_event(machine_t *m, guest_event_t *e, bint update) noexcept nogil
