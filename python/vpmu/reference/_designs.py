"""What every design is asked, and the designs without a software PMU: none, bare-metal, dedicated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._plan import PlannedFilter
from ._clocks import BLIND, GUEST, HYPERVISOR
from ._counters import INSTRUCTIONS, Counters
from ._filter import allowed
from ._tally import COST_OF_CLASS

if TYPE_CHECKING:
    from ._hostevents import HostEvent
    from .machine import Machine


class Design:
    """What a virtual PMU does at each point of the time line; this one does nothing.

    Parameters
    ----------
    machine : Machine
    """

    has_host = True
    has_guest_perf = True
    has_put = False
    #: Whether the host's own events can exist.
    host_events = True

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.plan = machine.plan
        #: The guest's registers: a software PMU, a cache, or the hardware itself.
        self.guest: Counters = machine.hardware
        self.filter = self.plan.event_filter
        #: AMD: whose NMI has made the guest exit and waits for the host to take NMIs; None if none does.
        self.nmi_waits: set[str] | None = None

    @property
    def host_activity(self) -> int:
        """The activity of the hypervisor's code now."""
        return HYPERVISOR

    def traps(self, access: str) -> bool:
        """Whether a guest access of this name exits."""
        return False

    # The time line of an exit.

    def leave_guest(self) -> None:
        """VM exit: set the hardware's GLOBAL_CTRL."""

    def enter_guest(self) -> None:
        """VM entry: set the hardware's GLOBAL_CTRL."""

    def refuses_fastpath(self) -> bool:
        """Whether an instruction must not be emulated in the fastpath."""
        return False

    def stores_global_ctrl(self) -> bool:
        """Whether GLOBAL_CTRL is on the VM-exit MSR store list."""
        return False

    def switches_at(self, fastpath: bool) -> bool:
        """Whether this exit puts and loads guest state."""
        return False

    def put(self) -> None:
        """Save guest state and restore the host's."""

    def load(self) -> None:
        """Save host state and restore the guest's."""

    def block(self) -> None:
        """The vCPU halts; its thread goes to sleep next."""

    def wake(self) -> None:
        """The vCPU's thread is on the CPU again."""

    @property
    def guest_state_loaded(self) -> bool:
        """Whether host perf's events are out of hardware for the guest's sake."""
        return self.host_activity == BLIND

    def to_user(self) -> None:
        """KVM_RUN returns to the virtual machine monitor."""

    def from_user(self) -> None:
        """KVM_RUN is called again."""

    def host_excluded(self, activity: int, exclude_guest: bool, exclude_host: bool) -> bool:
        """Whether an activity is outside of what a host event with these attributes ought to count."""
        return exclude_guest if activity in GUEST else exclude_host

    def retire(self, cpl: int) -> set[int]:
        """Account for an emulated instruction; return the guest counters that got it."""
        return set()

    def wants_reprogramming(self) -> bool:
        """Whether a request to reprogram a counter is pending."""
        return False

    def reprogram(self) -> None:
        """Serve the requests to reprogram counters."""

    def allows(self, c: int) -> bool:
        """Whether the event filter lets a guest counter count."""
        return allowed(self.filter, self.guest, c)

    def change_filter(self, rule: PlannedFilter) -> None:
        """Another event filter comes into force; every counter is to be reprogrammed."""
        self.filter = rule

    def entered(self) -> None:
        """Look at the ledger after an entry."""

    def finish(self) -> None:
        """Close the ledger."""

    # PMIs.

    def pmi_in_guest(self, whose: set[str]) -> None:
        """A PMI arrives in guest mode with LVTPC unmasked."""
        raise AssertionError("no PMI in this design")

    def pmi_in_host(self, whose: set[str]) -> None:
        """A PMI arrives in host mode with LVTPC unmasked."""
        raise AssertionError("no PMI in this design")

    # Effects of guest accesses.

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """The guest writes a register; a write of LVTPC unmasks it."""
        if register == "lvtpc":
            self.machine.guest_lvtpc_masked = False
        else:
            self.guest.write(register, c, value)

    def guest_counter(self, c: int, trapped: bool) -> int:
        """The guest executes RDPMC."""
        return self.guest.counter[c]

    def guest_status(self, trapped: bool) -> int:
        """The guest reads GLOBAL_STATUS."""
        return self.guest.status

    def host_loss(self, activity: int, error: bool) -> str:
        """Why a host event does not count in an activity in which it should."""
        return "not_scheduled" if error else "pmu_disabled"

    def backing(self, c: int) -> HostEvent | None:
        """The host event that counts for a guest counter."""
        return None

    # Helpers.

    def guest_counter_behind(self, c: int) -> int:
        """The guest's counter that a hardware counter counts for."""
        return c

    def candidates(self, counters: Counters, global_ctrl: int, cpl: int) -> list[int]:
        """Counters that count instructions at a privilege level under a value of GLOBAL_CTRL."""
        return [
            c
            for c in counters.all
            if global_ctrl >> c & 1
            and counters.locally_enabled(c)
            and counters.event(c) == INSTRUCTIONS
            and counters.counts_level(c, cpl)
        ]

    def count_in_hardware(self, counted: Iterable[int]) -> int:
        """Add an emulated instruction to counters in hardware; return how many overflows ask for a PMI."""
        hardware = self.machine.hardware
        overflows = 0
        for c in sorted(counted):
            self.access("rdpmc")
            self.access("wrmsr_counter")
            hardware.counter[c] = (hardware.counter[c] + 1) % hardware.modulus(c)
            if hardware.counter[c] == 0:
                self.access("wrmsr_global")
                self.machine.note_overflow(c)
                hardware.status |= 1 << c
                overflows += hardware.interrupts(c)
        return overflows

    def raise_pmi(self) -> None:
        """An overflow by an emulated instruction requests a PMI without any hardware."""
        self.machine.tally.pmi["raised"] += 1
        self.machine.request_pmi()

    def access(self, kind: str) -> None:
        """The hypervisor executes one instruction; its effect is the caller's."""
        self.machine.pay(self.host_activity, COST_OF_CLASS[kind])
        self.machine.tally.op("hypervisor", kind)


