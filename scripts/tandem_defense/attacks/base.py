"""What every attack offers, and what attacks share: predictions, gradients, checks of the input.

Every step acts on the whole batch and on each image alone: batch mates never change a result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.extras import extra
from tandem_defense.settings import Epsilon, Settings

with extra("pipeline"):
    from foolbox import PyTorchModel

IMAGES_AT_ONCE = 1024  # bounds of one forward pass where an attack tries many candidates per image:
VALUES_AT_ONCE = 2**22  # images, and pixel values


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to a batch of B images.

    An image is returned unchanged where it was misclassified from the start (`success` is then
    true) and where a search does not succeed. An attack that spends a fixed budget returns its
    image whether that fools the classifier or not. An image that fooled it until it was clipped
    stays clipped.
    """

    images: Tensor  # (B, C, H, W) in [0, 1], of the input's dtype
    prediction: Tensor  # (B,) int64, the classifier's class for `images`
    clean_prediction: Tensor  # (B,) int64, the classifier's class for the input
    success: Tensor  # (B,) bool, prediction != label
    linf: Tensor  # (B,) float32, largest absolute difference from the input
    l2: Tensor  # (B,) float32, unsquared L2 norm of the difference over all pixels
    clipped: Tensor  # (B,) bool, the clip changed the image


