"""What has to be true of the engines on a GPU before their speed means anything, and that speed.

A check takes a :class:`Bench` and yields rows, one by one: `engine` (``fast``: lanes.py, or
``triton``), `network`, `precision`, `lanes`, what was measured (`quantity`), its `value`, and the
`limit` that the value may not exceed, None where there is none. performance/gpu.py runs them. All
but the speed run on a CPU, too, where there are no graphs.
"""

import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from restoration import ROOT, SETTINGS, Peak, flops, limits, relative, tasks, timed, traffic
from torch import Tensor

from tandem_defense.attacks.iterative import BIM
from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.datasets.nips2017 import NIPS2017
from tandem_defense.defenses.dip import TandemDIP
from tandem_defense.device import free_memory, is_out_of_memory, tf32
from tandem_defense.pipeline import checkpoint
from tandem_defense.pipeline.entries import to_tensor
from tandem_defense.restoration import capacity, engine, lanes, reference
from tandem_defense.restoration.reference import (
    Architecture,
    FitSettings,
    Task,
    dip1,
    dip2,
    draw,
    shapes,
)
from tandem_defense.restoration.stopping import EarlyStopping

SMALL = 64  # pixels; float64 is slow
BETA1 = 0.9  # Adam's
MARGIN = 3  # how much less exact than plain layers an engine may be
INPUTS = ROOT / "reproduction/inputs"

Row = dict[str, object]
Case = tuple[str, str, str]  # engine, network, precision


def engines() -> dict[str, type[lanes.Fit]]:
    """The engines of a GPU, by name; the second one where Triton is installed."""
    found = {"fast": lanes.Fit}
    if torch.cuda.is_available():
        try:
            found["triton"] = engine.triton_lanes().Fit
        except ImportError:
            pass
    return found


@dataclass(frozen=True)
class Bench:
    """What is checked.

    size : of the images, in pixels
    most : lanes, where many are needed
    """

    device: torch.device
    size: int = 299
    most: int = capacity.MOST
    networks: dict[str, Architecture] = field(
        default_factory=lambda: {"dip2/8": dip2(3, 8), "dip2/4": dip2(3, 4), "dip1": dip1()}
    )
    kinds: dict[str, type[lanes.Fit]] = field(default_factory=engines)

    def cases(self, *precisions: str, network: str | None = None) -> Iterator[Case]:
        """(engine, network, precision), of those that engine and device have; of one network."""
        networks = [network] if network else self.networks
        for kind, network, precision in itertools.product(self.kinds, networks, precisions):
            if (kind, precision) == ("triton", "bf16"):
                continue
            if precision == "tf32" and self.device.type != "cuda":
                continue
            yield kind, network, precision

    def work(self, network: str, count: int, size: int | None = None) -> list[Task]:
        """So many photographs to fit."""
        work = tasks(size or self.size, count, self.device)
        if self.networks[network].kind == "dip1":
            work = [Task(task.target, task.seed) for task in work]
        return work

    def start(
        self, kind: str, network: str, precision: str, work: list[Task], graph: bool = True
    ) -> lanes.Fit:
        """A fit of all tasks before its first step; `graph`: whether it may replay one."""
        architecture, options = self.networks[network], settings(precision)
        fit = self.kinds[kind](architecture, len(work), work[0].target, options)
        if not graph:
            fit.graph = None
        for lane, task in enumerate(work):
            fit.start(lane, *draw(architecture, task), task.target)
        return fit

    def run(
        self, kind: str, network: str, work: list[Task], options: FitSettings, **more
    ) -> dict[tuple[int, int], Tensor]:
        """{(task, step): average} of the engine as users have it; `into`: where to put them."""
        made, fit = more.pop("into", {}), more.pop("fit", self.kinds[kind])
        for read in lanes.fit(self.networks[network], work, options, kind=fit, **more):
            for position, image in zip(read.positions, read.average, strict=True):
                made[position, read.iteration] = image.cpu()
        return made

    def many(self, kind: str, network: str, precision: str) -> int:
        """As many lanes as the memory holds, at most `most`."""
        like, architecture = self.work(network, 1)[0].target, self.networks[network]
        if self.device.type != "cuda":
            return self.most
        build = lambda n: self.kinds[kind](architecture, n, like, settings(precision))  # noqa: E731
        return min(self.most, lanes.most_lanes(build, like, 0))


