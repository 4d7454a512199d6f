# cython: freethreading_compatible=True
"""Switch sequences step by step (docs/machine.md, section 8.2): those that blocks cannot do, or that may leave something.

Each access takes its time and then has its effect, for something may count meanwhile. After a put and after a load the
hardware is looked at: what is left of the guest's, and what is missing.
"""
from vpmu_core._types cimport lowest_bit, uint32_t, uint64_t
from vpmu_core.counting cimport spend, tally
from vpmu_core.hostperf cimport host_events_in, host_events_out
from vpmu_core.kinds cimport (
    ACCESS_GLOBAL_STATUS, COST_PERF_GUEST_CONTEXT, COST_RDMSR, COST_RDPMC, COST_WRMSR, COST_WRMSR_LVTPC, OP_RDMSR,
    OP_RDPMC, OP_WRMSR_COUNTER, OP_WRMSR_GLOBAL, OP_WRMSR_LVTPC, OP_WRMSR_SELECTOR, ORIGIN_HYPERVISOR,
)
from vpmu_core.steps cimport (
    BREACH_COUNTERS, BREACH_FIXED_FIELDS, BREACH_LVTPC, BREACH_NOT_LOADED, BREACH_SELECTORS, BREACH_STATUS,
    DO_LOOP_FIXED, DO_LOOP_GP, DO_LVTPC, DO_PERF_LOAD, DO_PERF_PUT, DO_RDMSR, DO_RDPMC, DO_TOGGLE, IF_ALWAYS,
    IF_DIFFERS, IF_NONZERO_COPY, IF_NONZERO_READ, IF_SELECTOR_COPY, IF_SELECTOR_READ, REGISTER_COUNTER,
    REGISTER_FIXED_CTR_CTRL, REGISTER_GLOBAL_CTRL, REGISTER_SELECTOR, REGISTER_STATUS, REGISTER_STATUS_RESET,
    REGISTER_STATUS_SET, REGISTER_STORED, SAVE_GUEST, SAVE_HOST, VALUE_CACHED, VALUE_GUEST, VALUE_HOST, operation_t,
    steps_t,
)
from vpmu_core.state cimport machine_t
from vpmu_core.switching cimport GUEST_VECTOR
from vpmu_core.timeline cimport check_arrival
from vpmu_core.unit cimport FIXED_SLOT, LVTPC_MASKED, LVTPC_NMI, SELECTOR_ENABLE, write_fixed_ctr_ctrl, write_selector


cdef struct reads_t:  # what was read last: of the registers that there is one of, and of one counter
    uint64_t fixed_ctr_ctrl
    uint64_t global_ctrl
    uint64_t status
    uint64_t counter
    uint64_t selector


cdef void _access(machine_t *m, int cost, int op) noexcept nogil:
    spend(m, cost)
    tally(m, ORIGIN_HYPERVISOR, op, 1)


cdef uint64_t _loaded(const machine_t *m, int register_, int slot) noexcept nogil:
    """What the guest is to have in a register: KVM's copy through the event filter."""
    if register_ == REGISTER_COUNTER:
        return m.guest.counter[slot]
    if register_ == REGISTER_SELECTOR:
        return m.loaded.selector[slot]
    if register_ == REGISTER_FIXED_CTR_CTRL:
        return m.loaded.fixed_ctr_ctrl
    if register_ == REGISTER_GLOBAL_CTRL:
        return m.guest.global_ctrl
    if register_ == REGISTER_STATUS_SET:
        return m.guest.global_status
    return 0


cdef uint64_t _saved_for_host(const machine_t *m, int register_, int slot) noexcept nogil:
    if register_ == REGISTER_COUNTER:
        return m.watch.counter[slot]
    if register_ == REGISTER_SELECTOR:
        return m.watch.selector[slot]
    if register_ == REGISTER_FIXED_CTR_CTRL:
        return m.watch.fixed_ctr_ctrl
    if register_ == REGISTER_GLOBAL_CTRL:
        return m.watch.global_ctrl
    if register_ == REGISTER_STATUS_SET:
        return m.watch.global_status
    return 0


cdef uint64_t _value(const machine_t *m, const operation_t *o, int slot, const reads_t *reads) noexcept nogil:
    if o.register_ == REGISTER_STATUS_RESET:
        return reads.status
    if o.value == VALUE_GUEST:
        return _loaded(m, o.register_, slot)
    if o.value == VALUE_CACHED:
        if o.register_ == REGISTER_SELECTOR:
            return m.guest.selector[slot]
        if o.register_ == REGISTER_FIXED_CTR_CTRL:
            return m.guest.fixed_ctr_ctrl
        return _loaded(m, o.register_, slot)
    return _saved_for_host(m, o.register_, slot) if o.value == VALUE_HOST else 0


