"""A threat that attacks a cheap differentiable stand-in of the defense, and transfers."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.defenses.base import Defense
from tandem_defense.pipeline import checkpoint
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Positive
from tandem_defense.threats.base import Threat, Through
from tandem_defense.threats.through import cosines


class Surrogate(Threat):
    """Gradients through a stand-in that removes what a restoration removes; transferred.

    stand_in : ``blur``, a Gaussian one; ``low_pass``, the lowest `frequencies` of the discrete
        cosine transform; ``autoencoder``, a small network fitted to (input, restored) pairs
    sigma : the blur's standard deviation, in pixels
    frequencies : of each direction, that the low pass keeps
    pairs : images of the attacker's own (training images) that he lets the defense restore, with
        seeds of his own
    epochs : of fitting the network to them
    """

    stand_in: Literal["blur", "low_pass", "autoencoder"] = "blur"
    sigma: Positive = 1.0
    frequencies: Count = 16
    pairs: Count = 64
    epochs: Count = 50

    ONLY_IF = {
        "sigma": "stand_in == 'blur'",
        "frequencies": "stand_in == 'low_pass'",
        "pairs": "stand_in == 'autoencoder'",
        "epochs": "stand_in == 'autoencoder'",
    }

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The classifier behind the stand-in. Raises ValueError before it is fitted."""
        network = self.__dict__.get("network")
        if self.stand_in == "autoencoder" and network is None:
            raise ValueError("the autoencoder is not fitted, expected a call of prepare first")
        how = {"blur": self.blur, "low_pass": self.low_pass, "autoencoder": network}
        return Through(classifier, lambda images, ids: how[self.stand_in](images))

    def blur(self, images: Tensor) -> Tensor:
        """Gaussian blur, the edge repeated."""
        reach = max(1, round(3 * self.sigma))
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-0.5 * (offsets / self.sigma) ** 2)
        kernel = kernel / kernel.sum()
        channels = images.shape[1]
        x = F.pad(images, (reach,) * 4, mode="replicate")
        x = F.conv2d(x, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
        return F.conv2d(x, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)

    def low_pass(self, images: Tensor) -> Tensor:
        """The lowest frequencies of both directions."""
        rows, columns = (cosines(n, self.frequencies).to(images) for n in images.shape[2:])
        return (rows.T @ (rows @ images @ columns.T) @ columns).clamp(0, 1)

    def prepare(self, defense: Defense, images: Tensor, ids: Sequence[str], seed: int) -> None:
        """Fit the autoencoder to what the defense makes of the first `pairs` images."""
        if self.stand_in != "autoencoder":
            return
        x, names = images[: self.pairs], list(ids[: self.pairs])
        if hasattr(defense, "seed"):
            defense = copy.copy(defense)
            defense.seed = derive_seed(seed, "attacker", "pairs")
        restored = torch.zeros_like(x)
        pairs = checkpoint.part("pairs", {"restored": restored}, done=False).resume()
        if not pairs.progress["done"]:
            with torch.no_grad():
                restored[:] = defense(x, names)
            pairs.progress["done"] = True
        source = torch.Generator().manual_seed(derive_seed(seed, "surrogate"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "surrogate", "weights"))
            network = Small(images.shape[1]).to(x)
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for part in torch.randperm(len(x), generator=source, device="cpu").split(16):
                    optimizer.zero_grad()
                    F.mse_loss(network(x[part]), restored[part]).backward()
                    optimizer.step()
        self.network = network.eval().requires_grad_(False)


class Small(nn.Module):
    """A residual network of one level down and one up, for images of any size."""

    def __init__(self, channels: int, width: int = 16):
        super().__init__()
        self.down = nn.Conv2d(channels, width, 5, 2, 2)
        self.middle = nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.Conv2d(width + channels, channels, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images, shape as the input's."""
        x = torch.relu(self.middle(torch.relu(self.down(images))))
        x = F.interpolate(x, images.shape[2:], mode="bilinear", align_corners=False)
        return images + self.up(torch.cat([x, images], 1))
