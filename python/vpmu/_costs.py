"""The cost model: cycles of each primitive, each figure with its source and quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from ._errors import ScenarioError, UnknownName

Quality = Literal["published", "derived", "assumed"]
QUALITIES: tuple[Quality, ...] = ("published", "derived", "assumed")

#: The primitives in the order in which the compiled core indexes them.
COST_NAMES: tuple[str, ...] = (
    "rdpmc",
    "rdmsr",
    "wrmsr",
    "wrmsr_lvtpc",
    "vm_exit",
    "vm_entry",
    "handling_fastpath",
    "handling_kernel",
    "handling_userspace",
    "handling_hlt",
    "fastpath_refused",
    "msr_emulation",
    "interrupt_exit",
    "pmi_injection",
    "perf_guest_context",
    "reprogram",
    "perf_create",
    "perf_release",
    "perf_pause",
    "perf_enable",
    "perf_period",
    "perf_resched_event",
    "perf_task_switch",
    "host_nmi",
    "guest_nmi_entry",
    "guest_sample",
    "guest_nmi_exit",
    "guest_perf_call",
    "msr_list_entry",
    "hardware_pmu_switch",
    "perf_rotate",
    "host_sample",
    "perf_tick",
    "vcpu_switch",
)


@dataclass(frozen=True)
class Figure:
    """One number with its provenance.

    Parameters
    ----------
    value : int
        The number, >= 0.
    unit : str
        ``"cycles"`` or ``"Hz"``.
    quality : {"published", "derived", "assumed"}
        How far to trust it.
    source : str
        Where it comes from.
    """

    value: int
    unit: str
    quality: Quality
    source: str

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not 0 <= self.value < 1 << 40:
            raise ScenarioError(f"a figure must be an integer in [0, 2**40), not {self.value!r}")
        if self.quality not in QUALITIES:
            raise ScenarioError(f"quality {self.quality!r} must be published, derived or assumed")


def figure(table: Mapping[str, Any]) -> Figure:
    """Make a :class:`Figure` of one table of a data file."""
    return Figure(
        value=table["value"],
        unit=table["unit"],
        quality=cast(Quality, table["quality"]),
        source=table["source"],
    )


class CostModel(Mapping[str, Figure]):
    """Cycles of each primitive of :data:`COST_NAMES`; immutable.

    Parameters
    ----------
    figures : mapping of str to Figure
        One figure for every name in :data:`COST_NAMES`.

    Raises
    ------
    UnknownName
        For a name that is no primitive.
    ScenarioError
        For a primitive without a figure.
    """

    def __init__(self, figures: Mapping[str, Figure]) -> None:
        for name in figures:
            if name not in COST_NAMES:
                raise UnknownName("cost", name, COST_NAMES)
        missing = [name for name in COST_NAMES if name not in figures]
        if missing:
            raise ScenarioError(f"the cost model lacks {', '.join(missing)}")
        self._figures = MappingProxyType({name: figures[name] for name in COST_NAMES})

    def __getitem__(self, name: str) -> Figure:
        try:
            return self._figures[name]
        except KeyError:
            raise UnknownName("cost", name, COST_NAMES) from None

    def __contains__(self, name: object) -> bool:
        return name in self._figures

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CostModel) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(tuple(self._figures.items()))

    def __reduce__(self) -> tuple[type[CostModel], tuple[dict[str, Figure]]]:
        return CostModel, (dict(self._figures),)

    def override(self, cycles: Mapping[str, int]) -> CostModel:
        """Return a copy with some figures replaced.

        Parameters
        ----------
        cycles : mapping of str to int
            Cycles by primitive; the quality of a replaced figure becomes ``"assumed"``.

        Returns
        -------
        CostModel
        """
        figures = dict(self._figures)
        for name, value in cycles.items():
            if name not in figures:
                raise UnknownName("cost", name, COST_NAMES)
            figures[name] = Figure(value, "cycles", "assumed", "given with the scenario")
        return CostModel(figures)
