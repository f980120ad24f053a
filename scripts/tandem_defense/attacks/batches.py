"""Attacking any number of images, as many at a time as fit the device."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tandem_defense.attacks.base import Attack, AttackResult
from tandem_defense.device import is_out_of_memory
from tandem_defense.pipeline import checkpoint
from tandem_defense.pipeline.progress import Progress

log = logging.getLogger(__name__)
# Pixels attacked at a time: 11 photographs of 299 × 299 on a CPU, 93 on a GPU.
PIXELS = {"cpu": 1 << 20, "cuda": 1 << 23}


def in_batches(
    attack: Attack,
    classifier: torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    processor: torch.device,
) -> dict[str, np.ndarray]:
    """AttackResult's fields as arrays, computed on as many images at a time as fit the device.

    No attack looks at an image's neighbors, so the batches change nothing but rounding. Where
    they turn out too large for the device's memory they are halved, and what is done stays. In a
    job with a checkpoint it stays where the job is killed, too.
    """
    size = max(1, PIXELS.get(processor.type, PIXELS["cpu"]) // images[0, 0].numel())
    size = min(size, getattr(attack, "BATCH", None) or size)
    fields = [field.name for field in dataclasses.fields(AttackResult)]
    work = checkpoint.part("attacked", {}, done=0).resume()
    progress = Progress(len(images), "images attacked")
    progress(work.progress["done"])
    if work.progress["done"]:
        log.info("going on after image %d of %d", work.progress["done"], len(images))
    while (done := work.progress["done"]) < len(images):
        part = slice(done, done + size)
        try:
            result = attack(
                classifier,
                images[part].to(processor),
                labels[part].to(processor),
                seeds=seeds[part],
            )
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
            torch.cuda.empty_cache()
            log.warning("out of memory: going on with %d images at a time", size)
            continue
        for name in fields:
            values = getattr(result, name).cpu()
            shape = (len(images), *values.shape[1:])
            work.live.setdefault(name, values.new_zeros(shape))[part] = values
        work.progress["done"] = done + len(result.images)
        progress(len(result.images))
        if work.due():
            work.save()
    return {name: work.live[name].numpy() for name in fields}
