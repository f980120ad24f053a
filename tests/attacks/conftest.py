"""Small classifiers and images for the tests of attacks."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class ToGray(nn.Module):
    """RGB to one channel, each color with a weight of its own."""

    def forward(self, x):
        return (x * x.new_tensor([0.5, 0.3, 0.2])[:, None, None]).sum(1, keepdim=True)


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    return torch.tensor(data.images / 16)[:, None], torch.tensor(data.target).long()


@pytest.fixture(scope="session")
def nets(digits):
    """A small CNN, gray and RGB, and a linear model on 8×8 digits; float64, in eval mode."""
    x, y = digits[0][:600].float(), digits[1][:600]
    torch.manual_seed(0)
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
    )
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for net in (cnn, linear):
        parameters = list(net.parameters())
        for _ in range(12):
            for part in torch.randperm(600).split(20):
                loss = F.cross_entropy(net(x[part]), y[part])
                with torch.no_grad():  # plain descent: torch.optim takes seconds to import
                    for value, slope in zip(
                        parameters, torch.autograd.grad(loss, parameters), strict=True
                    ):
                        value -= 0.1 * slope
    cnn, linear = cnn.double().eval(), linear.double().eval()
    return {
        "cnn": cnn,
        "linear": linear,
        "rgb": nn.Sequential(ToGray(), cnn).eval(),
    }


@pytest.fixture(scope="session")
def batch(nets, digits):
    """Net by name to (net, images, labels): 10 images classified correctly, then 2 that are not."""

    def make(name="cnn", correct=10, misclassified=2):
        net, (x, y) = nets[name], (digits[0][900:], digits[1][900:])
        if name == "rgb":
            noise = torch.rand(len(x), 3, 8, 8, generator=torch.Generator().manual_seed(1))
            x = (0.9 * x + 0.1 * noise.double()).clamp(0, 1)
        good = (net(x).argmax(1) == y).nonzero().flatten()[: correct + misclassified]
        x, y = x[good].clone(), y[good].clone()
        y[correct:] = (y[correct:] + 1) % 10
        return net, x, y

    return make
