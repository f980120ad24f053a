"""Does another reading of "DeepFool" or "FGSM" explain Table 2? Its classifiers, attacked again.

python reproduction/attack_semantics.py [FOLDER] [--seeds 0 1] [--images 200] [--threads 1]
    FOLDER: where reproduction/config.yaml ran, reproduction/ itself without it

What the attack sees of the classifier, and how it steps, for the classifiers of these seeds.
Writes measured/attack_semantics.csv and continues where it was stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.attacks.base import Attack, each, predict  # noqa: E402
from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf  # noqa: E402
from tandem_defense.attacks.gradient import FGSM  # noqa: E402
from tandem_defense.files.images import read_images  # noqa: E402
from tandem_defense.pipeline import entries  # noqa: E402
from tandem_defense.pipeline.demand import Experiment  # noqa: E402
from tandem_defense.settings import Count  # noqa: E402

OUTPUT = HERE / "measured/attack_semantics.csv"
KEYS = ["seed", "classifier", "output", "attack"]
# What the attack takes for the logits. Foolbox 1 and 2 expected probabilities of a Keras model, and
# took the logarithm of what clipping left of them.
OUTPUTS = {
    "logits": lambda z: z,
    "probabilities": lambda z: z.softmax(1),
    "log of clipped probabilities": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7).log(),
}


class DeepFool1(Attack):
    """DeepFool as Foolbox 1 and 2 stepped: x ← clip(x + 1.05 r), r the way to the nearest boundary.

    L2: r = |f_k̂| w_k̂ / ‖w_k̂‖₂²; L∞: r = |f_k̂| sign w_k̂ / ‖w_k̂‖₁. The overshoot is applied per step
    and not to the accumulated perturbation, nothing is added to a step, and what the clip takes
    away is lost: an image can stall on the boundary.
    """

    steps: Count
    norm: Literal["l2", "linf"] = "l2"

    def run(self, model, images: Tensor, labels: Tensor, seeds) -> Tensor:
        x = images.clone()
        for _ in range(self.steps):
            todo = (predict(model, x) == labels).nonzero().squeeze(1)
            if not len(todo):
                break
            x[todo] = self.step(model, x[todo], labels[todo])
        return x

    def step(self, model, images: Tensor, labels: Tensor) -> Tensor:
        x = images.detach().requires_grad_()
        logits = model(x)
        f = logits - logits.gather(1, labels[:, None])  # (B, K)
        w = torch.stack([torch.autograd.grad(k.sum(), x, retain_graph=True)[0] for k in f.T], 1)
        dual = w.flatten(2).norm(dim=2, p=2 if self.norm == "l2" else 1) + 1e-8
        distance = (f.abs() / dual).scatter(1, labels[:, None], torch.inf)
        least, nearest = distance.min(1)
        chosen = w[torch.arange(len(x)), nearest]
        way = chosen / each(chosen.flatten(1).norm(dim=1) + 1e-8)
        way = way if self.norm == "l2" else chosen.sign()
        return (images + 1.05 * each(least) * way).clamp(0, 1).detach()


ATTACKS = {
    "DeepFool L2, 50 steps": DeepFoolL2(steps=50),
    "DeepFool L∞, 50 steps": DeepFoolLinf(steps=50),
    "DeepFool L2, 50 steps, Foolbox 1": DeepFool1(steps=50),
    "DeepFool L2, 200 steps, Foolbox 1": DeepFool1(steps=200),
    "DeepFool L2, 1000 steps, Foolbox 1": DeepFool1(steps=1000),
    "DeepFool L∞, 50 steps, Foolbox 1": DeepFool1(steps=50, norm="linf"),
    "DeepFool L∞, 200 steps, Foolbox 1": DeepFool1(steps=200, norm="linf"),
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
    """Attack what is not in the CSV yet; a classifier that is not trained is left out."""
    config = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
    experiment = Experiment("funn", config["experiments"]["funn"])
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="*", default=experiment["seeds"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    where = device.prepare(options.threads)
    results = options.folder / "results"
    data = read_images(str(results / "images/funn/test.safetensors"))
    x = entries.to_tensor(data.images[: options.images]).to(where)
    y = torch.from_numpy(data.labels[: options.images]).to(where)
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    rows = table.to_dict("records")
    for seed in options.seeds:
        for name in experiment["classifiers"]:
            weights = results / f"classifiers/funn/{seed}/{name}.safetensors"
            if not weights.exists():
                continue
            entry = experiment.entry("classifiers", name)
            net = entries.load(entry, str(weights), where)
            for output in OUTPUTS:
                for label, attack in ATTACKS.items():
                    if (seed, name, output, label) in done:
                        continue
                    found = attack(Seen(net, output), x, y)
                    right = found.clean_prediction == y
                    fooled = found.success & right
                    rows.append(
                        dict(zip(KEYS, (seed, name, output, label), strict=True))
                        | {
                            "n": int(right.sum()),
                            "success_rate": float(fooled.sum() / right.sum()),
                            "noise_level": float(found.l2[fooled].mean()),
                        }
                    )
                    print(rows[-1], flush=True)
                    pd.DataFrame(rows).round(4).to_csv(OUTPUT, index=False)


if __name__ == "__main__":
    main()
