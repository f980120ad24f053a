"""The overview has every cell, with the numbers that the tables have."""

import frames
import pandas as pd

from tandem_defense.artifacts.accuracy import Accuracy
from tandem_defense.artifacts.overview import overview
from tandem_defense.artifacts.success import Success

CELLS = ["classifier", "defense", "attack"]
STEPS = ["first_iterations", "iteration"]


def test_every_cell_as_the_tables_have_it():
    seeds = (0, 1, 2)
    both = pd.concat([frames.photos(seeds), frames.digits(seeds)], ignore_index=True)
    some = (both["seed"] == 1) & (both["image"] == "i1") & (both["defense"] == "none")
    both.loc[some, "prediction"] = 3
    result = overview(both).set_index([*CELLS, *STEPS]).sort_index()
    assert len(result) == len(both.drop_duplicates([*CELLS, *STEPS]))
    kind = Accuracy(experiment="tdips", first_iterations=100, iterations=1000)
    for row in kind.frame(frames.inputs(both), frames.PHOTOS).itertuples():
        cell = result.loc[(row.classifier, row.defense, row.attack, *row[5:7])]
        assert tuple(cell[["n", "accuracy", "low", "high", "seeds"]]) == tuple(row[7:12])
    models = {"a": {"classifier": "classic"}, "b": {"classifier": "funn"}}
    models |= {"c": {"classifier": "classic", "defense": "magnet"}}
    kind = Success(experiment="funn", models=models)
    for row in kind.frame(frames.inputs(both), frames.DIGITS).itertuples():
        which = {"defense": "none"} | models[row.model]
        cell = result.loc[(which["classifier"], which["defense"], row.attack, 0, 0)]
        assert cell["success_rate"] == row.success_rate
        assert cell["noise_level"] == row.noise_level or pd.isna(row.noise_level)


def test_clean_images_have_no_success_noise_or_change():
    clean = overview(frames.photos()).query("attack == 'clean'")
    assert len(clean) and clean[["success_rate", "noise_level", "linf"]].isna().all(axis=None)


def test_linf_is_the_mean_over_the_attacked_images():
    rows = frames.answers("ccW").assign(linf=[0.1, 0.3, 0.9])  # the last counts for accuracy alone
    (row,) = overview(rows).itertuples()
    assert (row.n, round(row.accuracy, 3), round(row.linf, 3)) == (3, 0.667, 0.2)
