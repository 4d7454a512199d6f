# The state of the machine: a data sheet. docs/machine.md says what happens to it.
from vpmu_core._types cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.unit cimport EVENTS, SLOTS, pmu_t
from vpmu_core.random cimport sfc64_t, stream_t

cdef enum:
    MAX_GUEST_EVENTS = 24  # more than counters: then they take turns
    MAX_OWN_HOST_EVENTS = 12  # the host's own
    MAX_HOST_EVENTS = 24  # the host's own, then those that back guest counters
    MAX_STEPS = 64

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
    COSTS = 29
    SPENT_HANDLING = 29  # handling times of planned exits
    SPENT_IDLE = 30
    SPENT = 31

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
    CAUSE_MULTIPLEXED = 7  # a guest event waits for its turn on a counter
    CAUSE_THROTTLED = 8  # a guest event is stopped up to the next tick
    CAUSES = 9

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

cdef enum:  # host_state
    HOST_OFF = 0
    HOST_ACTIVE = 1
    HOST_ERROR = 2  # pinned, and no counter was free
    HOST_CEDED = 3  # the host has given its PMU up

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

cdef enum:  # run_kind
    WORK = 0
    HANDLER = 1

cdef enum:  # stop_reason
    RUNNING = 0
    STOPPED_NO_PROGRESS = 1

cdef struct planned_exit_t:
    uint64_t handling  # cycles
    uint64_t idle  # cycles of blocking (HLT)
    uint8_t kind  # exit_kind
    uint8_t cpl
    uint8_t emulates  # the hypervisor retires one guest instruction

cdef struct trace_t:
    const int64_t *gap  # guest cycles before the exit
    const uint16_t *kind  # index of planned_exit_t
    const int64_t *handling
    const int64_t *idle
    uint64_t n
    bint repeat

cdef struct access_t:  # one access of guest software to its PMU
    uint8_t access  # access_kind
    uint8_t slot  # of counter and selector accesses, RDPMC
    uint64_t value  # written, or read
    uint64_t ideal  # what the ideal PMU reads
    uint8_t applied  # it has taken effect: a stop did not come before

cdef struct perf_count_t:  # Linux struct hw_perf_event
    int64_t period
    int64_t period_left
    uint64_t previous  # raw counter value at the last update
    uint64_t count

cdef struct guest_event_t:
    perf_count_t perf
    uint64_t ideal_previous
    uint64_t ideal
    uint64_t samples
    uint64_t selector
    uint64_t losses[CAUSES]
    uint64_t gains[CAUSES]
    uint64_t meter_clock[3]  # guest clocks when the running meter began
    uint8_t meter  # cause that is being metered, CAUSE_NONE if none
    uint8_t meter_user  # the ideal counter counts user code meanwhile
    uint8_t meter_kernel
    int8_t slot  # Linux hw.idx: where it counts, or did last; -1 if it never has
    uint8_t event
    uint8_t active  # it counts on its slot
    uint8_t sampling
    uint8_t scheduled  # something has counted for it
    # scheduling
    int8_t assigned  # where the end of the bracket puts it
    uint8_t state  # guest_state
    uint8_t leader  # of its group; itself if it has none
    uint8_t pinned  # a kernel counter that always counts: the watchdog
    uint8_t task  # of a task's context, not the CPU's
    uint8_t interval  # read by the interval timer
    uint8_t reads_group  # a sample has the counts of its group
    uint8_t armed  # its slot holds its count
    uint8_t throttled
    uint8_t absent  # cause for which it does not count although it is enabled
    uint8_t absent_metered
    uint8_t timed  # it has had an overflow
    uint32_t allowed  # slots that may count it
    uint64_t absent_clock[3]  # guest clocks and emulated instructions when that meter began
    uint64_t absent_retired[2]
    # sampling by frequency, and the ledger of samples
    uint64_t frequency  # 0: fixed period
    int64_t last_period
    uint64_t count_stamp
    uint64_t time_stamp  # ns
    uint64_t interrupts  # since the tick of interrupts_tick
    uint64_t interrupts_tick
    uint64_t expected  # periods that have ended
    uint64_t late  # wall cycles from overflow to sample
    uint64_t throttles
    uint64_t updated  # ns, up to which the following two are
    uint64_t enabled
    uint64_t running

