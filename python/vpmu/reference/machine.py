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
from ._clocks import GUEST, GUEST_HANDLER, HOST_TASK, IDLE, Clocks, Rates, Step
from ._counters import INSTRUCTIONS, Counters, event_codes
from ._designs import Design
from ._guestperf import GuestPerf
from ._hostevents import ACTIVE
from ._hostperf import HostPerf
from ._program import run_program
from ._random import NEVER, Arrivals, Replay, Sfc64, uniform
from ._tally import Tally

FASTPATH, KERNEL, USERSPACE = range(3)

#: (cost name, cycles) of what an exit's handling consists of.
Handling = Sequence[tuple[str, int]]


def _design_class(plan: Plan) -> type[Design]:
    """The class that the plan names, or that of the registered design of its name."""
    module, _, name = (plan.reference or design(plan.design).reference).partition(":")
    found: type[Design] = getattr(import_module(module), name)
    return found


class _StoppedError(Exception):
    """The run makes no progress; unwinds perf code of the guest where it is."""


class Lvtpc:
    """The hardware's local APIC entry for PMIs: the host's NMI or the guest's vector 0xf5."""

    def __init__(self) -> None:
        self.guest_vector = False
        self.masked = False

    def set_host(self) -> None:
        """NMI, unmasked."""
        self.guest_vector = False
        self.masked = False

    def set_guest(self, masked: bool) -> None:
        """PERF_GUEST_MEDIATED_PMI_VECTOR with the guest's mask."""
        self.guest_vector = True
        self.masked = masked


