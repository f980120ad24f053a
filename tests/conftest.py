"""What several tests share: one thread per process, the repository's paths, a tiny experiment."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

from pathlib import Path

import pytest
import torch
import yaml

torch.set_num_threads(1)
if not torch.cuda.is_available():  # then Triton's interpreter runs its kernels, on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def schema(root) -> dict:
    """The configuration's JSON schema."""
    return yaml.safe_load((root / "schemas/config.schema.yaml").read_text())


@pytest.fixture
def config(root) -> dict:
    """The demo's configuration, fractions replaced; a fresh copy for every test.

    With a second classifier, which curves and threats leave out.
    """
    from tandem_defense.pipeline.configuration import with_fractions

    config = with_fractions(yaml.safe_load((root / "demo/config.yaml").read_text()))
    experiment = config["experiments"]["tdips"]
    experiment["classifiers"]["shufflenet"] = {
        "kind": "torchvision",
        "architecture": "shufflenet_v2_x0_5",
        "classes": 7,
        "training": {"epochs": 1},
    }
    curves = [experiment["defenses"]["dip"], experiment["defenses"]["tdips"]["readouts"][1]]
    for entry in (*curves, *experiment["threats"].values()):
        entry.setdefault("only", {})["classifiers"] = ["small"]
    return config


@pytest.fixture(autouse=True)
def denormals():
    """A job flushes denormal numbers in its whole process, which here outlives it."""
    yield
    torch.set_flush_denormal(False)
