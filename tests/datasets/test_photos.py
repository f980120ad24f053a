"""Photos are reproducible, balanced and cut from disjoint regions."""

import numpy as np
import pytest

from tandem_defense.datasets.photos import PHOTOGRAPHS, Photos


@pytest.fixture(scope="module")
def photos():
    return Photos(size=32, test=14, tune=7, train=140).load()


def test_photos_are_reproducible_and_balanced(photos):
    again = Photos(size=32, test=14, tune=7, train=140).load()
    for name, n in {"test": 14, "tune": 7, "train": 140}.items():
        assert photos[name].images.shape == (n, 32, 32, 3)
        assert np.array_equal(photos[name].images, again[name].images)
        assert set(np.bincount(photos[name].labels)) == {n // len(PHOTOGRAPHS)}
    other = Photos(size=32, test=14, tune=7, train=140, regions=1).load()
    assert not np.array_equal(photos["test"].images, other["test"].images)


def test_photos_regions_of_splits_are_disjoint(monkeypatch):
    """On a picture whose pixels are all different, no test or tune pixel is seen elsewhere."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (160, 200, 3), np.uint8)
    monkeypatch.setattr("tandem_defense.datasets.photos.PHOTOGRAPHS", {"noise": lambda: picture})
    found = Photos(size=32, scale=5, test=2, tune=2, train=30).load()

    def pixels(split):
        return {tuple(p) for p in found[split].images.reshape(-1, 3).tolist()}

    shared = len(pixels("test") & pixels("train")) + len(pixels("tune") & pixels("train"))
    assert shared < 20  # chance meetings of 24-bit colors among some thousand pixels
    assert len(pixels("train") & {tuple(p) for p in picture.reshape(-1, 3).tolist()}) > 1000


def test_photos_without_room_say_so():
    with pytest.raises(ValueError, match="has room for .* test patches of 32 pixels"):
        Photos(size=32, test=126, tune=7, train=7).load()
    with pytest.raises(ValueError, match=r"test: found 700 beside tune 7, scale 4.5, allowed is"):
        Photos(size=32, test=700, tune=7, train=7)
