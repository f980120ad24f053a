"""scikit-learn's bundled handwritten digits, MNIST's stand-in where nothing may be downloaded."""

import numpy as np

from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.extras import extra
from tandem_defense.settings import Count

with extra("pipeline"):
    from skimage.transform import resize
    from sklearn.datasets import load_digits


class Digits(Dataset):
    """1797 digits of 8 × 8 pixels, enlarged to `size` (bilinear); the last `test` are for testing.

    The data's order is by writer: test digits come from hands that training never saw.

    size : side of an image, pixels
    test : number of test images
    """

    AVAILABLE = {"test": 800}
    SHAPE = (1, 28, 28)
    CLASSES = 10

    size: Count = 28
    test: Count = 400

    def load(self) -> dict[str, ImageSet]:
        """The splits ``train`` and ``test``."""
        data = load_digits()
        images = np.stack([resize(i / 16, (self.size, self.size), order=1) for i in data.images])
        images = np.round(255 * images.clip(0, 1)).astype(np.uint8)[..., None]
        ids = tuple(f"digit-{i:04d}" for i in range(len(images)))
        whole = ImageSet(images, data.target.astype(np.int64), ids, tuple("0123456789"))
        return {"train": whole[: -self.test], "test": whole[-self.test :]}
