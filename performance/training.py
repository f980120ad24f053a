"""How long an epoch of FUNN's two stages takes, beside a plain loop in PyTorch's own layers.

python performance/training.py [--images FOLDER] [--batches 20] [--rounds 5]
python performance/training.py --page    docs/choices.md's table, from the CSV

FOLDER holds MNIST's four files; without it, random images of the same shape are
used. The two implementations take turns, `--rounds` times, on the same batches; the fastest round
counts and is scaled to an epoch of 60000 images. Timed on one thread unless `--threads` says more.
"""

import argparse
import csv
import sys
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import pages  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.classifiers.autoencoder import FUNN  # noqa: E402
from tandem_defense.datasets.mnist import MNIST  # noqa: E402

EPOCH, BATCH = 60000, 128
OUTPUT = Path(__file__).with_suffix(".csv")
PAGE = ROOT / "docs/choices.md"


class Plain(nn.Module):
    """The autoencoder in PyTorch's layers, on padded images; with noise, an attacker."""

    def __init__(self, noise: int = 0):
        super().__init__()
        widths, relu = (1, 16, 32, 64, 64, 32), nn.ReLU()
        down = [nn.Conv2d(i, o, 3, 2, 1) for i, o in pairwise(widths)]
        up = [nn.ConvTranspose2d(i, o, 3, 2, 1, 1) for i, o in pairwise(widths[::-1])]
        up[0] = nn.ConvTranspose2d(widths[-1] + noise, widths[-2], 3, 2, 1, 1)
        self.encoder = nn.Sequential(*(layer for step in down for layer in (step, relu)))
        self.decoder = nn.Sequential(*[layer for step in up for layer in (step, relu)][:-1])

    def forward(self, images, noise=None):
        features = self.encoder(images)
        if noise is not None:
            features = torch.cat([features, noise[:, :, None, None]], 1)
        return (1 + torch.tanh(self.decoder(features))) / 2


def plain(images: torch.Tensor, stage: int) -> None:
    """One epoch, as the paper writes it: each player has its own loss, pass and optimizer."""
    where, mse = images.device, nn.functional.mse_loss
    attacker, defender = Plain(32).to(where), Plain().to(where)
    if stage == 1:
        players = (attacker, defender)
    else:
        attacker.encoder.requires_grad_(False)
        defender.decoder.requires_grad_(False)
        players = (attacker.decoder, defender.encoder)
    attacks, defends = (torch.optim.Adam(player.parameters(), 1e-5) for player in players)
    images = nn.functional.pad(images, (2, 2, 2, 2))
    for batch in torch.randperm(len(images)).split(BATCH):
        x = images[batch]
        perturbed = attacker(x, torch.rand(len(x), 32).to(where))
        loss = mse(perturbed, x)
        if stage == 2:
            loss = loss + 5 * (0.01 - mse(defender(perturbed), x)).clamp_min(0)
        attacks.zero_grad()
        loss.backward()
        defends.zero_grad()
        mse(defender(perturbed.detach()), x).backward()
        attacks.step()
        defends.step()


class Ours(FUNN):
    """FUNN without the classifier that is trained at the end."""

    def fit_head(self, *_) -> None:
        """Nothing."""


def ours(images: torch.Tensor, stage: int) -> None:
    """So many epochs of FUNN's own `fit`; stage 2 computes all features once, before the first."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    epochs = {"initialization_epochs": 0, "optimization_epochs": 0}
    epochs[tuple(epochs)[stage - 1]] = EPOCHS[ours][stage]
    Ours().to(images.device).fit(images, labels, seed=0, batch_size=BATCH, **epochs)


EPOCHS = {plain: {1: 1, 2: 1}, ours: {1: 1, 2: 31}}  # 31: the paper's, among which the features are


def timed(function, images: torch.Tensor, stage: int) -> float:
    """Seconds that an epoch of 60000 images would take."""
    start = time.perf_counter()
    function(images, stage)
    if images.is_cuda:
        torch.cuda.synchronize()
    seen = EPOCHS[function][stage] * len(images)
    return (time.perf_counter() - start) * EPOCH / seen


def page(table: pd.DataFrame) -> str:
    """The table of docs/choices.md, and what a whole training takes."""
    wide = table.pivot(index="stage", columns="implementation", values="seconds_per_epoch")
    lines = ["| seconds per epoch of 60 000 images | plain | ours | ratio |", "|---|---|---|---|"]
    lines += [
        f"| stage {stage} | {row.plain:.1f} | {row.ours:.1f} | {row.plain / row.ours:.2f} |"
        for stage, row in wide.iterrows()
    ]
    minutes = (wide.loc[1] * 9 + wide.loc[2] * 31) / 60
    whole = f"{minutes.ours:.0f} minutes instead of {minutes.plain:.0f}"
    return "\n".join([*lines, "", f"So 9 + 31 epochs of one seed take {whole}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder with MNIST")
    parser.add_argument("--batches", type=int, default=20, help="of 128 images (default 20)")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--page", action="store_true", help="only write the table")
    options = parser.parse_args()
    if options.page:
        pages.quote(PAGE, OUTPUT, page(pd.read_csv(options.output)))
        return
    where = device.prepare(options.threads)
    count = options.batches * BATCH
    if options.images:
        found = MNIST(folder=str(options.images)).load()["train"].images[:count]
        images = torch.from_numpy(found).reshape(-1, 1, 28, 28).float() / 255
    else:
        images = torch.rand(count, 1, 28, 28)
    images = images.to(where)
    rows = []
    for stage in (1, 2):
        seconds = {"plain": [], "ours": []}
        for turn in range(options.rounds + 1):
            for name, function in (("plain", plain), ("ours", ours)):
                spent = timed(function, images, stage)
                if turn:  # the first turn loads kernels and modules
                    seconds[name].append(spent)
        for name, values in seconds.items():
            ratio = min(seconds["plain"]) / min(values)
            rows.append((where.type, stage, name, f"{min(values):.2f}", f"{ratio:.2f}"))
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("device", "stage", "implementation", "seconds_per_epoch", "ratio"))
        writer.writerows(rows)
    print(options.output.read_text(), end="")


if __name__ == "__main__":
    main()
