"""Synthetic traces of any length, to try what long ones cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vpmu._errors import ScenarioError

MOST_EXITS = 10**9

_BLOCK = 1 << 14
_START_US = 100_000_000

_TASK = " CPU 0/KVM-4242  [003] d..1. %d.%06d: "
_EXIT = _TASK + "kvm_exit: reason {} rip 0xffffffff81a5f4c6 info {}\n"
_MSR = _TASK + "kvm_msr: msr_write {} = 0x{}\n"
_ENTRY = _TASK + "kvm_entry: vcpu 0\n"

# (share of 16, reason and what ftrace prints after it, MSR written, least handling in us, bits of randomness in it)
_KINDS: tuple[tuple[int, str, str, str, int, int], ...] = (
    (6, "EPT_MISCONFIG", "0 0", "", 2, 2),
    (3, "MSR_WRITE", "0 0", "6e0", 1, 1),
    (2, "MSR_WRITE", "0 0", "830", 1, 2),
    (2, "EXTERNAL_INTERRUPT", "0 800000ec", "", 2, 2),
    (2, "IO_INSTRUCTION", "1f00040 0", "", 4, 4),
    (1, "HLT", "0 0", "", 50, 8),
)


def _template(reason: str, info: str, msr: str) -> str:
    return _EXIT.format(reason, info) + (_MSR.format(msr, "8000000ec") if msr else "") + _ENTRY


def generate(exits: int, seed: int) -> Iterator[bytes]:
    """Make the text of an ftrace of one vCPU, in blocks of lines; the same arguments give the same text everywhere.

    Parameters
    ----------
    exits : int
        How many exits, 1 to 10**9; each is a ``kvm_exit`` and a ``kvm_entry``, those of MSRs a ``kvm_msr`` too: about
        190 bytes.
    seed : int
        0 or more.

    Raises
    ------
    ScenarioError
        For numbers out of range.
    """
    for what, number, least, most in (("exits", exits, 1, MOST_EXITS), ("seed", seed, 0, (1 << 64) - 1)):
        if not least <= number <= most:
            raise ScenarioError(f"{what} {number} must be from {least} to {most}")
    return _blocks(exits, seed)


def _blocks(exits: int, seed: int) -> Iterator[bytes]:
    of_sixteen = np.repeat(np.arange(len(_KINDS)), [share for share, *_ in _KINDS])
    least = np.array([kind[4] for kind in _KINDS])
    masks = np.array([(1 << kind[5]) - 1 for kind in _KINDS])
    templates = [_template(reason, info, msr) for _, reason, info, msr, _, _ in _KINDS]
    writes = [bool(kind[3]) for kind in _KINDS]
    bits = np.random.PCG64(seed)  # the raw bits of a bit generator are the same in every version of numpy
    now = _START_US
    for start in range(0, exits, _BLOCK):
        raw = bits.random_raw(min(_BLOCK, exits - start))
        kind = of_sixteen[raw & 15]
        guest = 1 + (raw >> 4 & 31).astype(np.int64)
        handling = least[kind] + ((raw >> 12).astype(np.int64) & masks[kind])
        entry = now + np.cumsum(guest + handling)
        leave = entry - handling
        now = int(entry[-1])
        lines = []
        for k, *leave_at, s, us in zip(
            kind.tolist(),
            *(column.tolist() for moment in (leave, entry) for column in np.divmod(moment, 10**6)),
            strict=True,
        ):
            lines.append(templates[k] % ((*leave_at, *leave_at, s, us) if writes[k] else (*leave_at, s, us)))
        yield "".join(lines).encode()
