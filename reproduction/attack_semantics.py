"""Does another reading of "DeepFool" or "FGSM" explain Table 2? Its classifiers, attacked again.

python reproduction/attack_semantics.py [--settings NAME ...] [--seeds 0] [--images 200]

What the attack sees of the classifier, and how it steps, for networks of reproduction/funn.py,
which are trained first where they are not kept. Writes measured/attack_semantics.csv and continues
where it was stopped.
"""

import argparse
import logging
from pathlib import Path

import funn  # first: it puts the package on the path
import pandas as pd
import torch
from torch import Tensor, nn

from tandem_defense import device
from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf
from tandem_defense.attacks.gradient import FGSM
from tandem_defense.pipeline.entries import to_tensor

OUTPUT = Path(__file__).parent / "measured/attack_semantics.csv"
KEYS = ["seed", "classifier", "output", "attack"]
# What the attack takes for the logits. Foolbox 1 and 2 expected probabilities of a Keras model, and
# took the logarithm of what clipping left of them.
OUTPUTS = {
    "logits": lambda z: z,
    "probabilities": lambda z: z.softmax(1),
    "log of clipped probabilities": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7).log(),
}


ATTACKS = {
    "DeepFool L2, 50 steps": DeepFoolL2(steps=50),
    "DeepFool L∞, 50 steps": DeepFoolLinf(steps=50),
    "DeepFool L2, 50 steps, foolbox1": DeepFoolL2(rule="foolbox1", steps=50),
    "DeepFool L2, 200 steps, foolbox1": DeepFoolL2(rule="foolbox1", steps=200),
    "DeepFool L2, 1000 steps, foolbox1": DeepFoolL2(rule="foolbox1", steps=1000),
    "DeepFool L∞, 50 steps, foolbox1": DeepFoolLinf(rule="foolbox1", steps=50),
    "DeepFool L∞, 200 steps, foolbox1": DeepFoolLinf(rule="foolbox1", steps=200),
    "FGSM ε = 0.005, minimal": FGSM(semantics="minimal", epsilon=0.005),
    "FGSM ε = 0.005, fixed": FGSM(semantics="fixed", epsilon=0.005),
}


class Seen(nn.Module):
    """A classifier as an attack sees it."""

    def __init__(self, net: nn.Module, output: str):
        super().__init__()
        self.net, self.output = net, output

    def forward(self, images: Tensor) -> Tensor:
        return OUTPUTS[self.output](self.net(images))


def main() -> None:
    """Attack what is not in the CSV yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", nargs="*", choices=funn.SETTINGS, default=["classic, 64", "funn, 64"]
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    device.prepare(options.threads, device="cpu")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    funn.KEPT.mkdir(parents=True, exist_ok=True)
    splits = funn.MNIST(folder=str(funn.HERE / "inputs/mnist")).load()
    images, labels = to_tensor(splits["train"].images), torch.from_numpy(splits["train"].labels)
    test = splits["test"][: options.images]
    x, y = to_tensor(test.images), torch.from_numpy(test.labels)
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    rows = table.to_dict("records")
    for seed in options.seeds:
        for name in options.settings:
            net = funn.train(name, seed, images, labels)
            for output in OUTPUTS:
                for label, attack in ATTACKS.items():
                    if (seed, name, output, label) in done:
                        continue
                    result = attack(Seen(net, output), x, y)
                    correct = result.clean_prediction == y
                    fooled = result.success & correct
                    rows.append(
                        dict(zip(KEYS, (seed, name, output, label), strict=True))
                        | {
                            "n": int(correct.sum()),
                            "success_rate": float(fooled.sum() / correct.sum()),
                            "noise_level": float(result.l2[fooled].mean()),
                        }
                    )
                    print(rows[-1], flush=True)
                    pd.DataFrame(rows).round(4).to_csv(OUTPUT, index=False)


if __name__ == "__main__":
    main()
