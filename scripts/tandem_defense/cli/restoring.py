"""The work of ``tandem-defense restore``: batches of pictures through t-DIPs."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tandem_defense.cli.arguments import Running
from tandem_defense.cli.jobs import Job
from tandem_defense.cli.pictures import Picture
from tandem_defense.cli.progress import Progress, duration
from tandem_defense.defenses.dip import SMALLEST, TandemDIP, as_rgb
from tandem_defense.device import free_memory
from tandem_defense.restoration import cost
from tandem_defense.restoration.reference import Task
from tandem_defense.restoration.tiles import cut, join

# Pixels of a GPU's batch; a CPU's is a few pieces per thread, so that pictures are done early.
PIXELS, PER_THREAD = 24_000_000, 8
# Beside the networks: Python and PyTorch, and a batch's images in several copies.
PROCESS, COPIES = 600_000_000, 5
SMALLER = "restore it in parts (--tile 512) or smaller (--max-size 1024)"


def run(jobs: Sequence[Job], options: argparse.Namespace, device: torch.device) -> None:
    """Restore and write every picture, and say beforehand what that takes.

    Raises ValueError for a picture that does not fit the memory, before anything is computed,
    and Running for what fails later; pictures that are written by then stay.
    """
    defense = TandemDIP(
        first_iterations=(options.first_iterations,),
        iterations=options.iterations,
        feature_scale=options.feature_scale,
        seed=options.seed,
    )
    steps = (options.first_iterations, options.iterations)
    batches = _batches(jobs, device)
    memory = _memory(defense, batches, device)
    try:
        # What one step takes per pixel, of each network.
        rates = _seconds_per_pixel(defense, _pieces(batches[0])[0].to(device))
        pixels = sum(_pixels(batch) for batch in batches)
        total = pixels * sum(n * rate for n, rate in zip(steps, rates, strict=True))
        _announce(jobs, steps, total, memory, device)
        with Progress(total) as progress:
            for batch in batches:
                pieces = sum(job.pieces for job in batch)
                seconds = [_pixels(batch) / pieces * rate for rate in rates]
                defense.progress = progress.of(pieces * steps[0], seconds)
                for job, picture in _restored(defense, batch, device):
                    job.write(picture)
                    progress.say(f"{job.name} -> {job.target}")
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Running(f"the memory was not enough: {SMALLER}") from error
    except OSError as error:
        raise Running(str(error)) from error


def _batches(jobs: Sequence[Job], device: torch.device) -> list[list[Job]]:
    """Pictures whose pieces have one shape, together as far as that helps."""
    alike: dict[tuple[int, ...], list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.shape, []).append(job)
    batches = []
    for (_, height, width), group in alike.items():
        most = PER_THREAD * torch.get_num_threads()
        most = PIXELS // (height * width) if device.type == "cuda" else most
        pieces = most  # full: the group's first picture opens a batch
        for job in group:
            if pieces + job.pieces > most:
                batches.append([])
                pieces = 0
            batches[-1].append(job)
            pieces += job.pieces
    return batches


def _pixels(jobs: Sequence[Job]) -> int:
    return sum(job.pieces * job.shape[1] * job.shape[2] for job in jobs)


def _memory(defense: TandemDIP, batches: Sequence[Sequence[Job]], device: torch.device) -> int:
    """Bytes that the largest batch takes; ValueError where not even one of its pieces fits.

    Where a CPU's memory has no room for a piece per thread, `defense` takes fewer side by side:
    a process that takes too much is killed by the system, without an error to go on from.
    """
    free, most, threads = free_memory(device), 0, torch.get_num_threads()
    for batch in batches:
        height, width = (max(SMALLEST, n) for n in batch[0].shape[1:])  # the defense pads to it
        needed = max(cost.memory(prior, height, width, device) for prior in defense.priors())
        images = COPIES * 3 * 4 * _pixels(batch)
        if free is not None and needed + images > free:
            raise ValueError(
                f"{batch[0].name}: {width} x {height} pixels need {(needed + images) / 1e9:.1f} GB,"
                f" and {free / 1e9:.1f} GB are free: {SMALLER}"
            )
        together = min(sum(job.pieces for job in batch), threads)
        if free is not None and device.type == "cpu":
            together = min(together, (free - images) // needed)
            defense.batch = min(together, defense.batch or threads)
        most = max(most, needed * together + images)
    return most + PROCESS


def _seconds_per_pixel(defense: TandemDIP, pieces: Tensor) -> list[float]:
    """What a step of each network takes, as many pieces together as the restoration has."""
    threads = torch.get_num_threads()
    targets = as_rgb(pieces[: min(threads, defense.batch or threads)])
    starts = {"dip1": [None] * len(targets), "dip2": targets}
    settings = defense.fit_settings([1])
    rates = []
    for prior in defense.priors():
        tasks = [Task(x, 0, z) for x, z in zip(targets, starts[prior.kind], strict=True)]
        rates.append(cost.seconds_per_step(prior, tasks, settings) / pieces[0, 0].numel())
    return rates


def _announce(
    jobs: Sequence[Job], steps: tuple[int, int], seconds: float, memory: int, device: torch.device
) -> None:
    pieces = sum(job.pieces for job in jobs)
    what = "1 picture" if len(jobs) == 1 else f"{len(jobs)} pictures"
    what += f" in {pieces} tiles" if pieces > len(jobs) else ""
    where = f"on {device}"
    if device.type == "cpu":
        where = f"and {memory / 1e9:.2g} GB on {torch.get_num_threads()} CPU threads"
    print(
        f"{what}, {steps[0]} + {steps[1]} steps: about {duration(seconds)} {where}", file=sys.stderr
    )


def _pieces(jobs: Sequence[Job]) -> tuple[Tensor, list[Picture]]:
    """All pieces of some pictures, (N, C, h, w) in [0, 1], and the pictures."""
    found = [job.read() for job in jobs]
    pieces = []
    for job, picture in zip(jobs, found, strict=True):
        image = torch.from_numpy(picture.pixels).permute(2, 0, 1)
        pieces.append(cut(image, job.tile or max(image.shape), job.overlap))
    return torch.cat(pieces), found


def _restored(
    defense: TandemDIP, jobs: Sequence[Job], device: torch.device
) -> Iterator[tuple[Job, Picture]]:
    """The pictures of a batch, each as soon as its last piece is restored."""
    pieces, found = _pieces(jobs)
    restored = torch.empty_like(pieces)
    owners = [number for number, job in enumerate(jobs) for _ in range(job.pieces)]
    missing = [job.pieces for job in jobs]
    for read in defense.trace(pieces.to(device), None, [defense.iterations]):
        restored[read.positions] = read.images.cpu()
        for number in (owners[position] for position in read.positions):
            missing[number] -= 1
            if missing[number]:
                continue
            job, picture, first = jobs[number], found[number], owners.index(number)
            height, width, _ = picture.pixels.shape
            image = join(restored[first : first + job.pieces], height, width, job.overlap)
            yield job, replace(picture, pixels=image.permute(1, 2, 0).numpy())
