"""FUNN and the classic autoencoder on MNIST, for whatever the paper leaves open about them.

python reproduction/funn.py [--seeds 0 1] [--threads 1] [--settings NAME ...] [--attacks NAME ...]

Trains on the 60,000 images with the paper's epochs, attacks the first test images with Table 2's
attacks, and takes the errors of attacker and defender in every epoch from the training's log.
Writes measured/funn.csv, a row per setting, seed and measure. What is there already is not computed
again, and a training goes on where it was: stop the script and start it again at any time. Then
writes measured/table2.csv, Table 2 as the pipeline makes it, of the networks of findings.MODELS,
and measured/funn_figure2.png, of the first of these seeds whose networks are kept.

Columns: `setting` of SETTINGS, `seed`, `measure`; `n`, the images that it is of; `value`, a share,
or an error per pixel; `noise`, of attacks, mean L2 of the images that fool. `accuracy` is of the
first 1000 test images, where what MagNet refuses is wrong; success rates are of those of the
attacked that the bare network classifies correctly, and what MagNet refuses has not fooled it.
`black` is the error that a black image has in place of the attacker's.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.artifacts import style  # noqa: E402
from tandem_defense.artifacts.base import PUBLISHED, Inputs, Sheet  # noqa: E402
from tandem_defense.artifacts.findings import MODELS  # noqa: E402
from tandem_defense.artifacts.success import COLUMNS  # noqa: E402
from tandem_defense.attacks.batches import in_batches  # noqa: E402
from tandem_defense.classifiers.autoencoder import FUNN, ClassicAutoencoder  # noqa: E402
from tandem_defense.classifiers.supervised import Supervised  # noqa: E402
from tandem_defense.datasets.base import ImageSet  # noqa: E402
from tandem_defense.datasets.mnist import MNIST  # noqa: E402
from tandem_defense.defenses.base import Defense  # noqa: E402
from tandem_defense.defenses.magnet import MagNet  # noqa: E402
from tandem_defense.evaluation.published import read_table  # noqa: E402
from tandem_defense.pipeline import artifacts, checkpoint, classes  # noqa: E402
from tandem_defense.pipeline.demand import Experiment  # noqa: E402
from tandem_defense.pipeline.entries import to_tensor  # noqa: E402
from tandem_defense.seeds import derive_seed  # noqa: E402

OUTPUT = HERE / "measured/funn.csv"
KEPT = HERE / "results/funn"  # weights, logs and checkpoints of trainings
CONFIG = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
EXPERIMENT = Experiment("funn", CONFIG["experiments"]["funn"])
ATTACKS = {name: EXPERIMENT.entry("attacks", name) for name in EXPERIMENT["attacks"]}
IMAGES = 1000
# The attacks that cost minutes or hours are made on fewer images, and last.
FEW = 200
COSTLY = (
    "local_search",
    "deepfool_l2_200",
    "deepfool_l2_200_foolbox3",
    "deepfool_linf_200",
    "deepfool_linf_200_foolbox3",
    "local_search_foolbox2",
    "deepfool_l2_1000",
    "deepfool_l2_1000_foolbox3",
)
ORDER = [*(attack for attack in ATTACKS if attack not in COSTLY), *COSTLY]
CPU = torch.device("cpu")
RATES = ("success_rate", "noise_level")
EPOCH = re.compile(r"(\w+): epoch (\d+) of \d+: (.+)")


def classic(*widths: int, epochs: int = 20, **settings) -> tuple:
    """(class, settings, training) of the classic autoencoder."""
    return ClassicAutoencoder, {"widths": widths} | settings, {"epochs": epochs}


def funn(*widths: int, training: dict | None = None, **settings) -> tuple:
    """(class, settings, training) of FUNN, 9 + 31 epochs."""
    return FUNN, {"widths": widths} | settings, training or {}


def labels(*widths: int, **training) -> tuple:
    """(class, settings, training) of the same network trained with labels, a reference."""
    return Supervised, {"widths": widths}, {"epochs": 6} | training


def rates(factor: float) -> dict[str, float]:
    """FUNN's three learning rates of Table 1, times a factor."""
    paper = {"attacker_rate": 1e-3, "defender_rate": 5e-4, "optimization_rate": 1e-5}
    return {name: rate * factor for name, rate in paper.items()}


