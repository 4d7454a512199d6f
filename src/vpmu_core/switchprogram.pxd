# Switch programs: sequences of steps, compiled.
from vpmu_core._types cimport ALL_ONES, uint16_t
from vpmu_core.blocks cimport SHAPE_LOAD, SHAPE_PUT, program_t, straight_t
from vpmu_core.state cimport machine_t

cdef enum:  # operation of a step, the order of vpmu._sequences
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
    STATUS_SET = 10  # AMD
    GLOBAL_CTRL_GUEST = 11  # AMD

cdef enum:  # flag of LOOP
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

cdef enum:  # flag of RDMSR_STATUS and FIXED_CTR_CTRL
    STATUS_SAVE = 1
    FIXED_CTR_CTRL_GUEST = 1
    FIXED_CTR_CTRL_ZERO_IF_NONZERO = 2
    FIXED_CTR_CTRL_ZERO = 3

cdef enum:  # point of a block
    POINT_NONE = 0
    POINT_END = 1
    POINT_PERF_LOAD = 2
    POINT_PERF_PUT = 3
    POINT_GLOBAL_CTRL_ZERO = 4
    POINT_LVTPC_GUEST = 5
    POINT_LVTPC_HOST = 6

cdef enum:  # status flag of a block, in the order in which a block does them
    STATUS_READ = 1
    STATUS_READ_SAVE = 2  # with STATUS_READ
    STATUS_ACKNOWLEDGE = 4
    STATUS_TOGGLE = 8
    STATUS_SET_GUEST = 16  # whatever it is

cdef void compile_step(program_t *program, const machine_t *m, uint16_t operation, uint16_t flags) noexcept
cdef void compile_end(program_t *program) noexcept
cdef void price_programs(machine_t *m) noexcept nogil
cdef void tally_switches(machine_t *m) noexcept nogil


# What nearly all programs are: the loops over them are compiled with everything known.

cdef inline void usual_load(straight_t *all) noexcept nogil:
    """Linux 7.0, kvm_mediated_pmu_load(), as far as a straight program has it; all else is 0."""
    all.registers.status_flags = STATUS_READ | STATUS_TOGGLE
    all.registers.fixed_ctr_ctrl = FIXED_CTR_CTRL_GUEST
    all.registers.flags = LOOP_RDPMC | LOOP_COUNTER_GUEST | LOOP_COUNTER_DIFFERS | LOOP_SELECTOR_GUEST
    all.registers.fixed_flags = LOOP_FIXED | LOOP_RDPMC | LOOP_COUNTER_GUEST | LOOP_COUNTER_DIFFERS
    all.global_ctrl_zero = True
    all.lvtpc = POINT_LVTPC_GUEST
    all.perf = POINT_PERF_LOAD
    all.conditional_before = 0
    all.shape = SHAPE_LOAD


cdef inline void usual_put(straight_t *all) noexcept nogil:
    """Linux 7.0, kvm_mediated_pmu_put(), likewise."""
    all.registers.status_flags = STATUS_READ | STATUS_READ_SAVE | STATUS_ACKNOWLEDGE
    all.registers.fixed_ctr_ctrl = FIXED_CTR_CTRL_ZERO_IF_NONZERO
    all.registers.flags = (
        LOOP_RDPMC | LOOP_SAVE | LOOP_COUNTER_ZERO | LOOP_COUNTER_NONZERO | LOOP_SELECTOR_ZERO | LOOP_SELECTOR_NONZERO
    )
    all.registers.fixed_flags = LOOP_FIXED | LOOP_RDPMC | LOOP_SAVE | LOOP_COUNTER_ZERO | LOOP_COUNTER_NONZERO
    all.global_ctrl_zero = False
    all.lvtpc = POINT_LVTPC_HOST
    all.perf = POINT_PERF_PUT
    all.conditional_before = ALL_ONES
    all.shape = SHAPE_PUT
