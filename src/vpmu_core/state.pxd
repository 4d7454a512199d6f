# The state of the machine: a data sheet. docs/machine.md says what happens to it.
from vpmu_core._types cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.blocks cimport MAX_BLOCKS, program_t
from vpmu_core.kinds cimport ACTIVITIES, COSTS, OP_CLASSES, ORIGINS, PHASES, PMU_EXITS, SPENT, TIMERS
from vpmu_core.perfevents cimport guest_event_t, guest_timer_t, host_event_t, vcpu_counter_t
from vpmu_core.random cimport sfc64_t, stream_t
from vpmu_core.steps cimport steps_t, watch_t
from vpmu_core.unit cimport EVENTS, SLOTS, pmu_t

cdef enum:
    MAX_GUEST_EVENTS = 24  # more than counters: then they take turns
    MAX_OWN_HOST_EVENTS = 20  # the host's own
    MAX_HOST_EVENTS = 32  # the host's own, then those that back guest counters
    LANES = 12  # GP_LANES + FIXED_LANES
    NO_STATE = 0  # of memo.pxd, whose states count from 1
    NOTHING_COUNTED = 1 << 31  # no machine has a counter there

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
    const uint64_t *chunk_gap  # NEVER: the chunk has no sums
    const uint64_t *chunk_idle
    const uint32_t *chunk_count  # by chunk and summary (lazy.pxd), as all that follow
    const uint64_t *chunk_handled
    const uint64_t *chunk_within  # of it, what a refused fastpath takes anyway, or the kernel before the user space

cdef struct access_t:  # one access of guest software to its PMU
    uint8_t access  # access_kind
    uint8_t slot  # of counter and selector accesses, RDPMC
    uint64_t value  # written, or read
    uint64_t ideal  # what the ideal PMU reads
    uint8_t applied  # it has taken effect: a stop did not come before

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
    uint32_t nonzero  # slots whose selector is not 0

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

cdef struct program_step_t:  # an access of guest software other than perf
    uint64_t gap  # handler cycles before it
    uint64_t value  # written, or read
    uint64_t ideal
    uint8_t access
    uint8_t slot
    uint8_t applied

ctypedef machine_s machine_t

cdef struct host_mode_t:  # how code of one activity in host mode counts
    uint64_t global_ctrl
    uint32_t on  # slots
    bint blind
    bint asleep
    bint seen

cdef struct host_modes_t:
    host_mode_t mode[ACTIVITIES]
    const machine_s *origin  # of the copy that notes them
    bint uneven  # code of one activity has counted in two ways, or with other registers or events than the origin's

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
    uint64_t due  # nothing that has an instant is due before this one, of the wall clock; 0: not known
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
    uint64_t patience  # running clock after which a read-out is left alone by PMIs, NMIs and host interrupts
    uint64_t handlers_since  # wall instant at which the guest's latest PMI handler began
    uint32_t handlers_at_once  # of its PMI handlers, how many have begun at that instant
    bint ended
    bint yielded
    bint has_host
    uint32_t list_entry  # MSR list entries of a VM exit: GLOBAL_CTRL stored, or loaded; AMD: the hypervisor reads it
    uint32_t entry_list  # of a VM entry
    bint amd
    bint guest_v1  # AMD before PerfMonV2: the guest's PMU has no global registers
    bint host_v1  # nor has the host's
    bint host_nmi_pending  # AMD: it has made the guest exit, and waits for the host to take NMIs (GIF)
    uint8_t stopped
    uint8_t phase
    int64_t budget  # segments left before the run returns to Python
    # design
    const design_t *design
    reaction_t guest_pmi_handler
    reaction_t guest_timers  # what is due by the guest's clock
    reaction_t fast_forward  # of the lazy engine; NULL: stepwise
    void *lazy  # lazy_t of lazy.pxd
    uint16_t at_state  # of memo.pxd, that the machine is known to be in, or NO_STATE
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
    uint32_t unloaded  # guest counters whose control is another than ``loaded`` has
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
    host_modes_t *modes  # where it is noted how host-mode code counts; NULL: not
    uint32_t displaced  # host events that are out of hardware in the window
    uint32_t settled  # host events behind guest counters, put into hardware since guest code last ran
    uint32_t settled_gp  # of these, those on GP counters
    uint32_t settled_slots  # the counters of all of them
    uint32_t kept_out[2]  # counters of events that exclude the host, the guest
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
    # sequences that are done step by step
    const steps_t *steps  # load and put; NULL: as blocks
    bint keeps_counters  # two switches in a row are alike
    watch_t watch
    # other vCPUs on the logical CPU (logicalcpu.pxd)
    bint shares  # there are some
    bint joins  # the logical CPU runs already when this vCPU starts: the host's events have their places
    bint gives_way  # workload code stopped for another vCPU
    uint64_t preempt_at  # wall instant from which it does, NEVER if nobody waits
    uint64_t others  # cycles for which other vCPUs had the CPU
    uint64_t windows  # of these, cycles of guest code or with guest state loaded
    uint64_t preemptions
    uint64_t tick_exits  # of these, those that took an exit of their own
    uint64_t leftovers  # counters that were left counting for a guest when its thread left the CPU
