"""How the pipeline trains its own image classifiers: noise, blur and flips against texture."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.classifiers.base import Classifier
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Fraction, Positive
from tandem_defense.training import each_epoch

log = logging.getLogger(__name__)


class Trainable(Classifier):
    """A classifier that the pipeline trains with cross-entropy, from seeded random weights."""

    def build(self) -> None:
        """Make the layers; random initial weights are drawn from the global generator."""
        raise NotImplementedError

    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Count = 20,
        batch_size: Count = 64,
        learning_rate: Positive = 2e-3,
        noise: Fraction = 0.0,
        blur: Fraction = 0.0,
    ) -> None:
        """Train on images (N, C, H, W) in [0, 1] and labels (N,), one-cycle Adam.

        noise : Gaussian noise of a standard deviation drawn per image from U(0, `noise`)
        blur : share of the images that see a 3 × 3 average blur
        Both make the net look at shapes rather than at the finest texture. Flips and contrast
        (0.7 to 1.3) are always varied.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights") % 2**32)
            self.build()
        self.to(images.device).train()
        rng = torch.Generator().manual_seed(derive_seed(seed, "training"))
        optimizer = torch.optim.Adam(self.parameters())
        for p in self.parameters():  # as its first step does, but here to be kept and filled
            optimizer.state[p] = {"step": torch.tensor(0.0)}
            optimizer.state[p] |= {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
        taken = torch.zeros((), dtype=torch.long)
        adam = [value for state in optimizer.state.values() for value in state.values()]
        rounds = each_epoch(
            "classifier",
            [*self.state_dict().values(), *adam, taken],
            order=rng,
            count=len(images),
            epochs=epochs,
            batch_size=batch_size,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=epochs * -(-len(images) // batch_size)
        )
        for epoch, batches in rounds:
            if taken and not schedule.last_epoch:  # an earlier run has come further
                at = int(taken)
                schedule.load_state_dict({"last_epoch": at - 1, "_step_count": at})
                schedule.step()
            total, right, seen = 0.0, 0, 0
            for index in batches:
                x, y = augment(images[index], noise, blur, rng), labels[index]
                logits = self(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                taken += 1
                seen += len(index)
                total += loss.item() * len(index)
                right += (logits.argmax(1) == y).sum().item()
            log.info(
                "epoch %d/%d: loss %.4f, training accuracy %.3f",
                epoch + 1,
                epochs,
                total / max(1, seen),
                right / max(1, seen),
            )
        self.eval()


def augment(x: Tensor, noise: float, blur: float, rng: torch.Generator) -> Tensor:
    """Flip, vary the contrast, blur and add noise to a batch (B, C, H, W), within [0, 1]."""

    def chance(p: float) -> Tensor:
        return (torch.rand(len(x), 1, 1, 1, generator=rng) < p).to(x.device)

    x = torch.where(chance(0.5), x.flip(3), x)
    x = torch.where(chance(0.5), x.flip(2), x)
    gain = (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=rng)).to(x.device)
    x = ((x - 0.5) * gain + 0.5).clamp(0, 1)
    x = torch.where(chance(blur), F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "reflect"), 3, 1), x)
    sigma = noise * torch.rand(len(x), 1, 1, 1, generator=rng)
    return (x + (sigma * torch.randn(x.shape, generator=rng)).to(x.device)).clamp(0, 1)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
