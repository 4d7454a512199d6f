"""Runs of a guest's perf, and what they counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import vpmu

CLASSES = ("rdmsr", "wrmsr_selector", "wrmsr_counter", "wrmsr_global", "rdpmc", "wrmsr_lvtpc")


def cpu() -> vpmu.CpuModel:
    """Eight general-purpose and three fixed counters, which unmask LVTPC late."""
    return dataclasses.replace(vpmu.cpu("emeraldrapids"), fixed_mask=7)


def simulated(*perf: str, hz: int = 250, seconds: Any = 1, design: str = "bare-metal", **more: Any) -> vpmu.Result:
    values = {"cpu": cpu(), "workload": "sysbench-cpu", "guest_perf": perf, "guest_hz": hz} | more
    return vpmu.simulate(vpmu.Scenario(design=design, seconds=seconds, **values))


def accesses(result: vpmu.Result, *phases: str) -> dict[str, int]:
    ways = [result.raw["guest_accesses"][phase][way] for phase in phases for way in ("direct", "trapped")]
    return {c: sum(way[c] for way in ways) for c in CLASSES}


def times(n: int, perf: str, event: str = "instructions") -> str:
    return perf.format(",".join([event] * n))
