"""What one event of a perf counted, and where the rest went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Counter:
    """One event of a perf in the guest or on the host.

    Parameters
    ----------
    event : str
        As it was asked for.
    value, ideal : int
        What the user of perf reads, and what a PMU of their own would have read.
    losses, gains : mapping of str to int
        Occurrences by cause; value = ideal - sum(losses) + sum(gains).
    flags : tuple of str
        "exact" if and only if value == ideal; "lost", "overcounted", "never-scheduled", "filtered", "hypothetical";
        "multiplexed": it took turns with others; "throttled": it was stopped for its many samples.
    reason : str
        Why it is off, in a sentence; empty if it is exact.
    samples : int
        Samples taken, for a sampling event.
    samples_expected : int
        Periods that have ended; those without a sample are lost.
    samples_late : int
        Wall cycles from overflow to sample (host: to where its handler stops the PMU), of all samples together.
    throttled : int
        How often the guest's kernel has stopped it.
    enabled, running : int
        For how long it was enabled, and had a counter: in nanoseconds for a guest event, in cycles of its context for
        a host event.
    """

    event: str
    value: int
    ideal: int
    losses: Mapping[str, int]
    gains: Mapping[str, int]
    flags: tuple[str, ...]
    reason: str
    samples: int = 0
    samples_expected: int = 0
    samples_late: int = 0
    throttled: int = 0
    enabled: int = 0
    running: int = 0

    @property
    def error(self) -> float | None:
        """(value - ideal) / ideal; None if ideal is 0."""
        return (self.value - self.ideal) / self.ideal if self.ideal else None

    @property
    def scaled(self) -> int | None:
        """What ``perf stat`` prints for an event that had to share its counter; None if it never ran."""
        return self.value * self.enabled // self.running if self.running else None

    def perf(self) -> dict[str, Any]:
        """What the guest's perf did for it, as in the ledger of the command line."""
        return {
            "event": self.event,
            "samples": self.samples,
            "samples_expected": self.samples_expected,
            "samples_late": self.samples_late,
            "throttled": self.throttled,
            "enabled": self.enabled,
            "running": self.running,
            "scaled": self.scaled,
        }

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON of the command line."""
        return {
            "event": self.event,
            "value": self.value,
            "ideal": self.ideal,
            "error": self.error,
            "losses": dict(self.losses),
            "gains": dict(self.gains),
            "flags": list(self.flags),
            "reason": self.reason,
            "samples": self.samples,
            "enabled": self.enabled,
            "running": self.running,
        }
