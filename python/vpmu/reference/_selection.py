"""Events, their codes in selectors, and which counters count them at which privilege level."""

from __future__ import annotations

import re

from .._cpu import CpuModel
from .._errors import ScenarioError, UnknownName
from ._metrics import METRIC_EVENTS
from ._modes import Modes
from ._register import (
    ANY,
    CTR_FRZ,
    EN,
    FIXED_ANY,
    FIXED_OS,
    FIXED_USR,
    GUEST_ONLY,
    HOST_ONLY,
    METRICS_AVAILABLE,
    METRICS_CLEAR,
    OS,
    OVF_METRICS,
    USR,
    field,
    has_capability,
)
from .registers import RegisterFile

#: Every event that has a name; on a CPU that cannot count one, nobody counts it.
EVENTS = (
    *("instructions", "cycles", "ref-cycles", "bus-cycles", "cache-references", "cache-misses"),
    *("branches", "branch-misses", "slots", *METRIC_EVENTS, "lbr-inserts"),
    *("stalled-cycles-frontend", "stalled-cycles-backend"),
)
#: What fixed counter m counts; there are higher ones in the registers, but nothing for them to count.
FIXED_EVENTS = (
    *("instructions", "cycles", "ref-cycles", "slots"),
    *("topdown-bad-spec", "topdown-fe-bound", "topdown-retiring"),
)
#: Bits of a selector that say which event: event select, unit mask and their extensions.
CODE_BITS = {"intel": field(15, 0) | field(47, 40), "amd": field(15, 0) | field(35, 32)}
#: AMD's event select that merges an odd counter into the even one below it.
MERGE = 0xFFF
#: AMD events that erratum 1292 lets overcount.
ERRATUM_1292 = frozenset({*range(0x0C0, 0x0C6), *range(0x0C8, 0x0CB), 0x0CC, 0x0D1, 0x1C7, 0x1D0})


def intel_codes(cpu: CpuModel) -> dict[int, str]:
    """Unit mask and event select of the architectural events (SDM vol. 3B 18.2.1.2 and CPUID.0AH:EBX)."""
    codes = {0x00C0: "instructions", 0x003C: "cycles", 0x013C: "bus-cycles", 0x00C4: "branches"}
    codes |= {0x00C5: "branch-misses", 0x4F2E: "cache-references", 0x412E: "cache-misses"}
    if cpu.fixed_mask >> 3 & 1:
        codes[0x01A4] = "slots"
    # Whether CPUID enumerates the first seven changes nothing; the later ones exist where it says so.
    later = {
        8: (0x02A4, "topdown-be-bound"),
        9: (0x0073, "topdown-bad-spec"),
        10: (0x019C, "topdown-fe-bound"),
        11: (0x02C2, "topdown-retiring"),
        12: (0x01E4, "lbr-inserts"),
    }
    return codes | dict(row for bit, row in later.items() if cpu.architectural_events >> bit & 1)


def amd_codes(cpu: CpuModel) -> dict[int, str]:
    """Unit mask and event select (Linux, amd_perfmon_event_map and its successors for Zen)."""
    zen = max((n for n in range(1, 6) if f"zen{n}" in cpu.features), default=0)
    codes = {0x00C0: "instructions", 0x0076: "cycles", 0x00C2: "branches", 0x00C3: "branch-misses"}
    if zen == 0:
        codes |= {0x077D: "cache-references", 0x077E: "cache-misses"}
        return codes | {0x00D0: "stalled-cycles-frontend", 0x00D1: "stalled-cycles-backend"}
    codes |= {0xFF60: "cache-references", 0x0964: "cache-misses"}
    if zen >= 4:
        codes[1 << 32 | 0x0120] = "ref-cycles"
    if zen == 1:
        return codes | {0x0287: "stalled-cycles-frontend", 0x0187: "stalled-cycles-backend"}
    return codes | {0x00A9: "stalled-cycles-frontend"}


def amd_event_select(selector: int) -> int:
    """Return the 12 bits of AMD's event select."""
    return selector >> 32 << 8 & 0xF00 | selector & 0xFF


class Events:
    """The events of one CPU model: by name, or by code as "r" and hexadecimal digits.

    Parameters
    ----------
    cpu : CpuModel
    """

    def __init__(self, cpu: CpuModel) -> None:
        self._cpu = cpu
        self._bits = CODE_BITS[cpu.vendor]
        self._names = intel_codes(cpu) if cpu.vendor == "intel" else amd_codes(cpu)

    def resolve(self, name: str) -> str:
        """Return the one spelling of an event; raise UnknownName, or ValueError for a code that none can have."""
        if name in EVENTS:
            return name
        if not isinstance(name, str):
            raise UnknownName("event", str(name), EVENTS)
        raw = re.fullmatch(r"r([0-9a-fA-F]{1,16})", name, re.ASCII)
        if raw is None:
            raise UnknownName("event", name, EVENTS)
        code = int(raw[1], 16)
        if code & ~self._bits:
            raise ScenarioError(
                f"event {name!r}: bits {code & ~self._bits:#x} are no part of an event code, which has {self._bits:#x}"
            )
        return self._spell(code)

    def selected(self, selector: int) -> str:
        """Event of a general-purpose counter."""
        return self._spell(selector & self._bits)

    def fixed(self, m: int) -> str:
        """Event of a fixed counter; empty for one that counts nothing."""
        return FIXED_EVENTS[m] if m < len(FIXED_EVENTS) else ""

    def _spell(self, code: int) -> str:
        return self._names.get(code, f"r{code:04x}")


