"""How long HGD and ComDefend train per image, with layers in float32 and in bfloat16.

python performance/precision.py [--defenses HGD ComDefend] [--images N] [--rounds 3] [--threads 1]
python performance/precision.py --page    docs/choices.md's table, from the CSV

HGD's images are 299 × 299 pixels, its classifier a ResNet-50 with drawn weights; its attacks, which
are made once, are left out. ComDefend's are its squares of 32 × 32. Both networks are the
papers'. An epoch more is timed as the difference of two trainings; the fastest round counts.
A processor without units for bfloat16 takes many times as long with it as without.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import pages  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from tandem_defense import device  # noqa: E402
from tandem_defense.classifiers.torchvision import Torchvision  # noqa: E402
from tandem_defense.defenses import hgd  # noqa: E402
from tandem_defense.defenses.comdefend import ComDefend  # noqa: E402

OUTPUT = Path(__file__).with_suffix(".csv")
PAGE = ROOT / "docs/choices.md"
DEFENSES, PRECISIONS = {"HGD": 4, "ComDefend": 40}, ("float32", "bf16")  # images of an epoch


def trainings(counts: dict[str, int], where: torch.device) -> dict[str, Callable]:
    """Of each defense: train(epochs, precision), with so many images an epoch."""
    net = Torchvision(architecture="resnet50").eval().to(where)
    photos = torch.rand(counts["HGD"], 3, 299, 299).to(where)
    squares = torch.rand(counts["ComDefend"], 3, 32, 32).to(where)

    def labels(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), dtype=torch.int64).to(where)

    def of_hgd(epochs: int, precision: str) -> None:
        settings = {"classifier": net, "epochs": epochs, "batch_size": 4, "precision": precision}
        hgd.HGD().to(where).fit(photos, labels(photos), seed=0, **settings)

    def of_comdefend(epochs: int, precision: str) -> None:
        settings = {"epochs": epochs, "precision": precision}
        ComDefend().to(where).fit(squares, labels(squares), seed=0, **settings)

    return {"HGD": of_hgd, "ComDefend": of_comdefend}


def seconds(train: Callable, precision: str, where: torch.device) -> float:
    """What a second epoch takes."""

    def whole(epochs: int) -> float:
        start = time.perf_counter()
        train(epochs, precision)
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = whole(1)
    return whole(2) - first


def page(table: pd.DataFrame) -> str:
    """The table of docs/choices.md."""
    wide = table.pivot(index="defense", columns="precision", values="seconds_per_image")
    lines = ["| seconds per image and epoch | float32 | bf16 | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row.float32:.3f} | {row.bf16:.3f} | {row.float32 / row.bf16:.1f} |"
        for name, row in wide.iterrows()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--defenses", nargs="+", choices=DEFENSES, default=[*DEFENSES])
    parser.add_argument("--images", type=int, help="of an epoch (default: 4 for HGD, 40)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--page", action="store_true", help="only write the table")
    options = parser.parse_args()
    if options.page:
        pages.quote(PAGE, OUTPUT, page(pd.read_csv(options.output)))
        return
    where = device.prepare(options.threads)
    rows = []
    with mock.patch.object(hgd, "attack_all", lambda net, images, *_: (images * 255).byte()):
        counts = {name: options.images or count for name, count in DEFENSES.items()}
        for name, train in trainings(counts, where).items():
            if name not in options.defenses:
                continue
            turns = [[seconds(train, p, where) for p in PRECISIONS] for _ in range(options.rounds)]
            for precision, spent in zip(
                PRECISIONS, map(min, zip(*turns, strict=True)), strict=True
            ):
                rows.append((where.type, name, precision, round(spent / counts[name], 4)))
    columns = ["device", "defense", "precision", "seconds_per_image"]
    pd.DataFrame(rows, columns=columns).to_csv(options.output, index=False)
    print(options.output.read_text(), end="")


if __name__ == "__main__":
    main()
