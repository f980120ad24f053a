"""What the figures of restored images show: the first images that an attack fooled."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.artifacts.pictures import fewer
from tandem_defense.extras import extra
from tandem_defense.pipeline import entries

with extra("pipeline"):
    import pandas as pd


@dataclass(frozen=True)
class Shown:
    """N images in each state, (N, C, H, W) float32 in [0, 1], and what the classifier says.

    images : ``original``, ``attacked`` and every defense that restored them
    labels : (N,) class numbers; names : the classes' names; ids, credits : N each
    fooled : whether the attack fooled the classifier on them
    """

    images: dict[str, Tensor]
    labels: np.ndarray
    names: tuple[str, ...]
    ids: tuple[str, ...]
    credits: tuple[str, ...]
    classifier: torch.nn.Module
    fooled: bool

    def panels(self, state: str) -> list[dict]:
        """Per image: ``image`` (H, W, C), ``prediction`` (the class's name), ``correct``."""
        images = self.images[state]
        return [
            {
                "image": image.permute(1, 2, 0).numpy(),
                "prediction": self.names[k],
                "correct": bool(k == label),
            }
            for image, k, label in zip(
                images, self.classifier.predict(images).tolist(), self.labels, strict=True
            )
        ]

    def titles(self) -> list[str]:
        """The true class of every image."""
        return [self.names[label] for label in self.labels]

    def frame(self, panels: dict[str, list[dict]]) -> pd.DataFrame:
        """What a figure of these panels shows: image, label, state, prediction, correct."""
        rows = [
            (name, title, state, panel["prediction"], panel["correct"])
            for state, column in panels.items()
            for name, title, panel in zip(self.ids, self.titles(), column, strict=True)
        ]
        return pd.DataFrame(rows, columns=["image", "label", "state", "prediction", "correct"])

    def note(self, spec, sheet: Sheet) -> str:
        """The line under the figure: which images, which attack, whose photographs."""
        count = len(self.labels)
        which = f"the first {count} images" if count > 1 else "the first image"
        which += " that it fools" if self.fooled else " (it fools none)"
        first = f"λ₁ = {spec.first_iterations}, " if spec.first_iterations else ""
        text = (
            f"{sheet.attacks[spec.attack]} on {sheet.classifiers[spec.classifier]},"
            f" {sheet.dataset}: {which}{fewer(count, spec.images)};"
            f" {first}λ₂ = {spec.iterations}; oblivious attacker"
        )
        owners = list(dict.fromkeys(c for c in self.credits if c))
        each = ", from the top:" if 1 < len(owners) == count else " by"
        return f"{text}. Photographs{each} {'; '.join(owners)}" if owners else text


def classifier_of(inputs: Inputs) -> torch.nn.Module:
    """The classifier of an artifact's entry with its weights, on the CPU."""
    return entries.load(inputs.entry, inputs.files["classifier"], torch.device("cpu"))


def load(inputs: Inputs, spec, defenses: tuple[str, ...]) -> Shown:
    """The first ``spec.images`` images that were classified correctly and are fooled.

    Where the attack fooled none of those that were kept, simply the first. Raises ValueError where
    the read-out was not kept, or the files are not of the same images.
    """
    data, (attacked,) = inputs.images, inputs.attacked
    lengths = dict.fromkeys([spec.first_iterations or 0, 0])  # of the first network, 0 without one
    fooled = attacked.success & (attacked.clean_prediction == attacked.labels)
    states, keys = {}, [f"{first}/{spec.iterations}" for first in lengths]
    for defense, (kept, ids) in zip(defenses, inputs.restored, strict=True):
        key = next((key for key in keys if key in kept), None)
        if key is None:
            raise ValueError(
                f"{defense}: expected images at λ₁/λ₂ = {' or '.join(keys)}, kept are {list(kept)}"
            )
        names = [list(some[: len(ids)]) for some in (data.ids, attacked.ids)]
        if names != [list(ids)] * 2:
            raise ValueError(f"{defense}: expected images {list(ids)}, got {names[0]}, {names[1]}")
        states[defense] = kept[key]
    count = min(len(ids) for _, ids in inputs.restored)
    candidates = [i for i in range(count) if fooled[i]]
    which = (candidates or list(range(count)))[: spec.images]
    images = {name: torch.from_numpy(kept[which]) for name, kept in states.items()}
    images["original"] = entries.to_tensor(data[which].images)
    images["attacked"] = torch.from_numpy(attacked.images[which])
    some = data[which]
    return Shown(
        images,
        some.labels,
        data.classes,
        some.ids,
        some.credits,
        classifier_of(inputs),
        bool(candidates),
    )
