"""What success rates of FUNN's Table 2 are made of: an attack's steps, or a network's robustness.

python reproduction/funn_rates.py [--settings NAME ...] [--seeds 0] [--attacks NAME ...]
    [--images 200] [--threads 1]

Attacks networks of reproduction/funn.py, which are trained first where they are not kept, and notes
of every image when and where it falls: one walk of DeepFool for all numbers of steps, and PGD and
AutoAttack with several ε, by bisection: what fools within ε does within more. A defense is attacked
as a whole, by who knows of all but its detectors; images that it refuses from the start are not
counted.
Writes measured/funn_rates.csv and, of Table 2's bare networks, funn_rates.png. What is in the CSV
is not computed again, and what was stopped goes on after its last few images.

Columns: `setting` of funn.py, `seed`, `attack`; `image`, of those classified correctly;
`step`, of DeepFool, after which it first fools (empty: not in 2000); `distance` there in the
attack's norm, of PGD and AutoAttack the smallest ε tried that fools (empty: none does);
`margin`, of DeepFool, the share that the true class has left after 50 steps of its lead over the
next (at most 0: fooled).
"""

import argparse
import logging
from pathlib import Path

import funn  # first: it puts the package on the path
import pandas as pd
import torch
from foolbox import PyTorchModel
from torch import Tensor

from tandem_defense import device
from tandem_defense.artifacts import rates
from tandem_defense.attacks.base import logits_of, margin, untouched
from tandem_defense.classifiers.base import Classifier
from tandem_defense.datasets.base import ImageSet
from tandem_defense.defenses.base import Defense
from tandem_defense.pipeline import checkpoint, classes, registry
from tandem_defense.pipeline.entries import to_tensor
from tandem_defense.seeds import derive_seed

OUTPUT = Path(__file__).parent / "measured/funn_rates.csv"
KEYS = ["setting", "seed", "attack"]
BATCH = 10  # images that are attacked together: AutoAttack takes minutes for them
NORMS = {"L2": torch.linalg.vector_norm, "L∞": lambda d, dim: d.abs().amax(dim)}
# In order of what they cost: attack, its norm, entry. Those with an ε are in rates.BUDGETS.
PGD = {"steps": 100, "restarts": 5}
ATTACKS = {
    "DeepFool L2, Foolbox 1": ("L2", {"kind": "deepfool_l2", "rule": "foolbox1"}),
    "DeepFool L∞, Foolbox 1": ("L∞", {"kind": "deepfool_linf", "rule": "foolbox1"}),
    "PGD L2": ("L2", {"kind": "pgd_l2", **PGD}),
    "PGD L∞": ("L∞", {"kind": "pgd", "semantics": "fixed", **PGD}),
    "DeepFool L2, Foolbox 3": ("L2", {"kind": "deepfool_l2", "rule": "foolbox3"}),
    "DeepFool L∞, Foolbox 3": ("L∞", {"kind": "deepfool_linf", "rule": "foolbox3"}),
    "AutoAttack L2": ("L2", {"kind": "autoattack", "norm": "l2"}),
    "AutoAttack L∞": ("L∞", {"kind": "autoattack", "norm": "linf"}),
}


def attack(entry: dict, **settings) -> object:
    """The attack of a configuration's entry."""
    given = {key: value for key, value in entry.items() if key != "kind"}
    name = registry.target("attacks", entry["kind"])
    return classes.build({"class": name, "settings": given | settings})


def walk(net: torch.nn.Module, x: Tensor, y: Tensor, norm: str, entry: dict) -> pd.DataFrame:
    """Columns step, distance and margin, a row per image: DeepFool with all steps, and with few."""
    with untouched(net):
        model = PyTorchModel(net, bounds=(0, 1), device=x.device)
        reached, first = attack(entry, steps=rates.STEPS).walk(model, x, y)
        early, _ = attack(entry, steps=rates.EARLY).walk(model, x, y)
        lead, left = (margin(logits_of(model, images), y) for images in (x, early))
    distance = NORMS[norm]((reached - x).flatten(1), dim=1)
    table = pd.DataFrame({"step": first.tolist(), "distance": distance.tolist()})
    return table.where(table["step"] >= 0).assign(margin=(left / lead).tolist())


