# cython: freethreading_compatible=True
"""A logical CPU with several vCPUs: one plan for each in, a dictionary of integers out (docs/machine.md, section 15)."""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vpmu_core._types cimport uint64_t
from vpmu_core.hostperf cimport read_host_events
from vpmu_core.kinds cimport RUNNING
from vpmu_core.logicalcpu cimport MAX_VCPUS, logical_cpu_t, read_next, run_vcpus, seat_t, start_first, take_over
from vpmu_core.machine cimport SLICE, Machine, finish, prepare
from vpmu_core.memo cimport settle_memos
from vpmu_core.state cimport machine_t
from vpmu_core.switchprogram cimport tally_switches


cdef class LogicalCpu:
    """One logical CPU with several vCPUs, which take turns.

    Parameters
    ----------
    plans : sequence of vpmu._plan.Plan
        One for each vCPU; the first one's says what belongs to the logical CPU: host events, tick, length.
    engine : {"lazy", "stepwise"}
        As for :class:`vpmu_core.machine.Machine`; the result is the same.
    time_slice : int
        Wall cycles after which a vCPU gives way to another that waits, at the next tick.
    wakeups_preempt : bool
        A vCPU that wakes gets the CPU at once.
    """

    def __cinit__(self):
        memset(&self.cpu, 0, sizeof(logical_cpu_t))

    def __init__(self, plans, str engine="lazy", *, uint64_t time_slice, bint wakeups_preempt=False):
        cdef Machine machine
        cdef int i
        if engine not in ("lazy", "stepwise"):
            raise ValueError(f"engine {engine!r} must be 'lazy' or 'stepwise'")
        if not 1 <= len(plans) <= MAX_VCPUS:
            raise ValueError(f"{len(plans)} vCPUs: a logical CPU has 1 to {MAX_VCPUS} here")
        if time_slice == 0:
            raise ValueError("a time slice has at least one cycle")
        for plan in plans:
            self._check(plan, plans[0])
        self.machines = [Machine(plan, "template") for plan in plans]
        self.cpu.n = len(plans)
        self.cpu.own_events = len(plans[0].host_events)
        self.cpu.time_slice = time_slice
        self.cpu.tick = plans[0].tick
        self.cpu.wakeups_preempt = wakeups_preempt
        for i in range(self.cpu.n):
            machine = self.machines[i]
            if machine.plan.owns_hardware and machine.m.design.put == NULL:
                raise ValueError(f"{machine.plan.design} leaves the PMU to one guest: no vCPU can share its logical CPU")
            if engine == "lazy":
                machine._fill_lazy()
            self.cpu.seat[i].m = &machine.m
            machine.m.shares = True
            machine.m.joins = i > 0
            prepare(&machine.m)
            if i:
                self.cpu.queue[i - 1] = i
        self.cpu.queued = self.cpu.n - 1
        with nogil:
            start_first(&self.cpu)
        self._settle()

    def _check(self, plan, first):
        for name in ("design", "cpu", "host_events", "end", "tick", "mux_interval"):
            if getattr(plan, name) != getattr(first, name):
                raise ValueError(f"vCPUs of one logical CPU have one {name}")
        if any([event.task for event in plan.host_events]):
            raise ValueError("events of one vCPU's thread beside several vCPUs are not simulated")
        if any([plan.exits[kind].idle for kind in plan.wall.kinds]):
            raise ValueError("a host interrupt does not idle")

    cdef _settle(self):
        cdef Machine machine
        for machine in self.machines:
            if machine.m.fast_forward != NULL:
                settle_memos(&machine.m, &machine.lazy)

    def advance(self):
        """Run for at most some tens of milliseconds.

        Returns
        -------
        bool
            Whether the run is over.
        """
        cdef machine_t *m = self.cpu.seat[self.cpu.current].m
        m.budget = SLICE
        with nogil:
            run_vcpus(&self.cpu)
        self._settle()
        m = self.cpu.seat[self.cpu.current].m
        return m.ended or m.stopped != RUNNING

    @property
    def progress(self):
        """Wall cycles so far and wall cycles to run."""
        cdef machine_t *m = self.cpu.seat[self.cpu.current].m
        return m.wall, m.end

    def result(self):
        """Read every guest's perf out, on copies, and return everything as a dictionary of integers.

        Returns
        -------
        dict
            ``vcpus``: for each what a machine's result has; ``current``: which of them had the CPU at the end.
        """
        cdef machine_t *copies = <machine_t *>calloc(self.cpu.n, sizeof(machine_t))
        cdef machine_t *before
        cdef Machine machine
        cdef int i, current = self.cpu.current
        if copies == NULL:
            raise MemoryError
        try:
            shared = [(<Machine>machine)._shared() for machine in self.machines]
            before = &copies[current]
            out = [self._at_end(i, copies) for i in range(self.cpu.n)]
            with nogil:
                finish(before)
                for i in range(self.cpu.n):
                    if i != current and self.cpu.seat[i].begun:
                        memcpy(&copies[i], self.cpu.seat[i].m, sizeof(machine_t))
                        read_next(&self.cpu, &copies[i], &self.cpu.seat[i], before)
                        before = &copies[i]
            for i in range(self.cpu.n):
                machine = self.machines[i]
                machine._restore(shared[i])
                tally_switches(&copies[i])
                machine._read(out[i], &copies[i])
            return {"vcpus": out, "current": current}
        finally:
            free(copies)

    cdef object _at_end(self, int i, machine_t *copies):
        """The totals of a vCPU before any read-out; leaves a copy of its machine behind."""
        cdef Machine machine = self.machines[i]
        cdef seat_t *seat = &self.cpu.seat[i]
        cdef machine_t *copy = &copies[i]
        cdef machine_t *host = <machine_t *>calloc(1, sizeof(machine_t))
        cdef uint64_t now
        if host == NULL:
            raise MemoryError
        try:
            tally_switches(&machine.m)
            memcpy(copy, &machine.m, sizeof(machine_t))
            if i != self.cpu.current:
                take_over(&self.cpu, copy, self.cpu.seat[self.cpu.current].m)
            memcpy(host, copy, sizeof(machine_t))
            out = machine._totals(copy)
            read_host_events(host)
            out["holders"] = machine._holders(host)
            out["host"] = machine._hosts(host)
        finally:
            free(host)
        now = copy.wall
        slept, stolen = seat.slept, seat.stolen
        if i != self.cpu.current:
            slept += min(max(seat.wake, seat.since), now) - seat.since
            stolen += now - min(max(seat.wake, seat.since), now)
        return out | {
            "others": copy.others,
            "slept": slept,
            "stolen": stolen,
            "turns": seat.turns,
            "preemptions": copy.preemptions,
            "tick_exits": copy.tick_exits,
            "leftovers": copy.leftovers,
        }