def settings(precision: str, readouts: tuple[int, ...] = (1,), **more) -> FitSettings:
    """Those of the papers, unless `more` has others."""
    return FitSettings(readouts=readouts, precision=precision, **SETTINGS | more)


@contextmanager
def computing(precision: str, search: bool = True) -> Iterator[None]:
    """As the engine computes; `search`: whether cuDNN tries several of its algorithms."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, search
    try:
        with tf32(precision == "tf32"):
            yield
    finally:
        cudnn.benchmark = before


def row(case: Case, quantity: str, value: float, limit=None, **more) -> Row:
    """A row; `case` is (engine, network, precision)."""
    named = dict(zip(("engine", "network", "precision"), case, strict=True))
    return named | {"quantity": quantity, "value": float(value), "limit": limit} | more


def steps(fit: lanes.Fit, count: int) -> Tensor:
    """The outputs (lanes, 3, H, W) after so many further steps, on the CPU."""
    for _ in range(count):
        fit.step()
    return fit.output.cpu().clone()


def apart(one: dict, other: dict) -> float:
    """The largest ‖difference‖ / ‖image‖; infinite where read-outs are missing, NaN with NaN."""
    if one.keys() != other.keys():
        return math.inf
    return worst(relative(one[key][None], other[key][None]) for key in one)


def worst(errors: Iterable[float]) -> float:
    """The largest, NaN where there is one."""
    return float(torch.tensor(list(errors)).max())


def plain_gradients(
    architecture: Architecture, task: Task, precision: str, device: torch.device
) -> list[Tensor]:
    """Of a task's first step, by autograd through the plain network, in float64 on the CPU."""
    parameters, z = draw(architecture, task)
    network = reference.build(architecture)
    torch.nn.utils.vector_to_parameters(parameters, network.parameters())
    exact = torch.float64 if precision == "float64" else torch.float32
    network.to(device, exact)
    with computing(precision):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(z[None].to(device, exact))
        (output - task.target.to(device, exact)).square().mean().backward()
    return [p.grad.double().cpu().flatten() for p in network.parameters()]


def gradient_errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """‖difference‖ / ‖gradient‖ of every parameter.

    Left out are the biases before a normalization: their true gradient is 0.
    """
    least = 1e-9 * max(float(g.norm()) for g in expected)
    pairs = zip(found, expected, strict=True)
    return torch.stack([(f - g).norm() / g.norm() for f, g in pairs if g.norm() > least])


def largest(lanes: Iterable[Tensor]) -> float:
    """The largest error of all lanes' parameters, NaN where there is one."""
    return float(torch.cat([*lanes]).max())


def typical(lanes: Iterable[Tensor]) -> float:
    """The least of the lanes' median errors, NaN where there is one."""
    return float(torch.stack([errors.median() for errors in lanes]).min())


def gradients(bench: Bench) -> Iterator[Row]:
    """All gradients of an eager step of three lanes, from the true ones.

    True are the CPU's in float64. How far a precision's may be from them is told by the plain
    network's in that precision: on the device, but float32's on the CPU, which has no other than
    IEEE's. Adam's average of the gradients is, after one step, a tenth of the gradient.

    In float64 no parameter may be off. Below it the precision shows in a lane's median, of the best
    lane: where rounding chooses another winner of a pooling, all gradients before it jump, in any
    engine.
    """
    cpu = torch.device("cpu")
    for network, architecture in bench.networks.items():
        work = bench.work(network, 3)
        sizes = [shape.numel() for shape in shapes(architecture)]
        expected = [plain_gradients(architecture, task, "float64", cpu) for task in work]
        for precision in ("float64", "float32", "tf32", "bf16"):
            of_all = largest if precision == "float64" else typical
            cases = list(bench.cases(precision, network=network))
            limit, where = 1e-6, cpu if precision == "float32" else bench.device
            if cases and precision != "float64":
                plain = (plain_gradients(architecture, task, precision, where) for task in work)
                limit = MARGIN * of_all(map(gradient_errors, plain, expected))
            for case in cases:
                with computing(precision):
                    fit = bench.start(*case, work, graph=False)
                    fit.step()
                means = [fit.save(lane)["mean"].double() / (1 - BETA1) for lane in range(3)]
                errors = map(gradient_errors, (m.split(sizes) for m in means), expected)
                yield row(case, "relative error of a gradient", of_all(errors), limit, lanes=3)