class Attack(Settings):
    """An untargeted attack under the bounds [0, 1]: ``attack(classifier, images, labels)``.

    A subclass states its own settings and defines :meth:`run`, which may call any attack of
    Foolbox.

    clip: afterwards, keep images within ±clip of the input ([0, 1] pixels); None: as they are.

    Raises ValueError where a setting, an image, a label or a seed is not what it has to be.
    """

    clip: Epsilon | None = None
    semantics = "minimal"  # "fixed": the whole budget is spent, whether the image then fools or not
    UNBOUNDED = ()  # semantics with which epsilon is only where a search begins
    norm = "linf"  # that a setting epsilon bounds; "l2": the L2 norm, or one like it
    BATCH = None  # images at a time, where more are no faster; None: what fits

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        """Attacked images, (B, C, H, W); where a search does not succeed, any that do not fool.

        model: images in [0, 1] to logits (B, K)
        images: (B, C, H, W) in [0, 1], B at least 1, all of them classified correctly
        labels: (B,) int64
        seeds: one per image, each in [0, 2⁶³)
        """
        raise NotImplementedError

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        seeds: Sequence[int] | None = None,
    ) -> AttackResult:
        """Attack the images that `classifier` (images to logits) classifies correctly.

        images: (B, C, H, W), float32 or float64, in [0, 1]
        labels: (B,) whole numbers, the true classes
        seeds: one per image, each in [0, 2⁶³); a random attack draws image i's numbers from a
            generator of its own, seeded with ``seeds[i]`` (absent: i)

        The classifier is attacked in eval mode, on its own device, and left as it was; the result
        is on the images' device. Raises ValueError for images, labels, seeds or a classifier that
        cannot be used.
        """
        check_images(images)
        seeds = check_seeds(seeds, len(images))
        home, device = images.device, device_of(classifier, images)
        if device.type == "mps":
            raise ValueError(
                "expected a CPU or CUDA device, got mps: attacks search in float64, which it lacks"
            )
        x = images.detach().to(device, copy=True)
        with untouched(classifier), torch.enable_grad():
            model = PyTorchModel(classifier, bounds=(0, 1), device=device)
            y = check_labels(labels, x, model).to(device)
            clean = predict(model, x)
            if not torch.equal(x, images.to(device)):
                raise ValueError(
                    "the classifier changes the images that it is given; it has to work on a copy,"
                    " e.g. normalize without inplace=True"
                )
            todo = (clean == y).nonzero().squeeze(1)
            attacked, prediction = x.clone(), clean.clone()
            clipped = torch.zeros_like(y, dtype=torch.bool)
            if len(todo):
                new = self.run(model, x[todo], y[todo], [seeds[i] for i in todo.tolist()])
                new = self._settle(model, new.detach(), x[todo], y[todo])
                attacked[todo], clipped[todo] = self.clipped(new, x[todo])
                prediction[todo] = predict(model, attacked[todo])
        difference = (attacked - x).double().flatten(1)
        result = AttackResult(
            images=attacked,
            prediction=prediction,
            clean_prediction=clean,
            success=prediction != y,
            linf=difference.norm(torch.inf, dim=1).float(),
            l2=difference.norm(2, dim=1).float(),
            clipped=clipped,
        )
        return AttackResult(**{name: value.to(home) for name, value in vars(result).items()})

    def _settle(self, model: PyTorchModel, new: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """`new` in [0, 1], but the input where it is not finite or a search did not succeed."""
        usable = new.flatten(1).isfinite().all(1)
        new = torch.where(each(usable), new.clamp(0, 1), x)
        if self.semantics == "fixed":
            return new
        return torch.where(each(predict(model, new) != y), new, x)

    def clipped(self, new: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`new` within ±clip of `x`, and whether that moved a pixel by more than rounding."""
        if self.clip is None:
            return new, torch.zeros(len(x), dtype=torch.bool, device=x.device)
        near = new.clamp(x - self.clip, x + self.clip).clamp(0, 1)
        return near, (new - near).abs().flatten(1).amax(1) > 1e-6


# --- what attacks share ---------------------------------------------------------------------------


def each(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1): one value per image, ready to broadcast over its pixels."""
    return values[:, None, None, None]


def at_once(images: Tensor) -> int:
    """How many images of this size one forward pass should hold, at least 1."""
    return max(1, min(IMAGES_AT_ONCE, VALUES_AT_ONCE // images[0].numel()))


@torch.no_grad()
def logits_of(model: Callable, images: Tensor) -> Tensor:
    """Logits (B, K) without gradients, in bounded forward passes."""
    return torch.cat([model(part) for part in images.split(at_once(images))])


@torch.no_grad()
def logits_of_batch(model: Callable, images: Tensor) -> Tensor:
    """Logits (B, K) without gradients of an attack's own batch, in one pass, as its gradients are.

    Threats watch whole batches, and a random defense draws once for each pass.
    """
    return model(images)


def predict(model: Callable, images: Tensor) -> Tensor:
    """Classes (B,) int64; of no images, no classes."""
    if not len(images):
        return torch.zeros(0, dtype=torch.long, device=images.device)
    return logits_of(model, images).argmax(1)


def gradient(model: Callable, images: Tensor, labels: Tensor) -> Tensor:
    """∇ₓ J(x, y) of the cross-entropy J, (B, C, H, W): each image's own.

    Raises ValueError for a classifier that nothing can be differentiated through.
    """
    x = images.detach().requires_grad_()
    loss = F.cross_entropy(model(x), labels, reduction="sum")
    if not loss.requires_grad:
        raise ValueError(
            "the classifier's logits have no gradient with respect to the images: a gradient "
            "attack needs a forward pass without no_grad, detach or numpy"
        )
    return torch.autograd.grad(loss, x)[0]


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the largest other one, (B,): below 0 where the image fools."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(1)


def first_success(
    model: Callable,
    images: Tensor,
    labels: Tensor,
    candidates: Callable[[Tensor, Tensor], Tensor],
    count: int,
) -> Tensor:
    """The first i < count whose candidate fools, per image; -1 where none does: (B,) int64.

    ``candidates(rows, i)`` gives candidates i, (k,), of images rows, (n,), as (n, k, C, H, W).
    They are evaluated in blocks that grow as images are done; the order decides, not the block.
    """
    first = torch.full_like(labels, -1)
    rows = torch.arange(len(images), device=images.device)
    start = 0
    while len(rows) and start < count:
        stop = min(count, start + max(1, at_once(images) // len(rows)))
        tried = candidates(rows, torch.arange(start, stop, device=images.device))
        fools = predict(model, tried.flatten(0, 1)).view(len(rows), -1) != labels[rows, None]
        done = fools.any(1)
        first[rows[done]] = start + fools[done].int().argmax(1)
        rows, start = rows[~done], stop
    return first


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per image, on the CPU so that every device draws the same numbers."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@contextmanager
def untouched(classifier: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for parameters inside, everything as it was afterwards."""
    modes = {module: module.training for module in classifier.modules()}
    needs = {parameter: parameter.requires_grad for parameter in classifier.parameters()}
    try:
        for module in modes:
            module.training = False
        for parameter in needs:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, need in needs.items():
            parameter.requires_grad_(need)


def device_of(classifier: nn.Module, images: Tensor) -> torch.device:
    """The classifier's device; the images' where it has no parameters."""
    return next(classifier.parameters(), images).device


# --- checks of the input --------------------------------------------------------------------------


def check_images(images: Tensor) -> None:
    """(B, C, H, W), float32 or float64, finite, in [0, 1]; B may be 0."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images are {given}, expected a tensor (B, C, H, W); images[None] makes one a batch"
        )
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images are {images.dtype}, expected torch.float32 or torch.float64; 8-bit images "
            "become that with images.float() / 255"
        )
    if not images.numel():
        return
    if not images.isfinite().all():
        broken = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"images {broken[:5]} contain NaN or infinity, expected finite values only"
        )
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise ValueError(
            f"images range from {low:g} to {high:g}, expected [0, 1]; normalization belongs in "
            "the classifier, 8-bit values have to be divided by 255"
        )


def check_labels(labels: Tensor, images: Tensor, model: Callable) -> Tensor:
    """(B,) whole numbers, each one of the classifier's classes; as int64."""
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
        given = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels are {given}, expected a tensor ({len(images)},): one class per image"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}, expected whole numbers; use labels.long()")
    if len(labels):
        logits = logits_of(model, images[:1].clone())
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"the classifier answers one image with {tuple(logits.shape)}, expected logits "
                "(1, K) for K classes, K at least 2"
            )
        low, high, classes = labels.min().item(), labels.max().item(), logits.shape[1]
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels range from {low} to {high}, expected 0 to {classes - 1}: the classifier "
                f"has {classes} classes, counted from 0"
            )
    return labels.long()


def check_seeds(seeds: Sequence[int] | None, count: int) -> list[int]:
    """One whole number in [0, 2⁶³) per image; absent: the positions."""
    seeds = range(count) if seeds is None else seeds
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} images, expected one seed per image")
    for position, seed in enumerate(seeds):
        if int(seed) != seed or not 0 <= seed < 2**63:
            raise ValueError(
                f"seed {position} is {seed!r}, expected a whole number from 0 to 2**63 - 1; "
                "seeds.derive_seed makes one of an image's id"
            )
    return [int(seed) for seed in seeds]
