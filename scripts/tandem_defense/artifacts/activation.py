"""Figure 8 of the t-DIPs paper: class activation maps of original, attacked, restored images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.artifacts import shown
from tandem_defense.artifacts.base import Figure, Inputs, Sheet
from tandem_defense.artifacts.pictures import answer, image_grid, in_color
from tandem_defense.extras import extra
from tandem_defense.settings import AttackName, ClassifierName, Count, RestorationName

with extra("pipeline"):
    import pandas as pd
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Drawing

HEAT = "inferno"


class Activation(Figure):
    """A row per image: the image, and where the classifier looks in each of its states.

    classifier, attack, defense : whose images, restored by what
    iterations, first_iterations : the read-out that is shown, λ₂ and, of t-DIPs, λ₁
    images : how many are shown, the first that were classified correctly and are fooled
    """

    classifier: ClassifierName
    attack: AttackName
    defense: RestorationName
    iterations: Count
    first_iterations: Count | None = None
    images: Count = 3

    NEEDS = ("images", "attacked", "restored", "classifier")
    MAPS = True

    def draw(self, inputs: Inputs, sheet: Sheet) -> tuple[Drawing, pd.DataFrame]:
        """The figure, and a row per image and state with the classifier's answer.

        A white line is drawn at half of a map's largest value, for a page printed in gray.
        """
        chosen = shown.load(inputs, self, (self.defense,))
        states = {"original": "original", "attacked": "attacked", self.defense: "restored"}
        panels = {state: chosen.panels(state) for state in states}
        heats = {s: activation_maps(chosen.classifier, chosen.images[s]).numpy() for s in states}
        rows, images, captions = range(len(chosen.labels)), [], []
        for i in rows:
            overlays = [overlay(panels[s][i]["image"], heats[s][i]) for s in states]
            images.append([panels["original"][i]["image"], *overlays])
            captions.append([[], *([answer(panels[state][i])] for state in states)])
        drawing = image_grid(
            ["image", *states.values()],
            chosen.titles(),
            images,
            captions,
            chosen.note(self, sheet),
            bar=(HEAT, "class activation (line: 0.5)"),
        )
        for i in rows:
            for j, state in enumerate(states):
                heat = heats[state][i]
                if heat.min() < 0.5 < heat.max():
                    axes = drawing.axes[(len(states) + 1) * i + 1 + j]
                    axes.contour(heat, levels=[0.5], colors="white", linewidths=0.7)
        return drawing, chosen.frame(panels)


def activation_maps(classifier: nn.Module, images: Tensor) -> Tensor:
    """Class activation maps of the predicted classes, (N, H, W) in [0, 1] (Zhou et al. 2016).

    The map of class k is Σ_f w_kf · maps_f. With global average pooling and a linear head, the
    gradient of logit k with respect to the maps is w_kf / (h · w), so this needs no weights' name.
    """
    with torch.enable_grad():
        maps = classifier.maps(images).detach().requires_grad_()
        top = classifier.head(maps).max(1).values.sum()
        (gradient,) = torch.autograd.grad(top, maps)
    heat = (gradient * maps).sum(1, keepdim=True).clamp(min=0).detach()
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear")[:, 0]
    most = heat.amax((1, 2), keepdim=True)
    return heat / torch.where(most > 0, most, torch.ones_like(most))


def overlay(image, heat) -> np.ndarray:
    """A heat map (H, W) in [0, 1] over the gray of a picture of that size, as (H, W, 3).

    The map's share grows with the heat, so that what it points at stays visible. Raises
    ValueError where sizes or range do not fit.
    """
    picture, heat = in_color(image), np.asarray(heat, dtype=float)
    if heat.shape != picture.shape[:2]:
        raise ValueError(f"expected a heat map of {picture.shape[:2]}, got {heat.shape}")
    if not (heat.min() >= 0 and heat.max() <= 1):
        raise ValueError(f"expected heat in [0, 1], got {heat.min():.3g} to {heat.max():.3g}")
    gray = np.repeat((picture @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    return 0.45 * gray + 0.55 * colormaps[HEAT](heat)[..., :3]
