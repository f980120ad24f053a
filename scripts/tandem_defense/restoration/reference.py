"""What a restoration is, one image at a time, in plain PyTorch: the engine is held against this.

Both networks as the paper draws them, the weights that they start from, and the loop that fits
them. The faster forms (native.py, lanes.py) must give the same images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.restoration.stopping import EarlyStopping, Monitor

Z_CHANNELS = 32  # as in the deep-image-prior repository's denoising (docs/choices.md)


@dataclass(frozen=True)
class Architecture:
    """A prior: ``first`` is DIP₁, ``unet`` DIP₂; see :func:`first` and :func:`unet`."""

    kind: Literal["first", "unet"]
    inputs: int
    widths: tuple[int, ...]
    norm: bool = False


def first(width: float = 1.0) -> Architecture:
    """DIP₁ (paper Fig. 4), fed with z; `width` multiplies its widths."""
    widths = (64, 64, 128, 128, 128, 64, 64, 32)
    return Architecture("first", Z_CHANNELS, tuple(max(1, round(width * n)) for n in widths))


def unet(inputs: int = Z_CHANNELS, feature_scale: int = 4, norm: str = "instance") -> Architecture:
    """DIP₂ (paper Fig. 5), also DIP alone; widths 64 … 1024 are divided by `feature_scale`."""
    widths = (64, 128, 256, 512, 1024, 1024)
    widths = tuple(max(1, n // feature_scale) for n in widths)
    return Architecture("unet", inputs, widths, norm == "instance")


@dataclass(frozen=True)
class Task:
    """One image to fit.

    target : (3, H, W) in [0, 1]
    seed : of the initial weights, and of z
    input : (inputs, H, W), fixed; None: z ~ U(0, 1)
    """

    target: Tensor
    seed: int
    input: Tensor | None = None


@dataclass(frozen=True)
class ReadOut:
    """What some of the tasks look like after `iteration` steps.

    positions : which tasks, B numbers
    output : (B, 3, H, W) in [0, 1], the networks' latest images
    average : the same, the exponential moving average of all images so far
    loss : (B,) mean squared error of `output`
    stopped : (B,) the iteration at which early stopping took the images; 0 where it did not
    """

    positions: tuple[int, ...]
    iteration: int
    output: Tensor
    average: Tensor
    loss: Tensor
    stopped: Tensor


class FirstPrior(nn.Module):
    """DIP₁: nine weight layers, no shortcuts (docs/choices.md)."""

    def __init__(self, inputs: int, w: Sequence[int]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, w[0], 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(w[0], w[1], 5, padding=2)
        self.conv3 = nn.Conv2d(w[1], w[2], 5, stride=2, padding=2)
        self.conv4 = nn.Conv2d(w[2], w[3], 5, padding=2)
        self.up5, self.conv6 = deconv(w[3], w[4]), nn.Conv2d(w[4], w[5], 3, padding=1)
        self.up7, self.conv8 = deconv(w[5], w[6]), nn.Conv2d(w[6], w[7], 3, padding=1)
        self.last = nn.Conv2d(w[7], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """z (1, inputs, H, W) to an image (1, 3, H, W) in [0, 1]."""
        half = F.relu(self.conv2(F.relu(self.conv1(z))))
        x = F.relu(self.conv4(F.relu(self.conv3(half))))
        x = F.relu(self.conv6(F.relu(to_size(self.up5, x, half))))
        x = F.relu(self.conv8(F.relu(to_size(self.up7, x, z))))
        return torch.sigmoid(self.last(x))


class UNet(nn.Module):
    """DIP₂: start, five unetDown, five unetUp (docs/choices.md).

    Sizes need not be even: the deconvolutions restore what the poolings rounded down, so
    299 × 299 stays 299 × 299.
    """

    def __init__(self, inputs: int, w: Sequence[int], norm: bool):
        super().__init__()
        self.start = double_conv(inputs, w[0], norm)
        self.down = nn.ModuleList(double_conv(n, m, norm) for n, m in zip(w, w[1:], strict=False))
        pairs = list(zip(w[1:], w, strict=False))[::-1]
        self.up = nn.ModuleList(deconv(n, m) for n, m in pairs)
        self.merge = nn.ModuleList(double_conv(2 * m, m, False) for _, m in pairs)
        self.last = nn.Conv2d(w[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(1, inputs, H, W) with H, W ≥ 64 to an image (1, 3, H, W) in [0, 1]."""
        levels = [self.start(x)]
        for down in self.down:
            levels.append(down(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            shortcut = levels.pop()
            x = merge(torch.cat([shortcut, to_size(up, x, shortcut)], 1))
        return torch.sigmoid(self.last(x))


def double_conv(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    """Two 3 × 3 convolutions, each with instance normalization (or none) and ReLU."""
    layers = []
    for n in (inputs, outputs):
        layers += [nn.Conv2d(n, outputs, 3, padding=1)]
        layers += [nn.InstanceNorm2d(outputs)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers)


def deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """4 × 4 with stride 2."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def to_size(up: nn.ConvTranspose2d, x: Tensor, like: Tensor) -> Tensor:
    """Deconvolve x (n pixels) to the size of `like`: 2n − 1, 2n or 2n + 1 pixels."""
    size = like.shape[2:]
    extra = [max(0, n - 2 * m) for n, m in zip(size, x.shape[2:], strict=True)]
    y = F.conv_transpose2d(x, up.weight, up.bias, 2, 1, output_padding=extra)
    return y[..., : size[0], : size[1]]


def build(architecture: Architecture) -> nn.Module:
    """The plain network, with whatever weights."""
    if architecture.kind == "first":
        return FirstPrior(architecture.inputs, architecture.widths)
    return UNet(architecture.inputs, architecture.widths, architecture.norm)


def shapes(architecture: Architecture) -> list[torch.Size]:
    """Shapes of the parameters: of every layer its weights and its biases."""
    with torch.device("meta"):
        return [p.shape for p in build(architecture).parameters()]


def draw(architecture: Architecture, task: Task) -> tuple[Tensor, Tensor]:
    """Initial parameters, flat, as PyTorch draws them (uniform ±1/√fan_in), and the input.

    Everything is drawn on the CPU in float32, so that every device and precision starts alike.
    """
    generator = torch.Generator().manual_seed(task.seed)
    parts = []
    for i, shape in enumerate(sizes := shapes(architecture)):
        fan_in = sizes[i - i % 2][1:].numel()  # a bias has its weights'
        parts.append((2 * torch.rand(shape.numel(), generator=generator) - 1) * fan_in**-0.5)
    if task.input is not None:
        return torch.cat(parts), task.input
    z = torch.rand(architecture.inputs, *task.target.shape[1:], generator=generator)
    return torch.cat(parts), z


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    *,
    readouts: Sequence[int],
    learning_rate: float,
    smoothing: float,
    stop: EarlyStopping | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit one network after the other (paper eq. 2 and 3); see :func:`engine.fit`."""
    for position, task in enumerate(tasks):
        parameters, z = draw(architecture, task)
        network = build(architecture)
        nn.utils.vector_to_parameters(parameters, network.parameters())
        network.to(task.target.device, dtype)
        z, target = (x[None].to(task.target.device, dtype) for x in (z, task.target))
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        monitor = Monitor(stop, target.shape, target.device) if stop else None
        average, done = None, 0
        for wanted in readouts:
            while done < wanted and not (monitor and monitor.stopped[0]):
                output = network(z)
                loss = F.mse_loss(output, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                output, loss = output.detach(), loss.detach()
                average = output if average is None else average.lerp(output, 1 - smoothing)
                done += 1
                if monitor:
                    monitor.update(output, average)
                if progress:
                    progress(1)
            taken = torch.zeros(1, dtype=torch.long)
            if monitor and monitor.stopped[0]:
                average, taken = monitor.best, monitor.best_iteration.cpu()
            yield ReadOut((position,), wanted, output, average, loss[None], taken)
