"""Numbers in sentences, taken from the measured files: ``{table2[funn | fgsm].success_rate:.1%}``.

The field's name is a file of ``reproduction/measured/`` (or one of :data:`READERS`), the key its
row, the attribute its column. Where a file has several rows of a key, e.g. one per seed, it is
their median.
"""

import re
import textwrap
from pathlib import Path

from tandem_defense.artifacts import rates
from tandem_defense.artifacts.schedules import compare
from tandem_defense.evaluation.statistics import mcnemar, paired_interval
from tandem_defense.extras import extra

with extra("pipeline"):
    import pandas as pd

THREATENED = ["classifier", "defense", "threat", "epsilon"]
# The columns that a row is called by.
KEYS = {
    "table1": ["classifier", "defense", "attack"],
    "table1_comparisons": ["classifier", "defense_a", "defense_b", "attack"],
    "table2": ["model", "attack"],
    "attack_semantics": ["classifier", "output", "attack"],
    "baselines": ["setting", "attack"],
    "funn": ["setting", "measure"],
    **dict.fromkeys(["table3", "table3_mnist", "table3_restored", "table3_patches"], THREATENED),
    "overview": ["experiment", "classifier", "defense", "attack"],
}


class Number(float):
    """A number whose ``.1%`` reads '12.5 %'."""

    def __format__(self, spec: str) -> str:
        if spec.endswith("%"):
            return f"{100 * float(self):{spec[:-1]}f} %"
        return (
            format(int(self), "") if not spec and self.is_integer() else format(float(self), spec)
        )


class _Row:
    def __init__(self, name: str, values: dict):
        self._name, self._values = name, values

    def __getattr__(self, column: str) -> Number:
        if column not in self._values:
            known = ", ".join(self._values)
            raise ValueError(
                f"expected a column of {self._name}, got {column!r}; there are {known}"
            )
        return Number(self._values[column])


class _Rows:
    def __init__(self, name: str, table: pd.DataFrame):
        self._name, self._table = name, table

    def __getitem__(self, key: str) -> _Row:
        if key not in self._table.index:
            known = "; ".join(self._table.index[:100])
            raise ValueError(f"expected a row of {self._name}, got {key!r}; there are {known}")
        return _Row(f"{self._name}[{key}]", self._table.loc[key].to_dict())


class _Files(dict):
    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> _Rows:
        stem, read = READERS.get(name, (name, None))
        # A moving average's name is "none" or "0.99": text, also where no "none" is among them.
        table = pd.read_csv(self.folder / f"{stem}.csv", dtype={"average": str})
        if read is None:
            table = table.groupby(KEYS[name], sort=False).median(numeric_only=True)
        else:
            table = read(table)
        names = [" | ".join(map(_text, key)) for key in table.index]
        self[name] = _Rows(name, table.set_axis(names))
        return self[name]


def _text(part: object) -> str:
    return f"{part:g}" if isinstance(part, float) else str(part)


def fill(text: str, folder: Path) -> str:
    """The text with its numbers, in lines of at most 100 characters.

    text : Markdown of paragraphs and lists
    folder : ``reproduction/measured/``

    Raises ValueError where a row or column that is quoted is not there, FileNotFoundError where a
    file is not.
    """
    blocks = text.format_map(_Files(folder)).split("\n\n")
    return "\n\n".join(
        "\n".join(_wrapped(item) for item in re.split(r"\n(?=\* )", block)) for block in blocks
    )


def _wrapped(item: str) -> str:
    """A paragraph, or an item of a list, as long as its numbers have made it."""
    indent = "  " if item.startswith("* ") else ""
    lines = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
    return textwrap.fill(" ".join(item.split()), 100, **lines)


def _tandem(table: pd.DataFrame) -> pd.DataFrame:
    """Per run, average and steps of DIP₂ (as average ``dip1``: of DIP₁): psnr, correct, images."""
    average = table["average"].where(table["network"] == "dip2", "dip1")
    cells = table.assign(average=average).groupby(["run", "average", "steps"], sort=False)
    return cells.agg(
        psnr=("psnr_clean", "mean"), correct=("correct", "sum"), images=("image", "nunique")
    )


