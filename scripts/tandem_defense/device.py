"""Where a job computes, with how many threads, how exactly, and in how much memory."""

import itertools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
# How random numbers are drawn, for every device and whatever PyTorch's defaults are.
DRAWN = {"dtype": torch.float32, "device": "cpu"}
_held: list[FileLock] = []  # until this process ends


def prepare(threads: int = 1, device: str = "auto") -> torch.device:
    """Set the number of CPU threads and choose the device; float32 is IEEE's on every device.

    threads : no more than there are CPUs for this process are taken, with a warning
    device : ``auto`` (a GPU if there is one, of several one that no other job has), ``cpu``,
        ``cuda``, ``cuda:1``, ``mps``

    Raises ValueError for a device that this machine does not have.
    """
    threads = limit_threads(threads)
    torch.set_num_threads(threads)
    # Late in an optimization Adam's second moments fall below 1e-38, where x86 is slow.
    torch.set_flush_denormal(True)
    set_tf32(False)
    if device == "auto":
        gpus = visible_gpus()
        if len(gpus) > 1 and not _held:
            os.environ["CUDA_VISIBLE_DEVICES"] = claim(gpus)
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") if chosen.type == "cuda" else None
        log.info("%s%s, %d CPU threads", chosen, f" (GPU {gpu})" if gpu else "", threads)
        return chosen
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but there is no CUDA GPU: use cpu")
    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ValueError(f"device {device!r} was asked for, there are {there}")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but there is no MPS device: use cpu")
    return torch.device(device)


def set_tf32(on: bool) -> None:
    """Whether NVIDIA GPUs compute convolutions and matrix products in TF32, or in IEEE float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """:func:`set_tf32`, and afterwards as it was before."""
    # The older flags raise where somebody has set the newer ones, which always tell.
    modes = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [mode.fp32_precision for mode in modes]
    try:
        older = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        older = None
    set_tf32(on)
    try:
        yield
    finally:
        if older:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = older
        else:
            for mode, value in zip(modes, before, strict=True):
                mode.fp32_precision = value


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory has ended, in PyTorch's words, cuDNN's, cuBLAS's or a graph's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = ("out of memory", "unable to find an engine", "alloc_failed", "defaultcpuallocator")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(threads: int) -> int:
    """`threads`, or with a warning the number of CPUs: more are slower, far more end in a crash."""
    most = cpus()
    if threads > most:
        log.warning("%d threads were asked for, %d are used: one per CPU", threads, most)
    return min(threads, most)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:  # counting does not initialize CUDA, so the choice can still be made
        return [str(i) for i in range(torch.cuda.device_count())]
    # CUDA hides what is named behind one that is not there, such as -1.
    named = itertools.takewhile(lambda name: name != "-1", map(str.strip, names.split(",")))
    return list(filter(None, named))


def claim(gpus: list[str], folder: str | Path | None = None) -> str:
    """One of `gpus` that no other process of this user has claimed; waits until there is one.

    It is given back when this process ends, however it ends: the system drops a dead process's
    lock. The locks are files in `folder`, by default the system's folder for temporary files,
    which is one and the same for all jobs (a job's own TMPDIR may not be).
    """
    folder = Path(folder or ("/tmp" if os.name == "posix" else tempfile.gettempdir()))
    user = os.getuid() if hasattr(os, "getuid") else ""
    while True:
        for gpu in gpus:
            lock = FileLock(folder / f"tandem-defense-gpu-{user}-{gpu}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            return gpu
        time.sleep(1)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = dict(line.split(":", 1) for line in lines)
        limits.append(1024 * int(known["MemAvailable"].split()[0]))
    except (OSError, KeyError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A container's limit, or a cluster job's: of its own control group, or of one above it.
    for group, names in _groups():
        try:
            most, now, cached = (group / f"memory.{name}" for name in names)
            held = dict(line.split() for line in cached.read_text().splitlines())
            # Files that were read are counted until somebody needs their place.
            used = int(now.read_text()) - int(held.get(CACHED[names], 0))
            limits.append(int(most.read_text()) - used)
        except (OSError, ValueError):  # none there, or "max": no limit
            pass
    return min(limits, default=None)


# What control groups of version 2 and 1 call limit, use and what the use consists of; and in the
# latter the files that may be dropped.
VERSION_2 = ("max", "current", "stat")
VERSION_1 = ("limit_in_bytes", "usage_in_bytes", "stat")
CACHED = {VERSION_2: "inactive_file", VERSION_1: "total_inactive_file"}
CONTROL, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def _groups() -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's control groups and of those above, and their files' names."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        path = Path(path.removeprefix("/"))
        tops = (CONTROL, VERSION_2) if number == "0" else (CONTROL / "memory", VERSION_1)
        if number == "0" or "memory" in controllers.split(","):
            found += [(tops[0] / part, tops[1]) for part in (path, *path.parents)]
    return found
