"""What a restoration is, one image at a time, in plain PyTorch: the engines are compared with this.

Both networks as the paper draws them, the weights that they start from, and the loop that fits
them. The faster forms (native.py, lanes.py) must give the same images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.device import DRAWN
from tandem_defense.restoration import coarse
from tandem_defense.restoration.stopping import EarlyStopping, HeldOut
from tandem_defense.settings import Counts, Positive, Size, Smoothing, check

Z_CHANNELS = 32  # as in the deep-image-prior repository's denoising (docs/choices.md)

Norm = Literal["none", "instance", "affine"]
InitialWeights = Literal["torch", "he"]
Precision = Literal["float32", "tf32", "bf16", "float64"]


@dataclass(frozen=True)
class Architecture:
    """A prior and the distribution that its weights start from; see :func:`dip1`, :func:`dip2`.

    norm : after the convolutions (not the deconvolutions): none, ``instance`` normalization, or
        ``affine``, the same with a scale and a shift per channel that are learned, as batch
        normalization of a single image has them
    initial_weights : ``torch``: uniform ±1/√fan_in, biases too; ``he``: uniform ±√(6/fan_in),
        biases 0
    """

    kind: Literal["dip1", "dip2"]
    inputs: int
    widths: tuple[int, ...]
    norm: Norm
    initial_weights: InitialWeights = "torch"


def dip1(
    width: float = 1.0, norm: Norm = "affine", initial_weights: InitialWeights = "torch"
) -> Architecture:
    """DIP₁ (paper Fig. 4), fed with z; `width` multiplies its widths."""
    widths = tuple(max(1, round(width * n)) for n in (64, 64, 128, 128, 128, 64, 64, 32))
    return Architecture("dip1", Z_CHANNELS, widths, norm, initial_weights)


def dip2(
    inputs: int,
    feature_scale: int,
    norm: Norm = "instance",
    initial_weights: InitialWeights = "torch",
) -> Architecture:
    """DIP₂ (paper Fig. 5), also DIP alone; widths 64 … 1024 are divided by `feature_scale`."""
    widths = tuple(max(1, n // feature_scale) for n in (64, 128, 256, 512, 1024, 1024))
    return Architecture("dip2", inputs, widths, norm, initial_weights)


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


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How networks are fitted, alike by all engines.

    readouts : numbers of steps after which to yield, ≥ 1, ascending; the last is the total
    learning_rate : Adam's, > 0
    smoothing : weight of the past in the moving average, in [0, 1); it starts at the first output
    stop : early stopping; an image that stops repeats its result at all later read-outs
    coarse : so many first steps are at half the resolution (coarse.py); read-outs among them are
        enlarged
    precision : ``float32`` (IEEE's on every device), ``tf32`` (CUDA only),
        ``bf16`` (layers in bfloat16; weights, Adam and averages in float32), ``float64``

    Raises ValueError that names what is allowed.
    """

    readouts: Counts
    learning_rate: Positive
    smoothing: Smoothing
    stop: EarlyStopping | HeldOut | None = None
    coarse: Size = 0
    precision: Precision = "float32"

    def __post_init__(self):
        object.__setattr__(self, "readouts", tuple(self.readouts))
        check("FitSettings", get_type_hints(FitSettings, include_extras=True), vars(self))
        if list(self.readouts) != sorted(set(self.readouts)):
            raise ValueError(
                f"FitSettings: readouts: found {self.readouts}, allowed are ascending numbers"
            )
        if self.coarse and self.stop:
            raise ValueError(
                f"FitSettings: coarse: found {self.coarse} beside early stopping, which compares"
                " outputs of one size: choose one of the two"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, averages and results."""
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True)
class ReadOut:
    """What some of the tasks look like after `iteration` steps.

    positions : which tasks, B numbers
    output : (B, 3, H, W) in [0, 1], the networks' latest images; of those that stopped, the average
    average : the same, the exponential moving average of all images so far
    loss : (B,) mean squared error of `output`: of a fit, on the pixels that are fitted, at the
        resolution of the step; of those that stopped, on all
    stopped : (B,) the iteration at which early stopping took the images; 0 where it did not
    """

    positions: tuple[int, ...]
    iteration: int
    output: Tensor
    average: Tensor
    loss: Tensor
    stopped: Tensor


class DIP1(nn.Module):
    """Nine weight layers, no shortcuts (docs/choices.md)."""

    def __init__(self, inputs: int, w: Sequence[int], norm: Norm):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, w[0], norm, 5, 2), conv(w[0], w[1], norm, 5)
        self.conv3, self.conv4 = conv(w[1], w[2], norm, 5, 2), conv(w[2], w[3], norm, 5)
        self.up5, self.conv6 = deconv(w[3], w[4]), conv(w[4], w[5], norm)
        self.up7, self.conv8 = deconv(w[5], w[6]), conv(w[6], w[7], norm)
        self.last = nn.Conv2d(w[7], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """z (1, inputs, H, W) to an image (1, 3, H, W) in [0, 1]."""
        half = self.conv2(self.conv1(z))
        x = self.conv4(self.conv3(half))
        x = self.conv6(F.relu(to_size(self.up5, x, half)))
        x = self.conv8(F.relu(to_size(self.up7, x, z)))
        return torch.sigmoid(self.last(x))


class DIP2(nn.Module):
    """A U-Net: start, five unetDown, five unetUp (docs/choices.md).

    Sizes need not be even: the deconvolutions restore what the poolings rounded down, so
    299 × 299 stays 299 × 299.
    """

    def __init__(self, inputs: int, w: Sequence[int], norm: Norm):
        super().__init__()
        self.start = double_conv(inputs, w[0], norm)
        self.down = nn.ModuleList(double_conv(n, m, norm) for n, m in zip(w, w[1:], strict=False))
        pairs = list(zip(w[1:], w, strict=False))[::-1]
        self.up = nn.ModuleList(deconv(n, m) for n, m in pairs)
        self.merge = nn.ModuleList(double_conv(2 * m, m, "none") for _, m in pairs)
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


def conv(inputs: int, outputs: int, norm: Norm, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution (H pixels to ⌈H / stride⌉) with its normalization and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)]
    if norm != "none":  # per channel of one image
        layers.append(nn.InstanceNorm2d(outputs, affine=norm == "affine"))
    return nn.Sequential(*layers, nn.ReLU())


def double_conv(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Two 3 × 3 convolutions."""
    return nn.Sequential(conv(inputs, outputs, norm), conv(outputs, outputs, norm))


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
    kind = {"dip1": DIP1, "dip2": DIP2}[architecture.kind]
    return kind(architecture.inputs, architecture.widths, architecture.norm)


@cache
def shapes(architecture: Architecture) -> tuple[torch.Size, ...]:
    """Shapes of the parameters: of every layer its weights and its biases.

    An affine normalization is a layer of its own, with a scale and a shift per channel.
    """
    with torch.device("meta"):
        return tuple(p.shape for p in build(architecture).parameters())


def draw(architecture: Architecture, task: Task) -> tuple[Tensor, Tensor]:
    """Initial parameters, flat, and the input.

    Everything is drawn on the CPU in float32, so that every device and precision starts alike,
    whatever PyTorch's defaults are.
    """
    generator = torch.Generator().manual_seed(task.seed)
    he, parts, sizes = architecture.initial_weights == "he", [], shapes(architecture)
    for weights, biases in zip(sizes[::2], sizes[1::2], strict=True):
        if len(weights) == 1:  # a normalization's scale and shift
            parts += [torch.ones(weights, **DRAWN), torch.zeros(biases, **DRAWN)]
            continue
        fan_in = weights[1:].numel()
        for shape, bound in ((weights, (6 if he else 1) ** 0.5), (biases, 0 if he else 1)):
            uniform = 2 * torch.rand(shape.numel(), generator=generator, **DRAWN) - 1
            parts.append(uniform * fan_in**-0.5 * bound)
    if task.input is not None:
        return torch.cat(parts), task.input
    size = (architecture.inputs, *task.target.shape[1:])
    z = torch.rand(size, generator=generator, **DRAWN)
    return torch.cat(parts), z


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    settings: FitSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit one network after the other (paper eq. 2 and 3); see :func:`engine.fit`.

    Raises ValueError for bf16, which it does not have.
    """
    if settings.precision == "bf16":
        raise ValueError("the reference has no bf16: use engine fast, or float32")
    for position, task in enumerate(tasks):
        parameters, z = draw(architecture, task)
        with torch.device("cpu"):
            network = build(architecture)
        nn.utils.vector_to_parameters(parameters, network.parameters())
        network.to(task.target.device, settings.dtype)
        target = task.target.to(settings.dtype)
        whole = [x[None].to(target) for x in (z, task.target)]
        half = [coarse.halve(x)[None].to(target) for x in (z, task.target)]
        weight = settings.stop.weight(task.target, task.seed) if settings.stop else None
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        monitor = None
        if settings.stop:
            monitor = settings.stop.monitor(whole[1].shape, target.device)
            monitor.begin(0, target, weight)
        weight = 1 if weight is None else weight.to(target)
        average, done = None, 0
        for wanted in settings.readouts:
            while done < wanted and not (monitor and monitor.stopped[0]):
                fed, expected = half if done < settings.coarse else whole
                output = network(fed)
                loss = (weight * (output - expected).square()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                output, loss = output.detach(), loss.detach()
                average = (
                    output if average is None else average.lerp(output, 1 - settings.smoothing)
                )
                done += 1
                if done == settings.coarse:
                    average = coarse.enlarge(average, target.shape[1:])
                if monitor:
                    monitor.update(output, average)
                if progress:
                    progress(1)
            taken = torch.zeros(1, dtype=torch.long, device="cpu")
            if monitor and monitor.stopped[0]:
                output = average = monitor.best.to(target)
                loss, taken = F.mse_loss(output, whole[1]), monitor.best_iteration.cpu()
            shown = [coarse.enlarge(x, target.shape[1:]) for x in (output, average)]
            yield ReadOut((position,), wanted, *shown, loss[None], taken)
