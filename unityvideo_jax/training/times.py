"""When a run saves, and when it ends, by the clock."""

import time
from collections.abc import Callable


class SaveTimes:
    """When a run saves: every so many steps, and when the last checkpoint is so many minutes old.

    Args:
      steps: between two checkpoints.
      minutes: likewise; 0 is never.
      clock: seconds that never go back.

    Attributes:
      last: step of the newest checkpoint that this process has begun to save.
    """

    def __init__(
        self, steps: int, minutes: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._seconds, self._clock = steps, 60.0 * minutes, clock
        self._since, self.last = clock(), -1

    def overdue(self) -> bool:
        """Whether the minutes are over by this process's clock; they then begin anew."""
        if not 0 < self._seconds <= self._clock() - self._since:
            return False
        self._since = self._clock()
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
        self._since, self.last = self._clock(), step


class Deadline:
    """The end of a run by the time that its steps took, over all of its starts.

    Args:
      most: seconds; 0 is no limit.
      earlier: seconds of the starts before this one.
      clock: seconds that never go back.
    """

    def __init__(
        self, most: float, earlier: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._earlier, self._clock = most, earlier, clock
        self.begin()

    def begin(self) -> None:
        """The first step of this start is next."""
        self._since = self._clock()

    def seconds(self) -> float:
        """Seconds that the steps took until now."""
        return self._earlier + self._clock() - self._since

    def is_over(self) -> bool:
        """Whether they have taken as long as they may, by this process's clock."""
        return 0 < self._most <= self.seconds()
