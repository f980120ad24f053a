"""Files between jobs: what is written comes back, and nothing else is taken for it."""

import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem_defense import cache
from tandem_defense.datasets.base import ImageSet


def image_set(n=3) -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 4, 5, 3), np.uint8)
    return ImageSet(images, np.arange(n) % 2, tuple("abcdefgh"[:n]), ("x", "y"), ("",) * n)


def adversarial(n=3, **changes) -> cache.AdversarialSet:
    rng = np.random.default_rng(1)
    fields = {
        "images": rng.random((n, 3, 4, 5), np.float32),
        "labels": np.arange(n) % 2,
        "clean_prediction": np.arange(n) % 2,
        "prediction": np.ones(n, np.int64),
        "success": np.ones(n, bool),
        "clipped": np.zeros(n, bool),
        "linf": np.full(n, 0.1, np.float32),
        "l2": np.full(n, 1.0, np.float32),
        "ids": tuple("abcdefgh"[:n]),
        "settings": {"kind": "bim", "epsilon": 8 / 255, "seed": 0},
        "classes": 2,
    }
    return cache.AdversarialSet(**fields | changes)


def test_images_round_trip(tmp_path):
    cache.write_images(tmp_path / "i", image_set())
    found = cache.read_images(tmp_path / "i")
    assert np.array_equal(found.images, image_set().images) and found.ids == ("a", "b", "c")
    assert np.array_equal(found.labels, [0, 1, 0]) and found.classes == ("x", "y")


def test_adversarial_round_trip_is_exact(tmp_path):
    chunk = adversarial()
    cache.write_adversarial(tmp_path / "a", chunk)
    found = cache.read_adversarial(tmp_path / "a")
    assert found.images.tobytes() == chunk.images.tobytes()
    assert found.settings == chunk.settings and found.ids == chunk.ids
    assert found.success.dtype == bool and found.linf.dtype == np.float32


def test_writing_is_reproducible_and_leaves_no_parts(tmp_path):
    for name in "ab":
        cache.write_adversarial(tmp_path / name, adversarial())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    cache.write_images(tmp_path / "i", image_set())
    before = (tmp_path / "i").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.write_images(tmp_path / "i", image_set(2))
    assert (tmp_path / "i").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"images": np.full((3, 3, 4, 5), np.nan, np.float32)}, r"not float32 in \[0, 1\]"),
        ({"images": np.full((3, 3, 4, 5), 1.01, np.float32)}, r"not float32 in \[0, 1\]"),
        ({"images": np.zeros((3, 3, 4, 5))}, r"not float32 in \[0, 1\]"),
        ({"labels": np.array([0, 1, 2])}, "labels outside 0 to 1"),
        ({"labels": np.array([0, -1, 1])}, "labels outside 0 to 1"),
        ({"l2": np.zeros(2, np.float32)}, "unequal lengths"),
        ({"ids": ("a", "a", "b")}, "names an image twice"),
    ],
)
def test_unsound_contents_are_refused(tmp_path, change, why):
    cache.write_adversarial(tmp_path / "a", adversarial(**change))
    with pytest.raises(cache.CacheError, match=why) as caught:
        cache.read_adversarial(tmp_path / "a")
    assert "rule attack" in str(caught.value) and str(tmp_path / "a") in str(caught.value)


def test_missing_empty_foreign_and_swapped_files(tmp_path):
    with pytest.raises(cache.CacheError, match="cannot be read"):
        cache.read_images(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(cache.CacheError, match="is empty"):
        cache.read_images(tmp_path / "empty")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"images": [1]}))
    with pytest.raises(cache.CacheError, match="not one of ours"):
        cache.read_images(tmp_path / "pickle")
    cache.write_images(tmp_path / "i", image_set())
    with pytest.raises(cache.CacheError, match="holds 'images', not 'adversarial'"):
        cache.read_adversarial(tmp_path / "i")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_passes_unnoticed(tmp_path, data):
    """Truncated anywhere, any bits flipped, any bytes added: always our own error."""
    path = tmp_path / "a"
    cache.write_adversarial(path, adversarial())
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["cut", "flip", "add"])):
        case "cut":
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        case "flip":
            position = data.draw(st.integers(0, len(content) - 1))
            content[position] ^= data.draw(st.integers(1, 255))
        case "add":
            content += data.draw(st.binary(min_size=1, max_size=20))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    try:
        found = cache.read_adversarial(damaged)
    except cache.CacheError as error:
        assert str(damaged) in str(error)
    else:  # only white space of the JSON header may differ without a difference
        assert found.images.tobytes() == adversarial().images.tobytes()
        assert found.ids == adversarial().ids and found.settings == adversarial().settings


def test_weights_belong_to_their_settings(tmp_path):
    state = torch.nn.BatchNorm2d(3).state_dict()
    cache.write_weights(tmp_path / "w", state, {"kind": "small_cnn", "width": 8})
    found = cache.read_weights(tmp_path / "w", {"kind": "small_cnn", "width": 8})
    assert all(torch.equal(found[name], state[name]) for name in state)
    with pytest.raises(cache.CacheError, match="'width': 8.*'width': 16"):
        cache.read_weights(tmp_path / "w", {"kind": "small_cnn", "width": 16})
