"""Attacking one chunk of images and storing what came of it."""

import logging

import numpy as np
import torch

from tandem_defense import device
from tandem_defense.attacks.batches import in_batches
from tandem_defense.files.adversarial import AdversarialSet, write_adversarial
from tandem_defense.files.images import read_images
from tandem_defense.pipeline import classes, entries
from tandem_defense.pipeline.chunks import chunk_positions
from tandem_defense.seeds import derive_seed

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
    processor = device.prepare(threads)
    data = read_images(images)
    chunk = data.chunk(chunk_positions(scatteritem, count))
    arrays = in_batches(
        classes.build(entry),
        entries.load(*classifier, processor),
        entries.to_tensor(chunk.images),
        torch.from_numpy(chunk.labels),
        [derive_seed(seed, name) for name in chunk.ids],
        processor,
    )
    log.info(
        "fooled %d of %d, clean right %d, mean L-inf %.5f, mean L2 %.4f, clip touched %d",
        arrays["success"].sum(),
        len(chunk),
        np.sum(arrays["clean_prediction"] == chunk.labels),
        arrays["linf"].mean(),
        arrays["l2"].mean(),
        arrays["clipped"].sum(),
    )
    write_adversarial(
        output,
        AdversarialSet(
            labels=chunk.labels,
            ids=chunk.ids,
            settings=classes.identity(entry) | {"seed": seed},
            classes=len(data.classes),
            **arrays,
        ),
    )
