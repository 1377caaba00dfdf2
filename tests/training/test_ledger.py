"""What a run's time went to, over processes of which some are lost; by clocks that we move."""

import json

import pytest

from unityvideo_jax.training import ledger as ledger_lib
from unityvideo_jax.training.goodput import LOST, Goodput, goodput_line
from unityvideo_jax.training.ledger import FILE, Ledger


class World:
    """The wall clock, and processes that each have a clock of their own."""

    wall = 1000.0

    def __init__(self, monkeypatch, workdir):
        self.workdir, self.lines = workdir, []
        monkeypatch.setattr(ledger_lib.time, "time", lambda: self.wall)
        monkeypatch.setattr(ledger_lib.Ledger, "PERIOD", 0.0)

    def process(self, step):
        begun, zero = self.wall, hash(self.wall) % 100
        self.goodput = Goodput(lambda: zero + self.wall - begun)
        self.ledger = Ledger(self.workdir, self.goodput, step, self.lines.append)
        return self

    def steps(self, *numbers, seconds=10.0):
        for number in numbers:
            clock = self.goodput._clock
            begin = clock()
            self.wall += seconds
            self.goodput.add_step(begin, clock())
            self.ledger.finished(number)

    def close(self):
        self.ledger.__exit__(None)
        self.goodput.close()


def test_a_loss_costs_the_time_until_the_next_step_and_the_steps_done_again(monkeypatch, tmp_path):
    world = World(monkeypatch, tmp_path)
    world.process(step=0)
    world.wall += 20  # starts
    world.steps(1, 2, 3, 4, 5)
    world.wall += 3  # and is lost within step 6; the checkpoint is that of step 2
    world.goodput.close()

    world.wall += 60
    world.process(step=2)
    world.wall += 17
    with world.goodput.phase("input"):
        world.wall += 5  # before the first step all is lost to the restart
    world.steps(3, 4)
    losses = world.goodput.losses()
    assert losses == {"restarts": 1, "restart_seconds": 85.0, "repeated_steps": 2}
    world.wall += 8  # lost again, before all was done again
    world.goodput.close()
    world.wall += 2

    world.process(step=2)
    world.wall += 30
    world.steps(3, 4, 5, 6)
    with world.goodput.phase("checkpoint"):
        world.wall += 6
    world.close()
    # In order: what follows does not count until the next process, nor as a loss.
    world.wall += 1e6
    world.process(step=6)
    world.wall += 4
    world.steps(7)

    # Steps 3 and 4 were done three times, and step 5 twice.
    assert world.goodput.losses() == {
        "restarts": 2,
        "restart_seconds": 85.0 + 40.0,
        "repeated_steps": 5,
    }
    seconds = dict.fromkeys(LOST, 0.0) | {"start": 24, "restart": 125, "repeated": 50}
    seconds |= {"checkpoint": 6}
    whole = 70 + sum(seconds.values())
    expected = {f"lost/{name}": n / whole for name, n in seconds.items()}
    shares = world.goodput.shares()
    assert shares == pytest.approx(expected | {"goodput": 70 / whole})
    assert goodput_line(shares, world.goodput.losses()) == (
        "goodput 25.5%; lost to restart 45.5%, repeated 18.2%, start 8.7%, checkpoint 2.2%; "
        "restarts after a loss: 2, with 125 s until the next step and 5 steps done again"
    )
    world.goodput.close()


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1, "ended": true}', '{"seconds": []}'])
def test_a_damaged_file_costs_the_count_and_not_the_run(monkeypatch, tmp_path, text):
    (tmp_path / FILE).write_text(text)
    world = World(monkeypatch, tmp_path).process(step=3)
    assert "goodput is counted from this start on" in world.lines[0]
    world.steps(4)
    world.close()
    assert json.loads((tmp_path / FILE).read_text())["seconds"]["goodput"] == 10
