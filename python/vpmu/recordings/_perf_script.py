"""Lines of ``perf script``: ``comm [pid/]tid [cpu] time: kvm:event: …``."""

from __future__ import annotations

import re

from vpmu.recordings._ftrace import Thread, vcpu_of_comm

DIALECT = "perf-script"

_TASK = re.compile(
    r"(?:(.{0,120}?)\s{1,40})?(\d{1,10})(?:/\s{0,8}(\d{1,10}))?\s{1,40}"
    r"(?:\[\d{1,6}\]\s{1,20})?"
    r"(?:[^\s\[\]\d]\S{0,15}\s{1,20})?",
    re.ASCII,
)


def thread_of(prefix: str) -> Thread | None:
    """Read the part of a line before the time.

    Costs time in proportion to the square of the length, so give a short one.

    Parameters
    ----------
    prefix : str
        For example ``"  CPU 0/KVM 4240/4242 [003] "``.

    Returns
    -------
    Thread or None
        None when there is no thread in it (perf's default fields have one).
    """
    found = _TASK.fullmatch(prefix)
    return None if found is None else Thread(int(found[3] or found[2]), vcpu_of_comm(found[1] or ""))
