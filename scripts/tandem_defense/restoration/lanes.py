"""The engine on GPUs: the priors of many images run as one network, step by step in lock-step.

A lane is one image's own network: own weights, own input, own gradients, own Adam. The lanes share
every kernel launch: activations are (1, lanes · channels, H, W) and convolutions are grouped, one
group per lane. Nothing crosses lanes: normalization, pooling and activation work per channel. On
CUDA a whole step (forward, backward, Adam, average) is one CUDA graph, launched at once. A lane
whose image is done takes the next one.

It also runs on the CPU, for bfloat16 and where no compiler is (native.py is several times faster).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.device import cpus, is_out_of_memory
from tandem_defense.restoration import coarse
from tandem_defense.restoration.capacity import balanced, most_lanes
from tandem_defense.restoration.record import Record, State
from tandem_defense.restoration.reference import (
    Architecture,
    FitSettings,
    ReadOut,
    Task,
    draw,
    shapes,
)

log = logging.getLogger(__name__)

SLICE = 10  # steps between two looks at whether to save, or whether an image has stopped
AHEAD = 8  # images whose random numbers are drawn before a lane is free


class Priors(nn.Module):
    """As many priors as there are lanes, (lanes, inputs, H, W) to images (lanes, 3, H, W)."""

    def __init__(self, architecture: Architecture, lanes: int):
        super().__init__()
        self.architecture, self.lanes = architecture, lanes
        self.weights = nn.ParameterList(
            torch.empty(lanes * shape[0], *shape[1:], device="cpu")
            for shape in shapes(architecture)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All lanes at once."""
        weights = iter(self.weights)
        x = x.reshape(1, -1, *x.shape[2:])
        network = self.dip1 if self.architecture.kind == "dip1" else self.dip2
        x = network(x, lambda: Layer(next(weights), next(weights), self.lanes))
        return torch.sigmoid(x.view(self.lanes, 3, *x.shape[2:]).to(self.weights[0].dtype))

    def conv(self, x: Tensor, layer: Callable[[], "Layer"], stride: int = 1) -> Tensor:
        """A convolution with its normalization and ReLU."""
        x = layer().conv(x, stride)
        # Per lane and channel: batch norm would mix images.
        if self.architecture.norm == "affine":
            x = layer().normalize(x)
        elif self.architecture.norm == "instance":
            x = F.instance_norm(x)
        return F.relu(x)

    def dip1(self, z: Tensor, layer: Callable[[], "Layer"]) -> Tensor:
        """DIP₁; layers come in the order of the reference's parameters."""
        sizes, x = [], z
        for stride in (2, 1, 2, 1):
            if stride == 2:
                sizes.append(x)
            x = self.conv(x, layer, stride)
        while sizes:
            x = F.relu(layer().deconv(x, sizes.pop()))
            x = self.conv(x, layer)
        return layer().conv(x)

    def dip2(self, x: Tensor, layer: Callable[[], "Layer"]) -> Tensor:
        """DIP₂; layers come in the order of the reference's parameters."""
        depth = len(self.architecture.widths)
        levels = []
        for i in range(depth):
            x = F.max_pool2d(x, 2) if i else x
            for _ in range(2):
                x = self.conv(x, layer)
            levels.append(x)
        ups = [layer() for _ in range(depth - 1)]
        x = levels.pop()
        for up in ups:
            shortcut = levels.pop()
            x = side_by_side(shortcut, up.deconv(x, shortcut), self.lanes)
            x = F.relu(layer().conv(x))
            x = F.relu(layer().conv(x))
        return layer().conv(x)


def lane_of(tensors: Iterable[Tensor], lanes: int, lane: int) -> Tensor:
    """A lane's numbers in all these parameters or their like, flat as the reference's, a copy."""
    return torch.cat([x.data.view(lanes, -1)[lane] for x in tensors])


def set_lane(tensors: Iterable[Tensor], lanes: int, lane: int, values: Tensor) -> None:
    """The reverse of :func:`lane_of`."""
    start = 0
    for x in tensors:
        part = x.data.view(lanes, -1)[lane]
        part.copy_(values[start : start + part.numel()])
        start += part.numel()


def side_by_side(x: Tensor, y: Tensor, lanes: int) -> Tensor:
    """Concatenate the channels of two, lane by lane."""
    parts = [part.view(lanes, -1, *part.shape[2:]) for part in (x, y)]
    return torch.cat(parts, 1).view(1, -1, *x.shape[2:])


