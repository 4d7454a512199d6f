"""PMIs, from a counter's overflow to the guest's NMI (docs/machine.md, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._plan import Plan
from ._clocks import Clocks
from ._counters import Counters
from ._random import Sfc64, uniform
from ._tally import Tally

if TYPE_CHECKING:
    from ._designs import Design
    from ._guestperf import GuestPerf
    from ._hostperf import HostPerf


class Lvtpc:
    """The hardware's local APIC entry for PMIs: the host's NMI or the guest's vector 0xf5."""

    def __init__(self) -> None:
        self.guest_vector = False
        self.masked = False

    def set_host(self) -> None:
        """NMI, unmasked."""
        self.guest_vector = False
        self.masked = False

    def set_guest(self, masked: bool) -> None:
        """PERF_GUEST_MEDIATED_PMI_VECTOR with the guest's mask."""
        self.guest_vector = True
        self.masked = masked


class Pmis:
    """The part of a machine that raises, takes and delivers PMIs.

    Parameters
    ----------
    plan : Plan
    """

    clocks: Clocks
    tally: Tally
    hardware: Counters
    host: HostPerf
    design: Design
    perf: GuestPerf

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.amd = plan.cpu.vendor == "amd"
        self.in_guest = False
        self.lvtpc = Lvtpc()
        #: The mask of the guest's LVTPC; reset sets it (SDM vol. 3A, "Local APIC State After Reset").
        self.guest_lvtpc_masked = True
        self._in_flight: int | None = None
        #: Whose PMI is in flight: the guest's, the host's own events'.
        self._whose: set[str] = set()
        self._vector_pending = False
        self._pmi_requested = False
        self._skid = Sfc64(plan.seeds["skid"])

    def _overflow(self, c: int, instant: int | None = None) -> None:
        """A hardware counter wrapped, now or at an instant of host code."""
        self.hardware.status |= 1 << c
        whose = "host" if any(event.in_hardware and event.counter == c for event in self.host.own) else "guest"
        for event in self.host.own:
            if event.in_hardware and event.counter == c:
                event.overflowed_at = self.clocks.wall if instant is None else instant
        if instant is None or whose == "guest":
            self.note_overflow(self.design.guest_counter_behind(c))
        if not self.hardware.interrupts(c):
            return
        tally = self.tally.host_pmi if whose == "host" else self.tally.pmi
        tally["raised"] += 1
        if whose in self._whose:
            tally["coalesced"] += 1
        self._whose.add(whose)
        if self._in_flight is None:
            skid = self.plan.cpu.skid
            requested = self.clocks.wall if instant is None else instant
            self._in_flight = requested + uniform(self._skid.draw(), skid.minimum, skid.maximum)

    def note_overflow(self, c: int) -> None:
        """A guest counter overflowed now."""
        self.perf.overflow_at[c] = self.clocks.wall

    def arrival_check(self) -> None:
        """In host mode: a PMI in flight may arrive now."""
        if self._in_flight is not None and self.clocks.wall >= self._in_flight:
            self._arrive()

    def _lose_pmi(self) -> None:
        self._in_flight = None
        whose, self._whose = self._whose, set()
        self.tally.pmi["lost"] += "guest" in whose
        self.tally.host_pmi["lost"] += "host" in whose

    def _arrive(self) -> None:
        if self.lvtpc.masked:
            self._lose_pmi()
            return
        self._in_flight = None
        whose, self._whose = self._whose, set()
        if self.design.nmi_waits is not None:
            # AMD: the NMI that has made the guest exit is one still, up to STGI.
            self.tally.pmi["coalesced"] += "guest" in whose & self.design.nmi_waits
            self.tally.host_pmi["coalesced"] += "host" in whose & self.design.nmi_waits
            self.design.nmi_waits |= whose
            return
        # The local APIC sets the mask when it delivers (SDM vol. 3B, "Generating an Interrupt on Overflow"), AMD's not.
        self.lvtpc.masked = not self.amd
        if self.in_guest:
            self.design.pmi_in_guest(whose)
        else:
            self.design.pmi_in_host(whose)

    def pend_vector(self) -> None:
        """The guest's vector waits in the local APIC while the host has interrupts disabled."""
        if self._vector_pending:
            self.tally.pmi["coalesced"] += 1
        self._vector_pending = True

    def request_pmi(self) -> None:
        """KVM_REQ_PMI."""
        if self._pmi_requested:
            self.tally.pmi["coalesced"] += 1
        self._pmi_requested = True

    def deliver_pmi(self) -> None:
        """kvm_pmu_deliver_pmi(): through the guest's LVTPC, which an Intel guest finds masked afterwards."""
        if self.guest_lvtpc_masked:
            self.tally.pmi["lost"] += 1
            return
        self.guest_lvtpc_masked = not self.amd
        self.pend_nmi()

    def pend_nmi(self) -> None:
        """An NMI for the guest; one may wait behind the one in service."""
        if self.perf.nmi_pending:
            self.tally.pmi["coalesced"] += 1
        else:
            self.perf.nmi_pending = True
            self.tally.pmi["delivered"] += 1
