# cython: freethreading_compatible=True
"""Switch sequences compiled to programs, and what belongs to all runs of one (docs/machine.md, section 8.1).

GLOBAL_CTRL is 0 throughout, so nothing counts between two operations, and accesses to different registers commute: a
sequence becomes, for the counters that the guest has, a few blocks, each a set of register operations up to a point where
somebody could notice the time. How often operations without a condition access the PMU is known then: runs are counted,
and only conditional writes are tallied one by one.
"""
from libc.string cimport memcmp, memset

from vpmu_core._types cimport ALL_ONES, popcount32, uint8_t, uint16_t, uint32_t, uint64_t
from vpmu_core.blocks cimport SHAPE_ANY, SHAPE_LOAD, SHAPE_PUT, block_t, program_t, straight_t
from vpmu_core.kinds cimport (
    COST_PERF_GUEST_CONTEXT, COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR, OP_RDPMC,
    OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR, PHASES,
)
from vpmu_core.unit cimport FIXED_SLOT
from vpmu_core.state cimport machine_t


cdef block_t *_close(program_t *p, int point) noexcept:
    """End the open block at a point, and open the next one."""
    cdef block_t *b = &p.block[p.blocks]
    cdef uint32_t wrmsr = p.counters + p.selectors + p.globals_
    b.point = point
    b.rdmsr = <uint16_t>(p.rdmsr - p.passed_rdmsr)
    b.rdpmc = <uint16_t>(p.rdpmc - p.passed_rdpmc)
    b.wrmsr = <uint16_t>(wrmsr - p.passed_wrmsr)
    b.registers = (b.flags | b.fixed_flags | b.status_flags | b.fixed_ctr_ctrl) != 0
    p.passed_rdmsr, p.passed_rdpmc, p.passed_wrmsr = p.rdmsr, p.rdpmc, wrmsr
    p.blocks += 1
    return &p.block[p.blocks]


cdef void _compile_loop(program_t *p, block_t *b, uint16_t flags, uint32_t n) noexcept:
    if b.fixed_flags if flags & LOOP_FIXED else b.flags:
        b = _close(p, POINT_NONE)
    if flags & LOOP_FIXED:
        b.fixed_flags = flags
    else:
        b.flags = flags
    if flags & LOOP_RDPMC:
        p.rdpmc += n
    if flags & (LOOP_COUNTER_GUEST | LOOP_COUNTER_ZERO) and not flags & (LOOP_COUNTER_DIFFERS | LOOP_COUNTER_NONZERO):
        p.counters += n
    if flags & (LOOP_SELECTOR_GUEST | LOOP_SELECTOR_ZERO) and not flags & LOOP_SELECTOR_NONZERO:
        p.selectors += n


cdef void compile_step(program_t *p, const machine_t *m, uint16_t operation, uint16_t flags) noexcept:
    """Append one step, an operation with its flags."""
    cdef block_t *b = &p.block[p.blocks]
    cdef int status = 0
    if operation == LOOP:
        _compile_loop(
            p, b, flags, popcount32(m.guest.slots >> FIXED_SLOT if flags & LOOP_FIXED else m.guest.slots & 0xFFFF)
        )
    elif operation == FIXED_CTR_CTRL:
        if b.fixed_ctr_ctrl:
            b = _close(p, POINT_NONE)
        b.fixed_ctr_ctrl = <uint8_t>flags
        p.selectors += flags != FIXED_CTR_CTRL_ZERO_IF_NONZERO
    elif operation == GLOBAL_CTRL_ZERO:
        p.globals_ += 1
        _close(p, POINT_GLOBAL_CTRL_ZERO)
    elif operation == GLOBAL_CTRL_GUEST:
        p.globals_ += 1  # GuestOnly: nothing counts before the entry
    elif operation == PERF_LOAD:
        p.contexts += 1
        _close(p, POINT_PERF_LOAD)
    elif operation == PERF_PUT:
        p.contexts += 1
        _close(p, POINT_PERF_PUT)
    elif operation == LVTPC_GUEST or operation == LVTPC_HOST:
        p.lvtpc += 1
        _close(p, POINT_LVTPC_GUEST if operation == LVTPC_GUEST else POINT_LVTPC_HOST)
    else:
        if operation == RDMSR_STATUS:
            p.rdmsr += 1
            status = STATUS_READ | (STATUS_READ_SAVE if flags & STATUS_SAVE else 0)
        else:
            status = STATUS_ACKNOWLEDGE if operation == OVF_CTRL else STATUS_TOGGLE
            if operation == STATUS_SET:
                p.globals_ += 1
                status = STATUS_SET_GUEST
        if b.status_flags >= status:  # a block does them in the order of their bits
            b = _close(p, POINT_NONE)
        b.status_flags |= status


