"""The papers' tables: aggregated from prediction rows, joined with what was published, printed.

A prediction row is one image × classifier × attack × defense × iteration × seed with the columns
in ``PREDICTIONS``. ``labels`` maps configuration names to what a reader sees, and under the key
``controls`` lists the defenses that are controls, not contenders.
"""

from itertools import combinations, product

import numpy as np
import pandas as pd
from tabulate import tabulate

from tandem_defense.evaluation.statistics import mcnemar, summarise

PREDICTIONS = {
    "dataset": "str",
    "seed": "int",
    "classifier": "str",
    "attack": "'clean' where unattacked",
    "defense": "'none' where undefended",
    "first_iterations": "λ₁ of t-DIPs, else 0",
    "iteration": "read-out step, 0 for a defense without iterations",
    "image": "the image's id",
    "label": "int",
    "clean_prediction": "the bare classifier's answer to the clean image",
    "prediction": "the defended classifier's answer",
    "rejected": "a detector refused the input",
    "success": "the attack fooled the bare classifier",
    "linf": "largest change of a pixel, pixels in [0, 1]",
    "l2": "Euclidean length of the change, pixels in [0, 1]",
}
CELL = ["dataset", "classifier", "defense", "attack"]
TABLE1 = [*CELL, "n", "accuracy", "low", "high", "published"]
TABLE2 = ["dataset", "model", "attack", "n", "success_rate", "low", "high", "noise_level"]
TABLE2 += ["published_success_rate", "published_noise_level", "seeds"]
COMPARISONS = ["dataset", "classifier", "attack", "defense_a", "defense_b"]
COMPARISONS += ["n", "only_a", "only_b", "p_value"]


def display(labels: dict, name: str) -> str:
    """What a reader sees for a configuration name: its label, else the name itself."""
    return (labels or {}).get(name, name)


def correct(rows: pd.DataFrame) -> pd.Series:
    """Which inputs were classified rightly and not refused, bool per row."""
    return (rows["prediction"] == rows["label"]) & ~rows["rejected"].astype(bool)


