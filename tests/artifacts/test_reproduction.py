"""The pages that say what reproduces: what the committed files say, and sections made by hand."""

import re
import shutil

import pandas as pd
import pytest

from tandem_defense.artifacts import findings, reproduction
from tandem_defense.artifacts.base import PUBLISHED
from tandem_defense.evaluation.published import read_table


def test_the_committed_pages_are_made_of_the_committed_measurements(root):
    folder = root / "reproduction"
    assert (root / "docs/reproduction.md").read_text() == reproduction.page(folder)
    assert (root / "docs/reproduction_details.md").read_text() == reproduction.details(folder)


def test_a_cell_tells_published_measured_and_why(root, tmp_path):
    (tmp_path / "measured").mkdir()
    shutil.copy(root / "reproduction/config.yaml", tmp_path)
    (tmp_path / "reasons.toml").write_text(
        '[table2]\ndetails = "Said at once."\nfunn = "Another net."\n'
        '"funn fgsm" = "A larger step."\n'
    )
    row = {"dataset": "mnist", "model": "funn", "n": 966, "seeds": 5, "noise_level": 0.2}
    row |= {"published_noise_level": 0.04, "published_success_rate": 0.016}
    rows = [
        row | {"attack": "fgsm", "success_rate": 0.1, "low": 0.08, "high": 0.12},
        row | {"attack": "single_pixel", "success_rate": 0.1, "low": 0.08, "high": 0.12},
        row | {"attack": "iterative_fgsm", "success_rate": 0.017, "low": 0.01, "high": 0.02},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "measured/table2.csv", index=False)
    text = reproduction.details(tmp_path)
    assert "Said at once." in text and "Table 1" not in text
    cells = {}
    for line in text.splitlines():
        if line.startswith("| FUNN"):
            _, attack, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            cells[attack] = rest
    measured = ["1.60", "10.00 [8.00, 12.00]", "0.04", "0.2"]
    assert cells["FGSM ε = 0.005"] == [*measured, "contradicted", "A larger step."]
    assert cells["SinglePixel"] == [*measured, "contradicted", "Another net."]
    assert cells["Iterative ε = 0.005"][4:] == ["reproduced", ""]


def test_a_finding_is_its_text_with_the_files_numbers(root, tmp_path):
    (tmp_path / "measured").mkdir()
    shutil.copy(root / "reproduction/config.yaml", tmp_path)
    (tmp_path / "measured/table2.csv").write_text(
        "model,attack,n,success_rate,low,high,noise_level,published_success_rate\n"
        "funn,fgsm,900,0.0123,0.01,0.02,0.1,0.0161\n"
    )
    reasons = tmp_path / "reasons.toml"
    reasons.write_text(
        '[table2]\ntext = "It is\\n{table2[funn | fgsm].success_rate:.1%} here."\n'
        '[table1]\ntext = "No file, {table1[none | clean].accuracy}."\n'
    )
    text = reproduction.page(tmp_path)
    assert "## FUNN, Table 2, on MNIST\n\nIt is 1.2 % here.\n" in text and "No file" not in text
    line = next(line for line in text.splitlines() if "Table 2**: FUNN" in line)
    assert "1.2 %, 900 images" in line and "1 reproduced, 8 not measured" in line
    reasons.write_text('[table2]\ntext = "{table2[funn | bim].low}"\n')
    with pytest.raises(ValueError, match="row of table2, got 'funn . bim'; there are funn . fgsm"):
        reproduction.page(tmp_path)


def test_links_lead_to_headings(root):
    """Every finding links into the details, by the anchor that the heading there has."""
    details = (root / "docs/reproduction_details.md").read_text()
    anchors = {
        reproduction._anchor(line[3:]) for line in details.splitlines() if line.startswith("## ")
    }
    page = (root / "docs/reproduction.md").read_text()
    linked = set(re.findall(r"reproduction_details\.md#([\w-]+)", page))
    assert len(linked) > 5 and linked <= anchors


@pytest.fixture
def folder(root, tmp_path):
    """A reproduction folder with the real configuration and nothing measured."""
    (tmp_path / "measured").mkdir()
    shutil.copy(root / "reproduction/config.yaml", tmp_path)
    (tmp_path / "reasons.toml").write_text('[overview.photo_inputs]\ndetails = "Which input."\n')
    return tmp_path


