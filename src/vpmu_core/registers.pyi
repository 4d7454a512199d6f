from collections.abc import Iterable, Mapping

from vpmu._cpu import CpuModel
from vpmu._registers import Msr

WORDS: dict[str, int]

class RegisterFile:
    @property
    def cpu(self) -> CpuModel: ...
    def __init__(
        self, cpu: CpuModel, rows: Iterable[Msr], codes: Mapping[int, int], figures: Mapping[str, int]
    ) -> None: ...
