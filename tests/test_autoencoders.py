"""The autoencoder classifiers: the layers of the paper, its two stages, its losses, its seeds."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from tandem_defense.classifiers.autoencoder import (
    FUNN,
    Autoencoder,
    ClassicAutoencoder,
    constraint,
    distance,
)

MNIST = Path(__file__).parents[1] / "../shared/data/mnist"
STAGES = {"initialization_epochs": 1, "optimization_epochs": 1, "head_epochs": 1}


@pytest.fixture(scope="module")
def digits():
    """1797 digits (N, 1, 28, 28) in [0, 1] with their labels, shuffled."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype("float32") / 16)[:, None]
    images = interpolate(images, (28, 28), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.from_numpy(data.target)[order]


@pytest.fixture(scope="module")
def few(digits):
    """128 digits, for the tests that only ask what moves."""
    return digits[0][:128], digits[1][:128]


def trained(kind, few, seed=0, **settings):
    model = kind()
    model.fit(*few, seed=seed, batch_size=32, **settings)
    return model


def test_layers_are_the_papers():
    autoencoder = Autoencoder(channels=1, size=28, widths=(16, 32, 64))
    x, sizes = torch.rand(2, 1, 28, 28), []
    for layer in autoencoder.encoder:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[1::2] == [(16, 14, 14), (32, 7, 7), (64, 4, 4)]
    for layer in autoencoder.decoder:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[6::2] == [(32, 7, 7), (16, 14, 14), (1, 28, 28)]
    weights = [p.shape for p in autoencoder.parameters() if p.ndim == 4]
    assert all(shape[2:] == (3, 3) for shape in weights)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (2, 13)])
def test_shapes_and_ranges(channels, size):
    model = FUNN(channels=channels, size=size, classes=7)
    images = torch.rand(3, channels, size, size)
    for output in (model.reconstruct(images), model.perturb(images, 0)):
        assert output.shape == images.shape
        assert output.min() >= 0 and output.max() <= 1
    assert model(images).shape == (3, 7)
    assert torch.equal(model.head(model.maps(images)), model(images))


def test_last_activation():
    autoencoder = Autoencoder(channels=1, size=28, widths=(4,))
    features = torch.rand(2, 4, 14, 14)
    expected = torch.sigmoid(2 * autoencoder.decoder(features))  # (1 + tanh t) / 2 = σ(2 t)
    assert torch.allclose(autoencoder.decode(features), expected, atol=1e-6)


def test_noise_is_tiled_after_the_features():
    attacker = Autoencoder(channels=1, size=28, widths=(4, 6), noise_size=3)
    features, noise = torch.rand(2, 6, 7, 7), torch.rand(2, 3)
    tiled = torch.empty(2, 9, 7, 7)
    tiled[:, :6] = features
    for i in range(7):
        for j in range(7):
            tiled[:, 6:, i, j] = noise
    expected = (1 + torch.tanh(attacker.decoder(tiled))) / 2
    assert torch.equal(attacker.decode(features, noise), expected)


def test_loss_units():
    x = torch.zeros(2, 1, 1, 2)
    y = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).view(2, 1, 1, 2)  # squares: 25 and 1
    assert distance(x, y, "mse").item() == pytest.approx(26 / 4)
    assert distance(x, y, "sum").item() == pytest.approx(26 / 2)
    assert distance(x, y, "l2").item() == pytest.approx((5 + 1) / 2)
    same = x.clone().requires_grad_()
    distance(same, x, "l2").backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize(
    ("penalty", "error", "expected", "slope"),
    [
        ("corrected", 0.004, 0.006, -1),
        ("corrected", 0.03, 0, 0),
        ("as_printed", 0.004, 0, 0),
        ("as_printed", 0.03, 0.02, 1),
    ],
)
def test_penalty_signs(penalty, error, expected, slope):
    error = torch.tensor(error, requires_grad=True)
    value = constraint(error, beta=0.01, penalty=penalty)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-8)
    assert error.grad.item() == slope


