"""Chunks of images clean and attacked, from the files of earlier stages."""

import numpy as np
import torch

from tandem_defense.evaluation.rows import Chunk
from tandem_defense.files.adversarial import read_adversarial
from tandem_defense.files.images import read_images
from tandem_defense.pipeline.entries import to_tensor


def attacked(path: str) -> Chunk:
    """A chunk of the adversarial cache."""
    stored = read_adversarial(path)
    names = ("clean_prediction", "success", "linf", "l2")
    columns = {name: getattr(stored, name) for name in names} | {"label": stored.labels}
    return Chunk(torch.from_numpy(stored.images), stored.ids, columns)


def clean(path: str, positions: slice) -> Chunk:
    """A chunk of unattacked images."""
    stored = read_images(path).chunk(positions)
    zeros = np.zeros(len(stored), np.float32)
    columns = {"label": stored.labels, "linf": zeros, "l2": zeros}
    return Chunk(to_tensor(stored.images), stored.ids, columns)
