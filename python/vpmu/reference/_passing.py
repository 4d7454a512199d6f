"""How time passes, and what counts meanwhile (docs/machine.md, sections 1 and 3)."""

from __future__ import annotations

from .._plan import Plan
from ._clocks import GUEST, GUEST_HANDLER, Clocks, Rates, Step
from ._counters import Counters, event_codes
from ._pmis import Pmis
from ._tally import Tally


class Passing(Pmis):
    """The part of a machine that lets time pass.

    Parameters
    ----------
    plan : Plan
    cycle_by_cycle : bool
        Advance guest code one cycle at a time and find overflows by looking, instead of jumping to them.
    """

    def __init__(self, plan: Plan, cycle_by_cycle: bool) -> None:
        super().__init__(plan)
        self.costs = plan.costs
        self.clocks = Clocks(plan.user_share)
        self.rates = Rates(plan.rates)
        self.codes = event_codes(plan)
        self.tally = Tally(len(plan.exits))
        self._cycle_by_cycle = cycle_by_cycle

        self.guest_model = plan.cpu if plan.owns_hardware else plan.guest_cpu
        self.hardware = Counters(plan.cpu, self.codes)
        self.ideal = Counters(self.guest_model, self.codes)

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
        self.tally.breaches["host_counts"] += self.host.strays(step)
        if self.hardware.global_ctrl and self.hardware.would_wrap(step, self.rates):
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
            piece = cycles
            if self._in_flight is not None:
                # One that is due again already, by a handler in which counters run, comes a cycle later.
                piece = min(cycles, max(self._in_flight - self.clocks.wall, 1))
            piece = self._until_wrap(activity, piece)
            self._host_code(activity, piece)
            cycles -= piece
            if not cycles:
                return

    def pay(self, activity: int, name: str) -> None:
        """Host code runs for as long as a primitive costs."""
        self.spend(activity, self.costs[name], name)

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
