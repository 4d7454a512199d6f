"""One clock for each activity, and the counting rule: how often an event occurs while a clock advances."""

from __future__ import annotations

from collections.abc import Sequence

from .._plan import ACTIVITIES, NO_EVENT

GUEST_USER, GUEST_KERNEL, GUEST_HANDLER, HYPERVISOR, BLIND, HOST_TASK, IDLE = range(len(ACTIVITIES))

#: The activities of the guest, the only ones that the ideal PMU sees.
GUEST = (GUEST_USER, GUEST_KERNEL, GUEST_HANDLER)

#: Privilege level of each activity.
CPL: tuple[int, ...] = tuple(cpl for _, cpl in ACTIVITIES)

#: (activity, clock before, clock after) of each activity that runs in one step.
Step = Sequence[tuple[int, int, int]]


class Clocks:
    """The seven clocks of the machine.

    Parameters
    ----------
    user_share : int
        Share of user code in the workload, 0 to 2**32.
    """

    def __init__(self, user_share: int) -> None:
        self.cycles = [0] * len(ACTIVITIES)
        #: Cycles for which other vCPUs had the CPU, and of these those in which a guest had its PMU.
        self.others = 0
        self.windows = 0
        self._user_share = user_share

    @property
    def wall(self) -> int:
        """Cycles since the start, idle ones included."""
        return sum(self.cycles) + self.others

    @property
    def running(self) -> int:
        """Wall cycles without the idle ones and without those of other vCPUs."""
        return sum(self.cycles) - self.cycles[IDLE]

    @property
    def all_windows(self) -> int:
        """Cycles in which any guest had its PMU: in it, or in the hypervisor."""
        return self.windows + sum(self.cycles[activity] for activity in (*GUEST, BLIND))

    def catch_up(self, before: Clocks) -> None:
        """Stand where the clocks of the vCPU stand that had the CPU last."""
        idle = before.cycles[IDLE] - self.cycles[IDLE]
        self.others += before.wall - self.wall - idle
        self.cycles[IDLE] += idle
        self.windows += before.all_windows - self.all_windows

    def ahead(self, activity: int, cycles: int) -> Step:
        """The step in which one activity runs for some cycles; nothing moves yet."""
        before = self.cycles[activity]
        return [(activity, before, before + cycles)]

    def workload_ahead(self, cycles: int) -> Step:
        """The step in which workload code, user and kernel mixed by the share, runs for some cycles."""
        user, kernel = self.cycles[GUEST_USER], self.cycles[GUEST_KERNEL]
        later = user + kernel + cycles
        user_later = self._user_share * later >> 32
        return [(GUEST_USER, user, user_later), (GUEST_KERNEL, kernel, later - user_later)]

    def move(self, step: Step) -> None:
        """Let a step happen."""
        for activity, _, after in step:
            self.cycles[activity] = after


class Rates:
    """How often each event occurs in each activity.

    Parameters
    ----------
    rates : sequence of sequence of int
        ``rates[activity][event]``, 2**-32 events per cycle.
    """

    def __init__(self, rates: Sequence[Sequence[int]]) -> None:
        self._rates = rates

    def count(self, event: int, step: Step, user: bool, kernel: bool) -> int:
        """Occurrences of an event in a step, in the activities of the privilege levels that are counted."""
        if event == NO_EVENT:
            return 0
        total = 0
        for activity, before, after in step:
            if (user if CPL[activity] else kernel) and after != before:
                rate = self._rates[activity][event]
                total += (rate * after >> 32) - (rate * before >> 32)
        return total
