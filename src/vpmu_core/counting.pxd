# Clocks and counters: how time passes, what counts meanwhile, and the ledger.
from libc.string cimport memcpy

from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.kinds cimport BLIND, HANDLERS_AT_ONCE, HYPERVISOR, IDLE
from vpmu_core.perfevents cimport guest_event_t
from vpmu_core.state cimport access_t, machine_t


cdef void count_host_time(machine_t *m, int a, uint64_t cycles) noexcept nogil


cdef inline bint rates_are_stale(const machine_t *m) noexcept nogil:
    # The events of fixed counters never change.
    cdef uint64_t events = 0
    memcpy(&events, m.hardware.event, sizeof(events))
    return events != m.rated_events


cdef inline void tally(machine_t *m, int origin, int op, uint64_t n) noexcept nogil:
    m.ops[m.phase][origin][op] += n


cdef inline int host_activity(const machine_t *m) noexcept nogil:
    return BLIND if m.blind else HYPERVISOR


cdef inline uint64_t running_clock(const machine_t *m) noexcept nogil:
    # Cycles for which the logical CPU ran for this vCPU and for the host.
    return m.wall - m.clock[IDLE] - m.others


cdef inline bint exhausted(const machine_t *m) noexcept nogil:
    # Time ran out for the guest, or stands still while PMI follows PMI: the run is stopped, a read-out left alone.
    return running_clock(m) > (m.patience if m.finishing else 2 * m.end) or m.handlers_at_once > HANDLERS_AT_ONCE


cdef inline void host_advance(machine_t *m, int a, uint64_t cycles) noexcept nogil:
    # Host-mode code runs: without live host counters only the clocks move.
    if m.has_host:
        count_host_time(m, a, cycles)
    m.clock[a] += cycles
    m.wall += cycles


cdef inline void spend(machine_t *m, int cost) noexcept nogil:
    m.spent[cost] += m.cost[cost]
    host_advance(m, host_activity(m), m.cost[cost])


cdef inline void spend_each(machine_t *m, int cost, uint64_t n) noexcept nogil:
    # n times the same in a row; counters that live in host mode see each of them.
    cdef uint64_t left = n
    if m.has_host:
        while left:
            spend(m, cost)
            left -= 1
    else:
        m.spent[cost] += n * m.cost[cost]
        host_advance(m, host_activity(m), n * m.cost[cost])


cdef uint64_t first_host_wrap(const machine_t *m, int a, uint64_t cycles) noexcept nogil
cdef void rate_slots(machine_t *m) noexcept nogil
cdef void refresh_rates(machine_t *m) noexcept nogil
cdef void charge_host_events(
    machine_t *m, bint guest, int a, bint user, uint32_t on, uint64_t start, uint64_t cycles,
) noexcept nogil
cdef void raise_pmi(machine_t *m, int whose, uint64_t instant) noexcept nogil
cdef uint32_t own_slots(const machine_t *m) noexcept nogil
cdef void note_overflows(machine_t *m, uint32_t wrapped) noexcept nogil
cdef void apply_direct(machine_t *m, access_t *a) noexcept nogil
cdef void apply_ideal(machine_t *m, access_t *a) noexcept nogil
cdef void meter(machine_t *m, guest_event_t *e, int reason) noexcept nogil
cdef void meter_denied(machine_t *m) noexcept nogil
cdef void meter_absent(machine_t *m, bint on) noexcept nogil
