"""A classifier under attacks, bare and behind defenses: images in, a table of accuracies out."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tandem_defense.attacks.base import Attack, check_images, check_labels, device_of
from tandem_defense.attacks.batches import in_batches
from tandem_defense.defenses.base import Defense, NoDefense, names_of
from tandem_defense.defenses.dip import DIP, check
from tandem_defense.defenses.dipdefend import DIPDefend
from tandem_defense.evaluation.rates import correct, rates
from tandem_defense.evaluation.rows import Chunk, answers, rows
from tandem_defense.extras import extra
from tandem_defense.restoration import coarse
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Settings
from tandem_defense.training import frozen

with extra("pipeline"):
    import pandas as pd

CLEAN, NONE = "clean", "none"  # the names of the unattacked images and of the bare classifier
CELL = ["attack", "defense"]


def evaluate(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attacks: Sequence[Attack] | Mapping[str, Attack] = (),
    defenses: Sequence[Callable] | Mapping[str, Callable] = (),
    ids: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """How many images are classified correctly: clean and attacked, bare and behind each defense.

    Every attack is oblivious: made against the bare classifier, it knows of no defense. Accuracy
    behind a defense says nothing about an attacker who knows of it.

    classifier : any module from images (B, C, H, W) in [0, 1] to logits (B, K), with normalization
        and resizing inside
    images : (N, C, H, W), float32 or float64, in [0, 1]
    labels : (N,) whole numbers, the true classes
    attacks : a list, or {name: attack}; without names they are called by their class and the
        settings that are not its defaults
    defenses : the same; a Defense, any other module from images to images, or a function of
        (images, ids). What has to be trained has been trained, a restoration is asked for its last
        step
    ids : N names of the images, which random attacks and defenses draw their numbers for; without
        them an image's content is its id
    seed : of random attacks; a random defense has a setting of its own
    batch_size : images that are defended and classified at a time; changes no result but rounding
    device : where the classifier and the defenses are moved to; without it all are where the
        classifier is
    progress : whether to show a bar on stderr

    Returns a row per attack, ``clean`` first, and defense, ``none`` first:

    attack, defense : their names
    n : number of images
    correct : classified correctly and not refused
    accuracy, low, high : correct / n, with Wilson's 95 % interval
    linf, l2 : mean size of the perturbation, of pixels in [0, 1]; images that were misclassified
        from the start are not attacked
    fooled : share of the images that the bare classifier gets wrong, attacked or from the start
    rejected : how many images the defense refused

    Raises ValueError for images, labels, ids, attacks or defenses that cannot be used, before
    anything is computed but for one image's logits and what defenses without a restoration make of
    it; for defenses that are no :class:`.Defense` when they are called.
    """
    attacks, defenses = _named("attacks", attacks, CLEAN), _named("defenses", defenses, NONE)
    for name, attack in attacks.items():
        if not isinstance(attack, Attack):
            raise ValueError(
                f"attacks: {name} is {attack!r}, expected an Attack of tandem_defense.attacks; an"
                " attack of Foolbox becomes one in the method run of a class of yours"
            )
    for name, defense in defenses.items():
        if not callable(defense) or isinstance(defense, type):
            raise ValueError(f"defenses: {name} is {defense!r}, expected an object that is called")
    check_images(images)
    if not len(images):
        raise ValueError("there are no images, expected at least one")
    names = names_of(images, ids)
    home = device_of(classifier, images) if device is None else torch.device(device)
    modules = [m.to(home) for m in (classifier, *defenses.values()) if isinstance(m, nn.Module)]
    defenses, seeds = {NONE: NoDefense()} | defenses, [derive_seed(seed, name) for name in names]
    cells, tables = len(attacks) + (1 + len(attacks)) * len(defenses), []
    with frozen(*modules), _bar(cells, progress) as bar:
        labels = check_labels(labels, images, lambda x: _logits(classifier, x.to(home))).cpu()
        _try(defenses, images[:1].to(home), names[:1])
        bare, _ = answers(classifier, NoDefense(), images, names, home, batch_size)
        for attack in (CLEAN, *attacks):
            columns, attacked = {"label": labels.numpy()}, images
            if attack == CLEAN:
                columns |= dict.fromkeys(("linf", "l2"), np.zeros(len(images), np.float32))
            else:
                bar.set_description(attack)
                found = in_batches(attacks[attack], classifier, images, labels, seeds, home)
                columns |= {name: found[name] for name in ("success", "linf", "l2")}
                attacked = torch.from_numpy(found["images"])
                bar.update(1)
            for name, defense in defenses.items():
                bar.set_description(f"{attack}, {name}")
                with _counted(defense, len(images), bar):
                    found = answers(classifier, defense, attacked, names, home, batch_size)
                cell = {"attack": attack, "defense": name, "seed": seed}
                tables.append(rows(Chunk(attacked, tuple(names), columns), cell, bare, *found))
    return _summary(pd.concat(tables, ignore_index=True))


def _logits(classifier: nn.Module, images: Tensor) -> Tensor:
    """The classifier's answer; ValueError where it fails and its weights have another type."""
    try:
        return classifier(images)
    except RuntimeError as error:
        expected = next(classifier.parameters(), images).dtype
        if images.dtype == expected:
            raise
        raise ValueError(
            f"images are {images.dtype}, the classifier's weights {expected}: convert one of them,"
            f" e.g. images.to({expected})"
        ) from error


