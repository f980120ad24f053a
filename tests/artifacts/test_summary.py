"""The report's first lines: which rows count, ranges, and how many claims hold, by hand."""

import frames
import pandas as pd
from docutils.core import publish_parts

from tandem_defense.artifacts.overview import overview
from tandem_defense.artifacts.summary import summary


def sheet(of, label) -> dict:
    return vars(of) | {"label": label}


def lines(text) -> list[list[str]]:
    """The table's cells."""
    body = text.split("\n\n")[0].splitlines()[3:-1]
    return [[cell for cell in line.split("  ") if cell] for line in body]


def test_a_line_per_defense_from_lowest_to_highest():
    rows = overview(frames.photos()).assign(experiment="photos")
    text = summary(rows, [], {"photos": sheet(frames.PHOTOS, "t-DIPs")})
    assert [[cell.strip() for cell in line] for line in lines(text)] == [
        ["t-DIPs: No defense", "4", "75", "0", "–"],
        ["t-DIPs: HGD (ours, 5_000 images)", "4", "50", "50", "2 of 2"],
        # λ₁ = 100 after 1000 iterations: neither the wrong answers of 500 nor those of λ₁ = 200
        ["t-DIPs: t-DIPs", "4", "50", "75", "2 of 2"],
    ]


def test_few_networks_have_a_line_each_and_claims_are_counted():
    rows = overview(frames.digits()).assign(experiment="digits")
    claims = pd.DataFrame(
        {
            "numbers": ["published", "measured", "measured", "measured"],
            "holds": [True, True, False, None],
        }
    )
    tested = claims.assign(decided=[None, False, True, None])
    said = [("digits", frame) for frame in (claims, claims[:1], tested)]
    text = summary(rows, said, {"digits": sheet(frames.DIGITS, "FUNN")})
    assert [line[0].strip() for line in lines(text)] == [
        "FUNN: Classic, No defense",
        "FUNN: Classic, MagNet",
        "FUNN: FUNN, No defense",
    ]
    begin = "FUNN: of the paper's claims that can be judged on these numbers, 1 of 2 hold"
    assert text.count(begin) == 2 and text.count("1 of 2 hold.") == 1
    assert text.count("1 of 2 hold; 1 are undecided: within chance on so few images.") == 1
    page = publish_parts(text, writer="html", settings_overrides={"report_level": 2})
    assert page["body"].count("<tr>") == 4 and "problematic" not in page["body"]
