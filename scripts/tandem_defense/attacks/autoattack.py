"""AutoAttack: an ensemble without settings that would have to be tuned."""

import logging
from typing import Literal

import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack
from tandem_defense.extras import extra
from tandem_defense.settings import Positive

with extra("pipeline"):
    from foolbox import PyTorchModel
with extra("autoattack"):
    import pyautoattack

# It draws one of its checks' conclusions per call, here per image: threats have signs for these.
logging.getLogger("auto-attack").setLevel(logging.ERROR)


class AutoAttack(Attack):
    """AutoAttack (Croce & Hein 2020), as its authors' package has it, image by image.

    ``standard``: APGD on the cross-entropy, then APGD and FAB at the nine most likely other
    classes, then Square with 5000 queries, each on what is still classified correctly. Their
    package draws for a whole batch from PyTorch's global generator; a batch of one, seeded with the
    image's seed, makes an image's result its own.

    norm: of the bound, ``linf`` or ``l2``.
    epsilon: the bound, pixels in [0, 1].
    version: ``standard``; ``rand``, APGD on both losses averaged over 20 draws, for classifiers
        that answer differently every time.
    clip: see :class:`Attack`.

    Raises ValueError for fewer than four classes, which its second loss needs, and for float64.
    """

    norm: Literal["linf", "l2"] = "linf"
    epsilon: Positive = 8 / 255
    version: Literal["standard", "rand"] = "standard"

    semantics = "fixed"  # it checks its images itself: what it fails on comes back unchanged
    LEAST_CLASSES = 4  # which its second loss compares
    BATCH = 1

    def run(self, model: PyTorchModel, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
        if images.dtype != torch.float32:
            raise ValueError(f"AutoAttack works on torch.float32 images, got {images.dtype}")
        classes = model(images[:1]).shape[1]
        if classes < self.LEAST_CLASSES:
            raise ValueError(
                f"AutoAttack needs at least {self.LEAST_CLASSES} classes, found {classes}: take pgd"
                " with restarts, and square"
            )
        cuda = [images.device] if images.device.type == "cuda" else []
        attacked = []
        for image, label, seed in zip(images, labels, seeds, strict=True):
            attack = pyautoattack.AutoAttack(
                model,
                norm={"linf": "Linf", "l2": "L2"}[self.norm],
                eps=self.epsilon,
                seed=seed,
                version=self.version,
                device=images.device,
            )
            for part in (attack.apgd_targeted, attack.fab):
                part.n_target_classes = min(9, classes - 1)
            with torch.random.fork_rng(devices=cuda):
                new, _ = attack.run_standard_evaluation(image[None], label[None], batch_size=1)
            attacked.append(new)
        return torch.cat(attacked)
