"""FUNN's Figure 2: perturbations stretched by the factor that is printed below them."""

import dataclasses

import frames
import numpy as np
import pytest
import torch
from frames import DIGITS

from tandem_defense.artifacts.base import Inputs
from tandem_defense.artifacts.perturbation import Perturbation, signed

WANTED = dict(experiment="funn", attack="fgsm", classifiers=["classic", "funn"])


def draw(data, *chunks, **settings):
    given = Inputs({})
    given.__dict__.update(images=data, attacked=list(chunks))
    return Perturbation(**WANTED, **settings).draw(given, DIGITS)


def digits(count=1):
    """Black digits of class 7."""
    return frames.image_set(
        [0] * count, side=28, channels=1, classes=[str(k) for k in range(10)], labels=[7] * count
    )


def black(count=1):
    return np.zeros((count, 1, 28, 28))


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_by_hand():
    attacked = black()
    attacked[0, 0, 3, 4], attacked[0, 0, 5, 6] = 0.3, 0.4
    data = digits()
    chunks = frames.attacked_set(data, attacked, [2]), frames.attacked_set(data, black(), [7])
    figure, table = draw(data, *chunks)
    assert len(figure.axes) == 5
    for words in ("L₂ 0.5", "shown × 2.5", "L₂ 0", "unchanged", "✗ 2", "✓ 7", "FUNN", "FGSM"):
        assert words in texts(figure)
    red, green, blue = np.asarray(figure.axes[2].images[0].get_array())[5, 6]
    assert red > 2 * max(green, blue)
    assert np.ptp(np.asarray(figure.axes[4].images[0].get_array())) < 0.01
    assert list(table) == ["image", "classifier", "label", "prediction", "correct", "l2"]
    assert table["classifier"].tolist() == ["classic", "funn"]
    assert table["prediction"].tolist() == ["2", "7"] and table["correct"].tolist() == [False, True]
    assert table["l2"].tolist() == pytest.approx([0.5, 0])


def test_an_image_that_the_attack_left_as_it_was_is_unchanged():
    """Every gray value, as an attack has it in float32."""
    values = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28, 1))
    data = dataclasses.replace(digits(), images=values)
    same = torch.from_numpy(values).permute(0, 3, 1, 2).float().div(255).numpy()
    chunk = frames.attacked_set(data, same, [7])
    figure, table = draw(data, chunk, chunk)
    assert texts(figure).count("unchanged") == 2 and "shown" not in texts(figure)
    assert table["l2"].tolist() == [0, 0]


def test_shows_the_first_images_that_all_classify_correctly():
    data = digits(4)
    one = frames.attacked_set(data, black(4), [2] * 4, [3, 7, 7, 7])
    two = frames.attacked_set(data, black(4), [2] * 4, [7, 7, 3, 7])
    figure, table = draw(data, one, two, images=2)
    assert table["image"].tolist() == ["i1", "i1", "i3", "i3"]
    assert "the first 2 images that all classify correctly; oblivious" in texts(figure)
    assert draw(data, one, two, images=1)[1]["image"].tolist() == ["i1", "i1"]


def test_fewer_images_than_were_asked_for_are_announced(caplog):
    """In the figure itself, and in its log."""
    data = digits(2)
    chunk = frames.attacked_set(data, black(2), [2, 2])
    figure, table = draw(data, chunk, chunk, images=6)
    assert table["image"].nunique() == 2
    assert "correctly (there are no more; 6 were asked for); oblivious" in texts(figure)
    assert "2 images are shown, 6 were asked for" in caplog.text


def test_says_so_if_there_are_none():
    data = digits(2)
    chunk = frames.attacked_set(data, black(2), [2, 2], [3, 3])
    figure, table = draw(data, chunk, chunk)
    assert len(table) == 4 and "(all classify none correctly)" in texts(figure)


def test_a_chunk_is_shorter_than_the_data():
    data = digits(3)
    chunk = frames.attacked_set(data[:2], black(2), [2, 2])
    assert draw(data, chunk, chunk)[1]["image"].unique().tolist() == ["i0", "i1"]


def test_signed_stretches_to_the_ends_of_the_scale():
    change = np.array([[0.0, 0.1], [-0.05, -0.1]])
    picture, factor = signed(change)
    assert factor == pytest.approx(10)
    none, up, half, down = picture.reshape(4, 3)
    assert none.min() > 0.95 and up[0] > 2 * up[2] and down[2] > 2 * down[0]
    assert half[2] > half[0] and half.min() > down.min()
    colored, same = signed(np.repeat(change[..., None], 3, -1))
    assert same == pytest.approx(factor) and colored == pytest.approx(picture, abs=0.01)
