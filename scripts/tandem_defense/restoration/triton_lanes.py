"""The engine ``triton``: the lanes of lanes.py with layers of their own (triton_layers.py).

Forward pass, backward pass and Adam of a step are written out here, layer by layer, without
autograd. A lane's result depends neither on its neighbors nor on their number, to the last bit. On
a CPU Triton's interpreter runs the same kernels, which is slow and for tests only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from triton import cdiv

from tandem_defense.restoration import kernels, lanes, pointwise, reference
from tandem_defense.restoration.record import State
from tandem_defense.restoration.reference import Architecture, FitSettings, ReadOut, Task
from tandem_defense.restoration.triton_layers import (
    Convolution,
    Features,
    Normalization,
    add_up,
    back,
    channels_of,
    max_pool,
    max_pool_back,
)

BETA1, BETA2 = 0.9, 0.999  # Adam's
ALIGNED = 16  # layers' parameters begin at multiples of this, so that loads can be wide


class Priors:
    """As many priors as there are lanes.

    parameters, gradients : (lanes, size), every lane's in one row, layer after layer
    positions : where in such a row the reference's parameters are
    """

    def __init__(
        self,
        architecture: Architecture,
        count: int,
        device: torch.device,
        dtype: torch.dtype,
        precision: str = "ieee",
    ):
        self.architecture, self.lanes = architecture, count
        modules, starts, positions, size = layout(architecture)
        self.positions = positions.to(device)
        self.parameters = torch.zeros(count, size, device=device, dtype=dtype)
        self.gradients = torch.zeros_like(self.parameters)
        self.layers = [
            self._layer(module, start, precision)
            for module, start in zip(modules, starts, strict=True)
        ]
        self._backward: list[Callable[[], None]] = []  # of every layer, in the order of the forward

    def _layer(self, module: nn.Module, start: int, precision: str) -> Convolution | Normalization:
        """The layer of all lanes that does what this one of the reference does."""
        middle = start + module.weight.numel()
        end = middle + module.bias.numel()
        places = [
            x[:, i:j]
            for x in (self.parameters, self.gradients)
            for i, j in ((start, middle), (middle, end))
        ]
        if isinstance(module, nn.InstanceNorm2d):
            return Normalization(*places[:2], self.gradients[:, start:end])
        return Convolution(
            module.in_channels,
            module.out_channels,
            module.kernel_size[0],
            module.stride[0],
            module.padding[0],
            isinstance(module, nn.ConvTranspose2d),
            *places,
            precision,
        )

    def forward(self, z: Tensor) -> Features:
        """z (lanes, H, W, inputs) to what a sigmoid makes images of, (lanes, H, W, 3)."""
        network = self._dip1 if self.architecture.kind == "dip1" else self._dip2
        return network(Features(z, fixed=True), iter(self.layers))

    def backward(self) -> None:
        """Set all gradients, from that of the latest forward pass's result."""
        while self._backward:
            self._backward.pop()()

    def _dip1(self, x: Features, layers: Iterator) -> Features:
        """DIP₁; layers come in the order of the reference's parameters."""
        sizes = []
        for stride in (2, 1, 2, 1):
            if stride == 2:
                sizes.append(x.size)
            x = self._conv(x, layers, self.architecture.norm)
        while sizes:
            x = self._apply(next(layers), x, sizes.pop(), relu=True)
            x = self._conv(x, layers, self.architecture.norm)
        return self._apply(next(layers), x, x.size)

    def _dip2(self, x: Features, layers: Iterator) -> Features:
        """DIP₂; layers come in the order of the reference's parameters."""
        depth, levels = len(self.architecture.widths), []
        for i in range(depth):
            x = self._pool(x) if i else x
            for _ in range(2):
                x = self._conv(x, layers, self.architecture.norm)
            levels.append(x)
        ups = [next(layers) for _ in range(depth - 1)]
        x = levels.pop()
        for up in ups:
            shortcut = levels.pop()
            x = self._apply(up, x, shortcut.size)
            x = self._conv(shortcut, layers, "none", beside=x)
            x = self._conv(x, layers, "none")
        return self._apply(next(layers), x, x.size)

    def _conv(
        self, x: Features, layers: Iterator, norm: reference.Norm, beside: Features | None = None
    ) -> Features:
        """A convolution with its normalization and ReLU."""
        layer = next(layers)
        size = (cdiv(x.size[0], layer.stride), cdiv(x.size[1], layer.stride))
        normalization = None
        if norm != "none":
            normalization = next(layers) if norm == "affine" else Normalization()
        return self._apply(layer, x, size, beside, normalization, relu=True)

    def _apply(
        self,
        layer: Convolution,
        x: Features,
        size: tuple[int, int],
        beside: Features | None = None,
        normalization: Normalization | None = None,
        relu: bool = False,
    ) -> Features:
        """Any layer with weights, now, and its gradients in the backward pass."""
        y, tiles = layer(x, size, beside, statistics=normalization is not None)
        norm = normalization(tiles, size[0] * size[1]) if normalization else None
        made = Features(y, norm, relu)

        def backward() -> None:
            gradient = back(made, normalization, layer.bias_gradients)
            layer.weight_gradient(gradient, x, beside)
            first = 0
            for source in (x, beside):
                if source and not source.fixed:
                    channels = channels_of(source)
                    source.gradient = layer.input_gradient(gradient, source.size, channels, first)
                first += channels_of(source)

        self._backward.append(backward)
        return made

    def _pool(self, x: Features) -> Features:
        pooled = max_pool(x)
        self._backward.append(partial(max_pool_back, pooled, x))
        return pooled


