"""What a restoration job leaves beside its rows."""

import numpy as np
import pytest
import torch

from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.datasets.photos import Photos
from tandem_defense.evaluation.rows import Chunk
from tandem_defense.files import predictions
from tandem_defense.files.restored import read_restored
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline import classes
from tandem_defense.pipeline.entries import to_tensor
from tandem_defense.pipeline.restore import restore
from tandem_defense.restoration import lanes, native

CLASSIFIER = {
    "class": "tandem_defense.classifiers.small:SmallCNN",
    "settings": {"classes": 7, "width": 4},
}

SMALL = {"feature_scale": 32, "first_width": 0.25}


@pytest.fixture
def job(tmp_path):
    """``job(name, **settings)``: t-DIPs on three photographs; returns the file of its rows."""
    torch.manual_seed(0)
    net = SmallCNN(**CLASSIFIER["settings"])
    write_weights(tmp_path / "net", net.state_dict(), classes.identity(CLASSIFIER))
    data = Photos(test=7, tune=7, train=7, regions=4).load()["test"][:3]
    zeros = np.zeros(3, np.float32)
    columns = {"label": data.labels, "linf": zeros, "l2": zeros}

    def run(name, keep=2, entry=None, first_iterations=(3, 20), **settings):
        entry = entry or {"class": "tandem_defense.defenses.dip:TandemDIP", "settings": SMALL}
        rows = tmp_path / f"{name}.parquet"
        restore(
            Chunk(to_tensor(data.images), data.ids, columns),
            {"dataset": "photos", "attack": "clean", "defense": "tdips"},
            {"small": (CLASSIFIER, str(tmp_path / "net"))},
            entry | {"settings": entry["settings"] | settings},
            str(rows),
            readouts={"iterations": [2, 4], "first_iterations": list(first_iterations)},
            keep=keep,
            shown_output=str(tmp_path / f"{name}.shown"),
            seed=0,
            threads=1,
        )
        return rows

    return run


OWN = """
from tandem_defense.defenses.base import Defense
from tandem_defense.defenses.dip import Restored
from tandem_defense.settings import Count

class Fading(Defense):
    RESTORATION = True
    iterations: Count = 10

    def trace(self, images, ids, readouts):
        for step in readouts:
            yield Restored(list(range(len(images))), 0, step, images / (1 + step))
"""


def test_a_restoration_of_one_s_own_has_a_trace_and_no_more(job, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = {"class": f"{tmp_path}/own.py:Fading", "settings": {}}
    table = predictions.read(job("own", entry=own, first_iterations=[]), "restore")
    assert table.groupby(["first_iterations", "iteration"]).size().to_dict() == {
        (0, 2): 3,
        (0, 4): 3,
    }
    images, _ = read_restored(tmp_path / "own.shown")
    assert set(images) == {"0/2", "0/4"}
    assert np.allclose(images["0/2"] * 3, images["0/4"] * 5)
    assert predictions.flat_first_outputs(tmp_path / "own.parquet") == 0


def test_rows_and_kept_images(job, tmp_path):
    table = predictions.read(job("a"), "restore")
    cells = table.groupby(["first_iterations", "iteration"]).size()
    assert cells.to_dict() == {(3, 2): 3, (3, 4): 3, (20, 2): 3, (20, 4): 3}
    images, ids = read_restored(tmp_path / "a.shown")
    assert set(images) == {f"{first}/{step}" for first in (3, 20) for step in (0, 2, 4)}
    assert all(found.shape == (2, 3, 64, 64) for found in images.values()) and len(ids) == 2
    # DIP₁ does not depend on how far DIP₂ goes, and is another picture than DIP₂'s.
    assert all(found.std() > 0 for found in images.values())
    assert not np.allclose(images["20/0"], images["20/2"], atol=1e-3)
    job("none kept", keep=0)
    assert read_restored(tmp_path / "none kept.shown") == ({}, [])


def test_a_job_s_images_are_restored_side_by_side_on_a_gpu(job, monkeypatch):
    """The engine of GPUs, here on the CPU: a step is one of all images, and of all λ₁."""
    advance, steps = lanes.Fit.step, []

    def step(self):
        steps.append(self.network.lanes)
        advance(self)

    monkeypatch.setattr(native, "library", lambda narrow: None)
    monkeypatch.setattr(lanes.Fit, "step", step)
    rows = predictions.read(job("a"), "restore")
    assert steps == 20 * [3] + 4 * [6] and len(rows) == 12


def test_flat_first_outputs_are_counted_in_the_file_and_over_files(job, tmp_path, caplog):
    """Without a norm DIP₁ has learned nothing after three steps; with one it has after twenty."""
    sound = predictions.flat_first_outputs(job("sound"))
    flat = predictions.flat_first_outputs(job("flat", first_norm="none"))
    assert flat >= 3 > sound and "first_norm" in caplog.text
    whole = tmp_path / "whole.parquet"
    predictions.gather([tmp_path / "sound.parquet", tmp_path / "flat.parquet"], whole)
    assert predictions.flat_first_outputs(whole) == sound + flat


def test_every_classifier_has_its_own_answers(tmp_path):
    """Clean images are restored once for all of them."""
    nets = {}
    for name, answer in (("two", 2), ("five", 5), ("none", 0)):
        net = SmallCNN(**CLASSIFIER["settings"])
        last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        last.bias.data = 3.0 * torch.nn.functional.one_hot(torch.tensor(answer), 7)
        write_weights(tmp_path / name, net.state_dict(), classes.identity(CLASSIFIER))
        nets[name] = (CLASSIFIER, str(tmp_path / name))
    zeros = np.zeros(3, np.float32)
    restore(
        Chunk(torch.rand(3, 3, 64, 64), ("a", "b", "c"), {"label": np.arange(3)}),
        {"dataset": "photos", "attack": "clean", "defense": "dip", "linf": zeros, "l2": zeros},
        nets,
        {"class": "tandem_defense.defenses.dip:DIP", "settings": {"feature_scale": 32}},
        str(tmp_path / "rows.parquet"),
        readouts={"iterations": [1, 2], "first_iterations": []},
        keep=0,
        shown_output=str(tmp_path / "shown"),
        seed=0,
        threads=1,
    )
    table = predictions.read(tmp_path / "rows.parquet", "restore")
    for name, answer in (("two", 2), ("five", 5), ("none", 0)):
        mine = table[table["classifier"] == name]
        assert len(mine) == 2 * 3
        assert set(mine["prediction"]) == set(mine["clean_prediction"]) == {answer}