# In the order of what they decide.
SETTINGS = {
    "classic, 32": classic(16, 32, 64, 64, 32),
    "funn, 32": funn(16, 32, 64, 64, 32),
    "magnet, 32": (MagNet, {"channels": 1}, {"epochs": 100}),
    # What is known to hold, or not: trained with labels, adversarially (Madry et al. 2017), or not.
    "labels, 32": labels(16, 32, 64, 64, 32),
    "labels, 32, L∞": labels(16, 32, 64, 64, 32, adversary="linf", epsilon=0.2, steps=5),
    "labels, 32, L2": labels(16, 32, 64, 64, 32, adversary="l2", epsilon=2.0, steps=5),
    "random, 32": classic(16, 32, 64, 64, 32, epochs=0),
    # Other widths, features' activations and numbers of epochs.
    "classic, 64": classic(16, 32, 64, 64, 64),
    "funn, 64": funn(16, 32, 64, 64, 64),
    "magnet, 64": (MagNet, {"channels": 1}, {"epochs": 100}),
    "classic, 128": classic(16, 32, 64, 128, 128),
    "funn, 128": funn(16, 32, 64, 128, 128),
    "classic, 256": classic(16, 32, 64, 128, 256),
    "funn, 256": funn(16, 32, 64, 128, 256),
    "classic, doubled": classic(32, 64, 128, 256, 512),
    "funn, doubled": funn(32, 64, 128, 256, 512),
    "classic, 32, tanh01": classic(16, 32, 64, 64, 32, activation="tanh01"),
    "funn, 32, tanh01": funn(16, 32, 64, 64, 32, activation="tanh01"),
    "classic, 32, 9 epochs": classic(16, 32, 64, 64, 32, epochs=9),
    "classic, 32, 40 epochs": classic(16, 32, 64, 64, 32, epochs=40),
    # What the paper says of a larger β, and of a bad choice of learning rates.
    "funn, 64, beta 0.02": funn(16, 32, 64, 64, 64, training={"beta": 0.02}),
    "funn, 64, beta 0.05": funn(16, 32, 64, 64, 64, training={"beta": 0.05}),
    "funn, 64, rates x 3": funn(16, 32, 64, 64, 64, training=rates(3)),
    "funn, 64, rates x 1-3": funn(16, 32, 64, 64, 64, training=rates(1 / 3)),
}
# A defense, before which classifier.
BEHIND = {"magnet, 32": "classic, 32", "magnet, 64": "classic, 64"}


def kept(name: str, seed: int, ending: str) -> Path:
    """A file of a training."""
    return KEPT / f"{name.replace(',', '').replace(' ', '-')}-{seed}.{ending}"


