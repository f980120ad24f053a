"""Prediction rows, one per image and read-out, from what a classifier answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tandem_defense.defenses.base import Defense
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


@dataclass(frozen=True)
class Chunk:
    """What one chunk of images brings to every row, clean or attacked.

    images : (N, C, H, W) float32 in [0, 1]; `columns` hold N values each
    """

    images: Tensor
    ids: tuple[str, ...]
    columns: dict[str, np.ndarray]


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


@torch.no_grad()
def answers(
    classifier: nn.Module,
    defense: nn.Module | Callable,
    images: Tensor,
    ids: Sequence[str],
    device: torch.device,
    batch: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """The classes of defended images, (N,) int64, and which images were refused, (N,) bool.

    images : (N, C, H, W) in [0, 1], of which `batch` are on `device` at a time
    defense : a Defense; any other module, which gets the images; or a function, which gets the
        images and their ids

    Both may work in place: they get copies.

    Raises ValueError where the defended images have another shape than the images.
    """
    classes, refused = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for start in range(0, len(images), batch):
        x, names = images[start : start + batch].to(device), ids[start : start + batch]
        plain = isinstance(defense, nn.Module) and not isinstance(defense, Defense)
        given = x.clone()  # a defense, or a classifier behind none, may work in place
        defended = defense(given) if plain else defense(given, names)
        if defended.shape != x.shape:
            raise ValueError(
                f"{defense} made {tuple(defended.shape)} of images {tuple(x.shape)}, expected the"
                " same shape"
            )
        classes.append(classifier(defended).argmax(1).cpu().numpy())
        if isinstance(defense, Defense):
            refused.append(defense.rejects(x.clone()).cpu().numpy())
        else:
            refused.append(np.zeros(len(x), bool))
    return np.concatenate(classes), np.concatenate(refused)
