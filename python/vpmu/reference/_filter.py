"""KVM's event filter, looked at anew each time.

After Linux arch/x86/kvm/pmu.c, ``is_gp_event_allowed`` and ``is_fixed_event_allowed``.
"""

from __future__ import annotations

from .._plan import PlannedFilter
from ._counters import Counters, is_fixed

_EVENT = 0xF_0000_00FF


def _matches(entry: int, selector: int, event_bits: int) -> bool:
    umask = selector >> 8 & 0xFF
    return entry & _EVENT == selector & event_bits and umask & entry >> 56 == entry >> 8 & 0xFF


def allowed(rule: PlannedFilter | None, guest: Counters, c: int) -> bool:
    """Whether a guest counter may count.

    Parameters
    ----------
    rule : PlannedFilter or None
        No filter allows everything.
    guest : Counters
        The guest's registers.
    c : int
        The counter.
    """
    if rule is None:
        return True
    if is_fixed(c):
        named = bool(rule.fixed_counter_bitmap >> (c - 32) & 1)
    else:
        matching = [e for e in (*rule.includes, *rule.excludes) if _matches(e, guest.selector[c], rule.event_bits)]
        # An excluding entry has bit 55 set.
        named = bool(matching) and not any(e >> 55 & 1 for e in matching)
    return named == rule.allow
