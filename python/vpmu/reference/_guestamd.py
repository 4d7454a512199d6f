"""The guest's perf on AMD CPUs, with PerfMonV2 and before.

After Linux arch/x86/events/amd/core.c (``amd_pmu_v2_handle_irq``, ``amd_pmu_wait_on_overflow``) and
arch/x86/events/core.c (``x86_pmu_handle_irq``, ``x86_pmu_disable_all``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._counters import EN
from ._guestevents import GuestEvent
from ._guestperf import GuestPerf

if TYPE_CHECKING:
    from .machine import Machine

#: Looks at a counter that has overflowed, a microsecond apart.
_WAITS = 50


class AmdV2(GuestPerf):
    """PerfMonV2: global registers, an acknowledgement at the end, and an LVTPC that nobody masks."""

    def _active(self) -> list[GuestEvent]:
        """Events of cpuc->active_mask by counter."""
        active = [event for event in self.events if event.active and event.counter is not None]
        return sorted(active, key=lambda event: event.counter or 0)

    def _on(self, c: int) -> GuestEvent | None:
        return next((event for event in self._active() if event.counter == c), None)

    # Brackets.

    def _disable(self) -> None:
        super()._disable()
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        """amd_pmu_check_overflow()."""
        for c in self._machine.ideal.gp:
            if not self.in_service and self._on(c) is not None:
                self._wait(c)

    def _wait(self, c: int) -> None:
        """amd_pmu_wait_on_overflow(): the NMI of an overflow comes while somebody looks whether it has been."""
        for _ in range(_WAITS):
            if not self._overflow_pending(c):
                return
            self._machine.run_handler("guest_perf_call", self._machine.plan.guest_kernel.core_hz // 10**6)

    def _overflow_pending(self, c: int) -> bool:
        return bool(self.read_status() >> c & 1)

    def _stop(self, event: GuestEvent, update: bool) -> None:
        """x86_pmu_stop() with amd_pmu_disable_event()."""
        if event.active:
            assert event.counter is not None
            self.write("selector", event.selector, event.counter)
            if not self.in_service:
                self._wait(event.counter)
            event.active = False
        if update:
            self._update(event)

    # The PMI.

    def handle_nmi(self) -> None:
        """The vendor's handler, with the NMI's entry and return."""
        machine = self._machine
        self.nmi_pending = False
        self.in_service = True
        machine.tally.handlers += 1
        machine.run_handler("guest_nmi_entry")
        began = self.now()
        self._handle()
        if self.limit is not None:
            self.limit.handler_took(self.now() - began)
        machine.run_handler("guest_nmi_exit")
        self.in_service = False

    def _handle(self) -> None:
        """amd_pmu_v2_handle_irq()."""
        was_enabled = self._enabled
        self._disable()
        status = self.read_status()
        if status:
            unhandled = status
            for c in self._machine.ideal.gp:
                event = self._on(c)
                if event is not None:
                    self._update(event)
                    if status >> c & 1:
                        unhandled &= ~(1 << c)
                        self._serve(event, c)
            self.write("global_ovf_ctrl", ~unhandled & (1 << 64) - 1)
        if was_enabled:
            self._enable()

    def _serve(self, event: GuestEvent, c: int) -> None:
        """The counter of an event has overflowed."""
        event.expect_samples()
        if self._arm(event) and event.samples_wanted:
            self._sample(event, c)


class AmdV1(AmdV2):
    """Before PerfMonV2: no global register; selectors are written one by one, and counters run in the handler."""

    def _disable(self) -> None:
        self._enabled = False
        self._meter(False)
        for c in self._machine.ideal.gp:
            event = self._on(c)
            if event is not None:
                self._access("selector", "rdmsr", "MSR_READ", lambda trapped: None)
                self.write("selector", event.selector, c)
        self._wait_for_all()

    def _enable(self) -> None:
        self._enabled = True
        for c in self._machine.ideal.gp:
            event = self._on(c)
            if event is not None:
                self.write("selector", event.selector | EN, c)
        self._meter(True)

    def _start(self, event: GuestEvent, reload: bool) -> None:
        """x86_pmu_enable_event() leaves the selector to the end of a bracket."""
        if reload or not event.armed:
            self._arm(event)
        assert event.counter is not None
        event.active = True
        event.absent = ""
        if self._enabled:
            self.write("selector", event.selector | EN, event.counter)

    def _wrapped(self, c: int, value: int) -> bool:
        """A counter is armed with its top bit set."""
        return value < self._machine.ideal.modulus(c) // 2

    def _overflow_pending(self, c: int) -> bool:
        values: list[int] = []
        design = self._machine.design
        self._access(
            "counter",
            "rdmsr",
            "MSR_READ",
            lambda trapped: values.append(design.guest_counter(c, trapped) % self._machine.ideal.modulus(c)),
        )
        return self._wrapped(c, values[0])

    def _handle(self) -> None:
        """x86_pmu_handle_irq()."""
        self.write("lvtpc", 0)
        for c in self._machine.ideal.gp:
            event = self._on(c)
            if event is not None:
                self._update(event)
                if self._wrapped(c, event.perf.previous):
                    self._serve(event, c)


def guest_perf(machine: Machine) -> GuestPerf:
    """Perf for the guest's PMU."""
    if machine.guest_model.vendor == "intel":
        return GuestPerf(machine)
    return (AmdV2 if machine.guest_model.version >= 2 else AmdV1)(machine)
