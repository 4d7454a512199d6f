"""Plans as JSON files: what a comparison of engines leaves behind when they differ, and what replays it.

A scenario file cannot say these plans: it has rates of a workload, not one for each activity and event, and calibrated
exits, not gaps and alias tables. So the plan itself is written.

    python tests/plan_files.py FILE…     run the engines on them; status 1 if they differ
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from machine_runs import fast

import vpmu
import vpmu._plan
from vpmu._costs import COST_NAMES
from vpmu._plan import Plan
from vpmu.reference import machine as slow

#: Plans that once made a difference, or that only a wrong engine would get wrong; test_lazy.py runs them all.
KEPT = Path(__file__).resolve().parent / "plans"
FOUND = Path(os.environ.get("VPMU_DIFFERENCES", ".hypothesis/differences"))
SCALARS = (bool, int, str, type(None))
_TYPES = {
    type_.__name__: type_
    for type_ in (*vars(vpmu._plan).values(), vpmu.Skid)
    if isinstance(type_, type) and dataclasses.is_dataclass(type_)
}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _encode(value: Any) -> Any:
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, (tuple, list)):
        return [_encode(entry) for entry in value]
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, vpmu.Sequence):
        parts = (value.name, value.summary, value.source, *map(list, (value.load, value.put, value.exit, value.entry)))
        parts = (*parts, value.by_hardware, value.vendor)
        return {"sequence": json.loads(json.dumps(parts, default=dict))}
    if isinstance(value, vpmu.CpuModel):
        # Derived from a preset, possibly by what a hypervisor shows of it: only differences are written.
        preset = next(name for name in vpmu.cpus() if value.name.startswith(name))
        usual = _fields(vpmu.cpu(preset))
        changed = {name: entry for name, entry in _fields(value).items() if entry != usual[name]}
        return {"cpu": preset, "with": {name: _encode(entry) for name, entry in changed.items()}}
    if dataclasses.is_dataclass(value):
        assert _TYPES[type(value).__name__] is type(value)
        return {"type": type(value).__name__, **{name: _encode(entry) for name, entry in _fields(value).items()}}
    if isinstance(value, (dict, Mapping, types.MappingProxyType)):
        return {"mapping": {name: _encode(entry) for name, entry in value.items()}}
    raise TypeError(f"{value!r} has no form in a plan file")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(entry) for entry in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    if "set" in value:
        return frozenset(value["set"])
    if "sequence" in value:
        name, summary, source, *rest = value["sequence"]
        return vpmu.Sequence(name, summary, source, *(tuple(e) if isinstance(e, list) else e for e in rest))
    if "cpu" in value:
        changed = {name: _decode(entry) for name, entry in value["with"].items()}
        return dataclasses.replace(vpmu.cpu(value["cpu"]), **changed)
    if "mapping" in value:
        return {name: _decode(entry) for name, entry in value["mapping"].items()}
    return _TYPES[value["type"]](**{name: _decode(entry) for name, entry in value.items() if name != "type"})


def dumps(planned: Plan) -> str:
    """A plan as JSON, one field a line."""
    fields = [f" {json.dumps(name)}: {json.dumps(_encode(entry))}" for name, entry in _fields(planned).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def loads(text: str) -> Plan:
    """The plan that :func:`dumps` wrote; fields that have come since have what a plan has without them, costs 0."""
    fields = {name: _decode(entry) for name, entry in json.loads(text).items()}
    fields["costs"] = {name: fields["costs"].get(name, 0) for name in COST_NAMES}
    return Plan(**fields)


def run(planned: Plan, engine: str) -> dict[str, Any]:
    if engine == "reference":
        return slow.run(planned)
    return fast(planned, engine)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Each integer that two results do not share, with its place."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [line for i in range(len(one)) for line in differences(one[i], other[i], f"{where}[{i}]")]
    return [] if one == other else [f"{where[1:]}: {one} {other}"]


def assert_engines_agree(
    planned: Plan, engines: tuple[str, ...] = ("lazy", "stepwise"), test: str = ""
) -> dict[str, Any]:
    """Every field of the result is the same from all engines; if not, the plan is written to a file.

    While hypothesis shrinks a difference, each smaller one replaces the file; the last one stays.
    """
    results = [run(planned, engine) for engine in engines]
    for other in range(1, len(engines)):
        different = differences(results[0], results[other])
        if different:
            FOUND.mkdir(parents=True, exist_ok=True)
            name = test or hashlib.sha256(dumps(planned).encode()).hexdigest()[:16]
            path = FOUND / f"{name}.json"
            path.write_text(dumps(planned))
            raise AssertionError(
                f"{engines[0]} and {engines[other]} differ, replay with python tests/plan_files.py {path}:\n"
                + "\n".join(different[:20])
            )
    return results[0]


def main(paths: list[str]) -> int:
    """Replay plan files on the two engines and the slow machine; 1 if they differ on one, 0 if they agree."""
    wrong = 0
    for path in paths:
        try:
            assert_engines_agree(loads(Path(path).read_text()), ("lazy", "stepwise", "reference"), Path(path).stem)
        except AssertionError as error:
            print(f"{path}: {error}")
            wrong += 1
        else:
            print(f"{path}: all engines agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
