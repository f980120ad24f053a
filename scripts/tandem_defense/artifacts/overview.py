"""Every cell of an experiment, whether a table of the papers has it or not."""

from tandem_defense.evaluation.rates import CELL, correct, fooled, noise_levels, rates
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


def overview(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every cell of an experiment, whether a table of the papers has it or not.

    A row per dataset, classifier, defense, attack and read-out: n images, accuracy over all of
    them with its interval (as :class:`Accuracy`), success_rate and noise_level over those that the
    bare classifier classifies correctly when clean (as :class:`Success`; not for clean images),
    linf, the largest change of a pixel, mean over the same attacked images.
    """
    keys = [*CELL, "first_iterations", "iteration"]
    table = rates(predictions, keys, correct(predictions)).rename(columns={"rate": "accuracy"})
    attacked = predictions[
        (predictions["clean_prediction"] == predictions["label"])
        & (predictions["attack"] != "clean")
    ]
    hits = fooled(attacked)
    succeeded = rates(attacked, keys, hits).rename(columns={"rate": "success_rate"})
    noise = noise_levels(attacked, keys, hits)
    change = attacked.groupby(keys, observed=True)["linf"].mean()
    for more in (succeeded[[*keys, "success_rate"]], noise, change.reset_index()):
        table = table.merge(more, on=keys, how="left")
    return table
