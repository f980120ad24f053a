"""Grids of pictures: Figures 7 and 8 of the t-DIPs paper, Figure 2 of FUNN.

A picture is a numpy array, uint8 or float in [0, 1]: (H, W), (H, W, 1 or 3) or (1 or 3, H, W).
"""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tandem_defense.evaluation.plots import GREY, footer, footer_lines, style

WIDTH = 6.9  # inches, a page's text
GAP, LINE, HEAD, SIDE = 0.07, 0.13, 0.24, 0.24  # inches
RIGHT, WRONG = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]
HEAT, SIGNED = "inferno", "RdBu_r"


def pixels(image) -> np.ndarray:
    """A picture as float (H, W) or (H, W, 3) in [0, 1]; ValueError for another shape or range."""
    array = np.asarray(image)
    shape = array.shape
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] == 3):
        raise ValueError(
            f"expected a picture of shape (H, W), (H, W, 1|3), (1|3, H, W), got {shape}"
        )
    array = array / 255 if array.dtype == np.uint8 else array.astype(float)
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
        raise ValueError(f"expected pixels in [0, 1], got {array.min():.3g} to {array.max():.3g}")
    return array.clip(0, 1)


def image_grid(
    columns: Sequence[str],
    rows: Sequence[str],
    images: Sequence[Sequence],
    captions: Sequence[Sequence],
    note: str = "",
    *,
    width: float = WIDTH,
    bar: tuple | None = None,
) -> Figure:
    """Pictures in aligned rows and columns, as wide as a page's text, with captions below each.

    `columns` head the columns, `rows` name the rows (at the left). Each entry of `images` is a row
    of pictures (see the module), or of None for an empty place; each of `captions` a row of lists
    of (text, colour) lines. `width` in inches; `bar`, a (colour map, label), adds a colour bar for
    0 to 1. `note` is the footer. Raises ValueError where the numbers of entries do not agree.
    """
    if {len(rows)} != {len(images), len(captions)} or len(rows) == 0:
        raise ValueError(
            f"expected as many rows everywhere, got {len(rows)} names, {len(images)} "
            f"rows of images, {len(captions)} of captions"
        )
    if any(len(line) != len(columns) for line in [*images, *captions]):
        raise ValueError(f"expected {len(columns)} images and captions in every row")
    lines = max(len(caption) for row in captions for caption in row)
    right = 0.55 if bar else 0.0
    side = (width - SIDE - right - GAP * len(columns)) / len(columns)
    pictures = [[None if image is None else _colours(image) for image in row] for row in images]
    first = next(image for row in pictures for image in row if image is not None)
    tall = side * first.shape[0] / first.shape[1]
    pitch = tall + LINE * lines + 2 * GAP
    height = HEAD + pitch * len(rows) + 0.06 + 0.105 * len(footer_lines(note, width))
    with style():
        figure = Figure(figsize=(width, height))
        for i, name in enumerate(rows):
            top = height - HEAD - pitch * i
            figure.text(
                (SIDE - 0.08) / width,
                (top - tall / 2) / height,
                _short(name, tall),
                rotation=90 if len(name) > 2 else 0,
                ha="center",
                va="center",
                fontsize=7,
                color="0.15",
            )
            for j, column in enumerate(columns):
                left = SIDE + (side + GAP) * j
                if i == 0:
                    figure.text(
                        (left + side / 2) / width,
                        (top + 0.06) / height,
                        column,
                        ha="center",
                        va="bottom",
                        fontsize=7.5,
                        fontweight="bold",
                    )
                box = (left / width, (top - tall) / height, side / width, tall / height)
                if pictures[i][j] is not None:
                    axes = figure.add_axes(box)
                    axes.imshow(pictures[i][j], interpolation="nearest", aspect="auto")
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set(visible=True, color="0.7", linewidth=0.4)
                for k, (text, colour) in enumerate(captions[i][j]):
                    figure.text(
                        (left + side / 2) / width,
                        (top - tall - 0.04 - LINE * k) / height,
                        _short(text, side),
                        ha="center",
                        va="top",
                        fontsize=6.5,
                        color=colour,
                    )
        if bar:
            _bar(figure, bar, (width - right + 0.06, height - HEAD - tall, 0.09, tall))
        footer(figure, note)
    return figure


def _bar(figure, bar, box) -> None:
    """A colour bar for 0 to 1 at box (left, bottom, width, height in inches)."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    scale = ScalarMappable(Normalize(0, 1), bar[0])
    colours = figure.colorbar(scale, cax=axes, ticks=[0, 0.5, 1])
    colours.set_label(bar[1], fontsize=6.5)
    colours.outline.set_linewidth(0.4)
    axes.tick_params(labelsize=6, length=2)


def _colours(image) -> np.ndarray:
    """A picture as (H, W, 3), grey repeated."""
    array = pixels(image)
    return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array


def _short(text, inches) -> str:
    """Text cut to what fits at the captions' size, with an ellipsis."""
    room = max(int(inches * 20), 4)
    return text if len(text) <= room else f"{text[: room - 1].rstrip()}…"


def _answer(panel: dict, name: str) -> tuple:
    """The caption of a predicted class: ✓ or ✗ and its colour, right or wrong against `name`."""
    good = panel.get("correct", panel["prediction"] == name)
    return f"{'✓' if good else '✗'} {panel['prediction']}", RIGHT if good else WRONG


