"""The engine is right (against the plain loop in plain layers), and images are independent."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.restoration.networks import FirstPrior, UNet
from tandem_defense.seeds import derive_seed

SMALL = {"feature_scale": 32, "dtype": "float64", "smoothing": 0.9, "seed": 3}


def photos(n: int, height: int = 65, width: int = 72) -> torch.Tensor:
    """Smooth images with an edge, (n, 3, height, width) float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 5, 5, generator=rng, dtype=torch.float64)
    return F.interpolate(coarse, (height, width), mode="bilinear")


# --- an oracle: the paper's networks in plain PyTorch layers, one image, torch's own Adam ---


def block(inputs, outputs, norm):
    layers = []
    for n in (inputs, outputs):
        layers.append(nn.Conv2d(n, outputs, 3, padding=1))
        layers += [nn.InstanceNorm2d(outputs)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class PlainUNet(nn.Module):
    def __init__(self, inputs, w):
        super().__init__()
        self.start = block(inputs, w[0], True)
        self.down = nn.ModuleList(block(a, b, True) for a, b in zip(w, w[1:]))
        pairs = list(zip(w[1:], w))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairs)
        self.merge = nn.ModuleList(block(2 * b, b, False) for _, b in pairs)
        self.last = nn.Conv2d(w[0], 3, 1)

    def forward(self, x):
        levels = [self.start(x)]
        for down in self.down:
            levels.append(down(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for up, merge in zip(self.up, self.merge):
            shortcut = levels.pop()
            x = merge(torch.cat([shortcut, up(x, output_size=shortcut.shape[2:])], 1))
        return torch.sigmoid(self.last(x))


class PlainFirst(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.c = nn.ModuleList(
            [
                nn.Conv2d(32, w[0], 5, 2, 2),
                nn.Conv2d(w[0], w[1], 5, 1, 2),
                nn.Conv2d(w[1], w[2], 5, 2, 2),
                nn.Conv2d(w[2], w[3], 5, 1, 2),
            ]
        )
        self.up1, self.conv1 = (
            nn.ConvTranspose2d(w[3], w[4], 4, 2, 1),
            nn.Conv2d(w[4], w[5], 3, 1, 1),
        )
        self.up2, self.conv2 = (
            nn.ConvTranspose2d(w[5], w[6], 4, 2, 1),
            nn.Conv2d(w[6], w[7], 3, 1, 1),
        )
        self.last = nn.Conv2d(w[7], 3, 1)

    def forward(self, z):
        a = F.relu(self.c[1](F.relu(self.c[0](z))))
        b = F.relu(self.c[3](F.relu(self.c[2](a))))
        h, w = a.shape[2:]  # the downsampling rounded up: cut what the deconvolution has too much
        b = F.relu(self.conv1(F.relu(self.up1(b))[..., :h, :w]))
        h, w = z.shape[2:]
        b = F.relu(self.conv2(F.relu(self.up2(b))[..., :h, :w]))
        return torch.sigmoid(self.last(b))


def take_weights(plain, ours):
    """The plain network's parameters, in the order in which both define them."""
    mine = dict(ours.named_parameters())
    assert len(mine) == len(list(plain.parameters()))
    for p, (_, q) in zip(plain.parameters(), mine.items()):
        p.data = q.data.view_as(p).clone()


def plain_loop(network, z, target, steps, smoothing):
    """f_θ(z) fitted to the target for `steps` of Adam; the last output and the moving average."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    average = None
    for _ in range(steps):
        output = network(z)
        loss = F.mse_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        output = output.detach()
        average = output if average is None else smoothing * average + (1 - smoothing) * output
    return output, average


def plain_dip(image, name, steps):
    z = torch.empty(1, 32, *image.shape[1:])
    ours = UNet(1, 32, 32)
    ours.initialize([derive_seed(3, name, "dip")], z)
    plain = PlainUNet(32, (2, 4, 8, 16, 32, 32))
    take_weights(plain, ours)
    return plain_loop(plain.double(), z.double(), image[None], steps, 0.9)[1]


def plain_tandem(image, name, first, steps):
    z = torch.empty(1, 32, *image.shape[1:])
    ours = FirstPrior(1, 0.125)
    ours.initialize([derive_seed(3, name, "dip1")], z)
    plain = PlainFirst([8, 8, 16, 16, 16, 8, 8, 4])
    take_weights(plain, ours)
    main, _ = plain_loop(plain.double(), z.double(), image[None], first, 0.9)
    ours = UNet(1, 3, 32)
    ours.initialize([derive_seed(3, name, "dip2")])
    plain = PlainUNet(3, (2, 4, 8, 16, 32, 32))
    take_weights(plain, ours)
    return plain_loop(plain.double(), main, image[None], steps, 0.9)[1]


def test_dip_equals_the_plain_loop():
    images = photos(2)
    ours = DIP(iterations=50, **SMALL)(images, ["a", "b"])
    for i, name in enumerate("ab"):
        assert (ours[i] - plain_dip(images[i], name, 50)[0]).abs().max() < 1e-6


def test_tandem_equals_the_plain_loop():
    images = photos(2)
    defense = TandemDIP(first_iterations=(20,), iterations=50, first_width=0.125, **SMALL)
    ours = defense(images, ["a", "b"])
    for i, name in enumerate("ab"):
        assert (ours[i] - plain_tandem(images[i], name, 20, 50)[0]).abs().max() < 1e-6


@pytest.mark.parametrize("kind", [DIP, TandemDIP])
def test_an_image_depends_on_nothing_but_itself(kind):
    """Alone, in another order, with other neighbors, in other batches: equal to 1e-6."""
    extra = {"first_iterations": (10,), "first_width": 0.125} if kind is TandemDIP else {}
    images, names = photos(5), list("abcde")
    whole = kind(iterations=50, batch=5, **SMALL, **extra)(images, names)
    alone = kind(iterations=50, batch=1, **SMALL, **extra)(images[2:3], ["c"])
    order = [4, 2, 0]
    mixed = kind(iterations=50, batch=2, **SMALL, **extra)(images[order], [names[i] for i in order])
    assert (whole[2] - alone[0]).abs().max() < 1e-6
    assert (whole[order] - mixed).abs().max() < 1e-6


def test_id_and_seed_matter():
    images = photos(1)
    first = DIP(iterations=5, **SMALL)(images, ["a"])
    assert torch.equal(first, DIP(iterations=5, **SMALL)(images, ["a"]))
    assert not torch.allclose(first, DIP(iterations=5, **SMALL)(images, ["b"]))
    assert not torch.allclose(first, DIP(iterations=5, **SMALL | {"seed": 4})(images, ["a"]))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    TandemDIP(first_iterations=(1,), iterations=1, first_width=0.125, **SMALL)(photos(1))
    assert torch.equal(torch.rand(3), expected)


def test_readouts_are_points_of_one_run():
    images, names = photos(3), list("abc")
    defense = TandemDIP(first_iterations=(6, 3), iterations=8, first_width=0.125, batch=2, **SMALL)
    found = {}
    for positions, restored in defense.trace(images, names, [4, 8]):
        key = restored.first_iterations, restored.iteration
        found.setdefault(key, torch.full_like(images, torch.nan))[positions] = restored.images
    assert set(found) == {(3, 4), (3, 8), (6, 4), (6, 8)}
    for (first, steps), traced in found.items():
        alone = TandemDIP(first_iterations=(first,), iterations=steps, first_width=0.125, **SMALL)
        assert (alone(images, names) - traced).abs().max() < 1e-9
    assert (defense(images, names) - found[6, 8]).abs().max() < 1e-9  # the first of the two


def test_progress_counts_every_step():
    defense = TandemDIP(first_iterations=(2, 3), iterations=4, first_width=0.125, batch=2, **SMALL)
    done = []
    defense.progress = done.append
    defense(photos(3))
    assert sum(done) == defense.steps(3, 4) == 3 * (3 + 2 * 4)


@pytest.mark.parametrize("size", [(299, 299), (64, 64), (65, 79), (128, 65)])
def test_second_network_keeps_the_size(size):
    z = torch.zeros(1, 3, *size)
    assert UNet(1, 3, 32)(z).shape == (1, 3, *size)
    assert FirstPrior(1, 0.125)(torch.zeros(1, 32, *size)).shape == (1, 3, *size)


def test_default_widths_are_those_of_the_specification():
    """16, 32, 64, 128, 256, 256 and about 6.5 million parameters."""
    network = UNet(1, 32)
    assert [b.first.weight.shape[0] for b in [network.start, *network.down]] == [
        16, 32, 64, 128, 256, 256,
    ]  # fmt: skip
    assert 6.3e6 < sum(p.numel() for p in network.parameters()) < 6.7e6
    assert sum(1 for m in FirstPrior(1).modules() if hasattr(m, "weight")) == 9


@pytest.mark.parametrize("shape", [(2, 3, 20, 50), (1, 1, 40, 40), (0, 3, 40, 40)])
def test_any_size_and_grey(shape):
    images = torch.rand(shape)
    defense = DIP(iterations=2, feature_scale=32)
    restored = defense(images)
    assert restored.shape == shape and restored.dtype == torch.float32
    assert ((restored >= 0) & (restored <= 1)).all()


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (torch.rand(3, 40, 40), r"expected floating-point images .*\(3, 40, 40\)"),
        (torch.rand(1, 4, 40, 40), r"\(1, 4, 40, 40\)"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 40, 40), 255.0), r"in \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 40, 40), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_restored_is_refused(images, why):
    with pytest.raises(ValueError, match=why):
        DIP(iterations=1)(images)


def test_works_before_a_classifier_under_no_grad():
    net = nn.Sequential(
        TandemDIP(first_iterations=(2,), iterations=2, feature_scale=32, first_width=0.125),
        nn.Flatten(),
        nn.Linear(3 * 65 * 72, 2),
    )
    with torch.no_grad():
        assert net(photos(2).float()).shape == (2, 2)


def test_more_iterations_fit_better():
    images = photos(2)
    short, long = (DIP(iterations=n, **SMALL)(images) for n in (5, 80))
    assert (long - images).square().mean() < 0.8 * (short - images).square().mean()


def test_float32_stays_near_float64():
    images = photos(2)
    double = DIP(iterations=10, **SMALL)(images)
    single = DIP(iterations=10, **SMALL | {"dtype": "float32"})(images)
    assert (double - single).abs().max() < 1e-3
