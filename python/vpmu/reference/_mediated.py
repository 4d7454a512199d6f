"""KVM's mediated vPMU: guest state is in hardware between load and put (Linux arch/x86/kvm/pmu.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._plan import PlannedFilter
from ._clocks import BLIND, GUEST, HYPERVISOR
from ._counters import EN, GUEST_ONLY, INSTRUCTIONS, Counters, is_fixed
from ._designs import Design
from ._switch import Switcher

if TYPE_CHECKING:
    from .machine import Machine


class Mediated(Design):
    """The guest's registers are in KVM's cache outside the window and in hardware inside.

    Parameters
    ----------
    machine : Machine
    """

    has_put = True

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.guest = Counters(machine.guest_model, machine.codes)
        self._in_window = False
        self._requests: set[int] = set()
        #: Counters whose selector the guest has changed since reset: on AMD what KVM loads for them has GuestOnly.
        self._changed: set[int] = set()
        self._counting_instructions: set[int] = set()
        self._scope = self.plan.options.get("scope", "fastpath-loop")
        self._window_is_guest = self.plan.options.get("exclude_guest") == "window"
        self._switcher = Switcher(self)
        #: Whether the hardware holds guest state now.
        self.loaded = False

    @property
    def host_activity(self) -> int:
        """Blind while guest state is loaded."""
        return BLIND if self._in_window else HYPERVISOR

    def traps(self, access: str) -> bool:
        """What the plan says."""
        return access in self.plan.traps

    # VM exit and entry.

    def leave_guest(self) -> None:
        """vmx_refresh_guest_perf_global_control(); the host's field of the VMCS is 0."""
        hardware = self.machine.hardware
        if not self.traps("global_ctrl"):
            self.guest.global_ctrl = hardware.global_ctrl
        hardware.global_ctrl = 0

    def enter_guest(self) -> None:
        """VM entry loads the guest's GLOBAL_CTRL."""
        self.machine.hardware.global_ctrl = self.guest.global_ctrl

    def refuses_fastpath(self) -> bool:
        """!kvm_pmu_is_fastpath_emulation_allowed(): the counters that must be incremented are in hardware."""
        if self._scope not in ("fastpath-loop", "every-exit"):
            return False  # they stay there in every exit, and the instruction is added there
        return any(self.guest.global_ctrl >> c & 1 for c in self._counting_instructions)

    def stores_global_ctrl(self) -> bool:
        """CPUs without the VM-exit control use the MSR store list, unless the sequence says what is used."""
        assert self.plan.sequence is not None
        ways = {step["op"] for step in self.plan.sequence.exit}
        in_list = "msr_list_store" in ways if ways else not self.plan.cpu.exit_save_global_ctrl
        return in_list and not self.traps("global_ctrl")

    def switches_at(self, fastpath: bool) -> bool:
        """The switch encloses the fastpath loop, unless every exit switches."""
        return self._scope == "every-exit" or (self._scope == "fastpath-loop" and not fastpath)

    def block(self) -> None:
        """In the outer scopes the thread's switch is where guest state goes out."""
        if self._scope in ("run-loop", "vcpu-sched"):
            self._cede()

    def wake(self) -> None:
        """And in again."""
        if self._scope in ("run-loop", "vcpu-sched"):
            self._regain()

    def to_user(self) -> None:
        """The run loop ends where KVM_RUN returns."""
        if self._scope == "run-loop":
            self._cede()

    def from_user(self) -> None:
        """And begins with the next call."""
        if self._scope == "run-loop":
            self._regain()

    def _cede(self) -> None:
        self.put()
        self.machine.arrival_check()

    def _regain(self) -> None:
        self.load()
        self.machine.arrival_check()

    def host_excluded(self, activity: int, exclude_guest: bool, exclude_host: bool) -> bool:
        """With exclude_guest redefined, the window is no time of the host's."""
        excluded = super().host_excluded(activity, exclude_guest, exclude_host)
        window = self._in_window or activity == BLIND
        return excluded or (self._window_is_guest and exclude_guest and window)

    # Effects.

    def _registers(self, trapped: bool) -> Counters:
        return self.guest if trapped else self.machine.hardware

    def guest_write(self, register: str, c: int, value: int, trapped: bool) -> None:
        """A trapped write goes to the cache, a direct one to the hardware."""
        if register == "lvtpc":
            super().guest_write(register, c, value, trapped)
            if not trapped:
                self.machine.lvtpc.masked = False
            elif self.loaded:
                self.access("wrmsr_lvtpc")
                self.machine.lvtpc.set_guest(masked=False)
            return
        if trapped:
            changed = self.guest.changed(register, c, value)
            self._requests.update(changed)
            if register == "selector":
                self._changed.update(changed)
            if self.loaded and register in ("counter", "global_ovf_ctrl"):
                self.access("wrmsr_counter" if register == "counter" else "wrmsr_global")
                self.machine.hardware.write(register, c, value)
                return
        self._registers(trapped).write(register, c, value)

    def guest_counter(self, c: int, trapped: bool) -> int:
        """RDPMC."""
        if trapped and self.loaded:
            self.access("rdpmc")
            return self.machine.hardware.counter[c]
        return self._registers(trapped).counter[c]

    def guest_status(self, trapped: bool) -> int:
        """RDMSR of GLOBAL_STATUS."""
        if trapped and self.loaded:
            self.access("rdmsr")
            return self.machine.hardware.status
        return self._registers(trapped).status

    def retire(self, cpl: int) -> set[int]:
        """kvm_pmu_trigger_event(): the cached counter gets the instruction, or hardware's if that is where it is."""
        guest = self.guest
        if self.loaded:
            return self._retire_in_hardware(cpl)
        counted = set()
        for c in sorted(self._counting_instructions):
            if guest.global_ctrl >> c & 1 and guest.counts_level(c, cpl) and self.allows(c):
                counted.add(c)
                guest.counter[c] = (guest.counter[c] + 1) % guest.modulus(c)
                if guest.counter[c] == 0:
                    self.machine.note_overflow(c)
                    guest.status |= 1 << c
                    if guest.interrupts(c):
                        self.raise_pmi()
        return counted

    def _retire_in_hardware(self, cpl: int) -> set[int]:
        guest = self.guest
        counted = {
            c
            for c in self._counting_instructions
            if guest.global_ctrl >> c & 1 and guest.counts_level(c, cpl) and self.allows(c)
        }
        for _ in range(self.count_in_hardware(counted)):
            self.raise_pmi()
        return counted

    def wants_reprogramming(self) -> bool:
        """KVM_REQ_PMU."""
        return bool(self._requests)

    def change_filter(self, rule: PlannedFilter) -> None:
        """KVM_REQ_PMU for every counter."""
        super().change_filter(rule)
        self._requests.update(self.guest.all)

    def eventual_control(self, c: int) -> int:
        """A control as hardware gets it (KVM ``eventsel_hw``, ``fixed_ctr_ctrl_hw``).

        KVM makes it when it reprograms the counter, which is always before the next load.
        """
        control = self.guest.control(c)
        if self.machine.amd and c in self._changed:
            control |= GUEST_ONLY
        if self.allows(c):
            return control
        return 0 if is_fixed(c) else control & ~EN

    def reprogram(self) -> None:
        """kvm_pmu_handle_event(): no perf call, only the bitmap of counters that count instructions."""
        for _ in self._requests:
            self.machine.pay(self.host_activity, "reprogram")
            self.machine.tally.reprograms += 1
        if self.loaded:
            self._write_controls()
        for c in sorted(self._requests):
            if self.guest.locally_enabled(c) and self.guest.event(c) == INSTRUCTIONS:
                self._counting_instructions.add(c)
            else:
                self._counting_instructions.discard(c)
        self._requests.clear()

    def _write_controls(self) -> None:
        """Guest state stays loaded: the selectors that have changed go to hardware now."""
        hardware = self.machine.hardware
        for c in sorted(self._requests):
            if c < 32 and hardware.selector[c] != self.eventual_control(c):
                self.access("wrmsr_selector")
                hardware.selector[c] = self.eventual_control(c)
        if any(c >= 32 for c in self._requests) and hardware.fixed_ctr_ctrl != self._loaded_fixed_ctr_ctrl:
            self.access("wrmsr_selector")
            hardware.fixed_ctr_ctrl = self._loaded_fixed_ctr_ctrl

    # PMIs.

    def pmi_in_guest(self, whose: set[str]) -> None:
        """The guest's vector is an external interrupt."""
        self._under_guest_vector(whose)
        self.machine.interrupt_exit()

    def pmi_in_host(self, whose: set[str]) -> None:
        """The guest's vector waits; after put has restored the host's LVTPC its PMI is an NMI that nobody expects."""
        if self.machine.lvtpc.guest_vector:
            self._under_guest_vector(whose)
            self.machine.pend_vector()
            return
        tally = self.machine.tally
        tally.pmi["skid_past_exit"] += "guest" in whose
        tally.pmi["lost"] += "guest" in whose
        if "host" in whose and not self._in_window:
            self.machine.host.handle_nmi()
            tally.host_pmi["handled"] += 1
        else:
            tally.host_pmi["lost"] += "host" in whose
            self.machine.pay(self.host_activity, "host_nmi")

    def _under_guest_vector(self, whose: set[str]) -> None:
        """Whoever a PMI was meant for, the guest gets it."""
        self.machine.tally.host_pmi["lost"] += "host" in whose
        self.machine.tally.pmi["raised"] += "guest" not in whose

    def host_loss(self, activity: int, error: bool) -> str:
        """Host events are out from load to put."""
        if error:
            return "not_scheduled"
        return "window" if self._in_window or activity == BLIND or activity in GUEST else "pmu_disabled"

    # The switch.

    def load(self) -> None:
        """kvm_mediated_pmu_load()."""
        assert self.plan.sequence is not None
        self._switcher.execute(self.plan.sequence.load)
        self.loaded = True
        self._switcher.watch_loaded()

    def put(self) -> None:
        """kvm_mediated_pmu_put()."""
        assert self.plan.sequence is not None
        self.machine.tally.switches += 1
        self._switcher.put(self.plan.sequence.put)
        self.loaded = False

    @property
    def _loaded_fixed_ctr_ctrl(self) -> int:
        return sum(self.eventual_control(c) << 4 * (c - 32) for c in self.guest.fixed)

    def load_guest_context(self) -> None:
        """perf_load_guest_context(): the blind spot begins when the host's counters stop."""
        machine = self.machine
        machine.pay(self.host_activity, "perf_guest_context")
        if machine.host.samples:
            machine.arrival_check()
        machine.host.load_guest_context()
        self._in_window = True

    def put_guest_context(self) -> None:
        """perf_put_guest_context(): the blind spot ends when the host's counters run again."""
        machine = self.machine
        machine.pay(self.host_activity, "perf_guest_context")
        machine.host.put_guest_context()
        self._in_window = False