def layout(architecture: Architecture) -> tuple[list[nn.Module], list[int], Tensor, int]:
    """The reference's layers, where in a row each begins, positions, and the row's length.

    The positions are those of the reference's parameters in a row: here a layer's weights are in
    the order (tap, input, output), behind them its biases.
    """
    with torch.device("meta"):
        network = reference.build(architecture)
    modules = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]
    starts, positions, size = [], [], 0
    for module in modules:
        starts.append(size)
        place = torch.arange(size, size + module.weight.numel())
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            place = place.view(*module.kernel_size, module.in_channels, module.out_channels)
            order = (2, 3, 0, 1) if isinstance(module, nn.ConvTranspose2d) else (3, 2, 0, 1)
            place = place.permute(order)
        end = size + module.weight.numel() + module.bias.numel()
        positions += [place.flatten(), torch.arange(end - module.bias.numel(), end)]
        size = cdiv(end, ALIGNED) * ALIGNED
    return modules, starts, torch.cat(positions), size


class Fit(lanes.Fit):
    """The fits of so many images, all of which advance with every step; see lanes.Fit.

    Raises ValueError for bf16, and for images with 2³¹ or more features in a layer.
    """

    def __init__(self, architecture: Architecture, count: int, like: Tensor, settings: FitSettings):
        size, device, dtype = like.shape[1:], like.device, settings.dtype
        if settings.precision == "bf16":
            raise ValueError("the engine triton has no bf16: use engine fast, or tf32")
        if size.numel() * max(architecture.inputs, *architecture.widths) >= 2**31:
            raise ValueError(f"{tuple(size)} pixels are too many for the engine triton")
        self.settings = settings
        precision = "tf32" if settings.precision == "tf32" else "ieee"
        self.network = Priors(architecture, count, device, dtype, precision)
        self.mean = torch.zeros_like(self.network.parameters)
        self.square = torch.zeros_like(self.network.parameters)
        self.steps = torch.zeros(count, dtype=torch.int32, device=device)
        self.input = torch.zeros(count, *size, architecture.inputs, device=device, dtype=dtype)
        self.target = torch.zeros(count, 3, *size, device=device, dtype=dtype)
        self.output, self.average = torch.zeros_like(self.target), torch.zeros_like(self.target)
        self.loss = torch.zeros(count, device=device, dtype=dtype)
        self.graph = self._capture() if device.type == "cuda" else None

    def start(self, lane: int, parameters: Tensor, z: Tensor, target: Tensor) -> None:
        """Begin with another image in a lane."""
        self._set(self.network.parameters, lane, parameters)
        for state in (self.mean, self.square, self.steps):
            state[lane] = 0
        self.input[lane], self.target[lane] = z.permute(1, 2, 0), target

    def save(self, lane: int) -> State:
        """A lane's state, on the CPU, as any engine's."""
        positions = self.network.positions
        state = {name: x[lane][positions] for name, x in self._rows().items()}
        state |= {"average": self.average[lane], "iteration": self.steps[lane].long()}
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def resume(self, lane: int, state: State) -> None:
        """Go on, after :meth:`start`, from a state."""
        for name, x in self._rows().items():
            self._set(x, lane, state[name])
        self.average[lane].copy_(state["average"])
        self.steps[lane] = int(state["iteration"])

    def _rows(self) -> dict[str, Tensor]:
        """What a state holds of every parameter."""
        rows = {"parameters": self.network.parameters, "mean": self.mean, "square": self.square}
        return rows

    def _set(self, rows: Tensor, lane: int, values: Tensor) -> None:
        """A lane's row, from the reference's order."""
        rows[lane].index_copy_(0, self.network.positions, values.to(rows))

    @torch.no_grad()
    def _step(self) -> None:
        self.steps += 1
        logits = self.network.forward(self.input)
        self._compare(logits)
        self.network.backward()
        self._adam()

    def _compare(self, logits: Features) -> None:
        """Output, average and loss, and the logits' gradient."""
        count, pixels = self.network.lanes, self.target[0, 0].numel()
        blocks = cdiv(3 * pixels, kernels.VALUES)
        parts = logits.stored.new_empty(count, blocks, 1)
        logits.gradient = torch.empty_like(logits.stored)
        pointwise.compare[blocks, count](
            self.output,
            self.average,
            logits.gradient,
            parts,
            logits.stored,
            self.target,
            self.steps,
            pixels,
            SMOOTHING=self.settings.smoothing,
            VALUES=kernels.VALUES,
        )
        add_up(self.loss[:, None], parts)

    def _adam(self) -> None:
        """One launch for all parameters of all lanes."""
        count, size = self.network.parameters.shape
        pointwise.adam[cdiv(size, kernels.VALUES), count](
            self.network.parameters,
            self.network.gradients,
            self.mean,
            self.square,
            self.steps,
            size,
            RATE=self.settings.learning_rate,
            LOG_BETA1=math.log(BETA1),
            LOG_BETA2=math.log(BETA2),
            BETA1=BETA1,
            BETA2=BETA2,
            VALUES=kernels.VALUES,
        )


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    settings: FitSettings,
    *,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit `batch` images at a time (None: as many as the memory holds); see engine.fit.

    Raises ValueError for images that are not on a CUDA GPU, except in Triton's interpreter.
    """
    device = tasks[0].target.device.type
    if device != "cuda" and not kernels.INTERPRETED:
        raise ValueError(
            f"the engine triton needs a CUDA GPU, found {device}: use engine fast"
            " (for tests, TRITON_INTERPRET=1 runs its kernels on a CPU)"
        )
    return lanes.fit(architecture, tasks, settings, batch=batch, progress=progress, kind=Fit)
