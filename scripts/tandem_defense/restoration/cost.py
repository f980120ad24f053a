"""What a restoration will take, before it is made: memory, and time from its first steps."""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tandem_defense.restoration.engine import fit
from tandem_defense.restoration.reference import Architecture, FitSettings, Task, build, shapes

LANE = 16  # channels come in whole vectors, of so many numbers at most
# A layer's output and its gradient; PyTorch's layers keep a normalization's and a ReLU's too.
COPIES = {"cpu": 2, "cuda": 5}


class Outputs(TorchFunctionMode):
    """Counts the numbers that convolutions and deconvolutions put out."""

    total = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Call the function, and count what it returns."""
        output = function(*args, **(kwargs or {}))
        if function in (F.conv2d, F.conv_transpose2d):
            _, channels, height, width = output.shape
            self.total += -(-channels // LANE) * LANE * height * width
        return output


def memory(architecture: Architecture, height: int, width: int, device: torch.device) -> int:
    """Bytes that fitting one image of height × width takes, in float32, about."""
    with torch.device("meta"), torch.no_grad(), Outputs() as outputs:
        build(architecture)(torch.empty(1, architecture.inputs, height, width))
    parameters = 3 * sum(shape.numel() for shape in shapes(architecture))  # and Adam's averages
    images = (3 * architecture.inputs + 24) * height * width
    return 4 * (COPIES.get(device.type, COPIES["cuda"]) * outputs.total + parameters + images)


def seconds_per_step(
    architecture: Architecture, tasks: Sequence[Task], settings: FitSettings
) -> float:
    """Seconds per image and step, measured over a few steps on all `tasks` side by side."""
    first, last = (5, 25) if tasks[0].target.device.type == "cuda" else (1, 3)
    since, steps = None, 0
    settings = FitSettings(
        readouts=(first, last),
        learning_rate=settings.learning_rate,
        smoothing=settings.smoothing,
        precision=settings.precision,
    )
    for read in fit(architecture, tasks, settings, batch=len(tasks)):
        since = since or time.perf_counter()
        steps += len(read.positions) * (last - first) * (read.iteration == last)
    return (time.perf_counter() - since) / steps