class NoPmu(Design):
    """No guest PMU; the host's events are switched by the VMCS fields (Linux ``intel_guest_get_msrs``)."""

    has_guest_perf = False

    def leave_guest(self) -> None:
        """Load the host's GLOBAL_CTRL."""
        self.machine.hardware.global_ctrl = self.machine.host.host_global_ctrl()

    def enter_guest(self) -> None:
        """Load the guest's GLOBAL_CTRL."""
        self.machine.hardware.global_ctrl = self.machine.host.guest_global_ctrl()

    # PMIs: all counters are host perf's.

    def pmi_in_guest(self, whose: set[str]) -> None:
        """The NMI exits."""
        if self.machine.amd:
            self.nmi_waits = set(whose)
            self.machine.pmu_exit("EXCEPTION_NMI", [], self._take_nmi)
        else:
            self.machine.pmu_exit("EXCEPTION_NMI", [], lambda: self._handle_host_nmi(whose))

    def _take_nmi(self) -> None:
        """STGI."""
        whose, self.nmi_waits = self.nmi_waits or set(), None
        self._handle_host_nmi(whose)

    def pmi_in_host(self, whose: set[str]) -> None:
        """The NMI is attributed by perf event, not by mode."""
        self.machine.tally.pmi["skid_past_exit"] += "guest" in whose
        self._handle_host_nmi(whose)

    def _handle_host_nmi(self, whose: set[str]) -> None:
        """The host's handler; what KVM does with overflows of guest counters is its own affair."""
        self.guest_overflows(self.machine.host.handle_nmi(), "guest" in whose)
        self.machine.tally.host_pmi["handled"] += "host" in whose

    def guest_overflows(self, counters: list[int], arrived: bool) -> None:
        """Events that back these guest counters overflowed; ``arrived``: a PMI was raised for some."""


