"""HGD: the released network and schedule; it brings the classifier's reaction back."""

import pytest
import torch
from refusals import check_settings, check_training
from torch.nn.functional import cross_entropy
from trainings import check_seed_and_state, random

from tandem_defense.adam import Adam
from tandem_defense.defenses import hgd
from tandem_defense.defenses.hgd import HGD, STEPS, attack, attack_all

TINY = {"widths": (8, 12, 16), "forward_depths": (1, 2, 2), "backward_depths": (1, 2)}


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
def test_hgd_shapes(size):
    images = random(2, 3, *size)
    output = HGD(**TINY)(images)
    assert output.shape == images.shape
    assert output.min() >= 0 and output.max() <= 1
    assert not torch.equal(output, images)


def test_hgd_network_is_the_releases():
    def plan(blocks):
        return [
            [(m.in_channels, m.out_channels) for m in b if hasattr(m, "stride")] for b in blocks
        ]

    with torch.device("meta"):
        model = HGD()
    down, up = plan(model.down), plan(model.up)
    assert [len(b) for b in down] == [2, 3, 3, 3, 3] and [len(b) for b in up] == [2, 3, 3, 3]
    assert [b[0] for b in down] == [(3, 64), (64, 128), (128, 256), (256, 256), (256, 256)]
    assert [b[0] for b in up] == [(192, 64), (384, 128), (512, 256), (512, 256)]
    assert model.down[0][0].stride == (1, 1) and model.down[1][0].stride == (2, 2)


def test_hgd_without_a_correction_is_the_identity():
    model = HGD(**TINY)
    model.last.weight.data.zero_()
    images = random(2, 3, 15, 16)
    assert torch.equal(model(images), images)


@pytest.mark.parametrize(
    ("guidance", "precision"),
    [("logits", "float32"), ("features", "float32"), ("logits", "bf16")],
)
def test_hgd_brings_the_reaction_back(digits, net, guidance, precision):
    images, labels = digits
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    model = HGD(channels=1, **TINY)
    model.fit(
        images[:500],
        labels[:500],
        seed=0,
        classifier=net.train(),
        guidance=guidance,
        epsilon=0.2,
        crop_epochs=2,
        side=14,
        epochs=12,  # after 6, "features" is at the bar: it falls on processors that round otherwise
        precision=precision,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(weights[n], v) for n, v in net.eval().state_dict().items())
    assert not model.training
    clean = images[1200:1500]
    attacked = attack(net, clean, torch.full((300, 1, 1, 1), 0.1), 4)

    def reaction(x):
        return net(x) if guidance == "logits" else net.maps(x).mean((2, 3))

    def distance(x):
        return (reaction(x) - reaction(clean)).abs().mean()

    def same(x):
        return (net(x).argmax(1) == net(clean).argmax(1)).float().mean()

    with torch.no_grad():
        denoised = model(attacked)
        assert distance(denoised) < 0.5 * distance(attacked)
        assert same(denoised) > same(attacked) + 0.3


def test_hgd_attacks_fill_their_sizes(digits, net):
    images = digits[0][:20] * 0.4 + 0.3  # no pixel near 0 or 1: nothing is clipped
    sizes = torch.linspace(0.02, 0.2, 20).view(-1, 1, 1, 1)
    fast = attack(net, images, sizes, 1)
    assert torch.allclose((fast - images).abs().amax((1, 2, 3)), sizes.flatten(), atol=1e-6)
    answers, losses = net(images).argmax(1), []
    for steps in STEPS:
        attacked = attack(net, images, sizes, steps)
        assert ((attacked - images).abs() <= sizes + 1e-6).all()
        losses.append(cross_entropy(net(attacked), answers).item())
    assert cross_entropy(net(images), answers) < min(losses) and losses[0] <= losses[-1] * 1.001


@pytest.mark.parametrize("count", [1, 2, 5])
def test_hgd_attacks_few_images_too(net, count):
    """One each for the first of four numbers of steps."""
    images = random(count, 1, 16, 16)
    attacked = attack_all(net, images, 0.1, 0, 2).float() / 255
    assert ((attacked - images).abs().flatten(1).amax(1) > 0.002).all()


