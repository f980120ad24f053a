"""How far a fit is, in the job's checkpoint: alike for all engines, devices, numbers of lanes."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from tandem_defense.pipeline import checkpoint

log = logging.getLogger(__name__)

# A task between two steps, on the CPU: `parameters` and Adam's averages `mean` and `square`, flat
# in the reference's order, (P,); `average` of the images, (3, H, W); the number of steps
# `iteration`; with early stopping what the monitor has.
State = dict[str, Tensor]


class Record:
    """Which read-outs of which tasks the caller has taken in, and the tasks in work.

    reported : per task, how many of its read-outs
    waiting : tasks that are not done, those in work first
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        readouts: Sequence[int],
        progress: Callable[[int], None] | None,
    ):
        self._part = checkpoint.part(name, {}, reported=[0] * tasks).resume()
        self._readouts = readouts
        self.reported: list[int] = self._part.progress["reported"]
        self.saves = 0
        self._states: dict[int, State] = {}  # of an earlier run, until their tasks go on
        for key, tensor in self._part.live.items():
            position, field = key.split("/")
            self._states.setdefault(int(position), {})[field] = tensor
        self._part.live = {}
        self.wait()
        if self._states or any(self.reported):
            done = tasks - len(self.waiting)
            steps = {i: int(s["iteration"]) for i, s in sorted(self._states.items())}
            at = ", ".join(f"{i} at step {n}" for i, n in steps.items()) or "none begun"
            log.info("%s: going on with %d of %d fits done; %s", name, done, tasks, at)
            if progress:
                progress(done * readouts[-1] + sum(steps.values()))

    def _undone(self) -> list[int]:
        return [i for i, n in enumerate(self.reported) if n < len(self._readouts)]

    def wait(self) -> None:
        """Line up what is not done, after all work on it has ended."""
        self.waiting = deque(sorted(self._undone(), key=lambda i: (i not in self._states, i)))

    def begin(self, position: int) -> State | None:
        """The state from which a task goes on, None where it starts."""
        return self._states.pop(position, None)

    def steps(self, position: int) -> int:
        """How many steps of a task that nobody works on are done."""
        return int(self._states[position]["iteration"]) if position in self._states else 0

    def hand(self, position: int, state: State) -> None:
        """Put a task back in the state from which whoever begins with it goes on."""
        self._states[position] = state

    def report(self, position: int, iteration: int) -> None:
        """The caller has taken in a task's read-out."""
        self.reported[position] = self._readouts.index(iteration) + 1

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._part.due()

    def save(self, states: Callable[[], Mapping[int, State]]) -> None:
        """Keep the tasks in work, in the states that `states` returns."""

        def live() -> State:
            unfinished = set(self._undone())
            return {
                f"{position}/{field}": tensor
                for position, state in (self._states | dict(states())).items()
                if position in unfinished
                for field, tensor in state.items()
            }

        self._part.save(live)
        self.saves += 1
