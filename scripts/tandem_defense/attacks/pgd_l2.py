"""Projected gradient descent in L2."""

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, each, generators, logits_of_batch, margin
from tandem_defense.extras import extra
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Positive

with extra("pipeline"):
    import eagerpy
    from foolbox import PyTorchModel
    from foolbox.attacks import L2ProjectedGradientDescentAttack


class PGDL2(Attack):
    """Projected gradient descent (Madry et al. 2018, eq. 3) in L2, from a random start:

        x ← clip(Π(x + α ∇J / ‖∇J‖₂)),    Π to within ε of the image, J the cross-entropy

    Foolbox 3's, whose whole budget is spent: an image is returned whether it fools or not.

    epsilon: bound ε on the L2 norm over all pixels, of pixels in [0, 1].
    steps: steps from each start.
    step_size: α; None: 2.5 ε / steps (Madry et al. 2018, section 5).
    restarts: starts, uniform in the ball and drawn from each image's own seed, of which an image's
        best is kept: that with the smallest margin between the label's logit and the next.
    clip: see :class:`Attack`, an L∞ bound beside ε.

    Raises ValueError for a setting out of range.
    """

    semantics = "fixed"
    norm = "l2"
    epsilon: Positive = 1.0
    steps: Count = 40
    step_size: Positive | None = None
    restarts: Count = 1

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        alpha = self.step_size or 2.5 * self.epsilon / self.steps
        attack = L2ProjectedGradientDescentAttack(abs_stepsize=alpha, steps=self.steps)
        best, lowest = images, torch.full_like(labels, torch.inf, dtype=images.dtype)
        for i in range(self.restarts):
            again = [derive_seed(seed, "restart", str(i)) for seed in seeds]
            start = eagerpy.astensor(self.start(images, again))
            # Foolbox draws starts for a whole batch, from PyTorch's global generator.
            attack.get_random_start = lambda x0, epsilon, start=start: start
            tried = attack.run(model, images, labels, epsilon=self.epsilon)
            value = margin(logits_of_batch(model, tried), labels)
            best = torch.where(each(value < lowest), tried, best)
            lowest = torch.minimum(value, lowest)
        return best

    def start(self, images: Tensor, seeds: list[int]) -> Tensor:
        """A point uniform in the ball around each image, (B, C, H, W)."""
        size, ways = images[0].numel(), []
        for g in generators(seeds):
            way = torch.randn(images.shape[1:], generator=g, dtype=torch.float64, device="cpu")
            share = torch.rand((), generator=g, dtype=torch.float64, device="cpu") ** (1 / size)
            ways.append(self.epsilon * share * way / way.norm())
        return images + torch.stack(ways).to(images)
