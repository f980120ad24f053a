"""The scripts of reproduction/ that measure FUNN, on networks that nobody trained."""

import numpy as np
import pandas as pd
import pytest
import torch

from tandem_defense.artifacts import rates
from tandem_defense.classifiers.autoencoder import ClassicAutoencoder
from tandem_defense.datasets.base import ImageSet


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    import funn_rates

    monkeypatch.setattr(rates, "STEPS", 30)
    return funn_rates


@pytest.fixture
def case():
    """A classifier, and eight images of which it classifies all but the first correctly."""
    net = ClassicAutoencoder(widths=(4, 6))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    labels = net.predict(x).numpy()
    labels[0] = (labels[0] + 1) % 10
    names = tuple(str(i) for i in range(10))
    return net, ImageSet(pixels, labels, tuple(f"i{i}" for i in range(8)), names, ("",) * 8)


def test_every_correct_image_has_a_row_per_attack(script, case, monkeypatch):
    for name in ("PGD L2", "PGD L∞"):
        monkeypatch.setitem(script.ATTACKS[name][1], "steps", 5)
    done = {name for name in script.ATTACKS if name.startswith("AutoAttack")}
    done |= {"DeepFool L∞, Foolbox 3"}
    table = pd.concat(script.measure(*case, seed=0, done=done))
    assert set(table["attack"]) == set(script.ATTACKS) - done
    for name, rows in table.groupby("attack"):
        assert rows["image"].tolist() == [f"i{i}" for i in range(1, 8)]
        if name.startswith("DeepFool"):
            assert (rows["step"].notna() == rows["distance"].notna()).all()
            assert rows["step"].dropna().between(1, 30).all()
            assert ((rows["margin"] <= 0) >= rows["step"].notna()).all()  # 50 steps are more
            assert rows["distance"].dropna().gt(0).all() and rows["distance"].notna().any()
        else:
            assert rows["step"].isna().all()
            assert set(rows["distance"].dropna()) <= set(rates.BUDGETS[name])
