"""ComDefend: a binary code whose noise belongs to the image."""

import pytest
import torch
from refusals import check_settings, check_training
from torch import nn
from trainings import check_seed_and_state, random

from tandem_defense.adam import Adam
from tandem_defense.defenses.comdefend import ComDefend, crop

SMALL = {"channels": 1, "compression": (8, 16, 8), "reconstruction": (8, 16, 8), "code": 6}


@pytest.mark.parametrize("test_noise", [0, 1, 20])
def test_comdefend_code_is_binary(test_noise):
    images = random(3, 1, 13, 18)
    model = ComDefend(test_noise=test_noise, **SMALL)
    code = model.encode(images)
    assert code.shape == (3, 6, 13, 18) and set(code.unique().tolist()) <= {0.0, 1.0}
    output = model(images)
    assert output.shape == images.shape and output.min() >= 0 and output.max() <= 1


def test_comdefend_of_no_images():
    assert ComDefend(test_noise=1, **SMALL)(random(0, 1, 8, 8)).shape == (0, 1, 8, 8)


def test_comdefend_rounds_the_linear_code():
    images = random(2, 1, 10, 10)
    model = ComDefend(test_noise=0, **SMALL)
    assert torch.equal(model.encode(images), (model.compress(images - 0.5) > 0).float())
    images.requires_grad_()
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0  # straight through


def test_comdefend_layers():
    def widths(network):
        layers = [m for m in network if isinstance(m, nn.Conv2d)]
        return [layers[0].in_channels, *[m.out_channels for m in layers]]

    model = ComDefend()
    assert widths(model.compress) == [3, 16, 32, 64, 128, 256, 128, 64, 32, 12]
    assert widths(model.reconstruct) == [12, 32, 64, 128, 256, 128, 64, 32, 16, 3]


def test_comdefend_noise_belongs_to_the_image():
    images, ids = random(4, 1, 9, 9), ["a", "b", "c", "d"]
    model = ComDefend(test_noise=20, **SMALL)
    whole = model.encode(images, ids)
    assert torch.equal(model.encode(images[2:], ids[2:]), whole[2:])
    assert torch.equal(model.encode(images.flip(0), ids[::-1]), whole.flip(0))
    assert not torch.equal(model.encode(images, ["e", "f", "g", "h"]), whole)
    other = ComDefend(test_noise=20, seed=1, **SMALL)
    other.load_state_dict(model.state_dict())
    assert not torch.equal(other.encode(images, ids), whole)
    share = (whole == 1).float().mean()
    assert 0.4 < share < 0.6  # noise of 20 drowns an untrained code
    assert torch.equal(model.encode(images)[1:3], model.encode(images[1:3]))  # content is the id
    with pytest.raises(ValueError, match="3 ids for 4 images"):
        model(images, ids[:3])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_comdefend_learns(digits, precision):
    images, labels = digits
    model = ComDefend(test_noise=1, **SMALL)
    state = torch.get_rng_state()
    settings = {"epochs": 5, "learning_rate": 5e-3, "precision": precision}
    model.fit(images[:800], labels[:800], seed=0, **settings)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    test = images[1200:1400]
    with torch.no_grad():
        error = (model(test) - test).square().mean()
    assert error < 0.3 * test.var()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1e-3] * 10),
        ({"schedule": "plateaus"}, [1e-3] * 6 + [1e-4] * 3 + [1e-5]),
    ],
)
def test_the_learning_rate_falls_where_told_to(digits, monkeypatch, schedule, expected):
    rates = []
    monkeypatch.setattr(Adam, "step", lambda self, rate, beta1: rates.append((rate, beta1)))
    ComDefend(**SMALL).fit(digits[0][:10], digits[1][:10], seed=0, epochs=10, **schedule)
    assert rates == [(pytest.approx(rate), 0.9) for rate in expected]


def test_crops_are_squares_of_the_image():
    images = torch.arange(2 * 6 * 7.0).view(2, 1, 6, 7)
    source, corners = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        for image, cut in zip(images, crop(images, 4, source), strict=True):
            top, left = divmod(int(cut[0, 0, 0] - image[0, 0, 0]), 7)
            assert torch.equal(cut, image[:, top : top + 4, left : left + 4])
            corners.add((top, left))
    assert corners == {(i, j) for i in range(3) for j in range(4)}
    assert torch.equal(crop(images, 32, source), images)


def test_seed_and_state_are_everything(digits):
    images, labels = digits[0][:96], digits[1][:96]
    check_seed_and_state(lambda: ComDefend(**SMALL), images, labels, epochs=1, patch=12)
    check_seed_and_state(
        lambda: ComDefend(**SMALL), images, labels, epochs=1, patch=12, precision="bf16"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_noise": 2},
        {"code": 0},
        {"compression": (8, 0)},
        {"reconstruction": ()},
        {"weights": "own.npy"},
    ],
)
def test_wrong_settings(wrong):
    check_settings(ComDefend, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise": 0},
        {"patch": 0},
        {"batch_size": 2.5},
        {"code_weight": float("inf")},
        {"precision": "tf32"},
        {"schedule": "cosine"},
    ],
)
def test_wrong_training(digits, wrong):
    check_training(ComDefend(**SMALL), wrong, *digits)
