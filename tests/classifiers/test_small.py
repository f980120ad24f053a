"""The small CNN: it learns photographs, the same way every time."""

import pytest
import torch
from refusals import check_settings, check_training
from trainings import random

from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.datasets.photos import Photos
from tandem_defense.pipeline.entries import to_tensor


def test_training_is_reproducible_and_learns():
    photos = Photos(size=32, test=14, tune=7, train=140).load()["train"]
    x, y = to_tensor(photos.images), torch.from_numpy(photos.labels)
    nets = [SmallCNN(classes=7, width=8) for _ in range(3)]
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    for net, seed in zip(nets, (0, 0, 1)):
        net.fit(x, y, seed=seed, epochs=15, batch_size=16, noise=0.05)
    assert torch.equal(torch.random.get_rng_state(), state)
    logits = [net(x[:4]) for net in nets]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    assert (nets[0].predict(x) == y).float().mean() > 0.7  # chance is 0.14
    assert not nets[0].training


def test_layers():
    net = SmallCNN(classes=5, channels=1, width=4).eval()
    x = random(2, 1, 32, 40)
    assert net.maps(x).shape == (2, 16, 4, 5)
    assert torch.equal(net.head(net.maps(x)), net(x)) and net(x).shape == (2, 5)


@pytest.mark.parametrize("wrong", [{"classes": 0}, {"width": 2.5}, {"channels": "three"}])
def test_wrong_settings(wrong):
    check_settings(SmallCNN, wrong, classes=5)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": True}, {"learning_rate": 0}, {"noise": 1.1}, {"blur": -0.1}],
)
def test_wrong_training(wrong):
    images, labels = random(4, 3, 16, 16), torch.arange(4)
    check_training(SmallCNN(classes=4, width=2), wrong, images, labels)


def test_classes_are_needed():
    with pytest.raises(TypeError, match="classes"):
        SmallCNN()
