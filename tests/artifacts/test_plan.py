"""Hours of a plan: a network's steps at the speed that was measured for it, or for the nearest."""

import pandas as pd
import pytest

from tandem_defense.artifacts.plan import flops, seconds, speeds
from tandem_defense.restoration.reference import dip1, dip2


@pytest.fixture
def benchmark():
    """Rows of performance/restoration.csv."""
    rows = [
        ("cpu", "dip2", 8, 64, "engine", "float32", 100.0),
        ("cpu", "dip2", 8, 64, "engine", "float32", 160.0),  # two images at a time: faster
        ("cpu", "dip2", 4, 64, "engine", "float32", 50.0),
        ("cpu", "dip2", 8, 299, "engine", "float32", 20.0),
        ("cpu", "dip1", None, 299, "engine", "float32", 4.0),
        ("cpu", "tandem", 8, 64, "engine", "float32", 7.0),
        ("cpu", "dip2", 8, 64, "public_loop", "float32", 900.0),
        ("cpu", "dip2", 8, 64, "engine", "tf32", 900.0),
    ]
    columns = ["device", "network", "feature_scale", "size", "implementation", "precision"]
    return pd.DataFrame(rows, columns=[*columns, "image_steps_per_second"])


def test_a_measured_network_takes_what_was_measured(benchmark):
    known = speeds(benchmark)["cpu"]
    assert seconds(dip2(3, 8), 64, known) == pytest.approx(1 / 160)
    assert seconds(dip2(3, 4), 64, known) == pytest.approx(1 / 50)
    assert seconds(dip1(), 299, known) == pytest.approx(1 / 4)


def test_others_take_the_nearest_size_and_width(benchmark):
    known = speeds(benchmark)["cpu"]
    more = flops(dip2(32, 8), 64) / flops(dip2(3, 8), 64)  # DIP alone has more inputs
    assert seconds(dip2(32, 8), 64, known) == pytest.approx(more / 160)
    # No scale of 4 at 299 pixels: the size decides first.
    more = flops(dip2(3, 4), 299) / flops(dip2(3, 8), 299)
    assert seconds(dip2(3, 4), 299, known) == pytest.approx(more / 20)
    less = flops(dip1(0.25), 64) / flops(dip1(), 299)
    assert seconds(dip1(0.25), 64, known) == pytest.approx(less / 4)
