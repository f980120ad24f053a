"""Whether the papers reproduce, in one table: published, measured, verdict, what would decide.

The first table of docs/reproduction.md. Everything in it is computed from the published tables and
from ``reproduction/measured/``; a file that is not there leaves *not measured*.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tandem_defense.artifacts import funn_claims as funn
from tandem_defense.artifacts import rates
from tandem_defense.artifacts.base import PUBLISHED, Sheet
from tandem_defense.artifacts.claims import Claims, Tests, images
from tandem_defense.artifacts.printing import counts
from tandem_defense.evaluation.published import read_table
from tandem_defense.evaluation.statistics import McNemar, images_to_decide, mcnemar, wilson
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

WIDE = 0.25  # of an interval that decides nothing
IMAGES = 1000  # that a published share is of, in both papers
# reproduction/tandem.py's runs that are the paper's t-DIPs, by λ₁, and DIP alone, under BIM.
RUNS = {"tandem": ("tdips", 100), "dip": ("dip", 0)}
RUNS |= {f"tandem, λ₁ {steps}": ("tdips", steps) for steps in (200, 300)}
AVERAGE, LAST = "0.99", 1000
# Which networks of reproduction/funn.py play which part in the paper's claims, by their last width.
# Other β and rates are compared with "× 1", which has the width of theirs, not with Table 2's FUNN.
MODELS = {"classic": "classic, 32", "magnet": "magnet, 32", "funn": "funn, 32"}
LARGER = {0.02: "funn, 64, beta 0.02", 0.05: "funn, 64, beta 0.05"}
RATES = {"× 1": "funn, 64", "× 3": "funn, 64, rates x 3", "÷ 3": "funn, 64, rates x 1-3"}

HEAD = ["cells or claim", "in print", "measured", "verdict", "what would decide"]
Row = tuple[str, str, str, str, str]


def verdict(published: float, low: float, high: float) -> str:
    """Whether a published share agrees with a measured interval.

    ``undecided``: it does, but the interval is wider than ``WIDE``, where nearly anything would;
    ``reproduced``: it lies inside; ``nearly``: its own interval (Wilson, 95 %), of the paper's
    ``IMAGES``, overlaps the measured one; ``contradicted``: not even that; empty where nothing was
    published or measured.
    """
    if pd.isna(published) or pd.isna(low):
        return ""
    least, most = wilson(round(published * IMAGES), IMAGES)
    if most < low or high < least:
        return "contradicted"
    if high - low > WIDE:
        return "undecided"
    return "reproduced" if low <= published <= high else "nearly"


@cache
def images_to_narrow(share: float, width: float = WIDE) -> int:
    """From how many images on the 95 % interval of a share is at most so wide."""
    n = 1
    while True:
        low, high = wilson(round(share * n), n)
        if high - low <= width:
            return n
        n += 1


def summary(folder: Path, config: Mapping, why: Mapping) -> list[Row]:
    """The rows of the table, ``HEAD`` its columns.

    folder : ``reproduction/measured/``
    config : ``reproduction/config.yaml``
    why : ``reproduction/reasons.toml``; a section's ``decides`` says what would decide where that
        is no number of images
    """
    return [
        *_table2(folder, config, why.get("table2", {}).get("decides", "")),
        *_funn_claims(folder, config, why.get("funn_claims", {}).get("decides", "")),
        *_table1(folder, config, why.get("table1", {}).get("decides", "")),
        *_tdips_claims(folder, config, why.get("claims", {}).get("decides", "")),
    ]


def _read(file: Path) -> pd.DataFrame | None:
    return pd.read_csv(file, dtype={"average": str}) if file.exists() else None


def _labels(config: Mapping, experiment: str, section: str) -> dict[str, str]:
    entries = config["experiments"][experiment][section]
    return {name: entry.get("label", name) for name, entry in entries.items()}


def _range(shares: pd.Series) -> str:
    known = shares.dropna()
    if known.empty:
        return "–"
    ends = dict.fromkeys(f"{100 * share:.1f}" for share in (known.min(), known.max()))
    return "–".join(ends) + " %"


def _cells(name: str, cells: pd.DataFrame, decides: str) -> Row:
    """A row for some cells: columns published, share, low, high, n (NA: not measured)."""
    words = [verdict(c.published, c.low, c.high) or "not measured" for c in cells.itertuples()]
    many = Counter(words)
    text = ", ".join(f"{many[word]} {word}" for word in VERDICTS if many[word])
    open_ = [c for c, word in zip(cells.itertuples(), words) if word == "undecided"]
    needed = []
    if several := [c for c in open_ if getattr(c, "seeds", 1) > 1]:
        wide = ", ".join(f"{100 * (c.high - c.low):.0f}" for c in several)
        needed = [f"more seeds: those here are {wide} points apart"]
    elif open_:
        needed = [f"{max(images_to_narrow(c.published) for c in open_)} images"]
    needed += [decides] if decides and "not measured" in words else []
    here = _range(cells["share"])
    if cells["n"].notna().any():
        here += f", {counts(cells['n'])} images"
    title = f"{name}, {len(cells)} cells"
    return title, _range(cells["published"]), here, text, "; ".join(needed) or "–"


VERDICTS = ("reproduced", "nearly", "contradicted", "undecided", "not measured")


def _table1(folder: Path, config: Mapping, decides: str) -> list[Row]:
    """A row per defense that was published, over all classifiers and attacks."""
    keys = ["classifier", "defense", "attack"]
    printed = read_table(PUBLISHED / "table1.csv", ["accuracy"])
    cells = printed.rename(columns={"accuracy": "published"})
    measured = _read(folder / "table1.csv")
    if measured is None:
        measured = pd.DataFrame(columns=[*keys, "accuracy", "low", "high", "n"])
    measured = measured.rename(columns={"accuracy": "share"})[[*keys, "share", "low", "high", "n"]]
    cells = cells.merge(measured, on=keys, how="left")
    labels = _labels(config, config["tables"]["table1"]["experiment"], "defenses")
    return [
        _cells(f"**Table 1**: {labels.get(name, name)}", some, decides)
        for name, some in cells.groupby("defense", sort=False)
    ]


def _table2(folder: Path, config: Mapping, decides: str) -> list[Row]:
    """A row per model."""
    keys = ["model", "attack"]
    printed = read_table(PUBLISHED / "table2.csv", ["success_rate"])
    cells = printed[printed["success_rate"].notna()].rename(columns={"success_rate": "published"})
    measured = _read(folder / "table2.csv")
    if measured is None:
        measured = pd.DataFrame(columns=[*keys, "success_rate", "low", "high", "n", "seeds"])
    measured = measured.rename(columns={"success_rate": "share"})
    measured = measured.reindex(columns=[*keys, "share", "low", "high", "n", "seeds"])
    cells = cells.merge(measured, on=keys, how="left")
    experiment = config["tables"]["table2"]["experiment"]
    labels = _labels(config, experiment, "classifiers") | _labels(config, experiment, "defenses")
    return [
        _cells(f"**Table 2**: {labels.get(name, name)}", some, decides)
        for name, some in cells.groupby("model", sort=False)
    ]


def funn_ledger(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """FUNN's claims on the printed and on the measured numbers, columns as ``funn_claims.judge``.

    A claim is judged on funn_claims.csv (a run of the configuration: five seeds, MagNet), or else
    on funn.csv (reproduction/funn.py, medians over seeds), or else on table2.csv. Whether success
    grows with the steps is judged on funn_rates.csv, where all steps have the same images.
    """
    growing = None
    if (walks := _read(folder / "funn_rates.csv")) is not None:
        growing = _growth(walks)
    printed = funn.judge(funn.printed(read_table(PUBLISHED / "table2.csv", ["success_rate"])))
    ledgers = []
    if (run := _read(folder / "funn_claims.csv")) is not None:
        ledgers.append(run[run["numbers"] == "measured"])
    if (sweep := _read(folder / "funn.csv")) is not None:
        ledgers.append(_judge_sweep(sweep, growing))
    if (table := _read(folder / "table2.csv")) is not None:
        cells = {
            (row.model, row.attack): funn.Rate(row.success_rate, row.low, row.high, row.noise_level)
            for row in table.itertuples()
        }
        ledgers.append(funn.judge(cells, growing=growing))
    here = printed.set_index("claim").assign(holds=pd.NA, evidence=funn.NOTHING[1])
    for ledger in reversed(ledgers):
        judged = ledger[ledger["evidence"] != funn.NOTHING[1]].set_index("claim")
        here.loc[judged.index, ["holds", "evidence"]] = judged[["holds", "evidence"]]
    return printed, here.reset_index()


def _growth(table: pd.DataFrame) -> dict[tuple[str, str], funn.Rate]:
    """FUNN under Table 2's DeepFools, each number of steps on the same images: over the seeds."""
    cells = {}
    for name, norm in (("l2", "L2"), ("linf", "L∞")):
        walks = rates.groups(table, f"DeepFool {norm}, Foolbox 1").get(MODELS["funn"])
        for steps in (50, 200, 1000) if walks is not None else ():
            shares = (walks["step"] <= steps).groupby(walks["seed"]).mean()
            three = (float(shares.agg(how)) for how in ("median", "min", "max"))
            cells["funn", f"deepfool_{name}_{steps}"] = funn.Rate(*three, float("nan"))
    return cells


