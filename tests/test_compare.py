"""What ``compare`` does where a design cannot do what is asked."""

import subprocess
import sys

import pytest

import vpmu


def test_events_that_fit_only_some_designs_are_a_row_with_a_reason():
    scenario = vpmu.Scenario(design="dedicated", guest_perf=("stat:slots",), seconds="0.001")
    results = vpmu.compare(scenario)
    assert results["dedicated"].counters[0].value > 0
    for name in ("emulated", "mediated"):
        assert results[name].overhead is None
        assert "slots" in results[name].reason


def test_events_that_fit_no_design_are_an_error():
    scenario = vpmu.Scenario(design="dedicated", guest_perf=("stat:slots",), seconds="0.001")
    with pytest.raises(vpmu.ScenarioError, match="slots"):
        vpmu.compare(scenario, ["none", "emulated", "mediated"])


def test_closed_standard_output_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m vpmu.cli compare idle --seconds 0.001 --format json >&-",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
