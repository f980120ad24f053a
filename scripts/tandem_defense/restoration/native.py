"""The engine on the CPU: every thread fits one image in compiled code (cpu.cpp).

Where there are fewer images than threads, an image's layers are shared by several threads. An
image's result does not depend on the number of threads, neighbors or order, to the last bit.

A wheel for Linux on x86-64 ships the code compiled for three levels of that processor. Elsewhere,
and in a checkout, it is compiled once per machine (with AVX-512 twice, see :func:`library`), by the
C++ compiler that is there (``CXX``, or ``c++``, ``g++``, ``clang++``), and kept in
``~/.cache/tandem-defense`` (``TANDEM_DEFENSE_CACHE``). Its SHA-256 stands in its name: a damaged
file is compiled again.
"""

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from queue import Queue

import torch
from torch import Tensor

from tandem_defense import device
from tandem_defense.restoration import coarse
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

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -ffp-contract=fast"
    " -shared -fPIC -pthread"
).split()
# The levels of x86-64 for which a wheel ships the code, and what /proc/cpuinfo says of a processor
# that has one (the psABI's table, less what older levels or the operating system imply).
LEVELS = {
    "v4": "avx512f avx512bw avx512cd avx512dq avx512vl avx2 bmi1 bmi2 f16c fma abm movbe",
    "v3": "avx2 bmi1 bmi2 f16c fma abm movbe",
    "v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
}
# Between two looks at whether to go on: so many steps, and so many pixels times steps, at most.
SLICE, PIXELS = 10, 100_000


def compiler() -> str | None:
    """The C++ compiler, or None."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def narrow(architecture: Architecture) -> bool:
    """Whether 16 numbers, a vector of AVX-512, would pad its narrowest map to twice its channels.

    That map has the image's resolution, and moving it takes longer than computing it.
    """
    return 0 < min(architecture.widths) % 16 <= 8


def shipped(narrow: bool = False) -> Path | None:
    """The wheel's build for the highest level that this processor has; None without one."""
    have = set(_processor().split())
    for level, needed in LEVELS.items():
        if narrow and level == "v4":
            continue
        path = SOURCE.with_name(f"cpu-x86-64-{level}.so")
        if path.exists() and have.issuperset(needed.split()):
            return path
    return None


