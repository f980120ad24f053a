"""When and where images fall, on six images whose falls are known."""

import pandas as pd
import pytest

from tandem_defense.artifacts import rates, style

NAN = float("nan")
# step and distance by DeepFool, smallest ε by PGD
FALLS = {
    "classic": [(2, 0.5, 0.5), (3, 1.0, 1), (40, 1.2, 1.25)],
    "funn": [(40, 0.1, 0.25), (900, 0.2, 0.25), (NAN, NAN, 0.75)],
}


@pytest.fixture
def table():
    rows = []
    for setting, images in FALLS.items():
        for i, (step, distance, epsilon) in enumerate(images):
            here = {"setting": setting, "seed": 0, "image": f"i{i}"}
            for rule in rates.RULES:
                walk = {"attack": f"DeepFool L2, {rule}", "step": step, "distance": distance}
                walk["margin"] = i / 10
                rows.append(here | walk)
            rows.append(here | {"attack": "PGD L2", "step": NAN, "distance": epsilon})
            rows.append(here | {"attack": "AutoAttack L2", "step": NAN, "distance": epsilon})
    return pd.DataFrame(rows)


def test_shares(table):
    rows = rates.groups(table, "DeepFool L2, Foolbox 1")
    assert list(rows) == ["classic", "funn"]
    assert [rates.fallen(rows["funn"], "step", n) for n in (39, 40, 2000)] == [0, 1 / 3, 2 / 3]
    assert rates.fallen(rows["classic"], "distance", 1.0) == 2 / 3
    left = rates.standing(table, "funn", "L2")
    assert left["image"].tolist() == ["i1", "i2"] and left["distance"].tolist() == [0.25, 0.75]
    assert left["margin"].tolist() == [0.1, 0.2]
    assert not len(rates.standing(table, "classic", "L2"))


def test_figure_shows_them(table, tmp_path):
    with style.style():
        drawing = rates.draw(table)
    steps, distance, budget = drawing.axes[:3]
    classic, funn = steps.lines[:2]
    assert classic.get_xdata().tolist() == [2, 3, 40, rates.STEPS]
    assert funn.get_ydata().tolist() == [1 / 3, 2 / 3, 2 / 3]
    assert distance.lines[1].get_xdata().tolist() == [0.1, 0.2]
    tried = dict(zip(*(v.tolist() for v in budget.lines[1].get_data()), strict=True))
    assert tried[0] == 1 and tried[0.25] == pytest.approx(1 / 3) and tried[0.75] == 0
    assert len(budget.lines) == 2  # AutoAttack's is a table
    rates.save(table, tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000