cdef struct host_event_t:
    perf_count_t perf
    uint64_t selector  # event, umask, USR, OS, INT
    uint64_t ideal
    uint64_t losses[CAUSES]
    uint64_t gains[CAUSES]
    uint32_t allowed  # slots that may count it
    uint8_t event
    uint8_t state  # host_state
    int8_t slot  # where it counts, -1 if nowhere
    int8_t previous_slot
    int8_t guest_slot  # guest counter that it backs, -1 for the host's own
    uint8_t exclude_guest
    uint8_t exclude_host
    uint8_t user
    uint8_t kernel

cdef struct vcpu_counter_t:  # KVM struct kvm_pmc, emulated design
    uint64_t counter
    uint64_t emulated  # instructions emulated since the last reprogramming
    uint64_t key  # configuration of the perf event
    int8_t event  # index of host_event_t, -1 if none
    uint8_t paused

cdef struct pmi_tally_t:
    uint64_t raised
    uint64_t delivered
    uint64_t coalesced
    uint64_t lost
    uint64_t skid_past_exit

cdef struct guest_timer_t:  # fires at base + n*numerator/denominator, rounded up
    uint64_t due  # NEVER: off
    uint64_t base
    uint64_t numerator
    uint64_t denominator
    uint64_t fired

cdef struct step_t:  # one operation of a switch program
    uint16_t operation
    uint16_t flags

ctypedef machine_s machine_t
ctypedef void (*reaction_t)(machine_t *m) noexcept nogil

cdef struct design_t:  # the reactions of a vPMU design; NULL where it has none
    reaction_t start  # before the first entry
    reaction_t leave  # guest mode ends: GLOBAL_CTRL
    reaction_t enter  # guest mode begins
    reaction_t put
    reaction_t load
    reaction_t requests  # reprogramming before the next entry
    reaction_t block  # HLT: the vCPU's thread goes to sleep
    reaction_t wake
    reaction_t arrive  # an unmasked PMI arrives
    reaction_t nmi  # a host NMI, inside the exit that it caused
    bint (*refuses)(machine_t *m) noexcept nogil  # a fastpath exit that emulates an instruction
    void (*access)(machine_t *m, access_t *a) noexcept nogil  # effect of a trapped access
    uint32_t (*retire)(machine_t *m, int cpl) noexcept nogil  # slots that count an emulated instruction

