"""What docs/reproduction_details.md has of FUNN: a function per file, ``(file, why, config)``.

file : in ``reproduction/measured/``
why : the file's section of ``reproduction/reasons.toml``
config : ``reproduction/config.yaml``
"""

from pathlib import Path

from tandem_defense.artifacts import findings, rates
from tandem_defense.artifacts.base import PUBLISHED
from tandem_defense.artifacts.findings import MODELS, verdict
from tandem_defense.artifacts.pages import as_noise, as_percent, as_table, labels_of
from tandem_defense.artifacts.printing import counts
from tandem_defense.evaluation.published import read_table
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

KEYS_OF_SEMANTICS = ["classifier", "output", "attack"]


def table2(file: Path, why: dict, config: dict) -> str:
    """FUNN's Table 2, a line per model and attack."""
    labels, rows = labels_of(config, config["tables"]["table2"]["experiment"]), []
    for row in pd.read_csv(file).itertuples():
        agrees = verdict(row.published_success_rate, row.low, row.high)
        rows.append(
            (
                labels.get(row.model, row.model),
                labels.get(row.attack, row.attack),
                as_percent(row.published_success_rate),
                f"{as_percent(row.success_rate)} [{as_percent(row.low)}, {as_percent(row.high)}]",
                as_noise(row.published_noise_level),
                as_noise(row.noise_level),
                agrees or "not published",
                why.get(
                    f"{row.model} {row.attack}",
                    why.get(row.model, "") if agrees == "contradicted" else "",
                ),
            )
        )
    head = ["model", "attack", "published, %", "measured, % [interval]", "noise, published"]
    return as_table([*head, "noise, measured", "verdict", "why"], rows, 2)


REFERENCES = "references"  # networks that are no model of Table 2
# What the page shows of a training: name, and its measures in funn.csv, of which a model has one.
TRAINED = {
    "accuracy, %": ("accuracy",),
    "attacker's error after initialization": ("initialization, epoch 9, attacker (3)",),
    "defender's error after initialization": ("initialization, epoch 9, defender (4)",),
    "attacker's error at the end": ("optimization, epoch 31, attacker (3)",),
    "defender's or autoencoder's error at the end": (
        "optimization, epoch 31, defender (4)",
        *(f"autoencoder, epoch {n}, reconstruction" for n in (40, 20, 9)),
    ),
    "penalty (5) at the end": ("optimization, epoch 31, penalty (5)",),
}


def sweep(file: Path, why: dict, config: dict) -> str:
    """The networks of funn.py: their training, and Table 2's attacks on each.

    A table per model, and one of the references, which Table 2 does not have.
    """
    labels, table = labels_of(config, "funn"), pd.read_csv(file)
    seeds = table.groupby("setting")["seed"].nunique()
    measured = table.groupby(["setting", "measure"])[["value", "noise", "n"]].median()
    printed = read_table(PUBLISHED / "table2.csv", ["success_rate"])
    printed = printed.rename(columns={"success_rate": "value", "noise_level": "noise"})
    printed = printed.set_index(["model", "attack"])[["value", "noise"]].assign(n=1000)
    parts = [
        "Success of Table 2's attacks in %, and in parentheses the mean L2 of the images that fool;"
        " medians over the seeds. ° of the first 200 images, else of 1000.\n"
    ]
    for model in [*MODELS, REFERENCES]:
        names = [name for name in table["setting"].unique() if _model(name) == model]
        if not names:
            continue
        rows = [["seeds", "", *(str(seeds[name]) for name in names)]]
        for title, measures in TRAINED.items():
            scale = 100 if "%" in title else 1
            found = (_first(measured, name, measures) for name in names)
            rows.append([title, "–", *(f"{scale * x:.3g}" if pd.notna(x) else "–" for x in found)])
        for key in config["experiments"]["funn"]["attacks"]:
            cells = [_rate(printed, model, key), *(_rate(measured, name, key) for name in names)]
            rows.append([labels.get(key, key), *cells])
        rows = [row for row in rows if {*row[1:]} != {"–"}]
        parts.append(as_table([labels.get(model, model), "in print", *names], rows, 1))
    return "\n".join(parts)


def _model(setting: str) -> str:
    model = setting.split(",")[0]
    return model if model in MODELS else REFERENCES


def _first(measured: pd.DataFrame, name: str, measures: tuple[str, ...]) -> float | None:
    known = (key for key in measures if (name, key) in measured.index)
    return next((measured.loc[(name, key), "value"] for key in known), None)


def _rate(cells: pd.DataFrame, name: str, attack: str) -> str:
    if (name, attack) not in cells.index:
        return "–"
    cell = cells.loc[(name, attack)]
    noise = f" ({as_noise(cell['noise'])})" if pd.notna(cell["noise"]) else ""
    return as_percent(cell["value"]) + noise + ("" if cell["n"] > 500 else "°")


