"""docs/extending.md's example works as the page says, from a folder outside the package."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from checkout import copy_workflow, planned, snakemake
from PIL import Image
from safetensors.torch import save_file
from scipy.ndimage import median_filter

from tandem_defense.pipeline.classes import load_class


def pictures(folder):
    """Three classes of pictures in several sizes and formats."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("circle", "square", "stripe")):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            height, width = rng.integers(70, 120, 2)
            pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
            pixels[..., label] += 150
            ending = ("png", "jpg", "webp")[i % 3]
            Image.fromarray(pixels).save(folder / name / f"{i}.{ending}")


@pytest.fixture(scope="module")
def study(root, tmp_path_factory):
    """A checkout, and beside it a folder with what the page shows."""
    base = tmp_path_factory.mktemp("extending")
    checkout = copy_workflow(root, base / "checkout")
    folder = base / "study"
    pictures(folder / "pictures")
    page = (root / "docs/extending.md").read_text()
    (code,) = re.findall(r"`mine.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    (folder / "mine.py").write_text(code)
    (config,) = re.findall(r"`config.yaml`:\n\n```yaml\n(.*?)```", page, re.DOTALL)
    (folder / "config.yaml").write_text(config)
    # Left is class 0: the weights say so.
    halves = torch.ones(3, 64, 64)
    halves[..., 32:] = -1
    weight = torch.stack([halves.flatten(), -halves.flatten()])
    save_file({"1.weight": weight, "1.bias": torch.zeros(2)}, folder / "net.safetensors")
    return checkout, folder


@pytest.fixture(scope="module")
def finished(study):
    checkout, folder = study
    done = run(study, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout, folder


def run(study, *arguments):
    checkout, folder = study
    return snakemake(checkout, *arguments, directory=folder)


def edited(folder, change):
    """The configuration after `change`, and the text before."""
    file = folder / "config.yaml"
    before = file.read_text()
    config = yaml.safe_load(before)
    change(config)
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file, before


def test_the_example_runs(finished):
    _, folder = finished
    table = pd.read_csv(folder / "results/tables/accuracy.csv")
    assert set(table["defense"]) == {"none", "median", "tdips"} and (table["n"] == 6).all()
    assert set(table["attack"]) == {"clean", "bim", "noise"} and table["published"].isna().all()
    halves = pd.read_csv(folder / "results/tables/clean.csv")
    assert set(halves["defense"]) == {"none", "jpeg"} and (halves["accuracy"] == 1).all()
    bars = pd.read_csv(folder / "results/figures/bars.csv")
    assert set(bars["defense"]) == {"none", "median", "tdips"}
    assert (folder / "results/figures/bars.png").read_bytes().startswith(b"\x89PNG")
    assert "| Two layers" in (folder / "results/tables/accuracy.md").read_text()
    points = pd.read_csv(folder / "results/figures/over_iterations.csv")
    assert points["iteration"].tolist() == [2, 4]
    assert planned(run(finished, "-n")) == {}


def test_the_defense_is_a_median(finished):
    _, folder = finished
    images = torch.rand(2, 3, 12, 13)
    expected = np.stack(
        [[median_filter(c, 5, mode="mirror") for c in image] for image in images.numpy()]
    )
    found = load_class(f"{folder}/mine.py:Median")(kernel=5)(images)
    assert np.allclose(found.numpy(), expected)


def test_a_change_of_one_s_own_code_reruns_what_uses_it(finished):
    _, folder = finished
    file = folder / "mine.py"
    before = file.read_text()
    try:
        file.write_text(before + "\n# A comment.\n")
        assert planned(run(finished, "-n")) == {}
        file.write_text(before.replace(".median(4).values", ".mean(4)"))
        jobs = planned(run(finished, "-n"))
        assert jobs["evaluate"] == 2 and jobs["train_classifier"] == 1 and jobs["bars"] == 1
        assert jobs["prepare_images"] == 1  # of the dataset that is code
    finally:
        file.write_text(before)


def test_settings_are_checked_like_ours(finished):
    _, folder = finished

    def even(config):
        config["experiments"]["mine"]["defenses"]["median"]["kernel"] = 4

    file, before = edited(folder, even)
    try:
        done = run(finished, "-n")
    finally:
        file.write_text(before)
    assert done.returncode != 0
    assert "defenses.median.kernel: found 4, allowed is an odd number ≥ 1" in done.stdout


def test_code_of_one_s_own_runs_only_where_the_configuration_says_so(finished):
    _, folder = finished
    file, before = edited(folder, lambda config: config.pop("plugins"))
    try:
        done = run(finished, "-n")
    finally:
        file.write_text(before)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "mine.py:Median is code of your own" in done.stdout
    assert "plugins: true" in done.stdout and "SECURITY.md" in done.stdout


@pytest.mark.parametrize(
    ("kind", "why"),
    [("absent.py:Median", "there is no file absent.py"), ("mine.py:Mean", "has no class Mean")],
)
def test_a_class_that_is_not_there_is_named(finished, kind, why):
    _, folder = finished

    def other(config):
        config["experiments"]["mine"]["defenses"]["median"]["kind"] = kind

    file, before = edited(folder, other)
    try:
        done = run(finished, "-n")
    finally:
        file.write_text(before)
    assert done.returncode != 0 and f"median.kind: {kind} cannot be used" in done.stdout
    assert why in done.stdout and "Traceback" not in done.stdout


@pytest.mark.parametrize("artifacts", [(), ("tables",), ("figures",)])
def test_an_experiment_is_computed_whole_without_artifacts(finished, artifacts):
    """Tables, figures or both may be absent; the predictions are planned all the same."""
    _, folder = finished

    def fewer(config):
        for section in ("tables", "figures"):
            if section not in artifacts:
                del config[section]

    file, before = edited(folder, fewer)
    try:
        done = run(finished, "-n", "--forceall")
    finally:
        file.write_text(before)
    jobs = planned(done)
    assert jobs["restore"] == 2 and jobs["restore_clean"] == 1 and jobs["evaluate"] == 2
    assert ("accuracy" in jobs) == ("tables" in artifacts)
