import numpy as np
import numpy.typing as npt

from vpmu._plan import Plan

COLUMNS: dict[str, int]
TOTALS: tuple[str, ...]
GUEST_COLUMNS: int
HOST_COLUMNS: int

class Template:
    def __init__(self, plan: Plan, lazy: bool = True) -> None: ...
    @property
    def columns(self) -> int: ...
    def run(
        self,
        columns: npt.NDArray[np.uint32],
        parameters: npt.NDArray[np.uint64],
        out: npt.NDArray[np.uint64],
    ) -> None: ...
    def cancel(self) -> None: ...