class Layer:
    """One grouped layer."""

    def __init__(self, weight: Tensor, bias: Tensor, lanes: int):
        self.weight, self.bias, self.lanes = weight, bias, lanes

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        """(1, lanes · channels, H, W) to (1, lanes · out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x, self.weight, self.bias, stride, padding, groups=self.lanes)

    def normalize(self, x: Tensor) -> Tensor:
        """Instance normalization; this layer's weights and biases are scales and shifts."""
        return F.instance_norm(x, weight=self.weight, bias=self.bias)

    def deconv(self, x: Tensor, like: Tensor) -> Tensor:
        """To the size of `like`; see reference.to_size."""
        size = like.shape[2:]
        extra = [max(0, n - 2 * m) for n, m in zip(size, x.shape[2:], strict=True)]
        y = F.conv_transpose2d(
            x, self.weight, self.bias, 2, 1, output_padding=extra, groups=self.lanes
        )
        return y[..., : size[0], : size[1]]


class Adam:
    """PyTorch's fused Adam on every lane by itself, each with its own number of steps.

    torch.optim's first step imports its compiler, which takes longer than a short run's fits.
    """

    def __init__(self, network: Priors, learning_rate: float):
        self.network, self.learning_rate = network, learning_rate
        self.mean = [torch.zeros_like(p) for p in network.weights]
        self.square = [torch.zeros_like(p) for p in network.weights]
        device = network.weights[0].device
        self.steps = torch.zeros(network.lanes, dtype=torch.float32, device=device)

    def reset(self, lane: int) -> None:
        """Forget a lane's past."""
        self.steps[lane] = 0
        for state in (*self.mean, *self.square):
            state.view(self.network.lanes, -1)[lane] = 0

    @torch.no_grad()
    def step(self) -> None:
        """θ ← θ − lr · m̂ / (√v̂ + 1e-8), and forget the gradients."""
        lanes = self.network.lanes
        self.steps += 1
        split = [
            [row for x in tensors for row in x.view(lanes, -1).unbind()]
            for tensors in (
                list(self.network.weights),
                [p.grad for p in self.network.weights],
                self.mean,
                self.square,
            )
        ]
        steps = list(self.steps.unbind()) * len(self.mean)
        torch._fused_adam_(
            *split,
            [],
            steps,
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        for parameter in self.network.weights:
            parameter.grad = None


class Fit:
    """The fits of so many images, all of which advance with every step.

    like : (3, H, W), whose size and device the images have
    output, average : (lanes, 3, H, W)
    loss : (lanes,)
    """

    def __init__(self, architecture: Architecture, lanes: int, like: Tensor, settings: FitSettings):
        size, device, dtype = like.shape[1:], like.device, settings.dtype
        self.smoothing, self.bf16 = settings.smoothing, settings.precision == "bf16"
        self.network = Priors(architecture, lanes).to(device, dtype)
        for weight in self.network.weights:
            weight.data.zero_()
        self.optimizer = Adam(self.network, settings.learning_rate)
        self.input = torch.zeros(lanes, architecture.inputs, *size, device=device, dtype=dtype)
        self.target = torch.zeros(lanes, 3, *size, device=device, dtype=dtype)
        self.weight = torch.ones(lanes, 1, *size, device=device, dtype=dtype)
        self.output, self.average = torch.zeros_like(self.target), torch.zeros_like(self.target)
        self.loss = torch.zeros(lanes, device=device, dtype=dtype)
        self.graph = self._capture() if device.type == "cuda" else None

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The whole step as one graph; the lanes' weights are still zero, and are set later."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side = torch.cuda.Stream(self.target.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels and workspaces
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        # The graph takes memory of its own; a capture that fails for want of it would leave
        # PyTorch's allocator unusable.
        needed = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        if needed > torch.cuda.mem_get_info()[0]:
            raise torch.OutOfMemoryError(f"the graph of a step needs {needed} bytes")
        graph = torch.cuda.CUDAGraph()
        # PyTorch's own stream for captures is on the device of the process's first one.
        with torch.cuda.graph(graph, stream=side):
            self._step()
        return graph

    def start(
        self,
        lane: int,
        parameters: Tensor,
        z: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
    ) -> None:
        """Begin with another image in a lane.

        weight : (1, H, W), what a pixel's squared error counts; None: 1
        """
        set_lane(self.network.weights, self.network.lanes, lane, parameters)
        self.optimizer.reset(lane)
        self.input[lane], self.target[lane] = z, target
        self.weight[lane] = 1 if weight is None else weight

    def save(self, lane: int) -> State:
        """A lane's state, on the CPU."""
        lanes = self.network.lanes
        state = {name: lane_of(x, lanes, lane) for name, x in self._parts().items()}
        state |= {"average": self.average[lane], "iteration": self.optimizer.steps[lane].long()}
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def resume(self, lane: int, state: State) -> None:
        """Go on, after :meth:`start`, from a state."""
        for name, x in self._parts().items():
            set_lane(x, self.network.lanes, lane, state[name])
        self.average[lane].copy_(state["average"])
        self.optimizer.steps[lane] = int(state["iteration"])

    def _parts(self) -> dict[str, Iterable[Tensor]]:
        """What a state holds of every parameter."""
        adam = self.optimizer
        return {"parameters": self.network.weights, "mean": adam.mean, "square": adam.square}

    def step(self) -> None:
        """One step of all lanes."""
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _step(self) -> None:
        device = self.target.device.type
        half = torch.autocast(device, torch.bfloat16, enabled=self.bf16, cache_enabled=False)
        with half:
            output = self.network(self.input)
        loss = (self.weight * (output - self.target).square()).mean((1, 2, 3))
        # The sum over images gives every lane the gradients that it would have alone.
        loss.sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            self.output.copy_(output)
            self.loss.copy_(loss)
            # The first average is the image itself, also where an earlier image left NaN.
            first = (self.optimizer.steps == 1)[:, None, None, None]
            later = self.average.lerp(self.output, 1 - self.smoothing)
            self.average.copy_(torch.where(first, self.output, later))


class Lanes:
    """Lanes that are kept filled until nothing is waiting and all are done.

    working : per lane, the task that it works on; None: nothing
    done : per lane, its task's steps so far
    stopped : per lane, whether early stopping has ended its task
    waiting : tasks that are to be done; what of the record's is waiting if it is not given
    coarse : whether this is the part at half the resolution, which ends after the coarse steps
    """

    def __init__(
        self,
        fit: Fit,
        tasks: Sequence[Task],
        settings: FitSettings,
        record: Record,
        progress: Callable[[int], None] | None,
        pool: ThreadPoolExecutor,
        waiting: deque[int] | None = None,
        coarse: bool = False,
    ):
        self.fit, self.tasks, self.readouts = fit, tasks, settings.readouts
        self.size, self.stop = tasks[0].target.shape[1:], settings.stop
        self.waiting = record.waiting if waiting is None else waiting
        self.coarse = coarse
        self.last = settings.readouts[-1]  # step
        if coarse:
            self.last = min(self.last, settings.coarse)
        self.record, self.progress, self.pool = record, progress, pool
        lanes = fit.network.lanes
        self.drawn: dict[int, Future] = {}
        self.working: list[int | None] = [None] * lanes
        self.done, self.stopped = [0] * lanes, [False] * lanes
        self.monitor = None
        if settings.stop:
            self.monitor = settings.stop.monitor(fit.target.shape, fit.target.device)

    def run(self) -> Iterator[ReadOut]:
        """All read-outs, as they come."""
        while active := self._fill():
            self._advance(active)
            yield from self._read_outs(active)
            self._release(active)
            if self.record.due():
                self.record.save(self._states)

    def _fill(self) -> list[int]:
        """Give waiting tasks to free lanes; returns the lanes that have work."""
        waiting = self.waiting
        free = [lane for lane, task in enumerate(self.working) if task is None][: len(waiting)]
        self._draw(len(free))
        for lane in free:
            position = waiting.popleft()
            self._start(lane, position, *self.drawn.pop(position).result())
        self._draw(AHEAD)
        return [lane for lane, task in enumerate(self.working) if task is not None]

    def _draw(self, count: int) -> None:
        """Draw the random numbers of the tasks that wait first, beside the device's work."""
        architecture = self.fit.network.architecture
        for position in islice(self.waiting, count):
            if position not in self.drawn:
                self.drawn[position] = self.pool.submit(draw, architecture, self.tasks[position])

    def _start(self, lane: int, position: int, parameters: Tensor, z: Tensor) -> None:
        """Begin with a task in a lane, or go on where an earlier run was."""
        self.working[lane], self.done[lane] = position, 0
        target, weight = self.tasks[position].target, None
        if self.stop:
            weight = self.stop.weight(target, self.tasks[position].seed)
            self.monitor.begin(lane, target, weight)
        pair = [coarse.halve(x) for x in (z, target)] if self.coarse else [z, target]
        self.fit.start(lane, parameters, *pair, *([] if weight is None else [weight]))
        if state := self.record.begin(position):
            self.fit.resume(lane, state)
            self.done[lane] = int(state["iteration"])
            if self.monitor:
                self.monitor.resume(lane, state)

    def _advance(self, active: list[int]) -> None:
        """Take a few steps, not beyond any lane's next read-out."""
        ends = (*self.readouts, self.last)
        ahead = (n - self.done[lane] for lane in active for n in ends)
        steps = min(SLICE, *(n for n in ahead if n > 0))
        for _ in range(steps):
            self.fit.step()
            if self.monitor:  # an image that stops keeps its result through the steps that follow
                self.monitor.update(self.fit.output, self.fit.average)
            if self.progress:
                self.progress(len(active))
        for lane in active:
            self.done[lane] += steps
        if self.monitor:
            self.stopped = self.monitor.stopped.tolist()

    def _read_outs(self, active: list[int]) -> Iterator[ReadOut]:
        """The read-outs that lanes have come to; one that has stopped has come to all of them."""
        for number, wanted in enumerate(self.readouts):
            ready = [
                lane
                for lane in active
                if (self.done[lane] == wanted or self.stopped[lane] and self.done[lane] <= wanted)
                and self.record.reported[self.working[lane]] == number
            ]
            if ready:
                yield self._read(ready, wanted)
                for lane in ready:
                    self.record.report(self.working[lane], wanted)

    def _read(self, lanes: list[int], iteration: int) -> ReadOut:
        """The images of these lanes as they are now, a copy."""
        fit = self.fit
        output, average, loss = fit.output[lanes], fit.average[lanes], fit.loss[lanes]
        taken = torch.zeros(len(lanes), dtype=torch.long, device="cpu")
        for i, lane in enumerate(lanes):
            if self.stopped[lane]:
                output[i] = average[i] = self.monitor.best[lane].to(average)
                loss[i] = F.mse_loss(output[i], fit.target[lane])
                taken[i] = self.monitor.best_iteration[lane]
        positions = tuple(self.working[lane] for lane in lanes)
        output, average = (coarse.enlarge(x, self.size) for x in (output, average))
        return ReadOut(positions, iteration, output, average, loss, taken)

    def _release(self, active: list[int]) -> None:
        """Free the lanes whose tasks are done, or go on at the whole resolution."""
        for lane in active:
            if self.stopped[lane] or self.done[lane] == self.last:
                if self.last < self.readouts[-1]:
                    state = coarse.refined(self.fit.save(lane), self.size)
                    self.record.hand(self.working[lane], state)
                self.working[lane] = None

    def _states(self) -> dict[int, State]:
        """The tasks in work."""
        return {
            position: self.fit.save(lane) | (self.monitor.save(lane) if self.monitor else {})
            for lane, position in enumerate(self.working)
            if position is not None
        }


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    settings: FitSettings,
    *,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
    kind: type[Fit] = Fit,
) -> Iterator[ReadOut]:
    """Fit `batch` images at a time (None: as many as the memory holds); see engine.fit.

    kind : how the step is done
    """
    like = tasks[0].target

    def build(lanes: int, like: Tensor = like) -> Fit:
        return kind(architecture, lanes, like, settings)

    def run(lanes: int) -> Iterator[ReadOut]:
        rest = (tasks, settings, record, progress, pool)
        if not settings.coarse:
            yield from Lanes(build(lanes), *rest).run()
            return
        # One batch: the states between the two resolutions wait in memory.
        batch = [record.waiting.popleft() for _ in range(lanes)]
        early = deque(i for i in batch if record.steps(i) < settings.coarse)
        if early:  # nothing keeps this network: its memory is for the one of the whole size
            half = coarse.halve(like)
            yield from Lanes(build(len(early), half), *rest, early, coarse=True).run()
        if late := deque(i for i in batch if record.steps(i)):
            yield from Lanes(build(len(late)), *rest, late).run()

    images = settings.stop.images if settings.stop else 0
    most = min(batch or most_lanes(build, like, images), len(tasks))
    record = Record(architecture.kind, len(tasks), settings.readouts, progress)
    # Random numbers come from the CPU.
    with ThreadPoolExecutor(min(AHEAD, cpus())) as pool:
        while record.waiting:
            if like.device.type == "cuda":
                torch.cuda.empty_cache()  # here no exception holds the memory of what failed
            lanes = balanced(len(record.waiting), most)
            try:
                yield from run(lanes)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if lanes == 1:
                    raise torch.OutOfMemoryError(str(error)) from error
                most = lanes // 2
                log.warning("out of memory: going on with %d images at a time", most)
                record.wait()
