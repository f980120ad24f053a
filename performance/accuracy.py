"""Do faster forms of t-DIPs classify as well? Reference and engine at the demo's full length.

python performance/accuracy.py [--seeds 3] [--threads 1]

Restores the demo's attacked tuning patches with the demo's settings from several seeds, in float32
and bf16, without and with early stopping. Writes performance/restoration_accuracy.csv, a row per
variant and seed: `right` of `images` classified correctly; `max_rms_difference`, the largest root
mean squared difference of an image from the reference's, in [0, 1] pixels.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

from tandem_defense.attacks.iterative import BIM  # noqa: E402
from tandem_defense.classifiers.small import SmallCNN  # noqa: E402
from tandem_defense.datasets.photos import Photos  # noqa: E402
from tandem_defense.defenses.dip import TandemDIP  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

VARIANTS = {
    "reference": {"engine": "reference"},
    "engine": {},
    "engine, bf16": {"precision": "bf16"},
    "engine, early stopping 10, 20": {"stop_window": 10, "stop_patience": 20},
    "engine, early stopping 20, 60": {"stop_window": 20, "stop_patience": 60},
}
LENGTH = {"first_iterations": (20,), "iterations": 100}  # Table 1's, in the demo
ENTRY = ("feature_scale", "first_width", "smoothing")  # of the demo's t-DIPs


def rms(image: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest root mean squared difference of an image, in [0, 1] pixels."""
    return float((image - expected).square().mean((1, 2, 3)).sqrt().max())


def main() -> None:
    """Restore, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "performance/restoration_accuracy.csv"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    demo = yaml.safe_load((ROOT / "demo/config.yaml").read_text(encoding="utf-8"))
    demo = demo["experiments"]["tdips"]
    settings = {key: demo["defenses"]["tdips"][key] for key in ENTRY} | LENGTH
    splits = Photos(**{k: v for k, v in demo["dataset"].items() if k != "kind"}).load()
    train, tune = splits["train"], splits["tune"]
    small = {k: v for k, v in demo["classifiers"]["small"].items() if k in ("classes", "width")}
    net = SmallCNN(**small)
    training = demo["classifiers"]["small"]["training"]
    net.fit(to_tensor(train.images), torch.from_numpy(train.labels), seed=0, **training)
    x, y = to_tensor(tune.images), torch.from_numpy(tune.labels)
    attack = BIM(semantics="corner", epsilon=8 / 255)
    attacked = attack(net, x, y, seeds=[derive_seed(0, name) for name in tune.ids]).images
    rows = []
    for seed in range(options.seeds):
        restored = {}
        for name, variant in VARIANTS.items():
            restored[name] = TandemDIP(seed=seed, **settings, **variant)(attacked, tune.ids)
            rows.append(
                {
                    "variant": name,
                    "seed": seed,
                    "right": int((net.predict(restored[name]) == y).sum()),
                    "images": len(y),
                    "max_rms_difference": rms(restored[name], restored["reference"]),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.output, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
