"""The digits and a classifier of them, for the defenses that are trained."""

import pytest
import torch
import trainings
from torch import nn
from torch.nn.functional import cross_entropy

from tandem_defense.classifiers.base import Classifier


class Net(Classifier):
    """A small convolutional classifier for 16 × 16 digits."""

    def __post_init__(self):
        super().__post_init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 24, 3, 2, 1), nn.ReLU()
        )
        self.dense = nn.Linear(24, 10)

    def maps(self, images):
        return self.convolutions(images)

    def head(self, maps):
        return self.dense(maps.mean((2, 3)))


@pytest.fixture(scope="session")
def digits():
    """1797 digits (N, 1, 16, 16) in [0, 1] with their labels."""
    return trainings.digits(16)


@pytest.fixture(scope="session")
def net(digits):
    """A classifier that knows the digits well enough to be attacked."""
    images, labels = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        for part in torch.arange(1200).split(100):
            loss = cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
