"""Switch sequences, step by step, and what they leave behind (docs/machine.md, section 8.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._counters import EN, FIXED_OS, FIXED_USR, is_fixed

if TYPE_CHECKING:
    from ._mediated import Mediated

_CLASS = {"counter": "wrmsr_counter", "global_ctrl": "wrmsr_global", "global_ovf_ctrl": "wrmsr_global"}
_CLASS |= {"global_status_set": "wrmsr_global"}


class Switcher:
    """Executes the steps of a load or a put.

    Parameters
    ----------
    design : Mediated
        Whose cache the guest's registers are in.
    """

    def __init__(self, design: Mediated) -> None:
        self._design = design
        self._guest = design.guest
        self._machine = design.machine
        self._hardware = design.machine.hardware
        #: What each register held when it was read last, in this half and, of a counter's, for this counter.
        self._read: dict[str, int] = {}
        #: What is saved for the host, by register and counter.
        self._host: dict[tuple[str, int | None], int] = {}
        #: Whether it has been looked at what this put leaves.
        self._looked = True

    def execute(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Do the steps in their order."""
        self._read = {}
        for step in steps:
            if "for" not in step:
                self._step(step, None)
                continue
            for c in self._guest.gp if step["for"] == "gp" else self._guest.fixed:
                self._read.pop("counter", None)
                self._read.pop("selector", None)
                for inner in step["do"]:
                    self._step(inner, c)

    def put(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Do the steps of a put, and look at what is left of the guest where host perf returns."""
        self._looked = False
        self.execute(steps)
        if not self._looked:
            self._watch_left()
            self._looked = True

    def _step(self, step: Mapping[str, Any], c: int | None) -> None:
        op = step["op"]
        if op == "perf_load_guest_context":
            self._design.load_guest_context()
        elif op == "perf_put_guest_context":
            if not self._looked:
                self._watch_left()
                self._looked = True
            self._design.put_guest_context()
        elif op == "lvtpc":
            self._write_lvtpc(step["value"] == "guest")
        elif op == "toggle":
            self._toggle_status()
        elif op == "wrmsr":
            self._write(step, c)
        else:
            register = step.get("register", "counter")
            self._design.access(op)
            self._read[register] = self._held(register, c)
            self._save(register, c, step.get("save"))

    # Registers.

    def _held(self, register: str, c: int | None) -> int:
        """What the hardware has."""
        hardware = self._hardware
        if c is not None:
            return hardware.counter[c] if register == "counter" else hardware.selector[c]
        values = {
            "fixed_ctr_ctrl": hardware.fixed_ctr_ctrl,
            "global_ctrl": hardware.global_ctrl,
            "global_status": hardware.status,
        }
        return values.get(register, 0)

    def _save(self, register: str, c: int | None, where: object) -> None:
        value = self._read[register]
        if where == "host":
            self._host[register, c] = value
        elif where and register == "counter":
            assert c is not None
            self._guest.counter[c] = value
        elif where and register == "global_status":
            self._guest.status = value

    def _guests(self, register: str, c: int | None) -> int:
        """What the guest is to have: KVM's copy through the event filter."""
        if c is not None:
            return self._guest.counter[c] if register == "counter" else self._design.eventual_control(c)
        values = {
            "fixed_ctr_ctrl": self._eventual_fixed_ctr_ctrl,
            "global_ctrl": self._guest.global_ctrl,
            "global_status_set": self._guest.status,
        }
        return values.get(register, 0)

    @property
    def _eventual_fixed_ctr_ctrl(self) -> int:
        return sum(self._design.eventual_control(c) << 4 * (c - 32) for c in self._guest.fixed)

    def _new_value(self, register: str, c: int | None, source: str) -> int:
        if source == "guest":
            return self._guests(register, c)
        if source == "cached":
            if register == "counter" and c is not None:
                return self._guest.counter[c]
            return self._guest.selector[c] if c is not None else self._guest.fixed_ctr_ctrl
        if source == "host":
            return self._host.get(("global_status" if register == "global_status_set" else register, c), 0)
        return self._read["global_status"] if source == "status" else 0

    def _wanted(self, step: Mapping[str, Any], register: str, c: int | None, value: int) -> bool:
        """Whether the condition of a write holds."""
        condition = step.get("if")
        if condition is None:
            return True
        if condition == "selector-nonzero":
            assert c is not None
            return self._read.get("selector", self._design.eventual_control(c)) != 0
        if register == "global_status_set" and condition == "nonzero":
            return value != 0
        read = self._read.get(
            "global_status" if register.startswith("global_") and register != "global_ctrl" else register
        )
        if condition == "differs":
            return read != value
        return (self._guests(register, c) if read is None else read) != 0

    def _write(self, step: Mapping[str, Any], c: int | None) -> None:
        register, hardware = step["register"], self._hardware
        value = self._new_value(register, c, step["value"])
        if not self._wanted(step, register, c, value):
            return
        self._design.access(_CLASS.get(register, "wrmsr_selector"))
        if self._machine.amd and register == "global_ctrl" and step["value"] == "guest":
            return  # GuestOnly lets nothing count before the entry
        if register == "global_ovf_ctrl":
            hardware.status &= ~value
        elif register == "global_status_set":
            hardware.status |= value
        elif c is not None or register in ("fixed_ctr_ctrl", "global_ctrl"):
            hardware.write(register, c or 0, value)

    def _toggle_status(self) -> None:
        """Only the bits that differ, through STATUS_RESET and STATUS_SET."""
        hardware, read = self._hardware, self._read["global_status"]
        toggle = self._guest.status ^ read
        if read & toggle:
            self._design.access("wrmsr_global")
            hardware.status &= ~(read & toggle)
        if self._guest.status & toggle:
            self._design.access("wrmsr_global")
            hardware.status |= self._guest.status & toggle

    def _write_lvtpc(self, guest: bool) -> None:
        """A PMI that arrives before the write has taken effect still finds the old LVTPC."""
        self._design.access("wrmsr_lvtpc")
        self._machine.arrival_check()
        if guest:
            self._machine.lvtpc.set_guest(masked=self._machine.guest_lvtpc_masked)
        else:
            self._machine.lvtpc.set_host()

    # What is left, and what is missing.

    def _watch_left(self) -> None:
        """What the host finds of the guest's in counters that none of its events has."""
        if self._machine.amd:
            return  # GuestOnly lets nothing of it count
        hardware, breaches = self._hardware, self._machine.tally.breaches
        held = {event.counter for event in self._machine.host.events if event.in_hardware}
        for c in self._guest.all:
            if c in held:
                continue
            if is_fixed(c):
                breaches["fixed_fields"] += bool(hardware.control(c) & (FIXED_OS | FIXED_USR))
            else:
                breaches["selectors"] += bool(hardware.selector[c] & EN)
            breaches["counters"] += hardware.counter[c] not in (0, self._host.get(("counter", c), 0))
        breaches["status"] += hardware.status not in (0, self._host.get(("global_status", None), 0))
        breaches["lvtpc"] += self._machine.lvtpc.guest_vector

    def watch_loaded(self) -> None:
        """What is not as the guest is to have it; a STATUS that it cannot read need not be."""
        hardware, guest, design = self._hardware, self._guest, self._design
        if self._machine.amd:
            return
        missing = sum(hardware.counter[c] != guest.counter[c] for c in guest.all)
        missing += sum(hardware.selector[c] != design.eventual_control(c) for c in guest.gp)
        missing += hardware.fixed_ctr_ctrl != self._eventual_fixed_ctr_ctrl
        if not design.traps("global_status"):
            missing += hardware.status != guest.status
        missing += not self._machine.lvtpc.guest_vector
        self._machine.tally.breaches["not_loaded"] += missing
