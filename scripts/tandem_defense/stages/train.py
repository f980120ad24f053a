"""Training a classifier or a defense, and storing its weights."""

import logging

import torch

from tandem_defense import cache, device
from tandem_defense.stages import models

log = logging.getLogger(__name__)


def train(
    section: str,
    entry: dict,
    images: str,
    output: str,
    *,
    seed: int,
    threads: int,
    test: str | None = None,
    classifier: tuple[dict, str] | None = None,
) -> None:
    """Fit the module of `entry` to the images file `images` and store its weights.

    classifier : (entry, weights) of the classifier that the defense is trained against
    test : an images file; a classifier's accuracy on it goes into the log
    """
    where = device.prepare(threads)
    data = cache.read_images(images)
    module = models.build(section, entry, seed).to(where)
    extra = {}
    if classifier:
        extra["classifier"] = models.load("classifiers", *classifier, where)
    x, y = models.to_tensor(data.images).to(where), torch.from_numpy(data.labels).to(where)
    module.fit(x, y, seed=seed, **entry["training"], **extra)
    cache.write_weights(output, module.state_dict(), models.identity(entry))
    if test:
        held_out = cache.read_images(test)
        right = module.predict(models.to_tensor(held_out.images)).numpy() == held_out.labels
        log.info("test accuracy %.3f (%d of %d)", right.mean(), right.sum(), len(right))
