# The state of the machine: a data sheet. docs/machine.md says what happens to it.
from vpmu_core._types cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.unit cimport EVENTS, SLOTS, pmu_t
from vpmu_core.random cimport sfc64_t, stream_t

cdef enum:
    MAX_GUEST_EVENTS = 24  # more than counters: then they take turns
    MAX_OWN_HOST_EVENTS = 20  # the host's own
    MAX_HOST_EVENTS = 32  # the host's own, then those that back guest counters
    LANES = 12  # GP_LANES + FIXED_LANES
    NOTHING_COUNTED = 1 << 31  # no machine has a counter there
    MAX_BLOCKS = 66  # of a switch program: 64 steps, the end, and one that stays open

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
    COST_HARDWARE_PMU_SWITCH = 29
    COST_PERF_ROTATE = 30
    COST_HOST_SAMPLE = 31
    COST_PERF_TICK = 32
    COSTS = 33
    SPENT_HANDLING = 33  # handling times of planned exits
    SPENT_IDLE = 34
    SPENT = 35

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
    CAUSES = 12

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
    uint64_t chunks  # full chunks that are summed (traceindex.pxd); 0: none
    uint32_t kinds  # columns of the sums by kind
    const uint64_t *chunk_gap
    const uint32_t *chunk_count  # by chunk and kind, as all that follow
    const uint64_t *chunk_handled
    const uint64_t *chunk_by_task
    const uint64_t *chunk_idle

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
    uint8_t meter_event  # what the ideal counter counts meanwhile
    uint8_t meter_user  # the ideal counter counts user code meanwhile
    uint8_t meter_kernel
    uint8_t instead  # CAUSE_WRONG_COUNTER: the event that is counted in its place
    uint8_t instead_user
    uint8_t instead_kernel
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
    uint8_t klass  # of hostsched.pxd: CPU or task, pinned or flexible
    uint32_t position  # in its class
    uint64_t enabled  # cycles of its context
    uint64_t running
    uint64_t stamp  # its context's clock up to which these two are
    uint64_t freq  # samples per second that are asked for, 0 if none
    uint64_t samples
    uint64_t interrupts  # samples of one tick
    uint64_t sample_tick  # that tick
    uint64_t throttlings
    uint64_t tick_count  # its count when the tick last looked
    int64_t sample_time  # of its last sample, in nanoseconds
    uint8_t sampling
    uint8_t throttles
    uint8_t throttled
    uint8_t held  # in its counter with the enable bits off (direct-capture)

cdef struct vcpu_counter_t:  # KVM struct kvm_pmc, emulated design
    uint64_t counter
    uint64_t emulated  # instructions emulated since the last reprogramming
    uint64_t key  # configuration of the perf event
    int8_t event  # index of host_event_t, -1 if none
    uint8_t paused
    uint8_t rejected  # perf refused its event for its period

cdef struct event_filter_t:  # KVM struct kvm_x86_pmu_event_filter
    const uint64_t *included  # masked entries, sorted by event select
    const uint64_t *excluded
    uint32_t includes
    uint32_t excludes
    uint64_t event_bits  # of a selector: its event select
    uint32_t fixed  # bitmap of fixed counters
    bint allow

cdef struct filter_change_t:
    uint64_t at  # wall instant from which it holds; after the last: NEVER
    event_filter_t filter

cdef struct controls_t:  # what a switch loads: the guest's controls as far as the event filter lets them (eventsel_hw)
    uint64_t selector[SLOTS]
    uint64_t fixed_ctr_ctrl
    uint32_t local[2]
    uint32_t interrupt

cdef struct pmi_tally_t:
    uint64_t raised
    uint64_t delivered
    uint64_t coalesced
    uint64_t lost
    uint64_t skid_past_exit

cdef struct host_pmi_t:
    uint64_t raised
    uint64_t handled
    uint64_t coalesced
    uint64_t lost

cdef struct guest_timer_t:  # fires at base + n*numerator/denominator, rounded up
    uint64_t due  # NEVER: off
    uint64_t base
    uint64_t numerator
    uint64_t denominator
    uint64_t fired

cdef struct block_t:  # of a compiled switch program: register operations, then a point in time (switching.pxd)
    uint8_t point
    uint8_t registers  # whether it has any
    uint8_t status_flags
    uint8_t fixed_ctr_ctrl  # flag of the operation, 0 if none
    uint16_t flags  # of a loop over GP counters
    uint16_t fixed_flags  # of a loop over fixed counters
    uint16_t rdmsr  # unconditional accesses
    uint16_t rdpmc
    uint16_t wrmsr

