# cython: freethreading_compatible=True
"""Running a switch program: guest state into hardware, and out of it (docs/machine.md, section 8.1)."""
from libc.string cimport memcpy

from vpmu_core._types cimport NEVER, popcount32, uint16_t, uint32_t, uint64_t
from vpmu_core.blocks cimport block_t, program_t, straight_t
from vpmu_core.hostperf cimport host_events_in, host_events_out
from vpmu_core.kinds cimport COST_WRMSR, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR
from vpmu_core.lanes cimport clear_lanes, move_lanes, replace_lanes, save_lanes
from vpmu_core.unit cimport FIXED_LANES, FIXED_SLOT, GP_LANES, LVTPC_MASKED, LVTPC_NMI
from vpmu_core.counting cimport host_activity, host_advance
from vpmu_core.state cimport machine_t
from vpmu_core.stepping cimport run_steps
from vpmu_core.switchprogram cimport (
    FIXED_CTR_CTRL_GUEST, FIXED_CTR_CTRL_ZERO, LOOP_COUNTER_DIFFERS, LOOP_COUNTER_GUEST, LOOP_COUNTER_NONZERO,
    LOOP_COUNTER_ZERO, LOOP_SAVE, LOOP_SELECTOR_GUEST, LOOP_SELECTOR_NONZERO, LOOP_SELECTOR_ZERO, POINT_END,
    POINT_GLOBAL_CTRL_ZERO, POINT_LVTPC_HOST, POINT_PERF_LOAD, STATUS_ACKNOWLEDGE, STATUS_READ, STATUS_READ_SAVE,
    STATUS_SET_GUEST, STATUS_TOGGLE, usual_load, usual_put,
)
from vpmu_core.timeline cimport check_arrival


cdef inline uint64_t _loop_counters(machine_t *m, uint16_t flags, int first, int lanes) noexcept nogil:
    """RDPMC and counter writes of a loop; returns how many of its conditional writes took place."""
    cdef uint64_t writes = 0
    if flags & (LOOP_SAVE | LOOP_COUNTER_ZERO) == LOOP_SAVE | LOOP_COUNTER_ZERO:
        writes = move_lanes(&m.guest.counter[first], &m.hardware.counter[first], &m.guest_lane[first], lanes)
        return writes if flags & (LOOP_COUNTER_DIFFERS | LOOP_COUNTER_NONZERO) else 0
    if flags & LOOP_SAVE:
        save_lanes(&m.guest.counter[first], &m.hardware.counter[first], &m.guest_lane[first], lanes)
    if flags & LOOP_COUNTER_GUEST:
        writes = replace_lanes(&m.hardware.counter[first], &m.guest.counter[first], &m.guest_lane[first], lanes)
    elif flags & LOOP_COUNTER_ZERO:
        writes = clear_lanes(&m.hardware.counter[first], &m.guest_lane[first], lanes)
    return writes if flags & (LOOP_COUNTER_DIFFERS | LOOP_COUNTER_NONZERO) else 0


cdef inline uint64_t _loop_selectors(machine_t *m, uint16_t flags) noexcept nogil:
    """Selector writes of a loop; returns how many of its conditional writes took place."""
    cdef uint32_t members = m.guest.slots & 0xFFFF
    cdef uint64_t old = 0, new = 0
    if flags & LOOP_SELECTOR_GUEST:
        replace_lanes(m.hardware.selector, m.loaded.selector, m.guest_lane, GP_LANES)
        # One byte for each of the GP_LANES events.
        memcpy(&old, m.hardware.event, sizeof(old))
        memcpy(&new, m.guest.event, sizeof(new))
        old ^= (old ^ new) & m.guest_event_bytes
        memcpy(m.hardware.event, &old, sizeof(old))
        m.hardware.local[0] ^= (m.hardware.local[0] ^ m.loaded.local[0]) & members
        m.hardware.local[1] ^= (m.hardware.local[1] ^ m.loaded.local[1]) & members
        m.hardware.interrupt ^= (m.hardware.interrupt ^ m.loaded.interrupt) & members
        return 0
    # ``event`` stays: nothing reads it while the counter is off, and the next load finds it in place.
    clear_lanes(m.hardware.selector, m.guest_lane, GP_LANES)
    m.hardware.local[0] &= ~members
    m.hardware.local[1] &= ~members
    m.hardware.interrupt &= ~members
    return popcount32(m.loaded.nonzero & members) if flags & LOOP_SELECTOR_NONZERO else 0


