"""DeepFool in L2 and L∞."""

import math

import pytest
import torch
from attack_cases import close, equals_the_plain_loop, plain_loops
from attack_oracles import deepfool_1
from foolbox import PyTorchModel

from tandem_defense.attacks.deepfool import DeepFoolL2, DeepFoolLinf


@pytest.mark.parametrize(("name", "net"), plain_loops(DeepFoolL2, DeepFoolLinf))
def test_equals_the_plain_loop(batch, name, net):
    equals_the_plain_loop(batch, name, net)


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_deepfool_hands_on_its_loss(batch, monkeypatch, cls):
    """Log-probabilities and logits differ alike, so only rounding could tell the two apart."""
    seen, original = [], cls.foolbox
    monkeypatch.setattr(
        cls, "foolbox", staticmethod(lambda **given: seen.append(given) or original(**given))
    )
    cls(steps=1, loss="crossentropy")(*batch(correct=1, misclassified=0))
    cls(steps=1)(*batch(correct=1, misclassified=0))
    assert [given["loss"] for given in seen] == ["crossentropy", "logits"]


@pytest.mark.parametrize(("cls", "p"), [(DeepFoolL2, 2), (DeepFoolLinf, math.inf)])
def test_foolbox1_passes_over_a_class_on_a_par(cls, p):
    """A second class has the true one's logit exactly; the step goes to the third."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3).double())
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1, 1], [2, 0], [0, 1.5]]))
        net[1].bias.zero_()
    x = torch.tensor([0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    logits = net(x)[0].tolist()
    assert logits[0] == logits[1] > logits[2]
    label = torch.tensor([0])
    result = cls(rule="foolbox1", steps=5)(net, x, label)
    close(result.images, deepfool_1(net, x[0], label, p, 5, 10)[None])
    assert bool(result.success) and int(result.prediction) == 2


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_foolbox1_has_no_settings_of_foolbox3(cls):
    with pytest.raises(ValueError, match="overshoot"):
        cls(rule="foolbox1", overshoot=0.1)


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_one_candidate_is_too_few(cls):
    cls(candidates=2)
    with pytest.raises(ValueError, match=f"{cls.__name__}: candidates: found 1, allowed .* ≥ 2"):
        cls(candidates=1)


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
@pytest.mark.parametrize("rule", ["foolbox1", "foolbox3"])
def test_one_walk_tells_what_every_number_of_steps_does(batch, cls, rule):
    """Image by image: fooled by k steps where it first fools after at most k, at the same point."""
    net, x, y = batch(correct=8, misclassified=2)
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    walked, first = cls(rule=rule, steps=40).walk(model, x, y)
    assert first.tolist().count(0) == 2 and len(first.unique()) > 2
    for steps in (1, 2, 3, 5, 8, 13, 40):
        result = cls(rule=rule, steps=steps)(net, x, y)
        arrived = (first >= 0) & (first <= steps)
        assert torch.equal(result.success, arrived)
        close(result.images[arrived], walked[arrived])


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_foolbox1_stays_where_no_class_is_below(cls):
    """Two classes on a par everywhere, of which the first is the true one."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2).double())
    with torch.no_grad():
        net[1].weight.fill_(1)
        net[1].bias.zero_()
    x = torch.tensor([0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    walked, first = cls(rule="foolbox1", steps=5).walk(model, x, torch.tensor([0]))
    assert torch.equal(walked, x) and first.tolist() == [-1]


class Rounding(torch.nn.Module):
    """A network whose logits round otherwise in another batch than one of `size` images."""

    def __init__(self, net, size):
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x):
        logits = self.net(x)
        if len(x) == self.size:
            return logits
        return logits + 1e-4 * torch.rand(10, generator=torch.Generator().manual_seed(len(x)))


@pytest.mark.parametrize("cls", [DeepFoolL2, DeepFoolLinf])
def test_foolbox1_loses_no_image_to_rounding(batch, cls):
    """Where steps are clipped, images come to within rounding of the boundary and stay there."""
    net, x, y = batch("linear", correct=12, misclassified=0)
    result = cls(rule="foolbox1", steps=200)(Rounding(net, len(x)), x, y)
    assert result.success.all()
