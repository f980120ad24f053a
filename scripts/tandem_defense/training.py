"""What everything that trains here shares: seeded weights, seeded batches and one plain Adam loop.

No DataLoader: the images are one tensor, an epoch is a permutation of its indices. Every random
number comes from a generator of its own on the CPU, so that a run can be repeated on any device.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from tandem_defense import checkpoint
from tandem_defense.adam import Adam
from tandem_defense.seeds import derive_seed

log = logging.getLogger(__name__)


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator for the purpose that `names` say, e.g. ``generator(0, "noise")``."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what PyTorch takes from its global CPU generator from `seed`, and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        yield


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
) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """Yield the number of every epoch with its batches, which hold indices (B,) below `count`.

    live : whatever else training changes; with `order`, from which the permutations are drawn, it
        is kept in the job's checkpoint, and what an earlier run has done is not done again
    """
    indices = torch.empty(count, dtype=torch.long)
    state = {str(i): item for i, item in enumerate(live)} | {"indices": indices, "order": order}
    part = checkpoint.part(name, state, epoch=0, batch=0)
    at = part.progress
    if at["epoch"] or at["batch"]:
        log.info("%s: going on after epoch %d, batch %d", name, at["epoch"], at["batch"])

    def batches() -> Iterator[Tensor]:
        for batch in indices.split(batch_size)[at["batch"] :]:
            yield batch
            at["batch"] += 1
            if part.due():
                part.save()

    while at["epoch"] < epochs:
        if not at["batch"]:
            torch.randperm(count, generator=order, out=indices)
        yield at["epoch"], batches()
        at["epoch"], at["batch"] = at["epoch"] + 1, 0


def minimize(
    loss: Callable[[Tensor], Mapping[str, Tensor]],
    groups: Sequence[tuple[Iterable[Tensor], float]],
    *,
    count: int,
    epochs: int,
    batch_size: int,
    seed: int,
    name: str,
    schedule: Callable[[float], float] | None = None,
    also: Iterable[Tensor | torch.Generator] = (),
) -> None:
    """Minimize the sum of the terms of ``loss(batch)`` with Adam, a line in the log per epoch.

    `batch` holds indices (B,) below `count`, on the CPU; a term is a mean over the batch.
    `groups` are pairs of parameters and their learning rate. `schedule` maps the share of the
    epochs that is over, in [0, 1), to a factor on the learning rates. `also` are tensors and
    generators that `loss` changes or draws from: with them training can go on after it was killed.
    """
    rates = [rate for _, rate in groups]
    optimizers = [Adam(parameters, rate) for parameters, rate in groups]
    live = [tensor for optimizer in optimizers for tensor in optimizer.live()]
    rounds = each_epoch(
        name,
        [*live, *also],
        order=generator(seed, name, "order"),
        count=count,
        epochs=epochs,
        batch_size=batch_size,
    )
    for epoch, batches in rounds:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.learning_rate = rate * (schedule(epoch / epochs) if schedule else 1.0)
        totals: dict[str, Tensor] = {}
        seen = 0  # fewer than there are images where an earlier run has begun this epoch
        for batch in batches:
            terms = loss(batch)
            sum(terms.values()).backward()
            for optimizer in optimizers:
                optimizer.step()
            seen += len(batch)
            for term, value in terms.items():
                totals[term] = totals.get(term, 0.0) + value.detach() * len(batch)
        losses = ", ".join(f"{term} {float(total) / seen:.6g}" for term, total in totals.items())
        log.info("%s: epoch %d of %d: %s", name, epoch + 1, epochs, losses)


def check_images(images: Tensor, channels: int, size: int | None = None) -> None:
    """Raise ValueError unless `images` is (B, `channels`, H, W) floating point (H = W = `size`)."""
    side = "H, W" if size is None else f"{size}, {size}"
    right = images.ndim == 4 and images.shape[1] == channels
    if not right or (size is not None and tuple(images.shape[2:]) != (size, size)):
        raise ValueError(
            f"images have the shape {tuple(images.shape)}, expected (B, {channels}, {side}): "
            "change the images or the settings channels and size"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, expected floating point in [0, 1]: "
            "divide 8-bit images by 255"
        )


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


def check_positive(**settings: float) -> None:
    """Raise ValueError for the first setting that is not > 0 (NaN is not)."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is {value!r}, expected a number > 0: change this setting")


def check_fraction(**settings: float) -> None:
    """Raise ValueError for the first setting that is not in [0, 1]."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1: change it")


def check_choice(choices: tuple, **settings) -> None:
    """Raise ValueError for the first setting that is none of `choices`."""
    for name, value in settings.items():
        if value not in choices:
            expected = " or ".join(map(repr, choices))
            raise ValueError(f"{name} is {value!r}, expected {expected}: change this setting")
