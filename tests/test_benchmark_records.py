"""The scripts that compare benchmark runs: what they let pass and what they refuse."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(path, **ratios):
    rows = [
        {"group": "g", "name": name, "extra_info": {"unit": "exit", "ns_per_exit": 10 * ratio, "x_limit": ratio}}
        for name, ratio in ratios.items()
    ]
    rows.append({"group": None, "name": "unrecorded", "extra_info": {}})
    path.write_text(json.dumps({"machine_info": {"machine": "m", "python_version": "3"}, "benchmarks": rows}))
    return str(path)


@pytest.mark.parametrize(("after", "status"), [(1.9, 0), (2.0, 0), (2.59, 0), (2.61, 1), (20.0, 1)])
def test_a_ratio_may_grow_by_thirty_per_cent(tmp_path, capsys, after, status):
    before = record(tmp_path / "before.json", a=2.0, b=1.0)
    assert script("compare_runs").main([before, record(tmp_path / "after.json", a=after, b=1.0)]) == status
    assert ("SLOWER g: a: 2 ->" in capsys.readouterr().out) == bool(status)


def test_benchmarks_that_only_one_run_has_are_named(tmp_path, capsys):
    before, after = record(tmp_path / "before.json", a=2.0, b=1.0), record(tmp_path / "after.json", a=2.0, c=9.0)
    assert script("compare_runs").main([before, after]) == 1
    out = capsys.readouterr().out
    assert "only in the first: g: b" in out
    assert "only in the second: g: c" in out
    assert script("compare_runs").main([record(tmp_path / "less.json", a=2.0), after]) == 0


@pytest.mark.parametrize("text", ["", "{}", '{"benchmarks": []}', "[1]"])
def test_files_without_benchmarks_are_not_compared(tmp_path, capsys, text):
    before = record(tmp_path / "before.json", a=2.0)
    (tmp_path / "after.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        script("compare_runs").main([before, str(tmp_path / "after.json")])
    assert ended.value.code == 2
    assert "after.json: no benchmarks" in capsys.readouterr().err


def test_a_ratio_that_is_no_number_is_no_success(tmp_path):
    before = record(tmp_path / "before.json", a=2.0)
    assert script("compare_runs").main([before, record(tmp_path / "after.json", a=float("nan"))]) == 1


def test_table(tmp_path, capsys):
    assert script("compare_runs").main([record(tmp_path / "run.json", a=2.0)]) == 0
    assert "| g | a | 20 ns per exit | 2 |" in capsys.readouterr().out
    assert script("compare_runs").main([]) == 2


def test_instructions_are_gated_at_five_per_cent(tmp_path, monkeypatch, capsys):
    module = script("instructions")
    record = {"compiler": "cc 12", "instructions": dict.fromkeys(module.LOOPS, 100.0)}
    (tmp_path / "instructions.json").write_text(json.dumps(record))
    monkeypatch.setattr(module, "RECORD", tmp_path / "instructions.json")
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: type("Done", (), {"stdout": "cc 12\n"}))
    for per_turn, status in ((100, 0), (105, 0), (106, 1), (90, 0)):
        monkeypatch.setattr(module, "count", lambda script, length, n=per_turn: (length, 1000 + n * length))
        assert module.main([]) == status
    assert "GROWN" in capsys.readouterr().out
