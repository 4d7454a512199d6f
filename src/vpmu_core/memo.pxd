# Trapped accesses of the guest: what one did is what the same one does in the same state.
from vpmu_core._types cimport uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.lazy cimport lazy_t, state_key_t
from vpmu_core.state cimport access_t, machine_t

cdef enum:
    MOST_STATES = 128
    MOST_MEMOS = 256
    MOST_NOW = 8
    MOST_SET = 24
    MOST_LATER = 32
    BUCKETS = 256  # of states
    MEMO_BUCKETS = 512

cdef struct change_t:
    uint32_t at  # word of the machine: of 64 bits if added to, of 32 if set
    uint32_t by

cdef struct changes_t:
    uint32_t now  # added to clocks
    uint32_t set  # controls
    uint32_t later  # added to tallies

cdef struct memo_t:  # one access in one state
    uint8_t access  # access_kind
    uint8_t slot
    uint8_t usable
    uint8_t failed  # attempts to note it
    uint8_t seen
    uint16_t state
    uint16_t next_state
    changes_t n
    uint32_t counted  # hardware counters that the emulated instruction advances
    uint64_t value  # written
    uint64_t result  # read, unless from a counter
    uint64_t takes  # cycles from exit to entry
    uint64_t uses  # that are not in the tallies yet
    change_t now[MOST_NOW]
    change_t set[MOST_SET]
    change_t later[MOST_LATER]

cdef struct memos_t:
    state_key_t key[MOST_STATES + 1]
    uint16_t bucket[BUCKETS]  # a state each, the next ones if that is another; 0: none
    uint16_t memo_bucket[MEMO_BUCKETS]  # a memo each, likewise
    memo_t memo[MOST_MEMOS + 1]
    uint32_t states
    uint32_t memos
    uint32_t pause  # accesses to let pass before a state is looked up again
    uint32_t next_pause
    machine_t *before
    machine_t *trial

cdef void free_memos(memos_t *t) noexcept nogil
cdef void forget_memos(lazy_t *lazy) noexcept nogil
cdef void settle_memos(machine_t *m, const lazy_t *lazy) noexcept nogil
cdef bint access_by_memo(machine_t *m, access_t *a) noexcept nogil
