# cython: freethreading_compatible=True, boundscheck=False, wraparound=False
"""Many scenarios that differ in a few integers, one after the other without Python objects.

Every thread has working memory of its own; a row's result depends on its parameters alone.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.hostperf cimport read_host_events
from vpmu_core.kinds cimport (
    ACTIVITIES, CAUSES, COST_FASTPATH_REFUSED, COSTS, FLIGHT_GUEST, OP_CLASSES, ORIGINS, PHASES, PMU_EXITS, RUNNING,
)
from vpmu_core.lazy cimport fast_forward, forget, free_summaries, hold_summaries, lazy_t, number_summaries
from vpmu_core.memo cimport forget_memos, free_memos, settle_memos
from vpmu_core.machine cimport SLICE, Machine, begin, finish, prepare
from vpmu_core.perfevents cimport guest_event_t, host_event_t
from vpmu_core.random cimport derive_seed, instant_of, sfc64_seed, stream_t
from vpmu_core.state cimport machine_t
from vpmu_core.switchprogram cimport tally_switches
from vpmu_core.timeline cimport run

from vpmu._costs import COST_NAMES as _COST_NAMES

cdef enum:  # what a column of parameters sets
    SEED = 0
    CYCLES = 1
    PERIOD = 2
    SKID_MINIMUM = 3
    SKID_MAXIMUM = 4
    FIRST_COST = 16  # then the costs in their order

cdef enum:
    GUEST_WIDTH = 5
    HOST_WIDTH = 4

#: Column numbers by name.
COLUMNS = {
    "seed": SEED,
    "cycles": CYCLES,
    "period": PERIOD,
    "skid_minimum": SKID_MINIMUM,
    "skid_maximum": SKID_MAXIMUM,
} | {name: FIRST_COST + i for i, name in enumerate(_COST_NAMES)}

#: Results that every row has, in their order; then ``value``, ``ideal``, ``samples``, ``losses`` and ``gains`` of each guest
#: event, then ``value``, ``ideal``, ``losses`` and ``gains`` of each host event.
TOTALS = (
    *("cycles", "guest_user", "guest_kernel", "guest_handler", "hypervisor", "blind", "host_task", "idle"),
    *("exits", "pmu_exits", "host_interrupts", "switches", "refused", "handlers", "reprograms"),
    *("rdmsr", "rdpmc", "wrmsr", "raised", "delivered", "coalesced", "lost", "pending", "skid_past_exit", "stopped"),
)
GUEST_COLUMNS = GUEST_WIDTH
HOST_COLUMNS = HOST_WIDTH

cdef struct worker_t:  # working memory of one thread
    machine_t m
    lazy_t lazy


cdef void _release(worker_t *w) noexcept nogil:
    if w == NULL:
        return
    free(w.m.exit_count)
    free_summaries(&w.lazy)
    free(w.lazy.drawn)
    free_memos(w.lazy.memos)
    free(w.lazy.copy)
    free(w.m.work_stream.count)
    free(w.m.work_stream.due)
    free(w.m.wall_stream.count)
    free(w.m.wall_stream.due)
    free(w)


cdef void _rewind(stream_t *stream, uint64_t *count, uint64_t *due) noexcept nogil:
    """Regular arrivals from the start, in the worker's own arrays."""
    cdef uint32_t i
    stream.count = count
    stream.due = due
    if stream.rate != NULL:
        for i in range(stream.n):
            count[i] = 0
            due[i] = instant_of(stream.rate[i], 1)


cdef void _set_seed(machine_t *m, uint64_t seed) noexcept nogil:
    cdef uint64_t words[3]
    derive_seed(seed, 0, words)
    sfc64_seed(&m.work_stream.generator, words)
    derive_seed(seed, 1, words)
    sfc64_seed(&m.wall_stream.generator, words)
    derive_seed(seed, 2, words)
    sfc64_seed(&m.skid, words)


