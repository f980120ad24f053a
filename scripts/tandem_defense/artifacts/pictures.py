"""Grids of pictures with captions.

A picture is a numpy array, uint8 or float in [0, 1]: (H, W), (H, W, 1 or 3) or (1 or 3, H, W).
"""

import logging
from collections.abc import Sequence

import numpy as np

from tandem_defense.artifacts.style import footer, footer_lines, style, width, wrap
from tandem_defense.extras import extra

with extra("pipeline"):
    import seaborn as sns
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

WIDTH = 6.9  # inches, a page's text
GAP, LINE, HEAD, SIDE = 0.07, 0.13, 0.24, 0.24  # inches
CORRECT, WRONG = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]


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
    bar: tuple | None = None,
) -> Figure:
    """Pictures in aligned rows and columns, as wide as a page's text, with captions below each.

    `columns` head the columns, `rows` name the rows (at the left). Each entry of `images` is a row
    of pictures (see the module), or of None for an empty place; each of `captions` a row of lists
    of (text, color) lines. `bar`, a (color map, label), adds a color bar for
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
    side = (WIDTH - SIDE - right - GAP * len(columns)) / len(columns)
    pictures = [[None if image is None else in_color(image) for image in row] for row in images]
    first = next(image for row in pictures for image in row if image is not None)
    tall = side * first.shape[0] / first.shape[1]
    heads = [
        [_short(line, side, 7.5, "bold") for line in wrap(column, side, 7.5, "bold")]
        for column in columns
    ]
    head = HEAD + LINE * (max(map(len, heads)) - 1)
    pitch = tall + LINE * lines + 2 * GAP
    height = head + pitch * len(rows) + 0.06 + 0.105 * len(footer_lines(note, WIDTH))
    with style():
        figure = Figure(figsize=(WIDTH, height))
        for i, name in enumerate(rows):
            top = height - head - pitch * i
            figure.text(
                (SIDE - 0.08) / WIDTH,
                (top - tall / 2) / height,
                _short(name, tall, 7),
                rotation=90 if len(name) > 2 else 0,
                ha="center",
                va="center",
                fontsize=7,
                color="0.15",
            )
            for j, title in enumerate(heads):
                left = SIDE + (side + GAP) * j
                if i == 0:
                    figure.text(
                        (left + side / 2) / WIDTH,
                        (top + 0.06) / height,
                        "\n".join(title),
                        ha="center",
                        va="bottom",
                        fontsize=7.5,
                        fontweight="bold",
                    )
                box = (left / WIDTH, (top - tall) / height, side / WIDTH, tall / height)
                if pictures[i][j] is not None:
                    axes = figure.add_axes(box)
                    axes.imshow(pictures[i][j], interpolation="nearest", aspect="auto")
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set(visible=True, color="0.7", linewidth=0.4)
                for k, (text, color) in enumerate(captions[i][j]):
                    figure.text(
                        (left + side / 2) / WIDTH,
                        (top - tall - 0.04 - LINE * k) / height,
                        _short(text, side, 6.5),
                        ha="center",
                        va="top",
                        fontsize=6.5,
                        color=color,
                    )
        if bar:
            _bar(figure, bar, (WIDTH - right + 0.06, height - head - tall, 0.09, tall))
        footer(figure, note)
    return figure


def _bar(figure, bar, box) -> None:
    """A color bar for 0 to 1 at box (left, bottom, width, height in inches)."""
    across, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / across, box[1] / height, box[2] / across, box[3] / height))
    scale = ScalarMappable(Normalize(0, 1), bar[0])
    colors = figure.colorbar(scale, cax=axes, ticks=[0, 0.5, 1])
    colors.set_label(bar[1], fontsize=6.5)
    colors.outline.set_linewidth(0.4)
    axes.tick_params(labelsize=6, length=2)


def in_color(image) -> np.ndarray:
    """A picture as (H, W, 3), gray repeated."""
    array = pixels(image)
    return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array


def _short(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """Text cut to what fits into so many inches, with an ellipsis."""
    if width(text, size, weight) <= inches:
        return text
    whole = len(text)
    while whole > 3 and width(f"{text[:whole].rstrip()}…", size, weight) > inches:
        whole -= 1
    return f"{text[:whole].rstrip()}…"


def answer(panel: dict) -> tuple[str, tuple]:
    """The caption of a predicted class: ✓ or ✗ and its color, from `prediction` and `correct`."""
    good = panel["correct"]
    return f"{'✓' if good else '✗'} {panel['prediction']}", CORRECT if good else WRONG


def fewer(count: int, wanted: int) -> str:
    """What a figure's note, and its log, say where it shows fewer images than were asked for."""
    if count == wanted:
        return ""
    log.warning(
        "%d images are shown, %d were asked for: there are no more of the kind", count, wanted
    )
    return f" (there are no more; {wanted} were asked for)"
