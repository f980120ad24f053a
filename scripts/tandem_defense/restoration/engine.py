"""Fitting priors to images: one independent optimization per image, many at once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from tandem_defense.adam import Adam
from tandem_defense.restoration.networks import Prior


@dataclass(frozen=True)
class ReadOut:
    """What a fit looks like after `iteration` steps.

    output : (B, 3, H, W) in [0, 1], the networks' latest images
    average : the same, the exponential moving average of all images so far
    loss : (B,) mean squared error of `output`
    """

    iteration: int
    output: Tensor
    average: Tensor
    loss: Tensor


def fit(
    network: Prior,
    inputs: Tensor,
    targets: Tensor,
    *,
    readouts: Iterable[int],
    learning_rate: float,
    smoothing: float,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ReadOut]:
    """Fit lane i of `network`, fed with `inputs[i]`, to `targets[i]` (paper eq. 2 and 3).

    inputs : (B, channels, H, W), fixed
    targets : (B, 3, H, W) in [0, 1]
    readouts : steps after which to yield, ascending; the last is the number of steps
    smoothing : weight of the past in the moving average, which starts at the first output
    progress : called after every step with the number of images that it advanced

    The loss is the sum over images of each one's mean squared error, so every lane has the
    gradients it would have alone.
    """
    optimizer = Adam(network.parameters(), learning_rate)
    average, done = None, 0
    for wanted in readouts:
        for _ in range(done, wanted):
            output = network(inputs)
            loss = (output - targets).square().mean((1, 2, 3))
            loss.sum().backward()
            optimizer.step()
            output = output.detach()
            average = output.clone() if average is None else average.lerp_(output, 1 - smoothing)
            if progress:
                progress(len(targets))
        done = wanted
        yield ReadOut(wanted, output, average.clone(), loss.detach())