def train(name: str, seed: int, images: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """The trained classifier, or defense, kept once trained; its log has a line per epoch."""
    kind, settings, training = SETTINGS[name]
    net = kind(**settings)
    file = kept(name, seed, "safetensors")
    if file.exists():
        net.load_state_dict(load_file(file))
        return net.eval()
    log = logging.FileHandler(kept(name, seed, "log"), encoding="utf-8")
    logging.getLogger().addHandler(log)
    job = {"settings": settings, "training": training, "seed": seed, "images": len(images)}
    try:
        with checkpoint.kept(kept(name, seed, "checkpoint"), job):
            net.fit(images, labels, seed=seed, **training)
            save_file({k: v.contiguous() for k, v in net.state_dict().items()}, file)
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    return net


def built(
    name: str, seed: int, images: torch.Tensor, labels: torch.Tensor
) -> tuple[ClassicAutoencoder, Defense | None]:
    """The trained classifier of a setting, and the defense that stands before it."""
    net = train(BEHIND.get(name, name), seed, images, labels)
    return net, train(name, seed, images, labels) if name in BEHIND else None


@torch.no_grad()
def answers(net: ClassicAutoencoder, defense: Defense | None, images: torch.Tensor) -> torch.Tensor:
    """Classes (N,), -1 where the defense refuses."""
    if defense is None:
        return net.predict(images)
    return net.predict(defense(images)).masked_fill(defense.rejects(images), -1)


def attacked(name: str, seed: int, attack: str, net: ClassicAutoencoder, part: ImageSet) -> dict:
    """What in_batches returns of an attack on a bare classifier, kept once made.

    With its settings in the file's name: after a change of config.yaml it is made again.
    """
    told = sha256(json.dumps([ATTACKS[attack], len(part.ids)]).encode()).hexdigest()[:8]
    file = kept(f"{name} {attack} {told}", seed, "npz")
    if not file.exists():
        seeds = [derive_seed(seed, image) for image in part.ids]
        x, labels = to_tensor(part.images), torch.from_numpy(part.labels)
        made = in_batches(classes.build(ATTACKS[attack]), net, x, labels, seeds, CPU)
        np.savez_compressed(file.with_suffix(".part.npz"), **made)
        file.with_suffix(".part.npz").rename(file)
    with np.load(file, allow_pickle=False) as made:
        return dict(made)


def errors(name: str, seed: int, count: int) -> list[dict]:
    """Rows of the terms of the losses in every epoch, from the training's log."""
    found = {}  # a training that was stopped may have an epoch twice: the last counts
    for line in kept(name, seed, "log").read_text(encoding="utf-8").splitlines():
        if match := EPOCH.fullmatch(line):
            stage, epoch, terms = match.groups()
            for term in terms.split(", "):
                label, value = term.rsplit(" ", 1)
                found[f"{stage}, epoch {epoch}, {label}"] = float(value)
    return [{"measure": key, "n": count, "value": value} for key, value in found.items()]


def measures(
    name: str, seed: int, attacks: list[str], known: set[str], splits: dict
) -> Iterator[list[dict]]:
    """The rows of a setting and a seed whose measures are not `known`, a few at a time."""
    wanted = ["accuracy", *sorted(attacks, key=ORDER.index)]
    if known.issuperset(wanted):
        return
    images, test = to_tensor(splits["train"].images), splits["test"]
    net, defense = built(name, seed, images, torch.from_numpy(splits["train"].labels))
    if "accuracy" not in known:
        part = test[:IMAGES]
        right = answers(net, defense, to_tensor(part.images)).numpy() == part.labels
        rows = [{"measure": "accuracy", "n": IMAGES, "value": float(right.mean())}]
        if defense is None:
            square = float(net.padded(images).square().mean())
            rows.append({"measure": "black", "n": len(images), "value": square})
            rows += errors(name, seed, len(images))
        yield rows
    for attack in wanted[1:]:
        if attack in known:
            continue
        part = test[: FEW if attack in COSTLY else IMAGES]
        made = attacked(BEHIND.get(name, name), seed, attack, net, part)
        given = answers(net, defense, torch.from_numpy(made["images"])).numpy()
        right = made["clean_prediction"] == part.labels
        fooled = right & (given != part.labels) & (given >= 0)
        row = {"measure": attack, "n": int(right.sum())}
        row["value"] = float(fooled.sum() / right.sum())
        row["noise"] = float(made["l2"][fooled].mean()) if fooled.any() else float("nan")
        yield [row]


def ordered(rows: list[dict]) -> pd.DataFrame:
    """funn.csv: in the order of SETTINGS, whatever was measured first."""
    table = pd.DataFrame(rows, columns=["setting", "seed", "measure", "n", "value", "noise"])
    places = {name: i for i, name in enumerate(SETTINGS)}
    order = table.assign(place=table["setting"].map(places)).sort_values(["place", "seed"]).index
    return table.loc[order].round(6)


def table2(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2 of the networks that stand for its models, columns as the pipeline's."""
    printed = read_table(PUBLISHED / "table2.csv", ["success_rate"])
    printed = printed.rename(columns=lambda c: f"published_{c}" if c.endswith(RATES) else c)
    models = {setting: model for model, setting in MODELS.items()}
    cells = rows[rows["setting"].isin(models) & rows["measure"].isin(ATTACKS)]
    cells = cells.assign(model=cells["setting"].map(models), attack=cells["measure"])
    found = cells.groupby(["model", "attack"]).agg(
        n=("n", "median"),
        success_rate=("value", "median"),
        low=("value", "min"),
        high=("value", "max"),
        noise_level=("noise", "median"),
        seeds=("seed", "nunique"),
    )
    found = found.reindex([(m, a) for m in MODELS for a in ATTACKS if (m, a) in found.index])
    found = found.reset_index().assign(dataset="mnist").astype({"n": int})
    return found.merge(printed, on=["dataset", "model", "attack"], how="left")[COLUMNS]


def figure2(seed: int, test: ImageSet) -> None:
    """measured/funn_figure2.png, as the pipeline makes it, of the attacked images of one seed."""
    part = test[:IMAGES]
    (figure,) = (a for a in artifacts.of(CONFIG, "figures") if a.name == "funn_figure2")
    params, sets = figure.params(HERE.parent), []
    for model in figure.entry["classifiers"]:
        name = MODELS[model]
        net = train(name, seed, torch.empty(0), torch.empty(0))  # there is one
        made = attacked(name, seed, figure.entry["attack"], net, part)
        sets.append(SimpleNamespace(labels=part.labels, **made))
    inputs = Inputs({})
    inputs.images, inputs.attacked = part, sets
    drawing, _ = classes.build(params["entry"]).draw(inputs, Sheet(**params["sheet"]))
    style.save(drawing, OUTPUT.with_name("funn_figure2.png"))


def main() -> None:
    """Measure what is not in the CSV yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--attacks", nargs="*", choices=ORDER, default=ORDER)
    options = parser.parse_args()
    device.prepare(options.threads, device="cpu")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    KEPT.mkdir(parents=True, exist_ok=True)
    splits = MNIST(folder=str(HERE / "inputs/mnist")).load()
    rows = pd.read_csv(OUTPUT).to_dict("records") if OUTPUT.exists() else []
    for seed in options.seeds:
        for name in options.settings:
            known = {r["measure"] for r in rows if (r["setting"], r["seed"]) == (name, seed)}
            for new in measures(name, seed, options.attacks, known, splits):
                rows += [{"setting": name, "seed": seed} | row for row in new]
                ordered(rows).to_csv(OUTPUT, index=False)
                print(name, seed, new[0], flush=True)
    found = table2(ordered(rows))  # also of another machine's rows
    found.round(6).to_csv(OUTPUT.with_name("table2.csv"), index=False)
    for seed in options.seeds:
        if all(kept(MODELS[m], seed, "safetensors").exists() for m in ("classic", "funn")):
            figure2(seed, splits["test"])
            break


if __name__ == "__main__":
    main()
