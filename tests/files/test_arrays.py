"""Files between jobs: what is written comes back, and nothing else is taken for it."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import adversarial, image_set

from tandem_defense.files import arrays
from tandem_defense.files.adversarial import read_adversarial, write_adversarial
from tandem_defense.files.images import read_images, write_images
from tandem_defense.files.weights import read_weights, write_weights


def test_images_round_trip(tmp_path):
    write_images(tmp_path / "i", image_set())
    found = read_images(tmp_path / "i")
    assert np.array_equal(found.images, image_set().images) and found.ids == ("a", "b", "c")
    assert np.array_equal(found.labels, [0, 1, 0]) and found.classes == ("x", "y")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"labels": np.array([0, 1, 0], np.uint8)}, r"labels are uint8 \(3,\), expected int64"),
        ({"labels": np.array([0, 1, 2])}, "labels range from 0 to 2, expected 0 to 1: it has 2"),
        ({"images": np.zeros((3, 4, 5, 3), np.float32)}, "images are float32 .* expected uint8"),
        ({"images": np.zeros((2, 4, 5, 3), np.uint8)}, r"images are uint8 \(2, .* uint8 \(3, H"),
        ({"ids": ("a", "b", "a")}, "several images of the ids a$"),
    ],
)
def test_what_a_dataset_returns_is_checked_before_it_is_stored(tmp_path, change, why):
    """The file would be refused, and the same dataset would write it again."""
    with pytest.raises(ValueError, match=why):
        write_images(tmp_path / "i", replace(image_set(), **change))
    assert not list(tmp_path.iterdir())


def test_a_job_asks_for_as_many_images_as_there_are(tmp_path):
    split = image_set(3)
    assert split.chunk(slice(1, 3)).ids == ("b", "c")
    with pytest.raises(ValueError, match="has 3 test images, expected at least 4: lower"):
        split.chunk(slice(2, 4))


def test_a_classifier_may_know_of_more_classes_than_the_images_have(tmp_path):
    write_adversarial(tmp_path / "a", adversarial(prediction=np.full(3, 7)))
    assert read_adversarial(tmp_path / "a").prediction.tolist() == [7, 7, 7]


def test_adversarial_round_trip_is_exact(tmp_path):
    chunk = adversarial()
    write_adversarial(tmp_path / "a", chunk)
    found = read_adversarial(tmp_path / "a")
    assert found.images.tobytes() == chunk.images.tobytes()
    assert found.settings == chunk.settings and found.ids == chunk.ids
    assert found.success.dtype == bool and found.linf.dtype == np.float32


def test_writing_is_reproducible_and_leaves_no_parts(tmp_path):
    for name in "ab":
        write_adversarial(tmp_path / name, adversarial())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_images(tmp_path / "i", image_set())
    before = (tmp_path / "i").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_images(tmp_path / "i", image_set(2))
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
        ({"prediction": np.array([0, -1, 1])}, "predictions that are not class numbers"),
        ({"l2": np.zeros(2, np.float32)}, "unequal lengths"),
        ({"ids": ("a", "a", "b")}, "names an image twice"),
    ],
)
def test_unsound_contents_are_refused(tmp_path, change, why):
    write_adversarial(tmp_path / "a", adversarial(**change))
    with pytest.raises(arrays.CacheError, match=why) as caught:
        read_adversarial(tmp_path / "a")
    assert "rule attack" in str(caught.value) and str(tmp_path / "a") in str(caught.value)


def test_missing_empty_foreign_and_swapped_files(tmp_path):
    with pytest.raises(arrays.CacheError, match="cannot be read"):
        read_images(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(arrays.CacheError, match="is empty"):
        read_images(tmp_path / "empty")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"images": [1]}))
    with pytest.raises(arrays.CacheError, match="not one of ours"):
        read_images(tmp_path / "pickle")
    write_images(tmp_path / "i", image_set())
    with pytest.raises(arrays.CacheError, match="holds 'images', not 'adversarial'"):
        read_adversarial(tmp_path / "i")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_damage_passes_unnoticed(tmp_path, data):
    """Truncated anywhere, any bits flipped, any bytes added: always our own error."""
    path = tmp_path / "a"
    write_adversarial(path, adversarial())
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
        found = read_adversarial(damaged)
    except arrays.CacheError as error:
        assert str(damaged) in str(error)
    else:  # only white space of the JSON header may differ without a difference
        assert found.images.tobytes() == adversarial().images.tobytes()
        assert found.ids == adversarial().ids and found.settings == adversarial().settings


def test_weights_belong_to_their_settings(tmp_path):
    state = torch.nn.BatchNorm2d(3).state_dict()
    write_weights(tmp_path / "w", state, {"kind": "small_cnn", "width": 8})
    found = read_weights(tmp_path / "w", {"kind": "small_cnn", "width": 8})
    assert all(torch.equal(found[name], state[name]) for name in state)
    with pytest.raises(arrays.CacheError, match="'width': 8.*'width': 16"):
        read_weights(tmp_path / "w", {"kind": "small_cnn", "width": 16})
