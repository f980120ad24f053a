"""Attacking one chunk of images and storing what came of it."""

import logging

import numpy as np
import torch

from tandem_defense import cache, device
from tandem_defense.seeds import derive_seed
from tandem_defense.stages import models

log = logging.getLogger(__name__)


def attack(
    entry: dict,
    classifier: tuple[dict, str],
    images: str,
    output: str,
    *,
    count: int,
    scatteritem: str,
    seed: int,
    threads: int,
) -> None:
    """Attack one chunk of the first `count` images against the bare classifier (entry, weights)."""
    where = device.prepare(threads)
    data = cache.read_images(images)
    chunk = data[models.chunk_positions(scatteritem, count)]
    result = models.build("attacks", entry)(
        models.load("classifiers", *classifier, where),
        models.to_tensor(chunk.images).to(where),
        torch.from_numpy(chunk.labels).to(where),
        seeds=[derive_seed(seed, name) for name in chunk.ids],
    )
    arrays = {
        name: getattr(result, name).cpu().numpy()
        for name in ("images", "clean_prediction", "prediction", "success", "clipped", "linf", "l2")
    }
    log.info(
        "fooled %d of %d, clean right %d, mean L-inf %.5f, mean L2 %.4f, clip touched %d",
        arrays["success"].sum(),
        len(chunk),
        np.sum(arrays["clean_prediction"] == chunk.labels),
        arrays["linf"].mean(),
        arrays["l2"].mean(),
        arrays["clipped"].sum(),
    )
    cache.write_adversarial(
        output,
        cache.AdversarialSet(
            labels=chunk.labels,
            ids=chunk.ids,
            settings=entry | {"seed": seed},
            classes=len(data.classes),
            **arrays,
        ),
    )
