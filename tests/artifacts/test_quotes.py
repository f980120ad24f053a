"""Numbers in sentences, each counted by hand."""

import pandas as pd
import pytest

from tandem_defense.artifacts.quotes import Number, fill, pairs
from tandem_defense.evaluation.statistics import paired_interval

TANDEM = """\
run,image,network,steps,average,correct,psnr_clean
tandem,a,dip1,100,none,0,20
tandem,a,dip2,100,0.99,1,21
tandem,b,dip2,100,0.99,1,23
tandem,a,dip2,200,0.99,1,24
tandem,b,dip2,200,0.99,0,26
tandem,c,dip2,200,0.99,1,26
dip,a,dip2,100,0.99,0,10
dip,b,dip2,100,0.99,0,10
dip,a,dip2,200,0.99,0,10
dip,b,dip2,200,0.99,1,10
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tandem.csv").write_text(TANDEM)
    (tmp_path / "baselines.csv").write_text(
        "setting,attack,share\na,bim,0.5\na,bim,0.7\nb,bim,0.25\n"
    )
    return tmp_path


def test_numbers_are_medians_over_the_rows_of_a_key(folder):
    text = "{baselines[a | bim].share:.2f}, "
    text += "{baselines[b | bim].share:.0%}"
    assert fill(text, folder) == "0.60, 25 %"
    assert f"{Number(6)} of {Number(0.5)}, {Number(0.125):.1%}" == "6 of 0.5, 12.5 %"


def test_the_tandem_by_run_average_and_steps(folder):
    text = "{tandem[tandem | 0.99 | 100].psnr} dB of {tandem[tandem | 0.99 | 200].images}, "
    text += "{tandem[tandem | dip1 | 100].psnr}, {tandem_peak[tandem | 0.99].correct} at "
    text += "{tandem_peak[tandem | 0.99].first} to {tandem_peak[tandem | 0.99].last}"
    assert fill(text, folder) == "22 dB of 3, 20, 2 at 100 to 200"


def test_two_runs_are_paired_on_the_images_that_both_have(folder):
    text = "{tandem_pairs[BIM | 0.99 | 200].n}: {tandem_pairs[BIM | 0.99 | 200].only_a} and "
    text += "{tandem_pairs[BIM | 0.99 | 200].only_b}"
    assert fill(text, folder) == "2: 1 and 1"

    row = pairs(pd.read_csv(folder / "tandem.csv", dtype={"average": str})).loc[100]
    assert (row["low"], row["high"]) == paired_interval(2, 0, 2) and row["p_value"] == 0.5


ANSWERS = """\
classifier,image,attack,defense,first_iterations,iteration,label,prediction
a,1,bim,tdips,100,100,5,5
a,2,bim,tdips,100,100,5,5
a,3,bim,tdips,100,100,5,0
a,1,bim,tdips,300,100,5,0
a,1,bim,dip,0,100,5,0
a,2,bim,dip,0,100,5,5
a,4,bim,dip,0,100,5,5
a,1,bim,dip,0,1500,5,5
b,1,bim,tdips,100,100,5,0
"""


def test_a_curve_has_all_photographs_and_its_test_those_of_both(folder):
    """Not those of a classifier without DIP alone, nor of a larger λ₁."""
    (folder / "answers.csv").write_text(ANSWERS)
    text = "{curves[bim | 100].n}: {curves[bim | 100].only_a} and {curves[bim | 100].only_b}, "
    text += "{curves[bim | 100].tdips:.0%} and {curves[bim | 100].dip:.0%}, "
    text += "p {curves[bim | 100].p_value}; {curves[bim | 1500].n}, {curves[bim | 1500].dip:.0%}"
    assert fill(text, folder) == "2: 1 and 0, 67 % and 67 %, p 1; 0, 100 %"


def test_networks_are_compared_seed_by_seed(folder):
    """DeepFool's median distance and PGD's share within 0.5, of two images each; equal widths."""
    distances = {
        ("classic, 64", 0): ((0.1, 0.1), (0.5, 0.5)),
        ("classic, 32", 0): ((0.8, 1.0), (0.5, 1)), ("funn, 32", 0): ((0.4, 0.6), (0.25, 0.5)),
        ("classic, 32", 1): ((0.7, 0.7), (0.5, 0.5)), ("funn, 32", 1): ((0.9, 0.9), (0.25, 0.5)),
        ("funn, 32", 2): ((0.1, 0.1), (0.25, 0.5)),
    }  # fmt: skip
    rows = [
        {"setting": name, "seed": seed, "attack": attack, "image": i, "step": 5, "distance": far}
        | {"margin": 0.0}
        for (name, seed), pair in distances.items()
        for attack, both in zip(("DeepFool L2, Foolbox 1", "PGD L2"), pair, strict=True)
        for i, far in enumerate(both)
    ]
    pd.DataFrame(rows).to_csv(folder / "funn_rates.csv", index=False)
    cell = "funn_rates[funn, 32 | L2 | Foolbox 1]"
    text = f"{{{cell}.nearer}} and {{{cell}.pgd_nearer}} of {{{cell}.seeds}}"
    assert fill(text, folder) == "1 and 1 of 2"


def test_autoattack_stands_beside_pgd_on_the_same_images(folder):
    """ε of each image of two seeds; AutoAttack has been run on two of the four."""
    falls = {"PGD L2": {(0, 1): 1, (0, 2): 0.5, (1, 1): 0.5, (1, 2): 0.5}}
    falls["AutoAttack L2"] = {(0, 1): 0.5, (0, 2): None}
    rows = [
        {"setting": "funn", "seed": seed, "attack": attack, "image": i, "distance": far}
        for attack, images in falls.items()
        for (seed, i), far in images.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "funn_rates.csv", index=False)
    text = " ".join(
        f"{{funn_autoattack[funn | L2 | {epsilon}].{key}:.1f}}"
        for epsilon in (0.5, 1)
        for key in ("n", "left", "high", "pgd")
    )
    assert fill(text, folder) == "2.0 0.5 0.9 0.5 2.0 0.5 0.9 0.0"


def test_lines_are_as_long_as_their_numbers_make_them(folder):
    text = "{baselines[b | bim].share}\nor " + "so " * 40 + "\n\n* one\n  item\n* two"
    first, second, blank, *items = fill(text, folder).split("\n")
    assert first.startswith("0.25 or so") and len(first) <= 100 and second.startswith("so")
    assert blank == "" and items == ["* one item", "* two"]


def test_what_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match="got 'dip . 0.9 . 100'; there are tandem . dip1 . 100"):
        fill("{tandem[dip | 0.9 | 100].psnr}", folder)
    with pytest.raises(ValueError, match="column of .*, got 'ssim'; there are psnr, correct"):
        fill("{tandem[dip | 0.99 | 100].ssim}", folder)
    with pytest.raises(FileNotFoundError, match="table2.csv"):
        fill("{table2[funn | fgsm].low}", folder)
