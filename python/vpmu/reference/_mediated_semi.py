"""Mediated without STATUS_SET: the guest's GLOBAL_STATUS is the hypervisor's, hardware's bits are added to it."""

from __future__ import annotations

from ._mediated import Mediated


class MediatedSemi(Mediated):
    """PMU versions 2 and 3: what hardware has raised is collected at each put and never written back."""

    def put(self) -> None:
        """Add what the put read to what was there."""
        kept = self.guest.status
        super().put()
        self.guest.status |= kept
