"""KVM's emulated vPMU: a software PMU whose counters are backed by host perf events.

After Linux arch/x86/kvm/pmu.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clocks import HYPERVISOR
from ._counters import INSTRUCTIONS, Counters
from ._designs import NoPmu
from ._hostevents import ACTIVE, HostEvent
from ._hostperf import backing_event

if TYPE_CHECKING:
    from .machine import Machine


class Backed:
    """The part of KVM's ``struct kvm_pmc`` that is not a register."""

    def __init__(self) -> None:
        self.emulated = 0
        self.event: HostEvent | None = None
        self.paused = False
        self.key: int | None = None


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
        self._requests.update(self.guest.changed(register, c, value))
        if register == "counter":
            self._write_counter(c, value)
        else:
            super().guest_write(register, c, value, trapped)

    def _write_counter(self, c: int, value: int) -> None:
        """pmc_write_counter(): a running event goes on, the rest of the counter makes up for it."""
        backed = self._backed[c]
        modulus = self.guest.modulus(c)
        backed.emulated = 0
        self.guest.counter[c] = (self.guest.counter[c] + value - self.guest_counter(c, True)) % modulus
        if backed.event is not None and not backed.paused:
            # pmc_update_sample_period(), from the rest and not from the value that the guest wrote.
            self.machine.host.change_period(backed.event, -self.guest.counter[c] % modulus or modulus)

    def retire(self, cpl: int) -> set[int]:
        """kvm_pmu_trigger_event(): the instruction waits beside the counter, which is reprogrammed."""
        counted = set()
        for c in self._counting_instructions:
            if self.guest.global_ctrl >> c & 1 and self.guest.counts_level(c, cpl):
                self._backed[c].emulated += 1
                self._requests.add(c)
                counted.add(c)
        return counted

    # Requests.

    def wants_reprogramming(self) -> bool:
        """KVM_REQ_PMU."""
        return bool(self._requests)

    def reprogram(self) -> None:
        """kvm_pmu_handle_event()."""
        requests = sorted(self._requests)
        self._requests.clear()
        for c in requests:
            self.machine.pay(HYPERVISOR, "reprogram")
            self.machine.tally.reprograms += 1
            self._reprogram_counter(c)
        for c in requests:
            if self.guest.locally_enabled(c) and self.guest.event(c) == INSTRUCTIONS:
                self._counting_instructions.add(c)
            else:
                self._counting_instructions.discard(c)

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
        if not guest.enabled(c):
            # An overflow by an emulated instruction is dropped here.
            return
        if overflow:
            self.machine.note_overflow(c)
            guest.status |= 1 << c
            if guest.interrupts(c):
                self.raise_pmi()
        period = -guest.counter[c] % modulus or modulus
        key = guest.control(c)
        if backed.event is not None and self._reuse and backed.key == key:
            host.change_period(backed.event, period)
            host.enable(backed.event)
        else:
            if backed.event is not None:
                host.release(backed.event)
            backed.key = key
            backed.event = backing_event(self.machine, c, period)
            host.create(backed.event)
        backed.paused = False

    # HLT.

    def block(self) -> None:
        """The vCPU's task is scheduled out."""
        self.machine.host.block()

    def wake(self) -> None:
        """The vCPU's task is scheduled in."""
        self.machine.host.wake()

    # PMIs.

    def _handle_host_nmi(self) -> None:
        """The host's handler, and kvm_perf_overflow() for each backing event."""
        accepted = False
        for c in self.machine.host.handle_nmi():
            if c not in self._requests:
                self._requests.add(c)
                self.guest.status |= 1 << c
                accepted = accepted or self.guest.interrupts(c)
        if accepted:
            self.machine.request_pmi()
        else:
            self.machine.tally.pmi["lost"] += 1

    def pmi_in_guest(self) -> None:
        """The NMI exits."""
        self.machine.pmu_exit("EXCEPTION_NMI", [], self._handle_host_nmi)

    def pmi_in_host(self) -> None:
        """The NMI is attributed by perf event, not by mode."""
        self.machine.tally.pmi["skid_past_exit"] += 1
        self._handle_host_nmi()

    # The ledger: events that perf could not schedule.

    def entered(self) -> None:
        """Start and stop metering what counters without a running event miss."""
        machine = self.machine
        for event in machine.perf.events:
            c = event.counter
            wanted = c is not None and event.active and machine.ideal.enabled(c)
            running = False
            levels = (False, False)
            if wanted and c is not None:
                backed = self._backed[c]
                running = backed.event is not None and not backed.paused and backed.event.state == ACTIVE
                levels = machine.ideal.levels(c)
            event.scheduled = event.scheduled or (wanted and running)
            event.meter_missing(wanted and not running, machine.clocks.cycles, levels, machine.rates)

    def guest_counter_behind(self, c: int) -> int:
        """The counter whose event is on a hardware counter."""
        for mine, backed in self._backed.items():
            if backed.event is not None and backed.event.in_hardware and backed.event.counter == c:
                return mine
        return c

    def finish(self) -> None:
        """Close every meter."""
        for event in self.machine.perf.events:
            event.meter_missing(False, self.machine.clocks.cycles, (False, False), self.machine.rates)