@pytest.mark.parametrize(("penalty", "beta"), [("corrected", 0.5), ("as_printed", 1e-4)])
def test_optimization_step_is_the_papers(few, monkeypatch, penalty, beta):
    """One batch: both players' gradients against two separate backward passes."""
    x, y = few[0][:32], few[1][:32]
    model, seen = FUNN(), {}

    def record(optimizer, *args, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                seen[name] = (parameter.detach().clone(), parameter.grad.clone())

    monkeypatch.setattr(torch.optim.Adam, "step", record)  # nothing moves: initial weights
    monkeypatch.setattr(model, "fit_head", lambda *args: None)
    constant = torch.rand(1, 32, generator=torch.Generator().manual_seed(1)).expand(32, -1)
    monkeypatch.setattr(model, "noise", lambda images, source: constant)
    model.fit(
        x,
        y,
        seed=0,
        batch_size=32,
        initialization_epochs=0,
        optimization_epochs=1,
        penalty=penalty,
        beta=beta,
    )
    attacker, defender = model.attacker, model.autoencoder
    perturbed = attacker(x, constant)
    error = distance(x, defender(perturbed))
    attack = distance(perturbed, x) + 5 * constraint(error, beta=beta, penalty=penalty)
    assert constraint(error, beta=beta, penalty=penalty) > 0
    defence = distance(x, defender(perturbed.detach()))
    for prefix, module, loss in (
        ("attacker.decoder", attacker.decoder, attack),
        ("autoencoder.encoder", defender.encoder, defence),
    ):
        gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        for (name, _), expected in zip(module.named_parameters(), gradients, strict=True):
            assert torch.allclose(seen[f"{prefix}.{name}"][1], expected, rtol=1e-3, atol=1e-6)


def test_frozen_halves_stay_and_the_others_move(few):
    before = trained(FUNN, few, **{**STAGES, "optimization_epochs": 0}).state_dict()
    after = trained(FUNN, few, **STAGES).state_dict()
    for name, value in after.items():
        if name.startswith(("attacker.encoder", "autoencoder.decoder")):
            assert torch.equal(value, before[name]), name
        if name.startswith(("attacker.decoder", "autoencoder.encoder")):
            assert not torch.equal(value, before[name]), name


def test_head_training_leaves_the_encoder(few):
    models = [
        trained(ClassicAutoencoder, few, epochs=1, head_epochs=n).state_dict() for n in (1, 2)
    ]
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]) == name.startswith("autoencoder"), name


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(ClassicAutoencoder, {"epochs": 1, "head_epochs": 1}), (FUNN, STAGES)],
)
def test_seed_decides_everything(few, kind, settings):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = trained(kind, few, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = trained(kind, few, **settings), trained(kind, few, seed=1, **settings)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first(few[0]), other(few[0]))
    assert not first.training and all(p.requires_grad for p in first.parameters())


def test_state_dict_is_the_model(few):
    model, copy = trained(FUNN, few, **STAGES), FUNN()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(few[0]), model(few[0]))
    assert torch.equal(copy.reconstruct(few[0]), model.reconstruct(few[0]))
    assert torch.equal(copy.perturb(few[0], 3), model.perturb(few[0], 3))
    assert not torch.equal(copy.perturb(few[0], 3), model.perturb(few[0], 4))


def test_a_line_per_epoch(few, caplog):
    with caplog.at_level(logging.INFO):
        trained(FUNN, few, **{**STAGES, "optimization_epochs": 2})
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == [
        "initialization",
        "optimization",
        "optimization",
        "classifier",
    ]
    assert "penalty (5)" in lines[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "both"}, "penalty is 'both', expected 'corrected' or 'as_printed'"),
        ({"loss_unit": "rms"}, "loss_unit is 'rms'"),
        ({"gamma": 0}, "gamma is 0, expected a number > 0"),
        ({"beta": float("nan")}, "beta is nan"),
    ],
)
def test_wrong_settings(few, settings, message):
    with pytest.raises(ValueError, match=message):
        FUNN().fit(*few, seed=0, **settings)


def test_wrong_inputs(few):
    model = ClassicAutoencoder(classes=3)
    with pytest.raises(ValueError, match=r"labels lie in \[0, 9\], expected 0 to 2"):
        model.fit(*few, seed=0)
    with pytest.raises(ValueError, match=r"expected \[0, 1\]: divide 8-bit images by 255"):
        model.fit(few[0] * 255, few[1], seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 28, 28\), expected \(B, 1, 28, 28\)"):
        model(torch.rand(2, 3, 28, 28))
    with pytest.raises(ValueError, match="labels have the shape"):
        model.fit(few[0], few[1][:5], seed=0)


def test_classic_learns_digits(digits):
    images, labels = digits
    model = ClassicAutoencoder()
    model.fit(images[:1000], labels[:1000], seed=0, epochs=5, head_epochs=40, batch_size=64)
    assert (model.predict(images[1200:]) == labels[1200:]).float().mean() > 0.92
    assert distance(model.reconstruct(images[1200:]), images[1200:]) < 0.01


def test_funn_learns_digits(digits):
    images, labels = digits
    model = FUNN()
    model.fit(
        images[:1000],
        labels[:1000],
        seed=0,
        initialization_epochs=5,
        optimization_epochs=2,
        head_epochs=40,
        batch_size=64,
    )
    assert (model.predict(images[1200:]) == labels[1200:]).float().mean() > 0.92
    assert distance(model.perturb(images[1200:], 0), images[1200:]) < 0.03


@pytest.mark.skipif(not MNIST.exists(), reason="needs MNIST in ../shared/data/mnist")
def test_initial_weights_survive_mnist():
    """Mostly black images: from He weights the first epochs already beat a black output."""
    file = gzip.open(MNIST / "train-images-idx3-ubyte.gz")
    pixels = np.frombuffer(file.read(16 + 784 * 3200), np.uint8, offset=16)
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype("float32") / 255)
    model = ClassicAutoencoder()
    model.fit(images, torch.zeros(len(images), dtype=torch.int64), seed=0, epochs=3, head_epochs=1)
    black = distance(torch.zeros_like(images), images)
    assert distance(model.reconstruct(images), images) < 0.6 * black
