"""What a restoration will take, before it is made: memory, and time from its first steps."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

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


def available(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = dict(line.split(":", 1) for line in lines)
        limits.append(1024 * int(known["MemAvailable"].split()[0]))
    except (OSError, KeyError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A container's limit, or a cluster job's: of its own control group, or of one above it.
    for group in _groups():
        try:
            most, now = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            limits.append(most - now)
        except (OSError, ValueError):  # none there, or "max": no limit
            pass
    return min(limits, default=None)


def _groups() -> list[Path]:
    """The folders of this process's control group (version 2) and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return []
    top = Path("/sys/fs/cgroup")
    return [top / part for part in (Path(path), *Path(path).parents)]


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
