"""The autoencoder classifiers: the layers of the paper, its two stages, its losses, its seeds."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import trainings
from refusals import check_settings, check_training

from tandem_defense.classifiers.autoencoder import (
    FUNN,
    Autoencoder,
    ClassicAutoencoder,
    attacker_loss,
    both_losses,
    constraint,
    defender_loss,
    distance,
)
from tandem_defense.training import generator

MNIST = Path(__file__).parents[2] / "../shared/data/mnist"
STAGES = {"initialization_epochs": 1, "optimization_epochs": 1, "head_epochs": 1}


@pytest.fixture(scope="module")
def digits():
    """1797 digits (N, 1, 28, 28) in [0, 1] with their labels, shuffled."""
    images, labels = trainings.digits(28)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


@pytest.fixture(scope="module")
def few(digits):
    """128 digits, for the tests that only ask what moves."""
    return digits[0][:128], digits[1][:128]


def trained(kind, few, seed=0, **settings):
    model = kind()
    model.fit(*few, seed=seed, batch_size=32, **settings)
    return model


def test_layers_are_the_papers():
    """FUNN's as it is by default: 28 × 28 images padded to 32 × 32, down to a vector and back."""
    autoencoder = FUNN().autoencoder
    x, sizes = torch.rand(2, 1, 32, 32), []
    for layer in autoencoder.encoder:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[1::2] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (64, 2, 2), (32, 1, 1)]
    sizes.clear()
    for layer in autoencoder.decoder:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[::2] == [(64, 2, 2), (64, 4, 4), (32, 8, 8), (16, 16, 16), (1, 32, 32)]
    weights = [p.shape for p in autoencoder.parameters() if p.ndim == 4]
    assert all(shape[2:] == (3, 3) for shape in weights)


@pytest.mark.parametrize("pad", [0, 2])
def test_images_are_padded_and_cropped_again(few, pad):
    """The autoencoder sees black around the image; what it makes of that is cut off."""
    model, images = FUNN(pad=pad, widths=(4, 6)), few[0][:3]
    side = slice(pad, pad + 28)
    large = torch.zeros(3, 1, 28 + 2 * pad, 28 + 2 * pad)
    large[:, :, side, side] = images
    assert torch.equal(model.maps(images), model.autoencoder.encoder(large))
    assert torch.equal(model.reconstruct(images), model.autoencoder(large)[:, :, side, side])
    noise = torch.rand((3, 32), generator=generator(4, "perturb"))
    assert torch.equal(model.perturb(images, 4), model.attacker(large, noise)[:, :, side, side])


def test_activation_of_the_features(few):
    """Of both players' features, and of nothing else."""
    plain, bounded = FUNN(), FUNN(activation="tanh01")
    bounded.load_state_dict(plain.state_dict())
    for a, b in ((plain.autoencoder, bounded.autoencoder), (plain.attacker, bounded.attacker)):
        last = a.encoder[:-1](plain.padded(few[0]))
        assert last.min() < 0 < last.max()
        assert torch.equal(a.encoder(plain.padded(few[0])), last.clamp_min(0))
        expected = torch.sigmoid(2 * last)  # (1 + tanh t) / 2 = σ(2 t)
        assert torch.allclose(b.encoder(plain.padded(few[0])), expected, atol=1e-6)


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
    last = autoencoder.decoder[:-1](features)
    expected = torch.sigmoid(2 * last)  # (1 + tanh t) / 2 = σ(2 t)
    assert torch.allclose(autoencoder.decode(features), expected, atol=1e-6)


def test_noise_is_tiled_after_the_features():
    attacker = Autoencoder(channels=1, size=28, widths=(4, 6), noise_size=3)
    features, noise = torch.rand(2, 6, 7, 7), torch.rand(2, 3)
    tiled = torch.empty(2, 9, 7, 7)
    tiled[:, :6] = features
    for i in range(7):
        for j in range(7):
            tiled[:, 6:, i, j] = noise
    assert torch.equal(attacker.decode(features, noise), attacker.decoder(tiled))


