"""Prediction rows, one per image and read-out, of chunks of images clean and attacked."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tandem_defense.files.adversarial import read_adversarial
from tandem_defense.files.images import read_images
from tandem_defense.pipeline.entries import to_tensor


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
    stored = read_adversarial(path)
    names = ("clean_prediction", "success", "linf", "l2")
    columns = {name: getattr(stored, name) for name in names} | {"label": stored.labels}
    return Chunk(torch.from_numpy(stored.images), stored.ids, columns)


def clean(path: str, positions: slice) -> Chunk:
    """A chunk of unattacked images."""
    stored = read_images(path)[positions]
    zeros = np.zeros(len(stored), np.float32)
    columns = {"label": stored.labels, "linf": zeros, "l2": zeros}
    return Chunk(to_tensor(stored.images), stored.ids, columns)


def rows(
    chunk: Chunk,
    names: dict,
    clean_prediction: np.ndarray,
    prediction: np.ndarray,
    rejected: np.ndarray | None = None,
) -> pd.DataFrame:
    """Prediction rows of a chunk; `names` are the columns that hold one value for all.

    clean_prediction : the bare classifier's classes of the clean images, (N,)
    """
    n = len(chunk.ids)
    table = {"first_iterations": 0, "iteration": 0} | names | {"image": list(chunk.ids)}
    table |= chunk.columns | {"clean_prediction": clean_prediction, "prediction": prediction}
    table["rejected"] = np.zeros(n, bool) if rejected is None else rejected
    if "success" not in table:  # unattacked: the bare classifier errs by itself, or does not
        table["success"] = table["clean_prediction"] != table["label"]
    return pd.DataFrame(table)


def predict(classifier: torch.nn.Module, images: Tensor) -> np.ndarray:
    """Predicted classes (N,) int64."""
    return classifier.predict(images).numpy()


def correct(table: pd.DataFrame) -> int:
    """How many rows are classified correctly and not refused."""
    return int(((table["prediction"] == table["label"]) & ~table["rejected"]).sum())
