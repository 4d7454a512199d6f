"""vpmu once more, in plain readable Python, written from the specification.

Nothing here is fast and nothing here shares code with the compiled core: where the two differ, one of them is
wrong. :class:`Pmu` has the same methods and returns the same integers as :class:`vpmu.Pmu`.
"""

from __future__ import annotations

from .pmu import OP_DTYPE, RESULT_DTYPE, Pmi, Pmu

__all__ = ["OP_DTYPE", "RESULT_DTYPE", "Pmi", "Pmu"]
