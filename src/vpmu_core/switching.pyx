# cython: freethreading_compatible=True
"""Running a switch sequence (docs/machine.md, section 8.1).

GLOBAL_CTRL is 0 throughout, so nothing counts between two operations: the costs of register accesses add up and are
spent where somebody could notice, before LVTPC writes, host perf and the end.
"""
from libc.string cimport memcmp

from vpmu_core._types cimport ALL_ONES, popcount32, uint16_t, uint32_t, uint64_t
from vpmu_core.hostperf cimport host_events_in, host_events_out
from vpmu_core.unit cimport FIXED_LANES, FIXED_SLOT, GP_LANES, LVTPC_MASKED, LVTPC_NMI, pmu_t
from vpmu_core.counting cimport host_activity, host_advance, spend, tally
from vpmu_core.state cimport (
    COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR, OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL,
    OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR, controls_t, machine_t, step_t,
)
from vpmu_core.timeline cimport check_arrival

cdef struct ops_t:
    uint64_t rdmsr
    uint64_t rdpmc
    uint64_t counters
    uint64_t selectors
    uint64_t globals
    uint64_t spent  # cycles of those that have been spent already


cdef inline void _spend_ops(machine_t *m, ops_t *ops) noexcept nogil:
    """Let the time of what has gathered since the last call pass."""
    cdef uint64_t total = (
        ops.rdmsr * m.cost[COST_RDMSR] + ops.rdpmc * m.cost[COST_RDPMC]
        + (ops.counters + ops.selectors + ops.globals) * m.cost[COST_WRMSR]
    )
    host_advance(m, host_activity(m), total - ops.spent)
    ops.spent = total


cdef inline void _tally_ops(machine_t *m, const ops_t *ops) noexcept nogil:
    cdef uint64_t *tallies = m.ops[m.phase][ORIGIN_HYPERVISOR]
    tallies[OP_RDMSR] += ops.rdmsr
    tallies[OP_RDPMC] += ops.rdpmc
    tallies[OP_WRMSR_COUNTER] += ops.counters
    tallies[OP_WRMSR_SELECTOR] += ops.selectors
    tallies[OP_WRMSR_GLOBAL] += ops.globals
    m.spent[COST_RDMSR] += ops.rdmsr * m.cost[COST_RDMSR]
    m.spent[COST_RDPMC] += ops.rdpmc * m.cost[COST_RDPMC]
    m.spent[COST_WRMSR] += (ops.counters + ops.selectors + ops.globals) * m.cost[COST_WRMSR]


