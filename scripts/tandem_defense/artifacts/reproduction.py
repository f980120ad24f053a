"""docs/reproduction.md: what was published, what was measured, and whether it reproduces."""

import json
import tomllib
from pathlib import Path

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


def schedules(file: Path, why: dict, config: dict) -> str:
    """What the schedules of schedules.py cost in accuracy and in time.

    Only photographs that all runs have under an attack, so that a column's lines are of the same.
    """
    table, parts = pd.read_csv(file), []
    for attack, rows in table.groupby("attack", sort=False):
        of = rows.groupby("image")["run"].nunique()
        shared = rows[rows["image"].isin(of.index[of == rows["run"].nunique()])]
        lines = []
        for (run, steps), some in shared.groupby(["run", "steps"], sort=False):
            stopped = some["stopped"][some["stopped"] > 0]
            lines.append(
                (
                    run,
                    steps,
                    f"{stopped.median():.0f}" if len(stopped) else "–",
                    f"{some['correct'].sum()} of {len(some)}",
                    f"{some['probability'].mean():.3f}",
                    f"{some['psnr_clean'].mean():.1f}",
                    f"{some['core_seconds'].median():.0f}",
                )
            )
        if lines:
            head = ["run", "steps", "taken at, median", "correct"]
            head += ["probability of the true class", "PSNR to the clean image, dB"]
            parts.append(f"### {attack}\n\n{_table([*head, 'core-seconds, median'], lines, 1)}")
    alone = (table["load"] <= table["threads"]).mean()
    parts.append(
        f"{100 * alone:.0f} % of the rows were measured on a machine without other work; the others"
        " shared caches and memory, which makes core-seconds more, and not evenly so.\n"
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
    "table1.csv": ("t-DIPs, Table 1, on photographs", table1),
    "tandem.csv": ("t-DIPs' two networks: what they learn, and when", tandem),
    "schedules.csv": ("Beyond the paper: shorter schedules, and DIPDefend", schedules),
    "claims.csv": ("What the t-DIPs paper claims in words", claims),
    "figure3.png": ("Figure 3: DIP alone", picture),
    "figure6.png": ("Figure 6: t-DIPs and DIP over their iterations", picture),
    "figure7.png": ("Figure 7: restored photographs", picture),
    "figure8.png": ("Figure 8: what the classifier looks at", picture),
    "funn_figure2.png": ("FUNN's Figure 2", picture),
    "attack_semantics.csv": (
        "Whether another reading of the attacks explains Table 2",
        attack_semantics,
    ),
    "autoencoder_training.csv": (
        "How the classic autoencoder's training decides Table 2",
        autoencoder_training,
    ),
    "overview.csv": ("Points that the papers leave open", overview),
    "timing.csv": ("Where the time went", timing),
    "provenance.json": ("Made with", provenance),
}
