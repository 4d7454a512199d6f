# Perf events of the guest and of the host: a data sheet. docs/machine.md says what happens to them.
from vpmu_core._types cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from vpmu_core.kinds cimport CAUSES, CAUSE_NONE, CAUSE_WRONG_COUNTER

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
    uint64_t expected  # periods that have ended
    uint64_t late  # wall cycles from overflow to NMI handler, of all samples
    uint64_t overflow_at  # wall instant of its counter's last overflow
    int64_t zeroed  # what perf_adjust_period() has taken from period_left
    uint64_t tick_count  # its count when the tick last looked
    int64_t sample_time  # of its last sample, in nanoseconds
    uint8_t sampling
    uint8_t throttles
    uint8_t throttled
    uint8_t held  # in its counter with the enable bits off (direct-capture)
    uint8_t unsampled  # backs a guest counter and has no period (IN_TXCP)

cdef struct vcpu_counter_t:  # KVM struct kvm_pmc, emulated design
    uint64_t counter
    uint64_t emulated  # instructions emulated since the last reprogramming
    uint64_t key  # configuration of the perf event
    int8_t event  # index of host_event_t, -1 if none
    uint8_t paused
    uint8_t rejected  # perf refused its event for its period

cdef struct guest_timer_t:  # fires at base + n*numerator/denominator, rounded up
    uint64_t due  # NEVER: off
    uint64_t base
    uint64_t numerator
    uint64_t denominator
    uint64_t fired