@torch.no_grad()
def _try(defenses: Mapping[str, Callable], image: Tensor, names: list[str]) -> None:
    """Raise ValueError for a defense that refuses an image (1, C, H, W), before others compute.

    Restorations would take long: they are asked for their checks alone.
    """
    for name, defense in defenses.items():
        try:
            if isinstance(defense, DIP | DIPDefend):
                check(image)
                coarse.check(getattr(defense, "coarse", 0), image.shape[2:])
            elif isinstance(defense, Defense) and not getattr(defense, "RESTORATION", False):
                defense(image.clone(), names)
        except ValueError as error:
            raise ValueError(f"defenses: {name}: {error}") from error


def _named(what: str, given: Sequence | Mapping, reserved: str) -> dict:
    """Attacks or defenses by name."""
    if not isinstance(given, Mapping):
        labels = [_label(item) for item in given]
        twice = [name for name, count in Counter(labels).items() if count > 1]
        if twice:
            raise ValueError(f"{what}: {twice[0]} is there twice: give names, {{name: ...}}")
        given = dict(zip(labels, given, strict=True))
    if reserved in given:
        raise ValueError(f"{what}: {reserved!r} is always in the table: choose another name")
    return dict(given)


def _label(item: object) -> str:
    """What is called by no name: its class, and settings that are not the default."""
    if isinstance(item, Settings):
        unusual = [f for f in fields(item) if getattr(item, f.name) != f.default]
        text = ", ".join(f"{f.name}={getattr(item, f.name)}" for f in unusual)
        return f"{type(item).__name__}({text})" if text else type(item).__name__
    return getattr(item, "__name__", type(item).__name__)


def _bar(cells: int, shown: bool) -> tqdm:
    """A bar on stderr that a restoration may advance by less than a cell; in a log now and then."""
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds
    return tqdm(total=cells, disable=not shown, bar_format=layout, mininterval=pause)


@contextmanager
def _counted(defense: Callable, images: int, bar: tqdm) -> Iterator[None]:
    """One cell more on the bar; a restoration's steps advance it meanwhile."""
    if isinstance(defense, DIP) and not bar.disable:
        before, total = bar.n, defense.steps(images, defense.iterations)
        progress, defense.progress = defense.progress, lambda steps: bar.update(steps / total)
        try:
            yield
        finally:
            defense.progress = progress
            bar.n = before
    else:
        yield
    bar.update(1)


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line per cell of prediction rows, in their order."""
    table = table.astype({"linf": float, "l2": float})
    means = table.groupby(CELL).agg(
        linf=("linf", "mean"),
        l2=("l2", "mean"),
        fooled=("success", "mean"),
        rejected=("rejected", "sum"),
    )
    right = table.assign(correct=correct(table)).groupby(CELL)["correct"].sum()
    shares = rates(table, CELL, correct(table)).rename(columns={"rate": "accuracy"})
    lines = table[CELL].drop_duplicates().merge(shares, on=CELL)
    lines = lines.join(means.assign(correct=right), on=CELL)
    columns = ["n", "correct", "accuracy", "low", "high", "linf", "l2", "fooled", "rejected"]
    return lines[CELL + columns]
