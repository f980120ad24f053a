"""How fast DIP₂ learns the photograph, and then the perturbation, whatever t-DIPs leaves open.

python reproduction/learning_speed.py [--images 4] [--size 150] [--iterations 1500] [--threads 1]

The first photographs that the classifier gets right and BIM fools, reduced to `--size` pixels,
attacked there and restored with one setting after another. Writes measured/learning_speed.csv,
a row per setting, image and read-out, and continues where it was stopped.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.iterative import BIM  # noqa: E402
from tandem_defense.classifiers.torchvision import Torchvision  # noqa: E402
from tandem_defense.datasets.nips2017 import NIPS2017  # noqa: E402
from tandem_defense.defenses.dip import DIP, TandemDIP  # noqa: E402
from tandem_defense.restoration import reference  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402
from tandem_defense.stages.models import to_tensor  # noqa: E402

KEYS = ["setting", "size"]
OUTPUT = HERE / "measured/learning_speed.csv"
SETTINGS = {
    "feature_scale 8": {},  # the default
    "feature_scale 4": {"feature_scale": 4},
    "learning_rate 3e-4": {"learning_rate": 3e-4},
    "norm none": {"norm": "none"},
    "smoothing 0.9": {"smoothing": 0.9},
    "feature_scale 16": {"feature_scale": 16},
    "first_width 0.5": {"first_width": 0.5},
    "DIP alone": {},
    "learning_rate 1e-4": {"learning_rate": 1e-4},
    "smoothing 0": {"smoothing": 0.0},
    "norm none, learning_rate 3e-3": {"norm": "none", "learning_rate": 3e-3},
    "output linear": {"engine": "reference"},
}


class Linear(reference.UNet):
    """DIP₂ with its output as it is, not through a sigmoid; no setting of the defenses."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(super().forward(x), eps=1e-6)


def attacked(net: Torchvision, count: int, size: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Clean and attacked images (B, 3, size, size), labels and ids: the first that BIM fools."""
    data = NIPS2017(folder=str(HERE / "inputs/nips2017dev"), test=200).load()["test"]
    bim, found = BIM(semantics="corner", epsilon=8 / 255), []
    for i, name in enumerate(data.ids):
        x = to_tensor(data.images[i : i + 1])
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        y = torch.from_numpy(data.labels[i : i + 1])
        if net.predict(x) == y:
            result = bim(net, x, y, seeds=[derive_seed(0, name)])
            if result.success:
                found.append((x, result.images, y, name))
        if len(found) == count:
            break
    clean, images, labels, names = zip(*found, strict=True)
    return torch.cat(clean), torch.cat(images), torch.cat(labels), list(names)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,)."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


@torch.no_grad()
def measure(net, clean: Tensor, images: Tensor, labels: Tensor, restored: Tensor) -> pd.DataFrame:
    """A row per image: is it right, how sure, how near to the clean and to the attacked image."""
    probability = net(restored).softmax(1)
    delta = images - clean
    share = ((restored - clean) * delta).sum((1, 2, 3)) / delta.square().sum((1, 2, 3))
    return pd.DataFrame(
        {
            "right": (probability.argmax(1) == labels).int().numpy(),
            "probability": probability[torch.arange(len(labels)), labels].numpy(),
            "psnr_clean": psnr(restored, clean).numpy(),
            "psnr_attacked": psnr(restored, images).numpy(),
            "perturbation_share": share.numpy(),
        }
    )


def main() -> None:
    """Measure the settings that are not in the CSV yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    options = parser.parse_args()
    device.prepare(threads=options.threads)
    net = Torchvision(architecture="resnet50", input_size=224).eval()
    net.read_checkpoint(str(HERE / "inputs/resnet50.safetensors"))
    clean, images, labels, names = attacked(net, options.images, options.size)
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    readouts = list(range(options.every, options.iterations + 1, options.every))
    for setting in options.settings:
        if (setting, options.size) in set(table[KEYS].itertuples(index=False, name=None)):
            continue
        kind = DIP if setting == "DIP alone" else TandemDIP
        reference.UNet = Linear if setting == "output linear" else Linear.__base__
        parts = []
        for found in kind(**SETTINGS[setting]).trace(images, names, readouts):
            some = found.positions
            restored = found.images.clamp(0, 1)
            rows = measure(net, clean[some], images[some], labels[some], restored)
            rows.insert(0, "image", [names[i] for i in some])
            rows.insert(0, "iteration", found.iteration)
            parts.append(rows.assign(size=options.size))
        rows = pd.concat(parts).sort_values(["iteration", "image"])
        rows.insert(0, "setting", setting)
        table = pd.concat([table, rows])
        table.round(6).to_csv(OUTPUT, index=False)
        mean = rows.groupby("iteration").mean(numeric_only=True)
        print(setting, mean[["right", "probability", "psnr_clean"]].idxmax().to_dict(), flush=True)


if __name__ == "__main__":
    main()
