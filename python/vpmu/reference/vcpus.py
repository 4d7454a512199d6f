"""Several vCPUs on one logical CPU (docs/machine.md, section 15), each a slow machine of its own.

After Linux kernel/sched/fair.c (``update_curr``, ``update_deadline``) and virt/kvm/kvm_main.c (``kvm_sched_out``,
``kvm_sched_in``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .._plan import Plan
from ._clocks import IDLE
from ._random import NEVER
from ._shared import SharedMachine
from .machine import FASTPATH, KERNEL, StoppedError


class _Thread:
    """A vCPU's thread as the scheduler sees it."""

    def __init__(self, number: int, machine: SharedMachine) -> None:
        self.number = number
        self.machine = machine
        self.started = False
        #: Instant of its wake-up, if it sleeps.
        self.sleeps_to: int | None = None
        #: Instant from which it waits or sleeps, and that from which it only waits.
        self.left_at = self.waits_from = 0
        self.slept = self.stolen = self.turns = self.preemptions = self.tick_exits = 0
        #: Kind, CPL and emulation of the exit in which it left, and whether that was one of the workload.
        self.exit = (KERNEL, 0, False)
        self.of_workload = False

    def away(self, now: int) -> tuple[int, int]:
        """Cycles asleep and waiting since it left the CPU."""
        waits_from = min(max(self.waits_from, self.left_at), now)
        return waits_from - self.left_at, now - waits_from


