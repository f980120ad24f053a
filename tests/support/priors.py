"""What tests of restorations share: small priors, images and tasks, and a run of any engine."""

import pytest
import torch
import torch.nn.functional as F

from tandem_defense.restoration import lanes, native
from tandem_defense.restoration.reference import FitSettings, Task, dip1, dip2

SMALL = {"feature_scale": 32, "precision": "float64", "smoothing": 0.9, "seed": 3}
ENGINES = {"native": native.fit, "lanes": lanes.fit}
PRIORS = {
    "dip2": dip2(32, 32),
    "dip2 without norm": dip2(3, 32, "none"),
    "dip2 affine": dip2(3, 32, "affine"),
    "dip2 odd widths, He": dip2(5, 20, initial_weights="he"),
    "dip1": dip1(0.125),
    "dip1 plain norm": dip1(0.125, "instance"),
    "dip1 without norm, He": dip1(0.125, "none", "he"),
}


@pytest.fixture(autouse=True)
def two_threads():
    """The CPU engine takes as many images at a time as there are threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def photos(n: int, height: int = 65, width: int = 72) -> torch.Tensor:
    """Smooth images with an edge, (n, 3, height, width) float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 5, 5, generator=rng, dtype=torch.float64)
    return F.interpolate(coarse, (height, width), mode="bilinear")


def tasks(architecture, n: int, height: int = 65, width: int = 72) -> list[Task]:
    """Images with inputs, where the architecture is not fed with z."""
    rng = torch.Generator().manual_seed(1)
    made = []
    for i, image in enumerate(photos(n, height, width)):
        z = torch.rand(architecture.inputs, height, width, generator=rng, dtype=torch.float64)
        made.append(Task(image, 10 + i, None if architecture.inputs == 32 else z))
    return made


def settings(readouts: tuple[int, ...], precision: str = "float64") -> FitSettings:
    """Those of all tests that do not say otherwise."""
    return FitSettings(readouts=readouts, learning_rate=1e-3, smoothing=0.9, precision=precision)


def run(fit, architecture, work, *, steps=(50,), precision="float64", **options) -> dict:
    """{(position, iteration): (output, average, loss)} of a fit."""
    results = {}
    for read in fit(architecture, work, settings(steps, precision), **options):
        for i, position in enumerate(read.positions):
            assert (position, read.iteration) not in results
            results[position, read.iteration] = read.output[i], read.average[i], read.loss[i]
    return results


def apart(one: dict, other: dict) -> float:
    """The largest difference of any value of any read-out."""
    assert one.keys() == other.keys()
    pairs = ((a, b) for key in one for a, b in zip(one[key], other[key], strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs)