def test_claims_that_only_a_run_judges_are_taken_from_it(folder):
    """Of claims on HGD nothing else is here; what is read has the claims' own names."""
    beats = "t-DIPs beats HGD (ours, 160 images) on FGSM, BIM, MI-FGSM and C&W"
    dip = "t-DIPs beats DIP at equal iterations"
    (folder / "measured/claims.csv").write_text(
        "numbers,claim,holds,decided,evidence\n"
        f'published,"{beats}",True,,holds in 16 of 16\n'
        f'measured,"{beats}",False,False,FGSM: 50.0% vs. 62.5%\n'
        f"measured,{dip},True,True,\n"
    )
    title = "What the t-DIPs paper claims in words"
    ledger = {row[0]: row[1:] for row in rows_of(reproduction.details(folder), title)}
    assert ledger[beats] == ["yes", "undecided", "FGSM: 50.0% vs. 62.5%", "1,539"]
    assert ledger[dip] == ["–", "yes", "", "–"] and len(ledger) == 9
    assert set(row[1] for row in ledger.values()) == {"–", "yes", "undecided"}


def test_pictures_are_linked_from_the_page(folder):
    (folder / "measured/figure3.png").write_bytes(b"")
    assert "![figure3](../reproduction/measured/figure3.png)" in reproduction.details(folder)


