"""The layers of triton_lanes.py, forward and backward; they launch kernels.py's kernels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from tandem_defense.restoration import kernels, pointwise


@dataclass
class Features:
    """What a layer has made, and how the next one takes it.

    stored : (lanes, H, W, C), contiguous
    norm : (lanes, 4, C), a normalization (kernels.py) that the next layer applies, or None
    relu : whether the next layer applies ReLU, after the normalization
    gradient : of what the next layer takes, as `stored`, once the backward pass has come here
    fixed : whether nobody needs a gradient, as of a network's input
    """

    stored: Tensor
    norm: Tensor | None = None
    relu: bool = False
    gradient: Tensor | None = None
    fixed: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.stored.shape[1], self.stored.shape[2]


@dataclass(frozen=True)
class Convolution:
    """A convolution or deconvolution of every lane with its own weights.

    weights, biases : (lanes, kernel · kernel · inputs · outputs) and (lanes, outputs), rows of the
        same larger matrix
    weight_gradients, bias_gradients : their places for gradients
    precision : of products of float32 numbers: ``ieee`` or ``tf32``
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    transposed: bool
    weights: Tensor
    biases: Tensor
    weight_gradients: Tensor
    bias_gradients: Tensor
    precision: str

    def __call__(
        self,
        x: Features,
        size: tuple[int, int],
        beside: Features | None = None,
        statistics: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output (lanes, *size, outputs) from x and, next to its channels, those of `beside`.

        `beside` is taken as it is stored. With `statistics` (not of a deconvolution) also the
        means and squared differences of its tiles, from which :class:`Normalization` starts.
        """
        y = x.stored.new_empty(len(x.stored), *size, self.outputs)
        tiles = None
        if statistics:
            count = cdiv(size[0] * size[1], kernels.PIXELS)
            tiles = y.new_empty(len(y), count, 2, self.outputs)
        self._launch(
            y, tiles, x, beside, self.weights, self.biases, self.outputs, 1, self.transposed
        )
        return y, tiles

    def input_gradient(
        self, gradient: Tensor, size: tuple[int, int], channels: int, first: int = 0
    ) -> Tensor:
        """The gradient (lanes, *size, channels) of some input channels from the output's."""
        x = gradient.new_empty(len(gradient), *size, channels)
        weights = self.weights[:, first * self.outputs :]
        g = Features(gradient)
        self._launch(x, None, g, None, weights, None, 1, self.outputs, not self.transposed)
        return x

    def _launch(
        self,
        y: Tensor,
        tiles: Tensor | None,
        x: Features,
        beside: Features | None,
        weights: Tensor,
        biases: Tensor | None,
        channel_stride: int,
        out_stride: int,
        transposed: bool,
    ) -> None:
        (height, width), n = y.shape[1:3], y.shape[3]
        step = self.stride if transposed else 1
        pixels = cdiv(height, step) * cdiv(width, step)  # of the largest phase
        columns = columns_of(n)
        a, b = channels_of(x), channels_of(beside)
        kernels.convolve[cdiv(pixels, kernels.PIXELS), len(y), cdiv(n, columns) * step * step](
            y,
            tiles,
            x.stored,
            x.norm,
            beside and beside.stored,
            weights,
            biases,
            weights.stride(0),
            height,
            width,
            *x.size,
            A=a,
            B=b,
            N=n,
            TAP_STRIDE=self.inputs * self.outputs,
            C_STRIDE=channel_stride,
            N_STRIDE=out_stride,
            KERNEL=self.kernel,
            STRIDE=self.stride,
            PADDING=self.padding,
            TRANSPOSED=transposed,
            RELU=x.relu,
            PRECISION=self.precision,
            PIXELS=kernels.PIXELS,
            DEPTH=rows_of(cdiv(self.kernel, step) ** 2 * (a + b), kernels.DEPTH),
            WIDTH=columns,
        )

    def weight_gradient(self, gradient: Tensor, x: Features, beside: Features | None) -> None:
        """Set the weights' gradients from the output's."""
        g = Features(gradient)
        gathered, q = (g, x) if self.transposed else (x, g)
        a, b, n = channels_of(gathered), channels_of(beside), q.stored.shape[3]
        height, width = q.size
        count, columns = cdiv(height * width, kernels.SPAN), columns_of(n)
        terms = self.kernel**2 * (a + b)
        rows = rows_of(terms, kernels.ROWS)
        parts = gradient.new_empty(len(gradient), count, self.weights.shape[1])
        kernels.weight_gradient[count, len(gradient), cdiv(n, columns) * cdiv(terms, rows)](
            parts,
            gathered.stored,
            gathered.norm,
            beside and beside.stored,
            q.stored,
            q.norm,
            height,
            width,
            *gathered.size,
            A=a,
            B=b,
            N=n,
            C_STRIDE=1 if self.transposed else self.outputs,
            N_STRIDE=self.outputs if self.transposed else 1,
            KERNEL=self.kernel,
            STRIDE=self.stride,
            PADDING=self.padding,
            A_RELU=gathered.relu,
            Q_RELU=q.relu,
            PRECISION=self.precision,
            SPAN=kernels.SPAN,
            ROWS=rows,
            SUMMED=kernels.SUMMED,
            WIDTH=columns,
        )
        add_up(self.weight_gradients, parts)


@dataclass(frozen=True)
class Normalization:
    """An instance normalization of every lane; scales and shifts are None where it has none.

    scales, shifts : (lanes, C), rows of the same larger matrix
    gradients : (lanes, 2 · C), the place for the gradients of both
    """

    scales: Tensor | None = None
    shifts: Tensor | None = None
    gradients: Tensor | None = None

    def __call__(self, tiles: Tensor, pixels: int) -> Tensor:
        """The normalization (lanes, 4, C) of features of so many pixels, from their tiles."""
        n, count, _, channels = tiles.shape
        norm, columns = tiles.new_empty(n, 4, channels), channel_block(channels)
        kernels.normalization[cdiv(channels, columns), n](
            norm,
            tiles,
            self.scales,
            self.shifts,
            0 if self.scales is None else self.scales.stride(0),
            pixels,
            count,
            C=channels,
            TILE=kernels.PIXELS,
            TILES=kernels.VALUES // columns,
            CHANNELS=columns,
        )
        return norm

    def sums(self, x: Features) -> Tensor:
        """The gradients of scales and shifts, (lanes, 2 · C), from x's."""
        n, height, width, channels = x.stored.shape
        grid, blocks = elementwise(height * width, n, channels)
        parts = x.stored.new_empty(n, grid[0], 2 * channels)
        kernels.normalization_sums[grid](
            parts, x.gradient, x.stored, x.norm, height * width, C=channels, **blocks
        )
        totals = self.gradients
        if totals is None:
            totals = x.stored.new_empty(n, 2 * channels)
        add_up(totals, parts)
        return totals


def back(x: Features, normalization: Normalization | None, bias_gradients: Tensor) -> Tensor:
    """The gradient of what is stored of x, from x.gradient, in whose place it is written.

    Sets the gradients of the normalization and of the biases that were added last.
    """
    n, height, width, channels = x.stored.shape
    totals = normalization.sums(x) if normalization else None
    grid, blocks = elementwise(height * width, n, channels)
    parts = x.stored.new_empty(n, grid[0], channels)
    kernels.back[grid](
        x.gradient,
        parts,
        x.stored,
        x.norm,
        totals,
        0 if totals is None else totals.stride(0),
        height * width,
        C=channels,
        RELU=x.relu,
        **blocks,
    )
    add_up(bias_gradients, parts)
    gradient, x.gradient = x.gradient, None
    return gradient


def add_up(out: Tensor, parts: Tensor) -> None:
    """out (lanes, size) = the sum of parts (lanes, count, …), in order."""
    size, count = out.shape[1], parts.shape[1]
    columns = kernels.VALUES // kernels.PARTS
    kernels.add_up[cdiv(size, columns), len(out)](
        out, parts, out.stride(0), count, size, PARTS=kernels.PARTS, COLUMNS=columns
    )


def max_pool(x: Features) -> Features:
    """2 × 2 of what x's next layer takes."""
    n, height, width, channels = x.stored.shape
    pooled = x.stored.new_empty(n, height // 2, width // 2, channels)
    grid, blocks = elementwise((height // 2) * (width // 2), n, channels)
    pointwise.max_pool[grid](
        pooled, x.stored, x.norm, height, width, C=channels, RELU=x.relu, **blocks
    )
    return Features(pooled)


def max_pool_back(pooled: Features, x: Features) -> None:
    """Add to x's gradient what comes through the pooling."""
    n, height, width, channels = x.stored.shape
    if x.gradient is None:
        x.gradient = torch.zeros_like(x.stored)
    grid, blocks = elementwise((height // 2) * (width // 2), n, channels)
    pointwise.max_pool_back[grid](
        x.gradient,
        pooled.gradient,
        x.stored,
        x.norm,
        height,
        width,
        C=channels,
        RELU=x.relu,
        **blocks,
    )
    pooled.gradient = None


def channels_of(x: Features | None) -> int:
    """C, 0 of nothing."""
    return 0 if x is None else x.stored.shape[3]


def columns_of(channels: int) -> int:
    """How many output channels a matrix product's program takes."""
    return min(kernels.WIDTH, max(16, next_power_of_2(channels)))


def rows_of(terms: int, most: int) -> int:
    """How many taps times channels it takes at once."""
    return min(most, max(16, next_power_of_2(terms)))


def channel_block(channels: int) -> int:
    """How many channels any other program takes."""
    return min(kernels.WIDTH, next_power_of_2(channels))


def elementwise(pixels: int, n: int, channels: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The grid and the blocks of a kernel over all pixels and channels of n lanes."""
    columns = channel_block(channels)
    rows = kernels.VALUES // columns
    return (cdiv(pixels, rows), n, cdiv(channels, columns)), {"PIXELS": rows, "CHANNELS": columns}
