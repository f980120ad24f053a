"""The autoencoders' network trained with labels, plainly or adversarially: references for them."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.classifiers.autoencoder import ClassicAutoencoder
from tandem_defense.device import DRAWN
from tandem_defense.settings import Count, Positive, checked
from tandem_defense.training import generator, initialize, minimize


class Supervised(ClassicAutoencoder):
    """The encoder and the dense layers of :class:`.ClassicAutoencoder`, trained together on labels.

    With `adversary`, by adversarial training (Madry et al. 2017, eq. 2.1): a defense that is known
    to hold, to compare others with. The autoencoder has no decoder.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.autoencoder.decoder = nn.Identity()

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Count = 20,
        learning_rate: Positive = 1e-3,
        batch_size: Count = 128,
        adversary: Literal["none", "linf", "l2"] = "none",
        epsilon: Positive = 0.2,
        steps: Count = 7,
        initial_weights: Literal["torch", "glorot", "he"] = "he",
    ) -> None:
        """Minimize the cross-entropy on `images` (N, C, S, S) in [0, 1] and `labels` (N,).

        adversary : the norm of the bound that every batch is attacked within; ``none``: plainly
        epsilon : the bound, in [0, 1] pixels
        steps : of PGD, 2.5 ε / steps long, from a random start

        The bound grows from 0 over the first quarter of the training, without which a large one
        leaves a network that answers the same for every image. Raises ValueError for wrong
        shapes, ranges, labels or settings.
        """
        self.check(images, labels)
        initialize(self, seed, initial_weights)
        x, y = images, labels.to(images.device)
        draws, total = generator(seed, "adversary"), epochs * -(-len(images) // batch_size)
        made = torch.zeros(1)  # batches so far

        def loss(batch: Tensor) -> dict[str, Tensor]:
            shown, true = x[batch], y[batch]
            if adversary != "none":
                bound = epsilon * min(1.0, 4 * float(made) / total)
                shown = pgd(self, shown, true, adversary, bound, steps, draws)
            made.add_(1)
            return {"cross-entropy": F.cross_entropy(self(shown), true)}

        minimize(
            loss,
            [(self.parameters(), learning_rate)],
            name="supervised",
            order=generator(seed, "supervised", "order"),
            count=len(x),
            epochs=epochs,
            batch_size=batch_size,
            also=[draws, made],
        )
        self.eval()


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    norm: Literal["linf", "l2"],
    epsilon: float,
    steps: int,
    draws: torch.Generator,
) -> Tensor:
    """Images of a larger loss within ±epsilon, in [0, 1]; shape as the input's (B, C, H, W)."""
    unit = {"linf": torch.sign, "l2": lambda d: d / length(d).clamp(min=1e-12)}[norm]
    delta = (2 * torch.rand(images.shape, generator=draws, **DRAWN) - 1).to(images)
    delta = epsilon * (delta if norm == "linf" else delta / length(delta))
    for _ in range(steps):
        x = (images + delta).clamp(0, 1).requires_grad_()
        (ascent,) = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
        delta = x.detach() - images + 2.5 * epsilon / steps * unit(ascent)
        if norm == "linf":
            delta = delta.clamp(-epsilon, epsilon)
        else:
            delta = delta * (epsilon / length(delta).clamp(min=1e-12)).clamp(max=1)
    return (images + delta).clamp(0, 1)


def length(delta: Tensor) -> Tensor:
    """L2 norm per image, (B, 1, 1, 1)."""
    return delta.flatten(1).norm(dim=1)[:, None, None, None]