@cache
def library(narrow: bool = False) -> ctypes.CDLL | None:
    """The compiled code; None, and a warning, where there is none and it cannot be compiled.

    narrow : with vectors of AVX2's width where the processor has wider ones
    """
    if narrow and "avx512vl" not in _processor().split():
        return library()
    if path := shipped(narrow):
        return _declared(ctypes.CDLL(str(path)))
    command = compiler()
    if command is None:
        log.warning(
            "no C++ compiler found: restoration on the CPU takes PyTorch's layers, which are"
            " several times slower. Install g++ or clang++, or set CXX."
        )
        return None
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    flags = [*FLAGS, *(["-DNARROW"] if narrow else [])]
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), *flags, version, _processor()])
    folder = Path(
        os.environ.get("TANDEM_DEFENSE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem-defense"
    )
    name = f"cpu-{_digest(key.encode())}"
    try:
        made = _kept(folder, name) or _compile([command, *flags], folder, name)
        return _declared(ctypes.CDLL(str(made)))
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(
            "the CPU engine could not be compiled, and PyTorch's layers are several times slower:"
            " %s\n%s",
            error,
            getattr(error, "stderr", ""),
        )
        return None


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _kept(folder: Path, name: str) -> Path | None:
    """A library that was compiled earlier and is whole: loading a truncated one is a bus error."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        if path.stem == f"{name}-{_digest(path.read_bytes())}":
            return path
        log.warning("%s is damaged", path)
    return None


def _compile(command: Sequence[str], folder: Path, name: str) -> Path:
    """The library, in its place in one piece, whoever else compiles it at the same time."""
    log.info("compiling %s for this processor, once", SOURCE.name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "made.so"
        subprocess.run(
            [*command, "-o", str(made), str(SOURCE)],
            check=True,
            capture_output=True,
            text=True,
        )
        return made.replace(folder / f"{name}-{_digest(made.read_bytes())}.so")


def _processor() -> str:
    """What the compiled code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
    for name in ("float32", "float64"):
        signatures = {
            "new": (pointer, [number] * 3 + [pointer] + [number] * 2),
            "start": (None, [pointer] * 5),
            "save": (None, [pointer] * 4),
            "resume": (None, [pointer] * 5 + [number]),
            "fit": (real, [pointer, number, number, real, real, pointer, pointer]),
            "free": (None, [pointer]),
        }
        for verb, (result, arguments) in signatures.items():
            function = getattr(library, f"prior_{verb}_{name}")
            function.restype, function.argtypes = result, arguments
    return library


class Network:
    """One prior of a given size, which can be started again with another image.

    It keeps the threads that it has been fitted with, asleep between two fits, until it is freed.

    output, average : (3, H, W), of the latest step

    Raises MemoryError if there is not enough memory for it, ValueError for tensors of other sizes.
    """

    def __init__(self, architecture: Architecture, height: int, width: int, dtype: torch.dtype):
        self.dtype, self.inputs = dtype, architecture.inputs
        name = str(dtype).removeprefix("torch.")
        verbs = ("new", "start", "save", "resume", "fit", "free")
        self._new, self._start, self._save, self._resume, self._fit, self._free = (
            getattr(library(narrow(architecture)), f"prior_{verb}_{name}") for verb in verbs
        )
        widths = (ctypes.c_int * len(architecture.widths))(*architecture.widths)
        kind = ("dip1", "dip2").index(architecture.kind)
        norm = ("none", "instance", "affine").index(architecture.norm)
        self._handle = self._new(height, width, architecture.inputs, widths, kind, norm)
        if not self._handle:
            raise MemoryError
        self.output = torch.empty(3, height, width, dtype=dtype, device="cpu")
        self.average = torch.empty_like(self.output)
        self.size = sum(shape.numel() for shape in shapes(architecture))  # of all parameters

    def start(
        self, parameters: Tensor, z: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> None:
        """Begin with these weights (flat), this input and this target.

        weight : (1, H, W), what a pixel's squared error counts; None: 1
        """
        expected = (self.inputs, *self.output.shape[1:])
        if z.shape != expected or target.shape != self.output.shape:
            raise ValueError(
                f"expected an input {expected} and a target {tuple(self.output.shape)},"
                f" got {tuple(z.shape)} and {tuple(target.shape)}"
            )
        tensors = (parameters, z, target, *([] if weight is None else [weight]))
        arrays = [x.detach().to("cpu", self.dtype).contiguous() for x in tensors]
        pointers = [x.data_ptr() for x in arrays]
        self._start(self._handle, *pointers, *([None] if weight is None else []))

    def save(self) -> State:
        """The state after the latest step, to be copied or kept."""
        names = ("parameters", "mean", "square")
        state = {n: torch.empty(self.size, dtype=self.dtype, device="cpu") for n in names}
        self._save(self._handle, *[x.data_ptr() for x in state.values()])
        return state | {"average": self.average.clone()}

    def resume(self, state: State) -> None:
        """Go on, after :meth:`start`, from a state."""
        names = ("parameters", "mean", "square", "average")
        arrays = [state[name].to(self.dtype).contiguous() for name in names]
        sizes = (self.size, self.size, self.size, self.output.numel())
        for array, size in zip(arrays, sizes, strict=True):
            if array.numel() != size:
                raise ValueError(f"a state holds {array.numel()} numbers, expected {size}")
        self._resume(self._handle, *[x.data_ptr() for x in arrays], int(state["iteration"]))

    def fit(self, steps: int, learning_rate: float, smoothing: float, threads: int = 1) -> float:
        """Take some steps on `threads` threads; returns the last one's mean squared error."""
        loss = self._fit(
            self._handle,
            threads,
            steps,
            learning_rate,
            smoothing,
            self.output.data_ptr(),
            self.average.data_ptr(),
        )
        if loss < 0:
            raise MemoryError
        return loss

    def __del__(self):
        if getattr(self, "_handle", None):
            self._free(self._handle)


class Fit:
    """The fit of one image in a network, which it has to itself until it is done.

    half : the network for images of half the size; None where no steps are coarse
    state : what an earlier run left of this fit, None where it starts
    done : steps so far
    """

    def __init__(
        self,
        network: Network,
        half: Network | None,
        architecture: Architecture,
        task: Task,
        settings: FitSettings,
        state: State | None,
    ):
        self.settings, self.target = settings, task.target
        self.done, self.loss = int(state["iteration"]) if state else 0, torch.nan
        self.slice = max(1, min(SLICE, PIXELS // task.target[0].numel()))  # steps
        self.monitor, weight = None, None
        if settings.stop:
            weight = settings.stop.weight(task.target, task.seed)
            self.monitor = settings.stop.monitor((1, *task.target.shape), torch.device("cpu"))
            self.monitor.begin(0, task.target, weight)
        parameters, self.z = draw(architecture, task)
        self.network, self.whole = network, network
        if self.done < settings.coarse:
            self.network = half
            half.start(parameters, coarse.halve(self.z), coarse.halve(self.target))
        else:
            network.start(parameters, self.z, self.target, weight)
        if state:
            self._resume(state)

    def _resume(self, state: State) -> None:
        self.network.resume(state)
        if self.monitor:
            self.monitor.resume(0, state)

    def _refine(self) -> None:
        """Go on at the whole resolution."""
        size, half = self.target.shape[1:], self.network
        state = coarse.refined(self.save(), size)
        self.network = self.whole
        self.network.start(state["parameters"], self.z, self.target)
        self.network.resume(state)
        self.network.output.copy_(coarse.enlarge(half.output, size))
        self.network.average.copy_(state["average"])

    def save(self) -> State:
        """The state after the latest step."""
        state = self.network.save() | {"iteration": torch.tensor(self.done, device="cpu")}
        return state | (self.monitor.save(0) if self.monitor else {})

    @property
    def stopped(self) -> bool:
        """Whether early stopping has ended it."""
        return bool(self.monitor and self.monitor.stopped[0])

    def advance(self, limit: int, threads: int = 1) -> int:
        """Take a few steps, not beyond step `limit`, on `threads` threads; returns how many."""
        if self.network is not self.whole:
            limit = min(limit, self.settings.coarse)
        steps = 1 if self.monitor else min(self.slice, limit - self.done)
        self.loss = self.network.fit(
            steps, self.settings.learning_rate, self.settings.smoothing, threads
        )
        self.done += steps
        if self.done == self.settings.coarse:
            self._refine()
        if self.monitor:
            self.monitor.update(self.network.output[None], self.network.average[None])
        return steps

    def read(self, position: int, iteration: int) -> ReadOut:
        """The image as it is now, as task `position` at read-out `iteration`; a copy."""
        size = self.target.shape[1:]
        output = coarse.enlarge(self.network.output[None], size)
        average = coarse.enlarge(self.network.average[None], size)
        loss = average.new_tensor([self.loss])
        taken = torch.zeros(1, dtype=torch.long, device="cpu")
        if self.stopped:
            output = average = self.monitor.best.to(average)
            taken = self.monitor.best_iteration.clone()
            loss = (average - self.target).square().mean((1, 2, 3))
        return ReadOut((position,), iteration, output.clone(), average.clone(), loss, taken)


class Workers:
    """Threads with a network each, which take image after image until none is waiting.

    The networks share `threads` threads evenly: those of a worker that has ended go to the others.
    A thread that runs out of memory puts its image back and ends; the others go on. Whatever a
    thread has to say goes through one queue: a read-out, a (position, state) to be saved, an
    exception; None when it ends.
    """

    def __init__(
        self,
        architecture: Architecture,
        tasks: Sequence[Task],
        settings: FitSettings,
        count: int,
        threads: int,
        progress: Callable[[int], None] | None,
    ):
        self.architecture, self.tasks, self.settings = architecture, tasks, settings
        self.threads = threads
        self.progress = progress
        self.record = Record(architecture.kind, len(tasks), settings.readouts, progress)
        self.count, self.running = count, count
        self.answered = [-1] * count  # the latest saving to which a thread has given its state
        self.lock, self.closed = threading.Lock(), threading.Event()
        # A slow reader makes the threads wait.
        self.queue: Queue[ReadOut | tuple[int, State] | BaseException | None] = Queue(2 * count)

    def run(self) -> Iterator[ReadOut]:
        """All read-outs, as they come; the threads end with the iterator."""
        threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(self.count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._read()
        finally:
            self.closed.set()
            for thread in threads:
                while thread.is_alive():
                    while not self.queue.empty():  # it may wait for room
                        self.queue.get_nowait()
                    thread.join(0.01)

    def _read(self) -> Iterator[ReadOut]:
        """Empty the queue until all threads have ended, and save their states."""
        ended, states = 0, {}
        while ended < self.count:
            item = self.queue.get()
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            elif isinstance(item, ReadOut):
                yield item
                self.record.report(item.positions[0], item.iteration)
            else:
                states |= [item]
            if states and len(states) >= self.running:
                self.record.save(states.copy)
                states = {}

    def _work(self, worker: int) -> None:
        """What a thread does."""
        position = None
        try:
            size = self.tasks[0].target.shape[1:]
            network, half = self._network(size), None
            if self.settings.coarse:
                half = self._network([n // 2 for n in size])
            while (position := self._next()) is not None:
                self._restore(worker, network, half, position)
        except MemoryError as error:
            self._give_up(position, error)
        except BaseException as error:
            self.queue.put(error)
        self.queue.put(None)

    def _network(self, size: Sequence[int]) -> Network:
        return Network(self.architecture, *size, self.settings.dtype)

    def _next(self) -> int | None:
        """The next image, None where there is none."""
        with self.lock:
            if self.record.waiting and not self.closed.is_set():
                return self.record.waiting.popleft()
            self.running -= 1
            return None

    def _give_up(self, position: int | None, error: MemoryError) -> None:
        """Leave the image to the other threads; the last one has nobody to leave it to."""
        with self.lock:
            self.running -= 1
            if position is not None:
                self.record.waiting.appendleft(position)
        if self.running:
            log.warning(
                "not enough memory for %d images at a time: going on with fewer", self.count
            )
        else:
            self.queue.put(error)

    def _restore(self, worker: int, network: Network, half: Network | None, position: int) -> None:
        """Fit one image, to its end or until nobody reads any more."""
        known = self.record.reported[position]
        task, state = self.tasks[position], self.record.begin(position)
        try:
            fit = Fit(network, half, self.architecture, task, self.settings, state)
        except MemoryError:
            if state is not None:
                self.record.hand(position, state)  # whoever takes it over goes on from there
            raise
        for number, wanted in enumerate(self.settings.readouts):
            while fit.done < wanted and not fit.stopped:
                if self.closed.is_set():
                    return
                self._offer(worker, position, fit)
                steps = fit.advance(wanted, max(1, self.threads // self.running))
                if self.progress:
                    with self.lock:
                        self.progress(steps)
            if number >= known:
                self.queue.put(fit.read(position, wanted))

    def _offer(self, worker: int, position: int, fit: Fit) -> None:
        """Give the state away where a saving is due, once per saving."""
        if fit.done and self.record.due() and self.answered[worker] != self.record.saves:
            self.answered[worker] = self.record.saves
            # Behind this image's read-outs: they are taken in before it is written.
            self.queue.put((position, fit.save()))


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    settings: FitSettings,
    *,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit `batch` images at a time (None: as many as PyTorch has threads); see engine.fit.

    PyTorch's threads, but no more than there are CPUs, are divided among the images at work: fewer
    images than threads have several threads each. The precision is float32 or float64.
    """
    library(narrow(architecture))  # compiled before the threads start
    threads = device.limit_threads(torch.get_num_threads())
    count = min(batch or threads, len(tasks))
    yield from Workers(architecture, tasks, settings, count, threads, progress).run()
