"""What the kernel prints about the events of a trace, the same in every dialect.

Every pattern has bounded repetitions, so that a hostile line costs time linear in its length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vpmu.recordings._pmu_exits import is_pmi

TIMED_EVENT = re.compile(
    r"(?<!\S)(\d{1,10})\.(\d{9}|\d{6}):\s{1,64}(?:\d{1,20}\s{1,16})?(?:(\w{1,32}):)?(\w{1,64}):", re.ASCII
)
"""``seconds.fraction: [period] [system:]event:``; groups: seconds, fraction, system or None, event."""

_MENTION = re.compile(
    r"(?<!\w)kvm_(?:exit|entry|msr|userspace_exit):(?:\s|$)"
    r"|\d: {1,64}(?:kvm:)?kvm_(?:exit|entry|msr|userspace_exit)(?!\w)",
    re.ASCII,
)

# A reason at the very end of a line may be cut: what follows it in every kernel is missing.
_EXIT = re.compile(r"\s{0,64}(?:vcpu (\d{1,5}),? )?\s{0,64}reason (\w{1,64})(?=[\s(|-])", re.ASCII)
_ENTRY = re.compile(r"\s{0,64}(?:vcpu (\d{1,5})(?!\d)|(?!\s|vcpu))", re.ASCII)
_MSR = re.compile(r"\s{0,64}msr_(read|write) (?:0x)?([0-9a-fA-F]{1,8})(?![0-9a-zA-Z])", re.ASCII)

# Newer kernels name the field; in older ones it is the second number of `info a b`.
_INTR_INFO = re.compile(r" (?:intr_info 0x|info [0-9a-f]{1,16} )([0-9a-f]{1,8})(?![0-9a-f])", re.ASCII)
_SVM_MSR_WRITE = re.compile(r" info1? (?:0x0{0,15})?1(?![0-9a-f])", re.ASCII)

_SWITCH = re.compile(
    r"prev_pid=(\d{1,10}) .{0,40}?prev_state=(\S{1,8}) ==> .{0,64}?next_pid=(\d{1,10})(?!\d)"
    r"|:(\d{1,10}) \[\d{1,4}\] (\S{1,8}) ==> .{0,64}?:(\d{1,10}) \[",
    re.ASCII,
)


INTERRUPT_REASON = "EXTERNAL_INTERRUPT"
"""Name of the exit whose interruption information has a vector."""

SVM_MSR_REASONS = frozenset({"msr", "EXIT_MSR"})
"""Names of SVM's exit for both ways to access an MSR; exit information 1 tells a write."""


class Exit(NamedTuple):
    """The arguments of a kvm_exit line.

    Attributes
    ----------
    vcpu : int or None
        vCPU number, in kernels that print it.
    reason : str
        Name of the exit reason.
    pmi : bool
        True for an external interrupt with the mediated PMU's vector.
    svm_msr_write : bool
        True when exit information 1 is 1, which makes SVM's ``msr`` exit a write.
    """

    vcpu: int | None
    reason: str
    pmi: bool
    svm_msr_write: bool


class Switch(NamedTuple):
    """The arguments of a sched_switch line.

    Attributes
    ----------
    previous, following : int
        Thread that stops and thread that goes on.
    preempted : bool
        True when the first one would have liked to go on.
    """

    previous: int
    following: int
    preempted: bool


def mentions_event(text: str) -> bool:
    """Tell whether a line that could not be read was meant to be an event of KVM.

    Parameters
    ----------
    text : str
        One line.

    Returns
    -------
    bool
        False for comments, command lines and prose.
    """
    return "kvm_" in text and not text.startswith("#") and _MENTION.search(text) is not None


def exit_arguments(text: str, start: int) -> Exit | None:
    """Read what follows ``kvm_exit:``.

    Parameters
    ----------
    text : str
        The line.
    start : int
        Where the arguments begin.

    Returns
    -------
    Exit or None
        None when the arguments are not those of x86's kvm_exit, or cut.
    """
    found = _EXIT.match(text, start)
    if found is None:
        return None
    vcpu, reason = found.groups()
    pmi = svm_msr_write = False
    if reason == INTERRUPT_REASON:
        info = _INTR_INFO.search(text, found.end())
        pmi = info is not None and is_pmi(int(info[1], 16))
    elif reason in SVM_MSR_REASONS:
        svm_msr_write = _SVM_MSR_WRITE.search(text, found.end()) is not None
    return Exit(None if vcpu is None else int(vcpu), reason, pmi, svm_msr_write)


def entry_vcpu(text: str, start: int) -> tuple[bool, int | None]:
    """Read what follows ``kvm_entry:``.

    Parameters
    ----------
    text : str
        The line.
    start : int
        Where the arguments begin.

    Returns
    -------
    readable : bool
        False when the vCPU's number is cut or senseless.
    vcpu : int or None
        The vCPU's number, if there is one.
    """
    found = _ENTRY.match(text, start)
    if found is None:
        return not text[start : start + 80].strip(), None
    return True, None if found[1] is None else int(found[1])


def msr_arguments(text: str, start: int) -> tuple[bool, int] | None:
    """Read what follows ``kvm_msr:``.

    Parameters
    ----------
    text : str
        The line.
    start : int
        Where the arguments begin.

    Returns
    -------
    tuple of (bool, int) or None
        True for a write, and the MSR's address (below 2**32); None when it cannot be read.
    """
    found = _MSR.match(text, start)
    return None if found is None else (found[1] == "write", int(found[2], 16))


def switch_arguments(text: str, start: int) -> Switch | None:
    """Read what follows ``sched_switch:``, as the kernel or trace-cmd's plugin prints it.

    Parameters
    ----------
    text : str
        The line.
    start : int
        Where the arguments begin.

    Returns
    -------
    Switch or None
        None when it cannot be read.
    """
    found = _SWITCH.search(text, start)
    if found is None:
        return None
    kernel = found[1] is not None
    previous, state, following = found.group(1, 2, 3) if kernel else found.group(4, 5, 6)
    return Switch(int(previous), int(following), state.startswith("R"))