def test_hgd_attacks_its_images_once(digits, net):
    """All of them, within their sizes, 8-bit, whatever the batch size."""
    images = digits[0][:30]
    attacked = attack_all(net, images, 0.2, seed=0, batch_size=7)
    difference = (attacked / 255 - images).abs().amax((1, 2, 3))
    assert attacked.dtype == torch.uint8
    assert (difference > 0).all() and difference.max() <= 0.2 + 0.5 / 255
    assert difference.min() < 0.05 < 0.15 < difference.max()
    assert torch.equal(attacked, attack_all(net, images, 0.2, seed=0, batch_size=30))
    assert not torch.equal(attacked, attack_all(net, images, 0.2, seed=1, batch_size=30))
    right = net(images).argmax(1)
    assert (net(attacked / 255).argmax(1) != right).float().mean() > 0.3


def test_hgd_attacks_squares_themselves(digits, net, monkeypatch):
    """They are not cut from attacked images, and deceive."""
    seen, own = [], hgd.attack_all

    def noted(classifier, clean, *settings):
        seen.append((clean, own(classifier, clean, *settings)))
        return seen[-1][1]

    monkeypatch.setattr(hgd, "attack_all", noted)
    images, labels = digits[0][:60], digits[1][:60]
    settings = {"crop_epochs": 1, "crops": 3, "side": 12, "epochs": 1, "epsilon": 0.2}
    HGD(channels=1, **TINY).fit(images, labels, seed=0, classifier=net, **settings)
    (squares, attacked), (whole, _) = seen
    assert squares.shape == (180, 1, 12, 12) and torch.equal(whole, images)
    pieces = whole.unfold(2, 12, 1).unfold(3, 12, 1)[0].flatten(1, 2).squeeze(0)
    assert all(any(torch.equal(s[0], p) for p in pieces) for s in squares[::60])
    assert (net(attacked / 255).argmax(1) != net(squares).argmax(1)).float().mean() > 0.3


def test_hgd_starts_as_the_identity(digits, net):
    """A rate that moves nothing leaves clean images as they are."""
    model = HGD(channels=1, **TINY)
    images, labels = digits[0][:40], digits[1][:40]
    model.fit(images, labels, seed=0, classifier=net, epochs=1, learning_rate=1e-12)
    assert torch.allclose(model(images), images, atol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(10, [1e-2] * 6 + [1e-3] * 3 + [1e-4]), (7, [1e-2] * 5 + [1e-3] * 2), (1, [1e-2])],
)
def test_learning_rate_falls_between_epochs(digits, net, monkeypatch, epochs, expected):
    """To a tenth after 60 % and a hundredth after 90 %, in no epoch's middle."""
    rates = []
    monkeypatch.setattr(Adam, "step", lambda self, rate, beta1: rates.append((rate, beta1)))
    images, labels = digits[0][:50], digits[1][:50]
    HGD(channels=1, **TINY).fit(
        images, labels, seed=0, classifier=net, epochs=epochs, batch_size=20
    )
    assert rates == [(pytest.approx(rate), 0.9) for rate in expected for _ in range(3)]


def test_seed_and_state_are_everything(digits, net):
    images, labels = digits[0][:96], digits[1][:96]
    settings = {"epochs": 1, "epsilon": 0.1, "classifier": net}
    check_seed_and_state(lambda: HGD(channels=1, **TINY), images, labels, **settings)


def test_levels_that_do_not_fit():
    with pytest.raises(
        ValueError,
        match=r"found \(8, 8\) beside forward_depths .*len\(forward_depths\) = len\(widths\)",
    ):
        HGD(widths=(8, 8))


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"widths": (8, 0)}, {"forward_depths": ()}, {"backward_depths": 2}]
)
def test_wrong_settings(wrong):
    check_settings(HGD, wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"guidance": "pixels"}, {"epsilon": 8}, {"epsilon": 0}, {"epochs": 0}, {"epochs": 1.5}],
)
def test_wrong_training(digits, net, wrong):
    check_training(HGD(channels=1, **TINY), wrong, *digits, classifier=net)
