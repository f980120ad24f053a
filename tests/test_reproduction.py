"""The page that says what reproduces: its verdicts, and that it is what the committed files say."""

import shutil

import pandas as pd
import pytest

from tandem_defense.evaluation import reproduction


def test_the_committed_page_is_made_of_the_committed_measurements(root):
    assert (root / "docs/reproduction.md").read_text() == reproduction.page(root / "reproduction")


@pytest.mark.parametrize(
    ("published", "low", "high", "expected"),
    [
        (0.5, 0.4, 0.6, "yes"),
        (0.4, 0.4, 0.6, "yes"),
        (0.38, 0.4, 0.6, "nearly"),  # 380 of 1000 is [35.0, 41.0] %
        (0.2, 0.4, 0.6, "no"),
        (0.0, 0.003, 0.6, "nearly"),  # 0 of 1000 is [0, 0.4] %
        (0.0, 0.005, 0.6, "no"),
        (float("nan"), 0.4, 0.6, ""),
        (0.5, float("nan"), float("nan"), ""),
    ],
)
def test_verdict(published, low, high, expected):
    assert reproduction.verdict(published, low, high, 1000) == expected


def test_a_cell_tells_published_measured_and_why(root, tmp_path):
    (tmp_path / "measured").mkdir()
    shutil.copy(root / "reproduction/config.yaml", tmp_path)
    (tmp_path / "reasons.toml").write_text(
        '[table2]\ntext = "Said at once."\nfunn = "Another net."\n"funn fgsm" = "A larger step."\n'
    )
    row = {"dataset": "mnist", "model": "funn", "n": 966, "seeds": 5, "noise_level": 0.2}
    row |= {"published_noise_level": 0.04, "published_success_rate": 0.016}
    rows = [
        row | {"attack": "fgsm", "success_rate": 0.1, "low": 0.08, "high": 0.12},
        row | {"attack": "single_pixel", "success_rate": 0.1, "low": 0.08, "high": 0.12},
        row | {"attack": "iterative_fgsm", "success_rate": 0.017, "low": 0.01, "high": 0.02},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "measured/table2.csv", index=False)
    text = reproduction.page(tmp_path)
    assert "Said at once." in text and "Table 1" not in text
    cells = {}
    for line in text.splitlines():
        if line.startswith("| FUNN"):
            _, attack, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            cells[attack] = rest
    measured = ["1.60", "10.00 [8.00, 12.00]", "0.04", "0.2"]
    assert cells["FGSM ε = 0.005"] == [*measured, "no", "A larger step."]
    assert cells["SinglePixel"] == [*measured, "no", "Another net."]
    assert cells["Iterative ε = 0.005"][4:] == ["yes", ""]
