"""Labeled images with stable ids: what every dataset loads to and every later stage reads."""

from dataclasses import dataclass

import numpy as np

from tandem_defense.settings import Settings


@dataclass(frozen=True)
class ImageSet:
    """One split of a dataset.

    images : (N, H, W, C) uint8, C = 1 or 3
    labels : (N,) int64 in [0, len(classes))
    ids : N distinct names; seeds derive from them
    classes : the classes' names
    credits : N attributions, empty strings where none is owed
    """

    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    credits: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: slice | list[int]) -> "ImageSet":
        """The images at these positions."""
        index = np.arange(len(self))[which]
        pick = lambda names: tuple(names[i] for i in index) if names else ()  # noqa: E731
        return ImageSet(
            self.images[index], self.labels[index], pick(self.ids), self.classes, pick(self.credits)
        )

    def chunk(self, positions: slice) -> "ImageSet":
        """The images of a job; ValueError where there are fewer than the experiment takes."""
        if positions.stop > len(self):
            raise ValueError(
                f"the dataset has {len(self)} test images, expected at least {positions.stop}:"
                " lower the experiment's `images`, or have the dataset return more"
            )
        return self[positions]


class Dataset(Settings):
    """Labeled images in the splits ``train`` and ``test``; settings are annotated attributes.

    A subclass may name the files that it reads from its `folder` (``FILES``), the most images of a
    split that there are (``AVAILABLE``), the number of classes (``CLASSES``) and the shape of an
    image (``SHAPE``, (C, H, W)); a configuration that asks for more is refused before it runs.
    """

    def load(self) -> dict[str, ImageSet]:
        """The splits by name."""
        raise NotImplementedError
