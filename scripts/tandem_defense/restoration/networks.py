"""The two priors of t-DIPs, each as many independent copies ("lanes") that run as one network.

A lane is one image's own network: own weights, own input, own gradients. The lanes share every
kernel launch: activations are (1, lanes · channels, H, W) and convolutions are grouped, one
group per lane. Nothing crosses lanes: normalization, pooling and activation work per channel.
With one lane this is the plain network of the paper.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Z_CHANNELS = 32  # as in the deep-image-prior repository's denoising (docs/choices.md)
# On maps of at most this many pixels, a grouped convolution on the CPU spends most of its time
# on reordering its weights; one matrix product per lane takes them as they are.
MATMUL_PIXELS = 64


def small(x: Tensor) -> bool:
    """Whether a layer runs as a matrix product: deep layers, on the CPU."""
    return x.is_cpu and x.shape[-1] * x.shape[-2] <= MATMUL_PIXELS


class Conv(nn.Module):
    """k × k convolution with zero padding; stride 2 halves the size, rounding up."""

    def __init__(self, lanes: int, channels: int, out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.lanes, self.stride, self.padding = lanes, stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(lanes * out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(lanes * out))
        self.fan_in = channels * kernel**2

    def forward(self, x: Tensor) -> Tensor:
        """(1, lanes · channels, H, W) to (1, lanes · out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        if small(x):
            return self.as_matmul(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.lanes)

    def as_matmul(self, x: Tensor) -> Tensor:
        """The same, as one matrix product per lane."""
        x = x.reshape(self.lanes, -1, *x.shape[2:])
        size = [-(-n // self.stride) for n in x.shape[2:]]
        kernel = self.weight.shape[-1]
        columns = x.flatten(2) if kernel == 1 else F.unfold(x, kernel, 1, self.padding, self.stride)
        weight = self.weight.view(self.lanes, -1, columns.shape[1])
        return torch.baddbmm(self.bias.view(self.lanes, -1, 1), weight, columns).view(1, -1, *size)


class Deconv(nn.Module):
    """4 × 4 deconvolution with stride 2, to exactly the asked size (2n − 1, 2n or 2n + 1)."""

    def __init__(self, lanes: int, channels: int, out: int):
        super().__init__()
        self.lanes = lanes
        self.weight = nn.Parameter(torch.empty(lanes * channels, out, 4, 4))
        self.bias = nn.Parameter(torch.empty(lanes * out))
        self.fan_in = out * 4**2

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """(1, lanes · channels, h, w) to (1, lanes · out, *size)."""
        # One more row or column where the downsampling rounded down, one less where it rounded up.
        extra = [max(0, n - 2 * m) for n, m in zip(size, x.shape[2:], strict=True)]
        y = self.as_matmul(x, extra) if small(x) else self.as_convolution(x, extra)
        return y[..., : size[0], : size[1]]

    def as_convolution(self, x: Tensor, extra: list[int]) -> Tensor:
        """To 2n + extra pixels."""
        return F.conv_transpose2d(
            x, self.weight, self.bias, 2, 1, output_padding=extra, groups=self.lanes
        )

    def as_matmul(self, x: Tensor, extra: list[int]) -> Tensor:
        """The same, as one matrix product per lane whose columns are then summed in place."""
        size = [2 * n + e for n, e in zip(x.shape[2:], extra, strict=True)]
        weight = self.weight.view(self.lanes, -1, self.weight[0].numel())
        columns = weight.transpose(1, 2) @ x.reshape(self.lanes, weight.shape[1], -1)
        y = F.fold(columns, size, 4, 1, 1, 2)
        return (y + self.bias.view(self.lanes, -1, 1, 1)).view(1, -1, *size)


class ConvBlock(nn.Module):
    """Two 3 × 3 convolutions, each with normalization (or none) and ReLU."""

    def __init__(self, lanes: int, channels: int, out: int, norm: str):
        super().__init__()
        self.first, self.second = Conv(lanes, channels, out), Conv(lanes, out, out)
        # Per lane and channel. Batch norm would mix the images.
        self.norm = F.instance_norm if norm == "instance" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(1, lanes · channels, H, W) to (1, lanes · out, H, W)."""
        x = F.relu(self.norm(self.first(x)))
        return F.relu(self.norm(self.second(x)))


class Prior(nn.Module):
    """`lanes` independent networks from (lanes, channels, H, W) to images (lanes, 3, H, W)."""

    lanes: int

    def initialize(self, seeds: Sequence[int], z: Tensor | None = None) -> None:
        """Draw lane i's weights from `seeds[i]` (PyTorch's uniform ±1/√fan_in), then its z.

        `z` (lanes, channels, H, W), if given, is filled with U(0, 1) from the same generators.
        Numbers are drawn on the CPU in float32, so that every device and precision starts alike.
        """
        with torch.no_grad():
            for lane, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(seed)
                for module in self.modules():
                    if isinstance(module, Conv | Deconv):
                        for parameter in (module.weight, module.bias):
                            part = parameter.view(self.lanes, -1)[lane]
                            draw = torch.rand(part.shape, generator=generator)
                            part.copy_((2 * draw - 1) * module.fan_in**-0.5)
                if z is not None:
                    z[lane] = torch.rand(z.shape[1:], generator=generator)

    def fold(self, x: Tensor) -> Tensor:
        """(lanes, C, H, W) to (1, lanes · C, H, W)."""
        return x.reshape(1, -1, *x.shape[2:])

    def unfold(self, x: Tensor) -> Tensor:
        """(1, lanes · C, H, W) to (lanes, C, H, W)."""
        return x.reshape(self.lanes, -1, *x.shape[2:])


class FirstPrior(Prior):
    """DIP₁ (paper Fig. 4): nine weight layers, no shortcuts (docs/choices.md)."""

    WIDTHS = (64, 64, 128, 128, 128, 64, 64, 32)

    def __init__(self, lanes: int, width: float = 1.0, channels: int = 3):
        super().__init__()
        self.lanes = lanes
        w = [max(1, round(width * n)) for n in self.WIDTHS]
        self.down = nn.ModuleList(
            [
                Conv(lanes, Z_CHANNELS, w[0], 5, stride=2),
                Conv(lanes, w[0], w[1], 5),
                Conv(lanes, w[1], w[2], 5, stride=2),
                Conv(lanes, w[2], w[3], 5),
            ]
        )
        self.up1, self.conv1 = Deconv(lanes, w[3], w[4]), Conv(lanes, w[4], w[5])
        self.up2, self.conv2 = Deconv(lanes, w[5], w[6]), Conv(lanes, w[6], w[7])
        self.last = Conv(lanes, w[7], channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """z (lanes, 32, H, W) to images (lanes, 3, H, W) in [0, 1]."""
        x, sizes = self.fold(z), []
        for conv in self.down:
            if conv.stride == 2:
                sizes.append(x.shape[2:])
            x = F.relu(conv(x))
        x = F.relu(self.conv1(F.relu(self.up1(x, sizes.pop()))))
        x = F.relu(self.conv2(F.relu(self.up2(x, sizes.pop()))))
        return self.unfold(torch.sigmoid(self.last(x)))


class UNet(Prior):
    """DIP₂ (paper Fig. 5), also DIP alone: start, five unetDown, five unetUp (docs/choices.md).

    Widths are 64, 128, 256, 512, 1024, 1024 over `feature_scale`. Sizes need not be even: the
    deconvolutions restore what the poolings rounded down, so 299 × 299 stays 299 × 299.
    """

    def __init__(
        self,
        lanes: int,
        inputs: int = Z_CHANNELS,
        feature_scale: int = 4,
        norm: str = "instance",
        channels: int = 3,
    ):
        super().__init__()
        self.lanes = lanes
        w = [max(1, n // feature_scale) for n in (64, 128, 256, 512, 1024, 1024)]
        self.start = ConvBlock(lanes, inputs, w[0], norm)
        self.down = nn.ModuleList(
            ConvBlock(lanes, n, m, norm) for n, m in zip(w, w[1:], strict=False)
        )
        pairs = list(zip(w[1:], w, strict=False))[::-1]
        self.up = nn.ModuleList(Deconv(lanes, n, m) for n, m in pairs)
        self.merge = nn.ModuleList(ConvBlock(lanes, 2 * m, m, "none") for _, m in pairs)
        self.last = Conv(lanes, w[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(lanes, inputs, H, W) with H, W ≥ 64 to images (lanes, 3, H, W) in [0, 1]."""
        x = self.start(self.fold(x))
        shortcuts = []
        for block in self.down:
            shortcuts.append(x)
            x = block(F.max_pool2d(x, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            shortcut = shortcuts.pop()
            x = up(x, shortcut.shape[2:])
            x = merge(self.fold(torch.cat([self.unfold(shortcut), self.unfold(x)], 1)))
        return self.unfold(torch.sigmoid(self.last(x)))