cdef uint64_t _was_read(const operation_t *o, const reads_t *reads) noexcept nogil:
    if o.register_ == REGISTER_COUNTER:
        return reads.counter
    if o.register_ == REGISTER_SELECTOR:
        return reads.selector
    if o.register_ == REGISTER_FIXED_CTR_CTRL:
        return reads.fixed_ctr_ctrl
    if o.register_ == REGISTER_GLOBAL_CTRL:
        return reads.global_ctrl
    return 0 if o.register_ == REGISTER_STORED else reads.status


cdef bint _holds(
    const machine_t *m, const operation_t *o, int slot, uint64_t value, const reads_t *reads
) noexcept nogil:
    """Whether the condition of a write does."""
    if o.condition == IF_NONZERO_READ:
        return _was_read(o, reads) != 0
    if o.condition == IF_NONZERO_COPY:
        return _loaded(m, o.register_, slot) != 0 if o.register_ != REGISTER_STATUS_SET else value != 0
    if o.condition == IF_DIFFERS:
        return _was_read(o, reads) != value
    if o.condition == IF_SELECTOR_READ:
        return reads.selector != 0
    if o.condition == IF_SELECTOR_COPY:
        return (m.loaded.selector[slot] if slot < FIXED_SLOT else _field(m.loaded.fixed_ctr_ctrl, slot)) != 0
    return o.condition == IF_ALWAYS


cdef inline uint64_t _field(uint64_t fixed_ctr_ctrl, int slot) noexcept nogil:
    return fixed_ctr_ctrl >> 4 * (slot - FIXED_SLOT) & 15


cdef void _write(machine_t *m, const operation_t *o, int slot, const reads_t *reads) noexcept nogil:
    cdef uint64_t value = _value(m, o, slot, reads)
    if not _holds(m, o, slot, value, reads):
        return
    if o.register_ == REGISTER_COUNTER:
        _access(m, COST_WRMSR, OP_WRMSR_COUNTER)
        m.hardware.counter[slot] = value
    elif o.register_ == REGISTER_SELECTOR:
        _access(m, COST_WRMSR, OP_WRMSR_SELECTOR)
        write_selector(&m.hardware, slot, value)
    elif o.register_ == REGISTER_FIXED_CTR_CTRL:
        _access(m, COST_WRMSR, OP_WRMSR_SELECTOR)
        write_fixed_ctr_ctrl(&m.hardware, value)
    elif o.register_ == REGISTER_STORED:
        _access(m, COST_WRMSR, OP_WRMSR_SELECTOR)
    else:
        _access(m, COST_WRMSR, OP_WRMSR_GLOBAL)
        if o.register_ == REGISTER_GLOBAL_CTRL:
            m.hardware.global_ctrl = value
        elif o.register_ == REGISTER_STATUS_RESET:
            m.hardware.global_status &= ~value
        else:
            m.hardware.global_status |= value


cdef void _read(machine_t *m, const operation_t *o, int slot, reads_t *reads) noexcept nogil:
    _access(m, COST_RDMSR, OP_RDMSR)
    if o.register_ == REGISTER_COUNTER:
        _read_counter(m, o, slot, reads)
    elif o.register_ == REGISTER_SELECTOR:
        reads.selector = m.hardware.selector[slot]
        if o.save == SAVE_HOST:
            m.watch.selector[slot] = reads.selector
    elif o.register_ == REGISTER_FIXED_CTR_CTRL:
        reads.fixed_ctr_ctrl = m.hardware.fixed_ctr_ctrl
        if o.save == SAVE_HOST:
            m.watch.fixed_ctr_ctrl = reads.fixed_ctr_ctrl
    elif o.register_ == REGISTER_GLOBAL_CTRL:
        reads.global_ctrl = m.hardware.global_ctrl
        if o.save == SAVE_HOST:
            m.watch.global_ctrl = reads.global_ctrl
    elif o.register_ == REGISTER_STATUS:
        reads.status = m.hardware.global_status
        if o.save == SAVE_GUEST:
            m.guest.global_status = reads.status
        elif o.save == SAVE_HOST:
            m.watch.global_status = reads.status


cdef void _read_counter(machine_t *m, const operation_t *o, int slot, reads_t *reads) noexcept nogil:
    reads.counter = m.hardware.counter[slot]
    if o.save == SAVE_GUEST:
        m.guest.counter[slot] = reads.counter
    elif o.save == SAVE_HOST:
        m.watch.counter[slot] = reads.counter


cdef void _toggle(machine_t *m, uint64_t status) noexcept nogil:
    """Only the bits that differ, through STATUS_RESET and STATUS_SET."""
    cdef uint64_t guest = m.guest.global_status
    if status & ~guest:
        _access(m, COST_WRMSR, OP_WRMSR_GLOBAL)
        m.hardware.global_status &= ~(status & ~guest)
    if guest & ~status:
        _access(m, COST_WRMSR, OP_WRMSR_GLOBAL)
        m.hardware.global_status |= guest & ~status


