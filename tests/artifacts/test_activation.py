"""Figure 8: class activation maps against a map known by hand, and how they are drawn."""

import frames
import numpy as np
import pytest
import torch
from frames import CURVES

from tandem_defense.artifacts import shown
from tandem_defense.artifacts.activation import Activation, activation_maps, overlay
from tandem_defense.artifacts.base import Inputs


class Linear(torch.nn.Module):
    """Maps are means of 9 × 9 patches; global average pooling and a linear head of two classes.

    Class 0 looks at dark patches, class 1 at bright ones.
    """

    weight = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])  # classes × features

    def maps(self, images):
        bright = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 9)
        return torch.cat([bright, 1 - bright], 1)

    def head(self, maps):
        return maps.mean((2, 3)) @ self.weight.T

    def predict(self, images):
        return self.head(self.maps(images)).argmax(1)


def spot(value, background=0.0):
    """A picture (3, 27, 27) whose middle patch has another value."""
    image = frames.picture((3, 27, 27), background)
    image[:, 9:18, 9:18] = value
    return image


@pytest.fixture
def given(monkeypatch):
    data = frames.image_set([0], side=27)
    data.images[0] = (spot(1.0) * 255).transpose(1, 2, 0)
    given = Inputs({})
    attacked = frames.attacked_set(data, spot(0.2, 0.9)[None], [1])
    monkeypatch.setattr(shown, "classifier_of", lambda inputs: Linear())
    given.__dict__.update(images=data, attacked=[attacked])
    given.__dict__["restored"] = [({"100/1000": spot(0.4)[None]}, ["i0"])]
    return given


KIND = Activation(
    experiment="tdips",
    classifier="inception_v3",
    attack="bim",
    defense="tdips",
    iterations=1000,
    first_iterations=100,
)


def test_maps_are_the_weighted_features_of_the_predicted_class():
    images = torch.from_numpy(np.stack([spot(1.0), spot(0.2, 0.9)]))
    heat = activation_maps(Linear(), images)
    assert heat.shape == (2, 27, 27) and heat.min() == 0 and heat.max() == pytest.approx(1)
    dark, bright = heat.numpy()
    # class 0: 1 − 2 · brightness, so the spot is cold; class 1: 2 · brightness − 1, so it is too
    assert dark[13, 13] == 0 and dark[0, 0] == pytest.approx(1)
    assert bright[13, 13] == 0 and bright[0, 0] == pytest.approx(1)


def test_a_map_without_any_heat_is_zero_not_nan():
    heat = activation_maps(Linear(), torch.full((1, 3, 27, 27), 0.5))
    assert torch.equal(heat, torch.zeros(1, 27, 27))


def test_by_hand(given):
    figure, table = KIND.draw(given, CURVES)
    assert len(figure.axes) == 5  # the image, three overlays, a color bar
    image, *overlays, bar = figure.axes
    assert np.asarray(image.images[0].get_array())[13, 13] == pytest.approx([1, 1, 1])
    original = np.asarray(overlays[0].images[0].get_array(), dtype=float)
    hot, cold = original[0, 0], original[13, 13]  # black under heat 1, white under heat 0
    assert hot == pytest.approx(0.55 * np.array([0.988, 1.0, 0.645]), abs=2e-3)
    assert cold == pytest.approx([0.45] * 3, abs=0.01)
    assert [len(axes.collections) for axes in figure.axes[:4]] == [0, 1, 1, 1]  # the line at 0.5
    assert "class activation" in bar.get_ylabel()
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("✗ dog") == 1 and texts.count("✓ cat") == 2
    assert table["state"].tolist() == ["original", "attacked", "tdips"]
    assert table["correct"].tolist() == [True, False, True]


def test_no_line_where_a_map_does_not_cross_one_half(given):
    given.__dict__["restored"] = [({"100/1000": spot(0.1, 0.1)[None]}, ["i0"])]
    figure, _ = KIND.draw(given, CURVES)
    assert [len(axes.collections) for axes in figure.axes[:4]] == [0, 1, 1, 0]


@pytest.mark.parametrize("heat", [np.zeros((7, 7)), np.full((30, 30), 1.5)])
def test_overlay_refuses_other_heat(heat):
    with pytest.raises(ValueError, match="expected (a heat map|heat)"):
        overlay(frames.picture((30, 30, 3)), heat)


def test_overlay_keeps_the_picture_visible():
    gray = overlay(frames.picture((30, 30, 3)), np.zeros((30, 30)))
    assert gray == pytest.approx(0.45 * 0.5, abs=0.01)
