"""`kill -9` of any one process in the middle of the demo, then `./kap up`: it can be finished, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.e2e.kap import Kap

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.chaos,
    pytest.mark.kafka,
    pytest.mark.timeout(900),
]

VICTIMS = (
    "sessions",
    "postgres",
    "kafka",
    *(
        pytest.param(service, marks=pytest.mark.slow)
        for service in ("gateway", "intake", "scheduling", "outcomes", "delivery", "hospital", "identity")
    ),
)
"""Every kind of process; the short form kills one of each layer. Relay and consumers are tasks in their service's
process: they die with it."""


@pytest.fixture(scope="module")
def kap(make_stack: Callable[..., Kap]) -> Kap:
    return make_stack("--kafka", "apache")


def in_the_middle(kap: Kap, demo: subprocess.Popen[str]) -> None:
    """Return once the demo's first doses are being charted."""
    before = kap.written("sessions")
    deadline = time.monotonic() + 120
    while kap.written("sessions") < before + 15:
        assert demo.poll() is None, f"The demo ended before anything could be killed:\n{demo.communicate()[0]}"
        assert time.monotonic() < deadline, "The demo does not move."
        time.sleep(0.05)


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_a_kill_the_demo_can_be_finished_and_nothing_is_lost_or_doubled(kap: Kap, victim: str) -> None:
    pid = kap.pid(victim)
    demo = kap.start("demo", "--patients", "2")
    in_the_middle(kap, demo)

    os.kill(pid, signal.SIGKILL)
    time.sleep(1.0)
    kap.must("up", "--detach")

    printed, _ = demo.communicate(timeout=300)
    if demo.returncode != 0:
        printed += kap.must("demo", "--patients", "2")
    assert "finished" in printed
    assert kap.pid(victim) != pid
    assert "Nothing is missing, nothing is doubled, nothing differs." in kap.must("verify")


def test_after_a_kill_of_the_demo_itself_it_goes_on_where_it_was(kap: Kap) -> None:
    demo = kap.start("demo", "--patients", "2")
    in_the_middle(kap, demo)
    demo.kill()
    demo.communicate()

    printed = kap.must("demo", "--patients", "2")

    assert "going on" in printed
    assert "Nothing is missing" in kap.must("verify")
