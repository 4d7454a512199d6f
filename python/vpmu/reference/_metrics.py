"""IA32_PERF_METRICS: fractions of the slots that FIXED_CTR3 counted, and the slots behind each (SDM, topdown)."""

from __future__ import annotations

from collections.abc import Sequence

from .._cpu import CpuModel

#: The events of the fields, lowest field first; the last four are of the second level.
METRIC_EVENTS = (
    *("topdown-retiring", "topdown-bad-spec", "topdown-fe-bound", "topdown-be-bound"),
    *("topdown-heavy-ops", "topdown-br-mispredict", "topdown-fetch-lat", "topdown-mem-bound"),
)


def levels(cpu: CpuModel) -> int:
    """Number of fields that the hardware computes; the others only hold what is written."""
    return 8 if "topdown_l2" in cpu.features else 4


def fields_of(cpu: CpuModel, perf_metrics: int, metrics_slots: Sequence[int], slots: int) -> int:
    """Return IA32_PERF_METRICS after counting: field i is 255 * metrics_slots[i] / slots, halves rounded up."""
    for i in range(levels(cpu)):
        ratio = min(255, (510 * metrics_slots[i] + slots) // (2 * slots)) if slots else 0
        perf_metrics = perf_metrics & ~(0xFF << 8 * i) | ratio << 8 * i
    return perf_metrics


def slots_of(cpu: CpuModel, perf_metrics: int, slots: int) -> list[int]:
    """Return the slots behind fields that software wrote, halves rounded up; 0 where no hardware counts them."""
    computed = [(2 * (perf_metrics >> 8 * i & 0xFF) * slots + 255) // 510 for i in range(levels(cpu))]
    return computed + [0] * (8 - len(computed))
