"""Who may use the PMU: perf's exclusion of mediated VMs and events that include guests, decided at creation.

After Linux kernel/events/core.c: ``perf_create_mediated_pmu``, ``perf_release_mediated_pmu``,
``mediated_pmu_account_event``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._perf import WATCHDOG, HostEvent


class PerfExclusion:
    """perf's two counts of a host: mediated VMs, and events that count in guests.

    Attributes
    ----------
    vms, including : int
        What exists now. An event with ``exclude_guest`` concerns nobody.

    Examples
    --------
    >>> from vpmu._consent import PerfExclusion
    >>> host = PerfExclusion()
    >>> host.create_vm(), host.open_event(exclude_guest=False)
    ('', 'EOPNOTSUPP')
    """

    def __init__(self) -> None:
        self.vms = 0
        self.including = 0

    def create_vm(self) -> str:
        """Create a VM with a mediated PMU (its first vCPU); empty, or the error."""
        if self.including:
            return "EBUSY"
        self.vms += 1
        return ""

    def destroy_vm(self) -> None:
        """Destroy one that was created."""
        self.vms -= 1

    def open_event(self, exclude_guest: bool) -> str:
        """perf_event_open() on a PMU that can be mediated; empty, or the error."""
        if exclude_guest:
            return ""
        if not self.including and self.vms:
            return "EOPNOTSUPP"
        self.including += 1
        return ""

    def close_event(self, exclude_guest: bool) -> None:
        """Free one that was opened."""
        self.including -= not exclude_guest


def admit(host_perf: Sequence[HostEvent], vm_first: bool) -> tuple[str, tuple[bool, ...]]:
    """Create a mediated VM and the host's events in their order.

    Returns
    -------
    refusal : str
        Why the VM cannot be created; empty if it can.
    opened : tuple of bool
        Of each event, whether it could be opened.
    """
    host = PerfExclusion()
    error = host.create_vm() if vm_first else ""
    opened = tuple(not host.open_event(event.exclude_guest) for event in host_perf)
    error = error or ("" if vm_first else host.create_vm())
    if not error:
        return "", opened
    including = [event for event in host_perf if not event.exclude_guest]
    hint = "; the NMI watchdog is one of them: sysctl kernel.nmi_watchdog=0" if WATCHDOG in including else ""
    names = ", ".join(map(str, including))
    return f"{error}: the host already counts in guests ({names}), so the VM cannot be created{hint}", opened
