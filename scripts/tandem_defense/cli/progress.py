"""How far a long command is: a bar with the time left in a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

PAUSE = 10.0  # seconds between two lines, at least


def duration(seconds: float) -> str:
    """A length of time in words, to two digits or so."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


class Progress:
    """Work of `total` expected seconds, on standard error; a context manager."""

    def __init__(self, total: float):
        self.total, self.done, self.started = total, 0.0, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            disable=not self._terminal,
            bar_format="{percentage:3.0f} % |{bar}| {elapsed} so far, {remaining} left",
        )
        self._said, self._share = self.started, 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._advance(self.total - self.done)
        self._bar.close()

    def of(self, first: int, seconds: Sequence[float]) -> Callable[[int], None]:
        """A callback that takes numbers of steps.

        The first `first` steps take seconds[0] each, as was expected, and all others seconds[1].
        """
        done = 0

        def progress(steps: int) -> None:
            nonlocal done
            early = min(steps, max(0, first - done))
            done += steps
            self._advance(early * seconds[0] + (steps - early) * seconds[1])

        return progress

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        with tqdm.external_write_mode(file=sys.stderr):
            print(text, file=sys.stderr)

    def _advance(self, seconds: float) -> None:
        seconds = min(seconds, self.total - self.done)
        self.done += seconds
        self._bar.update(seconds)
        now, share = time.monotonic(), int(10 * self.done / self.total) if self.total else 10
        if self._terminal or share == self._share or now - self._said < PAUSE:
            return
        self._said, self._share = now, share
        left = (now - self.started) * (self.total - self.done) / self.done
        self.say(f"{round(100 * self.done / self.total)} %, {duration(left)} left")
