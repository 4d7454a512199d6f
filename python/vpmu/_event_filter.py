"""KVM's event filter: which events and fixed counters a guest's PMU may count.

After Linux arch/x86/kvm/pmu.c, ``kvm_vm_ioctl_set_pmu_event_filter`` and ``check_pmu_event_filter``; the layout of a
masked entry is that of Linux Documentation/virt/kvm/api.rst, KVM_SET_PMU_EVENT_FILTER.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ._errors import EventFilterError, ScenarioError, UnknownName
from ._event_codes import generic_amd_codes
from ._events import CODES, SLOTS_CODE
from ._plan import PlannedFilter

#: Most entries of a filter (KVM_PMU_EVENT_FILTER_MAX_EVENTS).
MAX_EVENTS = 300
#: The actions, in the order of their number in the ioctl.
ACTIONS = ("allow", "deny")
#: The one flag of the ioctl: entries are masked (KVM_PMU_EVENT_FLAG_MASKED_EVENTS).
FLAG_MASKED_EVENTS = 1

_EVENT_BITS = {"intel": 0xFF, "amd": 0xF_0000_00FF}
_UMASK = 0xFF00
_EXCLUDE = 1 << 55
_MASK_SHIFT = 56
_ANY_EVENT = _EVENT_BITS["amd"]
#: Events by perf's name; no selector counts ref-cycles, only fixed counter 2.
_NAMES = {**CODES, "slots": SLOTS_CODE}
_FIXED_ONLY = "ref-cycles"
del _NAMES[_FIXED_ONLY]


@dataclass(frozen=True)
class MaskedEvent:
    """An entry of a filter with masked events (KVM_PMU_ENCODE_MASKED_ENTRY).

    It matches an event selector with this event select whose ``umask & mask`` is ``match``. A match with bits outside
    its mask is legal and matches nothing.

    Parameters
    ----------
    event : int
        Event select; 8 bits, on AMD 12.
    match, mask : int
        Of the unit mask; without ``mask`` all its bits must be those of ``match``.
    exclude : bool
        What it matches is no hit, whatever the other entries say.

    Raises
    ------
    ScenarioError
        For a field that its bits cannot hold.
    """

    event: int
    match: int = 0
    mask: int = 0xFF
    exclude: bool = False

    def __post_init__(self) -> None:
        for name, most in (("event", 0xFFF), ("match", 0xFF), ("mask", 0xFF)):
            _check_word(getattr(self, name), most, f"masked event: {name}")
        if not isinstance(self.exclude, bool):
            raise ScenarioError(f"masked event: exclude must be true or false, not {self.exclude!r}")

    def encode(self) -> int:
        """The entry as the ioctl has it."""
        event = self.event & 0xFF | (self.event & 0xF00) << 24
        return event | self.match << 8 | self.mask << _MASK_SHIFT | (_EXCLUDE if self.exclude else 0)

    @classmethod
    def decode(cls, entry: int) -> MaskedEvent:
        """Take an entry apart; bits that belong to no field are dropped."""
        event = entry & 0xFF | entry >> 24 & 0xF00
        return cls(event, entry >> 8 & 0xFF, entry >> _MASK_SHIFT & 0xFF, bool(entry & _EXCLUDE))

    def matches(self, event: int, umask: int) -> bool:
        """Whether it matches an event select and unit mask; ``exclude`` does not matter."""
        return event == self.event and umask & self.mask == self.match


@dataclass(frozen=True)
class EventFilter:
    """A filter of events as KVM_SET_PMU_EVENT_FILTER takes it; KVM's validity checks, in KVM's order.

    Parameters
    ----------
    action : {"allow", "deny"} or {0, 1}
        What happens to events that the list hits; the opposite happens to all others.
    events : sequence of int, MaskedEvent or str
        Entries: selectors' event and unit mask, such as 0x412E, or with ``masked`` entries of
        :meth:`MaskedEvent.encode`. A string is an integer (``"0xc0"``) or, on Intel, one of perf's names. At most 300.
        They are about general-purpose counters only.
    fixed_counter_bitmap : int
        Fixed counters that are allowed, or denied; bits of counters that do not exist do no harm. The list of events
        does not apply to fixed counters: denying 0xC0 leaves fixed counter 0 counting.
    masked : bool
        The entries are masked events. Entries that are not and have bits outside event select and unit mask match
        nothing and are dropped, as KVM does.
    vendor : {"intel", "amd"}
        Whose selectors: event select has 8 or 12 bits.

    Raises
    ------
    EventFilterError
        Where the ioctl fails: EINVAL or E2BIG.
    ScenarioError
        For what the ioctl's fields cannot hold.

    Examples
    --------
    >>> import vpmu
    >>> no_branches = vpmu.EventFilter("deny", ["branches"])
    >>> no_branches.allows(0xC4), no_branches.allows(0xC0), no_branches.allows_fixed(0)
    (False, True, True)
    """

    action: str
    events: tuple[int, ...] = ()
    fixed_counter_bitmap: int = 0
    masked: bool = False
    vendor: str = "intel"
    #: The file that it was read from; no part of its value.
    source: str = field(default="", compare=False, repr=False)
    #: What the list comes to: masked entries by exclude, then event select.
    includes: tuple[int, ...] = field(init=False, compare=False, repr=False)
    excludes: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if self.vendor not in _EVENT_BITS:
            raise UnknownName("vendor of an event filter", str(self.vendor), _EVENT_BITS)
        put("action", _action(self.action))
        if not isinstance(self.masked, bool):
            raise ScenarioError(f"event filter: masked must be true or false, not {self.masked!r}")
        events: object = self.events
        if isinstance(events, str) or not isinstance(events, Iterable):
            raise ScenarioError(f"event filter: events is a list, such as [0xC0, 0x412E], not {events!r}")
        put("events", tuple(self._entry(item) for item in events))
        _check_word(self.fixed_counter_bitmap, 0xFFFF_FFFF, "event filter: fixed_counter_bitmap")
        if len(self.events) > MAX_EVENTS:
            raise EventFilterError("E2BIG", f"{len(self.events)} events, and KVM takes at most {MAX_EVENTS}")
        entries = sorted(self._entries(), key=_event_select)
        put("includes", tuple(entry for entry in entries if not entry & _EXCLUDE))
        put("excludes", tuple(entry for entry in entries if entry & _EXCLUDE))

    @classmethod
    def from_ioctl(
        cls, action: int, flags: int, fixed_counter_bitmap: int, events: Sequence[int], vendor: str = "intel"
    ) -> EventFilter:
        """Make a filter of the fields of ``struct kvm_pmu_event_filter``.

        Parameters
        ----------
        action, flags, fixed_counter_bitmap : int
            ``nevents`` is the length of ``events``.
        events : sequence of int
        vendor : {"intel", "amd"}

        Returns
        -------
        EventFilter

        Raises
        ------
        EventFilterError, ScenarioError
            As the class itself, and EINVAL for unknown flags.
        """
        _action(action)
        _check_word(flags, 0xFFFF_FFFF, "event filter: flags")
        if flags & ~FLAG_MASKED_EVENTS:
            raise EventFilterError("EINVAL", f"flags {flags:#x}: the only flag is {FLAG_MASKED_EVENTS} (masked events)")
        return cls(ACTIONS[action], tuple(events), fixed_counter_bitmap, bool(flags), vendor)

    @property
    def event_bits(self) -> int:
        """Bits of a selector that are its event select."""
        return _EVENT_BITS[self.vendor]

    def _entry(self, item: object) -> int:
        """An entry of the list as an integer."""
        if isinstance(item, MaskedEvent):
            if not self.masked:
                raise ScenarioError(f"event filter: {item!r} needs masked=True")
            return item.encode()
        if isinstance(item, str):
            item = _number(item, self.vendor, self.masked)
        _check_word(item, (1 << 64) - 1, "event filter: event")
        assert isinstance(item, int)
        return item

    def _entries(self) -> list[int]:
        """The list as masked entries: prepare_filter_lists()."""
        if not self.masked:
            legal = self.event_bits | _UMASK
            return [entry | 0xFF << _MASK_SHIFT for entry in self.events if not entry & ~legal]
        legal = self.event_bits | _UMASK | _EXCLUDE | 0xFF << _MASK_SHIFT
        for entry in self.events:
            if entry & ~legal:
                raise EventFilterError(
                    "EINVAL",
                    f"masked event {entry:#x} has bits {entry & ~legal:#x}, which are no part of it on {self.vendor}",
                )
        return list(self.events)

    def allows(self, selector: int) -> bool:
        """Whether a general-purpose counter with this event selector may count; only event and unit mask matter.

        Parameters
        ----------
        selector : int
            A value of IA32_PERFEVTSELx, or event and unit mask alone.

        Returns
        -------
        bool
        """
        event, umask = selector & self.event_bits, selector >> 8 & 0xFF
        hit = _contains(self.includes, event, umask) and not _contains(self.excludes, event, umask)
        return hit == (self.action == "allow")

    def allows_fixed(self, index: int) -> bool:
        """Whether fixed counter ``index`` may count: the bitmap decides, and nothing else."""
        return bool(self.fixed_counter_bitmap >> index & 1) == (self.action == "allow")

    def planned(self) -> PlannedFilter:
        """As a machine takes it."""
        return PlannedFilter(
            self.action == "allow", self.includes, self.excludes, self.event_bits, self.fixed_counter_bitmap
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values; the arguments that make it again."""
        return {
            "action": self.action,
            "events": [f"{entry:#x}" for entry in self.events],
            "fixed_counter_bitmap": self.fixed_counter_bitmap,
            "masked": self.masked,
            "vendor": self.vendor,
        }

    def __str__(self) -> str:
        """As an option of a design: ``ACTION[:EVENT+EVENT…][:fixed=BITMAP][:masked][:amd]``."""
        parts = [self.action, "+".join(f"{entry:#x}" for entry in self.events)] if self.events else [self.action]
        if self.fixed_counter_bitmap:
            parts.append(f"fixed={self.fixed_counter_bitmap:#x}")
        parts += ["masked"] * self.masked + [self.vendor] * (self.vendor != "intel")
        return ":".join(parts)


