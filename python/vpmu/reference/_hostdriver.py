"""How host perf stops and starts all counters, and one, by vendor and version.

After Linux arch/x86/events: intel/core.c (``__intel_pmu_disable_all``), amd/core.c (``amd_pmu_v2_disable_all``,
``amd_pmu_check_overflow``) and core.c (``x86_pmu_disable_all``, ``x86_pmu_enable_event``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._tally import COST_OF_CLASS

if TYPE_CHECKING:
    from ._hostsched import HostScheduler
    from .machine import Machine


class Driver:
    """Intel's: one register.

    Parameters
    ----------
    machine : Machine
    host : HostScheduler
    """

    def __init__(self, machine: Machine, host: HostScheduler) -> None:
        self._machine = machine
        self._host = host

    def _access(self, kind: str, activity: int) -> None:
        self._machine.pay(activity, COST_OF_CLASS[kind])
        self._machine.tally.op("host", kind)

    def _write_global_ctrl(self, activity: int, value: int) -> None:
        self._access("wrmsr_global", activity)
        self._machine.hardware.global_ctrl = value

    def disable(self, before: int, after: int) -> None:
        """x86_pmu_disable(); ``after`` pays for what comes after the last counter has stopped."""
        self._write_global_ctrl(before, 0)

    def enable(self, activity: int) -> None:
        """The end of x86_pmu_enable()."""
        self._write_global_ctrl(activity, self._host.host_global_ctrl())

    def start(self, activity: int) -> None:
        """One general-purpose counter starts within a bracket."""
        self._access("wrmsr_selector", activity)

    def stopped(self, activity: int) -> None:
        """One counter has stopped outside of an NMI."""


class AmdV2(Driver):
    """PerfMonV2: as Intel's, but whoever stops a counter looks whether an NMI of it is to come."""

    def _active(self) -> int:
        return sum(event.in_hardware and not event.throttled for event in self._host.events)

    def disable(self, before: int, after: int) -> None:
        """A look at GLOBAL_STATUS for each active counter."""
        active = self._active()
        super().disable(before, after)
        for _ in range(active):
            self.stopped(after)

    def stopped(self, activity: int) -> None:
        """amd_pmu_wait_on_overflow(), which finds nothing to wait for."""
        self._access("rdmsr", activity)


class AmdV1(AmdV2):
    """Before that: every active selector by itself, and the look is at the counter."""

    def _write_global_ctrl(self, activity: int, value: int) -> None:
        """There is no such register."""
        self._machine.hardware.global_ctrl = value

    def disable(self, before: int, after: int) -> None:
        """x86_pmu_disable_all(): read and write each selector."""
        for _ in range(self._active()):
            self._access("rdmsr", before)
            self._access("wrmsr_selector", before)
        super().disable(before, after)

    def enable(self, activity: int) -> None:
        """amd_pmu_enable_all()."""
        for _ in range(self._active()):
            self._access("wrmsr_selector", activity)
        super().enable(activity)

    def start(self, activity: int) -> None:
        """The selector is written when all are."""


def driver(machine: Machine, host: HostScheduler) -> Driver:
    """The driver of the host's CPU."""
    if machine.plan.cpu.vendor == "intel":
        return Driver(machine, host)
    return (AmdV2 if machine.plan.cpu.version >= 2 else AmdV1)(machine, host)