class Selection:
    """Which counters count under the present settings of one PMU.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
    modes : Modes
    """

    def __init__(self, cpu: CpuModel, registers: RegisterFile, modes: Modes) -> None:
        self._cpu = cpu
        self._registers = registers
        self._modes = modes

    def gp_enabled(self, x: int) -> bool:
        """Whether a general-purpose counter is enabled, whatever the privilege level (SDM vol. 3B 18.2.1.1)."""
        selector = self._registers.selectors[x]
        return bool(selector >> EN & 1) and self._globally(x) and self._host_or_guest(selector)

    def gp_admits(self, x: int, cpl: int) -> bool:
        """Whether a general-purpose counter's OS and USR admit a privilege level of this thread."""
        return self._admits(self._registers.selectors[x] >> USR, cpl)

    def gp_admits_sibling(self, x: int, cpl: int) -> bool:
        """Whether they admit a privilege level of the other thread, whose SMM is not ours."""
        return bool(self._registers.selectors[x] >> (OS if cpl == 0 else USR) & 1)

    def gp_any_thread(self, x: int) -> bool:
        """Whether a general-purpose counter counts the sibling thread too."""
        return self._any_thread_works() and bool(self._registers.selectors[x] >> ANY & 1)

    def fixed_enabled(self, m: int) -> bool:
        """Whether a fixed counter is enabled, whatever the privilege level (SDM vol. 3B 18.2.2)."""
        return self._globally(32 + m)

    def fixed_admits(self, m: int, cpl: int) -> bool:
        """Whether a fixed counter's OS and USR admit a privilege level of this thread."""
        control = self._registers.fixed_ctr_ctrl >> 4 * m
        # The order of the two bits is not that of a selector.
        return self._admits(control >> FIXED_USR & 1 | (control >> FIXED_OS & 1) << 1, cpl)

    def fixed_admits_sibling(self, m: int, cpl: int) -> bool:
        """Whether they admit a privilege level of the other thread."""
        bit = FIXED_OS if cpl == 0 else FIXED_USR
        return bool(self._registers.fixed_ctr_ctrl >> (4 * m + bit) & 1)

    def fixed_any_thread(self, m: int) -> bool:
        """Whether a fixed counter counts the sibling thread too; bit 14 may be METRICS_CLEAR_EN instead."""
        if m == 3 and has_capability(self._cpu, METRICS_CLEAR):
            return False
        return self._any_thread_works() and bool(self._registers.fixed_ctr_ctrl >> (4 * m + FIXED_ANY) & 1)

    def metrics_count(self, cpl: int) -> bool:
        """Whether IA32_PERF_METRICS counts: with its own enable, and where FIXED_CTR3 does."""
        if not has_capability(self._cpu, METRICS_AVAILABLE) or not self._cpu.fixed_mask >> 3 & 1:
            return False
        own = self._registers.global_ctrl >> OVF_METRICS & 1
        return bool(own) and self.fixed_enabled(3) and self.fixed_admits(3, cpl)

    def merged(self, n: int) -> bool:
        """Whether AMD's counter n + 1, n even, holds the high bits of counter n (APM vol. 2, large increments)."""
        if self._cpu.vendor != "amd" or n % 2 or self._cpu.gp_mask >> n & 3 != 3:
            return False
        selector = self._registers.selectors[n + 1]
        return amd_event_select(selector) == MERGE and bool(selector >> EN & 1)

    def _globally(self, place: int) -> bool:
        if self._cpu.version < 2:
            return True
        frozen = self._registers.global_status >> CTR_FRZ & 1
        return bool(self._registers.global_ctrl >> place & 1) and not frozen

    def _admits(self, usr_and_os: int, cpl: int) -> bool:
        if self._modes.smm and "smm_user" in self._cpu.quirks:
            return usr_and_os & 3 != 0
        return bool(usr_and_os >> (1 if cpl == 0 else 0) & 1)

    def _any_thread_works(self) -> bool:
        return self._cpu.vendor == "intel" and "gldm_any" not in self._cpu.quirks

    def _host_or_guest(self, selector: int) -> bool:
        """HostOnly and GuestOnly, bits 41 and 40 (APM vol. 2 13.2); while SVME is 0 either stops the counter."""
        if self._cpu.vendor != "amd":
            return True
        guest_only, host_only = selector >> GUEST_ONLY & 1, selector >> HOST_ONLY & 1
        if not guest_only and not host_only:
            return True
        return self._modes.svme and bool(guest_only if self._modes.guest else host_only)