def figure7(rows: Sequence[dict], note: str = "") -> Figure:
    """Figure 7: what DIP alone and t-DIPs make of an attacked image.

    Each row has name (the true class) and clean, attacked, dip, tdips, each a dict of image,
    prediction (class name) and, where names do not decide it, correct (bool). `note` is the
    footer: attack, iterations, threat model. Raises ValueError for pictures of another shape.
    """
    heads = {"clean": "original", "attacked": "attacked", "dip": "DIP", "tdips": "t-DIPs"}
    return image_grid(
        list(heads.values()),
        [row["name"] for row in rows],
        [[row[key]["image"] for key in heads] for row in rows],
        [[[_answer(row[key], row["name"])] for key in heads] for row in rows],
        note,
    )


def overlay(image, heat) -> np.ndarray:
    """A heat map (H, W) in [0, 1] over the grey of a picture of that size, as (H, W, 3).

    The map's share grows with the heat, so that what it points at stays visible. Raises
    ValueError where sizes or range do not fit.
    """
    picture, heat = _colours(image), np.asarray(heat, dtype=float)
    if heat.shape != picture.shape[:2]:
        raise ValueError(f"expected a heat map of {picture.shape[:2]}, got {heat.shape}")
    if not (heat.min() >= 0 and heat.max() <= 1):
        raise ValueError(f"expected heat in [0, 1], got {heat.min():.3g} to {heat.max():.3g}")
    grey = np.repeat((picture @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    return 0.45 * grey + 0.55 * colormaps[HEAT](heat)[..., :3]


def figure8(rows: Sequence[dict], note: str = "") -> Figure:
    """Figure 8: where the classifier looks in original, attacked and restored images.

    Each row has name (the true class) and original, attacked, restored, each a dict of image,
    heat (class activation map, float (H, W) in [0, 1], of the image's size), prediction and, where
    names do not decide it, correct. A white line is drawn at 0.5, for a page printed in grey.
    Raises ValueError as ``overlay``.
    """
    heads = ["original", "attacked", "restored"]
    figure = image_grid(
        ["image", *heads],
        [row["name"] for row in rows],
        [
            [row["original"]["image"], *(overlay(row[k]["image"], row[k]["heat"]) for k in heads)]
            for row in rows
        ],
        [[[], *([_answer(row[key], row["name"])] for key in heads)] for row in rows],
        note,
        bar=(HEAT, "class activation (line: 0.5)"),
    )
    for i, row in enumerate(rows):
        for j, key in enumerate(heads):
            heat = np.asarray(row[key]["heat"])
            if heat.min() < 0.5 < heat.max():
                axes = figure.axes[(len(heads) + 1) * i + 1 + j]
                axes.contour(heat, levels=[0.5], colors="white", linewidths=0.7)
    return figure


def signed(change: np.ndarray) -> tuple[np.ndarray, float]:
    """A perturbation as a picture, blue to white (none) to red, and the factor that it shows.

    The factor stretches the largest change to the ends of the scale; 0 where nothing changed.
    In grey the size of a change still shows, its sign does not.
    """
    change = change.mean(axis=-1) if change.ndim == 3 else change
    largest = float(np.abs(change).max())
    factor = 1 / largest if largest > 0 else 0.0
    return colormaps[SIGNED](0.5 + 0.5 * change * factor)[..., :3], factor


def funn_figure2(rows: Sequence[dict], note: str = "") -> Figure:
    """FUNN's Figure 2: what it takes to fool the plain autoencoder's classifier, and FUNN's.

    Each row has name (the digit) and original, classic, funn (the image made against each), each
    a dict of image, prediction and, where names do not decide it, correct. The perturbation is
    the difference from the original, each stretched by the factor below it; L2 in [0, 1] pixels.
    Raises ValueError for pictures of another shape.
    """
    images, captions = [], []
    for row in rows:
        original = pixels(row["original"]["image"])
        images.append([original])
        captions.append([[_answer(row["original"], row["name"])]])
        for key in ("classic", "funn"):
            attacked = pixels(row[key]["image"])
            change = attacked - original
            picture, factor = signed(change)
            images[-1] += [attacked, picture]
            size = [(f"L₂ {_size(np.linalg.norm(change))}", GREY)]
            shown = [(f"shown × {_size(factor)}" if factor else "unchanged", GREY)]
            captions[-1] += [[_answer(row[key], row["name"]), *size], shown]
    heads = ["original", "against classic", "perturbation", "against FUNN", "perturbation"]
    return image_grid(heads, [row["name"] for row in rows], images, captions, note)


def _size(value) -> str:
    """Three digits, without an exponent for what pictures have."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def funn_rows(images, classic, funn, count: int) -> list[dict]:
    """Rows for :func:`funn_figure2`: the first `count` digits that both classifiers get right.

    images : the ImageSet attacked; classic, funn : the first chunk's AdversarialSet against each
    """
    right = (classic.clean_prediction == classic.labels) & (funn.clean_prediction == funn.labels)
    rows = []
    for i in (np.flatnonzero(right) if right.any() else range(len(right)))[:count]:
        label = classic.labels[i]
        row = {
            "name": images.classes[label],
            "original": {"image": images.images[i] / 255, "prediction": images.classes[label]},
        }
        for key, attacked in {"classic": classic, "funn": funn}.items():
            prediction = images.classes[attacked.prediction[i]]
            row[key] = {"image": attacked.images[i], "prediction": prediction}
        rows.append(row)
    return rows