cdef void _loop(machine_t *m, const operation_t *body, int n, uint32_t slots, reads_t *reads) noexcept nogil:
    cdef int slot, i
    while slots:
        slot = lowest_bit(slots)
        slots &= slots - 1
        reads.counter = reads.selector = 0
        for i in range(n):
            if body[i].op == DO_RDPMC:
                _access(m, COST_RDPMC, OP_RDPMC)
                _read_counter(m, &body[i], slot, reads)
            elif body[i].op == DO_RDMSR:
                _read(m, &body[i], slot, reads)
            else:
                _write(m, &body[i], slot, reads)


cdef uint32_t _held(const machine_t *m) noexcept nogil:
    # Counters that a host event has now.
    cdef uint32_t slots = 0
    cdef int i
    for i in range(m.host_events):
        if m.host_event[i].slot >= 0:
            slots |= <uint32_t>1 << m.host_event[i].slot
    return slots


cdef void _watch_left(machine_t *m) noexcept nogil:
    """Where host perf returns: what is the guest's in the counters that it has."""
    cdef uint32_t left = m.guest.slots & ~_held(m)
    cdef uint64_t value
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        if slot < FIXED_SLOT:
            m.watch.breaches[BREACH_SELECTORS] += m.hardware.selector[slot] & SELECTOR_ENABLE != 0
        else:
            m.watch.breaches[BREACH_FIXED_FIELDS] += _field(m.hardware.fixed_ctr_ctrl, slot) & 3 != 0
        value = m.hardware.counter[slot]
        m.watch.breaches[BREACH_COUNTERS] += value != 0 and value != m.watch.counter[slot]
    value = m.hardware.global_status
    m.watch.breaches[BREACH_STATUS] += value != 0 and value != m.watch.global_status
    m.watch.breaches[BREACH_LVTPC] += not m.hardware.lvtpc & LVTPC_NMI


cdef void _watch_loaded(machine_t *m) noexcept nogil:
    """At the end of a load: what is not as the guest is to have it."""
    cdef uint32_t left = m.guest.slots
    cdef uint64_t missing = 0
    cdef int slot
    while left:
        slot = lowest_bit(left)
        left &= left - 1
        missing += m.hardware.counter[slot] != m.guest.counter[slot]
        if slot < FIXED_SLOT:
            missing += m.hardware.selector[slot] != m.loaded.selector[slot]
    missing += m.hardware.fixed_ctr_ctrl != m.loaded.fixed_ctr_ctrl
    if not m.traps >> ACCESS_GLOBAL_STATUS & 1:
        missing += m.hardware.global_status != m.guest.global_status
    missing += (m.hardware.lvtpc & LVTPC_NMI) != 0
    m.watch.breaches[BREACH_NOT_LOADED] += missing


cdef void run_steps(machine_t *m, int half) noexcept nogil:
    """A load (half 0) or a put (1)."""
    cdef const steps_t *steps = &m.steps[half]
    cdef const operation_t *o
    cdef bint looked = half == 0
    cdef uint32_t i = 0
    cdef reads_t reads
    reads.fixed_ctr_ctrl = reads.global_ctrl = reads.status = reads.counter = reads.selector = 0
    while i < steps.n:
        o = &steps.operation[i]
        i += 1 + o.inner
        if o.op == DO_LOOP_GP or o.op == DO_LOOP_FIXED:
            _loop(m, o + 1, o.inner, m.guest.slots & (0xFFFF if o.op == DO_LOOP_GP else ~<uint32_t>0xFFFF), &reads)
        elif o.op == DO_RDMSR:
            _read(m, o, 0, &reads)
        elif o.op == DO_TOGGLE:
            _toggle(m, reads.status)
        elif o.op == DO_LVTPC:
            _access(m, COST_WRMSR_LVTPC, OP_WRMSR_LVTPC)
            check_arrival(m)
            m.hardware.lvtpc = LVTPC_NMI if o.value == VALUE_HOST else GUEST_VECTOR | (m.guest.lvtpc & LVTPC_MASKED)
        elif o.op == DO_PERF_LOAD:
            spend(m, COST_PERF_GUEST_CONTEXT)
            if m.has_host:
                host_events_out(m)
            m.blind = True
        elif o.op == DO_PERF_PUT:
            if not looked:
                _watch_left(m)
                looked = True
            spend(m, COST_PERF_GUEST_CONTEXT)
            if m.has_host:
                host_events_in(m)
            m.blind = False
        else:
            _write(m, o, 0, &reads)
    if half == 0:
        _watch_loaded(m)
    elif not looked:
        _watch_left(m)
