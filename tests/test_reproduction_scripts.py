"""The scripts of reproduction/: FUNN's on networks that nobody trained, Table 1's tables."""

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


def test_cells_of_table_1_have_as_many_photographs_as_were_answered(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "reproduction")
    import photographs

    def answers(defense, attack, right, steps=(0, 0)):
        prediction = [1 if hit == "1" else 2 for hit in right]
        rows = pd.DataFrame({"image": [f"i{i}" for i in range(len(right))], "label": 1})
        rows = rows.assign(attack=attack, defense=defense, prediction=prediction)
        rows = rows.assign(first_iterations=steps[0], iteration=steps[1], clean_prediction=1)
        return rows.assign(rejected=False, success=attack != "clean", linf=0.03, l2=1.0)

    rows = [
        answers("none", "clean", "1111"),
        answers("none", "bim", "000"),
        answers("jpeg", "clean", "1101"),
        answers("jpeg", "bim", "10"),
        *(answers("tdips", "bim", "11", (100, step)) for step in range(100, 1001, 100)),
        answers("tdips", "clean", "1", (100, 1000)),
        *(answers("dip", "bim", "0", (0, step)) for step in range(100, 1001, 100)),
    ]
    photographs.tables(pd.concat(rows)[photographs.COLUMNS], tmp_path)
    table = pd.read_csv(tmp_path / "table1.csv").set_index(["defense", "attack"])
    assert table["n"].to_dict() == {
        ("none", "clean"): 3,
        ("none", "bim"): 3,
        ("jpeg", "clean"): 2,
        ("jpeg", "bim"): 2,
        ("tdips", "clean"): 1,
        ("tdips", "bim"): 1,
    }
    assert table.loc["jpeg", "accuracy"].tolist() == [1.0, 0.5]
    assert table.loc[("tdips", "bim"), "iteration"] == 1000
    pairs = pd.read_csv(tmp_path / "table1_comparisons.csv")
    pairs = pairs.set_index(["defense_a", "defense_b", "attack"])[["n", "only_a", "only_b"]]
    assert pairs.loc[("none", "jpeg", "bim")].tolist() == [2, 0, 1]
    assert pairs.loc[("none", "tdips", "clean")].tolist() == [1, 0, 0]
    claims = pd.read_csv(tmp_path / "claims.csv")
    ahead = claims[claims["claim"] == "t-DIPs beats DIP at equal iterations"]
    holds = ahead.set_index("numbers")["holds"]
    assert pd.isna(holds["published"]) and holds["measured"]
