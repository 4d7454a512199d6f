# The time line: guest code, exits and PMIs, in the order of docs/machine.md.
from vpmu_core._types cimport uint64_t
from vpmu_core.state cimport access_t, machine_t


cdef void arrive(machine_t *m) noexcept nogil


cdef inline void check_arrival(machine_t *m) noexcept nogil:
    # Host mode: has a PMI in flight arrived by now?
    if m.wall >= m.pmi_arrival:
        arrive(m)


cdef void request_guest_pmi(machine_t *m) noexcept nogil
cdef void pend_nmi(machine_t *m) noexcept nogil
cdef void serve_timers(machine_t *m) noexcept nogil
cdef int exit_begins(machine_t *m, int kind, bint emulates, uint64_t handling) noexcept nogil
cdef void exit_ends(machine_t *m, int kind, int cpl, bint emulates, int effect, access_t *access) noexcept nogil
cdef void vm_exit(
    machine_t *m, int kind, int cpl, bint emulates, uint64_t handling, uint64_t idle, int effect, access_t *access
) noexcept nogil
cdef uint64_t run_guest(machine_t *m, int kind, uint64_t cycles, int cost) noexcept nogil
cdef void start(machine_t *m) noexcept nogil
cdef void run(machine_t *m) noexcept nogil
