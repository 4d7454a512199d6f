"""The checks of kvm-unit-tests x86/pmu.c for a simulated PMU: banks, protocol of a measurement, expected ranges.

The payload is theirs: 10 N + 17 instructions, one of them a WRMSR, and N + 2 branches between the write that starts
and the write that stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pmu_models import (
    AMD_CLEAR,
    AMD_CTRL,
    AMD_STATUS,
    EN,
    FIXED_CTR_CTRL,
    INT,
    LVTPC,
    OS,
    STATUS,
    USR,
    make,
    wrmsr_counted,
)

import vpmu

N = 1_000_000
INSTRUCTIONS, BRANCHES = 10 * N + 17, N + 2
CYCLES = 3 * N
PAYLOAD = {"instructions": INSTRUCTIONS - 1, "branches": BRANCHES, "branch-misses": 3}
PAYLOAD |= {"cache-references": 5, "cache-misses": 4}
VECTOR = 0xF5
VALUE = 0xFF01_2345_6789

#: Selector code, and the least and greatest count that the suite accepts.
INTEL_EVENTS = {
    "cycles": (0x003C, N, 50 * N),
    "instructions": (0x00C0, 10 * N, 102 * N // 10),
    "bus-cycles": (0x013C, N, 30 * N),
    "cache-references": (0x4F2E, 1, 25 * N // 10),
    "cache-misses": (0x412E, 1, N),
    "branches": (0x00C4, N, 11 * N // 10),
    "branch-misses": (0x00C5, 1, N // 10),
}
AMD_EVENTS = {
    "cycles": (0x0076, N, 50 * N),
    "instructions": (0x00C0, 10 * N, 102 * N // 10),
    "branches": (0x00C2, N, 11 * N // 10),
    "branch-misses": (0x00C3, 1, N // 10),
}
FIXED_RANGES = ((10 * N, 102 * N // 10), (N, 30 * N), (N // 10, 30 * N))
FIXED_BIT = 32


@dataclass(frozen=True)
class Bank:
    """Where the general-purpose counters of a PMU are addressed."""

    name: str
    counter: int
    selector: int
    stride: int
    most: int


C1, A4C1 = Bank("C1H", 0xC1, 0x186, 1, 16), Bank("4C1H", 0x4C1, 0x186, 1, 16)
CORE, K7 = Bank("C0010200H", 0xC0010201, 0xC0010200, 2, 6), Bank("C0010000H", 0xC0010004, 0xC0010000, 1, 4)


def banks(cpu: vpmu.CpuModel) -> list[Bank]:
    """Banks in which the suite repeats itself on a CPU."""
    if cpu.vendor == "amd":
        return [CORE, K7] if "perfctr_core" in cpu.features else [K7]
    return [C1, A4C1] if cpu.full_width_writes else [C1]


class Suite:
    """One PMU under test, addressed in one bank, after the suite's own initialization (check 0)."""

    def __init__(self, pmu_class: Any, cpu: vpmu.CpuModel, bank: Bank) -> None:
        self.cpu, self.bank = cpu, bank
        self.intel = cpu.vendor == "intel"
        self.global_ctrl, self.status, self.ack = 0x38F, STATUS, 0x390
        if not self.intel:
            self.global_ctrl, self.status, self.ack = AMD_CTRL, AMD_STATUS, AMD_CLEAR
        self.events = INTEL_EVENTS if self.intel else AMD_EVENTS
        self.counters = min(cpu.gp_counters, bank.most)
        self.fixed = min(cpu.fixed_counters, 3)
        self.has_global = cpu.version >= 2
        self.pmu = make(pmu_class, cpu, (LVTPC, VECTOR))
        for i in range(self.counters):
            self.pmu.wrmsr(self.selector(i), 0)
            self.pmu.wrmsr(self.counter(i), 0)
        if self.has_global:
            self.pmu.wrmsr(self.global_ctrl, 0)
        if self.has_global and self.intel:
            self.pmu.wrmsr(FIXED_CTR_CTRL, 0)
            for m in range(self.fixed):
                self.pmu.wrmsr(0x309 + m, 0)

    def counter(self, i: int) -> int:
        """Address of counter i."""
        return self.bank.counter + self.bank.stride * i

    def selector(self, i: int) -> int:
        """Address of the selector of counter i."""
        return self.bank.selector + self.bank.stride * i

    def code(self, event: str) -> int:
        """Selector code of an event."""
        return self.events[event][0]

    def cut(self, value: int, bits: int | None = None) -> int:
        """A value as it is passed: whole in the old bank, else cut to the counter."""
        return value & (1 << (bits or (64 if self.bank is C1 or not self.intel else self.cpu.gp_width))) - 1

    def start(self, i: int, config: int, count: int = 0) -> None:
        """Start GP counter i; these WRMSRs are instructions as well."""
        wrmsr_counted(self.pmu, (self.counter(i), count), (self.selector(i), config | OS | USR | EN))
        self.pmu.wrmsr(LVTPC, VECTOR)
        self.enable(1 << i)

    def start_fixed(self, m: int, count: int = 0, interrupts: bool = False) -> None:
        """Start fixed counter m."""
        control = self.pmu.rdmsr(FIXED_CTR_CTRL) & ~(0xF << 4 * m)
        control |= (3 | interrupts << 3) << 4 * m
        wrmsr_counted(self.pmu, (0x309 + m, count), (FIXED_CTR_CTRL, control))
        self.pmu.wrmsr(LVTPC, VECTOR)
        self.enable(1 << (FIXED_BIT + m))

    def enable(self, bits: int) -> None:
        """Let counters run: the write counts itself."""
        if self.has_global:
            wrmsr_counted(self.pmu, (self.global_ctrl, self.pmu.rdmsr(self.global_ctrl) | bits))

    def stop(self, i: int, config: int) -> int:
        """Stop GP counter i and return its count; neither write counts itself."""
        if self.has_global:
            wrmsr_counted(self.pmu, (self.global_ctrl, self.pmu.rdmsr(self.global_ctrl) & ~(1 << i)))
        wrmsr_counted(self.pmu, (self.selector(i), config | OS | USR))
        return int(self.pmu.rdmsr(self.counter(i)))

    def stop_fixed(self, m: int) -> int:
        """Stop fixed counter m and return its count."""
        wrmsr_counted(self.pmu, (self.global_ctrl, self.pmu.rdmsr(self.global_ctrl) & ~(1 << (FIXED_BIT + m))))
        self.pmu.wrmsr(FIXED_CTR_CTRL, self.pmu.rdmsr(FIXED_CTR_CTRL) & ~(0xF << 4 * m))
        return int(self.pmu.rdmsr(0x309 + m))

    def loop(self) -> None:
        """Run the payload."""
        self.pmu.count(PAYLOAD, cycles=CYCLES)

    def measure(self, i: int, config: int, count: int = 0) -> int:
        """Count the payload on GP counter i."""
        self.start(i, config, count)
        self.loop()
        return self.stop(i, config)

    def measure_fixed(self, m: int, count: int = 0) -> int:
        """Count the payload on fixed counter m."""
        self.start_fixed(m, count)
        self.loop()
        return self.stop_fixed(m)

    def interrupted(self) -> bool:
        """Let a pending interrupt in; its handler unmasks LVTPC."""
        seen = self.pmu.take_pmi() == ("fixed", VECTOR)
        assert self.pmu.take_pmi() is None
        self.pmu.wrmsr(LVTPC, VECTOR)
        return seen

    def overflow(self, i: int) -> tuple[int, int]:
        """Wrap GP counter i, INT set if i is odd: the count that is left, and the status."""
        config = self.code("instructions") | (INT if i % 2 else 0)
        left = self.measure(i, config, self.cut(1 - INSTRUCTIONS))
        return left, self.pmu.rdmsr(self.status) if self.has_global else 0
