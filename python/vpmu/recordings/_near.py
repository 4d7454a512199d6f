"""Files that look like recordings and are not: say what they are instead of "not recognised"."""

from __future__ import annotations

# (words that a line must all contain, what the file is and what to do)
_NEAR: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("MSR Access", "Samples"),
        "a table of `perf kvm stat report --event=msr` counts MSR accesses by index and has no other exits: "
        "use --event=vmexit",
    ),
    (
        ("MMIO Access", "Samples"),
        "a table of `perf kvm stat report --event=mmio` has MMIO accesses only: use --event=vmexit",
    ),
    (
        ("IO Port Access", "Samples"),
        "a table of `perf kvm stat report --event=ioport` has port accesses only: use --event=vmexit",
    ),
    (
        ("exit_reason", "calls", "total(us)"),
        "a table of `perf-prof kvm-exit` is not read: record with `perf kvm stat record`",
    ),
    (
        ("KVM_EXIT_REASON", "COUNT"),
        "a table of bcc's kvmexit has counts and no times: record with `perf kvm stat record`",
    ),
    (
        ("KVM_EXIT exit_reason",),
        "a trace of bcc's kvm_hypercall has one kind of exit only: record kvm_exit and kvm_entry",
    ),
    (
        ("reason: count sum(us)",),
        "a table of SystemTap's kvm_service_time is not read: record with `perf kvm stat record`",
    ),
    (
        ("kvm statistics - summary",),
        "the output of kvm_stat has rates of events and no times: record with `perf kvm stat record`",
    ),
    (
        ("Performance counter stats for",),
        "the output of `perf stat` has no exits: record with `perf kvm stat record`",
    ),
)

KNOWN = (
    "known are tables of `perf kvm stat report` or `live`, and text traces with kvm_exit and kvm_entry "
    "from ftrace, `trace-cmd report` or `perf script`"
)
"""What can be read, for messages."""


def near_dialect(text: str) -> str | None:
    """Tell which recording that vpmu does not read a line belongs to.

    Parameters
    ----------
    text : str
        One line.

    Returns
    -------
    str or None
        What it is and what to do instead; None for any other line.
    """
    for words, meaning in _NEAR:
        if all(word in text for word in words):
            return meaning
    return None
