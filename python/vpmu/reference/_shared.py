"""A machine that shares its logical CPU: how its vCPU leaves the CPU and comes back (docs/machine.md, section 15)."""

from __future__ import annotations

from ._clocks import IDLE
from .machine import Machine


class SharedMachine(Machine):
    """One of several machines of a logical CPU; ``first`` is the one whose hardware and host the others share."""

    def stop(self) -> None:
        """No progress: workload code does not run again."""
        self._stopped = True

    def leave(self) -> None:
        """The vCPU's thread is scheduled out, in the middle of an exit."""
        if "guest" in self._whose:
            self._arrive()
        self.design.block()
        if not self.design.guest_state_loaded:
            self.host.block()
        hardware = self.hardware
        held = {event.counter for event in self.host.events if event.in_hardware}
        stray = any(
            hardware.locally_enabled(c) and (hardware.counts_level(c, 0) or hardware.counts_level(c, 3))
            for c in hardware.all
            if c not in held
        )
        self.leftovers += self.design.guest_state_loaded or stray

    def take_over(self, before: Machine) -> None:
        """The logical CPU goes on in this machine."""
        idle = self.clocks.cycles[IDLE]
        self.clocks.catch_up(before.clocks)
        self.tally.spent["idle"] += self.clocks.cycles[IDLE] - idle
        self.host.take_over(before.host)
        self._in_flight, self._whose = before._in_flight, before._whose - {"guest"}

    def thread_switch(self) -> None:
        """schedule() comes back in this vCPU's thread."""
        self.pay(self.design.host_activity, "vcpu_switch")
        self.host.slept_through(self.costs["vcpu_switch"])

    def come_back(self, kind: int, cpl: int, emulates: bool) -> None:
        """The thread is on the CPU again, and its vCPU ends its exit."""
        self.host.wake()
        self.design.wake()
        self.exit_ends(kind, cpl, emulates)

    def idle_to(self, instant: int) -> None:
        """No thread can run; the timers of host perf are served."""
        while self.clocks.wall < instant:
            if self.timer_due():
                self.host.serve_timers()
                continue
            ahead = self.host.next_timer - self.clocks.wall
            left = instant - self.clocks.wall
            self.spend(IDLE, min(left, ahead) if ahead > 0 else left, "idle")