def _peak(table: pd.DataFrame) -> pd.DataFrame:
    """Per run and average the most photographs that are correct, and the read-outs that have it."""
    cells = _tandem(table)["correct"].drop("dip1", level="average")
    lines = {}
    for key, line in cells.groupby(level=["run", "average"], sort=False):
        steps = line.index.get_level_values("steps")[line == line.max()]
        lines[key] = {
            "correct": line.max(),
            "first": steps.min(),
            "last": steps.max(),
            "readouts": len(line),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def pairs(table: pd.DataFrame, average: str = "0.99", a="tandem", b="dip") -> pd.DataFrame:
    """Two runs of tandem.csv on the same images, a row per read-out: counts, interval, p.

    Index steps; columns n, only_a, only_b, difference, low, high, p_value.
    """
    rows = table[(table["network"] == "dip2") & (table["average"] == average)]
    right = rows.pivot_table("correct", ["steps", "image"], "run").reindex(columns=[a, b]).dropna()
    lines = {}
    for steps, both in right.groupby(level="steps"):
        test = mcnemar(both[a], both[b])
        low, high = paired_interval(test.only_a, test.only_b, test.n)
        difference = (test.only_a - test.only_b) / test.n
        lines[int(steps)] = (test.n, test.only_a, test.only_b, difference, low, high, test.p_value)
    columns = ["n", "only_a", "only_b", "difference", "low", "high", "p_value"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The tandem beside DIP alone, per attack, average and steps."""
    ends = {"BIM": ""} | {name: f", {name}" for name in ("FGSM", "MI-FGSM", "clean")}
    return pd.concat(
        {
            (name, average): pairs(table, average, f"tandem{end}", f"dip{end}")
            for name, end in ends.items()
            for average in ("none", "0.99")
        }
    )


def _rates(table: pd.DataFrame) -> pd.DataFrame:
    """Per network, norm and rule of DeepFool: fooled after 10 and 50 steps, median distance.

    ``nearer``: in how many of the ``seeds`` that both have the distance is shorter than the classic
    autoencoder's of the same widths. And, where there is PGD, in how many it fools more within 0.5
    (L2) or 0.05, ``pgd_nearer``; what stands after 50 steps of Foolbox 1's: how many, the median
    lead that is left, and the share of them that PGD fools within 1 (in L2).
    """
    lines = {}
    for norm in rates.NORMS:
        tried, near = rates.groups(table, f"PGD {norm}"), {"L2": 0.5, "L∞": 0.05}[norm]
        falls = {name: _by_seed(rows["distance"] <= near, rows) for name, rows in tried.items()}
        for rule in rates.RULES:
            walks = rates.groups(table, f"DeepFool {norm}, {rule}")
            far = {name: _by_seed(rows["distance"], rows, "median") for name, rows in walks.items()}
            for name, rows in walks.items():
                classic = "classic," + name.partition(",")[2]
                line = {
                    "after_10": rates.fallen(rows, "step", 10),
                    "after_50": rates.fallen(rows, "step", rates.EARLY),
                    "distance": rows["distance"].median(),
                }
                if classic in far:
                    difference = (far[name] - far[classic]).dropna()
                    line |= {"seeds": len(difference), "nearer": int((difference < 0).sum())}
                if {name, classic} <= {*tried}:
                    line["pgd_nearer"] = int((falls[name] - falls[classic] > 0).sum())
                if name in tried:
                    left = rates.standing(table, name, norm)
                    line |= {"standing": len(left), "lead": left["margin"].median()}
                    line["pgd"] = rates.fallen(left, "distance", 1) if len(left) else float("nan")
                lines[name, norm, rule] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def _by_seed(values: pd.Series, rows: pd.DataFrame, how: str = "mean") -> pd.Series:
    return values.groupby(rows["seed"]).agg(how)


def together(table: pd.DataFrame) -> pd.DataFrame:
    """Per classifier, defense and attack: n and share, on t-DIPs' photographs of all attacks."""
    last = table[(table["defense"] == "tdips") & (table["iteration"] == 1000)]
    attacks = last.groupby(["classifier", "image"])["attack"].transform("nunique")
    last = last[attacks == attacks.groupby(last["classifier"]).transform("max")]
    both = table[table["iteration"] == 0].merge(last[["classifier", "attack", "image"]])
    rows = pd.concat([both, last])
    right = rows["prediction"].eq(rows["label"])
    right = right.groupby([rows[key] for key in ("classifier", "defense", "attack")])
    return right.agg(n="size", share="mean")


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """Per attack and read-out: shares of t-DIPs, at its smallest λ₁, and of DIP alone; their test.

    Columns n, the photographs of both, only_a, t-DIPs', only_b, p_value; tdips, dip, each of all
    its photographs.
    """
    rows = table[table["defense"].isin(["tdips", "dip"])]
    rows = rows[rows["classifier"].isin(rows.loc[rows["defense"] == "dip", "classifier"])]
    smallest = rows.groupby(["defense", "attack"])["first_iterations"].transform("min")
    rows = rows[rows["first_iterations"] == smallest]
    rows = rows.assign(correct=rows["prediction"].eq(rows["label"]).astype(float))
    index = ["classifier", "image", "attack", "iteration"]
    right, lines = rows.pivot_table("correct", index, "defense"), {}
    for key, some in right.groupby(["attack", "iteration"]):
        both = some.dropna()
        lines[key] = mcnemar(both["tdips"], both["dip"])._asdict() | some.mean().to_dict()
    return pd.DataFrame.from_dict(lines, orient="index")


def _colors(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby(["run", "average", "steps"], sort=False).mean(numeric_only=True)


def _threads(table: pd.DataFrame) -> pd.DataFrame:
    """How many steps of DIP₂ (scale 8) one of DIP₁ takes as long as, on one thread."""
    alone = table[(table["threads"] == 1) & (table["images"] == 1)]
    speed = alone.groupby("network")["image_steps_per_second"].first()
    return pd.DataFrame({"steps": [speed["dip2"] / speed["dip1"]]}, [("dip1", "dip2")])


# What is computed of a file: name to the file and how.
READERS = {
    "tandem": ("tandem", _tandem),
    "tandem_peak": ("tandem", _peak),
    "tandem_pairs": ("tandem", _pairs),
    "threads": ("../../performance/threads", _threads),
    "funn_rates": ("funn_rates", _rates),
    "funn_autoattack": ("funn_rates", rates.autoattack),
    "together": ("answers", together),
    "curves": ("answers", _curves),
    "colors": ("colors", _colors),
    "schedules": ("schedules", compare),
}
