import struct
import time

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from unityvideo_jax.training.metrics import MetricWriter, Speed


def _events(path):
    data, events = path.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_tensorboard_shows_what_was_written_and_drops_what_a_kill_left(tmp_path):
    with MetricWriter(tmp_path, 4) as writer:
        writer.write(5, {"loss": 0.5, "loss/task/joint": 0.25})
        # On disk already: no thread holds anything back.
        (path,) = (tmp_path / "tensorboard").iterdir()
        _, started, values = _events(path)
    assert (started.step, started.session_log.status) == (5, SessionLog.START)
    found = {value.tag: value.simple_value for value in values.summary.value}
    assert (values.step, found) == (5, {"loss": 0.5, "loss/task/joint": 0.25})


def test_speed_counts_the_steps_done_in_each_interval_and_no_other(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    speed = Speed(1)
    for step, tokens in ((2, 100), (3, 500), (4, 300), (5, 300)):
        speed.dispatched(step, 6 * 10**12, tokens)
    assert speed.take(1) == {}
    now[0] += 6.0
    taken = speed.take(3)
    assert (taken["step_seconds"], taken["tokens_per_second"]) == (3.0, 100.0)
    assert speed.take(3) == {}  # asked again, as when a checkpoint flushes what is pending
    now[0] += 1.0
    speed.start(4)  # what passed until now was no training
    now[0] += 2.0
    assert speed.take(5)["step_seconds"] == pytest.approx(2.0)