def attack_semantics(file: Path, why: dict, config: dict) -> str:
    """What becomes of the success rates if the attack reads the classifier otherwise."""
    labels, rows = labels_of(config, "funn"), []
    table = pd.read_csv(file)
    for (name, output, attack), seeds in table.groupby(KEYS_OF_SEMANTICS, sort=False):
        rate, noise = seeds["success_rate"], seeds["noise_level"]
        rows.append(
            (
                labels.get(name, name),
                output,
                attack,
                f"{as_percent(rate.median())} [{as_percent(rate.min())}, {as_percent(rate.max())}]",
                as_noise(noise.median()),
                len(seeds),
            )
        )
    head = ["model", "what the attack sees", "attack", "success, % [range]", "noise", "seeds"]
    return as_table(head, rows, 3)


REACHED = (10, 50, 200, 1000, 2000)  # steps of DeepFool that the page shows
BOUNDS = {"L2": (0.5, 1, 1.5), "L∞": (0.05, 0.1, 0.2)}  # and ε


def funn_rates(file: Path, why: dict, config: dict) -> str:
    """When and where FUNN's images fall, beside the classic autoencoder's."""
    table = pd.read_csv(file)
    walks, bounds = [], []
    for norm in rates.NORMS:
        for rule in rates.RULES:
            for name, rows in rates.groups(table, f"DeepFool {norm}, {rule}").items():
                shares = [as_percent(rates.fallen(rows, "step", steps)) for steps in REACHED]
                middle = as_noise(rows["distance"].median())
                walks.append((name, norm, rule, len(rows), *shares, middle))
        walked = rates.groups(table, f"DeepFool {norm}, Foolbox 1")
        for name, rows in rates.groups(table, f"PGD {norm}").items():
            if name not in walked:
                continue
            left = rates.standing(table, name, norm)
            for epsilon in BOUNDS[norm]:
                kept = as_percent(1 - rates.fallen(rows, "distance", epsilon))
                found = as_percent(rates.fallen(left, "distance", epsilon)) if len(left) else "–"
                margin = as_noise(100 * left["margin"].median())
                bounds.append((name, norm, epsilon, kept, len(left), margin, found))
    steps = [f"{n} steps" for n in REACHED]
    head = ["network", "norm", "ε", "PGD"]
    return "\n".join(
        [
            f"![what the rates are made of](../reproduction/measured/{file.stem}.png)\n",
            "Success of DeepFool in %, and the median distance of the images that fall:\n",
            as_table(["network", "norm", "rule", "images", *steps, "distance"], walks, 3),
            "What is still classified correctly within ε, in %. Of the images that 50 steps of"
            " Foolbox 1's DeepFool do not fool: how many, what they have left of the true class's"
            " lead over the next (median, in %), and how many PGD fools within ε (in %):\n",
            as_table([*head, "not fooled", "lead left", "PGD fools"], bounds, 2),
            *_autoattack(table, file.with_name("funn.csv")),
        ]
    )


def _autoattack(table: pd.DataFrame, sweep: Path) -> list[str]:
    """What AutoAttack leaves of every network that it was tried on."""
    found, accuracy = rates.autoattack(table), pd.Series(dtype=float)
    if sweep.exists():
        measured = pd.read_csv(sweep).query("measure == 'accuracy'")
        accuracy = measured.groupby("setting")["value"].median()
    bounds, rows = [(norm, epsilon) for norm in rates.NORMS for epsilon in BOUNDS[norm]], []
    for name, here in found.groupby([name for name, *_ in found.index], sort=False):
        cells = dict.fromkeys(bounds, "–")
        for (_, *bound), left, pgd in here[["left", "pgd"]].itertuples(name=None):
            cells[tuple(bound)] = f"{100 * left:.0f} ({100 * pgd:.0f})"
        clean = f"{100 * accuracy[name]:.1f}" if name in accuracy else "–"
        rows.append((name, clean, counts(here["n"]), *cells.values()))
    title = (
        "What AutoAttack leaves within ε, in %, of the first images that are classified correctly,"
        " and what PGD leaves of them (in parentheses); accuracy of the first 1000:\n"
    )
    columns = [f"{norm} {epsilon:g}" for norm, epsilon in bounds]
    head = ["network", "accuracy, %", "images", *columns]
    return [title, as_table(head, rows, 1)] if rows else []


def funn_claims(file: Path, why: dict, config: dict) -> str:
    """The FUNN paper's words, judged on its own numbers and on ours."""
    words = {True: "yes", False: "no"}
    lines = []
    ledgers = (ledger.itertuples() for ledger in findings.funn_ledger(file.parent))
    for theirs, ours in zip(*ledgers, strict=True):
        cells = [theirs.claim]
        for judged in (theirs, ours):
            cells.append(findings.named(findings.evidence(judged), config))
            cells.append("–" if pd.isna(judged.holds) else words[bool(judged.holds)])
        lines.append(cells)
    return as_table(["claim", "published", "holds", "measured", "holds"], lines, 5)