cdef void _set_parameters(machine_t *m, const uint32_t *columns, Py_ssize_t n, const uint64_t *row) noexcept nogil:
    cdef uint64_t most = m.skid_minimum + m.skid_range - 1
    cdef uint64_t refused = m.cost[COST_FASTPATH_REFUSED]
    cdef Py_ssize_t i
    cdef int event
    for i in range(n):
        if columns[i] == SEED:
            _set_seed(m, row[i])
        elif columns[i] == CYCLES:
            m.end = row[i]
        elif columns[i] == PERIOD:
            for event in range(m.guest_events):
                if m.guest_event[event].sampling and not m.guest_event[event].pinned:
                    m.guest_event[event].perf.period = m.guest_event[event].perf.period_left = row[i]
                    m.guest_event[event].last_period = row[i]
        elif columns[i] == SKID_MINIMUM:
            m.skid_minimum = row[i]
        elif columns[i] == SKID_MAXIMUM:
            most = row[i]
        else:
            m.cost[columns[i] - FIRST_COST] = row[i]
    m.skid_range = most - m.skid_minimum + 1
    if m.cost[COST_FASTPATH_REFUSED] != refused:
        m.trace.chunks = 0  # their sums are of another cost


cdef uint64_t _sum(const uint64_t *values, int n) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(n):
        total += values[i]
    return total


cdef void _write_row(worker_t *w, Py_ssize_t exits, uint64_t *out) noexcept nogil:
    """What a finished run is, column by column; reads perf out."""
    cdef machine_t *m = &w.m
    cdef const guest_event_t *g
    cdef const host_event_t *h
    cdef uint64_t *hosts = out + 25 + GUEST_WIDTH * m.guest_events
    cdef int i, phase, origin
    out[0] = m.wall
    for i in range(ACTIVITIES):
        out[1 + i] = m.clock[i]
    out[8] = _sum(m.exit_count, <int>exits)
    out[9] = _sum(m.pmu_exits, PMU_EXITS)
    out[10] = m.host_interrupts
    out[11] = m.switches
    out[12] = m.refused
    out[13] = m.handlers
    out[14] = m.reprograms
    out[18] = m.pmi.raised
    out[19] = m.pmi.delivered
    out[20] = m.pmi.coalesced
    out[21] = m.pmi.lost
    out[22] = (m.flight & FLIGHT_GUEST) + (m.vector_pending != 0) + (m.pmi_requested != 0)
    out[23] = m.pmi.skid_past_exit
    out[24] = m.stopped != RUNNING
    read_host_events(m)
    for i in range(m.host_events):
        h = &m.host_event[i]
        if h.guest_slot >= 0:
            continue
        hosts[0] = h.perf.count
        hosts[1] = h.ideal
        hosts[2] = _sum(h.losses, CAUSES)
        hosts[3] = _sum(h.gains, CAUSES)
        hosts += HOST_WIDTH
    finish(m)
    tally_switches(m)
    out[15] = out[16] = out[17] = 0
    for phase in range(PHASES):
        for origin in range(ORIGINS):
            out[15] += m.ops[phase][origin][0]
            out[16] += m.ops[phase][origin][1]
            out[17] += _sum(&m.ops[phase][origin][2], OP_CLASSES - 2)
    out += 25
    for i in range(m.guest_events):
        g = &m.guest_event[i]
        out[0] = g.perf.count
        out[1] = g.ideal
        out[2] = g.samples
        out[3] = _sum(g.losses, CAUSES)
        out[4] = _sum(g.gains, CAUSES)
        out += GUEST_WIDTH