cdef bint _join(straight_t *all, const block_t *b) noexcept:
    """Add one block's operations to those before it; False if that would change what they do."""
    cdef block_t *r = &all.registers
    if (
        (b.flags and r.flags) or (b.fixed_flags and r.fixed_flags) or (b.fixed_ctr_ctrl and r.fixed_ctr_ctrl)
        or (b.status_flags and r.status_flags)
    ):
        return False
    if b.registers:
        all.conditional_before = 0 if all.perf else ALL_ONES
    r.flags |= b.flags
    r.fixed_flags |= b.fixed_flags
    r.fixed_ctr_ctrl |= b.fixed_ctr_ctrl
    r.status_flags |= b.status_flags
    if b.point == POINT_GLOBAL_CTRL_ZERO:
        all.global_ctrl_zero = True
    elif b.point >= POINT_LVTPC_GUEST:
        if all.lvtpc:
            return False
        all.lvtpc = b.point
    elif b.point >= POINT_PERF_LOAD:
        if all.perf:
            return False
        all.perf = b.point
    return True


cdef int _shape(const straight_t *all) noexcept:
    cdef straight_t load, put
    memset(&load, 0, sizeof(straight_t))
    memset(&put, 0, sizeof(straight_t))
    usual_load(&load)
    usual_put(&put)
    load.possible = put.possible = True
    load.shape = put.shape = SHAPE_ANY
    if memcmp(all, &load, sizeof(straight_t)) == 0:
        return SHAPE_LOAD
    return SHAPE_PUT if memcmp(all, &put, sizeof(straight_t)) == 0 else SHAPE_ANY


cdef void compile_end(program_t *p) noexcept:
    """The last block; and all of them in one, if that can be."""
    cdef bint before = False, after = False
    cdef uint32_t i
    _close(p, POINT_END)
    p.straight.possible = True
    for i in range(p.blocks):
        if p.straight.perf:
            after |= p.block[i].registers
        else:
            before |= p.block[i].registers
        if not _join(&p.straight, &p.block[i]) or (before and after):
            p.straight.possible = False
    p.straight.shape = _shape(&p.straight)


cdef void _price(machine_t *m, int half, const program_t *p) noexcept nogil:
    cdef uint64_t *cycles = m.block_cycles[half]
    cdef const block_t *b
    cdef int side = 0
    cdef uint32_t i
    m.straight_cycles[half][0] = m.straight_cycles[half][1] = 0
    for i in range(p.blocks):
        b = &p.block[i]
        cycles[i] = b.rdmsr * m.cost[COST_RDMSR] + b.rdpmc * m.cost[COST_RDPMC] + b.wrmsr * m.cost[COST_WRMSR]
        if b.point == POINT_LVTPC_GUEST or b.point == POINT_LVTPC_HOST:
            cycles[i] += m.cost[COST_WRMSR_LVTPC]
        elif b.point == POINT_PERF_LOAD or b.point == POINT_PERF_PUT:
            cycles[i] += m.cost[COST_PERF_GUEST_CONTEXT]
        m.straight_cycles[half][side] += cycles[i]
        if b.point == POINT_PERF_LOAD or b.point == POINT_PERF_PUT:
            side = 1


cdef void price_programs(machine_t *m) noexcept nogil:
    """What the unconditional accesses before each point take, at the costs of this machine."""
    if m.load != NULL:
        _price(m, 0, m.load)
        _price(m, 1, m.put)


cdef void _tally_runs(machine_t *m, int phase, uint64_t n, const program_t *p) noexcept nogil:
    cdef uint64_t *tallies = m.ops[phase][ORIGIN_HYPERVISOR]
    tallies[OP_RDMSR] += n * p.rdmsr
    tallies[OP_RDPMC] += n * p.rdpmc
    tallies[OP_WRMSR_COUNTER] += n * p.counters
    tallies[OP_WRMSR_SELECTOR] += n * p.selectors
    tallies[OP_WRMSR_GLOBAL] += n * p.globals_
    tallies[OP_WRMSR_LVTPC] += n * p.lvtpc
    m.spent[COST_RDMSR] += n * p.rdmsr * m.cost[COST_RDMSR]
    m.spent[COST_RDPMC] += n * p.rdpmc * m.cost[COST_RDPMC]
    m.spent[COST_WRMSR] += n * (p.counters + p.selectors + p.globals_) * m.cost[COST_WRMSR]
    m.spent[COST_PERF_GUEST_CONTEXT] += n * p.contexts * m.cost[COST_PERF_GUEST_CONTEXT]
    m.spent[COST_WRMSR_LVTPC] += n * p.lvtpc * m.cost[COST_WRMSR_LVTPC]


cdef void tally_switches(machine_t *m) noexcept nogil:
    """Add the unconditional accesses of all loads and puts to the tallies, which conditional ones are in already."""
    cdef int phase
    for phase in range(PHASES):
        if m.runs[phase][0]:
            _tally_runs(m, phase, m.runs[phase][0], m.load)
        if m.runs[phase][1]:
            _tally_runs(m, phase, m.runs[phase][1], m.put)
        m.runs[phase][0] = m.runs[phase][1] = 0
