"""Tables on small prediction frames with answers computed by hand."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tandem_defense.evaluation import tables

PUBLISHED = Path(__file__).parents[1] / "resources" / "published"
LABELS = {"inception_v3": "Inception-v3", "tdips": "t-DIPs", "hgd": "HGD (ours, 5_000 images)"}
LABELS |= {"none": "No defense", "cw": "C&W", "fgsm": "FGSM", "deepfool_linf_50": "DeepFool (L∞)"}
LABELS |= {"comdefend": "ComDefend", "noise": "Noise", "nips2017": "NIPS 2017", "mnist": "MNIST"}
LABELS |= {"controls": ["noise"], "funn": "FUNN", "magnet": "MagNet", "classic": "Classic"}
SPEC1 = {
    "dataset": "nips2017",
    "classifiers": ["resnet50", "inception_v3"],
    "defenses": ["none", "hgd", "tdips"],
    "attacks": ["clean", "fgsm"],
    "first_iterations": 100,
    "iterations": 1000,
}
SPEC2 = {
    "dataset": "mnist",
    "models": {
        "classic": {"classifier": "classic", "defense": "none"},
        "magnet": {"classifier": "classic", "defense": "magnet"},
        "funn": {"classifier": "funn", "defense": "none"},
    },
    "attacks": ["fgsm", "deepfool_linf_50"],
}


def rows(answers, **columns):
    """Rows for images i0, i1, …: an answer 'r'ight, 'w'rong, 'x' refused (and right).

    Capitals are images that the bare classifier gets wrong when clean. The true label is 7.
    """
    common = dict(dataset="nips2017", seed=0, classifier="inception_v3", attack="fgsm")
    common |= dict(defense="none", first_iterations=0, iteration=0, success=True, linf=0.03)
    found = [
        {
            "image": f"i{i}",
            "label": 7,
            "clean_prediction": 3 if answer.isupper() else 7,
            "prediction": 3 if answer in "wW" else 7,
            "rejected": answer in "xX",
            "l2": float(i + 1),
        }
        for i, answer in enumerate(answers)
    ]
    return pd.DataFrame(found).assign(**(common | columns))


def published(number):
    return pd.read_csv(PUBLISHED / f"table{number}.csv")


def frame1(seeds=(0,)):
    """Four images; t-DIPs with read-outs and λ₁ that Table 1 must not take."""
    parts = []
    for seed in seeds:
        for classifier in SPEC1["classifiers"]:
            here = dict(classifier=classifier, seed=seed)
            parts += [rows("rrrw", **here, attack="clean"), rows("wwww", **here)]
            parts += [rows("rxrw", **here, attack="clean", defense="hgd")]
            parts += [rows("rrwx", **here, defense="hgd")]
            for first, step, clean, fgsm in (
                (100, 1000, "rrww", "rwrr"),
                (100, 500, "wwww", "wwww"),
                (200, 1000, "wwww", "wwww"),
            ):
                steps = here | dict(defense="tdips", first_iterations=first, iteration=step)
                parts += [rows(clean, **steps, attack="clean"), rows(fgsm, **steps)]
    return pd.concat(parts, ignore_index=True)


def frame2(seeds=(0,)):
    parts = []
    for seed in seeds:
        for attack in SPEC2["attacks"]:
            here = dict(dataset="mnist", attack=attack, seed=seed)
            parts += [rows("wwrrW", **here, classifier="classic")]
            parts += [rows("wxxrR", **here, classifier="classic", defense="magnet")]
            parts += [rows("rrrWW", **here, classifier="funn")]
    return pd.concat(parts, ignore_index=True)


def test_published_files():
    one, two = published(1), published(2)
    assert len(one) == 96 and not one.duplicated(tables.CELL).any()
    assert one["accuracy"].between(0, 0.864).all()
    cell = one.set_index(["classifier", "defense", "attack"])["accuracy"]
    assert cell["inception_v3", "tdips", "mifgsm"] == 0.536
    assert cell["densenet161", "comdefend", "clean"] == 0.61
    assert len(two) == 21 and not two.duplicated(["dataset", "model", "attack"]).any()
    share = two.set_index(["model", "attack"])["success_rate"]
    for attack in ("deepfool_l2_50", "fgsm", "iterative_fgsm", "local_search"):
        exact = round(share["classic", attack] * 966) / 966  # the paper's k of 966 images
        assert share["classic", attack] == pytest.approx(exact, abs=0.5001e-4)
    assert share["funn", "deepfool_linf_200"] == 0.892 and pd.isna(share["magnet", "single_pixel"])
    assert set(two["source"]) == {"Table 2", "text"}


def test_table1_by_hand():
    table = tables.table1(frame1(), SPEC1, published(1))
    assert list(table) == tables.TABLE1
    assert table["classifier"].tolist() == ["resnet50"] * 6 + ["inception_v3"] * 6
    assert table["defense"].tolist()[:6] == ["none", "none", "hgd", "hgd", "tdips", "tdips"]
    assert table["accuracy"].tolist() == [0.75, 0.0, 0.5, 0.5, 0.5, 0.75] * 2
    assert set(table["n"]) == {4}
    assert table["published"].tolist()[6:] == [0.864, 0.109, 0.817, 0.612, 0.672, 0.673]
    assert table["low"][0] == pytest.approx(0.3006, abs=1e-4)  # Wilson of 3 of 4
    assert table["high"][0] == pytest.approx(0.9544, abs=1e-4)


def test_table1_leaves_unpublished_cells_empty():
    predictions = frame1().replace({"defense": {"hgd": "noise"}})
    spec = SPEC1 | {"defenses": ["none", "noise", "tdips"]}
    table = tables.table1(predictions, spec, published(1))
    assert table["published"].isna().tolist() == [False, False, True, True, False, False] * 2


def test_table1_over_seeds_is_median_and_range():
    predictions = frame1((0, 1, 2))
    better = (predictions["seed"] == 2) & (predictions["defense"] == "tdips")
    predictions.loc[better & (predictions["attack"] == "clean"), "prediction"] = 7
    table = tables.table1(predictions, SPEC1, published(1))
    row = table.set_index(tables.CELL).loc[("nips2017", "inception_v3", "tdips", "clean")]
    assert row[["n", "accuracy", "low", "high"]].tolist() == [4, 0.5, 0.5, 1.0]


def test_tables_take_categorical_columns_and_any_row_order():
    predictions = frame1().sample(frac=1, random_state=0)
    names = ["dataset", "classifier", "attack", "defense", "image"]
    shuffled = predictions.astype(dict.fromkeys(names, "category"))
    expected = tables.table1(frame1(), SPEC1, published(1))
    pd.testing.assert_frame_equal(tables.table1(shuffled, SPEC1, published(1)), expected)


@pytest.mark.parametrize("drop", [slice(0, 1), slice(0, 4)])
def test_missing_rows_are_named(drop):
    predictions = frame1()
    at = predictions.index[
        (predictions["defense"] == "hgd")
        & (predictions["classifier"] == "resnet50")
        & (predictions["attack"] == "fgsm")
    ]
    found = 4 - len(at[drop])
    with pytest.raises(ValueError, match=f"found {found} rows, .* each of 4 images") as error:
        tables.table1(predictions.drop(at[drop]), SPEC1, published(1))
    for word in ("resnet50", "hgd", "fgsm", "seed 0", "missing: i0"):
        assert word in str(error.value)


def test_duplicated_rows_are_named():
    predictions = frame1()
    again = pd.concat([predictions, predictions.iloc[[2]]])
    with pytest.raises(ValueError, match=r"none.*clean.*found 5 rows.*4 images; duplicated: i2"):
        tables.table1(again, SPEC1, published(1))


def test_a_seed_missing_from_a_cell_is_an_error():
    predictions = frame1((0, 1))
    gone = (predictions["seed"] == 1) & (predictions["defense"] == "hgd")
    with pytest.raises(ValueError, match="hgd.*seed 1: found 0 rows"):
        tables.table1(predictions[~gone], SPEC1, published(1))


def test_an_absent_read_out_names_those_that_exist():
    with pytest.raises(ValueError, match=r"iteration 900.*\(100, 500\), \(100, 1000\)"):
        tables.table1(frame1(), SPEC1 | {"iterations": 900}, published(1))


def test_nothing_at_all_and_absent_columns_are_errors():
    with pytest.raises(ValueError, match="imagenet.*found 0 rows"):
        tables.table1(frame1(), SPEC1 | {"dataset": "imagenet"}, published(1))
    with pytest.raises(ValueError, match=r"lacking \['l2'\]"):
        tables.table1(frame1().drop(columns="l2"), SPEC1, published(1))


def test_table2_by_hand():
    table = tables.table2(frame2(), SPEC2, published(2)).set_index(["model", "attack"])
    assert list(table.reset_index()[tables.TABLE2]) == tables.TABLE2
    assert list(table.index)[:3] == [
        ("classic", "fgsm"),
        ("classic", "deepfool_linf_50"),
        ("magnet", "fgsm"),
    ]
    classic, magnet, funn = (table.loc[m, "fgsm"] for m in ("classic", "magnet", "funn"))
    assert (classic["n"], classic["success_rate"], classic["noise_level"]) == (4, 0.5, 1.5)
    assert (magnet["n"], magnet["success_rate"], magnet["noise_level"]) == (4, 0.25, 1.0)
    assert (funn["n"], funn["success_rate"]) == (3, 0.0) and pd.isna(funn["noise_level"])
    assert classic["low"] == pytest.approx(0.15, abs=1e-3)  # Wilson of 2 of 4
    assert magnet["published_success_rate"] == 0.032 and pd.isna(magnet["published_noise_level"])
    assert classic["published_noise_level"] == 0.07
    assert set(table["seeds"]) == {1}


def test_table2_over_seeds():
    predictions = frame2((0, 1, 2))
    first = (predictions["seed"] == 1) & (predictions["image"] == "i0")
    predictions.loc[first & (predictions["classifier"] == "funn"), "clean_prediction"] = 3
    second = (predictions["seed"] == 2) & (predictions["image"] == "i1")
    predictions.loc[second & (predictions["classifier"] == "funn"), "prediction"] = 3
    row = tables.table2(predictions, SPEC2, published(2)).set_index(["model", "attack"])
    row = row.loc["funn", "fgsm"]
    assert row[["n", "success_rate", "low"]].tolist() == [3, 0, 0] and row["seeds"] == 3
    assert row["high"] == pytest.approx(1 / 3) and row["noise_level"] == 2.0


def test_table2_without_a_single_right_image():
    predictions = frame2().assign(clean_prediction=3)
    table = tables.table2(predictions, SPEC2, published(2))
    assert set(table["n"]) == {0} and table["success_rate"].isna().all()
    assert "–" in tables.markdown_table2(table, LABELS, "Nothing.")


def test_overview_has_every_cell_as_the_tables_have_it():
    both = pd.concat([frame1(), frame2()], ignore_index=True)
    cells = ["classifier", "defense", "attack"]
    found = tables.overview(both).set_index([*cells, "first_iterations", "iteration"]).sort_index()
    assert len(found) == len(both.drop_duplicates([*cells, "first_iterations", "iteration"]))
    for row in tables.table1(both, SPEC1, published(1)).itertuples():
        steps = (100, 1000) if row.defense == "tdips" else (0, 0)
        cell = found.loc[(row.classifier, row.defense, row.attack, *steps)]
        assert tuple(cell[["n", "accuracy", "low", "high"]]) == tuple(row[5:9])
    for row in tables.table2(both, SPEC2, published(2)).itertuples():
        which = SPEC2["models"][row.model]
        cell = found.loc[(which["classifier"], which["defense"], row.attack, 0, 0)]
        assert cell["success_rate"] == row.success_rate
        assert cell["noise_level"] == row.noise_level or pd.isna(row.noise_level)
    clean = found.xs("clean", level="attack")
    assert clean[["success_rate", "noise_level", "linf"]].isna().all(axis=None)


def test_comparisons_by_hand():
    found = tables.comparisons(frame1(), SPEC1)
    assert list(found) == tables.COMPARISONS and len(found) == 2 * 2 * 3
    row = found[(found["defense_a"] == "hgd") & (found["attack"] == "fgsm")].iloc[0]
    assert row["classifier"] == "resnet50" and row["defense_b"] == "tdips"
    assert (row["n"], row["only_a"], row["only_b"]) == (4, 1, 2)  # rr-- against r-rr
    assert row["p_value"] == 1.0
    none = found[(found["defense_b"] == "tdips") & (found["defense_a"] == "none")].iloc[1]
    assert (none["only_a"], none["only_b"], none["p_value"]) == (0, 3, 0.25)


def test_comparisons_over_seeds_count_images_once():
    predictions = frame1((0, 1, 2))
    once = (predictions["seed"] == 0) & (predictions["defense"] == "tdips")
    predictions.loc[once, "prediction"] = 3
    pd.testing.assert_frame_equal(
        tables.comparisons(predictions, SPEC1), tables.comparisons(frame1(), SPEC1)
    )


def table_for_print():
    """One block: noise (a control) is best on FGSM, none on clean images."""
    parts = [
        ("none", "clean", 0.9, None),
        ("none", "cw", 0.0, 0.0),
        ("hgd", "clean", 0.7, 0.817),
        ("hgd", "cw", 0.2, 0.153),
        ("noise", "clean", 0.8, None),
        ("noise", "cw", 0.9, None),
        ("tdips", "clean", 0.6, 0.672),
        ("tdips", "cw", 0.523, 0.652),
    ]
    table = pd.DataFrame(parts, columns=["defense", "attack", "accuracy", "published"])
    return table.assign(
        dataset="nips2017", classifier="inception_v3", n=1000, low=0.1, high=table["accuracy"]
    )[tables.TABLE1].astype({"published": float})


def test_bold_is_the_best_defense_only():
    assert tables.best(table_for_print(), LABELS).tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert tables.best(table_for_print(), {}).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    tie = table_for_print().assign(accuracy=0.5)
    assert tables.best(tie, LABELS).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_markdown_table1():
    text = tables.markdown_table1(table_for_print(), LABELS, "Some caption.")
    caption, _, *body = text.strip().split("\n")
    assert caption == (
        "Some caption. Bold: best defense. † control, not a contender. In parentheses: published."
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    assert cells[0] == ["Classifier", "Defense", "clean", "C&W"]
    assert cells[2:] == [
        ["Inception-v3", "No defense", "90.0", "0.0 (0.0)"],
        ["", "HGD (ours, 5_000 images)", "**70.0** (81.7)", "20.0 (15.3)"],
        ["", "*Noise* †", "80.0", "90.0"],
        ["", "t-DIPs", "60.0 (67.2)", "**52.3** (65.2)"],
    ]
    wide = tables.markdown_table1(table_for_print(), LABELS, "Some caption.", intervals=True)
    assert "**52.3** [10.0, 52.3] (65.2)" in wide


def check_latex(text):
    """Balanced environments and braces, and as many cells in every row as there are columns."""
    open_now = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        open_now.append(name) if kind == "begin" else None
        assert kind == "begin" or open_now.pop() == name
    assert not open_now
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    columns = len(re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)[1])
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for line in body.strip().split("\n"):
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells + sum(spans) - len(spans) == columns, line
    for special in ("%", "#", "_"):
        assert not re.search(rf"(?<!\\)\{special}", text.replace("$_", "")), special
    assert not set(text) & set("–∞λ†₁")
    return columns


def test_latex_table1():
    text = tables.latex_table1(table_for_print(), LABELS, "Of 100 % & λ₁ = 100_000.")
    assert check_latex(text) == 3
    assert r"\multicolumn{3}{c}{Inception-v3} \\" in text
    assert r"t-DIPs & 60.0 (67.2) & \textbf{52.3} (65.2) \\" in text
    assert r"\textit{Noise}$^\dagger$ & 80.0 & 90.0 \\" in text
    assert r"HGD (ours, 5\_000 images) & \textbf{70.0} (81.7) & 20.0 (15.3) \\" in text
    assert r"Of 100 \% \& $\lambda$$_1$ = 100\_000." in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert check_latex(tables.latex_table1(table_for_print(), LABELS, "", intervals=True)) == 3


def test_table2_in_print():
    table = tables.table2(frame2(), SPEC2, published(2))
    caption = tables.describe(table, LABELS)
    text = tables.latex_table2(table, LABELS, caption)
    assert check_latex(text) == 7
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}" in text
    assert r"FGSM & 50.00 (0.41) & 1.50 (0.07) & 25.00 (3.20) & 1.00 & 0.00 (1.61)" in text
    assert r"DeepFool (L$\infty$) & 50.00 (100.00)" in text
    text = tables.markdown_table2(table, LABELS, caption, intervals=True)
    assert "| 25.00 [4.56, 69.94] (3.20) |" in text and "Classic: success" in text
    assert "MNIST, n = 3–4" in text and "oblivious attacker" in text and "Wilson" in text


@pytest.mark.parametrize(
    "value, text", [(0.0075, "0.0075"), (1.25, "1.25"), (0.07, "0.07"), (0, "0.00"), (None, "–")]
)
def test_noise_levels_keep_their_digits(value, text):
    assert tables._number(value) == text


def test_describe_names_seeds():
    text = tables.describe(table_for_print(), LABELS, seeds=5)
    assert text.startswith("NIPS 2017, n = 1000:") and "range over 5 seeds" in text