cdef inline void _load_fixed_ctr_ctrl(machine_t *m, bint zero) noexcept nogil:
    # What each field enables is known from what the filter leaves of the guest's; host perf's fields are 0 in the window.
    cdef uint32_t gp = 0xFFFF
    m.hardware.fixed_ctr_ctrl = 0 if zero else m.loaded.fixed_ctr_ctrl
    m.hardware.local[0] = (m.hardware.local[0] & gp) | (0 if zero else m.loaded.local[0] & ~gp)
    m.hardware.local[1] = (m.hardware.local[1] & gp) | (0 if zero else m.loaded.local[1] & ~gp)
    m.hardware.interrupt = (m.hardware.interrupt & gp) | (0 if zero else m.loaded.interrupt & ~gp)


cdef uint64_t _toggle_status(machine_t *m, uint64_t status) noexcept nogil:
    # Through STATUS_RESET and STATUS_SET; returns how many of the two were written.
    cdef uint64_t reset = status & ~m.guest.global_status, set_ = m.guest.global_status & ~status
    m.hardware.global_status = (m.hardware.global_status & ~reset) | set_
    return <uint64_t>(reset != 0) + <uint64_t>(set_ != 0)


cdef enum:  # conditional WRMSRs of a run, tallied in one word, ten bits a class: at most 64 steps of 12 counters
    FIELD = 1023
    A_SELECTOR = 1 << 10
    A_GLOBAL = 1 << 20


cdef inline uint64_t _how_many(uint64_t writes) noexcept nogil:
    return (writes & FIELD) + (writes >> 10 & FIELD) + (writes >> 20)


cdef inline uint64_t _registers(machine_t *m, const block_t *b, uint64_t *status) noexcept nogil:
    """The register operations of a block; returns which of its conditional writes took place."""
    cdef uint64_t writes = 0
    if b.status_flags & STATUS_READ:
        status[0] = m.hardware.global_status
    if b.status_flags & STATUS_READ_SAVE:
        m.guest.global_status = status[0]
    if b.status_flags & STATUS_ACKNOWLEDGE and status[0]:
        writes += A_GLOBAL
        m.hardware.global_status &= ~status[0]
    if b.status_flags & STATUS_TOGGLE and status[0] != m.guest.global_status:
        writes += A_GLOBAL * _toggle_status(m, status[0])
    if b.status_flags & STATUS_SET_GUEST:
        m.hardware.global_status |= m.guest.global_status
    if b.fixed_ctr_ctrl == FIXED_CTR_CTRL_GUEST:
        _load_fixed_ctr_ctrl(m, False)
    elif b.fixed_ctr_ctrl == FIXED_CTR_CTRL_ZERO:
        _load_fixed_ctr_ctrl(m, True)
    elif b.fixed_ctr_ctrl and m.loaded.fixed_ctr_ctrl:
        writes += A_SELECTOR
        _load_fixed_ctr_ctrl(m, True)
    writes += _loop_counters(m, b.flags, 0, GP_LANES)
    writes += _loop_counters(m, b.fixed_flags, FIXED_SLOT, FIXED_LANES)
    if b.flags & (LOOP_SELECTOR_GUEST | LOOP_SELECTOR_ZERO):
        writes += A_SELECTOR * _loop_selectors(m, b.flags)
    return writes


cdef inline void _write_lvtpc(machine_t *m, int point) noexcept nogil:
    m.hardware.lvtpc = LVTPC_NMI if point == POINT_LVTPC_HOST else GUEST_VECTOR | (m.guest.lvtpc & LVTPC_MASKED)


