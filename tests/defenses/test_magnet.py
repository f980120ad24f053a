"""MagNet: it denoises, and its detectors refuse what is far from the data."""

import pytest
import torch
from refusals import check_settings, check_training
from torch import nn
from trainings import check_seed_and_state, random

from tandem_defense.defenses.magnet import DenoisingAutoencoder, MagNet
from tandem_defense.training import generator


@pytest.fixture(scope="module")
def magnet(digits):
    """A MagNet for digits with the false positives and epochs of a small set."""
    model = MagNet()
    model.fit(
        digits[0][:1200],
        digits[1][:1200],
        seed=0,
        epochs=15,
        batch_size=32,
        learning_rate=1e-2,
        validation=0.25,
        false_positives=0.02,
    )
    return model


def test_magnet_networks_are_the_releases():
    def widths(autoencoder):
        return [(m.in_channels, m.out_channels) for m in autoencoder.convolutions]

    pooled, flat = (DenoisingAutoencoder(1, 3, pooling=p) for p in (True, False))
    assert widths(pooled) == [(1, 3), (3, 3), (3, 3), (3, 3), (3, 1)]
    assert widths(flat) == [(1, 3), (3, 3), (3, 1)]
    sides = [a.shape[2:] for a in pooled.activations(random(1, 1, 13, 10))]
    assert sides == [(13, 10), (7, 5), (7, 5), (13, 10), (13, 10)]


def test_magnet_denoises(digits, magnet):
    clean = digits[0][1200:]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    noisy = (clean + 0.2 * noise).clamp(0, 1)
    restored = magnet(noisy)
    assert restored.shape == clean.shape and restored.min() >= 0 and restored.max() <= 1
    assert (restored - clean).square().mean() < 0.7 * (noisy - clean).square().mean()


def test_magnet_learns_from_noisy_to_clean(monkeypatch):
    images, shown, wanted = torch.full((60, 1, 16, 16), 0.5), [], []
    activations, mse_loss = DenoisingAutoencoder.activations, nn.functional.mse_loss

    def show(autoencoder, batch):
        return activations(autoencoder, shown.append(batch) or batch)

    def want(output, target):
        return mse_loss(output, wanted.append(target) or target)

    monkeypatch.setattr(DenoisingAutoencoder, "activations", show)
    monkeypatch.setattr(nn.functional, "mse_loss", want)
    MagNet().fit(images, torch.zeros(60), seed=0, epochs=1, noise=0.1)
    assert len(wanted) == 2 and all((target == 0.5).all() for target in wanted)
    assert shown[0].std().item() == pytest.approx(0.1, rel=0.05)
    assert shown[0].mean().item() == pytest.approx(0.5, abs=0.01)


def test_magnet_detects(digits, magnet):
    clean = digits[0][1200:]
    errors = magnet.errors(clean)
    assert torch.allclose(errors[:, 0], (clean - magnet.pooled(clean)).pow(2).mean((1, 2, 3)))
    assert torch.allclose(errors[:, 1], (clean - magnet.flat(clean)).abs().mean((1, 2, 3)))
    assert magnet.rejects(clean).float().mean() < 0.12
    assert magnet.rejects(random(*clean.shape)).float().mean() > 0.99
    assert torch.equal(magnet.rejects(clean), (errors > magnet.thresholds).any(1))


@pytest.mark.parametrize(("share", "expected"), [(0.1, 10), (0.019, 1), (0.001, 0)])
def test_magnet_false_positives(digits, share, expected):
    """On the held-out images exactly ⌊share · count⌋ lie above each threshold."""
    images, labels = digits[0][:200], digits[1][:200]
    model = MagNet()
    model.fit(images, labels, seed=0, epochs=1, validation=0.5, false_positives=share)
    held_out = images[torch.randperm(200, generator=generator(0, "validation"))[:100]]
    assert ((model.errors(held_out) > model.thresholds).sum(0) == expected).all()


def test_seed_and_state_are_everything(digits):
    images, labels = digits[0][:96], digits[1][:96]
    trained, copy = check_seed_and_state(MagNet, images, labels, epochs=1)
    assert torch.equal(copy.rejects(images), trained.rejects(images))


def test_wrong_images(digits):
    with pytest.raises(ValueError, match="leaves none of 1797 images to train"):
        MagNet().fit(*digits, seed=0, validation=1.0)
    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
        MagNet().rejects(random(2, 3, 8, 8))
    assert not MagNet().rejects(digits[0][:3]).any()


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"filters": None}])
def test_wrong_settings(wrong):
    check_settings(MagNet, wrong)


@pytest.mark.parametrize(
    "wrong", [{"false_positives": 2}, {"validation": -0.1}, {"noise": 0}, {"learning_rate": -1}]
)
def test_wrong_training(digits, wrong):
    check_training(MagNet(), wrong, *digits)
