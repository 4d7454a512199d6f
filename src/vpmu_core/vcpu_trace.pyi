from array import array
from typing import Protocol, Self

ROW: tuple[tuple[str, str], ...]
FLAGS: dict[str, int]

class _Spool(Protocol):
    def write(self, rows: bytes, /) -> int: ...
    def share(self) -> int: ...

class TraceClock:
    now: int
    absolute: int
    epoch: int
    breaks: int
    gap_ns: int
    def tick(self, absolute: int) -> int: ...
    def new_epoch(self) -> None: ...

class VcpuTimeline:
    clock: TraceClock
    count: int
    begin: int
    end: int
    begin_absolute: int
    end_absolute: int
    first: int
    last: int
    breaks: int
    dropped: int
    preempted_ns: int
    gap_ns: int
    hint: int | None
    chunks: array[int]
    number: int | None
    def __new__(cls, clock: TraceClock, spool: _Spool, number: int | None, hint: int | None) -> Self: ...
    def leave(self, reason: int, is_msr: bool, write: bool, drop: bool) -> bool: ...
    def entry(self) -> bool: ...
    def access(self, msr: int, reason: int, write: bool, drop: bool) -> bool: ...
    def userspace(self) -> None: ...
    def switch_out(self, preempted: bool) -> None: ...
    def switch_in(self) -> None: ...
    def finish(self) -> None: ...
    def make_room(self) -> None: ...
