"""How far a job is: counted by what works, said once a minute in the job's log (logs.py)."""

import time
from collections import deque
from collections.abc import Callable

from tandem_defense.pipeline import checkpoint, logs

WINDOW = 10  # minutes over which speed is measured: DIP₁'s steps are not as fast as DIP₂'s


class Progress:
    """Counts the work of a job: call it with how much more of `total` is done.

    what : of what there is a `total`, such as "images attacked"

    A job that goes on counts the work of earlier runs again, at once; how much that is stands in
    its checkpoint, so that only this run's work tells the speed and the time left.
    """

    def __init__(self, total: int, what: str, clock: Callable[[], float] = time.monotonic):
        self.total, self.what, self.done = total, what, 0
        self._clock = clock
        self._part = checkpoint.part(f"progress: {what}", {}, done=0).resume()
        self._last = (clock(), self._part.progress["done"])
        self._marks = deque([self._last], maxlen=WINDOW)
        logs.follow(self)

    def __call__(self, amount: int) -> None:
        self.done = self._part.progress["done"] = self.done + amount
        self._last = (self._clock(), self.done)
        since, before = self._marks[-1]
        if self._last[0] - since >= logs.MINUTE and self.done > before:
            self._marks.append(self._last)

    def __str__(self) -> str:
        share = 100 * self.done // self.total if self.total else 100
        return f"{self.done} of {self.total} {self.what} ({share} %)"

    def left(self) -> float | None:
        """Seconds until all is done at the speed of the last minutes, None before the first step.

        A step may take longer than WINDOW minutes: the speed is then that of the last few steps.
        """
        (since, before), (now, done) = self._marks[0], self._last
        if done <= before:
            return None
        expected = (self.total - done) * (now - since) / (done - before)
        return max(0.0, expected - (self._clock() - now))
