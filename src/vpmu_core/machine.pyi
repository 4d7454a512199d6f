from typing import Any

from vpmu._plan import Plan
from vpmu_core.planned import Planned

CAUSE_NAMES: tuple[str | None, ...]
OP_NAMES: tuple[str, ...]
ORIGIN_NAMES: tuple[str, ...]
GUEST_TIMER_NAMES: tuple[str, ...]
PHASE_NAMES: tuple[str, ...]
PMU_EXIT_NAMES: tuple[str, ...]
BREACH_NAMES: tuple[str, ...]

class Machine(Planned):
    @property
    def progress(self) -> tuple[int, int]: ...
    def __init__(self, plan: Plan, engine: str = "lazy") -> None: ...
    def advance(self) -> bool: ...
    def extend(self, end: int) -> None: ...
    def result(self) -> dict[str, Any]: ...
