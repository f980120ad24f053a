"""What is known to hold, for comparison with FUNN: the same network trained with labels, on MNIST.

python reproduction/references.py [--models NAME ...] [--images 200] [--threads 1]

Trains on the 60,000 images: plainly; adversarially in L∞ and in L2 (Madry et al. 2017); a head on
random features. Then the accuracy on the first 1000 test images, and what AutoAttack leaves of the
first ones. Writes measured/references.csv, a row per model, measure and block of images; `correct`
of `n` are classified correctly. What is there already is not computed again, and a training goes on
where it was: stop the script and start it again at any time.
"""

import argparse
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.autoattack import AutoAttack  # noqa: E402
from tandem_defense.classifiers.autoencoder import ClassicAutoencoder  # noqa: E402
from tandem_defense.classifiers.supervised import Supervised  # noqa: E402
from tandem_defense.datasets.mnist import MNIST  # noqa: E402
from tandem_defense.pipeline import checkpoint  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/references.csv"
KEPT = HERE / "results/references"  # weights, logs and checkpoints of trainings
SEED = 0
WIDTHS = (16, 32, 64, 64, 64)  # the default when the first of these were measured
MODELS = {  # class, training
    "linf": (Supervised, {"adversary": "linf", "epsilon": 0.2, "steps": 5, "epochs": 6}),
    "plain": (Supervised, {"epochs": 6}),
    "random features": (ClassicAutoencoder, {"epochs": 0}),
    "l2": (Supervised, {"adversary": "l2", "epsilon": 2.0, "steps": 5, "epochs": 6}),
}
BOUNDS = {"linf": (0.1, 0.05, 0.2), "l2": (1.0, 0.5, 2.0)}  # in the order of what they decide
BLOCK = 10  # images between two writings of the file
COLUMNS = ["model", "seed", "measure", "norm", "epsilon", "first", "n", "correct"]


def trained(name: str, images: torch.Tensor, labels: torch.Tensor) -> ClassicAutoencoder:
    """The classifier, kept once trained."""
    kind, training = MODELS[name]
    net, file = kind(widths=WIDTHS), KEPT / f"{name.replace(' ', '-')}-{SEED}.safetensors"
    if file.exists():
        net.load_state_dict(load_file(file))
        return net.eval()
    job = {"model": name, "training": training, "seed": SEED, "images": len(images)}
    with checkpoint.kept(file.with_suffix(".checkpoint"), job):
        net.fit(images, labels, seed=SEED, **training)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, file)
    return net


def main() -> None:
    """Measure what is not in the CSV yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--norms", nargs="*", choices=BOUNDS, default=list(BOUNDS))
    parser.add_argument("--bounds", type=int, default=3, help="so many of each norm")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    where = device.prepare(options.threads, device="cpu")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    KEPT.mkdir(parents=True, exist_ok=True)
    splits = MNIST(folder=str(HERE / "inputs/mnist")).load()
    train, test = splits["train"], splits["test"]
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=COLUMNS)

    def add(*row) -> None:
        nonlocal table
        table = pd.concat([table, pd.DataFrame([row], columns=COLUMNS)], ignore_index=True)
        table.to_csv(OUTPUT, index=False)
        print(*row, flush=True)

    for name in options.models:
        net = trained(name, to_tensor(train.images), torch.from_numpy(train.labels)).to(where)
        known = set(table[["model", "measure", "norm", "epsilon", "first"]].itertuples(index=False))
        known = {tuple(row) for row in known}
        if (name, "accuracy", "none", 0.0, 0) not in known:
            part = test[:1000]
            right = net.predict(to_tensor(part.images)) == torch.from_numpy(part.labels)
            add(name, SEED, "accuracy", "none", 0.0, 0, 1000, int(right.sum()))
        for norm in options.norms:
            for epsilon in BOUNDS[norm][: options.bounds]:
                attack = AutoAttack(norm=norm, epsilon=epsilon)
                for first in range(0, options.images, BLOCK):
                    if (name, "autoattack", norm, epsilon, first) in known:
                        continue
                    part = test[first : first + BLOCK]
                    seeds = [derive_seed(SEED, image) for image in part.ids]
                    labels = torch.from_numpy(part.labels)
                    result = attack(net, to_tensor(part.images), labels, seeds=seeds)
                    left = int((~result.success).sum())
                    add(name, SEED, "autoattack", norm, epsilon, first, len(part.ids), left)


if __name__ == "__main__":
    main()
