# The machine's small integers by name: activities, costs, causes, states. docs/machine.md says what they mean.

cdef enum:  # activity
    GUEST_USER = 0
    GUEST_KERNEL = 1
    GUEST_HANDLER = 2  # perf's handlers and calls in the guest
    HYPERVISOR = 3  # host PMU state in hardware
    BLIND = 4  # guest PMU state in hardware
    HOST_TASK = 5
    IDLE = 6
    ACTIVITIES = 7

cdef enum:  # exit_kind
    FASTPATH = 0
    KERNEL = 1
    USERSPACE = 2

cdef enum:  # access_kind: what guest software does to its PMU; the bit in machine_t.traps
    ACCESS_COUNTER = 0
    ACCESS_SELECTOR = 1
    ACCESS_FIXED_CTR_CTRL = 2
    ACCESS_GLOBAL_CTRL = 3
    ACCESS_GLOBAL_STATUS = 4
    ACCESS_OVF_CTRL = 5
    ACCESS_RDPMC = 6
    ACCESS_LVTPC = 7
    ACCESS_READ_SELECTOR = 8  # RDMSR; traps as ACCESS_SELECTOR does

cdef enum:  # cost_index: the order of vpmu._costs.COST_NAMES
    COST_RDPMC = 0
    COST_RDMSR = 1
    COST_WRMSR = 2
    COST_WRMSR_LVTPC = 3
    COST_VM_EXIT = 4
    COST_VM_ENTRY = 5
    COST_HANDLING_FASTPATH = 6
    COST_HANDLING_KERNEL = 7
    COST_HANDLING_USERSPACE = 8
    COST_HANDLING_HLT = 9
    COST_FASTPATH_REFUSED = 10
    COST_MSR_EMULATION = 11
    COST_INTERRUPT_EXIT = 12
    COST_PMI_INJECTION = 13
    COST_PERF_GUEST_CONTEXT = 14
    COST_REPROGRAM = 15
    COST_PERF_CREATE = 16
    COST_PERF_RELEASE = 17
    COST_PERF_PAUSE = 18
    COST_PERF_ENABLE = 19
    COST_PERF_PERIOD = 20
    COST_PERF_RESCHED_EVENT = 21
    COST_PERF_TASK_SWITCH = 22
    COST_HOST_NMI = 23
    COST_GUEST_NMI_ENTRY = 24
    COST_GUEST_SAMPLE = 25
    COST_GUEST_NMI_EXIT = 26
    COST_GUEST_PERF_CALL = 27
    COST_MSR_LIST_ENTRY = 28
    COST_HARDWARE_PMU_SWITCH = 29
    COST_PERF_ROTATE = 30
    COST_HOST_SAMPLE = 31
    COST_PERF_TICK = 32
    COST_VCPU_SWITCH = 33
    COSTS = 34
    SPENT_HANDLING = 34  # handling times of planned exits
    SPENT_IDLE = 35
    SPENT = 36

cdef enum:  # op_class
    OP_RDMSR = 0
    OP_RDPMC = 1
    OP_WRMSR_COUNTER = 2
    OP_WRMSR_SELECTOR = 3  # FIXED_CTR_CTRL included
    OP_WRMSR_GLOBAL = 4  # GLOBAL_CTRL, STATUS_RESET, STATUS_SET
    OP_WRMSR_LVTPC = 5
    OP_CLASSES = 6

cdef enum:  # origin
    ORIGIN_HOST = 0
    ORIGIN_HYPERVISOR = 1
    ORIGIN_GUEST = 2
    ORIGINS = 3

cdef enum:  # phase
    PHASE_SETUP = 0
    PHASE_RUN = 1
    PHASE_READOUT = 2
    PHASES = 3

cdef enum:  # cause: of the ledger
    CAUSE_NONE = 0
    CAUSE_NOT_SCHEDULED = 1
    CAUSE_EMULATED_INSTRUCTION = 2
    CAUSE_WINDOW = 3
    CAUSE_PMU_DISABLED = 4
    CAUSE_CEDED = 5
    CAUSE_HOST_STALE = 6
    CAUSE_FILTERED = 7
    CAUSE_PERIOD_REJECTED = 8
    CAUSE_WRONG_COUNTER = 9
    CAUSE_MULTIPLEXED = 10  # a guest event waits for its turn on a counter
    CAUSE_THROTTLED = 11  # a guest event is stopped up to the next tick
    CAUSE_OVERWRITTEN = 12  # a host event: counted between the read of its counter and the write of its new value
    CAUSES = 13

cdef enum:  # pmu_exit
    EXIT_MSR_WRITE = 0
    EXIT_MSR_READ = 1
    EXIT_RDPMC = 2
    EXIT_EXTERNAL_INTERRUPT = 3
    EXIT_EXCEPTION_NMI = 4
    PMU_EXITS = 5

cdef enum:  # effect_kind
    EFFECT_NONE = 0
    EFFECT_ACCESS = 1  # a trapped guest access
    EFFECT_PMI = 2  # the vector of a guest PMI
    EFFECT_NMI = 3  # a host NMI
    EFFECT_KICK = 4  # another thread has a request for the vCPU

cdef enum:
    REQUEST_CLEANUP = 1 << 30  # no counter has this slot

cdef enum:  # host_state
    HOST_OFF = 0
    HOST_ACTIVE = 1
    HOST_ERROR = 2  # pinned, and no counter was free
    HOST_CEDED = 3  # the host has given its PMU up
    HOST_INACTIVE = 4  # flexible, and waits for its turn

cdef enum:
    HANDLERS_AT_ONCE = 1000  # so many PMI handlers without a cycle between them are a storm

cdef enum:  # of machine_t.flight: whose PMI
    FLIGHT_GUEST = 1
    FLIGHT_HOST = 2

cdef enum:  # guest_state: Linux enum perf_event_state
    GUEST_OFF = 0
    GUEST_AWAY = 1  # its task is not on the CPU
    GUEST_WAITING = 2  # no counter is free
    GUEST_ON = 3

cdef enum:  # guest_timer: in the order in which they are served
    TIMER_TICK = 0
    TIMER_ROTATION = 1
    TIMER_SWITCH = 2
    TIMER_INTERVAL = 3
    TIMERS = 4

cdef enum:  # design_flag: bits 0 to 2 are the exit kinds at which guest state is switched
    SWITCH_AT_KINDS = 7
    SWITCH_AROUND_BLOCKING = 8
    SWITCH_AROUND_USERSPACE = 16
    WINDOW_IS_GUEST = 32  # exclude_guest means: not between load and put
    REUSE_EVENTS = 64
    FIRST_OWN_FLAG = 256  # from here on each design has its own

cdef enum:  # run_kind
    WORK = 0
    HANDLER = 1

cdef enum:  # stop_reason
    RUNNING = 0
    STOPPED_NO_PROGRESS = 1
