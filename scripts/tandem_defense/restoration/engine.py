"""Fitting priors to images: one independent optimization per image, many at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import RLock
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from tandem_defense.device import tf32
from tandem_defense.restoration import coarse, lanes, native, reference
from tandem_defense.restoration.reference import Architecture, FitSettings, ReadOut, Task
from tandem_defense.restoration.stopping import HeldOut
from tandem_defense.settings import Count, check

Engine = Literal["fast", "reference", "triton"]
# Of a process's threads one at a time: captures of graphs exclude each other, and how float32 is
# computed is the whole process's setting.
_gpus = RLock()


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    settings: FitSettings,
    *,
    engine: Engine = "fast",
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit a network of its own to every task, on the targets' device (paper eq. 2 and 3).

    All targets have one size, at least 64 × 64 pixels. A task's images depend on nothing but the
    task: not on its neighbors, their number or their order.

    engine : ``fast``; ``reference`` for the plain loop; ``triton`` for kernels of our own on a CUDA
        GPU, whose speed is not measured yet (docs/restoration.md)
    batch : how many images at a time; None: what the device's memory holds, on the CPU as many
        as PyTorch has threads. Fewer images than threads have several threads each
    progress : called after every few steps with the number of image-steps

    Raises ValueError for a precision that the device or the engine does not have, a device that
    the engine does not run on, coarse steps of images below 128 × 128 pixels, and coarse steps or
    held-out pixels with ``triton``, ImportError for ``triton`` where Triton is not installed, and
    MemoryError or torch.OutOfMemoryError where not even one image fits.
    """
    check("fit", {"engine": Engine, "batch": Count | None}, {"engine": engine, "batch": batch})
    if not tasks:
        return
    with torch.inference_mode(False):  # what was made in it has no gradient; a copy may have one
        parts = [{k: _ordinary(getattr(task, k)) for k in ("target", "input")} for task in tasks]
    tasks = [replace(task, **part) for task, part in zip(tasks, parts, strict=True)]
    device = tasks[0].target.device
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 needs a CUDA GPU, found {device.type}: use float32")
    coarse.check(settings.coarse, tasks[0].target.shape[1:])
    if engine == "triton" and (settings.coarse or isinstance(settings.stop, HeldOut)):
        raise ValueError(
            "the engine triton has neither coarse steps nor held-out pixels: use engine fast"
        )
    if engine == "reference":
        reads = reference.fit(architecture, tasks, settings, progress=progress)
    else:
        if engine == "triton":
            implementation = triton_lanes()
        else:
            compiled = device.type == "cpu" and settings.precision != "bf16"
            compiled = compiled and native.library(native.narrow(architecture))
            implementation = native if compiled else lanes
        reads = implementation.fit(architecture, tasks, settings, batch=batch, progress=progress)
    while True:
        # The caller's own work between two read-outs is none of the fit's business.
        with _mode(settings.precision, device):
            read = next(reads, None)
        if read is None:
            return
        yield read


def _ordinary(image: Tensor | None) -> Tensor | None:
    return image.clone() if image is not None and image.is_inference() else image


def triton_lanes() -> ModuleType:
    """The engine of that name; ImportError that says what to install where Triton is missing."""
    try:
        from tandem_defense.restoration import triton_lanes
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise ImportError(
            "the engine triton needs Triton, which PyTorch's CUDA builds for Linux bring along:"
            " pip install triton, or use engine fast",
            name="triton",
        ) from error
    return triton_lanes


@contextmanager
def _mode(precision: str, device: torch.device) -> Iterator[None]:
    """How a fit computes: float32 is IEEE's, on its own device, with gradients."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_gpus)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(tf32(precision == "tf32"))
        stack.enter_context(torch.enable_grad())  # also under a caller's no_grad
        stack.enter_context(torch.autocast(device.type, enabled=False))  # also under a caller's
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            # cuDNN's first plan is a guess: it tries several before a step is captured.
            cudnn = torch.backends.cudnn
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            cudnn.benchmark = True
        yield