class Machine:
    """All state of one run.

    Parameters
    ----------
    plan : Plan
    cycle_by_cycle : bool
        Advance guest code one cycle at a time and find overflows by looking, instead of jumping to them.
    """

    def __init__(self, plan: Plan, cycle_by_cycle: bool = False) -> None:
        self.plan = plan
        self.costs = plan.costs
        self.clocks = Clocks(plan.user_share)
        self.rates = Rates(plan.rates)
        self.codes = event_codes(plan)
        self.tally = Tally(len(plan.exits))
        self._cycle_by_cycle = cycle_by_cycle

        self.guest_model = plan.cpu if plan.owns_hardware else plan.guest_cpu
        self.hardware = Counters(plan.cpu, self.codes)
        self.ideal = Counters(self.guest_model, self.codes)
        self.lvtpc = Lvtpc()
        #: The mask of the guest's LVTPC; reset sets it (SDM vol. 3A, "Local APIC State After Reset").
        self.guest_lvtpc_masked = True
        self.host = HostPerf(self)
        self.design = _design_class(plan)(self)
        self.perf = GuestPerf(self)

        self.in_guest = False
        self._in_flight: int | None = None
        #: Whose PMI is in flight: the guest's, the host's own events'.
        self._whose: set[str] = set()
        self._vector_pending = False
        self._pmi_requested = False
        self._stopped = False
        self._finishing = False
        #: What the guest's own program has read, and should have.
        self.readings: list[tuple[int, int]] = []
        #: Running clock from which the read-out is left alone by host interrupts and PMIs.
        self._patience = NEVER

        self._skid = Sfc64(plan.seeds["skid"])
        self._work = Arrivals(plan.work, plan.seeds["work"])
        self._replay = Replay(plan.trace) if plan.trace is not None else None
        self._wall = Arrivals(plan.wall, plan.seeds["wall"])
        self._next_wall = 0
        self._wall_kind = 0
        self._filter_changes = list(plan.filter_changes)

    # The run.

    def run(self) -> dict[str, object]:
        """Run from the start to the end and read the counters out."""
        work_gap, work_kind, handling, idle = self._draw_work()
        self._draw_wall()
        if not self.design.has_host:
            work_gap, self._next_wall = NEVER, NEVER
        try:
            self._start()
            self.tally.phase = "run"
            run_program(self, self.readings)
            left = work_gap
            while (left := self._run_guest(True, left)) == 0:
                self._planned_exit(work_kind, handling, idle)
                left, work_kind, handling, idle = self._draw_work()
        except _StoppedError:
            pass
        result = self._report()
        # The host's events end with the run, the guest's with their read-out.
        result["holders"] = self._holders()
        result["host"] = self.host.finish() if self.design.has_host else []
        self._finishing = True
        self._patience = self.clocks.running + 2 * self.plan.end
        self.tally.phase = "readout"
        if self.design.has_guest_perf:
            self.perf.read_out()
        self.design.finish()
        if self.plan.program:
            result["program"] = self.readings
        result["counters"] = [event.report() for event in self.perf.events] if self.design.has_guest_perf else []
        return result

    def _start(self) -> None:
        self.host.start(self.design.host_events)
        if self.design.has_host:
            self._load_and_enter(self.design.has_put)
        else:
            self.in_guest = True
        if self.design.has_guest_perf:
            self.perf.set_up()

    def _holders(self) -> list[int | None]:
        """Counters of the host's own events, then of those that back the guest's."""
        own = self.host.own if self.design.has_host else []
        backing = (
            [None if e.counter is None else self.design.backing(e.counter) for e in self.perf.events]
            if self.design.has_guest_perf
            else []
        )
        return [event.counter if event and event.state == ACTIVE else None for event in (*own, *backing)]

    def _report(self) -> dict[str, object]:
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

    # Time.

    def _advance(self, step: Step) -> list[int]:
        """Let a step happen; return the hardware counters that wrapped."""
        self.host.account(step)
        wrapped = self.hardware.advance(step, self.rates)
        if step[0][0] in GUEST:
            self.perf.account(step)
            self.ideal.advance(step, self.rates)
        self.clocks.move(step)
        return wrapped

    def spend(self, activity: int, cycles: int, name: str) -> None:
        """Host code runs. Only counters of sampling host events wrap in it."""
        self.tally.spent[name] += cycles
        self._host_code(activity, cycles)

    def _host_code(self, activity: int, cycles: int) -> None:
        step = self.clocks.ahead(activity, cycles)
        instant = self.clocks.wall
        if self.host.samples and self.hardware.would_wrap(step, self.rates):
            instant += self._until_wrap(activity, cycles)
        for c in self._advance(step):
            self._overflow(c, instant)

    def _until_wrap(self, activity: int, most: int) -> int:
        """After how many cycles of host code the first counter wraps; ``most`` if none does before."""
        none = 0
        while most - none > 1:
            middle = (none + most) // 2
            if self.hardware.would_wrap(self.clocks.ahead(activity, middle), self.rates):
                most = middle
            else:
                none = middle
        return most

    def handle(self, activity: int, cycles: int, name: str) -> None:
        """Host code runs for longer: PMIs of host events arrive in it."""
        if not self.host.samples or self.design.guest_state_loaded:
            self.spend(activity, cycles, name)
            return
        self.tally.spent[name] += cycles
        while True:
            self.arrival_check()
            while self._in_flight is not None and self._in_flight <= self.clocks.wall:
                self.arrival_check()
            piece = cycles if self._in_flight is None else min(cycles, self._in_flight - self.clocks.wall)
            piece = self._until_wrap(activity, piece)
            self._host_code(activity, piece)
            cycles -= piece
            if not cycles:
                return

    def pay(self, activity: int, name: str) -> None:
        """Host code runs for as long as a primitive costs."""
        self.spend(activity, self.costs[name], name)

    def run_handler(self, name: str, cycles: int | None = None) -> None:
        """Perf code of the guest runs for as long as a primitive costs, or as it is told."""
        self._run_guest(False, self.costs[name] if cycles is None else cycles, name)

    def _no_progress(self) -> bool:
        """The guest has had its time twice over and is still not done."""
        return not self._finishing and self.clocks.running > 2 * self.plan.end

    def _left_alone(self) -> bool:
        """In a read-out, which is not stopped as a run is, that a storm might never let finish."""
        return self.clocks.running > self._patience

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
                raise _StoppedError
            wall = clocks.wall
            if self._in_flight is not None and wall >= self._in_flight:
                self._arrive()
                continue
            if self._vector_pending:
                self._vector_pending = False
                self.interrupt_exit()
                continue
            left_alone = self._left_alone()
            if self.perf.nmi_pending and not self.perf.in_service and not left_alone:
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
                d = min(d, plan.end - wall, self.perf.next_timer - wall)
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

    def _ahead(self, work: bool, cycles: int) -> Step:
        return self.clocks.workload_ahead(cycles) if work else self.clocks.ahead(GUEST_HANDLER, cycles)

    def _advance_guest(self, work: bool, most: int) -> tuple[int, list[int]]:
        """Run guest code until a counter wraps, at most so long; return how long, and what wrapped."""
        if self._cycle_by_cycle:
            for ran in range(1, most + 1):
                wrapped = self._advance(self._ahead(work, 1))
                if wrapped:
                    return ran, wrapped
            return most, []
        cycles = most
        if self.hardware.would_wrap(self._ahead(work, most), self.rates):
            # Counts never fall, so the first cycle with a wrapped counter is found by bisection.
            none = 0
            while cycles - none > 1:
                middle = (none + cycles) // 2
                if self.hardware.would_wrap(self._ahead(work, middle), self.rates):
                    cycles = middle
                else:
                    none = middle
        return cycles, self._advance(self._ahead(work, cycles))

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
            self.pay(design.host_activity, "msr_list_entry")
        self.arrival_check()

        switched = design.switches_at(kind == FASTPATH)
        if switched:
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
        if idle > 0:
            self._sleep(idle)
        effect()
        if emulates:
            self._retire(cpl)
        self.arrival_check()

        # kvm_vcpu_exit_request(): a request ends the fastpath loop.
        if kind != FASTPATH or self._pmi_requested or design.wants_reprogramming():
            if self._timer_due():
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

        self._load_and_enter(switched)
        if self._stopped and not self._finishing:
            raise _StoppedError

    def _timer_due(self) -> bool:
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
            if self._timer_due():
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

    # PMIs.

    def _overflow(self, c: int, instant: int | None = None) -> None:
        """A hardware counter wrapped, now or at an instant of host code."""
        self.hardware.status |= 1 << c
        self.note_overflow(self.design.guest_counter_behind(c))
        for event in self.host.own:
            if event.in_hardware and event.counter == c:
                event.overflowed_at = self.clocks.wall if instant is None else instant
        if not self.hardware.interrupts(c):
            return
        whose = "host" if any(event.in_hardware and event.counter == c for event in self.host.own) else "guest"
        tally = self.tally.host_pmi if whose == "host" else self.tally.pmi
        tally["raised"] += 1
        if whose in self._whose:
            tally["coalesced"] += 1
        self._whose.add(whose)
        if self._in_flight is None:
            skid = self.plan.cpu.skid
            requested = self.clocks.wall if instant is None else instant
            self._in_flight = requested + uniform(self._skid.draw(), skid.minimum, skid.maximum)

    def note_overflow(self, c: int) -> None:
        """A guest counter overflowed now."""
        self.perf.overflow_at[c] = self.clocks.wall

    def arrival_check(self) -> None:
        """In host mode: a PMI in flight may arrive now."""
        if self._in_flight is not None and self.clocks.wall >= self._in_flight:
            self._arrive()

    def _arrive(self) -> None:
        self._in_flight = None
        whose, self._whose = self._whose, set()
        if self.lvtpc.masked:
            self.tally.pmi["lost"] += "guest" in whose
            self.tally.host_pmi["lost"] += "host" in whose
            return
        # The local APIC sets the mask when it delivers (SDM vol. 3B, "Generating an Interrupt on Overflow").
        self.lvtpc.masked = True
        if self.in_guest:
            self.design.pmi_in_guest(whose)
        else:
            self.design.pmi_in_host(whose)

    def pend_vector(self) -> None:
        """The guest's vector waits in the local APIC while the host has interrupts disabled."""
        if self._vector_pending:
            self.tally.pmi["coalesced"] += 1
        self._vector_pending = True

    def request_pmi(self) -> None:
        """KVM_REQ_PMI."""
        if self._pmi_requested:
            self.tally.pmi["coalesced"] += 1
        self._pmi_requested = True

    def deliver_pmi(self) -> None:
        """kvm_pmu_deliver_pmi(): through the guest's LVTPC, which an Intel guest finds masked afterwards."""
        if self.guest_lvtpc_masked:
            self.tally.pmi["lost"] += 1
            return
        self.guest_lvtpc_masked = True
        self.pend_nmi()

    def pend_nmi(self) -> None:
        """An NMI for the guest; one may wait behind the one in service."""
        if self.perf.nmi_pending:
            self.tally.pmi["coalesced"] += 1
        else:
            self.perf.nmi_pending = True
            self.tally.pmi["delivered"] += 1


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
