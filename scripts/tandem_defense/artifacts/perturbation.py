"""Figure 2 of the FUNN paper: what it takes to fool one classifier, and another."""

import numpy as np

from tandem_defense.artifacts.base import Figure, Inputs, Sheet
from tandem_defense.artifacts.pictures import answer, fewer, image_grid, pixels
from tandem_defense.artifacts.style import GRAY
from tandem_defense.extras import extra
from tandem_defense.settings import AttackName, ClassifierNames, Count

with extra("pipeline"):
    import pandas as pd
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Drawing

SIGNED = "RdBu_r"


class Perturbation(Figure):
    """A row per image: original, and for every classifier the attacked image and the perturbation.

    attack : whose images
    classifiers : those that were attacked
    images : how many are shown, the first that all of them classify correctly when clean
    """

    attack: AttackName
    classifiers: ClassifierNames
    images: Count = 6

    NEEDS = ("images", "attacked")

    def draw(self, inputs: Inputs, sheet: Sheet) -> tuple[Drawing, pd.DataFrame]:
        """The figure, and a row per image and classifier with the answer and the L2 distance.

        The perturbation is the difference from the original, each stretched by the factor below
        it; L2 in [0, 1] pixels.
        """
        data, attacked = inputs.images, inputs.attacked
        good = np.logical_and.reduce([a.clean_prediction == a.labels for a in attacked])
        which = (np.flatnonzero(good) if good.any() else np.arange(len(good)))[: self.images]
        images, captions, rows = [], [], []
        for i in which:
            label = int(data.labels[i])
            original = pixels(data.images[i] / np.float32(255))  # as the attack had it, to the bit
            images.append([original])
            captions.append([[answer({"prediction": data.classes[label], "correct": True})]])
            for name, chunk in zip(self.classifiers, attacked, strict=True):
                change = pixels(chunk.images[i]) - original
                picture, factor = signed(change)
                prediction, size = int(chunk.prediction[i]), float(np.linalg.norm(change))
                panel = {"prediction": data.classes[prediction], "correct": prediction == label}
                images[-1] += [pixels(chunk.images[i]), picture]
                shown = f"shown × {_short(factor)}" if factor else "unchanged"
                captions[-1] += [
                    [answer(panel), (f"L₂ {_short(size)}", GRAY)],
                    [(shown, GRAY)],
                ]
                rows.append((data.ids[i], name, data.classes[label], *panel.values(), size))
        heads = ["original"]
        for name in self.classifiers:
            heads += [f"against {sheet.classifiers[name]}", "perturbation"]
        how = "that all classify correctly" if good.any() else "(all classify none correctly)"
        note = (
            f"{sheet.attacks[self.attack]} on {sheet.dataset}: the first {len(which)} images"
            f" {how}{fewer(len(which), self.images)}; oblivious attacker"
        )
        titles = [data.classes[data.labels[i]] for i in which]
        columns = ["image", "classifier", "label", "prediction", "correct", "l2"]
        return image_grid(heads, titles, images, captions, note), pd.DataFrame(
            rows, columns=columns
        )


def signed(change: np.ndarray) -> tuple[np.ndarray, float]:
    """A perturbation as a picture, blue to white (none) to red, and the factor that it shows.

    The factor stretches the largest change to the ends of the scale; 0 where nothing changed.
    In gray the size of a change still shows, its sign does not.
    """
    change = change.mean(axis=-1) if change.ndim == 3 else change
    largest = float(np.abs(change).max())
    factor = 1 / largest if largest > 0 else 0.0
    return colormaps[SIGNED](0.5 + 0.5 * change * factor)[..., :3], factor


def _short(value: float) -> str:
    """Three digits, without an exponent for what pictures have."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
