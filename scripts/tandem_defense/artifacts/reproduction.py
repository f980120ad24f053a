"""docs/reproduction.md: what was published, what was measured, and whether it reproduces."""

import json
import tomllib
from pathlib import Path

from tandem_defense.artifacts import funn_claims as funn
from tandem_defense.artifacts import rates
from tandem_defense.artifacts import schedules as schedule
from tandem_defense.artifacts.base import PUBLISHED
from tandem_defense.evaluation.published import read_table
from tandem_defense.evaluation.statistics import wilson
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    import yaml
    from tabulate import tabulate

WIDE = 0.25  # of an interval that decides nothing
KEYS_OF_SEMANTICS = ["classifier", "output", "attack"]
HEAD = """# What reproduces, and what does not

Made by `snakemake reproduction` from the files in `reproduction/measured/`, which
`reproduction/config.yaml` (gathered by `reproduction/collect.py`) and the other scripts there made.
The explanations are typed by hand, in `reproduction/reasons.toml`.
"""


def page(folder: Path) -> str:
    """The whole page.

    folder : ``reproduction/``, with its configuration, what was ``measured`` (a file that is not
        there has no section) and ``reasons.toml``: per section a ``text``, or a reason for each
        cell under ``"<model or defense> <attack>"``
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    why = tomllib.loads((folder / "reasons.toml").read_text(encoding="utf-8"))
    sections = [HEAD]
    for name, (title, render) in SECTIONS.items():
        if (file := folder / "measured" / name).exists():
            key = name.split(".")[0]
            notes = why.get(key, {})
            if body := render(file, notes, config):
                parts = [f"## {title}", notes.get("text", "").strip(), body]
                sections.append("\n\n".join(filter(None, parts)))
    return "\n".join(sections)


def _labels(config: dict, experiment: str) -> dict[str, str]:
    """What a reader sees for an experiment's names."""
    spec = config["experiments"][experiment]
    entries = [spec[section] for section in ("classifiers", "attacks", "defenses")]
    return {name: e.get("label", name) for part in entries for name, e in part.items()}


def verdict(published: float, low: float, high: float, n: int) -> str:
    """Whether a published share agrees with a measured interval.

    ``undecided``: it does, but the interval is wider than ``WIDE``, where nearly anything would;
    ``yes``: it lies inside; ``nearly``: the interval that a share of `n` images has by itself
    (Wilson, 95 %) overlaps the measured one; ``no``; empty where nothing was published or measured.
    """
    if pd.isna(published) or pd.isna(low):
        return ""
    least, most = wilson(round(published * n), n)
    if most < low or high < least:
        return "no"
    if high - low > WIDE:
        return "undecided"
    return "yes" if low <= published <= high else "nearly"


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.2f}"


def _noise(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2g}"


def _table(head: list[str], rows: list, left: int) -> str:
    align = ["left" if i < left else "right" for i in range(len(head))]
    if head[-1] == "why":
        align[-1] = "left"
    return tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True) + "\n"


def table2(file: Path, why: dict, config: dict) -> str:
    """FUNN's Table 2, a line per model and attack."""
    labels, rows = _labels(config, config["tables"]["table2"]["experiment"]), []
    for row in pd.read_csv(file).itertuples():
        agrees = verdict(row.published_success_rate, row.low, row.high, row.n)
        rows.append(
            (
                labels.get(row.model, row.model),
                labels.get(row.attack, row.attack),
                _percent(row.published_success_rate),
                f"{_percent(row.success_rate)} [{_percent(row.low)}, {_percent(row.high)}]",
                _noise(row.published_noise_level),
                _noise(row.noise_level),
                agrees or "not published",
                why.get(
                    f"{row.model} {row.attack}", why.get(row.model, "") if agrees == "no" else ""
                ),
            )
        )
    head = ["model", "attack", "published, %", "measured, % [interval]", "noise, published"]
    return _table([*head, "noise, measured", "reproduced", "why"], rows, 2)


def table1(file: Path, why: dict, config: dict) -> str:
    """t-DIPs' Table 1, a line per classifier, defense and attack."""
    labels, rows = _labels(config, config["tables"]["table1"]["experiment"]), []
    for row in pd.read_csv(file).itertuples():
        agrees = verdict(row.published, row.low, row.high, row.n)
        rows.append(
            (
                labels.get(row.classifier, row.classifier),
                labels.get(row.defense, row.defense),
                labels.get(row.attack, row.attack),
                _percent(row.published),
                f"{_percent(row.accuracy)} [{_percent(row.low)}, {_percent(row.high)}]",
                row.n,
                agrees or "not published",
                why.get(
                    f"{row.defense} {row.attack}",
                    why.get(row.defense, "") if agrees not in ("", "yes") else "",
                ),
            )
        )
    head = ["classifier", "defense", "attack", "published, %", "measured, % [interval]", "images"]
    return _table([*head, "reproduced", "why"], rows, 3)