def replay(bench: Bench) -> Iterator[Row]:
    """A graph's replays, from steps launched one by one."""
    for case in bench.cases("float64", "float32"):
        kind, network, precision = case
        small = precision == "float64"
        work = bench.work(network, 2, SMALL if small else None)
        with computing(precision):
            fits = [bench.start(kind, network, precision, work, graph) for graph in (True, False)]
            for done, further in ((1, 1), (10, 9)):
                found, expected = (steps(fit, further) for fit in fits)
                # Rounding grows from step to step: what float32 may lose is not known.
                limit = 1e-6 if small else 1e-4 if done == 1 else None
                quantity = f"difference of replays after {done} steps"
                yield row(case, quantity, relative(found, expected), limit, lanes=2)


def alone(bench: Bench) -> Iterator[Row]:
    """A lane alone, from the same lane beside others."""
    for case in bench.cases("float64", "float32"):
        kind, network, precision = case
        small = precision == "float64"
        count = min(8, bench.most) if small else bench.many(kind, network, precision)
        work = bench.work(network, count, SMALL if small else None)
        with computing(precision):
            beside = steps(bench.start(kind, network, precision, work), 10)[:1]
            single = steps(bench.start(kind, network, precision, work[:1]), 10)
        # cuDNN takes other algorithms for other numbers of lanes; our own kernels do not.
        limit = 1e-6 if small else 0 if kind == "triton" else None
        quantity = "difference of a lane alone"
        yield row(case, quantity, relative(beside, single), limit, lanes=count)


def repeat(bench: Bench, length: int = 50) -> Iterator[Row]:
    """The same run twice."""
    for case in bench.cases("float32", "tf32", "bf16"):
        kind, network, precision = case
        work, made = bench.work(network, 4), []
        for _ in range(2):
            with computing(precision):
                made.append(steps(bench.start(kind, network, precision, work), length))
        limit = 0 if kind == "triton" else None
        yield row(case, "difference between two runs", relative(*made), limit, lanes=4)


def nan(bench: Bench) -> Iterator[Row]:
    """An image after one that was NaN in the same lane, from the same image alone."""
    for case in bench.cases("float64"):
        kind, network, precision = case
        first, second = bench.work(network, 2, SMALL)
        broken = replace(first, target=torch.full_like(first.target, torch.nan))
        with computing(precision):
            spoiled = bench.run(kind, network, [broken, second], settings(precision), batch=1)
            clean = bench.run(kind, network, [second], settings(precision), batch=1)
        difference = apart({(0, 1): spoiled[1, 1]}, clean)
        yield row(case, "difference after NaN in a lane", difference, 1e-6, lanes=1)


class Stopped(Exception):
    """What stands for the end of a job."""


def resume(bench: Bench) -> Iterator[Row]:
    """A run that ends in mid-fit and goes on from its checkpoint, from one that does not end."""
    at_once = {"INTERVAL": 0.0, "SHARE": math.inf}
    for case in bench.cases("float64"):
        kind, network, precision = case
        work = bench.work(network, 2, SMALL)
        stopping = {"stop": EarlyStopping(5, 5), "learning_rate": 0.05, "smoothing": 0.5}
        for more in ({}, stopping):
            options, made = settings(precision, (10, 30), **more), {}

            def strike(_, calls=itertools.count(1)):  # noqa: B008
                if next(calls) == 15:
                    raise Stopped

            with computing(precision), tempfile.TemporaryDirectory() as folder:
                expected = bench.run(kind, network, work, options, batch=2)
                with mock.patch.multiple(checkpoint, **at_once):
                    for progress in (strike, None):
                        with suppress(Stopped), checkpoint.kept(Path(folder, "checkpoint"), {}):
                            todo = {"batch": 2, "progress": progress, "into": made}
                            bench.run(kind, network, work, options, **todo)
            quantity = "difference after going on" + (", early stopping" if more else "")
            yield row(case, quantity, apart(made, expected), 1e-6, lanes=2)


