# The lazy engine: jumps over exits that change nothing but clocks and tallies.
from vpmu_core._types cimport int8_t, uint32_t, uint64_t
from vpmu_core.kinds cimport ACTIVITIES, OP_CLASSES, ORIGINS, SPENT
from vpmu_core.unit cimport SLOTS
from vpmu_core.state cimport MAX_GUEST_EVENTS, machine_t

cdef enum:  # usable_t
    UNKNOWN = 0  # for the present state; to be found out
    SKIPPABLE = 1
    EVENTFUL = 2

cdef struct kind_t:  # what the loop over skipped exits needs of a kind, and leaves
    uint64_t busy  # cycles from exit to entry, without idling and, in a trace, without handling; NEVER: not to be skipped
    uint64_t idle
    uint64_t skipped  # exits of the running jump
    uint32_t usable

cdef struct summary_t:  # what one exit of a kind does, found by running it once on a copy
    uint64_t handled  # cycles of handling of the running jump
    uint64_t by_task  # of these, by the virtual machine monitor
    uint64_t saved  # of these, part of what a refused fastpath takes anyway
    uint64_t clock[ACTIVITIES]  # cycles, handling and idle apart
    uint64_t wall  # their sum
    uint64_t ops[ORIGINS][OP_CLASSES]  # but those of ``runs``
    uint64_t runs[2]  # loads, puts
    uint64_t spent[SPENT]
    uint64_t switches
    uint64_t refused
    uint64_t retired[2]
    uint32_t counted  # hardware slots that the emulated instruction advances
    uint32_t counted_ideally
    uint32_t filtered  # guest events for whose denied counter the emulated instruction is lost
    int handling_activity  # who pays for handling: hypervisor or blind
    bint may_idle  # blocking changes nothing either

cdef struct state_key_t:  # what a summary depends on; counters only as far as they are zero
    uint64_t selector[SLOTS]
    uint64_t guest_selector[SLOTS]
    uint64_t fixed_ctr_ctrl
    uint64_t guest_fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t guest_global_ctrl
    uint64_t global_status
    uint64_t guest_global_status
    uint64_t lvtpc
    uint64_t guest_lvtpc
    uint32_t nonzero
    uint32_t ideal_local[2]
    uint32_t counting_instructions
    uint32_t denied
    uint32_t in_use
    int host_events
    int8_t counts[MAX_GUEST_EVENTS]  # slot of each guest event that is active, -1 otherwise
    bint ledger_stale
    bint blind

cdef struct lazy_t:
    summary_t *summary  # one for each planned exit
    kind_t *kind  # likewise
    uint32_t summaries
    machine_t *copy
    state_key_t key
    uint32_t pause  # exits to let pass before the next attempt
    uint32_t next_pause

cdef void forget(lazy_t *lazy) noexcept nogil
cdef void fast_forward(machine_t *m) noexcept nogil
