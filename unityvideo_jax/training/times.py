"""When a run saves, and when it ends, by the clock."""

import time


class SaveTimes:
    """When a run saves: every so many steps, and when the last checkpoint is so many minutes old.

    Args:
      steps: between two checkpoints.
      minutes: likewise; 0 is never.

    Attributes:
      last: step of the newest checkpoint that this process has begun to save.
    """

    def __init__(self, steps: int, minutes: float) -> None:
        self._steps, self._seconds = steps, 60.0 * minutes
        self._since, self.last = time.monotonic(), -1

    def overdue(self) -> bool:
        """Whether the minutes are over by this process's clock; they then begin anew."""
        if not 0 < self._seconds <= time.monotonic() - self._since:
            return False
        self._since = time.monotonic()
        return True

    def due(self, step: int, overdue: bool) -> bool:
        """Whether to save after a step: the same in all processes.

        Args:
          step: that is done.
          overdue: what all processes agreed on, a step after one of them saw it.
        """
        return step % self._steps == 0 or (overdue and self.last != step - 1)

    def saved(self, step: int) -> None:
        """A checkpoint of this step is being saved."""
        self._since, self.last = time.monotonic(), step


class Deadline:
    """The end of a run by the time that its steps took, over all of its starts.

    Args:
      most: seconds; 0 is no limit.
      earlier: seconds of the starts before this one.
    """

    def __init__(self, most: float, earlier: float) -> None:
        self._most, self._earlier = most, earlier
        self.begin()

    def begin(self) -> None:
        """The first step of this start is next."""
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Seconds that the steps took until now."""
        return self._earlier + time.monotonic() - self._since

    def is_over(self) -> bool:
        """Whether they have taken as long as they may, by this process's clock."""
        return 0 < self._most <= self.seconds()
