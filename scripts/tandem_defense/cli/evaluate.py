"""``tandem-defense evaluate``: a classifier under attacks, bare and behind defenses."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tandem_defense.cli import entries
from tandem_defense.cli.arguments import Running, count, device_name, number
from tandem_defense.cli.jobs import check_folder
from tandem_defense.datasets import listing
from tandem_defense.datasets.base import ImageSet
from tandem_defense.datasets.folder import Folder
from tandem_defense.extras import extra
from tandem_defense.files.base import replacing
from tandem_defense.pipeline import registry
from tandem_defense.startup import quick_start

if TYPE_CHECKING:
    import pandas as pd
    from torch import device, nn

EXAMPLES = """\
examples:
  tandem-defense evaluate --photos --classifier small_cnn \\
      --attacks fgsm bim:epsilon=4/255 --defenses jpeg tdips:iterations=100,smoothing=0.9
  tandem-defense evaluate --images pictures --classifier torchvision:resnet50 \\
      --attacks pgd:semantics=fixed --defenses average_blur:kernel=5 -o table.csv
  tandem-defense evaluate --images pictures --classifier net.py:network --weights net.pth \\
      --attacks deepfool_l2 --defenses mine.py:Median

Every attack is made against the bare classifier and knows of no defense. Settings are written as in
a configuration, kind:key=value,key=value; a file.py that is named here is run.
"""
OBLIVIOUS = "All attacks are oblivious: made against the bare classifier, they know of no defense."
PHOTOS = 21  # test patches
PATCHES = 700  # of the photographs, for training: seconds to a minute on one core
QUICK = {"training.epochs": 10, "training.noise": 0.1, "training.blur": 0.3, "width": 16}
RELEASED = [registry.CLASSIFIERS[kind] for kind in ("torchvision", "timm")]
WORDNET = re.compile(r"n\d{8}")


def add(commands) -> None:
    """The subcommand's arguments."""
    command = commands.add_parser(
        "evaluate",
        help="accuracy of a classifier under attacks, bare and behind defenses",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--classifier",
        required=True,
        metavar="KIND",
        help="torchvision:NAME or timm:NAME, with the weights that they release or with --weights;"
        " file.py:function, which makes a torch.nn.Module from images in [0, 1] to logits;"
        " small_cnn, which is trained first",
    )
    command.add_argument("--weights", metavar="FILE", help="the classifier's checkpoint")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images",
        metavar="FOLDER",
        help="labeled pictures, FOLDER/<class>/*.jpg: classes are the classifier's in the order of"
        " their names, or are named by class numbers from 0, or by ImageNet's WordNet ids",
    )
    source.add_argument(
        "--photos",
        nargs="?",
        type=count,
        const=PHOTOS,
        metavar="N",
        help="N patches of photographs that come with scikit-image, 7 classes (default: 21)",
    )
    command.add_argument(
        "--labels", metavar="TABLE", help="a CSV file,label in FOLDER instead of class folders"
    )
    command.add_argument("--attacks", nargs="+", default=[], metavar="KIND", help="e.g. fgsm")
    command.add_argument("--defenses", nargs="+", default=[], metavar="KIND", help="e.g. jpeg")
    command.add_argument("--size", type=count, help="side of the square images (224; photos: 64)")
    command.add_argument("--count", type=count, help="pictures of the folder (default: up to 100)")
    command.add_argument("--seed", type=number, default=0, help="of everything random (0)")
    command.add_argument(
        "--device", type=device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps"
    )
    command.add_argument("--threads", type=count, help="CPU threads (all there are)")
    command.add_argument("-o", "--output", type=Path, metavar="CSV", help="the table, unrounded")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Check, load, train what is to be trained, evaluate, print and write the table."""
    if options.output:
        check_folder(options.output.parent)
        if options.output.is_dir():
            raise ValueError(
                f"--output {options.output} is a folder; expected a file for the table, e.g."
                f" {options.output / 'table.csv'}"
            )
    for name, texts in (("--attacks", options.attacks), ("--defenses", options.defenses)):
        for text, times in Counter(texts).items():
            if times > 1:
                raise ValueError(f"{name}: {text} is there twice")
    attacks = {text: entries.plain("attacks", text) for text in options.attacks}
    defenses = {
        text: entries.plain("defenses", text) for text in options.defenses if text != "none"
    }
    with extra("pipeline"):
        from tabulate import tabulate
    table = _evaluated(options, attacks, defenses)
    print(tabulate(_shown(table), headers="keys", tablefmt="pipe", disable_numparse=True))
    print(f"\n{OBLIVIOUS}", flush=True)
    if options.output:
        try:
            with replacing(options.output) as part:
                table.to_csv(part, index=False)
        except OSError as error:
            raise Running(str(error)) from error


def _evaluated(options: argparse.Namespace, attacks: dict, defenses: dict) -> "pd.DataFrame":
    """The table; attacks and defenses are entries that are checked."""
    for name in ("labels", "count") if options.photos else ():
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} has no effect on --photos, which are scikit-image's")
    folder = None if options.photos else _folder(options)
    classes = _class_count(folder) if folder else 7
    quick = QUICK if options.photos else {}
    entry = entries.classifier(options.classifier, options.weights, classes, quick)

    with quick_start():  # after the checks, because it takes seconds
        import torch

        from tandem_defense import device
        from tandem_defense.evaluation.evaluate import evaluate
        from tandem_defense.pipeline.classes import build
        from tandem_defense.pipeline.entries import load, to_tensor

    processor = device.prepare(options.threads or device.cpus(), options.device)
    if attacks and processor.type == "mps":
        raise ValueError("--attacks need float64, which mps lacks: expected --device cpu")
    attacks = {text: build(attack, options.seed) for text, attack in attacks.items()}
    defenses = {
        text: load(defense, defense["weights"], processor, options.seed)
        for text, defense in defenses.items()
    }
    net = _classifier(entry, processor)
    trained = entry["training"] is not None
    splits = _load(options, folder, net, trained, getattr(net, "channels", 3) == 3)
    if trained:
        train = splits["train"]
        print(f"training {options.classifier} on {len(train)} images", file=sys.stderr)
        x, y = to_tensor(train.images).to(processor), torch.from_numpy(train.labels).to(processor)
        net.fit(x, y, seed=options.seed, **entry["training"])
    test = splits["test"]
    return evaluate(
        net,
        to_tensor(test.images),
        torch.from_numpy(test.labels),
        attacks=attacks,
        defenses=defenses,
        ids=test.ids,
        seed=options.seed,
        device=processor,
        progress=True,
    )


def _folder(options: argparse.Namespace) -> Folder:
    """The pictures of a folder, of which there are `test` to evaluate and `train` to train on."""
    settings = {"folder": options.images, "labels": options.labels, "size": options.size or 224}
    whole = listing.pictures(options.images, options.labels)
    train = [picture for picture in whole if picture.split == "train"]
    available = len(whole) - len(train)
    wanted = min(options.count or 100, available)
    if options.count and options.count > available:
        raise ValueError(f"{options.images} has {available} pictures, --count is {options.count}")
    rest = len(train) if whole[0].split else available - wanted
    return Folder(**settings, test=wanted, train=rest)


def _names(folder: Folder) -> list[str]:
    return sorted({picture.label for picture in listing.pictures(folder.folder, folder.labels)})


def _are_numbers(names: list[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _class_count(folder: Folder) -> int:
    """How many classes a folder has, those without pictures included where it has numbers."""
    names = _names(folder)
    return max(map(int, names)) + 1 if _are_numbers(names) else len(names)


def _load(
    options: argparse.Namespace,
    folder: Folder | None,
    net: "nn.Module",
    trained: bool,
    color: bool,
) -> dict[str, ImageSet]:
    """The images, with the labels that the classifier has for them."""
    if not folder:
        from tandem_defense.datasets.photos import PHOTOGRAPHS, Photos

        classes = _outputs(net, options.size or 64, True)
        if classes != len(PHOTOGRAPHS):
            raise ValueError(
                f"{options.classifier} has {classes} classes, the photographs {len(PHOTOGRAPHS)}:"
                " take small_cnn, which is trained on them, or pictures of your own, --images"
            )
        return Photos(size=options.size or 64, test=options.photos, train=PATCHES).load()
    names, classes = _names(folder), _outputs(net, folder.size, color)
    numbers = {"classes": classes} if _are_numbers(names) else {}
    if trained and not folder.train:
        raise ValueError(f"{options.images} has no pictures to train on: lower --count")
    train = {"train": folder.train if trained else 0}
    splits = Folder(**folder.settings() | numbers | train | {"color": color}).load()
    if not numbers and len(names) != classes:
        numbers = _imagenet(options.images, names, classes)
        for split, data in splits.items():
            labels = [numbers[data.classes[label]] for label in data.labels]
            splits[split] = replace(data, labels=np.array(labels, np.int64))
    return splits


def _imagenet(folder: str, names: list[str], classes: int) -> dict[str, int]:
    """ImageNet's class numbers of some WordNet ids.

    Raises ValueError for other names, which are no classifier's numbers.
    """
    if classes == 1000 and all(map(WORDNET.fullmatch, names)):
        with extra("timm"):
            from timm.data import ImageNetInfo
        numbers = {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
        if unknown := [name for name in names if name not in numbers]:
            raise ValueError(f"{folder}: {unknown[0]} is not one of ImageNet's 1000 classes")
        return numbers
    raise ValueError(
        f"{folder} has {len(names)} classes, the classifier {classes}: name the folders, or the"
        f" labels of the table, by the classifier's class numbers, 0 to {classes - 1}"
    )


def _classifier(entry: dict, processor: "device") -> "nn.Module":
    """The classifier on its device, in eval mode; with weights, unless it is to be trained."""
    from tandem_defense.pipeline.classes import build
    from tandem_defense.pipeline.entries import load

    path, settings = entry["weights"], entry["settings"]
    if path and settings.get("weights") != path:  # the pipeline's
        return load(entry, path, processor)
    net = build(entry)
    if path:
        net.read_checkpoint(path)
    elif entry["training"] is None and entry["class"] in RELEASED:
        _download(net)
    return net.to(processor).eval()


def _download(net: "nn.Module") -> None:
    """Give a torchvision or timm network the weights that they release, or keep in their cache.

    Raises ValueError where they cannot be downloaded or have other classes.
    """
    if type(net).__name__ == "Torchvision":
        with extra("pipeline"):
            from torchvision.models import get_model_weights
        released = get_model_weights(net.architecture)
        name = net.weights or released.DEFAULT.name
        if name not in released.__members__:
            known = ", ".join(released.__members__)
            raise ValueError(f"weights: found {name!r}, allowed is one of {known}, or a file")
        fetch = partial(released[name].get_state_dict, progress=True, check_hash=True)
        net.weights = name
        net.build()  # some networks have other parts, or another input, with released weights
    else:
        with extra("timm"):
            import timm

        def fetch() -> dict:
            return timm.create_model(net.architecture, pretrained=True).state_dict()

    try:
        state = fetch()
    except Exception as error:  # whatever clients raise without a network
        raise ValueError(
            f"the weights of {net.architecture} could not be downloaded ({error}): give a file with"
            " --weights, or connect to the network"
        ) from error
    try:
        net.net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the released weights of {net.architecture} do not fit {net.classes} classes and these"
            f" settings ({reason}): give a file with --weights, or train it, e.g. with"
            " training.epochs=10"
        ) from None


def _outputs(net: "nn.Module", size: int, color: bool) -> int:
    """How many classes a classifier has."""
    import torch

    shape = (1, 3 if color else 1, size, size)
    try:
        with torch.no_grad():
            logits = net(torch.zeros(shape, device=next(net.parameters(), torch.empty(0)).device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the classifier cannot classify images {shape}: {reason}") from error
    return logits.shape[1]


def _shown(table: "pd.DataFrame") -> dict[str, Sequence]:
    """The table's columns as they are read."""
    return {
        "attack": table["attack"],
        "defense": table["defense"],
        "correct": [f"{c} of {n}" for c, n in zip(table["correct"], table["n"], strict=True)],
        "accuracy": [f"{100 * share:.1f} %" for share in table["accuracy"]],
        "95 % interval": [
            f"{100 * low:.1f} to {100 * high:.1f} %"
            for low, high in zip(table["low"], table["high"], strict=True)
        ],
        "mean L∞": [f"{255 * norm:.2f}/255" for norm in table["linf"]],
        "mean L2": [f"{norm:.3f}" for norm in table["l2"]],
        "bare fooled": [f"{100 * share:.1f} %" for share in table["fooled"]],
        "rejected": table["rejected"],
    }
