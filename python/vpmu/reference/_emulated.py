"""KVM's emulated vPMU: a software PMU whose counters are backed by host perf events.

After Linux arch/x86/kvm/pmu.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._plan import NO_EVENT, PlannedFilter
from ._clocks import HYPERVISOR
from ._counters import INSTRUCTIONS, Counters, is_fixed
from ._designs import NoPmu
from ._hostevents import ACTIVE, HostEvent
from ._hostperf import backing_event
from ._register import IN_TXCP

if TYPE_CHECKING:
    from .machine import Machine


class Backed:
    """The part of KVM's ``struct kvm_pmc`` that is not a register."""

    def __init__(self) -> None:
        self.emulated = 0
        self.event: HostEvent | None = None
        self.paused = False
        self.key: int | None = None
        #: Host perf has refused the event for its period.
        self.rejected = False


class Emulated(NoPmu):
    """Every access exits; hardware counts for host perf events that exclude the host.

    Parameters
    ----------
    machine : Machine
    """

    has_guest_perf = True

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.guest = Counters(machine.guest_model, machine.codes)
        self._backed = {c: Backed() for c in self.guest.all}
        self._requests: set[int] = set()
        self._counting_instructions: set[int] = set()
        self._reuse = bool(self.plan.options.get("reuse", True))
        self._synchronous = self.plan.options.get("reprogram") == "synchronous"
        #: Requests whose event could not be created (their bit in reprogram_pmi stays set).
        self._retries: set[int] = set()
        self._in_use: set[int] = set()
        self._cleanup_wanted = False

    def traps(self, access: str) -> bool:
        """Everything does."""
        return True

    # Effects.

    def guest_counter(self, c: int, trapped: bool) -> int:
        """pmc_read_counter()."""
        backed = self._backed[c]
        value = self.guest.counter[c] + backed.emulated
        if backed.event is not None and not backed.paused:
            value += self.machine.host.read(backed.event)
        return value % self.guest.modulus(c)

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """kvm_pmu_set_msr()."""
        self._mark_in_use(register, c)
        requests = self.guest.changed(register, c, value)
        if register == "counter":
            self._write_counter(c, value)
        else:
            super().guest_write(register, c, value, trapped)
        self._request(requests)

    def _mark_in_use(self, register: str, c: int) -> None:
        """kvm_pmu_mark_pmc_in_use(): the full-width aliases of the GP counters are not among the MSRs that it knows."""
        full_width = self.machine.guest_model.full_width_writes and not self.machine.amd
        aliased = register == "counter" and not is_fixed(c) and full_width
        if register in ("counter", "selector") and not aliased:
            self._in_use.add(c)

    def _request(self, counters: Iterable[int]) -> None:
        """Reprogram before the next entry; in the old way, now."""
        if not self._synchronous:
            self._requests.update(counters)
        elif counters:
            self._handle_requests(set(counters))

    def _write_counter(self, c: int, value: int) -> None:
        """pmc_write_counter(): a running event goes on, the rest of the counter makes up for it."""
        backed = self._backed[c]
        modulus = self.guest.modulus(c)
        backed.emulated = 0
        self.guest.counter[c] = (self.guest.counter[c] + value - self.guest_counter(c, True)) % modulus
        if backed.event is not None and not backed.paused:
            # pmc_update_sample_period(), from the rest and not from the value that the guest wrote.
            self._change_period(backed.event, -self.guest.counter[c] % modulus or modulus)

    def _change_period(self, event: HostEvent, period: int) -> bool:
        """perf_event_period(); false for a period that limit_period() of the CPU would make longer."""
        if event.unsampled:
            return True
        if period < self.plan.least_period:
            self.machine.pay(HYPERVISOR, "perf_period")
            return False
        self.machine.host.change_period(event, period)
        return True

    def retire(self, cpl: int) -> set[int]:
        """kvm_pmu_trigger_event(): the instruction waits beside the counter, which is reprogrammed."""
        counted = set()
        for c in self._counting_instructions:
            if self.guest.global_ctrl >> c & 1 and self.guest.counts_level(c, cpl) and self.allows(c):
                self._backed[c].emulated += 1
                counted.add(c)
        self._request(counted)
        return counted

    def backing(self, c: int) -> HostEvent | None:
        """kvm_pmc.perf_event."""
        return self._backed[c].event

    # Requests.

    def wants_reprogramming(self) -> bool:
        """KVM_REQ_PMU."""
        return bool(self._requests) or self._cleanup_wanted

    def change_filter(self, rule: PlannedFilter) -> None:
        """KVM_REQ_PMU for every counter."""
        super().change_filter(rule)
        self._requests.update(self.guest.all)

    def reprogram(self) -> None:
        """kvm_pmu_handle_event()."""
        if not self.wants_reprogramming():
            return
        requests, self._requests = self._requests, set()
        self._handle_requests(requests)
        if self._cleanup_wanted:
            self._cleanup_wanted = False
            self._clean_up()

    def _handle_requests(self, wanted: set[int]) -> None:
        requests = sorted(wanted | self._retries)
        self._retries.clear()
        for c in requests:
            self.machine.pay(HYPERVISOR, "reprogram")
            self.machine.tally.reprograms += 1
            self._reprogram_counter(c)
        for c in requests:
            if self.guest.locally_enabled(c) and self.guest.event(c) == INSTRUCTIONS:
                self._counting_instructions.add(c)
            else:
                self._counting_instructions.discard(c)

    def _clean_up(self) -> None:
        """kvm_pmu_cleanup()."""
        for c, backed in self._backed.items():
            if backed.event is None or c in self._in_use or self.guest.locally_enabled(c):
                continue
            if not backed.paused:
                count = self.machine.host.pause(backed.event)
                self.guest.counter[c] = (self.guest.counter[c] + count) % self.guest.modulus(c)
            self.machine.host.release(backed.event)
            backed.event, backed.paused = None, True
        self._in_use.clear()

    def _reprogram_counter(self, c: int) -> None:
        """reprogram_counter()."""
        guest, backed, host = self.guest, self._backed[c], self.machine.host
        modulus = guest.modulus(c)
        if backed.event is not None and not backed.paused:
            guest.counter[c] = (guest.counter[c] + host.pause(backed.event)) % modulus
            backed.paused = True
        before = guest.counter[c]
        guest.counter[c] = (before + backed.emulated) % modulus
        backed.emulated = 0
        overflow = guest.counter[c] < before
        if not guest.enabled(c) or not self.allows(c):
            # An overflow by an emulated instruction is dropped here.
            return
        if overflow:
            self.machine.note_overflow(c)
            guest.status |= 1 << c
            if guest.interrupts(c):
                self.raise_pmi()
        period = -guest.counter[c] % modulus or modulus
        key = guest.control(c)
        reusable = backed.event is not None and self._reuse and backed.key == key
        if reusable and backed.event is not None and self._change_period(backed.event, period):
            backed.event.held = False
            host.enable(backed.event)
        else:
            if backed.event is not None:
                host.release(backed.event)
                backed.event = None
            backed.key = key
            checkpointed = not (self.machine.amd or is_fixed(c)) and bool(guest.selector[c] >> IN_TXCP & 1)
            if period < self.plan.least_period and not checkpointed:
                self.machine.pay(HYPERVISOR, "perf_create")
                self._retries.add(c)
                backed.rejected = True
                return
            longest = (1 << self.plan.cpu.gp_width - 1) - 1
            backed.event = backing_event(self.machine, c, longest if checkpointed else period)
            backed.event.unsampled = checkpointed
            host.create(backed.event)
        backed.paused = backed.rejected = False

    # HLT.

    def wake(self) -> None:
        """The vCPU's task is scheduled in; events that nobody needs are released before the next entry."""
        self._cleanup_wanted = self._reuse

    # PMIs.

    def guest_overflows(self, counters: list[int], arrived: bool) -> None:
        """kvm_perf_overflow() for each backing event."""
        accepted = False
        for c in counters:
            if c not in self._requests | self._retries:
                self._requests.add(c)
                self.guest.status |= 1 << c
                accepted = accepted or self.guest.interrupts(c)
        pmi = self.machine.tally.pmi
        if accepted:
            pmi["raised"] += not arrived
            self.machine.request_pmi()
        else:
            pmi["lost"] += arrived

    # The ledger: events that perf could not schedule.

    def entered(self) -> None:
        """Start and stop metering what counters without a running event miss, or count in place of what they should."""
        machine = self.machine
        for event in machine.perf.events:
            c = event.counter
            cause, instead = "", None
            meant = (NO_EVENT, False, False)
            if c is not None and event.active and machine.ideal.enabled(c):
                backed = self._backed[c]
                meant = (machine.ideal.event(c), *machine.ideal.levels(c))
                if backed.event is not None and not backed.paused and backed.event.state == ACTIVE:
                    instead = self._counted_instead(c, backed.event)
                    cause = "wrong_counter" if instead is not None else ""
                    event.scheduled = event.scheduled or (not cause and machine.tally.phase != "readout")
                elif self.allows(c):
                    cause = "period_rejected" if backed.rejected else "not_scheduled"
            event.meter_missing(cause, meant, instead, machine.clocks.cycles, machine.rates)

    def _counted_instead(self, c: int, event: HostEvent) -> tuple[int, bool, bool] | None:
        """Event and levels that hardware counts for a guest counter, if they are not what it asks for."""
        ideal, hardware, place = self.machine.ideal, self.machine.hardware, event.counter
        assert place is not None
        counted = NO_EVENT if place in hardware.mute else hardware.event(place)
        user, kernel = hardware.levels(place) if hardware.locally_enabled(place) else (False, False)
        right = (ideal.event(c), *ideal.levels(c))
        return None if (counted, user, kernel) == right else (counted, user, kernel)

    def guest_counter_behind(self, c: int) -> int:
        """The counter whose event is on a hardware counter."""
        for mine, backed in self._backed.items():
            if backed.event is not None and backed.event.in_hardware and backed.event.counter == c:
                return mine
        return c

    def finish(self) -> None:
        """Close every meter."""
        for event in self.machine.perf.events:
            event.meter_missing("", (NO_EVENT, False, False), None, self.machine.clocks.cycles, self.machine.rates)
