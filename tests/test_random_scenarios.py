"""Random scenarios as a user writes them: every design, both vendors, one to four vCPUs, host and guest perf.

What fails is left as a scenario file, the smallest that was found, for ``vpmu run``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from directed_plans import cpus_for, one_by_one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vpmu
from vpmu._result import WARNING
from vpmu._simulate import ENGINES
from vpmu.cli import _scenario_file, main

LAX = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
#: Unsafe: one counts hypervisor code for the guest, as was said in its review; one restores no STATUS, which the guests
#: of its own design cannot read.
UNSAFE = ("sequence=rfc-v1-reviewed", "mediated,sequence=semi-v2", "passthrough,sequence=semi-v2")
EVENTS = ("instructions", "cycles", "branches", "branch-misses", "cache-references", "cache-misses")
#: What one file may say of the guest's and of the host's perf.
GUEST = (
    *(f"stat:{event}" for event in EVENTS),
    "stat:" + ",".join(EVENTS),
    "stat:instructions,cycles,branches:interval=1",
    "record:instructions:period=100003",
    "record:cycles:freq=4000",
    "record:branches:period=20011:throttle",
    "record:" + ",".join(["instructions"] * 6) + ":freq=1000",
)
HOST = (
    *(
        f"{event}{how}"
        for event in ("cycles", "branches")
        for how in ("", ":pinned", ":exclude_guest", ":pinned:exclude_guest")
    ),
    "watchdog",
    "cycles:freq=4000:exclude_guest",
    "branches:period=20011",
    "instructions:exclude_host",
)
WORKLOADS = ("sysbench-cpu", "fio-4k-read", "hackbench", "pause-storm", "windows-legacy-io", "idle-nohz-off")


def dumps(table: dict[str, Any]) -> str:
    """The text of a scenario file."""
    plain = {key: value for key, value in table.items() if key != "vcpu"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for vcpu in table.get("vcpu", ()):
        lines += ["", "[[vcpu]]", *(f"{key} = {json.dumps(value)}" for key, value in vcpu.items())]
    return "\n".join(lines) + "\n"


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    design = draw(st.sampled_from([spec for spec in one_by_one() if not any(name in spec for name in UNSAFE)]))
    guest = st.lists(st.sampled_from(GUEST), max_size=2)
    table: dict[str, Any] = {
        "cpu": draw(st.sampled_from(cpus_for(design))),
        "design": design,
        "workload": draw(st.sampled_from(WORKLOADS)),
        "seconds": draw(st.sampled_from([0.0002, 0.001, 0.003])),
        "seed": draw(st.integers(0, 2**32)),
        "guest_perf": draw(guest),
        "host_perf": draw(st.lists(st.sampled_from(HOST), max_size=3)),
    }
    made = vpmu.design(design)
    if made.has_host and not made.cedes_pmu and draw(st.booleans()):
        table["slice_ms"] = draw(st.sampled_from([0.1, 1]))
        table["wakeup_preemption"] = draw(st.booleans())
        one = st.fixed_dictionaries({}, optional={"workload": st.sampled_from(WORKLOADS), "guest_perf": guest})
        table["vcpu"] = draw(st.lists(one, min_size=1, max_size=4))
    return table


def keep(table: dict[str, Any], folder: Path) -> Path:
    """Leave the scenario where whoever reads the failure finds it; a smaller one takes its place."""
    path = Path(os.environ.get("VPMU_DIFFERENCES", folder)) / "scenario.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(table))
    return path


def check(path: Path) -> None:
    """No machine differs from another, nothing is breached, and every ledger is closed."""
    try:
        results = {engine: vpmu.simulate(_scenario_file(str(path)), engine) for engine in ENGINES}
    except vpmu.ScenarioError:
        return  # what cannot be had together is refused, before anything runs
    first = results["stepwise"]
    for engine, result in results.items():
        assert result.raw == first.raw, f"{engine} and stepwise differ: vpmu run {path}"
    broken = [v for v in first.violations if not v.startswith(("no-progress", WARNING))]
    assert not broken, f"{broken}: vpmu run {path}"
    for counter in (*first.counters, *first.host_events):
        assert counter.value == counter.ideal - sum(counter.losses.values()) + sum(counter.gains.values()), path


@given(table=scenarios())
@LAX
def test_no_scenario_breaches_anything(table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    check(keep(table, tmp_path_factory.getbasetemp()))


def test_the_kept_file_is_what_vpmu_run_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {
        "cpu": "skylake",
        "design": "mediated",
        "seconds": 0.001,
        "guest_perf": ["stat:cycles"],
        "vcpu": [{}, {"workload": "hackbench", "guest_perf": []}],
    }
    path = keep(table, tmp_path)
    assert main(["run", str(path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows["vcpus"]) == 2
