"""The gallery: one page with pictures of every restoration, and the tables and figures.

It reads what is there: prediction rows, attacked images, kept restored images, and what tables and
figures show as CSV. Everything is in the page: it asks the network for nothing.
"""

import base64
import copy
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.artifacts.activation import HEAT, activation_maps
from tandem_defense.evaluation.rates import correct, rates
from tandem_defense.extras import extra
from tandem_defense.files import predictions
from tandem_defense.files.adversarial import AdversarialSet, read_adversarial
from tandem_defense.files.images import read_images
from tandem_defense.files.restored import read_restored
from tandem_defense.files.tables import read_csv
from tandem_defense.pipeline import entries as modules

with extra("pipeline"):
    import pandas as pd
    from jinja2 import Environment
    from jinja2.utils import htmlsafe_json_dumps
    from matplotlib import colormaps
    from PIL import Image

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parents[3] / "report/gallery.html"
IMAGES = 8  # of an experiment, at most
# Characters of all pictures. With tables and figures a page is below 15 MB. The one in Snakemake's
# report has pictures only; it is an address there, of which Chromium takes 2 MB at most.
ROOM, REPORT_ROOM = 11_000_000, 1_300_000
SIDE, HEAT_SIDE = 128, 16  # pixels, at most
TOP = 5  # classes
LINES = 200  # of a table that is shown as it is
RECOVERED, LOST, NEVER, NOT_FOOLED = "recovered", "lost", "never", "unfooled"

# Names of files and entries, each with what it is of: {"experiment": …, "classifier": …, …}.
Kept = dict[str, list[tuple[dict, str]]]


class Pictures:
    """Pictures as data URIs, each once, in `uris`."""

    def __init__(self):
        self.uris: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, image: np.ndarray, lossless: bool = False) -> int:
        """The place of a picture (H, W, 1 or 3) in [0, 1] or uint8; WebP."""
        if image.dtype != np.uint8:
            image = np.round(255 * image).astype(np.uint8)
        stream = io.BytesIO()
        picture = Image.fromarray(np.repeat(image, 3, 2) if image.shape[2] == 1 else image)
        picture.save(stream, "WEBP", quality=88, method=4, lossless=lossless)
        uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        if uri not in self._places:
            self._places[uri] = len(self.uris)
            self.uris.append(uri)
        return self._places[uri]


