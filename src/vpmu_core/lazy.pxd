# The lazy engine: jumps over exits that change nothing but clocks and tallies.
from vpmu_core._types cimport int8_t, uint8_t, uint32_t, uint64_t
from vpmu_core.kinds cimport ACTIVITIES, OP_CLASSES, ORIGINS, SPENT
from vpmu_core.unit cimport GP_LANES, SLOTS
from vpmu_core.state cimport MAX_GUEST_EVENTS, MAX_HOST_EVENTS, host_modes_t, machine_t

cdef enum:  # usable_t
    UNKNOWN = 0  # for the present state; to be found out
    SKIPPABLE = 1
    EVENTFUL = 2

cdef struct kind_t:  # what the loop over skipped exits needs of a kind, and leaves
    uint64_t busy  # cycles from exit to entry, without idling and, in a trace, without handling; NEVER: not to be skipped
    uint64_t idle
    uint64_t skipped  # exits of the running jump
    uint32_t usable
    uint32_t folds  # it takes the events behind counters out and in, and reprograms some

cdef struct summary_t:  # what one exit of a kind does, found by running it once on a copy
    uint64_t handled  # cycles of handling of the running jump
    uint64_t within  # of these, within the bound of each exit
    uint64_t bound  # cycles of handling that come first, or that a refused fastpath takes anyway
    uint64_t clock[ACTIVITIES]  # cycles, handling and idle apart
    uint64_t wall  # their sum
    uint64_t ops[ORIGINS][OP_CLASSES]  # but those of ``runs``
    uint64_t runs[2]  # loads, puts
    uint64_t spent[SPENT]
    uint64_t switches
    uint64_t refused
    uint64_t reprograms
    uint64_t retired[2]
    uint32_t counted  # hardware slots that the emulated instruction advances
    uint32_t counted_ideally
    uint32_t reprogrammed  # guest counters whose events the emulated instruction has reprogrammed
    uint32_t filtered  # guest events for whose denied counter the emulated instruction is lost
    int handling_activity  # who pays for handling: hypervisor or blind

cdef struct state_key_t:  # what a summary, or a memo, depends on; counters only as far as they are zero
    uint64_t selector[GP_LANES]
    uint64_t guest_selector[GP_LANES]
    uint64_t fixed_ctr_ctrl
    uint64_t guest_fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t guest_global_ctrl
    uint64_t global_status
    uint64_t guest_global_status
    uint64_t lvtpc
    uint64_t guest_lvtpc
    uint32_t nonzero
    uint32_t retry
    uint32_t paused
    uint32_t throttled
    int8_t event[SLOTS]  # behind each guest counter, where events are
    uint8_t event_state[MAX_HOST_EVENTS]
    int8_t event_slot[MAX_HOST_EVENTS]
    uint32_t ideal_local[2]
    uint32_t ideal_instructions
    uint32_t unloaded
    uint32_t counting_instructions
    uint32_t denied
    uint32_t next_filter
    uint32_t in_use
    int host_events
    int8_t counts[MAX_GUEST_EVENTS]  # slot of each guest event that is active, -1 otherwise
    bint ledger_stale
    bint blind

cdef struct memos_t  # memo.pxd

cdef enum:
    MOST_HELD = 16

cdef struct held_t:  # summaries of a state that the machine has been in
    state_key_t key
    summary_t *summary
    kind_t *kind
    uint32_t reprogrammed
    bint folds
    host_modes_t modes  # of its exits, beside host events

cdef struct lazy_t:
    summary_t *summary  # of the present state: of each planned exit; in a trace, again of those that block
    kind_t *kind  # likewise
    held_t held[MOST_HELD]  # the present state and others
    uint32_t states  # of these in use
    uint32_t present
    uint32_t next_given_up  # when there is no room
    uint64_t *drawn  # one for each slot of a stream: its exits in one batch
    memos_t *memos  # of trapped accesses; NULL: none yet
    uint32_t kinds  # planned exits
    uint32_t summaries
    machine_t *copy
    host_modes_t trial  # modes of its exits
    state_key_t found  # at the present attempt; what read_key() never writes stays 0
    uint64_t mean_rate[SLOTS]  # what each slot counts of workload code, while the following three hold
    uint64_t mean_events  # rated_events
    uint32_t mean_on[2]  # slots that count kernel code, user code
    uint32_t pause  # exits to let pass before the next attempt
    uint32_t next_pause
    uint32_t wary  # jumps that go without a venture
    uint32_t next_wary
    bint folds  # whether some exits of the present state do
    uint32_t reprogrammed  # by those that do

cdef struct course_t:  # where a jump is, and how far it may go
    uint64_t work
    uint64_t folded  # work at the last exit that folds
    uint64_t running  # wall less idle
    uint64_t idle
    uint64_t most_work  # first instants that it must not reach
    uint64_t most_running
    uint64_t end

cdef void number_summaries(lazy_t *lazy, const machine_t *m, Py_ssize_t kinds) noexcept nogil
cdef bint hold_summaries(lazy_t *lazy) noexcept nogil
cdef void free_summaries(lazy_t *lazy) noexcept nogil
cdef void forget(lazy_t *lazy) noexcept nogil
cdef void fast_forward(machine_t *m) noexcept nogil
