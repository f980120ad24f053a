"""The demo's photographs: patches of seven pictures that ship with scikit-image, one class each."""

import numpy as np

from tandem_defense.datasets.base import Dataset, ImageSet
from tandem_defense.extras import extra
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Fraction, Positive

with extra("pipeline"):
    import skimage.data
    from skimage.transform import resize

PHOTOGRAPHS = {
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "galaxies": skimage.data.hubble_deep_field,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "retina": skimage.data.retina,
    "rocket": skimage.data.rocket,
    "tissue": skimage.data.immunohistochemistry,
}
SPLITS = ("test", "tune", "train")


class Photos(Dataset):
    """Square patches; the patches of different splits come from disjoint regions of a photograph.

    size : side of a patch, pixels
    scale : a photograph is first resized so that its shorter side is `scale` · `size` pixels
    contrast : patches whose channels vary less (standard deviation in [0, 1] pixels) are skipped:
        empty sky, background out of focus
    test, tune, train : number of patches of each split, spread evenly over the photographs
    regions : a seed that chooses them
    """

    SHAPE = (3, 64, 64)
    CLASSES = 7
    CONDITIONS = {
        "test + tune <= 7 * scale * scale": "each of the 7 photographs has room for scale² patches"
        " that do not overlap; ask for fewer, or raise scale",
    }

    size: Count = 64
    scale: Positive = 4.5
    contrast: Fraction = 0.05
    test: Count = 21
    tune: Count = 21
    train: Count = 1600
    regions: int = 0

    def load(self) -> dict[str, ImageSet]:
        """The three splits.

        Raises ValueError where a photograph has no room for the patches asked for.
        """
        patches = {split: [] for split in SPLITS}
        for label, (name, photograph) in enumerate(PHOTOGRAPHS.items()):
            for split, cut in self._cut(name, self._resized(photograph())).items():
                patches[split] += [(p, label, f"{name}-{split}-{i}") for i, p in enumerate(cut)]
        return {split: self._collect(split, cut) for split, cut in patches.items()}

    def _collect(self, split: str, cut: list) -> ImageSet:
        images, labels, ids = zip(*cut, strict=True)
        order = np.random.default_rng(self.regions).permutation(len(ids))[: getattr(self, split)]
        whole = ImageSet(np.stack(images), np.array(labels), ids, tuple(PHOTOGRAPHS))
        return whole[list(order)]

    def _resized(self, photograph: np.ndarray) -> np.ndarray:
        factor = self.scale * self.size / min(photograph.shape[:2])
        shape = [round(n * factor) for n in photograph.shape[:2]]
        return np.round(255 * resize(photograph, shape, anti_aliasing=factor < 1)).astype(np.uint8)

    def _cut(self, name: str, photo: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Test and tune patches lie apart from all others; train patches may overlap each other."""
        rng = np.random.default_rng(derive_seed(self.regions, name))
        taken = np.zeros(photo.shape[:2], bool)
        patches = {}
        for split in SPLITS:
            wanted = -(-getattr(self, split) // len(PHOTOGRAPHS))
            patches[split] = []
            for _ in range(1000 * wanted):
                if len(patches[split]) == wanted:
                    break
                corner = [rng.integers(n - self.size + 1) for n in photo.shape[:2]]
                window = tuple(slice(n, n + self.size) for n in corner)
                if taken[window].any() or photo[window].std((0, 1)).mean() < 255 * self.contrast:
                    continue
                patches[split].append(photo[window])
                if split != "train":
                    taken[window] = True
            else:
                if len(patches[split]) < wanted:
                    raise ValueError(
                        f"photograph {name!r} has room for {len(patches[split])} {split} patches"
                        f" of {self.size} pixels, {wanted} were asked for:"
                        " ask for fewer, lower contrast, or raise scale"
                    )
        return patches
