"""What a run is asked for besides its counters: instructions by origin, cycles by cost, PMIs by fate."""

from __future__ import annotations

from .._costs import COST_NAMES

CLASSES = ("rdmsr", "rdpmc", "wrmsr_counter", "wrmsr_selector", "wrmsr_global", "wrmsr_lvtpc")
PHASES = ("setup", "run", "readout")
ORIGINS = ("host", "hypervisor", "guest")
PMU_REASONS = ("MSR_WRITE", "MSR_READ", "RDPMC", "EXTERNAL_INTERRUPT", "EXCEPTION_NMI")

#: The primitive that an instruction of each class costs.
COST_OF_CLASS = {
    "rdmsr": "rdmsr",
    "rdpmc": "rdpmc",
    "wrmsr_counter": "wrmsr",
    "wrmsr_selector": "wrmsr",
    "wrmsr_global": "wrmsr",
    "wrmsr_lvtpc": "wrmsr_lvtpc",
}


#: What a switch sequence can leave behind, miss, or let count.
BREACHES = ("selectors", "fixed_fields", "counters", "status", "lvtpc", "not_loaded", "host_counts")


class Tally:
    """Everything that is only ever added to.

    Parameters
    ----------
    exits : int
        Number of kinds of exit in the plan.
    """

    def __init__(self, exits: int) -> None:
        self.phase = PHASES[0]
        self.exits = [0] * exits
        self.pmu_exits = dict.fromkeys(PMU_REASONS, 0)
        self.host_interrupts = 0
        self.switches = 0
        self.refused = 0
        self.handlers = 0
        self.reprograms = 0
        self.creates = 0
        self.breaches = dict.fromkeys(BREACHES, 0)
        self.pmi = dict.fromkeys(("raised", "delivered", "coalesced", "lost", "skid_past_exit"), 0)
        self.host_pmi = dict.fromkeys(("raised", "handled", "coalesced", "lost"), 0)
        self.spent = dict.fromkeys((*COST_NAMES, "handling", "idle"), 0)
        self.ops = {p: {o: dict.fromkeys(CLASSES, 0) for o in ORIGINS} for p in PHASES}
        self.guest_accesses = {p: {how: dict.fromkeys(CLASSES, 0) for how in ("direct", "trapped")} for p in PHASES}

    def op(self, origin: str, kind: str) -> None:
        """Count one executed instruction."""
        self.ops[self.phase][origin][kind] += 1

    def guest_access(self, kind: str, trapped: bool) -> None:
        """Count one access of the guest; a trapped one is not executed."""
        self.guest_accesses[self.phase]["trapped" if trapped else "direct"][kind] += 1
        if not trapped:
            self.op("guest", kind)


def add(ledger: dict[str, int], cause: str, n: int) -> None:
    """Add to a cause of a ledger, which has no zero entries."""
    if n:
        ledger[cause] = ledger.get(cause, 0) + n