def _judge_sweep(table: pd.DataFrame, growing: dict | None) -> pd.DataFrame:
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
    return funn.judge(cells, growing=growing, larger=larger, rates=others)


def _training(measures) -> funn.Training | None:
    """Medians over seeds of what a training came to; None where it is not whole."""
    last = "optimization, epoch 31"
    names = (f"{last}, attacker (3)", f"{last}, defender (4)", "black", "deepfool_l2_50")
    if measures is None or not set(names) <= set(measures.groups):
        return None
    return funn.Training(*(measures.get_group(name)["value"].median() for name in names))


def evidence(judged) -> str:
    """A claim's evidence on FUNN; "–" where there is none."""
    return "–" if judged.evidence == funn.NOTHING[1] else judged.evidence


def named(evidence: str, config: Mapping) -> str:
    """A claim's evidence on FUNN, with the attacks' labels in place of their names."""
    attacks = _labels(config, config["tables"]["table2"]["experiment"], "attacks")
    for name in sorted(attacks, key=len, reverse=True):
        evidence = evidence.replace(f"{name} ", f"{attacks[name]}: ")
    return evidence


def _funn_claims(folder: Path, config: Mapping, decides: str) -> list[Row]:
    rows = []
    for theirs, ours in zip(*(ledger.itertuples() for ledger in funn_ledger(folder)), strict=True):
        texts = [named(evidence(judged), config) for judged in (theirs, ours)]
        word = _word(theirs.holds, ours.holds)
        if pd.isna(ours.holds) and texts[1] != "–":
            word = "undecided"
        open_ = decides and word == "not measured"
        rows.append((theirs.claim, *texts, word, decides if open_ else "–"))
    return rows


