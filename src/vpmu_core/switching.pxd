# Switch sequences: programs of block operations that the core runs against the register model.
from vpmu_core.state cimport machine_t

cdef enum:  # operation  # the order of vpmu._sequences
    PERF_LOAD = 0
    PERF_PUT = 1
    GLOBAL_CTRL_ZERO = 2
    LVTPC_GUEST = 3
    LVTPC_HOST = 4
    LOOP = 5
    RDMSR_STATUS = 6
    OVF_CTRL = 7
    TOGGLE_STATUS = 8
    FIXED_CTR_CTRL = 9

cdef enum:  # loop_flag
    LOOP_FIXED = 1
    LOOP_RDPMC = 2
    LOOP_SAVE = 4
    LOOP_COUNTER_GUEST = 8
    LOOP_COUNTER_ZERO = 16
    LOOP_COUNTER_DIFFERS = 32
    LOOP_COUNTER_NONZERO = 64
    LOOP_SELECTOR_GUEST = 128
    LOOP_SELECTOR_ZERO = 256
    LOOP_SELECTOR_NONZERO = 512

cdef enum:  # plain_flag
    STATUS_SAVE = 1
    FIXED_CTR_CTRL_GUEST = 1
    FIXED_CTR_CTRL_ZERO_IF_NONZERO = 2
    FIXED_CTR_CTRL_ZERO = 3

cdef enum:
    GUEST_VECTOR = 0xF5  # PERF_GUEST_MEDIATED_PMI_VECTOR

cdef void load_guest(machine_t *m) noexcept nogil
cdef void put_guest(machine_t *m) noexcept nogil
