"""Prediction rows and sheets for tests of tables and figures, with answers known by hand."""

import re

import numpy as np
import pandas as pd

from tandem_defense.artifacts.base import Inputs, Sheet
from tandem_defense.datasets.base import ImageSet
from tandem_defense.files.adversarial import AdversarialSet

PHOTOS = Sheet(
    dataset="nips2017",
    classifiers={"resnet50": "ResNet-50", "inception_v3": "Inception-v3"},
    attacks={"clean": "Clean", "fgsm": "FGSM", "cw": "C&W"},
    defenses={
        "none": "No defense",
        "hgd": "HGD (ours, 5_000 images)",
        "noise": "Noise",
        "tdips": "t-DIPs",
    },
    controls=("noise",),
)
DIGITS = Sheet(
    dataset="mnist",
    classifiers={"classic": "Classic", "funn": "FUNN"},
    attacks={"clean": "Clean", "fgsm": "FGSM", "deepfool_linf_50": "DeepFool (L∞)"},
    defenses={"none": "No defense", "magnet": "MagNet"},
)
ATTACKS = {"bim": "BIM", "cw": "C&W", "fgsm": "FGSM", "deepfool": "DeepFool"}
ATTACKS |= {"mifgsm": "MI-FGSM", "jsma": "JSMA"}
CURVES = Sheet(
    dataset="nips2017",
    classifiers={"inception_v3": "Inception"},
    attacks={"clean": "Clean"} | ATTACKS,
    defenses={"none": "No defense", "dip": "DIP", "tdips": "t-DIPs"},
)
SERIES = [("dip", 0), ("tdips", 100), ("tdips", 200), ("tdips", 300)]
CORRECT = {0: 2, 100: 3, 200: 5, 300: 6}  # of ten images, and one more per 100 iterations


def inputs(predictions: pd.DataFrame, **files) -> Inputs:
    """What a table or figure reads, its prediction rows set."""
    given = Inputs({name: str(path) for name, path in files.items()})
    given.__dict__["predictions"] = predictions
    return given


def answers(text: str, **columns) -> pd.DataFrame:
    """Rows of images i0, i1, …: 'c' classified correctly, 'w' wrongly, 'x' refused (correct else).

    Capitals are images that the bare classifier classifies wrongly when clean. The label is 7.
    """
    common = dict(dataset="nips2017", seed=0, classifier="inception_v3", attack="fgsm")
    common |= dict(defense="none", first_iterations=0, iteration=0, success=True, linf=0.03)
    rows = [
        {
            "image": f"i{i}",
            "label": 7,
            "clean_prediction": 3 if answer.isupper() else 7,
            "prediction": 3 if answer in "wW" else 7,
            "rejected": answer in "xX",
            "l2": float(i + 1),
        }
        for i, answer in enumerate(text)
    ]
    return pd.DataFrame(rows).assign(**(common | columns))


def photos(seeds=(0,)) -> pd.DataFrame:
    """Four images, clean and under FGSM; t-DIPs with several read-outs and λ₁."""
    parts = []
    for seed in seeds:
        for classifier in PHOTOS.classifiers:
            here = dict(classifier=classifier, seed=seed)
            parts += [answers("cccw", **here, attack="clean"), answers("wwww", **here)]
            parts += [answers("cxcw", **here, attack="clean", defense="hgd")]
            parts += [answers("ccwx", **here, defense="hgd")]
            for first, step, clean, fgsm in (
                (100, 1000, "ccww", "cwcc"),
                (100, 500, "wwww", "wwww"),
                (200, 1000, "wwww", "wwww"),
            ):
                steps = here | dict(defense="tdips", first_iterations=first, iteration=step)
                parts += [answers(clean, **steps, attack="clean"), answers(fgsm, **steps)]
    return pd.concat(parts, ignore_index=True)


def digits(seeds=(0,)) -> pd.DataFrame:
    """Five digits under two attacks: a classic network, the same behind MagNet, FUNN."""
    parts = []
    for seed in seeds:
        for attack in ("fgsm", "deepfool_linf_50"):
            here = dict(dataset="mnist", attack=attack, seed=seed)
            parts += [answers("wwccW", **here, classifier="classic")]
            parts += [answers("wxxcC", **here, classifier="classic", defense="magnet")]
            parts += [answers("cccWW", **here, classifier="funn")]
    return pd.concat(parts, ignore_index=True)


def some_correct(count: int, attack: str, defense="none", first=0, step=0, n=10) -> pd.DataFrame:
    """Rows of n images, the first `count` of which are classified correctly."""
    text = "c" * count + "w" * (n - count)
    columns = dict(attack=attack, defense=defense, first_iterations=first, iteration=step)
    return answers(text, **columns)


def curves() -> pd.DataFrame:
    """Ten images; every 50 iterations a read-out, of which figures take every second."""
    parts = [some_correct(9, "clean")]
    for attack in ATTACKS:
        parts.append(some_correct(1, attack))
        for defense, first in SERIES:
            for step in range(50, 451, 50):
                count = CORRECT[first] + step // 100 if step % 100 == 0 else 0
                parts.append(some_correct(count, attack, defense, first, step))
    return pd.concat(parts, ignore_index=True)


def picture(shape, value=0.5) -> np.ndarray:
    """A picture of one value."""
    return np.full(shape, value, dtype=np.float32)


def check_latex(text: str) -> int:
    """The number of a table's columns; environments, braces and cells are checked to agree."""
    open_now = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        open_now.append(name) if kind == "begin" else None
        assert kind == "begin" or open_now.pop() == name
    assert not open_now
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    columns = len(re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)[1])
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for line in body.strip().split("\n"):
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells + sum(spans) - len(spans) == columns, line
    for special in ("%", "#", "_"):
        assert not re.search(rf"(?<!\\)\{special}", text.replace("$_", "")), special
    assert not set(text) & set("–∞λ†₁")
    return columns


def image_set(values, side=30, channels=3, classes=("cat", "dog"), labels=None, credits=()):
    """Images of one value (0 to 255) each; by default all of class 0."""
    images = np.stack([np.full((side, side, channels), v, np.uint8) for v in values])
    labels = np.zeros(len(values), np.int64) if labels is None else np.array(labels)
    names = tuple(f"i{i}" for i in range(len(values)))
    return ImageSet(images, labels, names, tuple(classes), tuple(credits))


def attacked_set(data, images, prediction, clean_prediction=None) -> AdversarialSet:
    """A chunk of attacked images (N, C, H, W) with the bare classifier's answers."""
    clean = data.labels if clean_prediction is None else np.array(clean_prediction)
    prediction, zero = np.array(prediction), np.zeros(len(data), np.float32)
    flags = prediction != data.labels, np.zeros(len(data), bool)
    images = np.asarray(images, dtype=np.float32)
    return AdversarialSet(
        images, data.labels, clean, prediction, *flags, zero, zero, data.ids, {}, len(data.classes)
    )


def check_boxes(boxes, figure) -> None:
    """What is drawn lies inside the figure and does not cover each other."""
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0, box
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, box
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), box
