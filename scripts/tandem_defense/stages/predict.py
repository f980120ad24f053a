"""From images through a defense and a classifier to prediction rows, one per image and read-out."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tandem_defense import cache, checkpoint, device, predictions
from tandem_defense.stages import models

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """What one chunk of images brings to every row, clean or attacked.

    images : (N, C, H, W) float32 in [0, 1]; `columns` hold N values each
    """

    images: Tensor
    ids: tuple[str, ...]
    columns: dict[str, np.ndarray]


def attacked(path: str) -> Chunk:
    """A chunk of the adversarial cache."""
    found = cache.read_adversarial(path)
    names = ("clean_prediction", "success", "linf", "l2")
    columns = {name: getattr(found, name) for name in names} | {"label": found.labels}
    return Chunk(torch.from_numpy(found.images), found.ids, columns)


def clean(path: str, positions: slice) -> Chunk:
    """A chunk of unattacked images."""
    found = cache.read_images(path)[positions]
    zeros = np.zeros(len(found), np.float32)
    return Chunk(
        models.to_tensor(found.images),
        found.ids,
        {"label": found.labels, "linf": zeros, "l2": zeros},
    )


def rows(
    chunk: Chunk, names: dict, prediction: np.ndarray, rejected: np.ndarray | None = None
) -> pd.DataFrame:
    """Prediction rows of a chunk; `names` are the columns that hold one value for all."""
    n = len(chunk.ids)
    table = {"first_iterations": 0, "iteration": 0} | names | {"image": list(chunk.ids)}
    table |= chunk.columns | {"prediction": prediction}
    table["rejected"] = np.zeros(n, bool) if rejected is None else rejected
    if "success" not in table:  # unattacked: the bare classifier errs by itself, or does not
        table["success"] = table["clean_prediction"] != table["label"]
    return pd.DataFrame(table)


def predict(classifier: torch.nn.Module, images: Tensor) -> np.ndarray:
    """Predicted classes (N,) int64."""
    return classifier.predict(images).numpy()


def evaluate(
    chunks: dict[str, Chunk],
    names: dict,
    classifier: tuple[dict, str],
    defenses: dict[str, tuple[dict, str | None]],
    output: str,
    *,
    seed: int,
    threads: int,
    batch: int = 64,
) -> None:
    """Rows of every feed-forward defense (name: (entry, weights)) on a chunk under every attack."""
    where = device.prepare(threads)
    net = models.load("classifiers", *classifier, where)
    loaded = {n: models.load("defenses", *d, where, seed) for n, d in defenses.items()}
    tables = []
    for attack, chunk in chunks.items():
        if "clean_prediction" not in chunk.columns:
            chunk.columns["clean_prediction"] = predict(net, chunk.images)
        for name, defense in loaded.items():
            defended, rejected = [], []
            with torch.no_grad():
                for start in range(0, len(chunk.ids), batch):
                    images = chunk.images[start : start + batch].to(where)
                    ids = chunk.ids[start : start + batch]
                    defended.append(net(defense(images, ids)).argmax(1))
                    rejected.append(defense.rejects(images))
            found = torch.cat(defended).cpu().numpy(), torch.cat(rejected).cpu().numpy()
            columns = names | {"attack": attack, "defense": name, "seed": seed}
            tables.append(rows(chunk, columns, *found))
            log.info("%s, %s: %d of %d right", attack, name, _right(tables[-1]), len(chunk.ids))
    predictions.write(pd.concat(tables, ignore_index=True), output)


def restore(
    chunk: Chunk,
    names: dict,
    classifiers: dict[str, tuple[dict, str]],
    entry: dict,
    output: str,
    *,
    readouts: dict,
    shown: int,
    shown_output: str,
    seed: int,
    threads: int,
) -> None:
    """Rows of a restoration at every read-out, for every classifier (name: (entry, weights)).

    readouts : ``iterations`` (a list of steps), ``first_iterations`` (a list of λ₁) and ``kept``
        (the steps whose images figures show)
    shown : how many of the dataset's first images the figures show; those of them in this chunk
        are stored in `shown_output`, per read-out
    """
    where = device.prepare(threads)
    nets = {n: models.load("classifiers", *c, where) for n, c in classifiers.items()}
    if readouts["first_iterations"] and entry["kind"] == "tdips":
        entry = entry | {"first_iterations": readouts["first_iterations"]}
    restoration = models.build("defenses", entry, seed).to(where)
    steps = readouts["iterations"]
    lengths = sorted(set(getattr(restoration, "first_iterations", [0])))
    restoration.progress = _logged(restoration.steps(len(chunk.ids), steps[-1]))
    keep = min(shown, len(chunk.ids))
    found = torch.full((len(lengths), len(steps), len(nets), len(chunk.ids)), -1)
    kept = {
        f"{first}/{step}": torch.zeros(keep, *chunk.images.shape[1:])
        for first in lengths
        for step in steps
        if keep and step in readouts["kept"]
    }
    checkpoint.part("read-outs", {"predictions": found} | kept)
    for restored in restoration.trace(chunk.images.to(where), chunk.ids, steps):
        at, first, step = restored.positions, restored.first_iterations, restored.iteration
        for order, net in enumerate(nets.values()):
            classes = torch.from_numpy(predict(net, restored.images))
            found[lengths.index(first), steps.index(step), order, at] = classes
        pictures = kept.get(f"{first}/{step}", ())
        for i, image in zip(at, restored.images.cpu(), strict=True):
            if i < len(pictures):
                pictures[i] = image
    known = chunk.columns.get("clean_prediction")
    bare = {n: predict(net, chunk.images) if known is None else known for n, net in nets.items()}
    tables = []
    for i, first in enumerate(lengths):
        for j, step in enumerate(steps):
            for order, name in enumerate(nets):
                chunk.columns["clean_prediction"] = bare[name]
                columns = {"first_iterations": first, "iteration": step, "seed": seed}
                named = names | columns | {"classifier": name}
                tables.append(rows(chunk, named, found[i, j, order].numpy()))
    pictures = {key: images.numpy() for key, images in sorted(kept.items())}
    cache.write_restored(shown_output, pictures, list(chunk.ids[:keep]))
    predictions.write(pd.concat(tables, ignore_index=True), output)


def _logged(total: int) -> Callable[[int], None]:
    """A callback that counts steps and logs every tenth of `total`."""
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        before, done = done, done + steps
        if 10 * before // total < 10 * done // total:
            log.info("%d of %d image-steps (%d %%)", done, total, 100 * done // total)

    return progress


def _right(table: pd.DataFrame) -> int:
    return int(((table["prediction"] == table["label"]) & ~table["rejected"]).sum())
