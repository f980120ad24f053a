"""What docs/reproduction_details.md has of t-DIPs: a function per file, as in ``funn_cells``."""

from itertools import pairwise
from pathlib import Path

from tandem_defense.artifacts import findings
from tandem_defense.artifacts import schedules as schedule
from tandem_defense.artifacts.claims import images
from tandem_defense.artifacts.claims import verdict as held
from tandem_defense.artifacts.findings import verdict
from tandem_defense.artifacts.pages import as_percent, as_table, labels_of
from tandem_defense.artifacts.printing import points
from tandem_defense.artifacts.quotes import pairs, together
from tandem_defense.evaluation.statistics import paired_interval
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd


def table1(file: Path, why: dict, config: dict) -> str:
    """t-DIPs' Table 1, a line per classifier, defense and attack."""
    labels, rows = labels_of(config, config["tables"]["table1"]["experiment"]), []
    for row in pd.read_csv(file).itertuples():
        agrees = verdict(row.published, row.low, row.high)
        rows.append(
            (
                labels.get(row.classifier, row.classifier),
                labels.get(row.defense, row.defense),
                labels.get(row.attack, row.attack),
                as_percent(row.published),
                f"{as_percent(row.accuracy)} [{as_percent(row.low)}, {as_percent(row.high)}]",
                row.n,
                agrees or "not published",
                why.get(
                    f"{row.defense} {row.attack}",
                    why.get(row.defense, "") if agrees not in ("", "reproduced") else "",
                ),
            )
        )
    head = ["classifier", "defense", "attack", "published, %", "measured, % [interval]", "images"]
    return as_table([*head, "verdict", "why"], rows, 3)


def in_short(file: Path, config: dict) -> str:
    """Table 1 on one screen: accuracies in %, in print, of all photographs, of those t-DIPs has."""
    name = config["tables"]["table1"]["experiment"]
    labels = labels_of(config, name) | {"clean": "clean"}
    attacks = ["clean", *config["experiments"][name]["attacks"]]
    table = pd.read_csv(file).set_index(["classifier", "defense", "attack"])
    shared = None
    if (answers := file.with_name("answers.csv")).exists():
        shared = together(pd.read_csv(answers)).rename(columns={"share": "accuracy"})

    def row(shares: pd.Series, digits: int) -> list[str]:
        shares = 100 * shares.reindex(attacks)
        return [f"{share:.{digits}f}" if pd.notna(share) else "–" for share in shares]

    def measured(cells: pd.DataFrame, count: int) -> list[str]:
        return [str(count), *row(cells.loc[cells["n"] == count, "accuracy"], 0)]

    lines = []
    for (classifier, defense), cells in table.groupby(level=[0, 1], sort=False):
        cells = cells.droplevel([0, 1])
        head = [labels.get(classifier, classifier), labels.get(defense, defense)]
        if cells["published"].notna().any():
            lines.append([*head, "in print", *row(cells["published"], 1)])
        whole = int(cells["n"].max())
        lines.append([*head, *measured(cells, whole)])
        if shared is not None and (classifier, defense) in shared.index.droplevel(2):
            some = shared.loc[(classifier, defense)]
            count = int(some["n"].max())
            if count != whole:
                lines.append([*head, *measured(some, count)])
    for above, line in reversed(list(pairwise(lines))):  # a name once
        if line[:2] == above[:2]:
            line[1] = ""
        if line[0] == above[0]:
            line[0] = ""
    heads = ["classifier", "defense", "photographs", *(labels[attack] for attack in attacks)]
    return as_table(heads, lines, 2)