cdef class Template:
    """A plan of which many runs are made.

    Parameters
    ----------
    plan : vpmu._plan.Plan
    lazy : bool
        Skip uneventful exits, or execute every step; the integers are the same.
    """

    cdef Machine machine
    cdef bint skips
    cdef bint cancelled

    def __init__(self, plan, bint lazy=True):
        self.machine = Machine(plan, "template")
        self.skips = lazy
        if lazy and plan.trace is not None:
            self.machine._fill_chunks(plan)

    @property
    def columns(self):
        """Number of integers of a result row."""
        plan = self.machine.plan
        return len(TOTALS) + GUEST_COLUMNS * len(plan.guest_events) + HOST_COLUMNS * len(plan.host_events)

    cdef worker_t *_hire(self) except NULL:
        cdef worker_t *w = <worker_t *>calloc(1, sizeof(worker_t))
        cdef Py_ssize_t n = self.machine.n_exits + 1
        if w == NULL:
            raise MemoryError
        w.m.exit_count = <uint64_t *>calloc(n, sizeof(uint64_t))
        number_summaries(&w.lazy, &self.machine.m, self.machine.n_exits)
        w.lazy.drawn = <uint64_t *>calloc(self.machine.m.work_stream.n + 1, sizeof(uint64_t))
        w.lazy.copy = <machine_t *>calloc(1, sizeof(machine_t))
        w.m.work_stream.count = <uint64_t *>calloc(self.machine.m.work_stream.n + 1, sizeof(uint64_t))
        w.m.work_stream.due = <uint64_t *>calloc(self.machine.m.work_stream.n + 1, sizeof(uint64_t))
        w.m.wall_stream.count = <uint64_t *>calloc(self.machine.m.wall_stream.n + 1, sizeof(uint64_t))
        w.m.wall_stream.due = <uint64_t *>calloc(self.machine.m.wall_stream.n + 1, sizeof(uint64_t))
        if (
            w.m.exit_count == NULL or not hold_summaries(&w.lazy) or w.lazy.drawn == NULL
            or w.lazy.copy == NULL or w.m.work_stream.count == NULL or w.m.work_stream.due == NULL
            or w.m.wall_stream.count == NULL or w.m.wall_stream.due == NULL
        ):
            _release(w)
            raise MemoryError
        return w

    cdef void _simulate(
        self, worker_t *w, const uint32_t *columns, Py_ssize_t n, const uint64_t *row, uint64_t *out
    ) noexcept nogil:
        cdef machine_t *m = &w.m
        cdef uint64_t *exit_count = m.exit_count
        cdef uint64_t *work_count = m.work_stream.count
        cdef uint64_t *work_due = m.work_stream.due
        cdef uint64_t *wall_count = m.wall_stream.count
        cdef uint64_t *wall_due = m.wall_stream.due
        memcpy(m, &self.machine.m, sizeof(machine_t))
        m.exit_count = exit_count
        memset(exit_count, 0, self.machine.n_exits * sizeof(uint64_t))
        _rewind(&m.work_stream, work_count, work_due)
        _rewind(&m.wall_stream, wall_count, wall_due)
        _set_parameters(m, columns, n, row)
        prepare(m)
        begin(m)
        if self.skips:
            forget(&w.lazy)
            forget_memos(&w.lazy)
            w.lazy.pause = 0
            w.lazy.next_pause = 1
            m.lazy = &w.lazy
            m.fast_forward = fast_forward
        while not m.ended and m.stopped == RUNNING and not self.cancelled:
            m.budget = SLICE
            run(m)
        if self.skips:
            settle_memos(m, &w.lazy)
        _write_row(w, self.machine.n_exits, out)

    def run(self, const uint32_t[::1] columns, const uint64_t[:, ::1] parameters, uint64_t[:, ::1] out):
        """Simulate one row after the other.

        Parameters
        ----------
        columns : ndarray of uint32, shape (p,)
            What each column of parameters sets: values of ``COLUMNS``.
        parameters : ndarray of uint64, shape (n, p)
        out : ndarray of uint64, shape (n, at least :attr:`columns`)
            Filled: ``TOTALS``, then guest events, then host events; after :meth:`cancel` not to the end.
        """
        cdef worker_t *w
        cdef Py_ssize_t i
        if parameters.shape[0] != out.shape[0] or parameters.shape[1] != columns.shape[0]:
            raise ValueError(f"{parameters.shape[0]} rows of parameters do not fit {out.shape[0]} rows of results")
        if out.shape[1] < self.columns:
            raise ValueError(f"a result row has {self.columns} columns, not {out.shape[1]}")
        for i in range(columns.shape[0]):
            if columns[i] >= FIRST_COST + COSTS:
                raise ValueError(f"there is no column {columns[i]}")
        if not parameters.shape[0]:
            return
        w = self._hire()
        with nogil:
            for i in range(parameters.shape[0]):
                if self.cancelled:
                    break
                self._simulate(w, &columns[0] if columns.shape[0] else NULL, columns.shape[0], &parameters[i, 0], &out[i, 0])
            _release(w)

    def cancel(self):
        """Let :meth:`run` return soon, in whatever thread it is."""
        self.cancelled = True
