"""What a configuration will cost, before it is run: jobs, optimizer steps, bytes, hours."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from tandem_defense.defenses.dip import DIP, SMALLEST
from tandem_defense.extras import extra
from tandem_defense.pipeline import classes
from tandem_defense.restoration.reference import Architecture, build, dip1, dip2

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


def speeds(benchmark: pd.DataFrame) -> dict[str, dict[tuple[str, int, int], float]]:
    """What the engine was measured to do in float32, in operations per second of a network.

    benchmark : performance/restoration.csv

    Returns {device: {(kind of network, feature scale, side in pixels): FLOP/s}}.
    """
    rows = benchmark.query(
        "implementation == 'engine' and precision == 'float32' and network != 'tandem'"
    )
    rows = rows.assign(feature_scale=rows["feature_scale"].fillna(0).astype(int))
    fastest = rows.groupby(["device", "network", "feature_scale", "size"])["image_steps_per_second"]
    known: dict[str, dict[tuple[str, int, int], float]] = {}
    for (device, network, scale, side), rate in fastest.max().items():
        architecture = dip1() if network == "dip1" else dip2(3, scale)
        known.setdefault(device, {})[network, scale, side] = rate * flops(architecture, side)
    return known


def seconds(architecture: Architecture, side: int, known: dict[tuple, float]) -> float:
    """Of a step, at the speed measured for the nearest size of image and the nearest width."""
    scale = 0 if architecture.kind == "dip1" else 64 // architecture.widths[0]
    same = [key for key in known if key[0] == architecture.kind]
    nearest = min(same, key=lambda key: (abs(key[2] - side), abs(key[1] - scale)))
    return flops(architecture, side) / known[nearest]


def plan(experiments: dict[str, dict], benchmark: pd.DataFrame) -> pd.DataFrame:
    """A row per experiment and kind of work, and a last one with the totals.

    experiments : what each will compute (:meth:`demand.Experiment.work`)

    Columns ``COLUMNS``: optimizer steps of DIP₁ and DIP₂, of all images together; 10⁹ bytes of
    cached adversarial images. Then a column of hours per device in `benchmark`, for restorations
    alone: their steps at the speed measured for the nearest size and width.
    """
    rows, measured = [], speeds(benchmark)
    for name, counts in experiments.items():
        images, chunks = counts["images"], counts["chunks"]
        sets = counts["attacked"]
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
    first_prior, second_prior = defense.priors()
    hours = {}
    for device, known in measured.items():
        spent = rest * seconds(second_prior, side, known)
        if first_prior:
            spent += main * seconds(first_prior, side, known)
        hours[device] = spent / 3600
    return steps | hours


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
        " short jobs more. Hours are the restorations' steps at the speed that"
        " `performance/restoration.csv` has for the nearest size of image, those through which"
        " threats attack and judge included (their jobs stand in the line `threats`); attacks and"
        " training come on top. A device that is not listed has not been measured: `python"
        " performance/restoration.py` measures the one at hand."
    )
    return f"{notes}\n\n{body}\n"
