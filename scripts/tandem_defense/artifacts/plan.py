"""What a configuration will cost, before it is run: jobs, optimizer steps, bytes, hours."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from tandem_defense.defenses.dip import DIP, SMALLEST
from tandem_defense.extras import extra
from tandem_defense.pipeline import classes
from tandem_defense.restoration.reference import Architecture, build, dip2

with extra("pipeline"):
    import pandas as pd
    from tabulate import tabulate

# Bytes beside an image's pixels in a cached adversarial set: id, label, answers, norms.
BESIDE = 64
COLUMNS = ["experiment", "work", "jobs", "first_steps", "second_steps", "gigabytes"]


def flops(architecture: Architecture, side: int) -> int:
    """Floating-point operations of an optimizer step on a square image, by the direct method."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(architecture)(torch.empty(1, architecture.inputs, side, side)).mean().backward()
    return counter.get_total_flops()


def speeds(benchmark: pd.DataFrame) -> dict[str, dict[int, float]]:
    """The engine's measured operations per second in float32: {device: {side in pixels: FLOP/s}}.

    benchmark : performance/restoration.csv
    """
    rows = benchmark.query("implementation == 'engine' and precision == 'float32'")
    known: dict[str, dict[int, float]] = {}
    for (device, side), fastest in (
        rows.groupby(["device", "size"])["image_steps_per_second"].max().items()
    ):
        known.setdefault(device, {})[side] = fastest * flops(dip2(3, 4), side)
    return known


def plan(experiments: dict[str, dict], benchmark: pd.DataFrame) -> pd.DataFrame:
    """A row per experiment and kind of work, and a last one with the totals.

    experiments : what each will compute (:meth:`demand.Experiment.work`)

    Columns ``COLUMNS``: optimizer steps of DIP₁ and DIP₂, of all images together; 10⁹ bytes of
    cached adversarial images. Then a column of hours per device in `benchmark`, for restorations
    alone: their operations at the speed measured for the nearest size.
    """
    rows, measured = [], speeds(benchmark)
    for name, counts in experiments.items():
        images, chunks = counts["images"], counts["chunks"]
        sets = counts["classifiers"] * counts["attacks"]
        size = sets * images * (4 * math.prod(counts["shape"]) + BESIDE) / 1e9
        work = [
            {"work": "train or convert", "jobs": counts["classifiers"] + counts["defenses"]},
            {"work": "attack", "jobs": sets * chunks, "gigabytes": size},
            {"work": "evaluate", "jobs": counts["classifiers"] * chunks},
        ]
        side = max(SMALLEST, counts["shape"][-1])
        work += [
            {"work": asked["defense"], "jobs": chunks}
            | _restoration(asked, counts["restorations"][asked["defense"]], images, side, measured)
            for asked in counts["restored"]
        ]
        threats = counts["threats"]
        if threats["jobs"]:
            size = threats["sets"] * threats["images"] * 4 * math.prod(counts["shape"]) / 1e9
            work.append({"work": "threats", "jobs": threats["jobs"], "gigabytes": size})
        work += [
            {"work": f"threats to {asked['defense']}"}
            | _restoration(
                asked, counts["restorations"][asked["defense"]], asked["images"], side, measured
            )
            for asked in threats["restored"]
        ]
        rows += [{"experiment": name} | row for row in work]
    columns = [*COLUMNS, *measured]
    table = pd.DataFrame(rows, columns=columns).fillna({column: 0 for column in columns[2:]})
    table = table.groupby(["experiment", "work"], sort=False).sum().reset_index()
    total = table.sum(numeric_only=True).to_frame().T.assign(experiment="all", work="")
    return pd.concat([table, total], ignore_index=True)[columns]


def _restoration(asked: dict, entry: dict, images: int, side: int, measured: dict) -> dict:
    """Steps and hours of one set of images; one run of DIP₁ serves every λ₁."""
    first = asked["first_iterations"]
    main = images * max(first, default=0)
    rest = images * max(asked["iterations"]) * max(1, len(first))
    steps = {"first_steps": main, "second_steps": rest}
    defense = classes.build(entry)
    if not isinstance(defense, DIP):  # nothing is known of what its steps cost
        return steps
    dip1, dip2 = defense.priors()
    work = rest * flops(dip2, side) + (main * flops(dip1, side) if dip1 else 0)
    nearest = {
        device: known[min(known, key=lambda n: abs(n - side))] for device, known in measured.items()
    }
    return steps | {device: work / speed / 3600 for device, speed in nearest.items()}


def markdown(table: pd.DataFrame) -> str:
    """The table of :func:`plan` for a reader, under what it rests on."""
    devices = [name for name in table if name not in COLUMNS]
    counts = ("jobs", "first_steps", "second_steps")
    rows = [
        (
            row["experiment"],
            row["work"],
            *(f"{int(row[name]):,}" if row[name] else "" for name in counts),
            f"{row['gigabytes']:.2f}" if row["gigabytes"] else "",
            *(f"{row[device]:,.1f}" if row[device] else "" for device in devices),
        )
        for _, row in table.iterrows()
    ]
    head = ["Experiment", "Work", "Jobs", "DIP₁ steps", "DIP₂ steps", "GB of attacked images"]
    head += [f"Hours, {device}" for device in devices]
    align = ["left", "left", *["right"] * (len(head) - 2)]
    body = tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    notes = (
        "Planned from the configuration; downloads, gathering, tables and figures are a few dozen"
        " short jobs more. Hours are the restorations' operations at the speed that"
        " `performance/restoration.csv` has for the nearest size of image, those through which"
        " threats attack and judge included (their jobs stand in the line `threats`); attacks and"
        " training come on top. A device that is not listed has not been measured: `python"
        " performance/restoration.py` measures the one at hand."
    )
    return f"{notes}\n\n{body}\n"
