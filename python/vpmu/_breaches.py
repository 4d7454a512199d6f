"""What a switch sequence was caught at, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

_SENTENCES = {
    "selectors": "isolation: put left {n} enabled selectors of the guest's to the host",
    "fixed_fields": "isolation: put left {n} enabled fields of the guest's FIXED_CTR_CTRL to the host",
    "counters": "isolation: put left {n} counter values of the guest's where the host's RDPMC reads them",
    "status": "isolation: put left {n} times overflow bits of the guest's in GLOBAL_STATUS",
    "lvtpc": "isolation: put left LVTPC with the guest's vector {n} times",
    "not_loaded": "state: load left {n} registers without what the guest is to have in them",
    "host_counts": "isolation: counters that no host event has counted {n} occurrences of host code",
}


def breach_sentences(breaches: Mapping[str, int], switches: int) -> tuple[str, ...]:
    """One sentence for each kind of breach that was found.

    Parameters
    ----------
    breaches : mapping of str to int
        As a machine returns them (docs/machine.md, section 8.2).
    switches : int
        Puts of the run.

    Returns
    -------
    tuple of str
    """
    return tuple(
        f"{sentence.format(n=breaches[name])} ({switches} switches)"
        for name, sentence in _SENTENCES.items()
        if breaches[name]
    )