def memory(bench: Bench) -> Iterator[Row]:
    """Images fitted where memory ends, from the same ones with room."""
    for case in bench.cases("float64"):
        kind, network, precision = case
        options, work = settings(precision, (1, 3)), bench.work(network, 6, SMALL)

        class Scarce(bench.kinds[kind]):
            """cuDNN's way to say that memory has ended, which is not PyTorch's."""

            def step(self, calls=itertools.count()):  # noqa: B008
                if self.target.shape[0] > 1 and next(calls) >= 2:
                    raise RuntimeError("GET was unable to find an engine to execute this")
                super().step()

        with computing(precision):
            expected = bench.run(kind, network, work, options, batch=1)
            found = bench.run(kind, network, work, options, batch=4, fit=Scarce)
            yield row(case, "difference after cuDNN's error", apart(found, expected), 1e-6)
            if bench.device.type != "cuda":
                continue
            work = bench.work(network, 6)
            expected = bench.run(kind, network, work, options, batch=1)
            with Peak(bench.device) as peak:
                bench.run(kind, network, work[:1], options, batch=1)
            torch.cuda.empty_cache()
            rest = free_memory(bench.device) - 5 * peak.bytes // 2
            held = torch.empty(max(0, rest), dtype=torch.uint8, device=bench.device)
            found = bench.run(kind, network, work, options, batch=6)
            quantity = "difference with memory for 2.5 lanes"
            yield row(case, quantity, apart(found, expected), 1e-6, lanes=6)
            del held


def start_up(bench: Bench) -> Iterator[Row]:
    """What a job takes before its first step, and what it keeps."""
    for case in bench.cases("float32"):
        kind, network, precision = case
        count, task = bench.many(kind, network, precision), bench.work(network, 1)[0]
        architecture, fits = bench.networks[network], []
        with computing(precision):
            build = lambda: fits.append(bench.start(*case, [task] * count))  # noqa: B023, E731
            drawn = timed(bench.device, lambda: draw(architecture, task))  # noqa: B023
            taken = timed(bench.device, build)
            yield row(case, "seconds to draw an image's weights and input", drawn)
            yield row(case, "seconds to build, draw and capture", taken, lanes=count)
            state = sum(value.nbytes for value in fits.pop().save(0).values())
            yield row(case, "bytes of a checkpoint", count * state, lanes=count)
            window = count * (100 + 6) * task.target.numel() * 4
            yield row(case, "bytes of early stopping's window of 100", window, lanes=count)


def second_gpu(bench: Bench) -> Iterator[Row]:
    """The same images on another GPU, where there is one."""
    yield row(("", "", ""), "GPUs", torch.cuda.device_count())
    for case in bench.cases("float64") if torch.cuda.device_count() > 1 else ():
        kind, network, precision = case
        options, made = settings(precision, (3,)), []
        for device in (bench.device, torch.device("cuda:1")):
            work = replace(bench, device=device).work(network, 2, SMALL)
            # Through the engine: it is who sees to the current device.
            reads = engine.fit(bench.networks[network], work, options, engine=kind)
            made.append({(p, 3): x.cpu() for r in reads for p, x in zip(r.positions, r.average)})
        yield row(case, "difference on another GPU", apart(*made), 1e-6, lanes=2)


def losses(bench: Bench, length: int = 1000) -> Iterator[Row]:
    """Losses of eight images in each precision, step by step."""
    readouts = tuple(n for n in (1, 10, 100, 300, 1000) if n <= length)
    for case in bench.cases("float32", "tf32", "bf16"):
        kind, network, mode = case
        work, options, found = bench.work(network, 8), settings(mode, readouts), {}
        with computing(mode):
            reads = lanes.fit(bench.networks[network], work, options, kind=bench.kinds[kind])
            for read in reads:
                found.setdefault(read.iteration, []).extend(read.loss.tolist())
        for step, each in found.items():
            yield row(case, f"mean loss after {step} steps", sum(each) / len(each), lanes=8)