def test_noise_is_concatenated_to_the_papers_vector():
    attacker = FUNN().attacker
    features, noise = torch.rand(2, 32, 1, 1), torch.rand(2, 32)
    vector = torch.cat([features, noise[:, :, None, None]], 1)
    assert torch.equal(attacker.decode(features, noise), attacker.decoder(vector))


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


@pytest.mark.parametrize("unit", ["mse", "l2", "sum"])
@pytest.mark.parametrize(
    ("penalty", "beta", "active"),
    [
        ("corrected", 1e3, True),
        ("corrected", 1e-4, False),
        ("as_printed", 1e-4, True),
        ("as_printed", 1e3, False),
    ],
)
def test_one_pass_is_the_two_plain_ones(few, unit, penalty, beta, active):
    """Both players' gradients in float64, where the penalty acts and where it does not."""
    x = few[0][:8].double()
    torch.manual_seed(0)
    model = FUNN(pad=0, widths=(4, 6), noise_size=3).double()
    attacker, defender, noise = model.attacker, model.autoencoder, torch.rand(8, 3).double()
    settings = {"unit": unit, "gamma": 5.0, "beta": beta, "penalty": penalty}
    attack, defend = list(attacker.parameters()), list(defender.parameters())

    attacked = attacker(x, noise)
    loss = attacker_loss(x, attacked, defender(attacked), **settings)
    expected = torch.autograd.grad(loss, attack)
    assert (loss > distance(attacked, x, unit)) == active
    loss = defender_loss(x, defender(attacked.detach()), unit=unit)
    expected += torch.autograd.grad(loss, defend)

    terms = both_losses(x, attacker(x, noise), defender, **settings)
    assert (terms["penalty (5)"] > 0) == active
    found = torch.autograd.grad(sum(terms.values()), attack + defend)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


class Plain(torch.nn.Module):
    """The autoencoder of Figure 1 in PyTorch's own layers, an attacker if it has noise."""

    def __init__(self, noise=0):
        super().__init__()
        conv, deconv, relu = torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.ReLU()
        self.encoder = torch.nn.Sequential(
            *(conv(1, 16, 3, 2, 1), relu, conv(16, 32, 3, 2, 1), relu),
            *(conv(32, 64, 3, 2, 1), relu, conv(64, 64, 3, 2, 1), relu),
            *(conv(64, 32, 3, 2, 1), relu),
        )
        self.decoder = torch.nn.Sequential(
            *(deconv(32 + noise, 64, 3, 2, 1, 1), relu, deconv(64, 64, 3, 2, 1, 1), relu),
            *(deconv(64, 32, 3, 2, 1, 1), relu, deconv(32, 16, 3, 2, 1, 1), relu),
            deconv(16, 1, 3, 2, 1, 1),
        )

    def forward(self, x, noise=None):
        features = self.encoder(x)
        if noise is not None:
            features = torch.cat([features, noise[:, :, None, None]], 1)
        return (1 + torch.tanh(self.decoder(features))) / 2


