"""How a process that imports PyTorch or pandas starts, and ends, in less time."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_start() -> Iterator[None]:
    """Imports whose objects the garbage collector leaves alone, for a process of our own.

    They stay until the process ends, and yet the collector would go through all of them again and
    again while they come, and once more at the end: a third of a job that does little else. In a
    process that has PyTorch already, such as a notebook, nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(_end)
        if enabled:
            gc.enable()


def _end() -> None:
    # What Triton is bound with complains of everything that is left when the process ends.
    if any(name.split(".")[0] == "triton" for name in sys.modules):
        gc.unfreeze()
