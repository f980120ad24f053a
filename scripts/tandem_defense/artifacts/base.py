"""What tables and figures have in common: what they are told, what they read, what they make.

A kind of table or figure is one class in a module of this folder, one line of
``pipeline/registry.py`` and one caption in ``report/``. Its settings are annotated attributes, as
everywhere (settings.py); the files that it reads are of the kinds in ``NEEDS``, and ``MAPS`` says
that it asks its classifier for feature maps. It only selects from what its experiment has computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tandem_defense.artifacts.printing import Grid, Marks
from tandem_defense.datasets.base import ImageSet
from tandem_defense.evaluation.published import read_table
from tandem_defense.extras import extra
from tandem_defense.files import judgments, predictions
from tandem_defense.files.adversarial import AdversarialSet, read_adversarial
from tandem_defense.files.images import read_images
from tandem_defense.files.restored import read_restored
from tandem_defense.settings import Settings

with extra("pipeline"):
    import pandas as pd

PUBLISHED = Path(__file__).parents[3] / "resources/published"


@dataclass(frozen=True)
class Sheet:
    """What a reader sees of an experiment: its names in the configuration's order, with labels.

    dataset : the dataset's kind, as the prediction rows have it
    classifiers, attacks, defenses : name to label; ``clean`` is among the attacks
    controls : defenses that are controls, not contenders
    threats : name to label
    """

    dataset: str
    classifiers: dict[str, str]
    attacks: dict[str, str]
    defenses: dict[str, str]
    controls: Sequence[str] = ()
    threats: dict[str, str] = field(default_factory=dict)


@dataclass
class Inputs:
    """The files of an artifact's ``NEEDS``, each read when it is asked for.

    files : need to path or paths
    entry : class and settings of the classifier, if that is a need
    shipped : name and SHA-256 of one of the published tables in ``resources/``
    """

    files: dict
    entry: dict | None = None
    shipped: dict | None = None

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """All prediction rows of the experiment."""
        return predictions.read(self.files["predictions"], "gather_predictions")

    @cached_property
    def threats(self) -> pd.DataFrame:
        """All judged candidates of the experiment's threats."""
        return judgments.read(self.files["threats"], "gather_threats")

    @cached_property
    def images(self) -> ImageSet:
        """The test images."""
        return read_images(self.files["images"])

    @cached_property
    def attacked(self) -> list[AdversarialSet]:
        """The first chunk of attacked images, for every classifier that the entry names."""
        return [read_adversarial(file) for file in self.files["attacked"]]

    @cached_property
    def restored(self) -> list[tuple[dict, list[str]]]:
        """Kept restored images and their ids, for every defense that the entry names."""
        return [read_restored(file) for file in self.files["restored"]]

    def published(self, *rates: str) -> pd.DataFrame | None:
        """A table of published numbers, shares in [0, 1]; None where the entry names none."""
        file = self.files.get("published")
        if self.shipped:
            file = PUBLISHED / f"{self.shipped['name']}.csv"
        return read_table(file, rates) if file else None


class Table(Settings):
    """A table: a tidy frame (the CSV), printed as Markdown and LaTeX.

    experiment : the experiment that is shown
    """

    experiment: str

    NEEDS = ("predictions",)

    def frame(self, inputs: Inputs, sheet: Sheet) -> pd.DataFrame:
        """The numbers, a row per cell, shares in [0, 1]."""
        raise NotImplementedError

    def grid(self, table: pd.DataFrame, sheet: Sheet, marks: Marks) -> Grid:
        """The frame as it is printed."""
        raise NotImplementedError


class Figure(Settings):
    """A figure, and the data behind it as a tidy frame.

    experiment : the experiment that is shown
    """

    experiment: str

    NEEDS = ("predictions",)

    def draw(self, inputs: Inputs, sheet: Sheet):
        """(matplotlib Figure, the frame of what it shows)."""
        raise NotImplementedError
