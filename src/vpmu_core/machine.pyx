# cython: freethreading_compatible=True
"""The compiled machine: a plan in, a dictionary of integers out (docs/machine.md)."""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from vpmu_core._types cimport NEVER, uint64_t
from vpmu_core.counting cimport meter, rate_slots, running_clock
from vpmu_core.guestperf cimport read_out, run_program, set_up
from vpmu_core.hostperf cimport read_host_events
from vpmu_core.kinds cimport (
    ACTIVITIES, CAUSES, CAUSE_NONE, FLIGHT_GUEST, HOST_ACTIVE, HOST_INACTIVE, OP_CLASSES, ORIGINS, PHASES,
    PHASE_READOUT, PHASE_RUN, PHASE_SETUP, PMU_EXITS, RUNNING, SPENT_HANDLING, SPENT_IDLE, TIMERS,
)
from vpmu_core.memo cimport settle_memos
from vpmu_core.perfevents cimport guest_event_t, host_event_t
from vpmu_core.planned cimport Planned
from vpmu_core.state cimport machine_t
from vpmu_core.steps cimport BREACHES
from vpmu_core.switchprogram cimport price_programs, tally_switches
from vpmu_core.timeline cimport run, start
from vpmu_core.unit cimport FIXED_SLOT, SLOTS

from vpmu._costs import COST_NAMES as _COST_NAMES

CAUSE_NAMES = (
    None, "not_scheduled", "emulated_instruction", "window", "pmu_disabled", "ceded", "host_stale",
    "filtered", "period_rejected", "wrong_counter", "multiplexed", "throttled", "overwritten",
)
OP_NAMES = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")
ORIGIN_NAMES = ("host", "hypervisor", "guest")
PHASE_NAMES = ("setup", "run", "readout")
BREACH_NAMES = ("selectors", "fixed_fields", "counters", "status", "lvtpc", "not_loaded", "host_counts")
_HOST_STATES = {HOST_ACTIVE: "active", HOST_INACTIVE: "inactive"}
GUEST_TIMER_NAMES = ("tick", "rotation", "switch", "interval")
PMU_EXIT_NAMES = ("MSR_WRITE", "MSR_READ", "RDPMC", "EXTERNAL_INTERRUPT", "EXCEPTION_NMI")


cdef object _counter_of(const host_event_t *e):
    """GP index, 32 + m of a fixed counter, or None."""
    slot = e.previous_slot
    if e.state != HOST_ACTIVE:
        return None
    return slot if slot < FIXED_SLOT else slot - FIXED_SLOT + 32


cdef void prepare(machine_t *m) noexcept nogil:
    """Power-on."""
    cdef int i
    m.budget = SLICE
    m.pmi_arrival = m.preempt_at = NEVER
    m.next_mux = m.next_tick = NEVER
    m.next_timer = NEVER
    for i in range(TIMERS):
        m.guest_timer[i].due = NEVER
    for i in range(SLOTS):
        m.vcpu[i].event = -1
    rate_slots(m)
    price_programs(m)


cdef void begin(machine_t *m) noexcept nogil:
    """From power-on to the first cycle of the workload: guest perf is set up."""
    m.phase = PHASE_SETUP
    start(m)
    set_up(m)
    m.phase = PHASE_RUN
    run_program(m)


cdef void finish(machine_t *m) noexcept nogil:
    """Read guest perf out, whatever has stopped the run."""
    cdef int i
    m.finishing = True
    m.due = 0
    m.stopped = RUNNING
    m.phase = PHASE_READOUT
    m.patience = running_clock(m) + 2 * m.end
    m.handlers_at_once = 0
    read_out(m)
    for i in range(m.guest_events):
        meter(m, &m.guest_event[i], CAUSE_NONE)


