import numpy as np
import numpy.typing as npt

CHUNK: int
BANKS: int

def sum_chunks(
    gap: npt.NDArray[np.int64],
    kind: npt.NDArray[np.uint16],
    handling: npt.NDArray[np.int64],
    idle: npt.NDArray[np.int64],
    bound: npt.NDArray[np.int64],
    bank: npt.NDArray[np.uint64],
    gaps: npt.NDArray[np.uint64],
    idled: npt.NDArray[np.uint64],
    count: npt.NDArray[np.uint32],
    handled: npt.NDArray[np.uint64],
    within: npt.NDArray[np.uint64],
) -> None: ...
