"""Lines of ftrace and of ``trace-cmd report``: ``comm-pid [(tgid)] [cpu] [flags] time: event: …``."""

from __future__ import annotations

import re
from typing import NamedTuple

DIALECT = "ftrace"

_TASK = re.compile(
    r"\s{0,64}(.{0,120}?)-(\d{1,10})\s{1,40}"
    r"(?:\(\s{0,10}[\d-]{1,10}\)\s{1,20})?"  # the thread group, if the option record-tgid is on
    r"\[\d{1,6}\]\s{1,20}"
    r"(?:[^\s\[\]]{1,16}\s{1,20})?",  # irqs-off, need-resched, …; absent without irq-info
    re.ASCII,
)

# Names that QEMU, Firecracker and Cloud Hypervisor give to vCPU threads.
_VCPU_COMM = re.compile(r"(?:CPU |fc_vcpu |vcpu)(\d{1,5})(?:/KVM)?", re.ASCII)


class Thread(NamedTuple):
    """Who a line belongs to.

    Attributes
    ----------
    tid : int
        The thread.
    number : int or None
        The vCPU's number if the thread's name tells it.
    """

    tid: int
    number: int | None


def vcpu_of_comm(comm: str) -> int | None:
    """Read the vCPU's number from a thread's name.

    Parameters
    ----------
    comm : str
        For example ``"CPU 3/KVM"``.

    Returns
    -------
    int or None
        The number; None when the name has none.
    """
    found = _VCPU_COMM.fullmatch(comm.strip())
    return None if found is None else int(found[1])


def thread_of(prefix: str) -> Thread | None:
    """Read the part of a line before the time.

    Costs time in proportion to the square of the length, so give a short one.

    Parameters
    ----------
    prefix : str
        For example ``"  CPU 0/KVM-4242  [003] d..1. "``.

    Returns
    -------
    Thread or None
        None when there is no thread or no CPU in it.
    """
    found = _TASK.fullmatch(prefix)
    return None if found is None else Thread(int(found[2]), vcpu_of_comm(found[1]))
