"""Every classifier: predictions in batches, activation maps from its last features."""

import torch
from trainings import random

from tandem_defense.artifacts.activation import activation_maps
from tandem_defense.classifiers.small import SmallCNN


def test_predictions_do_not_depend_on_batches():
    torch.manual_seed(0)
    net, images = SmallCNN(classes=5, width=4).eval(), random(7, 3, 16, 16)
    expected = net(images).argmax(1)
    for batch_size in (1, 3, 64):
        assert torch.equal(net.predict(images, batch_size), expected)
    assert net.predict(images[:0]).shape == (0,)


def test_activation_maps_follow_the_formula():
    """Σ_f w_kf · maps_f for the top class k, positive part, scaled to [0, 1]."""
    net = SmallCNN(classes=4, width=8).eval()
    x = torch.rand(3, 3, 64, 64)
    heat = activation_maps(net, x)
    maps, top = net.maps(x), net(x).argmax(1)
    plain = torch.stack([(net.fc.weight[k][:, None, None] * m).sum(0) for k, m in zip(top, maps)])
    plain = torch.nn.functional.interpolate(plain.clamp(min=0)[:, None], (64, 64), mode="bilinear")
    plain = plain[:, 0] / plain[:, 0].amax((1, 2), keepdim=True)
    assert heat.shape == (3, 64, 64) and (heat - plain).abs().max() < 1e-5
