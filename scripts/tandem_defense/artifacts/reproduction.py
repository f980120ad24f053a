"""What was published, what was measured, and whether it reproduces: two pages of docs/.

``page`` is docs/reproduction.md: one table, and three sentences per finding. ``details`` is
docs/reproduction_details.md: cell by cell, and what was tried.
"""

import json
import re
import tomllib
from pathlib import Path

from tandem_defense.artifacts import findings, funn_cells, tdips_cells, threat_cells
from tandem_defense.artifacts.pages import as_noise, as_percent, as_table, labels_of
from tandem_defense.artifacts.quotes import fill
from tandem_defense.evaluation.statistics import images_to_decide
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd
    import yaml

HEAD = """# What reproduces, and what does not

Made by `snakemake reproduction` of the files in `reproduction/measured/`. The sentences are typed
by hand, in `reproduction/reasons.toml`; their numbers are the files'. Every cell, and what was
tried, is [in detail](reproduction_details.md).

*Reproduced*: the published share lies within the measured interval (95 %; over several seeds the
range). *Nearly*: its own 95 % interval, of the paper's 1000 images, overlaps the measured one.
*Contradicted*: not even that. *Undecided*: they agree, but the measured interval is more than
{wide:.0f} points wide, or paired tests do not tell. A comparison is decided by so many images that
four experiments of five tell the two published accuracies apart
([the formula](results.md#tablesclaimscsv-tablesfunn_claimscsv)). Fewer than {fewest} images
decide no comparison at all. Of the {compared} that t-DIPs' claims on Table 1 rest on, the paper's
own 1000 images decide {decided}, if answers differ as often as they can.
"""
DETAILS = """# What reproduces: in detail

The cells and the attempts behind [the findings](reproduction.md). Made by `snakemake reproduction`
of the files in `reproduction/measured/`, which `reproduction/config.yaml` (gathered by
`reproduction/collect.py`) and the other scripts there made. The explanations are typed by hand, in
`reproduction/reasons.toml`.
"""


def page(folder: Path) -> str:
    """docs/reproduction.md: the table of ``findings.summary``, then each finding.

    folder : ``reproduction/``, with its configuration, what was ``measured`` and ``reasons.toml``:
        per section a ``text`` with numbers as ``quotes.fill`` has them, which is left out where
        the section's file is not there

    Raises ValueError where a text quotes a number that is not there.
    """
    config, why = _given(folder)
    compared = findings.comparisons(folder / "measured")
    head = HEAD.format(
        wide=100 * findings.WIDE,
        fewest=images_to_decide(1, 0),
        compared=len(compared),
        decided=(compared["images"] <= 1000).sum(),
    )
    rows = findings.summary(folder / "measured", config, why)
    parts = [head, as_table(findings.HEAD, rows, len(findings.HEAD))]
    for name, (title, _, *others) in SECTIONS.items():
        notes = why.get(name.split(".")[0], {})
        texts = [notes, *(part for part in notes.values() if isinstance(part, dict))]
        text = "\n\n".join(part["text"].strip() for part in texts if part.get("text"))
        if text and _measured(folder, name, *others):
            link = f"[In detail](reproduction_details.md#{_anchor(title)})."
            body = fill(text, folder / "measured")
            if name in IN_SHORT and _measured(folder, name):
                body += "\n\n" + IN_SHORT[name](folder / "measured" / name, config)
            parts.append(f"## {title}\n\n{body.rstrip()}\n\n{link}\n")
    return "\n".join(parts)


def details(folder: Path) -> str:
    """docs/reproduction_details.md: every cell, every attempt.

    folder : as for :func:`page`; of ``reasons.toml`` a section's ``details``, and a reason for each
        cell under ``"<model or defense> <attack>"``. A file that is not there has no section
    """
    config, why = _given(folder)
    sections = [DETAILS]
    for name, (title, render, *others) in SECTIONS.items():
        if _measured(folder, name, *others):
            notes = why.get(name.split(".")[0], {})
            if body := render(folder / "measured" / name, notes, config):
                words = fill(notes.get("details", "").strip(), folder / "measured")
                parts = [f"## {title}", words, body]
                sections.append("\n\n".join(filter(None, parts)))
    return "\n".join(sections)


def _measured(folder: Path, *names: str) -> bool:
    return any((folder / "measured" / name).exists() for name in names)


def _given(folder: Path) -> tuple[dict, dict]:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return config, tomllib.loads((folder / "reasons.toml").read_text(encoding="utf-8"))


