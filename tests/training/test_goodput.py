"""Goodput against a clock that we move; test_profiling.py has it in a run."""

import jax
import pytest

from unityvideo_jax.training.goodput import LOST, Goodput, goodput_line


class Clock:
    now = 100.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def test_time_between_steps_is_lost_to_what_the_host_did():
    clock = Clock()
    goodput = Goodput(clock)
    clock.spend(6)  # builds and restores, until 106
    with goodput.phase("input"):
        clock.spend(2)  # until 108
    clock.spend(4)  # compiles, until 112
    goodput.add_step(112.0, 122.0)
    # Read while that step ran, 113 to 117: nothing is lost.
    clock.spend(1)
    with goodput.phase("input"):
        clock.spend(4)
    # The next step waited on the device for the first.
    goodput.add_step(118.0, 132.0)
    # 130 to 140, of which 8 after the step's end at 132; then saving, and 1 that nobody names.
    clock.now = 130.0
    with goodput.phase("input"):
        clock.spend(10)
    with goodput.phase("checkpoint"):
        clock.spend(5)
    goodput.add_step(146.0, 150.0)
    clock.now = 150.0
    with goodput.phase("sampling"):
        clock.spend(10)
    shares = goodput.shares()
    whole = 60  # 100 to 160
    lost = dict.fromkeys(LOST, 0) | {"start": 10, "input": 2 + 8, "checkpoint": 5, "other": 1}
    lost["sampling"] = 10
    expected = {"goodput": (10 + 10 + 4) / whole} | {
        f"lost/{k}": v / whole for k, v in lost.items()
    }
    assert shares == pytest.approx(expected)
    assert sum(shares.values()) == pytest.approx(1)
    assert goodput_line(shares, goodput.losses()) == (
        "goodput 40.0%; lost to start 16.7%, sampling 16.7%, input 16.7%, checkpoint 8.3%, "
        "other 1.7%"
    )


def test_a_step_ends_when_its_metrics_are_ready():
    goodput = Goodput()
    with goodput.phase("input"):
        pass
    metrics = jax.jit(lambda x: {"loss": x.sum()})(jax.numpy.ones(8))
    goodput.dispatched(metrics)
    # A step that is not over counts for nothing yet.
    assert goodput.shares()["goodput"] == 0
    goodput.finished()
    shares = goodput.shares()
    assert 0 < shares["goodput"] < 1 and sum(shares.values()) == pytest.approx(1)
    goodput.close()