@pytest.mark.parametrize(("penalty", "beta"), [("corrected", 0.5), ("as_printed", 1e-4)])
def test_training_is_the_plain_one(few, penalty, beta):
    """Both stages, several steps each, against a plain loop: layers, losses, gradients, Adam."""
    images, y = few[0][:80].double(), few[1][:80]
    x = torch.nn.functional.pad(images, (2, 2, 2, 2))
    settings = {"seed": 3, "batch_size": 32, "head_epochs": 1, "beta": beta, "penalty": penalty}
    models = {}
    for epochs in ((0, 0), (2, 0), (2, 2)):
        models[epochs] = FUNN().double()
        first, second = epochs
        models[epochs].fit(
            images, y, initialization_epochs=first, optimization_epochs=second, **settings
        )
    attacker, defender = Plain(32).double(), Plain().double()
    attacker.load_state_dict(models[0, 0].attacker.state_dict())
    defender.load_state_dict(models[0, 0].autoencoder.state_dict())
    draws = generator(3, "noise")

    def train(name, attack, defend, rates, **penalized):
        players = [torch.optim.Adam(p, r) for p, r in zip((attack, defend), rates, strict=True)]
        order, active = generator(3, name, "order"), []
        for _ in range(2):
            for batch in torch.randperm(80, generator=order).split(32):
                images = x[batch]
                attacked = attacker(images, torch.rand(len(batch), 32, generator=draws).double())
                restored = defender(attacked) if penalized else None
                loss = attacker_loss(images, attacked, restored, **penalized)
                active.append(bool(loss > distance(attacked, images)))
                attacks = torch.autograd.grad(loss, attack)
                loss = defender_loss(images, defender(attacked.detach()))
                defends = torch.autograd.grad(loss, defend)
                for parameters, gradients in ((attack, attacks), (defend, defends)):
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.grad = gradient
                for player in players:
                    player.step()
        return any(active)

    def compare(model):
        for plain, ours in ((attacker, model.attacker), (defender, model.autoencoder)):
            for name, value in plain.state_dict().items():
                assert torch.allclose(value, ours.state_dict()[name], rtol=0, atol=1e-8), name

    train(
        "initialization",
        list(attacker.parameters()),
        list(defender.parameters()),
        (1e-3, 5e-4),
    )
    compare(models[2, 0])
    active = train(
        "optimization",
        list(attacker.decoder.parameters()),
        list(defender.encoder.parameters()),
        (1e-5, 1e-5),
        gamma=5.0,
        beta=beta,
        penalty=penalty,
    )
    assert active  # the penalty's gradient took part
    compare(models[2, 2])


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
    "wrong",
    [
        {"penalty": "both"},
        {"loss_unit": "rms"},
        {"initial_weights": "zero"},
        {"initialization_input": "noisy"},
        {"gamma": 0},
        {"beta": float("nan")},
        {"optimization_epochs": -1},
        {"head_epochs": 0},
    ],
)
def test_wrong_training(few, wrong):
    check_training(FUNN(), wrong, *few)


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (ClassicAutoencoder, {"classes": 0}),
        (ClassicAutoencoder, {"widths": ()}),
        (FUNN, {"widths": (16, 0)}),
        (FUNN, {"hidden": 1.5}),
        (FUNN, {"noise_size": 0}),
        (FUNN, {"pad": -1}),
        (ClassicAutoencoder, {"activation": "tanh"}),
    ],
)
def test_wrong_settings(cls, wrong):
    check_settings(cls, wrong)


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
    rates = {"learning_rate": 4e-3, "head_rate": 4e-3}
    model.fit(
        images[:1000], labels[:1000], seed=0, epochs=8, head_epochs=20, batch_size=32, **rates
    )
    assert (model.predict(images[1200:]) == labels[1200:]).float().mean() > 0.92
    assert distance(model.reconstruct(images[1200:]), images[1200:]) < 0.01


def test_funn_learns_digits(digits):
    images, labels = digits
    model = FUNN()
    model.fit(
        images[:1000],
        labels[:1000],
        seed=0,
        initialization_epochs=12,
        optimization_epochs=2,
        attacker_rate=4e-3,
        defender_rate=4e-3,
        head_epochs=20,
        head_rate=4e-3,
        batch_size=32,
    )
    # Rounding differs between processors: 0.9196 on one, above 0.92 on another.
    assert (model.predict(images[1200:]) == labels[1200:]).float().mean() > 0.9
    assert distance(model.perturb(images[1200:], 0), images[1200:]) < 0.03


@pytest.mark.skipif(not MNIST.exists(), reason="needs MNIST in ../shared/data/mnist")
def test_initial_weights_survive_mnist():
    """Mostly black images: from He weights the first epochs already beat a black output."""
    file = gzip.open(MNIST / "train-images-idx3-ubyte.gz")
    pixels = np.frombuffer(file.read(16 + 784 * 3200), np.uint8, offset=16)
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype("float32") / 255)
    model = ClassicAutoencoder()
    labels = torch.zeros(len(images), dtype=torch.int64)
    model.fit(images, labels, seed=0, epochs=3, head_epochs=1, learning_rate=4e-3)
    black = distance(torch.zeros_like(images), images)
    assert distance(model.reconstruct(images), images) < 0.6 * black