cdef struct machine_s:
    # clocks, in cycles
    uint64_t clock[ACTIVITIES]
    uint64_t wall  # sum of all clocks
    uint64_t work  # guest_user + guest_kernel
    uint64_t end
    uint64_t left  # work cycles up to the next work exit
    uint64_t next_wall  # instant of the next host interrupt, on the wall clock less idle time
    uint64_t pmi_arrival  # wall instant of the PMI in flight, NEVER if none
    uint64_t user_share  # 2**-32
    uint64_t rate[ACTIVITIES][EVENTS]  # 2**-32 events per cycle
    uint64_t cost[COSTS]
    # hardware
    pmu_t hardware
    uint64_t hardware_rate[ACTIVITIES][SLOTS]  # rate of the event that each slot counts
    uint8_t rated_event[SLOTS]  # events for which hardware_rate holds
    uint64_t scratch[SLOTS]
    # the guest's PMU as software keeps it, and as it should be
    pmu_t guest
    pmu_t ideal
    uint32_t ideal_instructions  # slots of the ideal PMU whose event is instructions
    uint64_t ideal_clock[3]  # guest clocks up to which the ideal counters are advanced
    # exits
    stream_t work_stream
    stream_t wall_stream
    trace_t trace
    uint64_t trace_position
    uint64_t next_handling
    uint64_t next_idle
    uint16_t next_kind
    uint16_t next_wall_kind
    planned_exit_t *exits
    uint64_t *exit_count
    sfc64_t skid
    uint64_t skid_minimum
    uint64_t skid_range
    # flags
    bint in_guest
    bint blind  # hypervisor code runs with guest state loaded
    bint vector_pending  # guest PMI vector, arrived in host mode
    bint pmi_requested  # KVM_REQ_PMI
    bint nmi_pending  # to be taken by the guest
    bint nmi_in_service
    bint guest_pmu_on  # guest perf's cpuc->enabled
    bint finishing  # the read-out: nothing stops it
    uint64_t patience  # running clock after which a read-out is left alone by NMIs and host interrupts
    bint ended
    bint yielded
    bint has_host
    bint list_entry  # GLOBAL_CTRL goes through the VM-exit store list
    uint8_t stopped
    uint8_t phase
    int64_t budget  # segments left before the run returns to Python
    # design
    const design_t *design
    reaction_t guest_pmi_handler
    reaction_t guest_timers  # what is due by the guest's clock
    reaction_t fast_forward  # of the lazy engine; NULL: stepwise
    void *lazy  # lazy_t of lazy.pxd
    uint32_t traps  # access_kind bits
    bint every_exit
    bint reuse
    uint32_t reprogram  # slots to reprogram
    bint ledger_stale  # what backs the guest counters has changed since the last entry
    uint32_t counting_instructions  # slots, KVM pmc_counting_instructions
    vcpu_counter_t vcpu[SLOTS]
    step_t load[MAX_STEPS]
    step_t put[MAX_STEPS]
    int loads
    int puts
    # perf
    guest_event_t guest_event[MAX_GUEST_EVENTS]
    int guest_events
    uint64_t guest_fixed_ctr_ctrl  # guest perf's cached value
    uint64_t guest_fixed_wanted  # what the end of the bracket makes of it
    int64_t guest_max_period  # largest period that the guest can arm
    int guest_list[MAX_GUEST_EVENTS]  # events on the CPU, in the order of Linux's cpuc->event_list
    int guest_listed
    int guest_added  # of these, since the bracket began
    int guest_order[MAX_GUEST_EVENTS]  # group leaders, in the order in which they are tried
    int guest_leaders
    bint guest_rotates[2]  # Linux rotate_necessary of the CPU's and the task's context
    bint backed  # what counts for the guest are host events
    bint guest_away  # the task is not on the CPU
    bint guest_clones  # context switches are between threads of the task, whose contexts are swapped
    bint guest_tick_per_event  # a tick has a bracket for each event (Linux before 6.10)
    uint64_t core_hz
    uint64_t guest_hz  # of the tick; 0: none
    uint64_t guest_ticks
    bint guest_throttled  # something has been since the last tick
    uint64_t guest_percent  # sysctl perf_cpu_time_max_percent
    uint64_t guest_samples_per_tick
    uint64_t guest_sample_allowed  # ns
    uint64_t guest_sample_taken  # ns, sum of 128
    guest_timer_t guest_timer[TIMERS]
    uint64_t next_timer  # wall instant of the first that is due
    uint64_t overflow_at[SLOTS]  # wall instant of each guest counter's last overflow
    uint64_t retired[2]  # instructions that the hypervisor emulated, at CPL 0 and above
    host_event_t host_event[MAX_HOST_EVENTS]
    int host_events
    uint64_t host_fixed_ctr_ctrl  # host perf's cached value
    uint32_t host_allowed[EVENTS]  # slots that host perf may use for each event
    uint32_t blocked  # task events that are out while the vCPU's thread sleeps
    uint32_t displaced  # host events that are out of hardware in the window
    bint host_placed  # some host event has been placed: GLOBAL_CTRL is ALL
    # tallies
    uint64_t pmu_exits[PMU_EXITS]
    uint64_t host_interrupts
    uint64_t switches
    uint64_t refused
    uint64_t handlers
    uint64_t reprograms
    uint64_t creates
    pmi_tally_t pmi
    uint64_t ops[PHASES][ORIGINS][OP_CLASSES]
    uint64_t accesses[PHASES][2][OP_CLASSES]  # of guest perf: direct, trapped
    uint64_t spent[SPENT]
    uint64_t stray_counts  # host-mode wraps, which cannot happen
