import time

import pytest

from unityvideo_jax.training.metrics import Speed


def test_speed_counts_the_steps_done_in_each_interval_and_no_other(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    speed = Speed(step_flops=6 * 10**12, step_tokens=300, step=1)
    assert speed.take(1) == {}
    now[0] += 6.0
    taken = speed.take(3)
    assert (taken["step_seconds"], taken["tokens_per_second"]) == (3.0, 100.0)
    assert speed.take(3) == {}  # asked again, as when a checkpoint flushes what is pending
    now[0] += 1.0
    speed.start(4)  # what passed until now was no training
    now[0] += 2.0
    assert speed.take(5)["step_seconds"] == pytest.approx(2.0)