def claims(file: Path, why: dict, config: dict) -> str:
    """The t-DIPs paper's words, judged on its own table and on ours."""
    judged, words = pd.read_csv(file), {True: "yes", False: "no"}
    printed, here = (judged[judged["numbers"] == which] for which in ("published", "measured"))
    # The same claims in the same order, but only ours call the defenses by their labels.
    rows = [
        (
            ours.claim,
            words.get(theirs.holds, "–"),
            words.get(ours.holds, "–"),
            "" if pd.isna(ours.evidence) else ours.evidence,
        )
        for theirs, ours in zip(printed.itertuples(), here.itertuples(), strict=True)
    ]
    return _table(["claim", "in the printed table", "here", "evidence here"], rows, 4)


def picture(file: Path, why: dict, config: dict) -> str:
    """A figure, from the folder of the page."""
    return f"![{file.stem}](../reproduction/measured/{file.name})\n"


def attack_semantics(file: Path, why: dict, config: dict) -> str:
    """What becomes of the success rates if the attack reads the classifier otherwise."""
    labels, rows = _labels(config, "funn"), []
    table = pd.read_csv(file)
    for (name, output, attack), seeds in table.groupby(KEYS_OF_SEMANTICS, sort=False):
        rate, noise = seeds["success_rate"], seeds["noise_level"]
        rows.append(
            (
                labels.get(name, name),
                output,
                attack,
                f"{_percent(rate.median())} [{_percent(rate.min())}, {_percent(rate.max())}]",
                _noise(noise.median()),
                len(seeds),
            )
        )
    head = ["model", "what the attack sees", "attack", "success, % [range]", "noise", "seeds"]
    return _table(head, rows, 3)


REACHED = (10, 50, 200, 1000, 2000)  # steps of DeepFool that the page shows
BOUNDS = {"L2": (0.5, 1, 1.5), "L∞": (0.05, 0.1, 0.2)}  # and ε


def funn_rates(file: Path, why: dict, config: dict) -> str:
    """When and where FUNN's images fall, beside the classic autoencoder's."""
    table = pd.read_csv(file)
    walks, bounds = [], []
    for norm in rates.NORMS:
        for rule in rates.RULES:
            for name, rows in rates.groups(table, f"DeepFool {norm}, {rule}").items():
                shares = [_percent(rates.fallen(rows, "step", steps)) for steps in REACHED]
                middle = _noise(rows["distance"].median())
                walks.append((name, norm, rule, len(rows), *shares, middle))
        tried = rates.groups(table, f"AutoAttack {norm}")
        for name, rows in rates.groups(table, f"PGD {norm}").items():
            left = rates.standing(table, name, norm)
            for epsilon in BOUNDS[norm]:
                kept = 1 - rates.fallen(rows, "distance", epsilon)
                best = "–"
                if name in tried:
                    best = _percent(1 - rates.fallen(tried[name], "distance", epsilon))
                found = _percent(rates.fallen(left, "distance", epsilon)) if len(left) else "–"
                margin = _noise(100 * left["margin"].median())
                bounds.append((name, norm, epsilon, _percent(kept), best, len(left), margin, found))
    steps = [f"{n} steps" for n in REACHED]
    head = ["network", "norm", "ε", "PGD", "AutoAttack"]
    return "\n".join(
        [
            f"![what the rates are made of](../reproduction/measured/{file.stem}.png)\n",
            "Success of DeepFool in %, and the median distance of the images that fall:\n",
            _table(["network", "norm", "rule", "images", *steps, "distance"], walks, 3),
            "What is still classified correctly within ε, in %. Of the images that 50 steps of"
            " Foolbox 1's DeepFool do not fool: how many, what they have left of the true class's"
            " lead over the next (median, in %), and how many PGD fools within ε (in %):\n",
            _table([*head, "not fooled", "lead left", "PGD fools"], bounds, 2),
        ]
    )