def _word(printed, holds, decided=pd.NA) -> str:
    if pd.isna(holds):
        return "not measured"
    if pd.notna(decided) and not decided:
        return "undecided"
    if holds:
        return "reproduced"
    return "contradicted" if pd.isna(printed) or printed else "contradicted, as in print"


def tdips_ledger(folder: Path, config: Mapping) -> tuple[pd.DataFrame, pd.DataFrame]:
    """t-DIPs' claims on the printed and on the measured numbers, columns as ``Claims.judge``.

    A claim is judged on table1.csv and its paired tests, or else taken from claims.csv (a run of
    the configuration, with its curves), or else judged on tandem.csv.
    """
    entry = config["tables"]["claims"]
    shown = ("kind", "label", "paper")
    kind = Claims(**{key: value for key, value in entry.items() if key not in shown})
    name = entry["experiment"]
    sheet = Sheet(
        config["experiments"][name]["dataset"]["kind"],
        _labels(config, name, "classifiers"),
        {"clean": "clean"} | _labels(config, name, "attacks"),
        _labels(config, name, "defenses"),
    )
    tests, published = _tests(folder), read_table(PUBLISHED / "table1.csv", ["accuracy"])
    printed = kind.judge(published, sheet, tests=tests, printed=True)
    columns = ["classifier", "defense", "attack", "accuracy", "low", "high"]
    table = _read(folder / "table1.csv")
    table = pd.DataFrame(columns=columns) if table is None else table[columns]
    here = kind.judge(table, sheet, tests=tests).set_index("claim")
    ledgers = []
    if (run := _read(folder / "claims.csv")) is not None:
        ledgers.append(run[run["numbers"] == "measured"].set_index("claim"))
    if (tandem := _read(folder / "tandem.csv")) is not None:
        ledgers.append(kind.judge(table, sheet, _curves(tandem), tests).set_index("claim"))
    for ledger in ledgers:
        ledger = ledger.reindex(here.index)
        new = here["holds"].isna() & ledger["holds"].notna()
        for column in ledger.columns.intersection(["holds", "decided", "evidence"]):
            here.loc[new, column] = ledger.loc[new, column]
    return printed, here.reset_index()