def differences(file: Path, why: dict, config: dict) -> str:
    """Paired differences of what was published, and how many images Table 1's claims take."""
    labels, rows = labels_of(config, config["tables"]["table1"]["experiment"]), []
    table = pd.read_csv(file)
    contenders = ["none", "hgd", "comdefend", "tdips"]
    for row in table[table[["defense_a", "defense_b"]].isin(contenders).all(axis=1)].itertuples():
        low, high = paired_interval(row.only_a, row.only_b, row.n)
        names = (row.classifier, row.attack, row.defense_a, row.defense_b)
        difference = points((row.only_a - row.only_b) / row.n)
        rows.append(
            (
                *(labels.get(name, name) for name in names),
                row.n,
                row.only_a,
                row.only_b,
                f"{difference} [{points(low)}, {points(high)}]",
                f"{row.p_value:.2g}",
            )
        )
    head = ["classifier", "attack", "first", "second", "images", "only first", "only second"]
    needed = [
        (
            labels.get(row.classifier, row.classifier),
            labels.get(row.attack, row.attack),
            labels.get(row.other, row.other),
            f"{as_percent(row.a)} and {as_percent(row.b)}",
            points(row.a - row.b),
            f"{as_percent(row.discordance)} ({'measured' if row.measured else 'worst case'})",
            f"{row.images:,.0f}",
        )
        for row in findings.comparisons(file.parent).itertuples()
    ]
    heads = ["classifier", "attack", "t-DIPs against", "published, %", "difference, points"]
    return "\n".join(
        [
            as_table([*head, "difference, points [interval]", "p"], rows, 4),
            "How many images would tell t-DIPs from the others, four times of five, if the"
            " published accuracies are the true ones:\n",
            as_table([*heads, "discordant at most, %", "images"], needed, 3),
        ]
    )


def claims(file: Path, why: dict, config: dict) -> str:
    """The t-DIPs paper's words, judged on its own table and on ours."""
    printed, here = findings.tdips_ledger(file.parent, config)
    rows = [
        (
            ours.claim,
            held(theirs.holds, theirs.decided),
            held(ours.holds, ours.decided),
            "" if pd.isna(ours.evidence) else ours.evidence,
            images(theirs.images),
        )
        for theirs, ours in zip(printed.itertuples(), here.itertuples(), strict=True)
    ]
    head = ["claim", "in the printed table", "here", "evidence here", "images that would decide"]
    return as_table(head, rows, 4)


STEPS = (25, 50, 100, 200, 300, 400, 500, 700, 1000)  # of DIP₂ that the page shows
LAST = 1000  # read-outs up to here are added up
OTHER_IMAGES = ("clean", "FGSM", "MI-FGSM")  # what a run may have in place of BIM's images


def tandem(file: Path, why: dict, config: dict) -> str:
    """What the two networks have learned after how many steps, per run of tandem.py."""
    table = pd.read_csv(file)
    near, right = [], []
    for name, rows in table.groupby("run", sort=False):
        network, _, setting = name.partition(", ")
        plain = table[(table["run"] == network) & table["image"].isin(set(rows["image"]))]
        compared = setting and setting not in OTHER_IMAGES
        images = rows["image"].nunique()
        first = rows[rows["network"] == "dip1"]
        own = int(setting.removeprefix("λ₁ ")) if setting.startswith("λ₁ ") else 100
        last = first[first["steps"] == own]["psnr_clean"]  # a longer run may have others as well
        start = f"{last.mean():.1f}" if len(last) else "–"
        raw, reference = _psnr(rows), _psnr(plain)
        gain = {n: f" ({raw[n] - reference[n]:+.1f})" for n in raw.index if compared}
        cells = [f"{raw[n]:.1f}{gain.get(n, '')}" if n in raw else "–" for n in STEPS]
        near.append((name, images, start, *cells))
        averages = ("none", "0.99") if setting else ("none", "0.9", "0.99", "0.99 corrected")
        for average in averages:
            counts, others = (_correct(part, average) for part in (rows, plain))
            cells = [str(counts[n]) if n in counts else "–" for n in STEPS]
            beside = f" ({others[counts.index].sum()})" if compared else ""
            total = f"{counts.sum()}{beside} of {images * len(counts)}"
            right.append((name, average, images, *cells, total))
    steps = [str(n) for n in STEPS]
    return "\n".join(
        [
            f"![tandem](../reproduction/measured/{file.stem}.png)\n",
            "PSNR to the clean image in dB, of the outputs as they are, mean over images; in"
            " parentheses the difference from the first run of the same kind on the same images:\n",
            as_table(["run", "images", "DIP₁ at λ₁", *steps], near, 1),
            "How many images are classified correctly, of moving averages of the outputs; and the"
            f" sum over all read-outs to {LAST}, in parentheses the first run's on the same"
            " images:\n",
            as_table(["run", "average", "images", *steps, "sum"], right, 2),
            *_tandem_against_dip(table),
        ]
    )


