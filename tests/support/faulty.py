"""A defense that passes images on and misbehaves on request: the cluster tests register it.

The request is a file `faults/<fault>` in the working directory. The job that takes it, takes it
away: only one job is hit.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tandem_defense.defenses.base import Defense


class Faulty(Defense):
    """The images as they are, after the fault that a test has asked for."""

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """The input itself; a fault that was asked for happens first."""
        for request in Path("faults").glob("*"):
            taken = Path(f"taken-{request.name}")
            try:
                request.rename(taken)  # atomic: no other job can take it too
            except FileNotFoundError:
                continue
            taken.write_text(ids[0])
            getattr(self, request.name)()
        memory = Path("taken-memory")
        if memory.exists() and memory.read_text() == ids[0]:  # the same job, tried again
            self.memory()
        return images

    def error(self) -> None:
        """A bug, a broken library: the job exits 1."""
        raise RuntimeError("a fault that the test asked for")

    def memory(self) -> None:
        """More memory than the rule asks for at first: 5 GB against 4."""
        held = np.ones(5 * 2**30, np.uint8)
        time.sleep(8)
        assert held[-1] == 1

    def hang(self) -> None:
        """The job neither ends nor fails."""
        time.sleep(3600)
