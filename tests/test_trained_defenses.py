"""The defenses to compare with: controls, HGD, ComDefend, MagNet."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from tandem_defense.classifiers.base import Classifier
from tandem_defense.defenses.comdefend import ComDefend, crop
from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.hgd import HGD, STEPS, attack
from tandem_defense.defenses.magnet import DenoisingAutoencoder, MagNet
from tandem_defense.training import generator

SMALL = {"channels": 1, "compression": (8, 16, 8), "reconstruction": (8, 16, 8), "code": 6}
TINY = {"widths": (8, 12, 16), "forward_depths": (1, 2, 2), "backward_depths": (1, 2)}


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(count, channels=1, side=24):
    """Generated images without fine texture, (N, C, side, side) in [0, 1]."""
    return interpolate(random(count, channels, 4, 4), (side, side), mode="bilinear")


class Net(Classifier):
    """A small convolutional classifier for 16 × 16 digits."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 24, 3, 2, 1), nn.ReLU()
        )
        self.dense = nn.Linear(24, 10)

    def maps(self, images):
        return self.convolutions(images)

    def head(self, maps):
        return self.dense(maps.mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    """1797 digits (N, 1, 16, 16) in [0, 1] with their labels."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype("float32") / 16)[:, None]
    images = interpolate(images, (16, 16), mode="bilinear", align_corners=False)
    return images, torch.from_numpy(data.target)


@pytest.fixture(scope="module")
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


# Controls


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_blur_is_scipys(kernel):
    images = random(2, 3, 9, 12)
    size = (1, 1, kernel, kernel)
    expected = uniform_filter(images.double().numpy(), size, mode="mirror")
    assert np.allclose(AverageBlur(kernel=kernel)(images), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    images = smooth(2, channels, 21).requires_grad_()
    result = JPEG(quality=60)(images)
    for image, back in zip(images, result, strict=True):
        pixels = (image.detach() * 255).round().byte().permute(1, 2, 0).squeeze().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=60)
        expected = np.asarray(Image.open(file), "float32").reshape(21, 21, channels) / 255
        assert np.array_equal(back.permute(1, 2, 0), expected)
    assert result.shape == images.shape and not result.requires_grad
    assert JPEG()(images.double()).dtype == torch.float64
    low = (JPEG(quality=5)(images) - images).abs().mean()
    assert low > (JPEG(quality=95)(images) - images).abs().mean() > 0


def test_wrong_controls():
    with pytest.raises(ValueError, match="kernel is 4, expected an odd number"):
        AverageBlur(kernel=4)
    with pytest.raises(ValueError, match="use larger images or a kernel below 9"):
        AverageBlur(kernel=9)(random(1, 1, 4, 8))
    with pytest.raises(ValueError, match="quality is 101, expected 1 to 100"):
        JPEG(quality=101)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        JPEG()(random(1, 4, 8, 8))


# HGD


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


@pytest.mark.parametrize("guidance", ["logits", "features"])
def test_hgd_brings_the_reaction_back(digits, net, guidance):
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
        epochs=6,
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
    assert torch.equal(attack(net, images, sizes, 0), images)
    answers, losses = net(images).argmax(1), []
    for steps in STEPS:
        attacked = attack(net, images, sizes, steps)
        assert ((attacked - images).abs() <= sizes + 1e-6).all()
        losses.append(cross_entropy(net(attacked), answers).item())
    assert losses[0] < min(losses[1:]) and losses[1] <= losses[-1] * 1.001


def test_wrong_hgd(digits, net):
    with pytest.raises(ValueError, match="have 2, 5, 4 entries, expected n, n, n − 1"):
        HGD(widths=(8, 8))
    with pytest.raises(ValueError, match="guidance is 'pixels', expected 'logits' or 'features'"):
        HGD(channels=1, **TINY).fit(*digits, seed=0, classifier=net, guidance="pixels")
    with pytest.raises(ValueError, match="epsilon is 8,"):
        HGD(channels=1, **TINY).fit(*digits, seed=0, classifier=net, epsilon=8)


# ComDefend


@pytest.mark.parametrize("test_noise", [0, 1, 20])
def test_comdefend_code_is_binary(test_noise):
    images = random(3, 1, 13, 18)
    model = ComDefend(test_noise=test_noise, **SMALL)
    code = model.encode(images)
    assert code.shape == (3, 6, 13, 18) and set(code.unique().tolist()) <= {0.0, 1.0}
    output = model(images)
    assert output.shape == images.shape and output.min() >= 0 and output.max() <= 1


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
    assert torch.equal(model.encode(images), model.encode(images, ["0", "1", "2", "3"]))
    other = ComDefend(test_noise=20, seed=1, **SMALL)
    other.load_state_dict(model.state_dict())
    assert not torch.equal(other.encode(images, ids), whole)
    share = (whole == 1).float().mean()
    assert 0.4 < share < 0.6  # noise of 20 drowns an untrained code
    with pytest.raises(ValueError, match="3 ids for 4 images"):
        model(images, ids[:3])


def test_comdefend_learns(digits):
    images, labels = digits
    model = ComDefend(test_noise=1, **SMALL)
    state = torch.get_rng_state()
    model.fit(images[:800], labels[:800], seed=0, epochs=5, learning_rate=5e-3)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    test = images[1200:1400]
    with torch.no_grad():
        error = (model(test) - test).square().mean()
    assert error < 0.3 * test.var()


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


# MagNet


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


def test_wrong_magnet(digits):
    with pytest.raises(ValueError, match="leaves none of 1797 images to train"):
        MagNet().fit(*digits, seed=0, validation=1.0)
    with pytest.raises(ValueError, match="false_positives is 2, expected a number from 0 to 1"):
        MagNet().fit(*digits, seed=0, false_positives=2)
    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
        MagNet().rejects(random(2, 3, 8, 8))
    assert not MagNet().rejects(digits[0][:3]).any()


# All that train


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda: HGD(channels=1, **TINY), {"epochs": 1, "epsilon": 0.1}),
        (lambda: ComDefend(**SMALL), {"epochs": 1, "patch": 12}),
        (lambda: MagNet(), {"epochs": 1}),
    ],
    ids=["HGD", "ComDefend", "MagNet"],
)
def test_seed_and_state_are_everything(digits, net, make, settings):
    images, labels = digits[0][:96], digits[1][:96]
    if "epsilon" in settings:
        settings = {**settings, "classifier": net}
    models = []
    for seed, disturbance in ((0, 3), (0, 4), (1, 3)):
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        models.append(make())
        models[-1].fit(images, labels, seed=seed, **settings)
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (dict(m.state_dict()) for m in models)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    copy = make()
    copy.load_state_dict(first)
    assert torch.equal(copy(images), models[0](images))
    assert torch.equal(copy.rejects(images), models[0].rejects(images))
    assert not copy.training and not models[0].training
