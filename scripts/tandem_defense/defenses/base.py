"""What every defense offers: images in, images out."""

from collections.abc import Sequence
from hashlib import sha256

from torch import Tensor, nn

from tandem_defense.settings import Settings


class Defense(Settings, nn.Module):
    """Images (B, C, H, W) float in [0, 1] to images of the same shape and range.

    A defense is a module, so ``nn.Sequential(defense, classifier)`` is a defended classifier.
    `ids` name the images; a random defense derives its seeds from (run seed, id), so that a
    result does not depend on batch mates; where they are absent, an image's content is its id.
    Settings are annotated attributes (settings.py); layers are made in ``__post_init__``.
    A defense that must be trained also has ``fit(images, labels, *, seed, ...)``; one that is
    trained against a particular classifier takes it as ``fit(..., classifier=...)``.
    """

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Defended images, shape and range as the input's."""
        raise NotImplementedError

    def rejects(self, images: Tensor) -> Tensor:
        """Which inputs the defense refuses to classify, (B,) bool: none, unless it detects."""
        return images.new_zeros(len(images), dtype=bool)


def names_of(images: Tensor, ids: Sequence[str] | None) -> list[str]:
    """What a random defense derives an image's seed from: its id, or else its content.

    So ``defense(x)[1:2]`` equals ``defense(x[1:2])``, and an attack may drop finished images from
    its batch without changing the others. An image that an attack has changed is another image,
    with another draw: pass ids to hold it fixed. Raises ValueError for another number of ids.
    """
    if ids is None:
        content = (image.detach().cpu().contiguous().numpy().tobytes() for image in images)
        return [sha256(part).hexdigest() for part in content]
    if len(ids) != len(images):
        raise ValueError(
            f"there are {len(ids)} ids for {len(images)} images, expected one each: pass the ids of"
            " this batch, or none"
        )
    return list(ids)


class NoDefense(Defense):
    """The images as they are: the undefended classifier's row in every table."""

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """The input itself."""
        return images
