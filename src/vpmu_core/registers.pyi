from collections.abc import Iterable

from vpmu._cpu import CpuModel

class RegisterFile:
    @property
    def cpu(self) -> CpuModel: ...
    def __init__(self, cpu: CpuModel, rows: Iterable[tuple[int, int, int, int, int]]) -> None: ...
