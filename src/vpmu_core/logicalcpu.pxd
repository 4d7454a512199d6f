# Several vCPUs on one logical CPU: who runs, and what they hand over.
from vpmu_core._types cimport uint8_t, uint64_t
from vpmu_core.state cimport machine_t

cdef enum:
    MAX_VCPUS = 64

cdef struct seat_t:  # a vCPU's thread
    machine_t *m
    bint begun  # it has had the CPU
    bint sleeps  # until wake
    uint64_t wake
    uint64_t since  # wall instant at which it left the CPU
    uint64_t slept  # cycles
    uint64_t stolen  # cycles for which it could have run, but others had the CPU
    uint64_t turns  # how often it has got the CPU
    # the exit in which it left
    bint of_workload
    bint emulates
    uint8_t kind
    uint8_t cpl

cdef struct logical_cpu_t:
    seat_t seat[MAX_VCPUS]
    int n
    int current
    int queue[MAX_VCPUS]  # vCPUs that could run, in the order of their turns
    int queued
    int own_events  # host events that belong to no vCPU
    uint64_t time_slice
    uint64_t tick
    bint wakeups_preempt

cdef void take_over(logical_cpu_t *cpu, machine_t *m, const machine_t *before) noexcept nogil
cdef void leave_cpu(logical_cpu_t *cpu, machine_t *m) noexcept nogil
cdef void start_first(logical_cpu_t *cpu) noexcept nogil
cdef void run_vcpus(logical_cpu_t *cpu) noexcept nogil
cdef void read_next(logical_cpu_t *cpu, machine_t *m, const seat_t *seat, machine_t *before) noexcept nogil
