"""Going on inside a job that was killed, with a minute of work lost at most.

    with checkpoint.kept("results/.checkpoints/funn.safetensors", job={"seed": 0}, inputs=[]):
        classifier.fit(images, labels, seed=0)

Whatever takes long opens a :class:`Part` with the tensors and generators that it changes and with
how far it is. All parts of a job are one file, so they are always of one moment. It belongs to
the job's settings, code and inputs and is used for no other job's; it is removed when the block
ends well. Without `kept` no part is ever due, nothing is written and nothing changes.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tandem_defense.files import arrays

log = logging.getLogger(__name__)

INTERVAL = 45.0  # seconds between two writings: with the writing itself, less than a minute is lost
SHARE = 0.05  # of the time may go into them: a large state is written less often

Live = dict[str, Tensor | torch.Generator]


class Part:
    """A piece of a job's state, opened by whoever changes it.

    live : tensors and generators, read whenever the checkpoint is written
    progress : what else is needed to go on, JSON-able; where an earlier run came further, its own
    """

    def __init__(
        self,
        checkpoint: "Checkpoint | None",
        live: Live,
        progress: dict,
        left: dict[str, np.ndarray] | None = None,
    ):
        self._checkpoint, self.live, self.progress = checkpoint, live, progress
        self._left = left or {}

    def resume(self) -> "Part":
        """Put what an earlier run left into `live`, in place; what is not in it is added."""
        for key, array in self._left.items():
            tensor, at = torch.from_numpy(array), self.live.get(key)
            if at is None:
                self.live[key] = tensor
            elif isinstance(at, Tensor):
                at.data.copy_(tensor)
            else:
                at.set_state(tensor)
        self._left = {}
        return self

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._checkpoint is not None and time.monotonic() >= self._checkpoint.next

    def save(self, live: Callable[[], Live] | None = None) -> None:
        """Write all parts of the job; `live` collects this one's tensors if it holds none."""
        self._checkpoint.save(self, live)


class Checkpoint:
    """The file; see :func:`kept`."""

    def __init__(self, path: str | Path, job: Mapping, inputs: Sequence[str | Path]):
        self.path, self._job, self._inputs = Path(path), job, inputs
        self.parts: dict[str, Part] = {}
        self._pieces: list[str] = []  # of work that are open, see :func:`piece`
        for torn in self.path.parent.glob(f".{self.path.name}.*.part"):
            torn.unlink(missing_ok=True)  # killed while it was written
        self._found = self._read()
        self.next = time.monotonic() + INTERVAL

    @cached_property
    def job(self) -> str:
        """The digest of settings, code and inputs; hashed only where there is something to keep."""
        total = sha256(json.dumps(self._job, sort_keys=True, default=str).encode())
        for path in self._inputs:
            with open(path, "rb") as file:
                total.update(file_digest(file, "sha256").digest())
        return total.hexdigest()

    def _read(self) -> dict[str, tuple[dict[str, np.ndarray], dict]]:
        """Tensors and progress of every part that an earlier run left."""
        if not self.path.exists():
            return {}
        try:
            tensors, metadata = arrays.read(self.path, "checkpoint")
        except arrays.CacheError as error:
            log.warning("checkpoint: %s: the job starts afresh", error.reason)
            return {}
        if metadata["job"] != self.job:
            log.warning(
                "checkpoint: %s is of other settings, code or inputs: the job starts afresh",
                self.path,
            )
            return {}
        parts = {name: ({}, progress) for name, progress in metadata["parts"].items()}
        for name, array in tensors.items():
            part, key = name.split("/", 1)
            parts[part][0][key] = array
        return parts

    def part(self, name: str, live: Live, progress: dict) -> Part:
        """Open a part, with what an earlier run left of it."""
        name = "".join(self._pieces) + name
        while name in self.parts:
            name += "'"
        left, further = self._found.pop(name, ({}, {}))
        self.parts[name] = Part(self, live, progress | further, left)
        return self.parts[name]

    def begin(self, name: str) -> None:
        """Parts are a piece's from here on, inside those that are open."""
        self._pieces.append(name)

    def end(self, name: str) -> None:
        """Forget the parts of a piece that is done, and of those inside it."""
        start = "".join(self._pieces[: self._pieces.index(name) + 1])
        self.parts = {key: part for key, part in self.parts.items() if not key.startswith(start)}
        self._pieces.remove(name)

    def save(self, part: Part, live: Callable[[], Live] | None) -> None:
        """Write all parts; a disk that is full costs the checkpoint, not the job."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what is still being computed is not the writing's cost
        started = time.monotonic()
        part.live = live() if live else part.live
        tensors = {
            f"{name}/{key}": (at.detach().cpu() if isinstance(at, Tensor) else at.get_state())
            for name, each in self.parts.items()
            for key, at in each.live.items()
        }
        progress = {name: each.progress for name, each in self.parts.items()}
        tensors = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            arrays.write(self.path, "checkpoint", tensors, job=self.job, parts=progress)
            outcome = f"{sum(a.nbytes for a in tensors.values()) / 1e6:.1f} MB"
        except OSError as error:
            outcome = f"failed, {error}"
        if live:
            part.live = {}
        took = time.monotonic() - started
        self.next = time.monotonic() + max(INTERVAL, took / SHARE)
        log.info("checkpoint: %s in %.2f s", outcome, took)


_current: ContextVar[Checkpoint | None] = ContextVar("checkpoint", default=None)


def part(name: str, live: Live, **progress) -> Part:
    """A part of the surrounding job's checkpoint; :meth:`Part.resume` goes on from an earlier run.

    progress : where the work starts, unless an earlier run came further
    """
    current = _current.get()
    return current.part(name, live, progress) if current else Part(None, live, progress)


@contextmanager
def piece(*of: Tensor | object) -> Iterator[None]:
    """Parts that are opened inside belong to this piece of the job's work, and end with it.

    A job that restores again and again, other images or with other seeds, so goes on in the piece
    in which it was stopped and nowhere else, and keeps nothing of those that are done.

    of : what tells the piece from others, tensors or JSON-able
    """
    current = _current.get()
    if current is None:
        yield
        return
    total = sha256()
    for item in of:
        if isinstance(item, Tensor):
            content = item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            total.update(repr((item.dtype, tuple(item.shape))).encode() + content.tobytes())
        else:
            total.update(json.dumps(item).encode())
    name = f"{total.hexdigest()[:16]}: "
    current.begin(name)
    try:
        yield
    finally:
        current.end(name)


@contextmanager
def kept(path: str | Path, job: Mapping, inputs: Sequence[str | Path] = ()) -> Iterator[None]:
    """Keep a checkpoint in the file `path` while the block runs, and go on from what is there.

    job : settings and code, JSON-able; inputs : files. A checkpoint is used only where both are
    the same, the files by their content. One that is damaged, or another job's, is named in the
    log and otherwise ignored.
    """
    current = Checkpoint(path, job, inputs)
    token = _current.set(current)
    try:
        yield
    finally:
        _current.reset(token)
    current.path.unlink(missing_ok=True)


def of(job) -> AbstractContextManager[None]:
    """The checkpoint of a Snakemake job, beside the results but none of them.

    Snakemake deletes what a failed job had written; this it does not know.
    """
    name = ".".join(Path(job.output[0]).parts)
    settings = {"output": name, "params": dict(job.params.items())}
    return kept(Path("results/.checkpoints", f"{name}.safetensors"), settings, list(job.input))
