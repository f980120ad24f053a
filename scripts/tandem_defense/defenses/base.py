"""What every defense offers: images in, images out."""

import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor, nn

from tandem_defense.settings import Settings


class Defense(Settings, nn.Module):
    """Images (B, C, H, W) float in [0, 1] to images of the same shape and range.

    A defense is a module, so ``nn.Sequential(defense, classifier)`` is a defended classifier.
    `ids` name the images; a random defense derives its seeds from (run seed, id), so that a
    result does not depend on batch mates; where they are absent, an image's content is its id.
    Settings are annotated attributes (settings.py); layers are made in ``__post_init__``.
    A defense that must be trained also has ``fit(images, labels, *, seed, ...)``; one that is
    trained against a particular classifier takes it as ``fit(..., classifier=...)``.

    gradient : what an attack through the defense gets, whose images never change: null, the exact
        gradient of :meth:`forward`, or RuntimeError where it has none; ``straight_through``, the
        classifier's gradient at the defended images, as if the defense were the identity (BPDA,
        Athalye et al. 2018); ``none``, no gradient, and the result is detached
    """

    gradient: Literal["none", "straight_through"] | None = None

    def __call__(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Defended images, as :meth:`forward` makes them, with the gradient that is chosen."""
        forward = super().__call__
        if self.gradient == "none":
            return forward(images.detach(), ids).detach()
        if self.gradient == "straight_through":
            return Backward.apply(images, partial(forward, ids=ids), None)
        defended = forward(images, ids)
        asked = images.requires_grad and torch.is_grad_enabled()
        if not asked or defended.requires_grad:
            return defended
        return Backward.apply(images, lambda _: defended.detach(), type(self).__name__)

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Defended images, shape and range as the input's."""
        raise NotImplementedError

    def through(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """As a call, for an attacker who passes roundings straight through: by default the call."""
        return self(images, ids)

    def rejects(self, images: Tensor) -> Tensor:
        """Which inputs the defense refuses to classify, (B,) bool: none, unless it detects."""
        return images.new_zeros(len(images), dtype=bool)

    def steps(self, images: int, iterations: int) -> int:
        """Optimizer steps that a restoration of this many images takes, summed over images."""
        return images * iterations


def uncompiled(method: Callable) -> Callable:
    """A method that ``torch.compile`` leaves alone: it trains networks, and has engines of its own.

    torch.compiler.disable by itself would import the compiler, which takes longer than a short
    restoration, for everybody.
    """

    @wraps(method)
    def whole(*arguments, **named):
        used = "torch._dynamo" in sys.modules
        return (torch.compiler.disable(method) if used else method)(*arguments, **named)

    return whole


NO_GRADIENT = (
    "{} has no gradient, and one was asked for: an attack that needs none can go through it as it"
    ' is. For others choose one: gradient="straight_through" takes the defense for the identity'
    ' (BPDA), the usual way to attack it; gradient="none" detaches the result, so that the attack'
    " sees no slope and fails for that reason alone"
)


class NoGradient(RuntimeError):
    """A gradient was asked for that is not there."""


class Backward(torch.autograd.Function):
    """What `defend` makes of images; backward the gradient as it is, or an error of `refusing`."""

    @staticmethod
    def forward(images: Tensor, defend: Callable[[Tensor], Tensor], refusing: str | None) -> Tensor:
        return defend(images)

    @staticmethod
    def setup_context(context, inputs: tuple, output: Tensor) -> None:
        context.refusing = inputs[2]

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        if context.refusing:
            raise NoGradient(NO_GRADIENT.format(context.refusing))
        return gradient, None, None


def names_of(images: Tensor, ids: Sequence[str] | None) -> list[str]:
    """What a random defense derives an image's seed from: its id, or else its content.

    So ``defense(x)[1:2]`` equals ``defense(x[1:2])``, and an attack may drop finished images from
    its batch without changing the others. An image that an attack has changed is another image,
    with another draw: pass ids to hold it fixed. Content is what float32 holds of it, whatever the
    images' type. Raises ValueError for another number of ids.
    """
    if ids is None:
        flat = (image.detach().cpu().float().contiguous().flatten() for image in images)
        return [sha256(pixels.view(torch.uint8).numpy()).hexdigest() for pixels in flat]
    if len(ids) != len(images):
        raise ValueError(
            f"there are {len(ids)} ids for {len(images)} images, expected one each: pass the ids of"
            " this batch, or none"
        )
    return list(ids)


class NoDefense(Defense):
    """The images as they are: the undefended classifier's row in every table."""

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """The input itself."""
        return images
