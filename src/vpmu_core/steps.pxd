# Switch sequences step by step, and what is watched of them: a data sheet (stepping.pxd runs it).
from vpmu_core._types cimport uint8_t, uint32_t, uint64_t
from vpmu_core.unit cimport SLOTS

cdef enum:
    MAX_OPERATIONS = 64 * 17  # 64 loops of 16 operations each, with their heads

cdef enum:  # operation, the order of vpmu._sequence_language; so are all below
    DO_PERF_LOAD = 0
    DO_PERF_PUT = 1
    DO_LVTPC = 2
    DO_RDMSR = 3
    DO_WRMSR = 4
    DO_TOGGLE = 5
    DO_RDPMC = 6
    DO_LOOP_GP = 7
    DO_LOOP_FIXED = 8

cdef enum:  # register
    REGISTER_COUNTER = 0
    REGISTER_SELECTOR = 1
    REGISTER_FIXED_CTR_CTRL = 2
    REGISTER_GLOBAL_CTRL = 3
    REGISTER_STATUS = 4
    REGISTER_STATUS_RESET = 5
    REGISTER_STATUS_SET = 6
    REGISTER_STORED = 7  # always 0: the guest has none

cdef enum:  # value
    VALUE_ZERO = 0
    VALUE_GUEST = 1  # as the event filter lets it
    VALUE_CACHED = 2  # as the guest wrote it
    VALUE_HOST = 3  # as saved for the host
    VALUE_STATUS = 4  # what was read of it

cdef enum:  # condition
    IF_ALWAYS = 0
    IF_NONZERO_READ = 1
    IF_NONZERO_COPY = 2
    IF_DIFFERS = 3
    IF_SELECTOR_READ = 4
    IF_SELECTOR_COPY = 5

cdef enum:  # save
    SAVE_NOT = 0
    SAVE_GUEST = 1
    SAVE_HOST = 2

cdef enum:  # breach, the order of BREACH_NAMES
    BREACH_SELECTORS = 0
    BREACH_FIXED_FIELDS = 1
    BREACH_COUNTERS = 2
    BREACH_STATUS = 3
    BREACH_LVTPC = 4
    BREACH_NOT_LOADED = 5
    BREACH_HOST_COUNTS = 6
    BREACHES = 7

cdef struct operation_t:
    uint8_t op
    uint8_t register_
    uint8_t value
    uint8_t condition
    uint8_t save
    uint8_t inner  # of a loop: operations that follow and are its body

cdef struct steps_t:  # one load or one put
    uint32_t n
    operation_t operation[MAX_OPERATIONS]

cdef struct watch_t:  # of a sequence that is not plainly safe
    uint64_t breaches[BREACHES]
    uint64_t counter[SLOTS]  # saved for the host
    uint64_t selector[SLOTS]
    uint64_t fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t global_status
