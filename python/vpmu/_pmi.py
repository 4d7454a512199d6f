"""What a PMU delivers to its local APIC."""

from __future__ import annotations

from typing import NamedTuple


class Pmi(NamedTuple):
    """A delivered performance monitoring interrupt.

    Attributes
    ----------
    mode : str
        ``"fixed"``, ``"smi"`` or ``"nmi"``, from LVTPC bits 10:8.
    vector : int
        LVTPC bits 7:0.
    """

    mode: str
    vector: int
