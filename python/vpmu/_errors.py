"""The errors of vpmu: every one derives from :class:`VpmuError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VpmuError(Exception):
    """Base class of every error that vpmu raises on purpose."""


class UnknownName(VpmuError, ValueError):
    """A name that is not in a registry; the message lists the nearest ones.

    Parameters
    ----------
    kind : str
        What the name should have been, for example ``"CPU"``.
    name : str
        The name that was given.
    known : iterable of str
        The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) if isinstance(name, str) else []
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
        self.kind = kind
        self.name = name
        self.near = tuple(near)
        self._arguments = (kind, name, names)

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return type(self), self._arguments


class ScenarioError(VpmuError, ValueError):
    """A scenario, workload, event or option that cannot be simulated as given."""


class RecordingError(VpmuError, ValueError):
    """A recording that cannot be read.

    Parameters
    ----------
    path : str
        The file.
    line : int or None
        1-based line number, or None when the whole file is meant.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, path: str, line: int | None, message: str) -> None:
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line
        self.message = message

    def __reduce__(self) -> tuple[type[RecordingError], tuple[str, int | None, str]]:
        return type(self), (self.path, self.line, self.message)


class EventFileError(VpmuError, ValueError):
    """A file of events that cannot be read.

    Parameters
    ----------
    path : str
        The file.
    entry : str or None
        Number of the entry from 1 with its event's name, or None when the whole file is meant.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, path: str, entry: str | None, message: str) -> None:
        where = f"{path}: entry {entry}" if entry is not None else f"{path}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.entry = entry
        self.message = message

    def __reduce__(self) -> tuple[type[EventFileError], tuple[str, str | None, str]]:
        return type(self), (self.path, self.entry, self.message)


class GeneralProtectionFault(VpmuError):
    """#GP(0): the access faulted and changed nothing.

    Parameters
    ----------
    msr : int
        MSR address, or the value of ECX for RDPMC.
    value : int or None
        The value that was written; None for a read.
    reason : str
        The rule that was broken.
    instruction : {"MSR", "RDPMC"}
        What ``msr`` is: an MSR's address, or ECX of RDPMC.
    """

    def __init__(self, msr: int, value: int | None, reason: str, instruction: str = "MSR") -> None:
        what = f"{instruction} {msr:#x}" if value is None else f"{instruction} {msr:#x} <- {value:#x}"
        super().__init__(f"#GP(0): {what}: {reason}")
        self.msr = msr
        self.value = value
        self.reason = reason
        self.instruction = instruction

    def __reduce__(self) -> tuple[type[GeneralProtectionFault], tuple[int, int | None, str, str]]:
        return type(self), (self.msr, self.value, self.reason, self.instruction)


class EventFilterError(ScenarioError):
    """An event filter that KVM_SET_PMU_EVENT_FILTER refuses.

    Parameters
    ----------
    errno : {"EINVAL", "E2BIG"}
        The ioctl's error.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, errno: str, message: str) -> None:
        super().__init__(f"event filter: {errno}: {message}")
        self.errno = errno
        self._arguments = (errno, message)

    def __reduce__(self) -> tuple[type[EventFilterError], tuple[str, str]]:
        return type(self), self._arguments
