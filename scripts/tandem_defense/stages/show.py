"""What the figures of images show: the first images that an attack fooled."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense import cache
from tandem_defense.stages import models


@dataclass(frozen=True)
class Shown:
    """N images in each state, (N, C, H, W) float32 in [0, 1], with labels and names."""

    images: dict[str, Tensor]
    labels: np.ndarray
    classes: tuple[str, ...]
    classifier: nn.Module
    credits: tuple[str, ...]
    spec: dict
    fooled: bool


def load(files, classifier: tuple[dict, str], spec: dict) -> Shown:
    """The images of Figure 7 or 8.

    files : attributes ``images``, ``attacked`` and, for every defense shown, its restored file
    spec : the figure's configuration; its first `images` that were right and are fooled are taken,
        or, where the attack fooled none, simply the first
    """
    data = cache.read_images(files.images)
    attacked = cache.read_adversarial(files.attacked)
    fooled = attacked.success & (attacked.clean_prediction == attacked.labels)
    states = {}
    for key in ("dip", "tdips"):
        if key in spec:
            kept, ids = cache.read_restored(files[key])
            first = spec["first_iterations"] if key == "tdips" else 0
            states[key] = kept[f"{first}/{spec['iterations']}"]
    candidates = [i for i in range(len(ids)) if fooled[i]]
    which = (candidates or list(range(len(ids))))[: spec["images"]]
    images = {key: torch.from_numpy(found[which]) for key, found in states.items()}
    images["original"] = models.to_tensor(data[which].images)
    images["attacked"] = torch.from_numpy(attacked.images[which])
    net = models.load("classifiers", *classifier, torch.device("cpu"))
    credits = data[which].credits
    return Shown(images, data.labels[which], data.classes, net, credits, spec, bool(candidates))


def note(shown: Shown, labels: dict) -> str:
    """One line under the figure: which images, which attack, whose photographs."""
    spec = shown.spec
    chosen = "that were fooled" if shown.fooled else "images (none was fooled)"
    text = (
        f"{labels[spec['attack']]} on {labels[spec['classifier']]}, {spec['dataset']}: the first"
        f" {len(shown.labels)} {chosen}; λ₁ = {spec['first_iterations']},"
        f" λ₂ = {spec['iterations']}; oblivious attacker"
    )
    owners = "; ".join(dict.fromkeys(c for c in shown.credits if c))
    return f"{text}. Photographs, from the top: {owners}" if owners else text


def _panels(shown: Shown, state: str) -> list[dict]:
    """Per image what a panel needs: pixels (H, W, C), predicted class, right or wrong."""
    images = shown.images[state]
    found = shown.classifier.predict(images).numpy()
    return [
        {
            "image": image.permute(1, 2, 0).numpy(),
            "prediction": shown.classes[k],
            "correct": bool(k == label),
        }
        for image, k, label in zip(images, found, shown.labels, strict=True)
    ]


def figure7_rows(shown: Shown) -> list[dict]:
    """Rows for :func:`tandem_defense.evaluation.panels.figure7`."""
    states = {"clean": "original", "attacked": "attacked", "dip": "dip", "tdips": "tdips"}
    return _rows(shown, {key: _panels(shown, state) for key, state in states.items()})


def figure8_rows(shown: Shown) -> list[dict]:
    """Rows for :func:`tandem_defense.evaluation.panels.figure8`, each panel with its heat map."""
    states = {"original": "original", "attacked": "attacked", "restored": "tdips"}
    panels = {key: _panels(shown, state) for key, state in states.items()}
    for key, state in states.items():
        heat = activation_maps(shown.classifier, shown.images[state])
        for panel, h in zip(panels[key], heat, strict=True):
            panel["heat"] = h.numpy()
    return _rows(shown, panels)


def _rows(shown: Shown, panels: dict[str, list[dict]]) -> list[dict]:
    return [
        {"name": shown.classes[label]} | {key: found[i] for key, found in panels.items()}
        for i, label in enumerate(shown.labels)
    ]


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
