"""What ``vpmu list cpus`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._cpu import CpuModel, cpu, cpus
from ._quirks import QUIRKS

#: Under the table.
CPUS_NOTE = (
    "caps: IA32_PERF_CAPABILITIES; AMD: core, northbridge and L3 extensions, freeze on PMI. runs: costs are known,\n"
    "so that compare and run can simulate it (vpmu.Pmu has every CPU). quirks: those that are on, but for\n"
    "pmi_skid, which is on everywhere; --format json explains them, and has those that can be turned on."
)
#: Features of AMD in the column of capabilities.
_SHORT = {
    "perfctr_core": "core",
    "perfctr_nb": "nb",
    "perfctr_llc": "l3",
    "perfmon_v2_freeze": "frz",
}


def _indices(mask: int) -> str:
    """A bitmap as a count, or as ranges of indices if it has holes."""
    if not mask & mask + 1:
        return str(mask.bit_count())
    found = [i for i in range(mask.bit_length()) if mask >> i & 1]
    starts = [i for i in found if i - 1 not in found]
    ends = [i for i in found if i + 1 not in found]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _capabilities(model: CpuModel) -> str:
    if model.vendor == "intel":
        return f"{model.perf_capabilities:#x}"
    return " ".join(short for name, short in _SHORT.items() if name in model.features) or "legacy"


def cpu_rows() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the table."""
    columns = ("name", "vendor", "ver", "gp", "fixed", "width", "caps", "runs", "quirks")
    rows: list[tuple[str, ...]] = []
    for model in map(cpu, cpus()):
        shown = sorted(model.quirks - {"pmi_skid"})
        runs = "yes" if model.costs else "no"
        row = (model.name, model.vendor, str(model.version), _indices(model.gp_mask), _indices(model.fixed_mask))
        rows.append((*row, str(model.gp_width), _capabilities(model), runs, " ".join(shown)))
    return columns, rows


def _explained(names: Iterable[str]) -> dict[str, str]:
    return {name: QUIRKS[name] for name in sorted(names)}


def cpu_dicts() -> list[dict[str, Any]]:
    """Everything about every preset, as plain values."""
    return [
        {
            "name": model.name,
            "summary": model.summary,
            "vendor": model.vendor,
            "signature": model.signature,
            "version": model.version,
            "gp": model.gp_counters,
            "fixed": model.fixed_counters,
            "gp_mask": model.gp_mask,
            "fixed_mask": model.fixed_mask,
            "core_gp_mask": model.core_gp_mask,
            "gp_width": model.gp_width,
            "fixed_width": model.fixed_width,
            "perf_capabilities": model.perf_capabilities,
            "features": sorted(model.features),
            "slots_per_cycle": model.slots_per_cycle,
            "clocks": {
                name: {"hz": clock.value, "quality": clock.quality, "source": clock.source}
                for name, clock in (
                    ("core", model.core_hz),
                    ("tsc", model.tsc_hz),
                    ("bus_cycles", model.bus_cycles_hz),
                )
            },
            "scenarios": model.costs is not None,
            "quirks": _explained(model.quirks),
            "possible_quirks": _explained(model.possible_quirks),
        }
        for model in map(cpu, cpus())
    ]