class LogicalCpu:
    """The threads of one logical CPU and who runs.

    Parameters
    ----------
    plans : sequence of Plan
        One for each vCPU.
    time_slice : int
        Wall cycles.
    wakeups_preempt : bool
    cycle_by_cycle : bool
    """

    def __init__(
        self, plans: Sequence[Plan], time_slice: int, wakeups_preempt: bool = False, cycle_by_cycle: bool = False
    ) -> None:
        first = SharedMachine(plans[0], cycle_by_cycle)
        others = [SharedMachine(plan, cycle_by_cycle, first) for plan in plans[1:]]
        self._threads = [_Thread(number, machine) for number, machine in enumerate([first, *others])]
        self._queue = self._threads[1:]
        self._current = self._threads[0]
        self._slice = time_slice
        self._wakeups_preempt = wakeups_preempt

    # Who can run.

    def _sleepers(self) -> list[tuple[int, int]]:
        """(instant, number) of the wake-ups to come, in order."""
        return sorted((t.sleeps_to, t.number) for t in self._threads if t.sleeps_to is not None)

    def _wake_up(self, now: int) -> None:
        woken = [self._threads[number] for instant, number in self._sleepers() if instant <= now]
        for thread in woken:
            thread.sleeps_to = None
        self._queue = [*woken, *self._queue] if self._wakeups_preempt else [*self._queue, *woken]

    def _end_of_turn(self, now: int) -> int:
        tick = self._threads[0].machine.plan.tick
        sleepers = self._sleepers()
        wake = sleepers[0][0] if sleepers else NEVER
        if not self._queue and not sleepers:
            return NEVER
        deadline = -(-(now + self._slice) // tick) * tick
        if not self._queue:
            while deadline < wake:
                deadline += -(-self._slice // tick) * tick
        return min(deadline, wake) if self._wakeups_preempt else deadline

    # Turns.

    def _switch(self, preempted: bool) -> None:
        """The running thread leaves the CPU in an exit; the next one gets it."""
        leaving = self._current
        machine = leaving.machine
        machine.leave()
        leaving.left_at = machine.clocks.wall
        self._wake_up(leaving.left_at)
        if preempted:
            leaving.waits_from = 0
            self._queue.append(leaving)
        while not self._queue:
            machine.idle_to(self._sleepers()[0][0])
            self._wake_up(machine.clocks.wall)
        thread = self._current = self._queue.pop(0)
        now = machine.clocks.wall
        slept, stolen = thread.away(now)
        thread.slept += slept
        thread.stolen += stolen
        thread.turns += 1
        if thread is not leaving:
            thread.machine.take_over(machine)
            thread.machine.thread_switch()
        self._go_on(thread)
        thread.machine.preempt_at = self._end_of_turn(now)

    def _go_on(self, thread: _Thread) -> None:
        if not thread.started:
            thread.started = True
            thread.machine.begin()
            return
        thread.machine.come_back(*thread.exit)
        if thread.of_workload:
            thread.machine.draw_next()

    def _tick(self) -> None:
        """The turn ends in workload code."""
        thread, machine = self._current, self._current.machine
        machine.gives_way = False
        self._leave_for_tick(machine)
        thread.exit, thread.of_workload = (KERNEL, 0, False), False
        thread.preemptions += 1
        thread.tick_exits += 1
        self._switch(preempted=True)

    @staticmethod
    def _leave_for_tick(machine: SharedMachine) -> None:
        machine.exit_begins(KERNEL, False, [("interrupt_exit", machine.costs["interrupt_exit"])])

    def _workload_exit(self) -> None:
        thread, machine = self._current, self._current.machine
        number, handling, idle = machine.due
        planned = machine.plan.exits[number]
        machine.tally.exits[number] += 1
        kind = KERNEL if idle and planned.kind == FASTPATH else planned.kind
        kind = machine.exit_begins(kind, planned.emulates, [("handling", handling)])
        thread.exit, thread.of_workload = (kind, planned.cpl, planned.emulates), True
        if idle:
            thread.sleeps_to = thread.waits_from = machine.clocks.wall + idle
            self._switch(preempted=False)
        elif kind != FASTPATH and machine.clocks.wall >= machine.preempt_at:
            thread.preemptions += 1
            self._switch(preempted=True)
        else:
            machine.exit_ends(*thread.exit)
            machine.draw_next()

    def run(self) -> dict[str, object]:
        """Run from the start to the end and read all guests' counters out."""
        thread = self._current
        thread.started, thread.turns = True, 1
        try:
            thread.machine.begin()
            thread.machine.preempt_at = self._end_of_turn(0)
            while not self._over():
                if self._current.machine.run_workload():
                    self._workload_exit()
                elif self._current.machine.gives_way:
                    self._tick()
                else:
                    break
        except StoppedError:
            pass
        return self._result()

    def _over(self) -> bool:
        machine = self._current.machine
        if machine.clocks.wall - machine.clocks.cycles[IDLE] <= 2 * machine.plan.end:
            return False
        machine.stop()
        return True

    # The end.

    def _result(self) -> dict[str, object]:
        rows = []
        last = self._current.machine
        now = last.clocks.wall
        for thread in self._threads:
            machine = thread.machine
            slept, stolen = 0, 0
            if machine is not last:
                machine.take_over(last)
                slept, stolen = thread.away(now)
            rows.append(
                {
                    **machine.report(),
                    "holders": machine.holders(),
                    "others": machine.clocks.others,
                    "slept": thread.slept + slept,
                    "stolen": thread.stolen + stolen,
                    "turns": thread.turns,
                    "preemptions": thread.preemptions,
                    "tick_exits": thread.tick_exits,
                    "leftovers": machine.leftovers,
                }
            )
        hosts = last.host.finish()
        for row in rows:
            row["host"] = hosts
        last.read_out(rows[self._current.number])
        for thread, row in zip(self._threads, rows, strict=True):
            if not thread.started:
                row["counters"] = [event.report() for event in thread.machine.perf.events]
            elif thread is not self._current:
                self._leave_for_tick(last)
                last.leave()
                machine = thread.machine
                machine.take_over(last)
                machine.finishing()
                machine.preempt_at = NEVER
                machine.thread_switch()
                machine.come_back(*thread.exit)
                machine.read_out(row)
                last = machine
        return {"vcpus": rows, "current": self._current.number}


def run(
    plans: Sequence[Plan], *, time_slice: int, wakeups_preempt: bool = False, cycle_by_cycle: bool = False
) -> dict[str, object]:
    """Run the vCPUs of one logical CPU.

    Parameters
    ----------
    plans : sequence of Plan
        One for each vCPU; the first one's says what belongs to the logical CPU.
    time_slice : int
        Wall cycles after which a vCPU gives way to another that waits, at the next tick.
    wakeups_preempt : bool
        A vCPU that wakes gets the CPU at once.
    cycle_by_cycle : bool
        Advance guest code one cycle at a time; the same result, much slower.

    Returns
    -------
    dict
        The output of ``docs/machine.md``, section 15.
    """
    return LogicalCpu(plans, time_slice, wakeups_preempt, cycle_by_cycle).run()
