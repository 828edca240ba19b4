"""Runs as the tests of the plain SDK do, in an environment that has the frameworks too."""

import pytest
from loops import LOOPS
from support import held_turns, wait_until_idle


@pytest.fixture(params=LOOPS.values(), ids=LOOPS)
def loop(request):
    held = held_turns()
    yield request.param
    wait_until_idle()
    assert held_turns() == held, "a turn is still held"