cdef class Machine(Planned):
    """One logical CPU with one vCPU.

    A life in three steps: make one from a plan, :meth:`advance` it until it is done, take the :meth:`result`.
    ``advance`` after ``extend`` goes on where the run ended: a shorter run is a prefix of a longer one.

    Parameters
    ----------
    plan : vpmu._plan.Plan
        The scenario as integers.
    engine : {"lazy", "stepwise", "template"}
        Whether exits that change nothing but clocks and tallies are executed or skipped; the result is the same. A
        template is not started: others are made of it.
    """

    def __init__(self, plan, str engine="lazy"):
        cdef machine_t *m = &self.m
        Planned.__init__(self, plan)
        if engine == "template":
            return
        with nogil:
            prepare(m)
            begin(m)
        if engine == "lazy":
            self._fill_lazy()
        elif engine != "stepwise":
            raise ValueError(f"engine {engine!r} must be 'lazy' or 'stepwise'")

    def advance(self):
        """Run for one slice, at most some tens of milliseconds.

        Returns
        -------
        bool
            Whether the run is over.
        """
        self.m.budget = SLICE
        with nogil:
            run(&self.m)
            if self.m.fast_forward != NULL:
                settle_memos(&self.m, &self.lazy)
        return self.m.ended or self.m.stopped != RUNNING

    @property
    def progress(self):
        """Wall cycles so far and wall cycles to run."""
        return self.m.wall, self.m.end

    def extend(self, uint64_t end):
        """Let the run go on to a later end, in wall cycles from the start."""
        if end < self.m.end:
            raise ValueError(f"end {end} is before the end of the run so far, {self.m.end}")
        self.m.end = end
        self.m.ended = False

    def result(self):
        """Read guest perf out on a copy of the machine and return everything as a dictionary of integers."""
        cdef machine_t *copy = <machine_t *>calloc(1, sizeof(machine_t))
        if copy == NULL:
            raise MemoryError
        try:
            tally_switches(&self.m)
            memcpy(copy, &self.m, sizeof(machine_t))
            out = self._totals(&self.m)
            shared = self._shared()
            read_host_events(copy)
            out["holders"] = self._holders(copy)
            out["host"] = self._hosts(copy)
            with nogil:
                finish(copy)
                tally_switches(copy)
            self._restore(shared)
            self._read(out, copy)
            return out
        finally:
            free(copy)

    cdef object _shared(self):
        """What a copy of the machine shares with it: exit counts and regular arrivals."""
        return [self.m.exit_count[i] for i in range(self.n_exits)], [column.copy() for column in self.regular]

    cdef _restore(self, shared):
        for column, before in zip(self.regular, shared[1], strict=True):
            column[...] = before
        for i in range(self.n_exits):
            self.m.exit_count[i] = shared[0][i]

    cdef _read(self, out, const machine_t *copy):
        """Add what a copy knows after the read-out."""
        out["exits"] = [self.m.exit_count[i] for i in range(self.n_exits)]
        out["ops"] = {
            PHASE_NAMES[p]: {
                ORIGIN_NAMES[o]: {OP_NAMES[c]: copy.ops[p][o][c] for c in range(OP_CLASSES)} for o in range(ORIGINS)
            }
            for p in range(PHASES)
        }
        out["guest_accesses"] = {
            PHASE_NAMES[p]: {
                way: {OP_NAMES[c]: copy.accesses[p][w][c] for c in range(OP_CLASSES)}
                for w, way in enumerate(("direct", "trapped"))
            }
            for p in range(PHASES)
        }
        out["counters"] = [self._counter(&copy.guest_event[i]) for i in range(copy.guest_events)]
        out["stray_counts"] = copy.stray_counts
        if self.plan.program:
            out["program"] = [
                (self.m.program[i].value, self.m.program[i].ideal)
                for i, step in enumerate(self.plan.program)
                if self.m.program[i].applied and step.access in ("rdpmc", "global_status")
            ]

    cdef object _hosts(self, const machine_t *m):
        return [self._host(&m.host_event[i]) for i in range(len(self.plan.host_events))]

    cdef object _totals(self, const machine_t *m):
        pending = (m.flight & FLIGHT_GUEST) + bool(m.vector_pending) + bool(m.pmi_requested)
        spent = {name: m.spent[i] for i, name in enumerate(_COST_NAMES)}
        spent["handling"] = m.spent[SPENT_HANDLING]
        spent["idle"] = m.spent[SPENT_IDLE]
        return {
            "w": m.wall,
            "clocks": [m.clock[a] for a in range(ACTIVITIES)],
            "pmu_exits": {PMU_EXIT_NAMES[i]: m.pmu_exits[i] for i in range(PMU_EXITS)},
            "host_interrupts": m.host_interrupts,
            "switches": m.switches,
            "refused": m.refused,
            "handlers": m.handlers,
            "pmi": {
                "raised": m.pmi.raised,
                "delivered": m.pmi.delivered,
                "coalesced": m.pmi.coalesced,
                "lost": m.pmi.lost,
                "pending": pending,
                "skid_past_exit": m.pmi.skid_past_exit,
            },
            "guest_timers": {GUEST_TIMER_NAMES[i]: m.guest_timer[i].fired for i in range(TIMERS)},
            "samples_per_tick": m.guest_samples_per_tick,
            "spent": spent,
            "reprograms": m.reprograms,
            "creates": m.creates,
            "rotations": m.rotations,
            "host_pmi": {
                "raised": m.host_pmi.raised,
                "handled": m.host_pmi.handled,
                "coalesced": m.host_pmi.coalesced,
                "lost": m.host_pmi.lost,
                "pending": m.flight >> 1,
            },
            "breaches": {BREACH_NAMES[i]: m.watch.breaches[i] for i in range(BREACHES)},
            "stopped": None if m.stopped == RUNNING else "no-progress",
        }

    cdef object _holders(self, const machine_t *m):
        """Counters of the own events, then of those that back the guest's."""
        holders = [_counter_of(&m.host_event[i]) for i in range(len(self.plan.host_events))]
        for i in range(m.guest_events):
            slot = m.guest_event[i].slot
            backing = m.vcpu[slot].event if slot >= 0 else -1
            holders.append(_counter_of(&m.host_event[backing]) if backing >= 0 else None)
        return holders

    cdef object _ledger(self, const uint64_t *causes):
        return {CAUSE_NAMES[i]: causes[i] for i in range(1, CAUSES) if causes[i]}

    cdef object _counter(self, const guest_event_t *e):
        return {
            "value": e.perf.count,
            "ideal": e.ideal,
            "losses": self._ledger(e.losses),
            "gains": self._ledger(e.gains),
            "samples": e.samples,
            "expected": e.expected,
            "late": e.late,
            "throttles": e.throttles,
            "period": e.perf.period,
            "enabled": e.enabled,
            "running": e.running,
            "scheduled": bool(e.scheduled),
        }

    cdef object _host(self, const host_event_t *e):
        return {
            "value": e.perf.count,
            "ideal": e.ideal,
            "losses": self._ledger(e.losses),
            "gains": self._ledger(e.gains),
            "state": _HOST_STATES.get(e.state, "error"),
            "enabled": e.enabled,
            "running": e.running,
            "samples": e.samples,
            "expected": e.expected,
            "late": e.late,
            "throttled": e.throttlings,
        }