def test_other_readings_of_an_attack_are_medians_over_seeds(folder):
    row = {"classifier": "funn", "output": "logits", "attack": "DeepFool", "n": 200}
    rates = [(1, 0.5, 0.2), (2, 0.7, 0.1), (3, 0.6, 0.4)]
    rows = [row | {"seed": s, "success_rate": r, "noise_level": n} for s, r, n in rates]
    pd.DataFrame(rows).to_csv(folder / "measured/attack_semantics.csv", index=False)
    line = next(x for x in reproduction.details(folder).splitlines() if x.startswith("| FUNN"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["FUNN", "logits", "DeepFool", "60.00 [50.00, 70.00]", "0.2", "3"]


def test_an_experiment_beside_the_tables_shows_where_it_is_explained(folder):
    row = {"dataset": "nips2017", "classifier": "direct", "defense": "none", "attack": "clean"}
    row |= {"n": 200, "accuracy": 0.83, "low": 0.77, "high": 0.88}
    row |= {"success_rate": float("nan"), "noise_level": float("nan")}
    rows = [row | {"experiment": name} for name in ("photo_inputs", "presets")]
    pd.DataFrame(rows).to_csv(folder / "measured/overview.csv", index=False)
    text = reproduction.details(folder)
    assert (
        "### The classifier's input" in text
        and "Which input." in text
        and "### presets" not in text
    )
    assert "83.00 [77.00, 88.00]" in text


def rows_of(page, title):
    """The cells of a section's tables, without heads."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("claim", "network")]


def test_when_and_where_images_fall(folder):
    falls = {"DeepFool L2, Foolbox 1": [(10, 0.2), (200, 0.4), (None, None), (None, None)]}
    falls["PGD L2"] = [(None, 0.25), (None, 0.75), (None, 0.5), (None, None)]
    rows = [
        {"setting": "funn, 64", "seed": 0, "attack": attack, "image": i, "step": s, "distance": d}
        for attack, images in falls.items()
        for i, (s, d) in enumerate(images)
    ]
    table = pd.DataFrame(rows).assign(margin=0.002)
    table.to_csv(folder / "measured/funn_rates.csv", index=False)
    page = reproduction.details(folder)
    walk, *bounds = rows_of(page, "What FUNN's success rates are made of")
    shares = ["25.00", "25.00", "50.00", "50.00", "50.00"]
    assert walk == ["funn, 64", "L2", "Foolbox 1", "4", *shares, "0.3"]
    assert bounds == [
        ["funn, 64", "L2", "0.5", "50.00", "3", "0.2", "33.33"],
        ["funn, 64", "L2", "1", "25.00", "3", "0.2", "66.67"],
        ["funn, 64", "L2", "1.5", "25.00", "3", "0.2", "66.67"],
    ]


def test_what_autoattack_leaves_stands_beside_pgd_also_of_who_was_not_walked(folder):
    """AutoAttack on the first two of three images; one falls to it where PGD has not fooled it."""
    falls = {"PGD L2": [0.25, 0.75, 0.5], "AutoAttack L2": [0.5, 0.5]}
    rows = [
        {"setting": "magnet, 32", "seed": 0, "attack": attack, "image": i, "distance": d}
        for attack, images in falls.items()
        for i, d in enumerate(images)
    ]
    pd.DataFrame(rows).assign(step=None, margin=None).to_csv(
        folder / "measured/funn_rates.csv", index=False
    )
    accuracy = {"setting": "magnet, 32", "measure": "accuracy", "n": 1000, "noise": None}
    pd.DataFrame(
        [accuracy | {"seed": seed, "value": value} for seed, value in enumerate((0.97, 0.98, 0.96))]
    ).to_csv(folder / "measured/funn.csv", index=False)
    (left,) = rows_of(reproduction.details(folder), "What FUNN's success rates are made of")
    nothing = ["–"] * 3  # L∞
    assert left == ["magnet, 32", "97.0", "2", "0 (50)", "0 (0)", "0 (0)", *nothing]


def test_claims_of_funn_are_judged_on_the_sweep(folder):
    """The claim on β needs both larger ones; MagNet is of a run of the configuration."""
    last = "optimization, epoch 31"
    measured = {"deepfool_l2_50": 0.8, "black": 0.08}
    measured |= {f"{last}, attacker (3)": 0.06, f"{last}, defender (4)": 0.05}
    rows = [
        {"setting": name, "seed": seed, "measure": key, "n": 1000, "value": value + seed / 100}
        | {"noise": 0.3}
        for name in (findings.MODELS["funn"], *findings.LARGER.values())
        for key, value in measured.items()
        for seed in (0, 1, 2)
    ]
    pd.DataFrame(rows).to_csv(folder / "measured/funn.csv", index=False)
    title = "What the FUNN paper claims in words"
    ledger = {row[0]: row[1:] for row in rows_of(reproduction.details(folder), title)}
    robust = "FUNN is robust against DeepFool L2 with 50 steps (success ≤ 5%)"
    measured = "DeepFool L2, 50 steps: 81.00% [80.00%, 82.00%]"
    assert ledger[robust] == ["DeepFool L2, 50 steps: 0.54%", "yes", measured, "no"]
    (black,) = (cells for claim, cells in ledger.items() if "larger β" in claim)
    assert black[:2] == ["–", "–"] and black[3] == "yes" and "β = 0.05: the attacker" in black[2]
    alike = "MagNet and FUNN perform similarly (≤ 5 points apart)"
    assert ledger[alike][2:] == ["–", "–"]
    (folder / "measured/funn_claims.csv").write_text(
        f"numbers,claim,holds,evidence\nmeasured,{alike},True,fgsm 3% and 2%\n"
    )
    again = {row[0]: row[1:] for row in rows_of(reproduction.details(folder), title)}
    assert (
        again[alike][2:] == ["FGSM ε = 0.005: 3% and 2%", "yes"] and again[robust] == ledger[robust]
    )


def test_networks_of_the_sweep_stand_beside_print(folder):
    """Medians over seeds; what a network has no measure of is a dash."""
    rows = [
        ("classic, 64", seed, key, n, value, noise)
        for key, n, value, noise in (
            ("accuracy", 1000, 0.97, None),
            ("autoencoder, epoch 20, reconstruction", 60000, 0.006, None),
            ("deepfool_l2_50", 967, 0.9, 1.1),
            ("local_search", 196, 0.4, 2.0),
        )
        for seed in (0, 1)
    ]
    rows += [("funn, 64", 0, "optimization, epoch 31, defender (4)", 60000, 0.0104, None)]
    rows += [("labels, 64", 0, "accuracy", 1000, 0.98, None)]  # no model of Table 2
    columns = ["setting", "seed", "measure", "n", "value", "noise"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "measured/funn.csv", index=False)
    title = "FUNN's training, and other widths"
    rows = rows_of(reproduction.details(folder), title)
    funn = next(i for i, row in enumerate(rows) if row[0] == "FUNN")  # no table of MagNet's
    parts = rows[:funn], rows[funn:-3], rows[-3:]
    found, other, reference = ({row[0]: row[1:] for row in part} for part in parts)
    assert reference["references"] == ["in print", "labels, 64"]
    assert reference["accuracy, %"] == ["–", "98"]
    assert found["Classic autoencoder"] == ["in print", "classic, 64"]
    assert found["seeds"] == ["", "2"] and found["accuracy, %"] == ["–", "97"]
    ends = "defender's or autoencoder's error at the end"
    assert found[ends] == ["–", "0.006"] and other[ends] == ["–", "0.0104"]
    assert "accuracy, %" not in other and "penalty (5) at the end" not in found
    published = read_table(PUBLISHED / "table2.csv", ["success_rate"])
    cell = published[(published.model == "classic") & (published.attack == "deepfool_l2_50")]
    (share,), (noise,) = cell["success_rate"], cell["noise_level"]
    row = next(row for row in found.values() if row[-1] == "90.00 (1.1)")
    assert row[0] == f"{100 * share:.2f} ({noise:.3g})"
    assert any(row[-1] == "40.00 (2)°" for row in found.values())


def test_table_1_in_short_has_a_row_per_set_of_photographs(folder):
    """In print, of all that a defense has, and of those that t-DIPs has; no cell of other sets."""
    measured = folder / "measured"
    measured.joinpath("table1.csv").write_text(
        "classifier,defense,attack,n,accuracy,low,high,published\n"
        "resnet50,blur,clean,3,0.66,0,1,\nresnet50,blur,bim,2,0.5,0,1,\n"
        "resnet50,tdips,clean,1,1,0,1,0.5\nresnet50,tdips,bim,1,0,0,1,\n"
        "resnet18,blur,clean,3,0.33,0,1,\n"
    )
    keys = ["classifier", "defense", "attack", "image", "iteration", "prediction"]
    rows = [("resnet50", "blur", "clean", image, 0, 7 * (image < 2)) for image in range(3)]
    rows += [("resnet50", "blur", "bim", image, 0, 7 * image) for image in range(2)]
    rows += [("resnet50", "tdips", attack, 1, 1000, 7) for attack in ("clean", "bim")]
    table = pd.DataFrame(rows, columns=keys).assign(label=7)
    table.to_csv(measured / "answers.csv", index=False)
    folder.joinpath("reasons.toml").write_text('[table1]\ntext = "In short:"\n')
    page = reproduction.page(folder)
    head, *rows = rows_of(page, "t-DIPs, Table 1, on photographs")
    assert head[:2] == ["classifier", "defense"] and head[2:4] == ["photographs", "clean"]
    bim = head.index("BIM")
    found = [[*row[:4], row[bim]] for row in rows]
    assert found == [
        ["ResNet50", "3 × 3 blur", "3", "66", "–"],
        ["", "", "1", "100", "100"],
        ["", "t-DIPs", "in print", "50.0", "–"],
        ["", "", "1", "100", "0"],
        ["ResNet18", "3 × 3 blur", "3", "33", "–"],
    ]
    measured.joinpath("answers.csv").unlink()
    page = reproduction.page(folder)
    assert len(rows_of(page, "t-DIPs, Table 1, on photographs")) == len(rows)  # head, one less


def test_the_page_begins_with_table_2_its_finding_and_its_ledger():
    files = ["table2.csv", "funn_rates.csv", "funn_claims.csv"]
    assert list(reproduction.SECTIONS)[:3] == files


def test_table_3_is_printed_as_the_pipeline_does_with_its_figures(folder):
    lines = ["dataset,classifier,defense,threat,attack,epsilon,n,seeds,accuracy,low,high,signs"]
    for threat, epsilon, accuracy, sign in (
        ("clean", 0, 0.97, ""), ("query", 0.1, 0.4, "query_better"),
        ("query", 0.2, 0.1, ""), ("worst", 0.1, 0.3, ""),
    ):  # fmt: skip
        lines.append(f"mnist,funn,none,{threat},a,{epsilon},200,1,{accuracy},0,1,{sign}")
    (folder / "measured/table3_mnist.csv").write_text("\n".join(lines))
    (folder / "measured/figure9_funn.png").touch()
    (folder / "measured/figure9.png").touch()  # another experiment's
    text = reproduction.details(folder).split("## Attackers who know of the defense, on MNIST")[1]
    assert re.search(r"\| FUNN +\| No defense +\| +97.0 \| +40.0 \(\d\) \| +\*\*30.0\*\* \|", text)
    assert "n = 200, L∞ ε = 25.5/255" in text and "query better" in text
    assert "![Figure 9, MNIST, FUNN](../reproduction/measured/figure9_funn.png)" in text
    assert "figure9.png" not in text


def test_colors_are_means_over_images(folder):
    (folder / "measured/colors.csv").write_text(
        "run,image,steps,average,color,saturation,gray\n"
        "dip,a,100,none,4,0.5,1\ndip,b,100,none,6,0.7,1\ndip,a,1000,none,2,1.0,1\n"
        "dip,a,100,0.9,99,9,9\n"
    )
    _, row = rows_of(reproduction.details(folder), "A restored photograph's colors")
    assert row == ["dip", "none", "2", "5.0", "2.0", "0.60", "1.00"]


def test_schedules_are_compared_on_the_photographs_that_all_have(folder):
    row = {"attack": "BIM", "load": 3.0, "threads": 1, "psnr_clean": 20.0, "probability": 0.5}
    rows = [
        row | {"run": run, "image": image, "steps": 1000, "stopped": stopped}
        | {"correct": correct, "core_seconds": seconds}
        for run, image, stopped, correct, seconds in (
            ("t-DIPs", "a", 0, 1, 100), ("t-DIPs", "b", 0, 0, 140), ("t-DIPs", "c", 0, 1, 900),
            ("held out", "a", 300, 1, 40), ("held out", "b", 500, 1, 60),
            ("window", "a", 0, 1, 70), ("window", "b", 700, 1, 70),
        )
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "measured/schedules.csv", index=False)
    text = reproduction.details(folder)
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")[1:]]
        for line in text.split("### BIM")[1].splitlines()
        if line.startswith("|")
    }
    assert cells["t-DIPs"] == ["1000", "–", "1 of 2", "0.500", "20.0", "120"]
    assert cells["held out"] == ["1000", "400", "2 of 2", "0.500", "20.0", "50"]
    assert cells["window"][1] == "700 (1 of 2)"
    assert "0 % of the rows were measured on a machine without other work" in text
