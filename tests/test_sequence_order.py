"""What a loop of a switch sequence may hold: RDPMC, then the counter, then the selector, each at most once."""

import pytest

import vpmu

RDPMC = {"op": "rdpmc"}
COUNTER = {"op": "wrmsr", "register": "counter", "value": "guest"}
ZERO = {"op": "wrmsr", "register": "counter", "value": "zero"}
SELECTOR = {"op": "wrmsr", "register": "selector", "value": "guest"}
PUT = ({"op": "lvtpc", "value": "host"},)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([SELECTOR, COUNTER], "too late"),
        ([COUNTER, RDPMC], "too late"),
        ([RDPMC, RDPMC], "twice"),
        ([COUNTER, ZERO], "twice"),
        ([SELECTOR, SELECTOR], "twice"),
    ],
)
def test_odd_loops_are_refused(steps, why):
    with pytest.raises(vpmu.ScenarioError, match=why):
        vpmu.Sequence("odd", "", "", ({"for": "gp", "do": steps},), PUT)


def test_a_loop_in_order_compiles():
    sequence = vpmu.Sequence("plain", "", "", ({"for": "gp", "do": [RDPMC, COUNTER, SELECTOR]},), PUT)
    assert len(sequence.programs()[0]) == 1
