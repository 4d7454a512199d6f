# cython: freethreading_compatible=True
"""Running a switch sequence (docs/machine.md, section 8.1).

GLOBAL_CTRL is 0 throughout, so nothing counts between two operations: the costs of register accesses add up and are
spent where somebody could notice, before LVTPC writes, host perf and the end.
"""
from vpmu_core._types cimport popcount32, uint16_t, uint32_t, uint64_t
from vpmu_core.hostperf cimport host_events_in, host_events_out
from vpmu_core.pmu cimport FIXED_SLOT, LVTPC_MASKED, LVTPC_NMI, pmu_t, write_fixed_ctr_ctrl
from vpmu_core.timeline cimport (
    COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL,
    OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR, check_arrival, host_activity, host_advance, machine_t, spend, step_t,
    tally,
)

cdef struct ops_t:
    uint64_t rdmsr
    uint64_t rdpmc
    uint64_t counters
    uint64_t selectors
    uint64_t globals


cdef void _flush(machine_t *m, ops_t *ops) noexcept nogil:
    """Spend and tally what has gathered."""
    cdef uint64_t wrmsr = (ops.counters + ops.selectors + ops.globals) * m.cost[COST_WRMSR]
    tally(m, ORIGIN_HYPERVISOR, OP_RDMSR, ops.rdmsr)
    tally(m, ORIGIN_HYPERVISOR, OP_RDPMC, ops.rdpmc)
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_COUNTER, ops.counters)
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_SELECTOR, ops.selectors)
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_GLOBAL, ops.globals)
    m.spent[COST_RDMSR] += ops.rdmsr * m.cost[COST_RDMSR]
    m.spent[COST_RDPMC] += ops.rdpmc * m.cost[COST_RDPMC]
    m.spent[COST_WRMSR] += wrmsr
    host_advance(m, host_activity(m), ops.rdmsr * m.cost[COST_RDMSR] + ops.rdpmc * m.cost[COST_RDPMC] + wrmsr)
    ops.rdmsr = ops.rdpmc = ops.counters = ops.selectors = ops.globals = 0


cdef inline void _loop(machine_t *m, uint16_t flags, ops_t *ops) noexcept nogil:
    """One loop over the guest's GP or fixed counters."""
    cdef pmu_t *hardware = &m.hardware
    cdef pmu_t *guest = &m.guest
    cdef int first = FIXED_SLOT if flags & LOOP_FIXED else 0
    cdef uint32_t range_mask = <uint32_t>0xFFFF << first
    cdef uint32_t members = guest.slots & range_mask
    cdef uint64_t writes = 0, selectors = 0
    cdef int slot
    cdef int last = first + popcount32(members)  # counters are contiguous up to version 5
    if flags & LOOP_RDPMC:
        ops.rdpmc += last - first
    if flags & LOOP_SAVE:
        for slot in range(first, last):
            guest.counter[slot] = hardware.counter[slot]
    if flags & LOOP_COUNTER_GUEST:
        for slot in range(first, last):
            writes += hardware.counter[slot] != guest.counter[slot]
            hardware.counter[slot] = guest.counter[slot]
        ops.counters += writes if flags & LOOP_COUNTER_DIFFERS else <uint64_t>(last - first)
    elif flags & LOOP_COUNTER_ZERO:
        for slot in range(first, last):
            writes += hardware.counter[slot] != 0
            hardware.counter[slot] = 0
        ops.counters += writes if flags & LOOP_COUNTER_NONZERO else <uint64_t>(last - first)
    if flags & LOOP_SELECTOR_GUEST:
        for slot in range(first, last):
            hardware.selector[slot] = guest.selector[slot]
            hardware.event[slot] = guest.event[slot]
        hardware.local[0] = (hardware.local[0] & ~members) | (guest.local[0] & members)
        hardware.local[1] = (hardware.local[1] & ~members) | (guest.local[1] & members)
        hardware.interrupt = (hardware.interrupt & ~members) | (guest.interrupt & members)
        ops.selectors += last - first
    elif flags & LOOP_SELECTOR_ZERO:
        # ``event`` stays: nothing reads it while the counter is off, and the next load finds it in place.
        for slot in range(first, last):
            selectors += guest.selector[slot] != 0
            hardware.selector[slot] = 0
        hardware.local[0] &= ~members
        hardware.local[1] &= ~members
        hardware.interrupt &= ~members
        ops.selectors += selectors if flags & LOOP_SELECTOR_NONZERO else <uint64_t>(last - first)


cdef void _write_lvtpc(machine_t *m, uint64_t value) noexcept nogil:
    spend(m, COST_WRMSR_LVTPC)
    check_arrival(m)
    tally(m, ORIGIN_HYPERVISOR, OP_WRMSR_LVTPC, 1)
    m.hardware.lvtpc = value


cdef void _run_program(machine_t *m, const step_t *steps, int n) noexcept nogil:
    cdef ops_t ops
    cdef uint64_t status = 0, differs
    cdef uint16_t operation, flags
    cdef int i
    ops.rdmsr = ops.rdpmc = ops.counters = ops.selectors = ops.globals = 0
    for i in range(n):
        operation = steps[i].operation
        flags = steps[i].flags
        if operation == LOOP:
            _loop(m, flags, &ops)
        elif operation == RDMSR_STATUS:
            ops.rdmsr += 1
            status = m.hardware.global_status
            if flags & STATUS_SAVE:
                m.guest.global_status = status
        elif operation == OVF_CTRL:
            if status:
                ops.globals += 1
                m.hardware.global_status &= ~status
        elif operation == TOGGLE_STATUS:
            differs = status ^ m.guest.global_status
            ops.globals += (status & differs) != 0
            ops.globals += (m.guest.global_status & differs) != 0
            m.hardware.global_status = (m.hardware.global_status & ~(status & differs)) | (m.guest.global_status & differs)
        elif operation == FIXED_CTR_CTRL:
            if flags == FIXED_CTR_CTRL_GUEST:
                ops.selectors += 1
                write_fixed_ctr_ctrl(&m.hardware, m.guest.fixed_ctr_ctrl)
            elif flags == FIXED_CTR_CTRL_ZERO or m.guest.fixed_ctr_ctrl:
                ops.selectors += 1
                write_fixed_ctr_ctrl(&m.hardware, 0)
        elif operation == GLOBAL_CTRL_ZERO:
            ops.globals += 1
            _flush(m, &ops)
            m.hardware.global_ctrl = 0
        else:
            _flush(m, &ops)
            if operation == LVTPC_GUEST:
                _write_lvtpc(m, GUEST_VECTOR | (m.guest.lvtpc & LVTPC_MASKED))
            elif operation == LVTPC_HOST:
                _write_lvtpc(m, LVTPC_NMI)
            elif operation == PERF_LOAD:
                host_events_out(m)
            else:
                host_events_in(m)
    _flush(m, &ops)


cdef void load_guest(machine_t *m) noexcept nogil:
    """Guest state into hardware."""
    _run_program(m, m.load, m.loads)


cdef void put_guest(machine_t *m) noexcept nogil:
    """Guest state out of hardware."""
    _run_program(m, m.put, m.puts)
