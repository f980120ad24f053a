"""Training a classifier or a defense, and storing its weights."""

import logging

import torch

from tandem_defense import device
from tandem_defense.files.images import read_images
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline import classes, entries
from tandem_defense.pipeline.classes import Entry

log = logging.getLogger(__name__)


def train(
    entry: Entry,
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
    processor = device.prepare(threads)
    data = read_images(images)
    module = classes.build(entry, seed).to(processor)
    extra = {}
    if classifier:
        extra["classifier"] = entries.load(*classifier, processor)
    x, y = entries.to_tensor(data.images).to(processor), torch.from_numpy(data.labels).to(processor)
    module.fit(x, y, seed=seed, **entry["training"], **extra)
    write_weights(output, module.state_dict(), classes.identity(entry))
    if test:
        held_out = read_images(test)
        right = module.predict(entries.to_tensor(held_out.images)).numpy() == held_out.labels
        log.info("test accuracy %.3f (%d of %d)", right.mean(), right.sum(), len(right))