def page(experiments: dict, tables: list[dict], figures: list[dict]) -> str:
    """The page's HTML, of what :func:`fitted`, :func:`tables` and :func:`figures` give."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data = experiments | {"figures": figures}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        data=htmlsafe_json_dumps(data, allow_nan=False, ensure_ascii=False),
        experiments=experiments["experiments"],
        tables=tables,
        figures=figures,
    )


# --- pictures -----------------------------------------------------------------------------------


def experiments(kept: Kept, entries: Sequence[dict], sheets: dict[str, dict]) -> dict:
    """What can be shown of every experiment that has restored images, and the pictures.

    kept : the files that were kept; entries : of ``kept["classifier"]``, in the same order

    Raises ValueError where files of one set hold other images.
    """
    pictures = Pictures()
    shown = []
    for names, file in kept.get("images", ()):
        name = names["experiment"]
        own = {
            kind: [(of, path, i) for i, (of, path) in enumerate(files) if of["experiment"] == name]
            for kind, files in kept.items()
        }
        nets = {
            of["classifier"]: modules.load(entries[i], path, torch.device("cpu"))
            for of, path, i in own["classifier"]
        }
        shown.append(_experiment(own, file, nets, sheets[name], pictures))
    return {"experiments": shown, "pictures": pictures.uris}


def _experiment(own: dict, images: str, nets: dict, sheet: dict, pictures: Pictures) -> dict:
    data = read_images(images)
    ((of, file, _),) = own["predictions"]
    rows = predictions.read(file, "gather_predictions")
    sets = []
    for classifier, attack in dict.fromkeys(
        (names["classifier"], names["attack"]) for names, _, _ in own["restored"]
    ):
        here = {"classifier": classifier, "attack": attack}
        files = {
            names["defense"]: read_restored(path)
            for names, path, _ in own["restored"]
            if {k: names[k] for k in here} == here
        }
        attacked = [
            read_adversarial(path)
            for names, path, _ in own.get("attacked", ())
            if {k: names[k] for k in here} == here
        ]
        some = rows[(rows["classifier"] == classifier) & (rows["attack"] == attack)]
        tracks = _tracks(files, some, sheet)
        count = min(IMAGES, *(len(ids) for _, ids in files.values()))
        for ids in [*(ids for _, ids in files.values()), *(a.ids for a in attacked)]:
            if tuple(ids[:count]) != data.ids[:count]:
                raise ValueError(f"{classifier}, {attack}: expected {data.ids[:count]}, got {ids}")
        bare = some[some["defense"] == "none"]
        items = [
            _item(i, data, attacked, tracks, files, nets[classifier], pictures)
            | {"others": _others(some[some["seed"] == of["seed"]], data.ids[i], sheet)}
            for i in range(count)
        ]
        sets.append(
            here
            | {
                "tracks": tracks,
                "images": int(some["image"].nunique()),
                "undefended": float(correct(bare).mean()) if len(bare) else None,
                "items": items,
            }
        )
    count = max(len(group["items"]) for group in sets)
    return {
        "label": sheet["label"],
        "dataset": sheet["dataset"],
        "classes": list(data.classes),
        "classifiers": sheet["classifiers"],
        "attacks": sheet["attacks"],
        "images": [
            {"id": data.ids[i], "label": int(data.labels[i]), "credit": credit}
            for i, credit in zip(range(count), data.credits or ("",) * count)
        ],
        "sets": sets,
    }


def _tracks(files: dict, rows: pd.DataFrame, sheet: dict) -> list[dict]:
    """Every restoration, one per λ₁, with its read-outs and the accuracy at each."""
    tracks = []
    for defense, (kept, _) in files.items():
        points = sorted(tuple(map(int, key.split("/"))) for key in kept)
        for first in dict.fromkeys(first for first, _ in points):
            some = rows[(rows["defense"] == defense) & (rows["first_iterations"] == first)]
            shares = rates(some, ["iteration"], correct(some)).set_index("iteration")
            steps = [step for number, step in points if number == first and step]
            label = sheet["defenses"][defense] + (f", λ₁ = {first}" if first else "")
            curve = shares.loc[steps, ["rate", "low", "high"]].round(4).to_numpy().tolist()
            names = {"defense": defense, "first": first, "label": label}
            tracks.append(names | {"steps": steps, "curve": curve})
    return tracks


def _item(
    i: int,
    data,
    attacked: list[AdversarialSet],
    tracks: list[dict],
    files: dict,
    net: nn.Module,
    pictures: Pictures,
) -> dict:
    """Image `i` of a set in all its states, as places in `pictures` with the classifier's answers.

    Every state is [picture, heat map or null, [[class, probability], …]].
    """
    original = modules.to_tensor(data.images[i : i + 1])[0]
    states = [original]
    if attacked:
        states.append(torch.from_numpy(attacked[0].images[i]))
    for track in tracks:
        kept, _ = files[track["defense"]]
        steps = [0, *track["steps"]] if f"{track['first']}/0" in kept else track["steps"]
        states += [torch.from_numpy(kept[f"{track['first']}/{step}"][i]) for step in steps]
    shots = iter(_shots(torch.stack(states), net, pictures, exact=1 + len(attacked)))
    item = {"image": i, "original": next(shots), "attacked": None, "noise": None, "tracks": []}
    if attacked:
        item["attacked"] = next(shots)
        item["noise"] = _noise(original, attacked[0], i, pictures)
    label = int(data.labels[i])
    for track in tracks:
        kept, _ = files[track["defense"]]
        start = next(shots) if f"{track['first']}/0" in kept else None
        line = [next(shots) for _ in track["steps"]]
        outcome = _outcome(label, item["original"], item["attacked"], line)
        item["tracks"].append({"start": start, "shots": line, "outcome": outcome})
    return item


def _shots(states: Tensor, net: nn.Module, pictures: Pictures, exact: int) -> list[list]:
    """States of an image (N, C, H, W) as the page has them; the first `exact` as they are."""
    shots = []
    small = _shrunk(states, SIDE)
    with torch.no_grad():
        answers = torch.cat([net(some).softmax(1) for some in states.split(64)])
    best = answers.topk(min(TOP, answers.shape[1]), 1)
    heats = _heats(states, net)
    for k, image in enumerate(small.permute(0, 2, 3, 1).numpy()):
        heat = None if heats is None else pictures.add(heats[k])
        top = zip(best.indices[k].tolist(), best.values[k].tolist(), strict=True)
        top = [[number, round(share, 3)] for number, share in top]
        shots.append([pictures.add(image, lossless=k < exact), heat, top])
    return shots


def _heats(states: Tensor, net: nn.Module) -> np.ndarray | None:
    """Class activation maps in color, (N, h, w, 3); None of a network without feature maps."""
    try:
        maps = torch.cat([activation_maps(net, some) for some in states.split(64)])
    except (NotImplementedError, ValueError):
        return None
    return colormaps[HEAT](_shrunk(maps[:, None], HEAT_SIDE)[:, 0].numpy())[..., :3]


def _shrunk(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) with at most so many pixels a side."""
    factor = side / max(images.shape[2:])
    if factor >= 1:
        return images
    size = [max(1, round(n * factor)) for n in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def _noise(original: Tensor, attacked: AdversarialSet, i: int, pictures: Pictures) -> dict:
    """The perturbation, its largest change stretched to black or white on gray."""
    change = attacked.images[i] - original.numpy()
    most = float(np.abs(change).max())
    factor = 0.5 / most if most else 1.0
    image = _shrunk(torch.from_numpy(0.5 + factor * change)[None], SIDE)[0]
    norms = {"linf": round(255 * float(attacked.linf[i]), 2), "l2": round(float(attacked.l2[i]), 3)}
    place = pictures.add(image.clamp(0, 1).permute(1, 2, 0).numpy(), lossless=True)
    return {"picture": place, "factor": round(factor, 1), **norms}


def _outcome(label: int, original: list, attacked: list | None, shots: list[list]) -> str:
    """What became of an image, by the classifier's first answers."""
    said = [top[0][0] == label for _, _, top in shots]
    fooled = original[2][0][0] == label and attacked is not None and attacked[2][0][0] != label
    if not fooled:
        return NOT_FOOLED
    if said[-1]:
        return RECOVERED
    return LOST if any(said) else NEVER


def _others(rows: pd.DataFrame, image: str, sheet: dict) -> list[list]:
    """[label, class or null where refused] of the feed-forward defenses."""
    some = rows[(rows["image"] == image) & (rows["iteration"] == 0) & (rows["defense"] != "none")]
    return [
        [sheet["defenses"][row.defense], None if row.rejected else row.prediction]
        for row in some.itertuples()
    ]


def fitted(whole: dict, room: int) -> dict:
    """What :func:`experiments` gives, with as many of the first images as there is room for.

    room : characters of all pictures; one image of each experiment is shown in any case
    """
    shown, uris = whole["experiments"], whole["pictures"]

    def places(count: int) -> list[int]:
        used: set[int] = set()
        for experiment in shown:
            for group in experiment["sets"]:
                for item in group["items"][:count]:
                    used.update(_places(item))
        return sorted(used)

    count = IMAGES
    while count > 1 and sum(len(uris[place]) for place in places(count)) > room:
        count -= 1
    if count < max((len(experiment["images"]) for experiment in shown), default=0):
        log.info("%d images of each experiment are shown: there is no room for more", count)
    used = places(count)
    moved = {place: k for k, place in enumerate(used)}
    shown = copy.deepcopy(shown)
    for experiment in shown:
        experiment["images"] = experiment["images"][:count]
        for group in experiment["sets"]:
            group["items"] = [_moved(item, moved) for item in group["items"][:count]]
    return {"experiments": shown, "pictures": [uris[place] for place in used]}


def _states(item: dict) -> list[list]:
    states = [item["original"], item["attacked"]]
    for track in item["tracks"]:
        states += [track["start"], *track["shots"]]
    return [state for state in states if state]


def _places(item: dict) -> set[int]:
    places = {place for state in _states(item) for place in state[:2] if place is not None}
    return places | ({item["noise"]["picture"]} if item["noise"] else set())


def _moved(item: dict, moved: dict[int, int]) -> dict:
    for state in _states(item):
        state[:2] = [None if place is None else moved[place] for place in state[:2]]
    if item["noise"]:
        item["noise"]["picture"] = moved[item["noise"]["picture"]]
    return item


# --- tables and figures -------------------------------------------------------------------------


def tables(specs: Sequence[dict], files: Sequence[str], sheets: dict[str, dict]) -> list[dict]:
    """The configuration's tables: a cell per share with its interval, or the CSV as it is.

    specs : ``label`` and ``experiment`` of each; files : their CSV, in the same order
    """
    shown = []
    for spec, file in zip(specs, files, strict=True):
        frame, sheet = read_csv(file), sheets[spec["experiment"]]
        table = _pivot(frame, sheet) or _plain(frame, sheet)
        shown.append({"label": _label(spec, sheet)} | table)
    return shown


def _label(spec: dict, sheet: dict) -> str:
    """What a table or figure is called, with its experiment where its label does not have it."""
    name = sheet["label"]
    return spec["label"] if spec["label"].startswith(name) else f"{name}: {spec['label']}"


def _labels(sheet: dict, column: str) -> dict[str, str]:
    known = {"attack": "attacks", "classifier": "classifiers"}
    return sheet["defenses"] if column.startswith("defense") else sheet.get(known.get(column), {})


def _keys(frame: pd.DataFrame) -> list[str]:
    """The columns that say what a row is of: those before its number of images."""
    columns = list(frame)
    return columns[: columns.index("n")] if "n" in columns else []


def _share(frame: pd.DataFrame) -> str | None:
    """The column that holds the share whose interval is low and high."""
    columns = list(frame)
    return columns[columns.index("low") - 1] if {"low", "high", "n"} <= set(columns) else None


def _pivot(frame: pd.DataFrame, sheet: dict) -> dict | None:
    """A column per attack, a row per whatever else a share is of; None where it is of no attack."""
    share = _share(frame)
    texts = [c for c in _keys(frame) if not pd.api.types.is_numeric_dtype(frame[c])]
    rows = [c for c in texts if c not in ("attack", "dataset")]
    if not share or "attack" not in texts or not rows or frame.duplicated([*rows, "attack"]).any():
        return None
    attacks = list(dict.fromkeys(frame["attack"]))
    lines = []
    for names, some in frame.groupby(rows, sort=False):
        cells = {row["attack"]: row for row in some.to_dict("records")}
        heads = [_labels(sheet, c).get(n, n) for c, n in zip(rows, names, strict=True)]
        lines.append(
            {
                "heads": heads,
                "cells": [_cell(cells[a], share) if a in cells else None for a in attacks],
            }
        )
    for earlier, later in zip(lines[-2::-1], lines[:0:-1]):
        if later["heads"][0] == earlier["heads"][0] and len(rows) > 1:
            later["heads"] = ["", *later["heads"][1:]]
    return {
        "what": f"{share.replace('_', ' ')} in %",
        "heads": [name.replace("_", " ") for name in rows],
        "columns": [_labels(sheet, "attack").get(name, name) for name in attacks],
        "lines": lines,
    }


def _cell(row: dict, share: str) -> dict:
    """A share in %, and what else is known of it, for who points at it."""
    interval = "range over seeds" if row.get("seeds", 1) > 1 else "95 % interval"
    lines = [f"{interval}: {_percent(row['low'])} to {_percent(row['high'])}", f"n = {row['n']}"]
    for name, value in row.items():
        if name.startswith("published") and not pd.isna(value):
            shown = f"{value:.3g}" if "noise" in name else f"{_percent(value)} %"
            lines.append(f"{name.replace('_', ' ')}: {shown}")
        elif name == "noise_level" and not pd.isna(value):
            lines.append(f"noise level (L2): {value:.3g}")
        elif name in ("only_a", "only_b", "p_value"):
            lines.append(f"{name.replace('_', ' ')}: {value:.3g}")
        elif name in ("first_iterations", "iteration") and value:
            lines.append(f"{'λ₁' if name == 'first_iterations' else 'iterations'} = {value}")
    return {"text": _percent(row[share]), "tip": "\n".join(lines)}


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}"


