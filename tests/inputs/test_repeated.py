import itertools

from unityvideo_jax.inputs.repeated import Repeated


class Count:
    def __init__(self):
        self.n = 0

    def __next__(self):
        self.n += 1
        return {"index": self.n - 1}

    def get_state(self):
        return {"next_index": self.n}

    def set_state(self, state):
        self.n = state["next_index"]


def _take(batches, count):
    return [batch["index"] for batch in itertools.islice(batches, count)]


def test_every_batch_comes_the_same_number_of_times():
    assert _take(Repeated(Count(), 3), 8) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert _take(Repeated(Count(), 1), 3) == [0, 1, 2]


def test_resumes_exactly_from_anywhere():
    whole = _take(Repeated(Count(), 3), 12)
    for stop in range(10):
        first = Repeated(Count(), 3)
        begun = _take(first, stop)
        second = Repeated(Count(), 3)
        second.set_state(first.get_state())
        assert begun + _take(second, 12 - stop) == whole
        assert _take(first, 12 - stop) == whole[stop:]  # asking changed nothing