class BareMetal(Design):
    """The operating system owns the machine: no exits, no host."""

    has_host = False
    host_events = False

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        machine.lvtpc.masked = True

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """Write the hardware, its LVTPC included."""
        super().guest_write(register, c, value, trapped)
        if register == "lvtpc":
            self.machine.lvtpc.masked = False

    def pmi_in_guest(self, whose: set[str]) -> None:
        """The interrupt is the operating system's own."""
        self.machine.deliver_pmi()


class Dedicated(Design):
    """The hardware PMU belongs to the guest; GLOBAL_CTRL is switched by VMCS fields, LVTPC is virtual."""

    host_events = False

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._saved_global_ctrl = machine.hardware.global_ctrl
        machine.lvtpc.set_guest(masked=True)
        self._direct_lvtpc = self.plan.options.get("lvtpc") == "passthrough"

    @property
    def host_activity(self) -> int:
        """Guest state is always loaded."""
        return BLIND

    def traps(self, access: str) -> bool:
        """Only the local APIC is virtual, if that; on AMD selectors are written for the guest, with GuestOnly."""
        if access == "selector":
            return self.machine.amd
        return access == "lvtpc" and not self._direct_lvtpc

    def leave_guest(self) -> None:
        """VM-exit controls save and clear GLOBAL_CTRL."""
        self._saved_global_ctrl = self.machine.hardware.global_ctrl
        self.machine.hardware.global_ctrl = 0

    def enter_guest(self) -> None:
        """VM-entry controls load GLOBAL_CTRL."""
        self.machine.hardware.global_ctrl = self._saved_global_ctrl

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """Write the hardware; of LVTPC only the mask is the guest's."""
        if trapped and register == "selector":
            self.access("wrmsr_selector")
        super().guest_write(register, c, value, trapped)
        if register == "lvtpc" and self._direct_lvtpc:
            self.machine.lvtpc.masked = False
        elif register == "lvtpc":
            self.access("wrmsr_lvtpc")
            self.machine.lvtpc.set_guest(masked=self.machine.guest_lvtpc_masked)

    def retire(self, cpl: int) -> set[int]:
        """Add the instruction to the hardware's counters."""
        counted = self.candidates(self.machine.hardware, self._saved_global_ctrl, cpl)
        for _ in range(self.count_in_hardware(counted)):
            if self._direct_lvtpc:
                self._emulate_nmi()
            else:
                self.raise_pmi()
        return set(counted)

    def _emulate_nmi(self) -> None:
        """What the local APIC does at an overflow, done by the hypervisor: mask LVTPC, NMI."""
        machine = self.machine
        machine.tally.pmi["raised"] += 1
        if machine.lvtpc.masked:
            machine.tally.pmi["lost"] += 1
            return
        if not machine.amd:
            self.access("wrmsr_lvtpc")
            machine.lvtpc.masked = True
        self._inject()

    def _inject(self) -> None:
        self.machine.pay(self.host_activity, "pmi_injection")
        self.machine.pend_nmi()

    def pmi_in_guest(self, whose: set[str]) -> None:
        """The guest's vector is an external interrupt; its NMI, passed through, needs nobody."""
        if self._direct_lvtpc:
            self.machine.pend_nmi()
        else:
            self.machine.interrupt_exit()

    def pmi_in_host(self, whose: set[str]) -> None:
        """The vector waits until interrupts are enabled; a passed-through NMI hits the host, which injects it."""
        if self._direct_lvtpc:
            self.machine.tally.pmi["skid_past_exit"] += 1
            self.machine.pay(self.host_activity, "host_nmi")
            self._inject()
        else:
            self.machine.pend_vector()

    def host_loss(self, activity: int, error: bool) -> str:
        """There is no hardware left."""
        return "ceded"
