# cython: freethreading_compatible=True
"""A machine as its plan says, before its first cycle."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from vpmu_core._types cimport ALL_ONES, NEVER, int64_t, uint16_t, uint32_t, uint64_t
from vpmu_core.blocks cimport program_t
from vpmu_core.eventfilter cimport filter_slots
from vpmu_core.guestperf cimport pmi_handler, serve_timers
from vpmu_core.guestperiod cimport limit_samples
from vpmu_core.hostsched cimport FLEXIBLE, TASK
from vpmu_core.kinds cimport ACTIVITIES, FASTPATH, TIMER_INTERVAL, TIMER_ROTATION, TIMER_SWITCH, TIMER_TICK, USERSPACE
from vpmu_core.memo cimport free_memos
from vpmu_core.lazy cimport fast_forward, forget, free_summaries, hold_summaries, lazy_t, number_summaries
from vpmu_core.msr cimport reset
from vpmu_core.perfevents cimport guest_event_t, guest_timer_t, host_event_t
from vpmu_core.random cimport logarithm_table, sfc64_seed, sfc64_t, stream_t
from vpmu_core.state cimport (
    MAX_GUEST_EVENTS, MAX_OWN_HOST_EVENTS, design_t, event_filter_t, filter_change_t, machine_t, planned_exit_t,
    program_step_t, trace_t,
)
from vpmu_core.steps cimport DO_WRMSR, REGISTER_GLOBAL_CTRL, VALUE_ZERO, operation_t
from vpmu_core.switchprogram cimport compile_end, compile_step
from vpmu_core.unit cimport FIXED_SLOT, SELECTOR_INT, SELECTOR_OS, SELECTOR_USR, SLOTS, selector_code

from importlib import import_module

import numpy as np

from vpmu._costs import COST_NAMES as _COST_NAMES
from vpmu._plan import ACCESSES as _ACCESSES
from vpmu._registers import register_file


cdef class Planned:
    """The state of a machine and all memory that it points into, filled from a plan.

    Parameters
    ----------
    plan : vpmu._plan.Plan
        The scenario as integers.
    """

    def __cinit__(self):
        memset(&self.m, 0, sizeof(machine_t))
        memset(&self.lazy, 0, sizeof(lazy_t))

    def __dealloc__(self):
        free(self.m.exits)
        free(self.m.exit_count)
        free(self.filters)
        free(self.m.program)
        free_summaries(&self.lazy)
        free(self.lazy.drawn)
        free_memos(self.lazy.memos)
        free(self.lazy.copy)

    def __init__(self, plan):
        if self.m.exits != NULL:
            raise RuntimeError("a machine is initialised once")
        self.plan = plan
        self.keep = []
        self.regular = []
        self._fill_clocks(plan)
        self._fill_pmus(plan)
        self._fill_exits(plan)
        self._fill_guest_events(plan)
        self._fill_guest_clock(plan)
        self._fill_host_events(plan)
        self._fill_design(plan)
        self._fill_filters(plan)
        self._fill_program(plan)

    cdef _fill_lazy(self):
        """The working memory of the lazy engine."""
        number_summaries(&self.lazy, &self.m, self.n_exits)
        self.lazy.drawn = <uint64_t *>calloc(self.m.work_stream.n + 1, sizeof(uint64_t))
        self.lazy.copy = <machine_t *>calloc(1, sizeof(machine_t))
        if self.lazy.drawn == NULL or self.lazy.copy == NULL or not hold_summaries(&self.lazy):
            raise MemoryError
        forget(&self.lazy)
        self.lazy.next_pause = 1
        self.m.lazy = &self.lazy
        self.m.fast_forward = fast_forward
        if self.plan.trace is not None:
            self._fill_chunks(self.plan)

    def _fill_chunks(self, plan):
        cdef trace_t *trace = &self.m.trace
        bounds = {USERSPACE: plan.costs["handling_kernel"], FASTPATH: plan.costs["fastpath_refused"]}
        gap, idle, count, handled, within = plan.trace.chunks(tuple([bounds.get(e.kind, 0) for e in plan.exits]))
        trace.chunk_gap = <const uint64_t *>self._column(gap, np.uint64)
        trace.chunk_idle = <const uint64_t *>self._column(idle, np.uint64)
        trace.chunk_count = <const uint32_t *>self._column(count, np.uint32)
        trace.chunk_handled = <const uint64_t *>self._column(handled, np.uint64)
        trace.chunk_within = <const uint64_t *>self._column(within, np.uint64)
        trace.chunks = len(gap)

    def _fill_clocks(self, plan):
        cdef machine_t *m = &self.m
        m.end = plan.end
        m.user_share = plan.user_share
        for a in range(ACTIVITIES):
            for e, rate in enumerate(plan.rates[a]):
                m.rate[a][e] = rate
        for i, name in enumerate(_COST_NAMES):
            m.cost[i] = plan.costs[name]
        m.skid_minimum = plan.cpu.skid.minimum
        m.skid_range = plan.cpu.skid.maximum - plan.cpu.skid.minimum + 1
        self._seed(plan.seeds["skid"], &m.skid)

    cdef _seed(self, words, sfc64_t *generator):
        cdef uint64_t seed[3]
        seed[0], seed[1], seed[2] = words
        sfc64_seed(generator, seed)

    def _fill_pmus(self, plan):
        cdef machine_t *m = &self.m
        self.hardware_file = register_file(plan.cpu)
        model = plan.cpu if plan.owns_hardware else plan.guest_cpu
        self.guest_file = register_file(model)
        reset(&m.hardware, &self.hardware_file.file)
        reset(&m.guest, &self.guest_file.file)
        reset(&m.ideal, &self.guest_file.file)
        m.amd = plan.cpu.vendor == "amd"
        m.guest_v1 = m.amd and model.version < 2
        m.host_v1 = m.amd and plan.cpu.version < 2
        m.ideal_instructions = 1 << FIXED_SLOT  # fixed counter 0
        width, full = model.gp_width, model.full_width_writes
        for slot in range(SLOTS):
            if m.guest.slots >> slot & 1:
                m.guest_lane[slot] = ALL_ONES
                m.guest_event_bytes |= <uint64_t>0xFF << 8 * slot if slot < 8 else 0
        m.guest_max_period = (1 << (width - 1 if full else 31)) - 1

    cdef const void *_column(self, values, dtype) except? NULL:
        array = np.ascontiguousarray(values, dtype=dtype)
        self.keep.append(array)
        cdef size_t address = array.ctypes.data
        return <const void *>address

    cdef _fill_stream(self, stream_t *stream, planned, seed):
        stream.mean_gap = planned.mean_gap
        stream.logarithm = logarithm_table()
        stream.n = len(planned.kinds)
        if not stream.n:
            stream.mean_gap = 0
        stream.threshold = <const uint32_t *>self._column([min(t, 0xFFFFFFFF) for t in planned.threshold], np.uint32)
        stream.alias = <const uint16_t *>self._column(planned.alias, np.uint16)
        stream.kind = <const uint16_t *>self._column(planned.kinds, np.uint16)
        self._seed(seed, &stream.generator)
        if planned.rates:
            stream.rate = <const uint64_t *>self._column(planned.rates, np.uint64)
            stream.count = <uint64_t *>self._column([0] * stream.n, np.uint64)
            stream.due = <uint64_t *>self._column([-(-(1 << 48) // rate) for rate in planned.rates], np.uint64)
            self.regular += self.keep[-2:]

    def _fill_exits(self, plan):
        cdef machine_t *m = &self.m
        cdef planned_exit_t *e
        self.n_exits = len(plan.exits)
        self.m.exits = <planned_exit_t *>calloc(self.n_exits + 1, sizeof(planned_exit_t))
        self.m.exit_count = <uint64_t *>calloc(self.n_exits + 1, sizeof(uint64_t))
        if self.m.exits == NULL or self.m.exit_count == NULL:
            raise MemoryError
        for i, planned in enumerate(plan.exits):
            e = &self.m.exits[i]
            e.handling = planned.handling
            e.idle = planned.idle
            e.kind = planned.kind
            e.cpl = planned.cpl
            e.emulates = planned.emulates
        self._fill_stream(&m.work_stream, plan.work, plan.seeds["work"])
        self._fill_stream(&m.wall_stream, plan.wall, plan.seeds["wall"])
        if plan.trace is not None:
            trace = plan.trace
            m.trace.n = trace.gap.size
            m.trace.repeat = trace.repeat and trace.gap.size
            m.trace.gap = <const int64_t *>self._column(trace.gap, np.int64)
            m.trace.kind = <const uint16_t *>self._column(trace.kind, np.uint16)
            m.trace.handling = <const int64_t *>self._column(trace.handling, np.int64)
            m.trace.idle = <const int64_t *>self._column(trace.idle, np.int64)
            m.work_stream.mean_gap = 0

    def _fill_guest_events(self, plan):
        cdef machine_t *m = &self.m
        cdef guest_event_t *e
        if len(plan.guest_events) > MAX_GUEST_EVENTS:
            raise ValueError(f"{len(plan.guest_events)} guest events do not fit {MAX_GUEST_EVENTS}")
        m.guest_events = len(plan.guest_events)
        for i, planned in enumerate(plan.guest_events):
            e = &m.guest_event[i]
            e.slot = -1
            e.allowed = planned.gp_mask | planned.fixed_mask << FIXED_SLOT
            if not e.allowed:
                e.allowed = 1 << (planned.counter if planned.counter < 32 else planned.counter - 32 + FIXED_SLOT)
            e.event = planned.event
            e.selector = planned.selector | SELECTOR_INT
            e.sampling = planned.period > 0
            e.scheduled = not plan.backed_by_host_events and planned.counter >= 0
            e.perf.period = planned.period if planned.period else m.guest_max_period
            e.perf.period_left = e.last_period = e.perf.period
            e.frequency = planned.frequency
            e.leader = i if planned.leader < 0 else planned.leader
            e.pinned = planned.pinned
            e.task = planned.task
            e.interval = planned.interval
            e.reads_group = planned.reads_group
            if e.leader == i:
                m.guest_order[m.guest_leaders] = i
                m.guest_leaders += 1

    def _fill_guest_clock(self, plan):
        cdef machine_t *m = &self.m
        kernel = plan.guest_kernel
        m.backed = plan.backed_by_host_events
        m.guest_core_hz = kernel.core_hz
        m.guest_hz = kernel.hz
        m.guest_tick_per_event = kernel.tick_per_event
        m.guest_clones = kernel.clones
        m.guest_percent = kernel.cpu_time_max_percent
        if kernel.hz:
            limit_samples(m, kernel.max_sample_rate)
        self._fill_timer(&m.guest_timer[TIMER_TICK], 1, kernel.hz)
        self._fill_timer(&m.guest_timer[TIMER_ROTATION], kernel.rotation_ms, 1000)
        self._fill_timer(&m.guest_timer[TIMER_SWITCH], 1, kernel.switches)
        self._fill_timer(&m.guest_timer[TIMER_INTERVAL], kernel.interval_ms, 1000)
        m.guest_timers = serve_timers

    cdef _fill_timer(self, guest_timer_t *timer, periods, second):
        if periods and second:
            timer.numerator = self.m.guest_core_hz * periods
            timer.denominator = second

    def _fill_host_events(self, plan):
        cdef machine_t *m = &self.m
        cdef host_event_t *e
        for i, gp in enumerate(plan.gp_constraint):
            m.host_allowed[i] = gp | plan.fixed_constraint[i] << FIXED_SLOT
        if len(plan.host_events) > MAX_OWN_HOST_EVENTS:
            raise ValueError(f"{len(plan.host_events)} host events do not fit {MAX_OWN_HOST_EVENTS}")
        m.host_events = len(plan.host_events)
        m.has_host = m.host_events > 0
        m.mux_interval = plan.mux_interval
        m.tick = plan.tick
        m.tick_ns = plan.tick_ns
        m.core_hz = plan.cpu.core_hz.value
        m.max_samples_per_tick = plan.max_samples_per_tick
        m.next_position = m.host_events
        for i, planned in enumerate(plan.host_events):
            e = &m.host_event[i]
            e.event = planned.event
            e.selector = selector_code(&m.hardware, planned.selector) | SELECTOR_INT
            e.selector |= (SELECTOR_USR if planned.user else 0) | (SELECTOR_OS if planned.kernel else 0)
            e.allowed = (planned.gp_mask | planned.fixed_mask << FIXED_SLOT) & m.hardware.slots
            e.user = planned.user
            e.kernel = planned.kernel
            e.exclude_guest = planned.exclude_guest
            e.exclude_host = planned.exclude_host
            e.guest_slot = -1
            e.klass = (0 if planned.pinned else FLEXIBLE) | (TASK if planned.task else 0)
            e.position = i
            e.slot = -1
            e.previous_slot = -1
            e.sampling = planned.period > 0
            e.throttles = planned.throttles
            e.freq = planned.freq
            m.samples_host |= e.sampling
            e.perf.period = e.perf.period_left = planned.period or (1 << (plan.cpu.gp_width - 1)) - 1

    def _fill_design(self, plan):
        cdef machine_t *m = &self.m
        module = import_module(plan.reactions or "vpmu_core.designs." + plan.design.replace("-", "_"))
        capsule = module.reactions()
        m.design = <const design_t *>PyCapsule_GetPointer(capsule, "vpmu.design")
        if m.design.leave == NULL and (m.work_stream.mean_gap or m.wall_stream.mean_gap or m.trace.gap != NULL):
            raise ValueError(f"design {plan.design} has no exits, but the plan has sources of them")
        m.guest_pmi_handler = pmi_handler
        m.traps = sum([1 << _ACCESSES.index(access) for access in plan.traps])
        m.flags = module.flags(plan.options) if hasattr(module, "flags") else 0
        m.list_entry = plan.global_ctrl_in_exit_list
        if plan.sequence is not None:
            at_exit, m.entry_list = plan.sequence.list_loads
            m.list_entry += at_exit
            if not plan.sequence.is_watched("global_status" in plan.traps):
                self._compile(&self.load, plan.sequence.programs()[0])
                self._compile(&self.put, plan.sequence.programs()[1])
            else:
                self._fill_steps(plan)
            m.load, m.put = &self.load, &self.put
            m.keeps_counters = plan.sequence.keeps_counters

    cdef _fill_steps(self, plan):
        """A sequence that blocks cannot do, or that must be watched, goes step by step."""
        for half, operations in enumerate(plan.sequence.steps()):
            self.steps[half].n = len(operations)
            for i, o in enumerate(operations):
                self.steps[half].operation[i] = operation_t(
                    op=o.op, register_=o.register, value=o.value, condition=o.condition, save=o.save, inner=o.inner
                )
                # Whatever turns GLOBAL_CTRL on in host mode makes counters live there.
                if (o.op, o.register) == (DO_WRMSR, REGISTER_GLOBAL_CTRL) and o.value != VALUE_ZERO:
                    self.m.has_host = True
        self.m.steps = self.steps

    cdef _compile(self, program_t *program, steps):
        memset(program, 0, sizeof(program_t))
        for operation, flags in steps:
            compile_step(program, &self.m, operation, flags)
        compile_end(program)

    def _fill_filters(self, plan):
        cdef Py_ssize_t n = len(plan.filter_changes)
        self.filters = <filter_change_t *>calloc(n + 2, sizeof(filter_change_t))
        if self.filters == NULL:
            raise MemoryError
        # The first row is the filter from the start on, the last one says that no more follow.
        for i, (at, planned) in enumerate(((0, plan.event_filter), *plan.filter_changes)):
            self.filters[i].at = at
            if planned is not None:
                self._fill_filter(&self.filters[i].filter, planned)
        self.filters[n + 1].at = NEVER
        self.m.filters = self.filters
        self.m.filter = &self.filters[0].filter if plan.event_filter is not None else NULL
        self.m.next_filter = 1
        self.m.filter_due = self.filters[1].at
        filter_slots(&self.m)

    cdef _fill_filter(self, event_filter_t *f, planned):
        f.allow = planned.allow
        f.includes, f.excludes = len(planned.includes), len(planned.excludes)
        f.included = <const uint64_t *>self._column(planned.includes, np.uint64)
        f.excluded = <const uint64_t *>self._column(planned.excludes, np.uint64)
        f.event_bits = planned.event_bits
        f.fixed = planned.fixed_counter_bitmap

    def _fill_program(self, plan):
        cdef machine_t *m = &self.m
        m.least_period = plan.least_period
        m.program_steps = len(plan.program)
        m.program = <program_step_t *>calloc(m.program_steps + 1, sizeof(program_step_t))
        if m.program == NULL:
            raise MemoryError
        for i, step in enumerate(plan.program):
            m.program[i].gap = step.gap
            m.program[i].access = _ACCESSES.index(step.access)
            m.program[i].slot = step.counter if step.counter < 32 else step.counter - 32 + FIXED_SLOT
            m.program[i].value = step.value
