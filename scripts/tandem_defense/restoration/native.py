"""The engine on the CPU: every thread fits one image in compiled code (cpu.cpp).

The code is compiled once per machine, by the C++ compiler that is there (``CXX``, or ``c++``,
``g++``, ``clang++``), and kept in ``~/.cache/tandem-defense`` (``TANDEM_DEFENSE_CACHE``).
An image's result does not depend on threads, neighbors or order, to the last bit.
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

from tandem_defense.restoration.record import Record, State
from tandem_defense.restoration.reference import Architecture, ReadOut, Task, draw, shapes
from tandem_defense.restoration.stopping import EarlyStopping, Monitor

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -ffp-contract=fast"
    " -shared -fPIC"
).split()
SLICE = 10  # steps between two looks at whether to go on


def compiler() -> str | None:
    """The C++ compiler, or None."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None, and a warning, where it cannot be compiled."""
    command = compiler()
    if command is None:
        log.warning(
            "no C++ compiler found: restoration on the CPU takes PyTorch's layers, which are"
            " several times slower. Install g++ or clang++, or set CXX."
        )
        return None
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), *FLAGS, version, _processor()])
    folder = Path(
        os.environ.get("TANDEM_DEFENSE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem-defense"
    )
    target = folder / f"cpu-{sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        if not target.exists():
            log.info("compiling %s for this processor, once", SOURCE.name)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / target.name
                subprocess.run(
                    [command, *FLAGS, "-o", str(made), str(SOURCE)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                made.replace(target)
        return _declared(ctypes.CDLL(str(target)))
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(
            "the CPU engine could not be compiled, and PyTorch's layers are several times slower:"
            " %s\n%s",
            error,
            getattr(error, "stderr", ""),
        )
        return None


def _processor() -> str:
    """What the compiled code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
    for name in ("float32", "float64"):
        signatures = {
            "new": (pointer, [number] * 3 + [pointer] + [number] * 2),
            "start": (None, [pointer] * 4),
            "save": (None, [pointer] * 4),
            "resume": (None, [pointer] * 5 + [number]),
            "fit": (real, [pointer, number, real, real, pointer, pointer]),
            "free": (None, [pointer]),
        }
        for verb, (result, arguments) in signatures.items():
            function = getattr(found, f"prior_{verb}_{name}")
            function.restype, function.argtypes = result, arguments
    return found


class Network:
    """One prior of a given size, which can be started again with another image.

    output, average : (3, H, W), of the latest step

    Raises MemoryError if there is not enough memory for it.
    """

    def __init__(self, architecture: Architecture, height: int, width: int, dtype: torch.dtype):
        self.dtype, self.inputs = dtype, architecture.inputs
        name = str(dtype).removeprefix("torch.")
        verbs = ("new", "start", "save", "resume", "fit", "free")
        self._new, self._start, self._save, self._resume, self._fit, self._free = (
            getattr(library(), f"prior_{verb}_{name}") for verb in verbs
        )
        widths = (ctypes.c_int * len(architecture.widths))(*architecture.widths)
        kind = ("dip1", "dip2").index(architecture.kind)
        norm = ("none", "instance", "affine").index(architecture.norm)
        self._handle = self._new(height, width, architecture.inputs, widths, kind, norm)
        if not self._handle:
            raise MemoryError
        self.output = torch.empty(3, height, width, dtype=dtype)
        self.average = torch.empty_like(self.output)
        self.size = sum(shape.numel() for shape in shapes(architecture))  # of all parameters

    def start(self, parameters: Tensor, z: Tensor, target: Tensor) -> None:
        """Begin with these weights (flat), this input and this target."""
        expected = (self.inputs, *self.output.shape[1:])
        if z.shape != expected or target.shape != self.output.shape:
            raise ValueError(
                f"expected an input {expected} and a target {tuple(self.output.shape)},"
                f" got {tuple(z.shape)} and {tuple(target.shape)}"
            )
        arrays = [x.detach().to("cpu", self.dtype).contiguous() for x in (parameters, z, target)]
        self._start(self._handle, *[x.data_ptr() for x in arrays])

    def save(self) -> State:
        """The state after the latest step, to be copied or kept."""
        names = ("parameters", "mean", "square")
        state = {name: torch.empty(self.size, dtype=self.dtype) for name in names}
        self._save(self._handle, *[x.data_ptr() for x in state.values()])
        return state | {"average": self.average.clone()}

    def resume(self, state: State) -> None:
        """Go on, after :meth:`start`, from a state."""
        names = ("parameters", "mean", "square", "average")
        arrays = [state[name].to(self.dtype).contiguous() for name in names]
        for found, like in zip(arrays, (self.size, self.size, self.size, self.output.numel())):
            if found.numel() != like:
                raise ValueError(f"a state holds {found.numel()} numbers, expected {like}")
        self._resume(self._handle, *[x.data_ptr() for x in arrays], int(state["iteration"]))

    def fit(self, steps: int, learning_rate: float, smoothing: float) -> float:
        """Take some steps; returns the last one's mean squared error."""
        loss = self._fit(
            self._handle,
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


def fit(
    architecture: Architecture,
    tasks: Sequence[Task],
    *,
    readouts: Sequence[int],
    learning_rate: float,
    smoothing: float,
    stop: EarlyStopping | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit `batch` images at a time (None: as many as PyTorch has threads); see engine.fit."""
    library()  # compiled before the threads start
    threads = min(batch or torch.get_num_threads(), len(tasks))
    answered = [-1] * threads  # the latest saving to which a thread has given its state
    record = Record(architecture.kind, len(tasks), readouts, progress)
    waiting, running = record.waiting, threads
    lock, closed = threading.Lock(), threading.Event()
    found: Queue = Queue(maxsize=2 * threads)  # a slow reader makes the threads wait

    def restore(network: Network, position: int, worker: int) -> None:
        task = tasks[position]
        network.start(*draw(architecture, task), task.target)
        shape = (1, *task.target.shape)
        monitor = Monitor(stop, shape, torch.device("cpu")) if stop else None
        done, loss, known = 0, torch.nan, record.reported[position]
        if state := record.begin(position):
            network.resume(state)
            done = int(state["iteration"])
            if monitor:
                monitor.resume(0, state)
        for number, wanted in enumerate(readouts):
            while done < wanted and not (monitor and monitor.stopped[0]):
                if closed.is_set():
                    return
                if done and record.due() and answered[worker] != record.saves:
                    answered[worker] = record.saves
                    state = network.save() | {"iteration": torch.tensor(done)}
                    # Behind this image's read-outs: they are taken in before it is written.
                    found.put((position, state | (monitor.save(0) if monitor else {})))
                steps = 1 if monitor else min(SLICE, wanted - done)
                loss = network.fit(steps, learning_rate, smoothing)
                done += steps
                if monitor:
                    monitor.update(network.output[None], network.average[None])
                if progress:
                    with lock:
                        progress(steps)
            if number < known:
                continue
            average, taken = network.average[None], torch.zeros(1, dtype=torch.long)
            if monitor and monitor.stopped[0]:
                average, taken = monitor.best.to(dtype), monitor.best_iteration.clone()
            output, average = (x.clone() for x in (network.output[None], average))
            found.put(
                ReadOut(
                    (position,), wanted, output, average, torch.tensor([loss], dtype=dtype), taken
                )
            )

    def work(worker: int) -> None:
        nonlocal running
        position = None
        try:
            network = Network(architecture, *tasks[0].target.shape[1:], dtype)
            while not closed.is_set():
                with lock:
                    if not waiting:
                        running -= 1
                        break
                    position = waiting.popleft()
                restore(network, position, worker)
                position = None
        except MemoryError as error:
            with lock:
                running -= 1
                if position is not None:
                    waiting.appendleft(position)
            if running:
                log.warning(
                    "not enough memory for %d images at a time: going on with fewer", threads
                )
            else:
                found.put(error)
        except BaseException as error:
            found.put(error)
        found.put(None)

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(threads)]
    for worker in workers:
        worker.start()
    try:
        ended = 0
        states: dict[int, State] = {}
        while ended < threads:
            item = found.get()
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            elif isinstance(item, ReadOut):
                yield item
                record.report(item.positions[0], item.iteration)
            else:
                states |= [item]
            if states and len(states) >= running:
                record.save(states.copy)
                states = {}
    finally:
        closed.set()
        for worker in workers:
            while worker.is_alive():
                while not found.empty():  # a thread may wait for room
                    found.get_nowait()
                worker.join(0.01)