# Which networks of reproduction/funn.py play which part in the paper's claims.
MODELS = {"classic": "classic, 64", "funn": "funn, 64"}
LARGER = {0.02: "funn, 64, beta 0.02", 0.05: "funn, 64, beta 0.05"}
RATES = {"× 3": "funn, 64, rates x 3", "÷ 3": "funn, 64, rates x 1-3"}


def funn_claims(file: Path, why: dict, config: dict) -> str:
    """The FUNN paper's words, judged on its own numbers and on ours.

    Ours are of reproduction/funn.py; where a run of the configuration has judged a claim
    (funn_claims.csv, five seeds and MagNet), that counts.
    """
    table = pd.read_csv(file)
    rows = {name: part.groupby("measure") for name, part in table.groupby("setting")}
    cells = {
        (model, attack): funn.Rate(
            *(part["value"].agg(how) for how in ("median", "min", "max")), part["noise"].median()
        )
        for model, setting in MODELS.items()
        if setting in rows
        for attack, part in rows[setting]
    }
    larger, others = (
        {key: net for key, name in names.items() if (net := _training(rows.get(name)))}
        for names in (LARGER, RATES)
    )
    here = funn.judge(cells, larger=larger, rates=others).set_index("claim")
    of_run = file.with_name("funn_claims.csv")
    if of_run.exists():
        judged = pd.read_csv(of_run)
        judged = judged[(judged["numbers"] == "measured") & judged["holds"].notna()]
        here.update(judged.set_index("claim")[["holds", "evidence"]])
    printed = funn.judge(funn.printed(read_table(PUBLISHED / "table2.csv", ["success_rate"])))
    words = {True: "yes", False: "no"}
    lines = []
    for claim, holds, evidence in printed.itertuples(index=False):
        ours = here.loc[claim]
        known = (pd.notna(holds), pd.notna(ours["holds"]))
        lines.append(
            (
                claim,
                evidence if known[0] else "–",
                words[bool(holds)] if known[0] else "–",
                ours["evidence"] if known[1] else "–",
                words[bool(ours["holds"])] if known[1] else "–",
            )
        )
    return _table(["claim", "published", "holds", "measured", "holds"], lines, 5)


def references(file: Path, why: dict, config: dict) -> str:
    """Clean accuracy and what AutoAttack leaves, of networks trained with labels."""
    table = pd.read_csv(file)
    cells = table.groupby(["model", "norm", "epsilon"], sort=False)[["n", "correct"]].sum()
    heads = [key for key in cells.reset_index()[["norm", "epsilon"]].drop_duplicates().to_numpy()]
    heads = sorted(map(tuple, heads), key=lambda key: (key[0] != "none", key[0] == "l2", key[1]))
    rows = []
    for name in table["model"].unique():
        row = [name]
        for norm, epsilon in heads:
            if (name, norm, epsilon) not in cells.index:
                row.append("–")
                continue
            n, correct = cells.loc[(name, norm, epsilon)]
            low, high = wilson(int(correct), int(n))
            row.append(f"{100 * correct / n:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {n}")
        rows.append(row)
    norms = {"none": "clean", "linf": "L∞", "l2": "L2"}
    titles = [norms[norm] + (f" {epsilon:g}" if epsilon else "") for norm, epsilon in heads]
    return _table(["model", *titles], rows, 1)


def _training(measures) -> funn.Training | None:
    """Medians over seeds of what a training came to; None where it is not whole."""
    last = "optimization, epoch 31"
    names = (f"{last}, attacker (3)", f"{last}, defender (4)", "black", "deepfool_l2_50")
    if measures is None or not set(names) <= set(measures.groups):
        return None
    return funn.Training(*(measures.get_group(name)["value"].median() for name in names))


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
        last = first[first["steps"] == first["steps"].max()]["psnr_clean"]
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
            _table(["run", "images", "DIP₁ at λ₁", *steps], near, 1),
            "How many images are classified correctly, of moving averages of the outputs; and the"
            f" sum over all read-outs to {LAST}, in parentheses the first run's on the same"
            " images:\n",
            _table(["run", "average", "images", *steps, "sum"], right, 2),
        ]
    )


def _psnr(rows: pd.DataFrame) -> pd.Series:
    """DIP₂'s mean PSNR by steps."""
    raw = rows[(rows["network"] == "dip2") & (rows["average"] == "none")]
    return raw.groupby("steps")["psnr_clean"].mean()


def _correct(rows: pd.DataFrame, average: str) -> pd.Series:
    """How many images an average gets right, by steps up to LAST."""
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
    return _table([*head, *(f"saturation at {n}" for n in steps)], rows, 2)