cdef struct straight_t:  # all blocks of a program in one, for when nobody could notice the time between them
    block_t registers
    uint8_t possible  # not if two blocks access the same register, or more than one point is of a kind
    uint8_t global_ctrl_zero
    uint8_t lvtpc  # point of LVTPC, 0 if none
    uint8_t perf  # point of host perf, 0 if none
    uint8_t registers_first  # registers come before that point

cdef struct program_t:  # one load or one put, compiled for the guest's counters
    block_t block[MAX_BLOCKS]  # all 0 at first
    uint32_t blocks
    straight_t straight
    uint32_t rdmsr  # unconditional accesses of a run
    uint32_t rdpmc
    uint32_t counters
    uint32_t selectors
    uint32_t globals_
    uint32_t lvtpc
    uint32_t contexts  # perf_load_guest_context(), perf_put_guest_context()
    uint32_t passed_rdmsr  # while it is compiled: of these, already passed
    uint32_t passed_rdpmc
    uint32_t passed_wrmsr

cdef struct program_step_t:  # an access of guest software other than perf
    uint64_t gap  # handler cycles before it
    uint64_t value  # written, or read
    uint64_t ideal
    uint8_t access
    uint8_t slot
    uint8_t applied

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
    reaction_t to_user  # KVM_RUN returns to the virtual machine monitor
    reaction_t from_user
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
    uint64_t rated_events  # events of the first eight slots for which hardware_rate holds, a byte each
    uint64_t counted_rate[3][LANES]  # guest user, kernel, handler: hardware_rate of enabled slots, else 0; GP, then fixed
    uint32_t counted[3]  # slots for which counted_rate holds; NOTHING_COUNTED if none
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
    uint32_t flags  # design_flag bits
    bint guest_in_hardware  # guest state is there, as far as the design switches it
    uint32_t reprogram  # slots to reprogram, and REQUEST_CLEANUP
    uint32_t retry  # slots whose event could not be created; they join the next request
    uint32_t in_use  # slots that the guest has written to since the last clean-up (pmc_in_use)
    int64_t least_period  # that host perf accepts
    bint ledger_stale  # what backs the guest counters has changed since the last entry
    uint32_t counting_instructions  # slots, KVM pmc_counting_instructions
    vcpu_counter_t vcpu[SLOTS]
    const event_filter_t *filter  # NULL: none
    const filter_change_t *filters
    uint64_t filter_due  # of the next change, NEVER if there is none
    uint32_t next_filter
    uint32_t denied  # guest counters that the filter denies
    controls_t loaded
    const program_t *load
    const program_t *put
    uint64_t block_cycles[2][MAX_BLOCKS]  # of load and put: what the unconditional accesses of each block take
    uint64_t straight_cycles[2][2]  # likewise, those up to the point of host perf and the rest
    uint64_t guest_lane[SLOTS]  # all ones where the guest has a counter
    uint64_t guest_event_bytes  # the same, a byte for each of the first eight
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
    uint64_t guest_core_hz  # of guest time
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
    program_step_t *program
    int program_steps
    host_event_t host_event[MAX_HOST_EVENTS]
    int host_events
    uint64_t host_fixed_ctr_ctrl  # host perf's cached value
    uint32_t host_allowed[EVENTS]  # slots that host perf may use for each event
    uint32_t blocked  # task events that are out while the vCPU's thread sleeps
    bint asleep  # that thread
    uint64_t asleep_busy  # running cycles that passed while it slept
    bint rotate[2]  # CPU, task: a flexible event of the context waits
    uint32_t next_position
    uint64_t mux_interval  # of the multiplexing timer, in wall cycles
    uint64_t next_mux  # its next instant, NEVER while it is stopped
    uint64_t rotations
    bint samples_host  # some own event samples
    uint64_t core_hz
    uint64_t tick  # wall cycles between two ticks
    uint64_t tick_ns
    uint64_t next_tick  # instant of the next tick that has work to do, else NEVER
    uint64_t max_samples_per_tick
    uint8_t flight  # whose PMI is in flight
    uint8_t arrived  # whose PMI the NMI handler serves
    host_pmi_t host_pmi
    uint32_t displaced  # host events that are out of hardware in the window
    bint host_placed  # some host event has been placed: GLOBAL_CTRL is ALL
    # tallies
    uint64_t pmu_exits[PMU_EXITS]
    uint64_t host_interrupts
    uint64_t switches
    uint64_t runs[PHASES][2]  # loads and puts whose unconditional accesses are not in ops and spent yet
    uint64_t refused
    uint64_t handlers
    uint64_t reprograms
    uint64_t creates
    pmi_tally_t pmi
    uint64_t ops[PHASES][ORIGINS][OP_CLASSES]
    uint64_t accesses[PHASES][2][OP_CLASSES]  # of guest perf: direct, trapped
    uint64_t spent[SPENT]
    uint64_t stray_counts  # host-mode wraps, which cannot happen
