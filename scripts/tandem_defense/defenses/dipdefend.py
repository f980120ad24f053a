"""DIPDefend: a small deep image prior per image, taken where its worst patch has been learned best.

Dai, Feng, Wu, Chen, Lu, Jiang, Zhang and Xia, "DIPDefend: Deep Image Prior Driven Defense against
Adversarial Examples", ACM Multimedia 2020. The network is the skip network of Ulyanov, Vedaldi and
Lempitsky, "Deep Image Prior", CVPR 2018. docs/choices.md has what we chose ourselves.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.adam import Adam
from tandem_defense.defenses.base import Defense, names_of, uncompiled
from tandem_defense.defenses.dip import Restored, as_input, as_rgb, check
from tandem_defense.device import DRAWN
from tandem_defense.pipeline import checkpoint
from tandem_defense.restoration.reference import Z_CHANNELS, FitSettings
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Count, Counts, Positive, Size, Smoothing
from tandem_defense.training import generator, seeded

Z_SCALE = 0.1  # noise is U(0, 0.1), as in the deep-image-prior repository


class DIPDefend(Defense):
    """A skip network per image learns the image from noise; the result is one of its outputs.

    How well an output fits is the PSNR of its worst patch: where that is smoothed by a double
    exponential average and greatest is the output that is taken. An image's network, noise and
    stopping depend on `seed` and the image's id alone (without ids: on its content). Images are
    restored one by one; they may have any size, as :class:`DIP`'s. A restoration has no exact
    `gradient` (see :class:`Defense`).

    iterations : optimizer steps; all are taken, the result is from one of them
    learning_rate : Adam's
    widths : channels of the scales, each of half the size of the one before
    skip : channels that go around each scale; 0: none
    patch : side of the square patches; those at the right and lower edge may be smaller
    smoothing : weight of the past in both exponential averages of the worst patch's PSNR; 0: none
    seed : the run's

    The attribute `progress`, if set, is called after every step with the number of image-steps
    taken. Raises ValueError for settings of other values.
    """

    RESTORATION = True  # runs in jobs of its own, which record predictions at read-outs

    iterations: Count = 400
    learning_rate: Positive = 0.01
    widths: Counts = (4, 8, 16)
    skip: Size = 4
    patch: Count = 32
    smoothing: Smoothing = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.progress: Callable[[int], None] | None = None

    @uncompiled
    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Restored images, shape and range as the input's (B, C, H, W).

        Raises ValueError for anything but floating-point images in [0, 1] with 1 or 3 channels.
        """
        check(images)
        names, whole = names_of(images, ids), torch.zeros_like(images)
        with checkpoint.piece(images, names, self.seed, self.iterations):
            checkpoint.part("restored", {"images": whole}).resume()
            for restored in self.trace(images, names, [self.iterations]):
                whole[restored.positions] = restored.images
        return whole

    def trace(
        self, images: Tensor, ids: Sequence[str] | None, readouts: Sequence[int]
    ) -> Iterator[Restored]:
        """Yield what each image is restored to after every read-out's number of steps.

        images : (B, C, H, W) in [0, 1]
        readouts : numbers of iterations ≥ 1, ascending

        ``stopped`` has the step whose output it is. Raises ValueError for other read-outs, and for
        images as :meth:`forward` does.
        """
        check(images)
        readouts = FitSettings(readouts=readouts, learning_rate=1, smoothing=0).readouts
        images, names = images.detach(), names_of(images, ids)
        with checkpoint.piece(images, names, self.seed, list(readouts)):
            part = checkpoint.part("dipdefend", {}, done=0).resume()
            if self.progress and part.progress["done"]:
                self.progress(part.progress["done"] * readouts[-1])
            for i in range(part.progress["done"], len(images)):
                some = images[i : i + 1]
                # Also under a caller's no_grad, inference_mode or autocast; on one thread, because
                # sums in another order end in other pixels.
                exact = torch.autocast(images.device.type, enabled=False)
                with torch.inference_mode(False), torch.enable_grad(), exact, one_thread():
                    some = some.clone()
                    found = list(self._restore(as_rgb(some).float(), names[i], readouts))
                for step, taken, output in found:
                    yield Restored(
                        [i], 0, step, as_input(output, some), torch.tensor([taken], device="cpu")
                    )
                part.progress["done"] = i + 1
                if part.due():
                    part.save()

    def _restore(
        self, target: Tensor, name: str, readouts: Sequence[int]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """(step, step of the best output, that output) of one image (1, 3, H, W) at read-outs."""
        with seeded(derive_seed(self.seed, "dipdefend", name)), torch.device("cpu"):
            network = SkipNetwork(Z_CHANNELS, self.widths, self.skip).to(target.device)
        source = generator(self.seed, "dipdefend", name, "z")
        z = torch.rand(1, Z_CHANNELS, *target.shape[2:], generator=source, **DRAWN)
        z = z.to(target) * Z_SCALE
        optimizer, peak = Adam(network.parameters()), Peak(self.smoothing)
        for step in range(1, readouts[-1] + 1):
            output = network(z)
            F.mse_loss(output, target).backward()
            optimizer.step(self.learning_rate)
            if peak.update(worst_psnr(output.detach(), target, self.patch)):
                taken, best = step, output.detach()
            if self.progress:
                self.progress(1)
            if step in readouts:
                yield step, taken, best


class SkipNetwork(nn.Module):
    """An hourglass with strided convolutions down and bilinear enlargement up, with skips around.

    A scale: two 3 × 3 convolutions, the first with stride 2; the scales below; enlargement;
    concatenation with a 1 × 1 convolution of the scale's input to `skip` channels; a 3 × 3 and a
    1 × 1 convolution. Batch norm and leaky ReLU (0.2) after each. There is one image per batch,
    so that batch norm is per image.
    """

    def __init__(self, inputs: int, widths: Sequence[int], skip: int):
        super().__init__()
        self.down, self.around, self.up = (nn.ModuleList() for _ in range(3))
        for n, m in pairwise((inputs, *widths)):
            self.down.append(nn.Sequential(conv(n, m, 3, 2), conv(m, m, 3)))
            self.around.append(conv(n, skip, 1) if skip else nn.Identity())
        for m, below in zip(widths, (*widths[1:], widths[-1]), strict=True):
            norm = batch_norm(below + skip)
            self.up.append(nn.Sequential(norm, conv(below + skip, m, 3), conv(m, m, 1)))
        self.last, self.skip = nn.Conv2d(widths[0], 3, 1, dtype=torch.float32), skip

    def forward(self, z: Tensor) -> Tensor:
        """z (1, inputs, H, W), at least 2 ** (scales + 1) pixels, to an image (1, 3, H, W)."""
        levels = [z]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for level, around, up in zip(levels[::-1], self.around[::-1], self.up[::-1], strict=True):
            x = F.interpolate(x, level.shape[2:], mode="bilinear")
            x = up(torch.cat([around(level), x], 1) if self.skip else x)
        return torch.sigmoid(self.last(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution (H pixels to ⌈H / stride⌉, the edge mirrored), batch norm and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            *(inputs, outputs, kernel, stride, kernel // 2),
            padding_mode="reflect",
            dtype=torch.float32,
        ),
        batch_norm(outputs),
        nn.LeakyReLU(0.2),
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """By the statistics of the batch, always."""
    return nn.BatchNorm2d(channels, track_running_stats=False, dtype=torch.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on one thread inside, and on as many as before after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def worst_psnr(output: Tensor, target: Tensor, patch: int) -> float:
    """The lowest PSNR in dB of any patch of `patch` × `patch` pixels, of images (1, 3, H, W)."""
    error = (output - target).square().mean(1, keepdim=True)
    means = F.avg_pool2d(error, patch, ceil_mode=True)
    return float(-10 * means.max().clamp(min=1e-12).log10())


class Peak:
    """Where a series, smoothed by a double exponential average (Brown 1956), is greatest so far.

    The level is 2 a − b, where a averages the series and b averages a; so it does not lag behind a
    steady rise, as a alone would.
    """

    def __init__(self, smoothing: float):
        self.weight, self.averages, self.highest = 1 - smoothing, None, -float("inf")

    def update(self, value: float) -> bool:
        """Take in the next value; returns whether the smoothed series is at a new maximum."""
        a, b = self.averages or (value, value)
        a += self.weight * (value - a)
        b += self.weight * (a - b)
        self.averages, level = (a, b), 2 * a - b
        new = level > self.highest
        self.highest = max(level, self.highest)
        return new
