"""What one counter gets of what occurs: filters, CMASK and edges, AnyThread, and what some hardware overcounts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .._cpu import CpuModel
from .._errors import ScenarioError
from ._occasion import Occasion
from ._register import CMASK, EDGE, EQ, IN_TX, IN_TXCP, INT, INV, RTM_FORCE_ABORT, indices
from ._selection import ERRATUM_1292, Events, Selection, amd_event_select
from .registers import RegisterFile

#: The counter that microcode borrows for transactions.
BORROWED = 3


@dataclass(frozen=True)
class Share:
    """What one enabled counter gets.

    Parameters
    ----------
    place : int
        Bit of the counter in IA32_PERF_GLOBAL_STATUS: x, or 32 + m.
    got : int
    spurious : int
        What it would have got, had its transaction not been rolled back, where that may request a PMI.
    """

    place: int
    got: int
    spurious: int = 0


class Shares:
    """Deals one count() out to the counters of one PMU, changing nothing.

    Parameters
    ----------
    cpu : CpuModel
    registers : RegisterFile
    events : Events
    selection : Selection
    """

    def __init__(self, cpu: CpuModel, registers: RegisterFile, events: Events, selection: Selection) -> None:
        self._cpu = cpu
        self._registers = registers
        self._events = events
        self._selection = selection

    def borrowed(self, occasion: Occasion) -> bool:
        """Whether microcode takes counter 3 for a transaction (Linux 400816f60c54, "TSX Force Abort")."""
        if "tfa" not in self._cpu.quirks or occasion.transaction is None or not self._cpu.gp_mask >> BORROWED & 1:
            return False
        return not self._registers.tsx_force_abort >> RTM_FORCE_ABORT & 1

    def deal(self, occasion: Occasion, guest: bool) -> list[Share]:
        """Return the shares of the counters that are enabled, GP before fixed; raise ValueError if it is not said.

        Parameters
        ----------
        occasion : Occasion
        guest : bool
            Guest mode of AMD.
        """
        return [*self._gp_shares(occasion, guest), *self._fixed_shares(occasion)]

    def _gp_shares(self, occasion: Occasion, guest: bool) -> Iterator[Share]:
        selection = self._selection
        for x in indices(self._cpu.gp_mask):
            if not selection.gp_enabled(x) or (x % 2 and selection.merged(x - 1)):
                continue
            own = selection.gp_admits(x, occasion.cpl)
            any_thread = selection.gp_any_thread(x)
            others = any_thread and selection.gp_admits_sibling(x, occasion.sibling_cpl)
            sibling = _sibling(f"PMC{x}", occasion, own, others) if any_thread else None
            if not own and sibling is None:
                continue
            self._refuse_reload(x, f"PMC{x}")
            selector = self._registers.selectors[x]
            if any_thread and (selector >> CMASK & 0xFF or selector >> EDGE & 1):
                raise ScenarioError(
                    f"PMC{x}, selector {selector:#x}: CMASK and edge detection of two threads together are not "
                    "simulated, not even with per_cycle or a sibling; clear AnyThread, or CMASK and E"
                )
            yield self._gp_share(x, occasion, own, sibling or {}, guest)

    def _gp_share(self, x: int, occasion: Occasion, own: bool, sibling: dict[str, int], guest: bool) -> Share:
        selector = self._registers.selectors[x]
        # On AMD these two bits belong to the event select.
        in_tx, in_txcp = (self._cpu.vendor == "intel" and selector >> bit & 1 for bit in (IN_TX, IN_TXCP))
        if (x == BORROWED and self.borrowed(occasion)) or (in_tx and occasion.transaction is None):
            return Share(x, 0)
        rolled_back = in_txcp and occasion.transaction == "abort"
        if rolled_back and not ("txcp_spurious" in self._cpu.quirks and selector >> INT & 1):
            return Share(x, 0)
        summed = not selector >> CMASK & 0xFF and not selector >> EDGE & 1
        hazard = summed and self._registers.enable_hazard
        event = "cycles" if hazard else self._events.selected(selector)
        got = sibling.get(event, 0)
        if own and summed:
            got += occasion.amounts.get(event, 0)
            got += 0 if hazard else self._flows(event, selector, x, occasion, guest)
        elif own:
            got += self._conditional(x, selector, event, occasion)
        if "ht_leak" in self._cpu.quirks:
            got += occasion.leaks.get(x, 0)
        return Share(x, 0, spurious=got) if rolled_back else Share(x, got)

    def _fixed_shares(self, occasion: Occasion) -> Iterator[Share]:
        selection = self._selection
        for m in indices(self._cpu.fixed_mask):
            if not selection.fixed_enabled(m):
                continue
            own = selection.fixed_admits(m, occasion.cpl)
            any_thread = selection.fixed_any_thread(m)
            others = any_thread and selection.fixed_admits_sibling(m, occasion.sibling_cpl)
            sibling = _sibling(f"FIXED_CTR{m}", occasion, own, others) if any_thread else None
            if not own and sibling is None:
                continue
            self._refuse_reload(16 + m, f"FIXED_CTR{m}")
            event = self._events.fixed(m)
            got = (sibling or {}).get(event, 0)
            if own:
                got += occasion.amounts.get(event, 0) + self._retirement_flows(event, occasion, False)
            yield Share(32 + m, got)

    def _refuse_reload(self, place: int, name: str) -> None:
        if self._registers.cfg_b[place]:
            raise ScenarioError(f"{name}: auto-counter-reload is not simulated; write 0 to its CFG_B")

    def _conditional(self, x: int, selector: int, event: str, occasion: Occasion) -> int:
        """Cycles in which CMASK's condition holds, or its rises (SDM vol. 3B 18.2.1.1)."""
        spread = occasion.distributions.get(event)
        if not selector >> EDGE & 1:
            if spread is None:
                raise ScenarioError(
                    f"PMC{x}, selector {selector:#x}: CMASK needs to know how often {event} occurs in each cycle; "
                    f"give per_cycle={{{event!r}: [cycles with 0 occurrences, with 1, ...]}}"
                )
            return _cycles_in(selector, spread)
        if event not in occasion.edges:
            raise ScenarioError(
                f"PMC{x}, selector {selector:#x}: edge detection needs to know how often {event} begins; "
                f"give edges={{{event!r}: n}}"
            )
        rises = occasion.edges[event]
        if spread is not None:
            inside = _cycles_in(selector, spread)
            most = min(inside, occasion.cycles - inside + 1)
            if rises > most:
                raise ScenarioError(
                    f"PMC{x}, selector {selector:#x}: the condition holds in {inside} of {occasion.cycles} cycles, so "
                    f"it begins at most {most} times, not edges={rises}"
                )
        return rises

    def _flows(self, event: str, selector: int, x: int, occasion: Occasion, guest: bool) -> int:
        got = self._retirement_flows(event, occasion, guest)
        if "amd_1292" in self._cpu.quirks and self._cpu.vendor == "amd":
            exact = x == 2 and selector >> 43 & 1 and not selector >> INT & 1
            if amd_event_select(selector) in ERRATUM_1292 and not exact:
                got += occasion.flows["erratum-1292"]
        return got

    def _retirement_flows(self, event: str, occasion: Occasion, guest: bool) -> int:
        """What is retired once more than the program says (Weaver, ISPASS 2013; Atom errata; kvm-unit-tests)."""
        quirks, flows, got = self._cpu.quirks, occasion.flows, 0
        if event == "instructions" and occasion.cpl > 0 and "irq_overcount" in quirks:
            got += flows["interrupt-return"]
        if event in ("instructions", "branches") and "atom_far_overcount" in quirks:
            got += flows["far-transfer"]
        if event == "instructions" and "atom_far_overcount_instructions" in quirks:
            got += flows["far-transfer"]
        if event == "branches" and guest and "amd_vmrun_branch" in quirks:
            got += flows["vmrun"]
        return got


def _sibling(name: str, occasion: Occasion, own: bool, others: bool) -> dict[str, int] | None:
    """Events that an AnyThread counter may get from the other thread; None if it takes nothing from it."""
    if occasion.sibling is None and own:
        raise ScenarioError(f"{name}: AnyThread needs to know what the other thread does; give sibling={{...}}")
    return occasion.sibling if others else None


def _cycles_in(selector: int, spread: dict[int, int]) -> int:
    """Count the cycles in which a selector's condition holds; with CMASK = 0, those in which anything occurs."""
    mask, inverted, equal = selector >> CMASK & 0xFF, selector >> INV & 1, selector >> EQ & 1
    if mask == 0:
        return sum(cycles for number, cycles in spread.items() if number > 0)
    holds = {number: (number == mask if equal else number >= mask) != bool(inverted) for number in spread}
    return sum(cycles for number, cycles in spread.items() if holds[number])