cdef uint64_t _run_blocks(machine_t *m, const program_t *p, const uint64_t *cycles) noexcept nogil:
    """Block by block; returns the conditional writes that took place."""
    cdef const block_t *b = p.block
    cdef uint64_t status = 0, due = 0, writes = 0, now
    while True:
        due += cycles[0]
        if b.registers:
            now = _registers(m, b, &status)
            writes += now
            due += _how_many(now) * m.cost[COST_WRMSR]
            m.spent[COST_WRMSR] += _how_many(now) * m.cost[COST_WRMSR]
        if b.point >= POINT_GLOBAL_CTRL_ZERO:
            host_advance(m, host_activity(m), due)
            due = 0
            if b.point == POINT_GLOBAL_CTRL_ZERO:
                m.hardware.global_ctrl = 0
            else:
                check_arrival(m)
                _write_lvtpc(m, b.point)
        elif b.point:
            host_advance(m, host_activity(m), due)
            due = 0
            if b.point == POINT_END:
                return writes
            if m.has_host:
                if b.point == POINT_PERF_LOAD:
                    host_events_out(m)
                else:
                    host_events_in(m)
            m.blind = b.point == POINT_PERF_LOAD
        b += 1
        cycles += 1


cdef inline uint64_t _run_straight(machine_t *m, const straight_t *all, const uint64_t *cycles) noexcept nogil:
    """All blocks in one; returns the conditional writes that took place."""
    cdef uint64_t status = 0, writes = _registers(m, &all.registers, &status)
    cdef uint64_t conditional = _how_many(writes) * m.cost[COST_WRMSR], before, after
    m.spent[COST_WRMSR] += conditional
    if all.global_ctrl_zero:
        m.hardware.global_ctrl = 0
    if all.lvtpc:
        _write_lvtpc(m, all.lvtpc)
    before = cycles[0] + (conditional & all.conditional_before)
    after = cycles[1] + (conditional & ~all.conditional_before)
    m.wall += before + after
    m.clock[host_activity(m)] += before
    if all.perf:
        m.blind = all.perf == POINT_PERF_LOAD
    m.clock[host_activity(m)] += after
    return writes


cdef inline void _tally(machine_t *m, uint64_t writes) noexcept nogil:
    cdef uint64_t *tallies = m.ops[m.phase][ORIGIN_HYPERVISOR]
    tallies[OP_WRMSR_COUNTER] += writes & FIELD
    tallies[OP_WRMSR_SELECTOR] += writes >> 10 & FIELD
    tallies[OP_WRMSR_GLOBAL] += writes >> 20


cdef void _run_watched(machine_t *m, int half, const program_t *p) noexcept nogil:
    """With somebody there who notices when what happens: host events, a PMI in flight, or whoever watches steps."""
    if m.steps != NULL:
        run_steps(m, half)  # there are no blocks
    else:
        _tally(m, _run_blocks(m, p, m.block_cycles[half]))


cdef void _run_unusual(machine_t *m, int half, const program_t *p) noexcept nogil:
    """A program of no known shape, or with somebody there who notices."""
    if p.straight.possible and not m.has_host and m.pmi_arrival == NEVER:
        _tally(m, _run_straight(m, &p.straight, m.straight_cycles[half]))
    else:
        _run_watched(m, half, p)


cdef inline void _run_program(machine_t *m, int half, const program_t *p, const straight_t *usual) noexcept nogil:
    m.runs[m.phase][half] += 1
    if p.straight.shape == usual.shape and not m.has_host and m.pmi_arrival == NEVER:
        _tally(m, _run_straight(m, usual, m.straight_cycles[half]))
    else:
        _run_unusual(m, half, p)


cdef void load_guest(machine_t *m) noexcept nogil:
    """Guest state into hardware."""
    cdef straight_t usual
    usual_load(&usual)
    _run_program(m, 0, m.load, &usual)


cdef void put_guest(machine_t *m) noexcept nogil:
    """Guest state out of hardware."""
    cdef straight_t usual
    usual_put(&usual)
    _run_program(m, 1, m.put, &usual)
