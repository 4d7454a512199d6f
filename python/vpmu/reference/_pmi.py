"""From the overflow to the handler: skid, the local APIC's entry, what is pending (SDM vol. 3A 10.5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from .._cpu import CpuModel
from .._errors import ScenarioError
from ._random import Sfc64, uniform
from ._register import LVTPC_MASKED, LVTPC_MODES, bits, check_integer, check_tuple, delivery_mode, ones
from .registers import RegisterFile

#: Arrival of a request while none is in flight.
NOT_IN_FLIGHT = -1
#: Bits of LVTPC that are latched when a PMI is accepted: vector and delivery mode.
ENTRY = ones(11)


class Pmi(NamedTuple):
    """A PMI as delivered: mode ``"fixed"``, ``"nmi"`` or ``"smi"``, and the vector field of LVTPC."""

    mode: str
    vector: int


class SkidDraws(Sfc64):
    """Random skids; what is left of the stream can be stored.

    Parameters
    ----------
    seed : int
        First word; the others are 0.
    """

    def __init__(self, seed: int) -> None:
        super().__init__((seed, 0, 0))

    def words(self) -> tuple[int, int, int, int]:
        """Return the generator's state."""
        return self._a, self._b, self._c, self._counter

    @classmethod
    def from_words(cls, words: tuple[int, int, int, int]) -> Self:
        """Continue a stream."""
        draws = cls(0)
        draws._a, draws._b, draws._c, draws._counter = words
        return draws


class LocalApic:
    """Where the requests of one PMU arrive.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
        LVTPC.
    seed : int or None
        Of the skids; None for no skid.
    """

    def __init__(self, cpu: CpuModel, registers: RegisterFile, seed: int | None) -> None:
        self._cpu = cpu
        self._registers = registers
        self._draws = None if seed is None or "pmi_skid" not in cpu.quirks else SkidDraws(seed)
        #: PMIs that are accepted and not taken: one, or two where a late NMI follows it.
        self._latched = 0
        self._entry = 0
        self._arrival = NOT_IN_FLIGHT

    @property
    def pending(self) -> bool:
        """Whether a PMI waits to be taken."""
        return self._latched > 0

    def request(self, cycle: int) -> None:
        """Request a PMI at a cycle, which joins one that is in flight."""
        if self._arrival == NOT_IN_FLIGHT:
            self._arrival = cycle + self._skid()

    def arrive(self, now: int) -> bool:
        """Let a request that is due arrive; return whether it was accepted."""
        if self._arrival == NOT_IN_FLIGHT or self._arrival > now:
            return False
        self._arrival = NOT_IN_FLIGHT
        if self._registers.lvtpc >> LVTPC_MASKED & 1:
            return False
        self._latched = 2 if self._latched and "amd_late_nmi" in self._cpu.quirks else 1
        self._entry = self._registers.lvtpc & ENTRY
        if self._cpu.vendor == "intel":
            self._registers.lvtpc |= bits(LVTPC_MASKED)
        return True

    def take(self, interrupts_enabled: bool, nmi_blocked: bool) -> Pmi | None:
        """Deliver the pending PMI, unless there is none or the CPU does not take it now."""
        if not self.pending:
            return None
        pmi = Pmi(LVTPC_MODES[delivery_mode(self._entry)], self._entry & 0xFF)
        if (pmi.mode == "fixed" and not interrupts_enabled) or (pmi.mode == "nmi" and nmi_blocked):
            return None
        self._latched -= 1
        if not self._latched:
            self._entry = 0
        return pmi

    def state(self) -> dict[str, object]:
        """Return every value by name."""
        skid = () if self._draws is None else self._draws.words()
        flight = {"pmi_arrival": self._arrival, "skid": skid}
        return {"pmi_pending": self._latched, "pmi_entry": self._entry, **flight}

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state` returned; raise ValueError for what cannot be."""
        most = 2 if "amd_late_nmi" in self._cpu.quirks else 1
        self._latched = check_integer("pmi_pending", state["pmi_pending"], 0, most)
        latest = (1 << 58) + self._cpu.skid.maximum
        self._arrival = check_integer("pmi_arrival", state["pmi_arrival"], NOT_IN_FLIGHT, latest)
        self._entry = check_integer("pmi_entry", state["pmi_entry"], 0, ENTRY if self.pending else 0)
        if delivery_mode(self._entry) not in LVTPC_MODES:
            raise ScenarioError(
                f"state: pmi_entry {self._entry:#x} cannot have delivery mode {delivery_mode(self._entry)}"
            )
        skid = state["skid"]
        if skid != () and "pmi_skid" not in self._cpu.quirks:
            raise ScenarioError(f"state: skid {skid!r} must be () without the quirk pmi_skid")
        if skid == ():
            self._draws = None
            return
        a, b, c, counter = (check_integer("skid", word, 0, ones(64)) for word in check_tuple("skid", skid, 4))
        self._draws = SkidDraws.from_words((a, b, c, counter))

    def _skid(self) -> int:
        if self._draws is None:
            return 0
        return uniform(self._draws.draw(), self._cpu.skid.minimum, self._cpu.skid.maximum)