def accuracy(bench: Bench, count: int = 8, length: int = 1000) -> Iterator[Row]:
    """Correct answers of the ResNet-50 on photographs that BIM has attacked, after t-DIPs."""
    net = Torchvision(architecture="resnet50").eval()
    net.read_checkpoint(str(INPUTS / "resnet50.safetensors"))
    net.to(bench.device)
    data = NIPS2017(folder=str(INPUTS / "nips2017dev"), test=200, train=200).load()["train"]
    x, y, ids = to_tensor(data.images[:count]), torch.from_numpy(data.labels[:count]), data.ids
    x, y = x.contiguous().to(bench.device), y.to(bench.device)
    attack = BIM(semantics="corner", epsilon=8 / 255)
    attacked = attack(net, x, y, seeds=list(range(count))).images
    for kind, network, mode in bench.cases("float32", "tf32", "bf16"):
        if network == "dip2/8":
            defense = TandemDIP(engine=kind, precision=mode, iterations=length)
            right = (net.predict(defense(attacked, ids[:count])) == y).sum()
            yield row((kind, "tandem", mode), f"correct of {count}", right, lanes=count)


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the device does at most."""
    for mode in ("float32", "tf32", "bf16"):
        products, copies = limits(bench.device, mode)
        yield row(("", "", mode), "FLOP/s of a matrix product", products)
        yield row(("", "", mode), "bytes/s of a copy", copies)


def speed(bench: Bench) -> Iterator[Row]:
    """Replays of a step, timed on the device: no launch, no read-out, nothing else is in it."""
    top = {mode: limits(bench.device, mode) for mode in ("float32", "tf32", "bf16")}
    counts = sorted({1, min(16, bench.most), bench.most})
    for case, count in itertools.product(bench.cases(*top), counts):
        kind, network, mode = case
        architecture, work = bench.networks[network], bench.work(network, count)
        for search in (True, False) if kind == "fast" else (True,):
            label = "" if search else ", cuDNN's first algorithm"
            try:
                with computing(mode, search), Peak(bench.device) as peak:
                    fit = bench.start(kind, network, mode, work)
                    seconds = step_seconds(fit, bench.device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                continue  # what does not fit has no speed
            fit = None
            least = flops(architecture, bench.size) / top[mode][0]
            least = max(least, traffic(architecture, bench.size, mode) / top[mode][1])
            yield row(case, f"image-steps per second{label}", count / seconds, lanes=count)
            yield row(case, f"share of the roof{label}", count * least / seconds, lanes=count)
            yield row(case, f"bytes of memory{label}", peak.bytes, lanes=count)


def step_seconds(fit: lanes.Fit, device: torch.device, blocks: int = 5) -> float:
    """Seconds of a step of all lanes, the median of several blocks of steps."""
    steps(fit, 3)
    each = max(1, min(200, round(0.2 / timed(device, fit.step))))
    taken = []
    for _ in range(blocks):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(each):
                fit.step()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1000)
        else:
            taken.append(timed(device, lambda: [fit.step() for _ in range(each)]))
    return sorted(taken)[blocks // 2] / each


def profile(bench: Bench) -> Iterator[Row]:
    """Where the time of a step goes: the ten kernels that take most."""
    kind_of_work = torch.profiler.ProfilerActivity
    activity = kind_of_work.CUDA if bench.device.type == "cuda" else kind_of_work.CPU
    for case in bench.cases("float32", "tf32"):
        kind, network, mode = case
        count = min(16, bench.most)
        with computing(mode):
            fit = bench.start(kind, network, mode, bench.work(network, count), graph=False)
            steps(fit, 3)
            with torch.profiler.profile(activities=[activity]) as seen:
                steps(fit, 5)
        name = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
        each = sorted(((getattr(e, name), e.key) for e in seen.key_averages()), reverse=True)
        whole = sum(time for time, _ in each)
        for time, kernel in each[:10]:
            yield row(case, f"share of {kernel[:100]}", time / whole, lanes=count)
