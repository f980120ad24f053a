"""How many lanes the memory holds: of the device, and of the CPU, which keeps their checkpoint."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tandem_defense.device import free_memory
from tandem_defense.restoration.record import State

MOST = 64  # lanes; more gain nothing once every kernel fills the device
SHARE = 0.8  # of the free memory
HOST_SHARE = 0.5  # of the free memory of the CPU, which holds a checkpoint of all lanes


class Trial(Protocol):
    """So many lanes that take a step, as lanes.Fit."""

    def step(self) -> None:
        """One step of all lanes."""

    def save(self, lane: int) -> State:
        """A lane's state, on the CPU."""


def balanced(images: int, most: int) -> int:
    """So many lanes, at most `most`, that the last round has about as many images as the first."""
    return -(-images // -(-images // most))


def most_lanes(build: Callable[[int], Trial], like: Tensor, images: int) -> int:
    """How many lanes memory holds, measured with one; early stopping keeps so many `images`."""
    history = images * like.numel() * 4  # bytes
    if like.device.type != "cuda":
        return min(8, _checkpointed(build(1), history))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    trial = build(1)
    trial.step()
    torch.cuda.synchronize()
    each = torch.cuda.max_memory_reserved() - before + history
    most = min(MOST, _checkpointed(trial, history))
    del trial
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(most, int(SHARE * free / each)))


def _checkpointed(trial: Trial, history: int) -> int:
    """Of how many lanes the CPU's memory holds a checkpoint, at least 1."""
    each = sum(value.nbytes for value in trial.save(0).values()) + history
    free = free_memory(torch.device("cpu"))
    return MOST if free is None else max(1, int(HOST_SHARE * free / each))