def _check_word(value: object, most: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"{what} must be an integer, not {value!r}")
    if not 0 <= value <= most:
        raise ScenarioError(f"{what} {value:#x} must be 0 to {most:#x}")


def _action(given: object) -> str:
    """The action by its name or its number; KVM fails for any other number."""
    if isinstance(given, int) and not isinstance(given, bool):
        if given not in (0, 1):
            raise EventFilterError("EINVAL", f"action {given} is neither 0 (allow) nor 1 (deny)")
        return ACTIONS[given]
    if given not in ACTIONS:
        raise UnknownName("action of an event filter", str(given), ACTIONS)
    return str(given)


def _number(text: str, vendor: str, masked: bool) -> int:
    """An entry as an integer in a string, or an event by perf's name."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    names = _NAMES if vendor == "intel" else {name: code for code, name in generic_amd_codes().items()}
    if text == _FIXED_ONLY and vendor == "intel":
        raise ScenarioError(
            f"event filter: no selector counts {text!r}, fixed counter 2 does; use fixed_counter_bitmap"
        )
    if text not in names:
        raise UnknownName("event (raw ones are integers, such as 0x1c2)", text, names)
    return names[text] | (0xFF << _MASK_SHIFT if masked else 0)


def _event_select(entry: int) -> int:
    return entry & _ANY_EVENT


def _contains(entries: Sequence[int], event: int, umask: int) -> bool:
    """Whether an entry of a sorted list matches: filter_contains_match()."""
    for i in range(bisect.bisect_left(entries, event, key=_event_select), len(entries)):
        if _event_select(entries[i]) != event:
            break
        if umask & entries[i] >> _MASK_SHIFT == entries[i] >> 8 & 0xFF:
            return True
    return False
