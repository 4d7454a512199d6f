"""The slow machine: one logical CPU with one vCPU, cycle by cycle, in plain Python.

It does what ``docs/machine.md`` says and shares nothing with the compiled machine, so that equal results mean
something. What the steps mean is in Linux arch/x86/kvm/x86.c (``vcpu_enter_guest``), arch/x86/kvm/pmu.c and
arch/x86/events, and in the Intel SDM vol. 3B, chapter "Performance Monitoring".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from .._plan import Plan
from .._registry import design
from ._clocks import HOST_TASK, IDLE
from ._counters import INSTRUCTIONS
from ._designs import Design
from ._guestamd import guest_perf
from ._hostevents import ACTIVE
from ._hostperf import HostPerf
from ._passing import Passing
from ._program import run_program
from ._random import NEVER, Arrivals, Replay

#: So many PMI handlers without a cycle between them are a storm.
_HANDLERS_AT_ONCE = 1000

FASTPATH, KERNEL, USERSPACE = range(3)

#: (cost name, cycles) of what an exit's handling consists of.
Handling = Sequence[tuple[str, int]]


def _design_class(plan: Plan) -> type[Design]:
    """The class that the plan names, or that of the registered design of its name."""
    module, _, name = (plan.reference or design(plan.design).reference).partition(":")
    found: type[Design] = getattr(import_module(module), name)
    return found


class StoppedError(Exception):
    """The run makes no progress; unwinds perf code of the guest where it is."""


class Machine(Passing):
    """All state of one run.

    Parameters
    ----------
    plan : Plan
    cycle_by_cycle : bool
        Advance guest code one cycle at a time and find overflows by looking, instead of jumping to them.
    first : Machine, optional
        The first vCPU of the logical CPU, whose hardware and host this one shares.
    """

    def __init__(self, plan: Plan, cycle_by_cycle: bool = False, first: Machine | None = None) -> None:
        super().__init__(plan, cycle_by_cycle)
        if first is not None:
            self.hardware, self.lvtpc = first.hardware, first.lvtpc
            self.tally.host_pmi = first.tally.host_pmi
        #: Whether the logical CPU has run before this vCPU starts.
        self._joins = first is not None
        self.host = HostPerf(self)
        if first is not None:
            self.host.share(first.host)
        self.design = _design_class(plan)(self)
        self.perf = guest_perf(self)

        self._stopped = False
        self._finishing = False
        #: What the guest's own program has read, and should have.
        self.readings: list[tuple[int, int]] = []
        #: Running clock from which the read-out is left alone by host interrupts and PMIs.
        self._patience = NEVER
        #: Instant of the latest PMI handler, and how many have begun there.
        self._handled_at = NEVER
        self._handlers_at_once = 0

        #: Workload cycles up to its next exit; that exit's kind, handling and idle cycles.
        self._left = 0
        self.due = (0, 0, 0)
        self._work = Arrivals(plan.work, plan.seeds["work"])
        self._replay = Replay(plan.trace) if plan.trace is not None else None
        self._wall = Arrivals(plan.wall, plan.seeds["wall"])
        self._next_wall = 0
        self._wall_kind = 0
        self._filter_changes = list(plan.filter_changes)
        #: Entries of MSR lists that an exit and an entry load.
        self._list_loads = plan.sequence.list_loads if plan.sequence is not None else (0, 0)
        #: Instant from which workload code gives way to another vCPU, and whether it has.
        self.preempt_at = NEVER
        self.gives_way = False
        self.leftovers = 0

    # The run.

    def run(self) -> dict[str, object]:
        """Run from the start to the end and read the counters out."""
        try:
            self.begin()
            while self.run_workload():
                kind, handling, idle = self.due
                self._planned_exit(kind, handling, idle)
                self.draw_next()
        except StoppedError:
            pass
        result = self.report()
        # The host's events end with the run, the guest's with their read-out.
        result["holders"] = self.holders()
        result["host"] = self.host.finish() if self.design.has_host else []
        self.read_out(result)
        return result

    def begin(self) -> None:
        """From power-on to the first cycle of the workload."""
        self.draw_next()
        self._draw_wall()
        if not self.design.has_host:
            self._left, self._next_wall = NEVER, NEVER
        self._start()
        self.tally.phase = "run"
        run_program(self, self.readings)

    def run_workload(self) -> bool:
        """Run up to the next exit of the workload; false if something else came first: the end, or another vCPU."""
        self._left = self._run_guest(True, self._left)
        return not self._left and not self.gives_way

    def draw_next(self) -> None:
        """The next exit of the workload: after how many cycles, and what it is."""
        self._left, *due = self._draw_work()
        self.due = (due[0], due[1], due[2])

    def finishing(self) -> None:
        """The run is over; what follows is not stopped, and at last left alone."""
        self._finishing = True
        self._patience = self.clocks.running + 2 * self.plan.end
        self._handlers_at_once = 0
        self.tally.phase = "readout"

    def read_out(self, result: dict[str, object]) -> None:
        """Close the guest's perf, and add what it has read."""
        self.finishing()
        if self.design.has_guest_perf:
            self.perf.read_out()
        self.design.finish()
        if self.plan.program:
            result["program"] = self.readings
        result["counters"] = [event.report() for event in self.perf.events] if self.design.has_guest_perf else []

    def _start(self) -> None:
        if not self._joins:
            self.host.start(self.design.host_events)
        if self.design.has_host:
            self._load_and_enter(self.design.has_put)
        else:
            self.in_guest = True
        if self.design.has_guest_perf:
            self.perf.set_up()

    def holders(self) -> list[int | None]:
        """Counters of the host's own events, then of those that back the guest's."""
        own = self.host.own if self.design.has_host else []
        backing = (
            [None if e.counter is None else self.design.backing(e.counter) for e in self.perf.events]
            if self.design.has_guest_perf
            else []
        )
        return [event.counter if event and event.state == ACTIVE else None for event in (*own, *backing)]

    def report(self) -> dict[str, object]:
        """What the run was, all but the counters."""
        tally = self.tally
        pending = ("guest" in self._whose) + self._vector_pending + self._pmi_requested
        return {
            "w": self.clocks.wall,
            "clocks": list(self.clocks.cycles),
            "exits": list(tally.exits),
            "pmu_exits": dict(tally.pmu_exits),
            "host_interrupts": tally.host_interrupts,
            "switches": tally.switches,
            "refused": tally.refused,
            "handlers": tally.handlers,
            "pmi": {**tally.pmi, "pending": int(pending)},
            "ops": tally.ops,
            "guest_accesses": tally.guest_accesses,
            "guest_timers": {name: timer.fired for name, timer in self.perf.timers.items()},
            "samples_per_tick": self.perf.limit.per_tick if self.perf.limit else 0,
            "spent": dict(tally.spent),
            "reprograms": tally.reprograms,
            "creates": tally.creates,
            "rotations": self.host.rotations,
            "host_pmi": {**tally.host_pmi, "pending": int("host" in self._whose)},
            "breaches": dict(tally.breaches),
            "stopped": "no-progress" if self._stopped else None,
        }

    # Draws.

    def _draw_work(self) -> tuple[int, int, int, int]:
        """Gap, kind, handling and idle cycles of the next exit of the workload."""
        if self._replay is not None:
            return self._replay.draw()
        gap, kind = self._work.draw()
        if gap >= NEVER:
            return gap, 0, 0, 0
        planned = self.plan.exits[kind]
        return gap, kind, planned.handling, planned.idle

    def _draw_wall(self) -> None:
        gap, self._wall_kind = self._wall.draw()
        self._next_wall += gap

    # Guest code.

    def run_handler(self, name: str, cycles: int | None = None) -> None:
        """Perf code of the guest runs for as long as a primitive costs, or as it is told."""
        self._run_guest(False, self.costs[name] if cycles is None else cycles, name)

    def _no_progress(self) -> bool:
        """The guest has had its time twice over and is still not done, or handles PMIs while no time passes."""
        return not self._finishing and (
            self.clocks.running > 2 * self.plan.end or self._handlers_at_once > _HANDLERS_AT_ONCE
        )

    def _left_alone(self) -> bool:
        """In a read-out, which is not stopped as a run is, that a storm might never let finish."""
        return self.clocks.running > self._patience or (self._finishing and self._handlers_at_once > _HANDLERS_AT_ONCE)

    def _run_guest(self, work: bool, n: int, name: str = "") -> int:
        """Run workload or handler code.

        Parameters
        ----------
        work : bool
            Workload code, which ends at the end of the run; otherwise perf code of the guest.
        n : int
            Cycles.
        name : str
            The primitive that handler code is spent on.

        Returns
        -------
        int
            0, or what was left of ``n`` when the run ended; at least 1 then.
        """
        plan, clocks = self.plan, self.clocks
        while True:
            if self._no_progress():
                self._stopped = True
                raise StoppedError
            wall = clocks.wall
            if work and wall >= self.preempt_at:
                self.gives_way = True
                return n
            if self._in_flight is not None and wall >= self._in_flight:
                if self._left_alone():
                    self._lose_pmi()
                else:
                    self._arrive()
                continue
            if self._vector_pending:
                self._vector_pending = False
                self.interrupt_exit()
                continue
            left_alone = self._left_alone()
            if self.perf.nmi_pending and not self.perf.in_service and not left_alone:
                self._handlers_at_once = self._handlers_at_once + 1 if self._handled_at == wall else 1
                self._handled_at = wall
                if self._handlers_at_once <= _HANDLERS_AT_ONCE:
                    self.perf.handle_nmi()
                continue
            if clocks.running >= self._next_wall and not left_alone:
                kind = self._wall_kind
                self._draw_wall()
                planned = plan.exits[kind]
                self._planned_exit(kind, planned.handling, planned.idle)
                continue
            if wall >= self.host.next_timer and not left_alone:
                self.pmu_exit("EXTERNAL_INTERRUPT", [], lambda: None)
                continue
            if self._filter_due():
                cost = "interrupt_exit"
                self.pmu_exit("EXTERNAL_INTERRUPT", [(cost, self.costs[cost])], lambda: None)
                continue
            if work and wall >= self.perf.next_timer:
                self.perf.serve_timer()
                continue
            if work and wall >= plan.end:
                return max(n, 1)
            if n == 0:
                return 0
            d = n if left_alone else min(n, self._next_wall - clocks.running, self.host.next_timer - wall)
            if work:
                d = min(d, plan.end - wall, self.perf.next_timer - wall, self.preempt_at - wall)
            if self._filter_changes and not self._finishing:
                d = min(d, self._filter_changes[0][0] - wall)
            if self._in_flight is not None:
                d = min(d, self._in_flight - wall)
            ran, wrapped = self._advance_guest(work, d)
            n -= ran
            if not work:
                self.tally.spent[name] += ran
            for c in wrapped:
                self._overflow(c)
            if work and clocks.wall >= plan.end:
                return max(n, 1)

    # Exits.

    def _planned_exit(self, kind: int, handling: int, idle: int) -> None:
        """An exit of the workload or a host interrupt."""
        planned = self.plan.exits[kind]
        self.tally.exits[kind] += 1
        self._exit(planned.kind, planned.cpl, planned.emulates, [("handling", handling)], idle)

    def pmu_exit(self, reason: str, handling: Handling, effect: Callable[[], None], emulates: bool = False) -> None:
        """A kernel exit that the PMU caused."""
        self.tally.pmu_exits[reason] += 1
        self._exit(KERNEL, 0, emulates, handling, 0, effect)

    def trapped_access(self, reason: str, effect: Callable[[], None]) -> None:
        """The guest's access exits and is emulated."""
        parts = [(name, self.costs[name]) for name in ("handling_kernel", "msr_emulation")]
        self.pmu_exit(reason, parts, effect, emulates=True)

    def interrupt_exit(self) -> None:
        """The guest's PMI vector exits as an external interrupt."""
        self.pmu_exit("EXTERNAL_INTERRUPT", [("interrupt_exit", self.costs["interrupt_exit"])], self.request_pmi)

    def _exit(
        self,
        kind: int,
        cpl: int,
        emulates: bool,
        handling: Handling,
        idle: int,
        effect: Callable[[], None] = lambda: None,
    ) -> None:
        """The time line of one exit, from guest mode to guest mode."""
        kind = self.exit_begins(kind, emulates, handling)
        if idle > 0:
            self._sleep(idle)
        self.exit_ends(kind, cpl, emulates, effect)

    def exit_begins(self, kind: int, emulates: bool, handling: Handling) -> int:
        """From guest mode to the end of the handling; the kind of exit that it has become."""
        design = self.design
        self.in_guest = False
        design.leave_guest()
        if kind == FASTPATH and emulates and design.refuses_fastpath():
            self.tally.refused += 1
            kind = KERNEL
            longer = self.costs["fastpath_refused"] - sum(cycles for _, cycles in handling)
            handling = [("fastpath_refused", max(longer, 0)), *handling]
        self.pay(design.host_activity, "vm_exit")
        if design.stores_global_ctrl():
            if self.amd:  # svm_vcpu_run() reads it
                design.access("rdmsr")
            else:
                self.pay(design.host_activity, "msr_list_entry")
        for _ in range(self._list_loads[0]):
            self.pay(design.host_activity, "msr_list_entry")
        self.arrival_check()

        if design.switches_at(kind == FASTPATH):
            design.put()
            self.arrival_check()

        for name, cycles in handling:
            in_kernel = min(cycles, self.costs["handling_kernel"]) if kind == USERSPACE else cycles
            take_time = self.handle if name == "handling" and cycles else self.spend
            take_time(design.host_activity, in_kernel, name)
            if kind == USERSPACE:
                design.to_user()
            if cycles > in_kernel:
                take_time(HOST_TASK, cycles - in_kernel, name)
            if kind == USERSPACE:
                design.from_user()
        return kind

    def exit_ends(self, kind: int, cpl: int, emulates: bool, effect: Callable[[], None] = lambda: None) -> None:
        """From the effect of an exit, or the wake-up, to guest mode."""
        design = self.design
        effect()
        if emulates:
            self._retire(cpl)
        self.arrival_check()

        # kvm_vcpu_exit_request(): a request ends the fastpath loop.
        if kind != FASTPATH or self._pmi_requested or design.wants_reprogramming():
            if self.timer_due():
                self.host.serve_timers()
            self._serve_host_interrupts()
            while kind != FASTPATH and self._filter_due():
                design.change_filter(self._filter_changes.pop(0)[1])
            if self._vector_pending:
                self._vector_pending = False
                self.pay(design.host_activity, "interrupt_exit")
                self.request_pmi()
            design.reprogram()
            if self._pmi_requested:
                self._pmi_requested = False
                self.pay(design.host_activity, "pmi_injection")
                self.deliver_pmi()
            self.arrival_check()

        self._load_and_enter(design.switches_at(kind == FASTPATH))
        if self._stopped and not self._finishing:
            raise StoppedError

    def timer_due(self) -> bool:
        """A timer of host perf is due and can be served."""
        if self.clocks.wall < self.host.next_timer:
            return False
        if self.design.guest_state_loaded and self.design.switches_at(fastpath=False):
            return False  # such an exit will come, and in it guest state is out
        return not self._left_alone() and not self._no_progress()

    def _sleep(self, cycles: int) -> None:
        """The vCPU's thread sleeps in HLT, the CPU is idle but for the timer."""
        host = self.host
        self.design.block()
        if self.design.guest_state_loaded:
            self.spend(IDLE, cycles, "idle")
            self.design.wake()
            return
        host.block()
        while cycles:
            if self.timer_due():
                host.serve_timers()
                continue
            ahead = host.next_timer - self.clocks.wall
            step = min(cycles, ahead) if ahead > 0 else cycles
            self.spend(IDLE, step, "idle")
            cycles -= step
        host.wake()
        self.design.wake()

    def _load_and_enter(self, load: bool) -> None:
        design = self.design
        if load:
            design.load()
            self.arrival_check()
        for _ in range(self._list_loads[1]):
            self.pay(design.host_activity, "msr_list_entry")
        self.pay(design.host_activity, "vm_entry")
        self.arrival_check()
        design.enter_guest()
        self.in_guest = True
        design.entered()

    def _filter_due(self) -> bool:
        """Whether another event filter is to come into force; none does in the read-out."""
        changes = self._filter_changes
        return bool(changes) and self.clocks.wall >= changes[0][0] and not self._finishing

    def _serve_host_interrupts(self) -> None:
        """Interrupts that became due while the host ran are served without another exit."""
        while self.clocks.running >= self._next_wall and not self._left_alone():
            if self._no_progress():
                self._stopped = True
                return
            self.tally.host_interrupts += 1
            kind = self._wall_kind
            self._draw_wall()
            self.handle(self.design.host_activity, self.plan.exits[kind].handling, "handling")

    def _retire(self, cpl: int) -> None:
        """One occurrence of ``instructions`` outside all clocks."""
        ideal = set()
        for c in self.ideal.all:
            if self.ideal.enabled(c) and self.ideal.event(c) == INSTRUCTIONS and self.ideal.counts_level(c, cpl):
                self.ideal.counter[c] = (self.ideal.counter[c] + 1) % self.ideal.modulus(c)
                ideal.add(c)
        self.perf.account_instruction(cpl, ideal, self.design.retire(cpl))


def run(plan: Plan, cycle_by_cycle: bool = False) -> dict[str, object]:
    """Run a plan.

    Parameters
    ----------
    plan : Plan
        A scenario reduced to integers.
    cycle_by_cycle : bool
        Advance guest code one cycle at a time; the same result, much slower.

    Returns
    -------
    dict
        The output of ``docs/machine.md``, section 12.
    """
    return Machine(plan, cycle_by_cycle).run()
