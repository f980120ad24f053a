"""What everything that trains here shares: seeded weights, seeded batches and one plain Adam loop.

No DataLoader: the images are one tensor, an epoch is a permutation of its indices. Every random
number comes from a generator of its own on the CPU, so that a run can be repeated on any device.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from tandem_defense.adam import Adam
from tandem_defense.pipeline import checkpoint
from tandem_defense.pipeline.progress import Progress
from tandem_defense.seeds import derive_seed

log = logging.getLogger(__name__)
SLOW = ("DEFAULT", "AVX2")  # processors on which oneDNN has no kernels of its own for bfloat16


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator for the purpose that `names` say, e.g. ``generator(0, "noise")``."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what PyTorch takes from its global CPU generator from `seed`, and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        yield


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[list[torch.Generator]]:
    """Layers that draw for themselves, such as dropout, draw from `seed` on every device.

    Yields PyTorch's global generators, which a training that goes on has to have in its state; they
    are as before, after.
    """
    cuda = []
    if device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=cuda):
        sources = [torch.default_generator, *(torch.cuda.default_generators[i] for i in cuda)]
        for source in sources:
            source.manual_seed(derive_seed(seed, "layers"))
        yield sources


def batches_of(indices: Tensor, batch_size: int) -> list[Tensor]:
    """`indices` in batches, the last of which may be smaller, but not one image by itself.

    A batch norm cannot train on one value per channel: such an image joins the batch before.
    """
    parts = list(indices.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def initialize(
    module: nn.Module, seed: int, weights: Literal["torch", "glorot", "he"] = "torch"
) -> None:
    """Give every layer new weights, drawn from `seed` on the CPU.

    ``torch``: each layer's own default. ``glorot`` and ``he``: PyTorch's xavier_uniform_ or
    kaiming_uniform_ with biases 0 in the convolutions, deconvolutions and dense layers.
    """
    draw = {"glorot": nn.init.xavier_uniform_, "he": nn.init.kaiming_uniform_}.get(weights)
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    with seeded(seed), torch.no_grad():
        for layer in module.modules():
            if not hasattr(layer, "reset_parameters"):
                continue
            device = next((p.device for p in layer.parameters()), None)
            layer.cpu().reset_parameters()
            if draw and isinstance(layer, kinds):
                draw(layer.weight)
                nn.init.zeros_(layer.bias)
            layer.to(device)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """The modules in eval mode and without gradients of their own; as they were before, after."""
    parameters = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    modes = [(layer, layer.training) for m in modules for layer in m.modules()]
    try:
        for module in modules:
            module.eval().requires_grad_(False)
        yield
    finally:
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        for layer, training in modes:
            layer.training = training


def each_epoch(
    name: str,
    live: Iterable[Tensor | torch.Generator],
    *,
    order: torch.Generator,
    count: int,
    epochs: int,
    batch_size: int,
) -> Iterator[tuple[int, Iterator[tuple[int, Tensor]]]]:
    """Yield the number of every epoch with its batches: (step, indices (B,) below `count`).

    Steps are counted from 0 over all epochs.

    live : whatever else training changes; with `order`, from which the permutations are drawn, it
        is kept in the job's checkpoint, and what an earlier run has done is not done again
    """
    indices = torch.empty(count, dtype=torch.long, device="cpu")
    state = {str(i): item for i, item in enumerate(live)} | {"indices": indices, "order": order}
    part = checkpoint.part(name, state, epoch=0, batch=0).resume()
    at = part.progress
    if at["epoch"] or at["batch"]:
        log.info("%s: going on after epoch %d, batch %d", name, at["epoch"], at["batch"])
    batches_each = len(batches_of(indices, batch_size))
    progress = Progress(epochs * batches_each, f"steps of {name}")
    progress(at["epoch"] * batches_each + at["batch"])

    def batches() -> Iterator[tuple[int, Tensor]]:
        parts = batches_of(indices, batch_size)
        for batch in parts[at["batch"] :]:
            yield at["epoch"] * len(parts) + at["batch"], batch
            at["batch"] += 1
            progress(1)
            if part.due():
                part.save()

    while at["epoch"] < epochs:
        if not at["batch"]:
            torch.randperm(count, generator=order, out=indices, device="cpu")
        yield at["epoch"], batches()
        at["epoch"], at["batch"] = at["epoch"] + 1, 0


# From the number of a step, from 0, and the number of all steps to a factor on the learning rates
# and Adam's β₁.
Schedule = Callable[[int, int], tuple[float, float]]


def constant(step: int, steps: int) -> tuple[float, float]:
    """The learning rates as they are and Adam's usual β₁."""
    return 1.0, 0.9


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """torch's ``OneCycleLR`` with its defaults, after Smith and Topin, "Super-Convergence" (2017).

    In the first 30 % of the steps the factor rises from 1/25 to 1, in the others it falls to
    1/250,000, each on half a wave of the cosine; β₁ meanwhile goes from 0.95 to 0.85 and back.
    """
    peak, last = 0.3 * steps - 1, steps - 1
    if step <= peak:
        return _wave(step / peak, 1 / 25, 1.0), _wave(step / peak, 0.95, 0.85)
    share = (step - peak) / (last - peak)
    return _wave(share, 1.0, 1 / 250_000), _wave(share, 0.85, 0.95)


