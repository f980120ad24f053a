"""A job that kills itself without warning after so many checkpoints: run by test_checkpoint.py.

python killed.py SAVES PHASE MODULE FUNCTION [ARGUMENT ...]
"""

import importlib
import math
import os
import signal
import sys
from collections.abc import Callable

from tandem_defense.pipeline import checkpoint


def after(saves: int, strike: Callable[[], None], phase: str = "") -> Callable:
    """``Checkpoint.save`` that strikes when it has written `saves` times since `phase` began."""
    write, written = checkpoint.Checkpoint.save, 0

    def save(self, *arguments):
        nonlocal written
        write(self, *arguments)
        written += not phase or any(name.endswith(phase) for name in self.parts)
        if written == saves:
            strike()

    return save


if __name__ == "__main__":
    saves, phase, module, function, *arguments = sys.argv[1:]
    checkpoint.INTERVAL, checkpoint.SHARE = 0.0, math.inf  # at every opportunity
    strike = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    checkpoint.Checkpoint.save = after(int(saves), strike, phase)
    getattr(importlib.import_module(module), function)(*arguments)