def _tests(folder: Path) -> Tests:
    """Paired tests from table1_comparisons.csv and, of read-outs, from tandem.csv."""
    pairs: dict[tuple, McNemar] = {}
    if (table := _read(folder / "table1_comparisons.csv")) is not None:
        for row in table.itertuples():
            key = (row.classifier, row.attack)
            counts = (row.only_a, row.only_b)
            pairs[*key, row.defense_a, row.defense_b] = McNemar(row.p_value, *counts, row.n)
            pairs[*key, row.defense_b, row.defense_a] = McNemar(row.p_value, *counts[::-1], row.n)
    answers = None
    if (tandem := _read(folder / "tandem.csv")) is not None:
        answers = _answers(tandem).pivot(index="image", columns="read", values="correct")
        answers["none", 0, 0] = 0.0  # they are photographs that the attack fools

    def test(net, attack, a, b) -> McNemar | None:
        if (a[2] or b[2]) and answers is not None and {a, b} <= set(answers):
            both = answers[[a, b]].dropna()
            return mcnemar(both[a], both[b])
        return pairs.get((net, attack, a[0], b[0])) if not a[2] and not b[2] else None

    return test


def _answers(tandem: pd.DataFrame) -> pd.DataFrame:
    """The rows of the paper's runs, with whose answer each is: (defense, λ₁, iteration)."""
    wanted = (tandem["network"] == "dip2") & (tandem["average"] == AVERAGE)
    wanted &= tandem["run"].isin(list(RUNS)) & (tandem["steps"] <= LAST)
    rows = tandem[wanted]
    reads = [(*RUNS[run], int(n)) for run, n in zip(rows["run"], rows["steps"], strict=True)]
    return rows.assign(read=pd.Series(reads, index=rows.index, dtype=object))


def _curves(tandem: pd.DataFrame) -> pd.DataFrame:
    """Figure 6's points of the paper's runs, on the images of all, with Wilson's intervals."""
    answers = _answers(tandem)
    runs = answers.groupby("image")["run"].nunique()
    common = answers["image"].isin(runs.index[runs == runs.max()])
    parts = []
    for read, rows in answers[common].groupby("read"):
        n, correct = len(rows), int(rows["correct"].sum())
        low, high = wilson(correct, n)
        parts.append((*read, "bim", n, correct / n, float(low), float(high)))
    columns = ["defense", "first_iterations", "iteration", "attack", "n", "accuracy", "low", "high"]
    return pd.DataFrame(parts, columns=columns)


def _tdips_claims(folder: Path, config: Mapping, decides: str) -> list[Row]:
    closest = {
        row.images: f" ({row.classifier}, {row.attack})" for row in comparisons(folder).itertuples()
    }
    rows = []
    ledgers = (ledger.itertuples() for ledger in tdips_ledger(folder, config))
    for theirs, ours in zip(*ledgers, strict=True):
        word = _word(theirs.holds, ours.holds, ours.decided)
        needed = decides
        if pd.notna(theirs.images):
            needed = f"{images(theirs.images)} images{closest.get(theirs.images, '')}"
        known = "–" if pd.isna(theirs.holds) else _short(theirs.evidence)
        here = "–" if pd.isna(ours.holds) else _short(ours.evidence)
        # By our claim: it has the labels of the configuration.
        done = word in ("reproduced", "contradicted")
        rows.append((ours.claim, known, here, word, "–" if done else needed or "–"))
    return rows


def _short(evidence: str) -> str:
    """The one comparison of a claim, or how many hold or do not."""
    evidence = re.sub("; undecided in .*", "", evidence)
    count, _, rest = evidence.partition(": ")
    if count.endswith(" 1 of 1"):
        return rest
    return evidence if len(evidence) < 100 else count


def comparisons(folder: Path) -> pd.DataFrame:
    """What Table 1's claims compare, and on how many images each comparison is decided.

    Columns classifier, attack, other, a, b (the published accuracies of t-DIPs and of the other),
    discordance and whether it is measured, images.
    """
    printed = read_table(PUBLISHED / "table1.csv", ["accuracy"])
    shares = printed.set_index(["classifier", "attack", "defense"])["accuracy"]
    test, rows = _tests(folder), []
    for (net, attack, other), share in shares.items():
        ours = shares.get((net, attack, "tdips"))
        claimed = other == "comdefend" or (other == "hgd" and attack not in ("clean", "deepfool"))
        if ours is None or not claimed:
            continue
        pair = test(net, attack, ("tdips", 0, 0), (other, 0, 0))
        worst = min(ours + share, 2 - ours - share)
        measured = None if pair is None else wilson(pair.only_a + pair.only_b, pair.n)[1]
        discordance = worst if measured is None else min(max(measured, abs(ours - share)), worst)
        needed = images_to_decide(ours, share, discordance)
        rows.append((net, attack, other, ours, share, discordance, discordance < worst, needed))
    columns = ["classifier", "attack", "other", "a", "b", "discordance", "measured", "images"]
    return pd.DataFrame(rows, columns=columns)