def select(predictions: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The prediction rows of the wanted cells (one per row of `cells`, columns as predictions').

    Every cell must hold every image once per seed, where images and seeds are all that occur in
    any wanted cell. Raises ValueError naming the first cell that does not, with what was found
    and what was expected, and ValueError where a column is absent.
    """
    if absent := [column for column in PREDICTIONS if column not in predictions]:
        raise ValueError(f"expected the prediction columns {list(PREDICTIONS)}, lacking {absent}")
    keys = list(cells)
    rows = predictions.merge(cells, on=keys)
    images = rows["image"].nunique()
    counts = rows.groupby([*keys, "seed"], observed=True)["image"].agg(["size", "nunique"])
    seeds = pd.DataFrame({"seed": sorted(rows["seed"].unique())})
    wanted = cells.merge(seeds, how="cross") if len(seeds) else cells.assign(seed=-1)
    found = wanted.merge(counts.reset_index(), on=[*keys, "seed"], how="left").fillna(
        {"size": 0, "nunique": 0}
    )
    wrong = found[(found["size"] != images) | (found["nunique"] != images) | (found["size"] == 0)]
    if len(wrong):
        raise ValueError(_explain(predictions, rows, keys, wrong.iloc[0]))
    return rows


def _explain(predictions, rows, keys, cell) -> str:
    """The message for a cell whose rows are missing or duplicated."""
    here = rows[np.logical_and.reduce([rows[key] == cell[key] for key in [*keys, "seed"]])]
    every = sorted(rows["image"].unique())
    missing = sorted(set(every) - set(here["image"]))
    twice = sorted(here["image"][here["image"].duplicated()].unique())
    where = ", ".join(f"{key} {cell[key]}" for key in [*keys, "seed"] if cell[key] != -1)
    text = f"{where}: found {len(here)} rows, expected one for each of {len(every) or 'n'} images"
    for word, names in (("missing", missing), ("duplicated", twice)):
        if names:
            text += f"; {word}: {', '.join(map(str, names[:5]))}{', …' if len(names) > 5 else ''}"
    same = [key for key in CELL if key in keys]
    near = predictions[np.logical_and.reduce([predictions[key] == cell[key] for key in same])]
    steps = near[["first_iterations", "iteration"]].drop_duplicates().to_numpy().tolist()
    if here.empty and steps:
        text += f"; (first_iterations, iteration) there are {sorted(map(tuple, steps))[:20]}"
    return text


def rates(rows: pd.DataFrame, keys: list[str], hits: pd.Series) -> pd.DataFrame:
    """Per cell the share of rows with a hit: columns `keys`, n, rate, low, high, seeds.

    Over seeds as ``statistics.summarise`` says: Wilson's interval of one, median and range of more.
    """
    counts = hits.groupby([rows[key] for key in [*keys, "seed"]], observed=True)
    counts = counts.agg(["sum", "size"])
    found = [
        (*cell, *summarise(group["sum"].to_numpy(), group["size"].to_numpy()))
        for cell, group in counts.groupby(level=keys, observed=True)
    ]
    return pd.DataFrame(found, columns=[*keys, "n", "rate", "low", "high", "seeds"])


def _cells1(predictions: pd.DataFrame, spec: dict) -> pd.DataFrame:
    """Table 1's cells, with the read-out step of those defenses that have steps."""
    cells = pd.DataFrame(
        product([spec["dataset"]], spec["classifiers"], spec["defenses"], spec["attacks"]),
        columns=CELL,
    )
    last = predictions.groupby("defense", observed=True)[["iteration", "first_iterations"]].max()
    for column, key in (("iteration", "iterations"), ("first_iterations", "first_iterations")):
        steps = cells["defense"].map(last[column].to_dict()).fillna(0) > 0
        cells[column] = np.where(steps, spec[key], 0)
    return cells


def table1(predictions: pd.DataFrame, spec: dict, published: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of the t-DIPs paper: accuracy over all images, attacked and clean.

    `spec`: dataset, classifiers, defenses, attacks (with 'clean'), first_iterations (λ₁) and
    iterations (λ₂, the read-out of every defense that has steps). `published`: columns dataset,
    classifier, defense, attack, accuracy. Returns the columns ``TABLE1``, shares in [0, 1], rows
    in the spec's order; low and high are Wilson's 95 % interval, or the range over several seeds
    with the median as accuracy. Raises ValueError where rows are missing or duplicated.
    """
    cells = _cells1(predictions, spec)
    rows = select(predictions, cells)
    found = rates(rows, CELL, correct(rows)).rename(columns={"rate": "accuracy"})
    printed = published[[*CELL, "accuracy"]].rename(columns={"accuracy": "published"})
    table = cells[CELL].merge(found, on=CELL, how="left")
    return table.merge(printed, on=CELL, how="left", validate="m:1")[TABLE1]


def table2(predictions: pd.DataFrame, spec: dict, published: pd.DataFrame) -> pd.DataFrame:
    """Table 2 of the FUNN paper: how often an attack succeeds, and how large it then is.

    `spec`: dataset, attacks and models, each {classifier, defense}. `published`: columns dataset,
    model, attack, success_rate, noise_level. Only images count that the bare classifier gets
    right when clean (n; the paper's k/966); success is a wrong answer that was not refused,
    noise_level the mean L2 of the successes (pixels in [0, 1]; nan without any). Returns the
    columns ``TABLE2``; over several seeds medians, with the range as low and high. Raises
    ValueError where rows are missing or duplicated.
    """
    parts = []
    for model, which in spec["models"].items():
        cells = pd.DataFrame({"attack": spec["attacks"]}).assign(dataset=spec["dataset"], **which)
        parts.append(cells.assign(model=model))
    cells = pd.concat(parts, ignore_index=True)
    rows = select(predictions, cells[CELL].drop_duplicates())
    rows = rows[rows["clean_prediction"] == rows["label"]]
    fooled = (rows["prediction"] != rows["label"]) & ~rows["rejected"].astype(bool)
    found = rates(rows, CELL, fooled).rename(columns={"rate": "success_rate"})
    noise = rows[fooled].groupby([*CELL, "seed"], observed=True)["l2"].mean()
    noise = noise.groupby(level=CELL, observed=True).median().rename("noise_level").reset_index()
    measured = cells.merge(found, on=CELL, how="left").merge(noise, on=CELL, how="left")
    keys = ["dataset", "model", "attack"]
    printed = published[[*keys, "success_rate", "noise_level"]].rename(
        columns=lambda name: name if name in keys else f"published_{name}"
    )
    table = measured.merge(printed, on=keys, how="left", validate="m:1")
    return table.fillna({"n": 0, "seeds": 0}).astype({"n": int, "seeds": int})[TABLE2]


def overview(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every cell of an experiment, whether a table of the papers has it or not.

    A row per dataset, classifier, defense, attack and read-out: n images, accuracy over all of
    them with its interval (as ``table1``), success_rate and noise_level over those that the bare
    classifier gets right when clean (as ``table2``; not for clean images), linf, the largest
    change of a pixel, mean over the attacked images.
    """
    keys = [*CELL, "first_iterations", "iteration"]
    table = rates(predictions, keys, correct(predictions)).rename(columns={"rate": "accuracy"})
    right = predictions[
        (predictions["clean_prediction"] == predictions["label"])
        & (predictions["attack"] != "clean")
    ]
    fooled = (right["prediction"] != right["label"]) & ~right["rejected"].astype(bool)
    succeeded = rates(right, keys, fooled).rename(columns={"rate": "success_rate"})
    noise = right[fooled].groupby(keys, observed=True)["l2"].mean().rename("noise_level")
    change = right.groupby(keys, observed=True)["linf"].mean()
    for more in (succeeded[[*keys, "success_rate"]], noise.reset_index(), change.reset_index()):
        table = table.merge(more, on=keys, how="left")
    return table


def comparisons(predictions: pd.DataFrame, spec: dict) -> pd.DataFrame:
    """Paired exact McNemar tests between each two defenses, per classifier and attack.

    `spec` is Table 1's. Columns ``COMPARISONS``: only_a counts the images that only defense_a
    gets right. Over several seeds an image counts as right where most seeds are, so that n stays
    the number of images. P-values are not adjusted for their number. Raises as ``table1``.
    """
    rows = select(predictions, _cells1(predictions, spec))
    keys = ["dataset", "classifier", "attack", "image"]
    share = correct(rows).groupby([rows[key] for key in [*keys, "defense"]], observed=True).mean()
    right = (share > 0.5).unstack("defense")
    found = []
    for classifier, attack in product(spec["classifiers"], spec["attacks"]):
        block = right.loc[(spec["dataset"], classifier, attack)]
        for a, b in combinations(spec["defenses"], 2):
            test = mcnemar(block[a], block[b])
            found.append((spec["dataset"], classifier, attack, a, b, len(block)))
            found[-1] += (test.only_a, test.only_b, test.p_value)
    return pd.DataFrame(found, columns=COMPARISONS)


# Printing: the same cells for Markdown and LaTeX, which differ in marks, escapes and frames.

SPECIALS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIALS |= {mark: rf"\{mark}" for mark in "&%$#_{}"} | {"–": "--", "…": r"\ldots{}"}
SPECIALS |= {"∞": r"$\infty$", "λ": r"$\lambda$", "ε": r"$\varepsilon$", "δ": r"$\delta$"}
SPECIALS |= {"≤": r"$\leq$", "≥": r"$\geq$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$"}
SPECIALS |= {"²": "$^2$", "†": r"$^\dagger$"} | {s: f"$_{i}$" for i, s in enumerate("₀₁₂₃₄₅₆₇₈₉")}


def escape(text: str) -> str:
    """Text for LaTeX: its specials escaped, the signs of our labels as mathematics.

    >>> print(escape("DeepFool (L∞, 50 %) & more_of_it"))
    DeepFool (L$\\infty$, 50 \\%) \\& more\\_of\\_it
    """
    return "".join(SPECIALS.get(character, character) for character in str(text))


def _escape_pipe(text: str) -> str:
    return str(text).replace("|", r"\|")


MARKDOWN = {"bold": "**{}**", "control": "*{}* †", "text": _escape_pipe}
LATEX = {"bold": r"\textbf{{{}}}", "control": r"\textit{{{}}}$^\dagger$", "text": escape}


def describe(table: pd.DataFrame, labels: dict, *, seeds: int = 1) -> str:
    """A caption for either table: dataset, n, what is counted, interval, threat model.

    `seeds` is the number of seeds; Table 2's own column goes before it.
    """
    what = "accuracy in % over all images"
    if "success_rate" in table:
        what = (
            "success rate in %, and mean L2 of the successes; of images that are right when clean"
        )
        seeds = int(table["seeds"].max())
    kind = "interval: 95 % Wilson" if seeds == 1 else f"median and range over {seeds} seeds"
    n = "–".join(str(count) for count in sorted({table["n"].min(), table["n"].max()}))
    dataset = " and ".join(display(labels, name) for name in table["dataset"].unique())
    return (
        f"{dataset}, n = {n}: {what}; {kind}; oblivious attacker (attacks on the bare classifier)."
    )


def best(table: pd.DataFrame, labels: dict) -> pd.Series:
    """Which cells of Table 1 to print in bold: a column's best defense within its block.

    'none' and the controls never count; equals share the honour.
    """
    barred = ["none", *_controls(labels)]
    accuracy = table["accuracy"].where(~table["defense"].isin(barred))
    top = accuracy.groupby([table["classifier"], table["attack"]]).transform("max")
    return accuracy.notna() & (accuracy == top)


def _controls(labels) -> list[str]:
    return list((labels or {}).get("controls", ()))


def _number(value, digits=None) -> str:
    """A percentage with `digits` decimals; without, a noise level with two (or two digits)."""
    if pd.isna(value):
        return "–"
    if digits is not None:
        return f"{100 * value:.{digits}f}"
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def _cell(value, published, digits=None, interval=(), mark="{}") -> str:
    """One cell, e.g. '**67.2** [64.2, 70.1] (67.2)': value, interval, (published)."""
    text = mark.format(_number(value, digits))
    if interval:
        text += f" [{', '.join(_number(end, digits) for end in interval)}]"
    return text if pd.isna(published) else f"{text} ({_number(published, digits)})"


def _grid1(table, labels, style, intervals):
    """Table 1 as attack headings and {classifier: [[defense, cell per attack], …]}."""
    attacks, bold, blocks = list(table["attack"].unique()), best(table, labels), {}
    for (classifier, defense), group in table.groupby(["classifier", "defense"], sort=False):
        cells = dict.fromkeys(attacks, "–")
        for row in group.itertuples():
            mark = style["bold"] if bold[row.Index] else "{}"
            interval = (row.low, row.high) if intervals else ()
            cells[row.attack] = _cell(row.accuracy, row.published, 1, interval, mark)
        name = style["text"](display(labels, defense))
        if defense in _controls(labels):
            name = style["control"].format(name)
        blocks.setdefault(style["text"](display(labels, classifier)), [])
        blocks[style["text"](display(labels, classifier))].append([name, *cells.values()])
    return [style["text"](display(labels, attack)) for attack in attacks], blocks


def _grid2(table, labels, style, intervals):
    """Table 2 as model headings and [[attack, success rate and noise level per model], …]."""
    models, rows = list(table["model"].unique()), []
    for attack, group in table.groupby("attack", sort=False):
        cells = {model: ["–", "–"] for model in models}
        for row in group.itertuples():
            interval = (row.low, row.high) if intervals else ()
            rate = _cell(row.success_rate, row.published_success_rate, 2, interval)
            cells[row.model] = [rate, _cell(row.noise_level, row.published_noise_level)]
        rows.append([style["text"](display(labels, attack)), *sum(cells.values(), [])])
    return [style["text"](display(labels, model)) for model in models], rows


def _legend(table, labels) -> str:
    """What the marks mean, as far as they occur."""
    notes = ["Bold: best defense."] if "defense" in table else []
    if "defense" in table and table["defense"].isin(_controls(labels)).any():
        notes.append("† control, not a contender.")
    if table.filter(like="published").notna().any(axis=None):
        notes.append("In parentheses: published.")
    return " ".join(notes)


def _markdown(head, rows, caption) -> str:
    align = ["left" if name in ("Classifier", "Defense", "Attack") else "right" for name in head]
    body = tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    return f"{caption.strip()}\n\n{body}\n"


def markdown_table1(table, labels: dict, caption: str, *, intervals: bool = False) -> str:
    """``table1``'s frame in Markdown: a block per classifier, accuracies in % (published).

    A block's best defense per attack is bold, controls are italic with a dagger and out of the
    contest; `intervals` adds [low, high]. `caption`: dataset, n, interval and threat model, for
    instance ``describe(table, labels)``.
    """
    attacks, blocks = _grid1(table, labels, MARKDOWN, intervals)
    rows = [
        [classifier if position == 0 else "", *row]
        for classifier, block in blocks.items()
        for position, row in enumerate(block)
    ]
    legend = f"{caption} {_legend(table, labels)}"
    return _markdown(["Classifier", "Defense", *attacks], rows, legend)


def markdown_table2(table, labels: dict, caption: str, *, intervals: bool = False) -> str:
    """``table2``'s frame in Markdown: a row per attack, success in % and noise level per model.

    Published values in parentheses; `intervals` adds [low, high] to the rates.
    """
    models, rows = _grid2(table, labels, MARKDOWN, intervals)
    head = [f"{model}: {what}" for model in models for what in ("success", "noise")]
    return _markdown(["Attack", *head], rows, f"{caption} {_legend(table, labels)}")


def _latex(columns, head, body, caption) -> str:
    lines = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escape(caption.strip())}}}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(cells) -> str:
    return " & ".join(cell.replace("–", "--") for cell in cells) + r" \\"


def latex_table1(table, labels: dict, caption: str, *, intervals: bool = False) -> str:
    """``table1``'s frame as a LaTeX table environment (needs booktabs), marked as in Markdown."""
    attacks, blocks = _grid1(table, labels, LATEX, intervals)
    body = []
    for classifier, block in blocks.items():
        title = rf"\multicolumn{{{len(attacks) + 1}}}{{c}}{{{classifier}}} \\"
        body += [r"\midrule", title, r"\midrule", *map(_row, block)]
    columns = "l" + "r" * len(attacks)
    legend = f"{caption} {_legend(table, labels)}"
    return _latex(columns, [_row(["Defense", *attacks])], body, legend)


def latex_table2(table, labels: dict, caption: str, *, intervals: bool = False) -> str:
    """``table2``'s frame as a LaTeX table environment (needs booktabs)."""
    models, rows = _grid2(table, labels, LATEX, intervals)
    over = _row(["", *(rf"\multicolumn{{2}}{{c}}{{{model}}}" for model in models)])
    rules = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(models))]
    under = _row(["Attack", *["Success rate", "Noise level"] * len(models)])
    body = [r"\midrule", *map(_row, rows)]
    columns = "l" + "r" * (2 * len(models))
    legend = f"{caption} {_legend(table, labels)}"
    return _latex(columns, [over, "".join(rules), under], body, legend)