def _plain(frame: pd.DataFrame, sheet: dict) -> dict:
    """The CSV's own rows, the first LINES of them, with labels for names."""
    frame = frame.drop(columns="dataset", errors="ignore")
    for column in frame:
        if labels := _labels(sheet, column):
            frame[column] = frame[column].map(lambda name, labels=labels: labels.get(name, name))

    def text(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            whole = value.is_integer()
            return "–" if pd.isna(value) else f"{value:,.0f}" if whole else f"{value:.4g}"
        return str(value)

    lines = [
        {"heads": [], "cells": [{"text": text(value)} for value in row]}
        for row in frame.head(LINES).itertuples(index=False)
    ]
    what = f"the first {LINES} of {len(frame)} rows" if len(frame) > LINES else ""
    columns = [name.replace("_", " ") for name in frame]
    return {"what": what, "heads": [], "columns": columns, "lines": lines}


def figures(specs: Sequence[dict], files: Sequence[str], sheets: dict[str, dict]) -> list[dict]:
    """The configuration's figures: lines where the CSV has shares along a number, else pictures.

    specs : as for :func:`tables`; files : their CSV, beside which the PNG lies
    """
    shown = []
    for spec, file in zip(specs, files, strict=True):
        sheet = sheets[spec["experiment"]]
        lines = _lines(read_csv(file), sheet)
        if lines is None:
            with Image.open(Path(file).with_suffix(".png"), formats=["PNG"]) as image:
                picture = Pictures()
                picture.add(np.asarray(image.convert("RGB")))
            lines = {"picture": picture.uris[0], "size": image.size}
        shown.append({"label": _label(spec, sheet)} | lines)
    return shown


def _lines(frame: pd.DataFrame, sheet: dict) -> dict | None:
    """A panel per attack with its lines; None of a figure that has no share along a number."""
    share, keys = _share(frame), _keys(frame)
    numbers = [c for c in keys if pd.api.types.is_numeric_dtype(frame[c])]
    along = [c for c in numbers if c != "first_iterations" and frame[c].nunique() > 1]
    if not share or not along:
        return None
    x = max(along, key=lambda column: frame[column].nunique())
    series = [c for c in keys if c not in ("attack", "dataset", x)]
    panels: dict[str, list[dict]] = {}
    for names, some in frame.groupby([c for c in keys if c not in ("dataset", x)], sort=False):
        of = dict(zip([c for c in keys if c not in ("dataset", x)], names, strict=True))
        label = ", ".join(
            f"λ₁ = {of[c]}" if c == "first_iterations" else _labels(sheet, c).get(of[c], str(of[c]))
            for c in series
            if not (c == "first_iterations" and of[c] == 0)
        )
        points = some[[x, share, "low", "high"]].round(4)
        points = points.astype(object).where(points.notna(), None).to_numpy().tolist()
        panel = _labels(sheet, "attack").get(of.get("attack"), of.get("attack", ""))
        panels.setdefault(panel, []).append({"label": label, "points": points})
    return {"x": x.replace("_", " "), "share": share.replace("_", " "), "panels": panels}
