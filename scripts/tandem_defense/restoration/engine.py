"""Fitting priors to images: one independent optimization per image, many at once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from tandem_defense.restoration import lanes, native, reference
from tandem_defense.restoration.reference import Architecture, ReadOut, Task
from tandem_defense.restoration.stopping import EarlyStopping

log = logging.getLogger(__name__)


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    *,
    readouts: Sequence[int],
    learning_rate: float,
    smoothing: float,
    stop: EarlyStopping | None = None,
    precision: str = "float32",
    engine: str = "fast",
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit a network of its own to every task, on the targets' device (paper eq. 2 and 3).

    All targets have one size, at least 64 × 64 pixels. A task's images depend on nothing but the
    task: not on its neighbors, their number or their order.

    readouts : steps after which to yield, ascending; the last is the number of steps
    smoothing : weight of the past in the moving average, which starts at the first output
    stop : early stopping; an image that stops repeats its result at all later read-outs
    precision : ``float32`` (whatever matrix mode PyTorch is set to), ``tf32`` (CUDA only),
        ``bf16`` (layers in bfloat16, weights, Adam and averages in float32), ``float64``
    engine : ``fast``, or ``reference`` for the plain loop
    batch : how many images at a time; None: what the device's memory holds, on the CPU as many
        as PyTorch has threads
    progress : called after every few steps with the number of image-steps

    Raises ValueError for a precision that the device or the engine does not have, and
    MemoryError or torch.OutOfMemoryError where not even one image fits.
    """
    if not tasks:
        return
    device = tasks[0].target.device
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 needs a CUDA GPU, found {device.type}: use float32")
    if engine == "reference" and precision == "bf16":
        raise ValueError("the reference has no bf16: use engine fast, or float32")
    dtype = torch.float64 if precision == "float64" else torch.float32
    settings = {
        "readouts": list(readouts),
        "learning_rate": learning_rate,
        "smoothing": smoothing,
        "stop": stop,
        "dtype": dtype,
        "progress": progress,
    }
    with matrix_mode(precision, device):
        # Autograd is needed to optimize, even under a caller's no_grad.
        if engine == "reference":
            found = reference.fit(architecture, tasks, **settings)
        elif device.type == "cpu" and precision != "bf16" and native.library():
            found = native.fit(architecture, tasks, batch=batch, **settings)
        else:
            found = lanes.fit(
                architecture, tasks, batch=batch, bf16=precision == "bf16", **settings
            )
        while True:
            with torch.enable_grad():
                item = next(found, None)
            if item is None:
                return
            yield item


@contextmanager
def matrix_mode(precision: str, device: torch.device):
    """Switch TF32 on for ``tf32``; say in the log what float32 means on this GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        if precision == "tf32":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
        log.info("precision %s, TF32 in convolutions is %s", precision, tf32)
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