def _tandem_against_dip(table: pd.DataFrame) -> list[str]:
    """The paper's two runs on the same images, with its average, paired."""
    if not {"tandem", "dip"} <= set(table["run"]):
        return []
    rows = [
        (
            steps,
            int(row.n),
            int(row.only_a),
            int(row.only_b),
            f"{points(row.difference)} [{points(row.low)}, {points(row.high)}]",
            f"{row.p_value:.2g}",
        )
        for steps, row in pairs(table).iterrows()
    ]
    head = ["steps", "images", "only the tandem", "only DIP", "difference, points [interval]", "p"]
    return [
        "The same images under BIM, with the paper's average of 0.99; p is McNemar's, not adjusted"
        " for the number of read-outs:\n",
        as_table(head, rows, 1),
    ]


def _psnr(rows: pd.DataFrame) -> pd.Series:
    """DIP₂'s mean PSNR by steps."""
    raw = rows[(rows["network"] == "dip2") & (rows["average"] == "none")]
    return raw.groupby("steps")["psnr_clean"].mean()


def _correct(rows: pd.DataFrame, average: str) -> pd.Series:
    """How many images are classified correctly of an average, by steps up to LAST."""
    some = rows[(rows["network"] == "dip2") & (rows["average"] == average)]
    return some[some["steps"] <= LAST].groupby("steps")["correct"].sum().astype(int)


def colors(file: Path, why: dict, config: dict) -> str:
    """How far a restored image's colors are from the photograph's, and how strong they are."""
    table = pd.read_csv(file)
    table = table[table["average"].isin(["none", "0.99"])]
    steps = sorted(table["steps"].unique())
    rows = []
    for (run, average), some in table.groupby(["run", "average"], sort=False):
        mean = some.groupby("steps")[["color", "saturation"]].mean()
        cells = [f"{mean['color'].get(n, float('nan')):.1f}" for n in steps]
        cells += [f"{mean['saturation'].get(n, float('nan')):.2f}" for n in steps]
        rows.append(
            [run, average, some["image"].nunique(), *("–" if c == "nan" else c for c in cells)]
        )
    head = ["run", "average", "images", *(f"difference at {n}" for n in steps)]
    return as_table([*head, *(f"saturation at {n}" for n in steps)], rows, 2)


SCHEDULES = ["run", "steps", "taken at, median", "correct", "probability of the true class"]
SCHEDULES += ["PSNR to the clean image, dB", "core-seconds, median"]


def _taken(cell: pd.Series) -> str:
    """Where a rule stopped, and how many of the images if not all."""
    if pd.isna(cell.taken):
        return "–"
    some = "" if cell.stopped == cell.images else f" ({cell.stopped:.0f} of {cell.images:.0f})"
    return f"{cell.taken:.0f}{some}"


def schedules(file: Path, why: dict, config: dict) -> str:
    """What the schedules of schedules.py cost in accuracy and in time, a table per attack."""
    table = pd.read_csv(file)
    parts = []
    for attack, cells in schedule.compare(table).groupby(level="attack", sort=False):
        lines = [
            [
                *(run, f"{steps:.0f}", _taken(cell)),
                *(f"{cell.correct:.0f} of {cell.images:.0f}", f"{cell.probability:.3f}"),
                *(f"{cell.psnr:.1f}", f"{cell.seconds:.0f}"),
            ]
            for (_, run, steps), cell in cells.iterrows()
        ]
        parts.append(f"### {attack}\n\n{as_table(SCHEDULES, lines, 1)}")
    parts.append(
        f"{100 * schedule.alone(table):.0f} % of the rows were measured on a machine without other"
        " work; the others shared caches and memory, which makes core-seconds more, and not evenly"
        " so.\n"
    )
    return "\n".join(parts)
