"""How far from the classic autoencoder's classifier its adversarial images are, as it trains on.

python reproduction/autoencoder_training.py [--threads 1]

Table 2's baseline with the points varied that the FUNN paper leaves open for it: epochs, initial
weights, widths; 28 × 28 images without padding, and features of 4 × 4. MNIST, seed 0. Accuracy is
of 1000 test images; DeepFool (L2, 50 steps) and FGSM (minimal, ε = 0.005) attack the first 200.
Writes measured/autoencoder_training.csv and continues where it was stopped.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.deepfool import DeepFoolL2  # noqa: E402
from tandem_defense.attacks.gradient import FGSM  # noqa: E402
from tandem_defense.classifiers.autoencoder import ClassicAutoencoder  # noqa: E402
from tandem_defense.datasets.mnist import MNIST  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/autoencoder_training.csv"
WIDE, NARROW = (16, 32, 64), (16, 8, 8)
# Widths, initial weights, epochs of the autoencoder, epochs of the head.
SETTINGS = [
    (WIDE, "he", 1, 5),
    (WIDE, "he", 3, 5),
    (WIDE, "he", 3, 20),
    (WIDE, "he", 9, 5),
    (WIDE, "glorot", 3, 5),
    (NARROW, "he", 3, 5),
]


def main() -> None:
    """Train and attack the settings that are not in the CSV yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    device.prepare(threads=parser.parse_args().threads)
    splits = MNIST(folder=str(HERE / "inputs/mnist")).load()
    train, test = (
        (to_tensor(splits[name].images), torch.from_numpy(splits[name].labels))
        for name in ("train", "test")
    )
    x, y = test[0][:200], test[1][:200]
    seeds = [derive_seed(0, name) for name in splits["test"].ids[:200]]
    rows = pd.read_csv(OUTPUT).to_dict("records") if OUTPUT.exists() else []
    for widths, weights, epochs, head_epochs in SETTINGS[len(rows) :]:
        net = ClassicAutoencoder(pad=0, widths=widths)
        training = {"epochs": epochs, "head_epochs": head_epochs, "initial_weights": weights}
        net.fit(*train, seed=0, **training)
        near = DeepFoolL2(steps=50)(net, x, y, seeds=seeds)
        step = FGSM(semantics="minimal", epsilon=0.005)(net, x, y, seeds=seeds)
        right = near.clean_prediction == y
        rows.append(
            {"widths": " ".join(map(str, widths))}
            | training
            | {
                "accuracy": float((net.predict(test[0]) == test[1]).float().mean()),
                "deepfool_l2": float(near.l2[near.success & right].mean()),
                "fgsm_success": float(step.success[right].float().mean()),
            }
        )
        print(rows[-1], flush=True)
        pd.DataFrame(rows).round(4).to_csv(OUTPUT, index=False)


if __name__ == "__main__":
    main()
