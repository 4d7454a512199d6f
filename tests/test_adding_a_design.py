"""The worked example of docs/designs.md, built outside the source tree: no file of the machine knows of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine_runs import agreed

import vpmu
from vpmu import _registry, testing
from vpmu._scenario import plan

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("lazy", "stepwise", "reference")


def compile_cython(source: Path) -> None:
    """Translate and compile one module in place."""
    c_file, target = source.with_suffix(".c"), source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    include = sysconfig.get_paths()["include"]
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(ROOT / "src"), str(source), "-o", str(c_file)]
    subprocess.run(cython, check=True, capture_output=True)
    compiler = shutil.which("cc") or "gcc"
    flags = ["-shared", "-fPIC", "-O1", "-fno-strict-aliasing", f"-I{include}"]
    subprocess.run([compiler, *flags, str(c_file), "-o", str(target)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Any]]:
    """The page's three blocks as modules, and the class of the last."""
    pytest.importorskip("Cython", reason="the example has a compiled module")
    if not shutil.which("cc") and not shutil.which("gcc"):
        pytest.skip("no C compiler")
    text = (ROOT / "docs" / "designs.md").read_text()
    reactions, reference, description = re.findall(r"```(?:cython|python)\n(.*?)```", text, re.DOTALL)
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "register_oriented.pyx").write_text(reactions)
    (folder / "slow_register_oriented.py").write_text(reference)
    (folder / "described_register_oriented.py").write_text(description)
    compile_cython(folder / "register_oriented.pyx")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield __import__("described_register_oriented").RegisterOriented


@pytest.fixture
def registered(example: type[Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One row of the registry."""
    name: str = example.name
    monkeypatch.setitem(_registry._REGISTRY, name, example)
    return name


def scenario(design: Any, **changes: Any) -> vpmu.Scenario:
    fields: dict[str, Any] = {
        "cpu": "emeraldrapids",
        "workload": "windows-legacy-io",
        "guest_perf": ["record:branches,instructions:period=20011", "stat:cycles"],
        "seconds": "0.002",
    }
    return vpmu.Scenario(design=design, **fields | changes)


@pytest.mark.parametrize("workload", ["windows-legacy-io", "hackbench", "fio-4k-read"])
def test_all_engines_agree_and_count_exactly(registered: str, workload: str) -> None:
    agreed(plan(scenario(registered, workload=workload, host_perf=["watchdog"])))
    result = vpmu.simulate(scenario(registered, workload=workload))
    testing.assert_exact(result)
    testing.assert_conserved(result)
    assert result.raw["handlers"] > 5


def test_it_is_in_the_lists_and_in_compare(registered: str) -> None:
    assert vpmu.designs()[-1] == registered
    results = vpmu.compare(scenario("none"), ["emulated", registered])
    mine, emulated = results[registered], results["emulated"]
    assert mine.raw["creates"] == mine.raw["reprograms"] == 0
    assert mine.to_dict()["passed_through"] == []
    # Every access exits in both, but only one of them has perf events to move.
    assert mine.overhead is not None
    assert emulated.overhead is not None
    assert mine.overhead < emulated.overhead
    host = vpmu.simulate(scenario(registered, host_perf=["watchdog"])).host_events[0]
    assert host.losses == {"ceded": host.ideal}


def test_an_object_needs_no_row(example: type[Any]) -> None:
    assert example.name not in vpmu.designs()
    counts = {engine: [c.value for c in vpmu.simulate(scenario(example()), engine).counters] for engine in ENGINES}
    assert counts["lazy"] == counts["stepwise"] == counts["reference"]
