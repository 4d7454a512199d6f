"""The vPMU designs by name: one row for each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from ._designs import BareMetal, Dedicated, Design, Emulated, FilteredDesign, Mediated, NoPmu
from ._direct_capture import DirectCapture
from ._errors import ScenarioError, UnknownName
from ._filter_schedule import read_event_filter, schedule_of_table
from ._mediated_semi import MediatedSemi
from ._passthrough import Passthrough
from ._virtualized import Virtualized

#: One row for each design, in the order in which ``compare`` shows them.
_REGISTRY: dict[str, Callable[..., Design]] = {
    made.name: made
    for made in (
        NoPmu,
        BareMetal,
        Emulated,
        DirectCapture,
        Mediated,
        MediatedSemi,
        Passthrough,
        Virtualized,
        Dedicated,
    )
}


def designs() -> tuple[str, ...]:
    """Names of the designs, in the order in which ``compare`` shows them."""
    return tuple(_REGISTRY)


def design(spec: str | Design) -> Design:
    """Make a design from ``NAME[,key=value…]``.

    Parameters
    ----------
    spec : str or Design
        A design object is returned as it is.

    Returns
    -------
    Design

    Raises
    ------
    UnknownName
        For an unknown name, option or value.
    """
    if isinstance(spec, Design):
        return spec
    name, *options = spec.split(",")
    if name not in _REGISTRY:
        raise UnknownName("design", name, _REGISTRY)
    make = _REGISTRY[name]
    fields = {field.name: field for field in dataclasses.fields(make)}  # type: ignore[arg-type]  # every row is a dataclass
    arguments: dict[str, str | bool] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in fields:
            raise UnknownName(f"option of design {name}", key, fields or ("(none)",))
        if isinstance(fields[key].default, bool):
            if value.lower() not in ("true", "false"):
                raise ScenarioError(f"design {spec!r}: {key} must be true or false, not {value!r}")
            arguments[key] = value.lower() == "true"
        else:
            arguments[key] = value
    return make(**arguments)


def with_event_filter(spec: str, given: object, path: str) -> Design:
    """A design of a scenario file with the file's own ``event_filter``: a table, or a file's name relative to it.

    Parameters
    ----------
    spec : str
    given : object
        What the scenario file has.
    path : str
        The scenario file.

    Returns
    -------
    Design

    Raises
    ------
    EventFilterError, UnknownName, ScenarioError
    """
    made = design(spec)
    if not isinstance(made, FilteredDesign):
        takers = ", ".join(name for name in _REGISTRY if isinstance(design(name), FilteredDesign))
        raise ScenarioError(f"{path}: design {made.name} has no event filter; those that have one: {takers}")
    if made.event_filter:
        raise ScenarioError(f"{path}: give event_filter as a key or in design, not both")
    if isinstance(given, dict):
        schedule = schedule_of_table(given, f"{path}: event_filter")
    elif isinstance(given, str):
        schedule = read_event_filter(os.path.join(os.path.dirname(path), given))
    else:
        raise ScenarioError(f"{path}: event_filter is a table or the name of a file, not {given!r}")
    return dataclasses.replace(made, event_filter=schedule)