cdef inline void _loop(machine_t *m, uint16_t flags, ops_t *ops, int first, int lanes, bint all_lanes) noexcept nogil:
    """One loop over the guest's counters; without branches over a fixed number of lanes, so that it vectorises.

    ``all_lanes``: the guest has a counter in every lane, and nothing needs a mask.
    """
    cdef pmu_t *hardware = &m.hardware
    cdef pmu_t *guest = &m.guest
    cdef const controls_t *loaded = &m.loaded
    cdef uint32_t members = guest.slots & (((<uint32_t>1 << lanes) - 1) << first)
    cdef uint64_t n = <uint64_t>lanes if all_lanes else <uint64_t>popcount32(members)
    cdef uint64_t writes = 0, selectors = 0, mine, old, new
    cdef int slot
    if flags & LOOP_RDPMC:
        ops.rdpmc += n
    if flags & LOOP_SAVE:
        for slot in range(first, first + lanes):
            mine = ALL_ONES if all_lanes else 0 - <uint64_t>(members >> slot & 1)
            guest.counter[slot] = hardware.counter[slot] & mine
    if flags & LOOP_COUNTER_GUEST:
        for slot in range(first, first + lanes):
            mine = ALL_ONES if all_lanes else 0 - <uint64_t>(members >> slot & 1)
            old = hardware.counter[slot]
            new = old ^ ((old ^ guest.counter[slot]) & mine)
            writes += old != new
            hardware.counter[slot] = new
        ops.counters += writes if flags & LOOP_COUNTER_DIFFERS else n
    elif flags & LOOP_COUNTER_ZERO:
        for slot in range(first, first + lanes):
            mine = ALL_ONES if all_lanes else 0 - <uint64_t>(members >> slot & 1)
            old = hardware.counter[slot]
            writes += (old & mine) != 0
            hardware.counter[slot] = old & ~mine
        ops.counters += writes if flags & LOOP_COUNTER_NONZERO else n
    if flags & LOOP_SELECTOR_GUEST:
        for slot in range(first, first + lanes):
            mine = ALL_ONES if all_lanes else 0 - <uint64_t>(members >> slot & 1)
            old = hardware.selector[slot]
            hardware.selector[slot] = old ^ ((old ^ loaded.selector[slot]) & mine)
        if memcmp(&hardware.event[first], &guest.event[first], lanes) != 0:
            for slot in range(first, first + lanes):
                if members >> slot & 1:
                    hardware.event[slot] = guest.event[slot]
        hardware.local[0] = (hardware.local[0] & ~members) | (loaded.local[0] & members)
        hardware.local[1] = (hardware.local[1] & ~members) | (loaded.local[1] & members)
        hardware.interrupt = (hardware.interrupt & ~members) | (loaded.interrupt & members)
        ops.selectors += n
    elif flags & LOOP_SELECTOR_ZERO:
        # ``event`` stays: nothing reads it while the counter is off, and the next load finds it in place.
        for slot in range(first, first + lanes):
            mine = ALL_ONES if all_lanes else 0 - <uint64_t>(members >> slot & 1)
            selectors += (loaded.selector[slot] & mine) != 0
            hardware.selector[slot] &= ~mine
        hardware.local[0] &= ~members
        hardware.local[1] &= ~members
        hardware.interrupt &= ~members
        ops.selectors += selectors if flags & LOOP_SELECTOR_NONZERO else n


cdef inline void _load_fixed_ctr_ctrl(machine_t *m, bint zero) noexcept nogil:
    # What each field enables is known from the copy that is loaded; host perf's fields are 0 in the window.
    cdef uint32_t gp = 0xFFFF
    m.hardware.fixed_ctr_ctrl = 0 if zero else m.loaded.fixed_ctr_ctrl
    m.hardware.local[0] = (m.hardware.local[0] & gp) | (0 if zero else m.loaded.local[0] & ~gp)
    m.hardware.local[1] = (m.hardware.local[1] & gp) | (0 if zero else m.loaded.local[1] & ~gp)
    m.hardware.interrupt = (m.hardware.interrupt & gp) | (0 if zero else m.loaded.interrupt & ~gp)


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
    ops.rdmsr = ops.rdpmc = ops.counters = ops.selectors = ops.globals = ops.spent = 0
    for i in range(n):
        operation = steps[i].operation
        flags = steps[i].flags
        if operation == LOOP:
            if flags & LOOP_FIXED:
                _loop(m, flags, &ops, FIXED_SLOT, FIXED_LANES, False)
            elif m.guest.slots & 0xFF == 0xFF:
                _loop(m, flags, &ops, 0, GP_LANES, True)
            else:
                _loop(m, flags, &ops, 0, GP_LANES, False)
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
                _load_fixed_ctr_ctrl(m, False)
            elif flags == FIXED_CTR_CTRL_ZERO or m.loaded.fixed_ctr_ctrl:
                ops.selectors += 1
                _load_fixed_ctr_ctrl(m, True)
        elif operation == GLOBAL_CTRL_ZERO:
            ops.globals += 1
            _spend_ops(m, &ops)
            m.hardware.global_ctrl = 0
        else:
            _spend_ops(m, &ops)
            if operation == LVTPC_GUEST:
                _write_lvtpc(m, GUEST_VECTOR | (m.guest.lvtpc & LVTPC_MASKED))
            elif operation == LVTPC_HOST:
                _write_lvtpc(m, LVTPC_NMI)
            elif operation == PERF_LOAD:
                host_events_out(m)
            else:
                host_events_in(m)
    _spend_ops(m, &ops)
    _tally_ops(m, &ops)


cdef void load_guest(machine_t *m) noexcept nogil:
    """Guest state into hardware."""
    _run_program(m, m.load, m.loads)


cdef void put_guest(machine_t *m) noexcept nogil:
    """Guest state out of hardware."""
    _run_program(m, m.put, m.puts)