def _anchor(title: str) -> str:
    """A heading's, as GitHub and the site make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def picture(file: Path, why: dict, config: dict) -> str:
    """A figure, from the folder of the page."""
    return f"![{file.stem}](../reproduction/measured/{file.name})\n"


def overview(file: Path, why: dict, config: dict) -> str:
    """The undefended rows of the experiments beside the two papers' own, one table each."""
    parts = []
    for name, rows in pd.read_csv(file).groupby("experiment", sort=False):
        if name not in why:
            continue
        labels = labels_of(config, name)
        lines = [
            (
                labels.get(row.classifier, row.classifier),
                labels.get(row.defense, row.defense),
                labels.get(row.attack, row.attack),
                row.n,
                f"{as_percent(row.accuracy)} [{as_percent(row.low)}, {as_percent(row.high)}]",
                as_percent(row.success_rate),
                as_noise(row.noise_level),
            )
            for row in rows.itertuples()
        ]
        head = ["classifier", "defense", "attack", "images", "accuracy, % [interval]"]
        head += ["success rate, %", "mean L2 of successes"]
        words = fill(why[name].get("details", "").strip(), file.parent)
        title = config["experiments"][name].get("label", name)
        parts.append(f"### {title}\n\n{words}\n\n{as_table(head, lines, 3)}")
    return "\n".join(parts)


def timing(file: Path, why: dict, config: dict) -> str:
    """Where the time went."""
    rows = [
        (row.rule, row.jobs, f"{row.seconds:.0f}", f"{row.mean:.0f}", f"{row.max:.0f}")
        for row in pd.read_csv(file).itertuples()
    ]
    return as_table(["rule", "jobs", "seconds", "mean", "longest"], rows, 1)


def provenance(file: Path, why: dict, config: dict) -> str:
    """What all of it was made with."""
    record = json.loads(file.read_text(encoding="utf-8"))
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return (
        f"Revision {record['revision']}, finished {record['finished']}, on {record['device']} with"
        f" {record['cpu_cores']} cores, Python {record['python']}; {packages}. The"
        f" configuration is in `reproduction/measured/{file.name}`.\n"
    )


# File to what makes a table of it that stands below a finding.
IN_SHORT = {"table1.csv": tdips_cells.in_short}
# File to the section's title, what makes it of the file, and files of which it is made as well.
SECTIONS = {
    "table2.csv": ("FUNN, Table 2, on MNIST", funn_cells.table2),
    "funn_rates.csv": ("What FUNN's success rates are made of", funn_cells.funn_rates),
    "funn_claims.csv": (
        "What the FUNN paper claims in words",
        funn_cells.funn_claims,
        "funn.csv",
        "table2.csv",
    ),
    "table3_mnist.csv": ("Attackers who know of the defense, on MNIST", threat_cells.table3),
    "funn.csv": ("FUNN's training, and other widths", funn_cells.sweep),
    "funn_figure2.png": ("FUNN's Figure 2", picture),
    "attack_semantics.csv": (
        "Whether another reading of the attacks explains Table 2",
        funn_cells.attack_semantics,
    ),
    "table1.csv": ("t-DIPs, Table 1, on photographs", tdips_cells.table1),
    "table1_comparisons.csv": (
        "t-DIPs, Table 1: differences on the same images",
        tdips_cells.differences,
    ),
    "claims.csv": ("What the t-DIPs paper claims in words", tdips_cells.claims, "table1.csv"),
    "figure6.png": ("Figure 6: t-DIPs and DIP alone over their iterations", picture),
    "figure3.png": ("Figure 3: DIP alone", picture),
    "tandem.csv": ("t-DIPs' two networks: what they learn, and when", tdips_cells.tandem),
    "table3.csv": (
        "Attackers who know of the defense, on photographs",
        threat_cells.table3,
    ),
    "table3_restored.csv": (
        "Attackers who know of the restoration, on photographs",
        threat_cells.table3,
    ),
    "table3_patches.csv": (
        "Attackers who know of the restoration, on patches",
        threat_cells.table3,
    ),
    "schedules.csv": (
        "Beyond the paper: shorter schedules, and DIPDefend",
        tdips_cells.schedules,
    ),
    "colors.csv": ("A restored photograph's colors", tdips_cells.colors),
    "figure7.png": ("Figure 7: restored photographs", picture),
    "figure8.png": ("Figure 8: what the classifier looks at", picture),
    "overview.csv": ("Points that the papers leave open", overview),
    "timing.csv": ("Where the time went", timing),
    "provenance.json": ("Made with", provenance),
}
