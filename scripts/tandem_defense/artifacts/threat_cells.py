"""What docs/reproduction_details.md has of attackers who know of the defense.

As ``funn_cells``: a function ``(file, why, config)`` of a file in ``reproduction/measured/``.
"""

from pathlib import Path

from tandem_defense.artifacts.base import Sheet
from tandem_defense.artifacts.printing import MARKDOWN, markdown
from tandem_defense.artifacts.robustness import Robustness
from tandem_defense.extras import extra
from tandem_defense.pipeline.configuration import with_fractions
from tandem_defense.pipeline.demand import Experiment

with extra("pipeline"):
    import pandas as pd


def table3(file: Path, why: dict, config: dict) -> str:
    """Table 3 of the configuration's table of the file's name, and its Figures 9 that are there."""
    config = with_fractions(config)
    entry = config["tables"][file.stem]
    name, epsilon = entry["experiment"], entry["epsilon"]
    sheet = Sheet(**Experiment(name, config["experiments"][name]).sheet())
    table = pd.read_csv(file).fillna({"signs": ""})
    parts = [markdown(Robustness(experiment=name, epsilon=epsilon).grid(table, sheet, MARKDOWN))]
    parts += [
        f"![{figure.get('label', key)}](../reproduction/measured/{key}.png)\n"
        for key, figure in config["figures"].items()
        if figure["experiment"] == name and figure["kind"] == "security"
        if (file.parent / f"{key}.png").exists()
    ]
    return "\n".join(parts)