def sweep(
    net: torch.nn.Module, x: Tensor, y: Tensor, seeds: list[int], entry: dict, epsilons: tuple
) -> pd.DataFrame:
    """As :func:`walk`: the smallest of rising `epsilons` that fools each image, by bisection."""
    first, last = torch.zeros(len(x), dtype=torch.long), torch.full((len(x),), len(epsilons))
    part = checkpoint.part("smallest epsilon", {"first": first, "last": last}).resume()
    while (open := first < last).any():  # the smallest is one of [first, last], the last: none
        middle = (first + last) // 2
        i = int(middle[open].min())
        rows = (open & (middle == i)).nonzero().squeeze(1)[:BATCH]
        tried = attack(entry, epsilon=epsilons[i])
        success = tried(net, x[rows], y[rows], [seeds[r] for r in rows]).success
        last[rows[success]], first[rows[~success]] = i, i + 1
        if part.due():
            part.save()
    distance = [[*epsilons, float("nan")][i] for i in first]  # ε as they are written
    return pd.DataFrame({"step": torch.nan, "distance": distance, "margin": torch.nan})


def measure(
    name: str, net: Classifier, images: ImageSet, seed: int, defense: Defense | None = None
) -> pd.DataFrame:
    """The rows of an attack."""
    x, y = to_tensor(images.images), torch.from_numpy(images.labels).long()
    rows = (funn.answers(net, defense, x) == y).nonzero().squeeze(1)
    whole = net if defense is None else torch.nn.Sequential(defense, net)
    x, y, ids = x[rows], y[rows], [images.ids[i] for i in rows]
    norm, entry = ATTACKS[name]
    if name in rates.BUDGETS:
        seeds = [derive_seed(seed, image) for image in ids]
        table = sweep(whole, x, y, seeds, entry, rates.BUDGETS[name])
    else:
        table = walk(whole, x, y, norm, entry)
    return table.assign(attack=name, image=ids)


def main() -> None:
    """Measure what is not in the CSV yet, then draw all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings", nargs="*", choices=funn.SETTINGS, default=["classic, 32", "funn, 32"]
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--attacks", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    device.prepare(options.threads, device="cpu")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    funn.KEPT.mkdir(parents=True, exist_ok=True)
    splits = funn.MNIST(folder=str(funn.HERE / "inputs/mnist")).load()
    images, labels = to_tensor(splits["train"].images), torch.from_numpy(splits["train"].labels)
    columns = [*KEYS, "image", "step", "distance", "margin"]
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=columns)
    for seed in options.seeds:
        for setting in options.settings:
            done = set(table["attack"][(table["setting"] == setting) & (table["seed"] == seed)])
            missing = [name for name in ATTACKS if name in {*options.attacks} - done]
            if not missing:
                continue
            net, defense = funn.built(setting, seed, images, labels)
            networks = sorted({setting, funn.BEHIND.get(setting, setting)})
            weights = [funn.kept(network, seed, "safetensors") for network in networks]
            part = splits["test"][: options.images]
            for name in missing:
                file = funn.kept(f"{setting} {name}", seed, "checkpoint")
                job = {"attack": ATTACKS[name], "epsilons": rates.BUDGETS.get(name)}
                with checkpoint.kept(file, job | {"images": part.ids}, weights):
                    new = measure(name, net, part, seed, defense)
                new = new.assign(setting=setting, seed=seed)[columns].astype({"step": "Int64"})
                table = pd.concat([table, new]) if len(table) else new
                table.round({"distance": 5}).to_csv(OUTPUT, index=False, float_format="%.6g")
                print(setting, seed, name, flush=True)
    shown = {*funn.MODELS.values()} - {*funn.BEHIND}  # MagNet's refusals are not in it
    rates.save(table[table["setting"].isin(shown)], OUTPUT.with_suffix(".png"))


if __name__ == "__main__":
    main()
