"""Guest PMU state that the CPU itself saves and restores, and PMIs that it delivers.

After "KVM: SVM: Support for PMC virtualization" (AMD, November 2025).
"""

from __future__ import annotations

from ._counters import is_fixed
from ._mediated import Mediated


class Virtualized(Mediated):
    """In host mode the guest's registers are in memory, where the hypervisor edits them at no access."""

    def leave_guest(self) -> None:
        """#VMEXIT stores the guest's registers; the host's have nothing that counts."""
        hardware, guest = self.machine.hardware, self.guest
        for c in guest.all:
            guest.counter[c], hardware.counter[c] = hardware.counter[c], 0
            if not is_fixed(c):
                hardware.selector[c] = 0
        guest.global_ctrl, hardware.global_ctrl = hardware.global_ctrl, 0
        guest.status, hardware.status = hardware.status, 0
        hardware.fixed_ctr_ctrl = 0
        self.machine.pay(self.host_activity, "hardware_pmu_switch")

    def enter_guest(self) -> None:
        """VMRUN loads them."""
        hardware, guest = self.machine.hardware, self.guest
        self.machine.pay(self.host_activity, "hardware_pmu_switch")
        hardware.counter.update(guest.counter)
        hardware.selector.update(guest.selector)
        hardware.fixed_ctr_ctrl = guest.fixed_ctr_ctrl
        hardware.global_ctrl = guest.global_ctrl
        hardware.status = guest.status

    def refuses_fastpath(self) -> bool:
        """Saved counters can be incremented in any exit."""
        return False

    def stores_global_ctrl(self) -> bool:
        """Hardware saves it with the rest."""
        return False

    def load(self) -> None:
        """Nothing of the guest's is loaded here."""
        assert self.plan.sequence is not None
        self._switcher.execute(self.plan.sequence.load)

    # PMIs go to the virtual APIC; the physical LVTPC is not involved.

    def pmi_in_guest(self, whose: set[str]) -> None:
        """No exit, no request; the host's events are out."""
        self._deliver(whose)
        self.machine.tally.host_pmi["lost"] += "host" in whose

    def pmi_in_host(self, whose: set[str]) -> None:
        """The guest's is pending for the next entry; the host's is an NMI."""
        if self.guest_state_loaded:
            self.pmi_in_guest(whose)
            return
        self._deliver(whose)
        if "host" in whose:
            self.machine.host.handle_nmi()
            self.machine.tally.host_pmi["handled"] += 1

    def _deliver(self, whose: set[str]) -> None:
        self.machine.lvtpc.masked = False
        if "guest" in whose:
            self.machine.deliver_pmi()
