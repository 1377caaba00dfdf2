"""When a job hangs and when it is slow, by a clock that we move; test_hosts.py has a job of two."""

import json

import jax
import pytest

from unityvideo_jax.parallel import hosts
from unityvideo_jax.training import hang
from unityvideo_jax.training.goodput import Goodput
from unityvideo_jax.training.hang import Watchdog, limit

SECONDS = 100.0


class Host(Goodput):
    """A process that is said to do things, and remembers that it was made to leave."""

    def __init__(self, **longest):
        super().__init__(lambda: 0.0)
        self.longest, self.left = longest, []


class Job:
    """Processes of a job that share a board and a clock; no thread looks but `spend`."""

    def __init__(self, monkeypatch, folder, count):
        self.now, self.hosts, self.dogs, lines = 0.0, [], [], {}

        class Board:
            def __init__(board, name):
                board.own = len(self.dogs)

            def post(self, text):
                lines[self.own] = text

            def read(self):
                return dict(lines)

        monkeypatch.setattr(hang.hosts, "Board", Board)
        monkeypatch.setattr(hang, "LEAVING", 1.0)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda: self.looks)
        for number in range(count):
            host = Host(step=2.0, input=1.0)
            self.hosts.append(host)
            dog = Watchdog(
                SECONDS,
                folder,
                host,
                lambda number=number: 7 + number,
                lambda: "the last whole checkpoint is 5",
                lambda: self.now,
                host.left.append,
            )
            dog._host = f"host-{number}"
            self.dogs.append(dog)

    def turn(self, number, phase):
        self.hosts[number].doing = (phase, self.now)

    def spend(self, seconds, looking=None, every=5.0):
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + every, until)
            for number in range(len(self.dogs)) if looking is None else looking:
                self.looks = number
                if not self.hosts[number].left:
                    self.dogs[number].look()

    def left(self):
        return [host.left for host in self.hosts]


@pytest.mark.parametrize(
    ("phase", "longest", "expected"),
    [
        ("step", {}, 600),  # a first step
        ("step", {"step": 2.0}, 100),
        ("step", {"step": 30.0}, 300),
        ("input", {"step": 30.0, "input": 11.0}, 110),
        ("start", {"start": 5.0}, float("inf")),
        ("sampling", {}, float("inf")),  # the first one compiles
        ("sampling", {"sampling": 20.0}, 600),
        ("checkpoint", {"checkpoint": 70.0}, 700),
        ("other", {}, float("inf")),
    ],
)
def test_limits_follow_what_was_measured(phase, longest, expected):
    assert limit(phase, SECONDS, longest) == expected


def test_a_job_that_hangs_ends_everywhere_and_says_what_each_process_did(
    monkeypatch, tmp_path, capsys
):
    job = Job(monkeypatch, tmp_path, 3)
    job.turn(0, "step")
    job.turn(1, "step")
    job.spend(10)
    job.turn(2, "input")
    job.spend(95)  # the last process has waited for 90 s since the first look that saw it
    assert job.left() == [[], [], []]
    job.spend(20)
    assert job.left() == [[hosts.LOST_PEER]] * 3
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 3
    assert lines[0].startswith(
        "error: step 9 hangs: no process got further for 100 s, which is "
        "config.train.hang_seconds=100; process 2 (host-2) waited for a batch for 105 s, processes "
        "0 (host-0), 1 (host-1) waited for the devices for 115 s; stacks of all threads are in "
    )
    assert lines[0].endswith(
        "the last whole checkpoint is 5; start all processes again to continue"
    )
    # Python's own reader of stacks is what wrote them: this test is in the main thread's.
    stacks = sorted((tmp_path / "hangs").iterdir())
    assert [file.name for file in stacks] == [f"step_0000009_process_{n}.txt" for n in range(3)]
    assert all("test_a_job_that_hangs" in file.read_text() for file in stacks)


def test_what_is_slow_does_not_hang(monkeypatch, tmp_path):
    job = Job(monkeypatch, tmp_path, 2)
    job.hosts[0].longest, job.hosts[1].longest = {}, {}
    # A process that compiles for hours, while the other waits for it.
    job.turn(0, "step")
    job.spend(1e4)
    # Its first step then takes long; the other process has waited for both.
    job.turn(1, "step")
    job.spend(5 * SECONDS)
    for host in job.hosts:
        host.longest["step"] = 5 * SECONDS
    # Later ones may take ten times as long.
    for number in range(2):
        job.turn(number, "step")
    job.spend(49 * SECONDS)
    # One that saves for the first time and then samples while the other waits for a batch.
    for phase in ("checkpoint", "sampling"):
        job.turn(0, "input")
        job.turn(1, phase)
        job.spend(1e4)
        job.hosts[1].longest[phase] = 1e4
    # A machine that was suspended, or a process that was: one look after a long time.
    for number in range(2):
        job.turn(number, "input")
        job.hosts[number].longest["input"] = 1.0
    job.spend(50)
    job.now += 1e6
    job.spend(30)
    assert job.left() == [[], []] and not list(tmp_path.iterdir())


def test_a_process_whose_threads_stand_still_is_named(monkeypatch, tmp_path, capsys):
    job = Job(monkeypatch, tmp_path, 2)
    job.turn(0, "step")
    job.turn(1, "checkpoint")
    job.spend(50)
    job.spend(140, looking=[0])
    assert job.left() == [[], []]  # it may still save
    job.spend(80, looking=[0])
    assert job.left() == [[hosts.LOST_PEER], []]
    (line,) = capsys.readouterr().err.splitlines()
    assert "process 1 (host-1) said nothing more since it saved for 105 s" in line


def test_a_board_without_other_processes_holds_its_own_line():
    board = hosts.Board("test")
    board.post(json.dumps({"phase": "input"}))
    assert board.read() == {0: '{"phase": "input"}'}
