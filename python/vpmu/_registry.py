"""The vPMU designs by name: one row for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ._designs import BareMetal, Dedicated, Design, Emulated, Mediated, NoPmu
from ._direct_capture import DirectCapture
from ._errors import ScenarioError, UnknownName
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