def plateaus(epochs: int) -> Schedule:
    """After 60 % of so many epochs a tenth of the learning rates, after 90 % a hundredth."""

    def schedule(step: int, steps: int) -> tuple[float, float]:
        over = step * epochs // steps / epochs  # the share of whole epochs
        return (1.0 if over < 0.6 else 0.1 if over < 0.9 else 0.01), 0.9

    return schedule


def _wave(share: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def minimize(
    loss: Callable[[Tensor], Mapping[str, Tensor]],
    groups: Sequence[tuple[Iterable[Tensor], float]],
    *,
    name: str,
    order: torch.Generator,
    count: int,
    epochs: int,
    batch_size: int,
    schedule: Schedule = constant,
    also: Iterable[Tensor | torch.Generator] = (),
    precision: Literal["float32", "bf16"] = "float32",
) -> None:
    """Minimize the sum of the terms of ``loss(batch)`` with Adam, a line in the log per epoch.

    `batch` holds indices (B,) below `count`, on the CPU, in an order that is drawn from `order`.
    A term is a mean over the batch; one without a gradient is only written to the log.
    `groups` are pairs of parameters and their learning rate, which `schedule` changes.
    `also` are tensors and generators that `loss` changes or draws from: with them training can
    go on after it was killed.
    With the precision ``bf16`` the layers compute in bfloat16; weights, Adam and whatever else
    `loss` does stay in float32; on a CPU without AVX-512 that may take many times as long, and a
    warning says so.
    """
    rates = [rate for _, rate in groups]
    optimizers = [Adam(parameters) for parameters, _ in groups]
    device = optimizers[0].parameters[0].device.type
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
    if device == "cpu" and precision == "bf16" and torch.backends.cpu.get_cpu_capability() in SLOW:
        log.warning("bf16 may be many times slower than float32 here: the processor has no AVX-512")
    live = [tensor for optimizer in optimizers for tensor in optimizer.live()]
    steps = epochs * len(batches_of(torch.arange(count, device="cpu"), batch_size))
    rounds = each_epoch(
        name, [*live, *also], order=order, count=count, epochs=epochs, batch_size=batch_size
    )
    for epoch, batches in rounds:
        totals: dict[str, Tensor] = {}
        seen = 0  # fewer than there are images where an earlier run has begun this epoch
        for step, batch in batches:
            with half:
                terms = loss(batch)
            sum(terms.values()).backward()
            factor, beta1 = schedule(step, steps)
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.step(rate * factor, beta1)
            seen += len(batch)
            for term, value in terms.items():
                totals[term] = totals.get(term, 0.0) + value.detach() * len(batch)
        means = ", ".join(f"{term} {float(total) / seen:.6g}" for term, total in totals.items())
        log.info("%s: epoch %d of %d: %s", name, epoch + 1, epochs, means)


def crop(images: Tensor, side: int, source: torch.Generator) -> Tensor:
    """A square of `side` pixels at a random place of each image, (B, C, ≤ side, ≤ side)."""
    height, width = (min(side, s) for s in images.shape[2:])
    spare = (images.shape[2] - height, images.shape[3] - width)
    if spare == (0, 0):
        return images
    tops, lefts = (
        torch.randint(s + 1, (len(images),), generator=source, device="cpu").tolist() for s in spare
    )
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )


def check_images(
    images: Tensor,
    channels: int | None,
    size: int | None = None,
    *,
    weights: nn.Module | None = None,
) -> None:
    """Raise ValueError unless `images` is (B, `channels`, H, W) floating point (H = W = `size`).

    channels : None: any number
    weights : of a module whose type the images must have, except under autocast
    """
    side = "H, W" if size is None else f"{size}, {size}"
    fits = images.ndim == 4 and channels in (None, images.shape[1])
    if not fits or (size is not None and tuple(images.shape[2:]) != (size, size)):
        settings = "" if channels is None else " or the settings channels and size"
        raise ValueError(
            f"images have the shape {tuple(images.shape)}, expected"
            f" (B, {channels or 'C'}, {side}): change the images{settings}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, expected floating point in [0, 1]: "
            "divide 8-bit images by 255"
        )
    expected = (images if weights is None else next(weights.parameters(), images)).dtype
    if images.dtype != expected and not torch.is_autocast_enabled(images.device.type):
        raise ValueError(
            f"images are {images.dtype}, the weights {expected}: convert one of them, e.g. "
            f"images.to({expected})"
        )


def check_finite(images: Tensor) -> None:
    """Raise ValueError for NaN and infinity."""
    if not bool(images.isfinite().all()):
        raise ValueError("images contain NaN or infinity, expected finite values in [0, 1]")


def check_training(images: Tensor, labels: Tensor, channels: int, size: int | None = None) -> None:
    """As :func:`check_images`; also at least one image, all in [0, 1], and a label for each."""
    check_images(images, channels, size)
    if not len(images):
        raise ValueError("there are no training images, expected at least one: check the data set")
    low, high = (float(v) for v in images.aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"images lie in [{low:g}, {high:g}], expected [0, 1]: divide 8-bit images by 255"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, expected ({len(images)},): "
            "pass one class number per image"
        )
