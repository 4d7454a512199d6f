"""CPU models and presets: the files of ``data/cpus``."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from typing import Any

from ._costs import CostModel, figure
from ._cpu_model import FEATURES as FEATURES
from ._cpu_model import VERSIONS as VERSIONS
from ._cpu_model import Constraint as Constraint
from ._cpu_model import CpuModel as CpuModel
from ._cpu_model import Skid as Skid
from ._data import data_names, data_text
from ._errors import UnknownName


def _constraint(row: Mapping[str, Any]) -> Constraint:
    code: str = row["code"]
    if "-" in code:
        first, last = code.split("-")
        low, high, umask = int(first, 16), int(last, 16), None
    elif len(code) == 4:
        low = high = int(code[2:], 16)
        umask = int(code[:2], 16)
    else:
        low = high = int(code, 16)
        umask = None
    return Constraint(low, high, umask, _mask(row["gp"]), _mask(row["fixed"]), row.get("umask_mask", 0xFF))


def _constraints(table: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Rows of the microarchitecture that the preset names."""
    if "constraints_of" not in table:
        return ()
    rows = tomllib.loads(data_text("constraints", f"{table['constraints_of']}.toml"))["constraints"]
    return tuple(_constraint(row) for row in rows)


def _mask(counters: list[int]) -> int:
    return sum(1 << index for index in counters)


#: Integer keys of ``[pmu]`` that a preset may leave out.
_OPTIONAL = (
    *("signature", "architectural_events", "event_vector_length", "pebs_enable_mask", "misc_enable_ignored"),
    *("pebs_caps", "df_counters"),
)


def cpus() -> tuple[str, ...]:
    """Names of the CPU presets, sorted."""
    return data_names("cpus")


def with_costs() -> tuple[str, ...]:
    """Names of the presets on which scenarios can run."""
    return tuple(name for name in cpus() if cpu(name).costs)


@functools.cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(data_text("cpus", f"{name}.toml"))


def same_pmu(name: str) -> tuple[int, ...]:
    """Signatures of other CPUs that have the PMU of a preset."""
    return tuple(_table(name)["pmu"].get("also", ()))


def not_of_relatives(name: str) -> frozenset[str]:
    """Quirks of a preset that are documented for its own family and model, not for those of :func:`same_pmu`."""
    return frozenset(_table(name)["pmu"].get("also_without", ()))


@functools.cache
def cpu(name: str) -> CpuModel:
    """Look up a CPU preset.

    Parameters
    ----------
    name : str
        A code name in lower case, one of :func:`cpus`.

    Returns
    -------
    CpuModel

    Raises
    ------
    UnknownName
        With the nearest names.
    """
    if name not in cpus():
        raise UnknownName("CPU", name, cpus())
    table = _table(name)
    pmu = table["pmu"]
    skid = table["skid"]
    core_gp_mask = _mask(pmu["gp_counters"])
    costs = {key: figure(value) for key, value in table.get("costs", {}).items()}
    optional: dict[str, Any] = {key: pmu[key] for key in _OPTIONAL if key in pmu}
    optional |= {key: tuple(pmu[key]) for key in ("acr", "pebs_masks") if key in pmu}
    model = CpuModel(
        name=name,
        summary=table["summary"],
        vendor=table["vendor"],
        version=pmu["version"],
        gp_mask=core_gp_mask,
        fixed_mask=_mask(pmu["fixed_counters"]),
        gp_width=pmu["gp_width"],
        fixed_width=pmu["fixed_width"],
        perf_capabilities=pmu["perf_capabilities"],
        anythread_deprecated=pmu["anythread_deprecated"],
        pin_control_writable=pmu["pin_control_writable"],
        features=frozenset(pmu["features"]),
        slots_per_cycle=pmu["slots_per_cycle"],
        exit_save_global_ctrl=table["vmx"]["exit_save_global_ctrl"] if "vmx" in table else False,
        core_hz=figure(table["clocks"]["core_hz"]),
        tsc_hz=figure(table["clocks"]["tsc_hz"]),
        bus_cycles_hz=figure(table["clocks"]["bus_cycles_hz"]),
        skid=Skid(skid["minimum"], skid["maximum"], skid["quality"], skid["source"]),
        costs=CostModel(costs) if costs else None,
        constraints=_constraints(table),
        possible_quirks=frozenset(pmu.get("possible_quirks", ())),
        core_gp_mask=core_gp_mask,
        cpuid_overrides=tuple((row["leaf"], row["subleaf"], tuple(row["value"])) for row in table.get("cpuid", ())),
        **optional,
    )
    return model.with_quirks(**dict.fromkeys(pmu.get("quirks", ()), True))