def schedules(file: Path, why: dict, config: dict) -> str:
    """What the schedules of schedules.py cost in accuracy and in time, a table per attack."""
    table = pd.read_csv(file)
    tables = schedule.compare(table)
    parts = [
        f"### {attack}\n\n{_table(list(lines), lines.to_numpy().tolist(), 1)}"
        for attack, lines in tables.items()
    ]
    parts.append(
        f"{100 * schedule.alone(table):.0f} % of the rows were measured on a machine without other"
        " work; the others shared caches and memory, which makes core-seconds more, and not evenly"
        " so.\n"
    )
    return "\n".join(parts)


def autoencoder_training(file: Path, why: dict, config: dict) -> str:
    """What becomes of the baseline as it trains on."""
    rows = [
        (
            row.widths,
            row.initial_weights,
            row.epochs,
            row.head_epochs,
            _percent(row.accuracy),
            f"{row.deepfool_l2:.2f}",
            _percent(row.fgsm_success),
        )
        for row in pd.read_csv(file).itertuples()
    ]
    head = [
        "widths",
        "initial weights",
        "epochs",
        "of the head",
        "accuracy, %",
        "DeepFool's mean L2",
    ]
    return _table([*head, "FGSM ε = 0.005, success, %"], rows, 2)


def overview(file: Path, why: dict, config: dict) -> str:
    """The undefended rows of the experiments beside the two papers' own, one table each."""
    parts = []
    for name, rows in pd.read_csv(file).groupby("experiment", sort=False):
        if name not in why:
            continue
        labels = _labels(config, name)
        lines = [
            (
                labels.get(row.classifier, row.classifier),
                labels.get(row.defense, row.defense),
                labels.get(row.attack, row.attack),
                row.n,
                f"{_percent(row.accuracy)} [{_percent(row.low)}, {_percent(row.high)}]",
                _percent(row.success_rate),
                _noise(row.noise_level),
            )
            for row in rows.itertuples()
        ]
        head = ["classifier", "defense", "attack", "images", "accuracy, % [interval]"]
        head += ["success rate, %", "mean L2 of successes"]
        parts.append(f"### {name}\n\n{why[name]}\n{_table(head, lines, 3)}")
    return "\n".join(parts)


def timing(file: Path, why: dict, config: dict) -> str:
    """Where the time went."""
    rows = [
        (row.rule, row.jobs, f"{row.seconds:.0f}", f"{row.mean:.0f}", f"{row.max:.0f}")
        for row in pd.read_csv(file).itertuples()
    ]
    return _table(["rule", "jobs", "seconds", "mean", "longest"], rows, 1)


def provenance(file: Path, why: dict, config: dict) -> str:
    """What all of it was made with."""
    record = json.loads(file.read_text(encoding="utf-8"))
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return (
        f"Revision {record['revision']}, finished {record['finished']}, on {record['device']} with"
        f" {record['cpu_cores']} cores, Python {record['python']}; {packages}. The"
        f" configuration is in `reproduction/measured/{file.name}`.\n"
    )


SECTIONS = {
    "table2.csv": ("FUNN, Table 2, on MNIST", table2),
    "funn_rates.csv": ("What FUNN's success rates are made of", funn_rates),
    "funn.csv": ("What the FUNN paper claims in words", funn_claims),
    "references.csv": ("What is known to hold on MNIST", references),
    "funn_figure2.png": ("FUNN's Figure 2", picture),
    "attack_semantics.csv": (
        "Whether another reading of the attacks explains Table 2",
        attack_semantics,
    ),
    "autoencoder_training.csv": (
        "How the classic autoencoder's training decides Table 2",
        autoencoder_training,
    ),
    "table1.csv": ("t-DIPs, Table 1, on photographs", table1),
    "tandem.csv": ("t-DIPs' two networks: what they learn, and when", tandem),
    "schedules.csv": ("Beyond the paper: shorter schedules, and DIPDefend", schedules),
    "colors.csv": ("A restored photograph's colors", colors),
    "claims.csv": ("What the t-DIPs paper claims in words", claims),
    "figure3.png": ("Figure 3: DIP alone", picture),
    "figure6.png": ("Figure 6: t-DIPs and DIP over their iterations", picture),
    "figure7.png": ("Figure 7: restored photographs", picture),
    "figure8.png": ("Figure 8: what the classifier looks at", picture),
    "overview.csv": ("Points that the papers leave open", overview),
    "timing.csv": ("Where the time went", timing),
    "provenance.json": ("Made with", provenance),
}
