"""The gallery: what it takes from the files, and the page in a real browser."""

import base64
import io
import json
import re

import frames
import numpy as np
import pandas as pd
import pytest
import torch
from browser import browser  # noqa: F401
from PIL import Image

from tandem_defense.artifacts import gallery
from tandem_defense.files import predictions
from tandem_defense.files.adversarial import write_adversarial
from tandem_defense.files.images import write_images
from tandem_defense.files.restored import write_restored
from tandem_defense.files.weights import write_weights
from tandem_defense.pipeline import classes

BRIGHT = '''
import torch
from tandem_defense.classifiers.base import Classifier

class Bright(Classifier):
    """Class 1 for bright images, else 0."""
    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("edge", torch.tensor(0.5))
    def maps(self, images):
        return images.mean(1, keepdim=True) - self.edge
    def head(self, maps):
        bright = 20 * maps.mean((2, 3))
        return torch.cat([-bright, bright], 1)
'''
SHEET = {
    "dataset": "photos",
    "label": "Tandem",
    "classifiers": {"net": "Bright"},
    "attacks": {"clean": "Clean", "bim": "BIM", "fgsm": "FGSM"},
    "defenses": {"none": "No defense", "blur": "Blur", "dip": "DIP", "tdips": "t-DIPs"},
    "controls": ["blur"],
}
# Four dark images at two read-outs: recovered; recovered, then lost; never recovered; not fooled.
ATTACKED = [0.9, 0.8, 0.7, 0.3]
SHOTS = {10: [0.6, 0.2, 0.8, 0.2], 20: [0.1, 0.7, 0.9, 0.1]}
EVIL = "</script><img src=x onerror=alert(1)>"


def flat(values) -> np.ndarray:
    return np.stack([frames.picture((3, 64, 64), value) for value in values])


@pytest.fixture
def kept(tmp_path):
    """(files by kind, entries): one experiment, one classifier, under BIM and clean."""
    (tmp_path / "bright.py").write_text(BRIGHT)
    entry = {"class": f"{tmp_path}/bright.py:Bright", "settings": {}}
    write_weights(tmp_path / "net", classes.build(entry).state_dict(), classes.identity(entry))
    data = frames.image_set([51, 50, 49, 48], side=64, classes=("dark", EVIL))
    write_images(tmp_path / "images", data)
    attacked = frames.attacked_set(data, flat(ATTACKED), [1, 1, 1, 0])
    write_adversarial(tmp_path / "bim", attacked)
    shots = {f"{first}/{step}": flat(v) for first in (0, 5) for step, v in SHOTS.items()}
    ids = list(data.ids)
    own = {"5/0": flat([0.4] * 4)} | {key: v for key, v in shots.items() if key[0] == "5"}
    write_restored(tmp_path / "dip", {k: v for k, v in shots.items() if k[0] == "0"}, ids)
    write_restored(tmp_path / "tdips", own, ids)
    rows = [answers("cccc", "clean"), answers("wwwc", "bim"), answers("ccwc", "bim", "blur")]
    rows += [answers("cccc", "clean", "tdips", 5, step) for step in SHOTS]
    for defense, first in (("dip", 0), ("tdips", 5)):
        rows += [
            answers("wcwc", "bim", defense, first, 10),
            answers("cwwc", "bim", defense, first, 20),
        ]
    predictions.write(pd.concat(rows), tmp_path / "rows")

    def of(name, **names):
        return {"experiment": "tandem"} | names, str(tmp_path / name)

    here = {"classifier": "net", "attack": "bim"}
    kept = {
        "classifier": [of("net", classifier="net")],
        "images": [of("images")],
        "predictions": [of("rows", seed=0)],
        "attacked": [of("bim", **here)],
        "restored": [
            of("dip", **here, defense="dip"),
            of("tdips", **here, defense="tdips"),
            of("tdips", classifier="net", attack="clean", defense="tdips"),
        ],
    }
    return kept, [entry]


def answers(text, attack, defense="none", first=0, step=0):
    columns = dict(attack=attack, defense=defense, first_iterations=first, iteration=step)
    rows = frames.answers(text, **columns, dataset="photos", classifier="net", label=0)
    wrong = np.array([answer == "w" for answer in text])
    return rows.assign(clean_prediction=0, prediction=wrong.astype(int))


@pytest.fixture
def shown(kept):
    return gallery.fitted(gallery.experiments(*kept, {"tandem": SHEET}), gallery.ROOM)


def test_outcomes_answers_and_accuracy_by_hand(shown):
    (experiment,) = shown["experiments"]
    bim, clean = experiment["sets"]
    assert (bim["attack"], clean["attack"]) == ("bim", "clean") and len(bim["items"]) == 4
    for k, track in enumerate(bim["tracks"]):
        assert track["steps"] == [10, 20]
        # Of four images two are classified correctly at each read-out, and one without a defense.
        assert [point[0] for point in track["curve"]] == [0.5, 0.5] and bim["undefended"] == 0.25
        outcomes = [item["tracks"][k]["outcome"] for item in bim["items"]]
        assert outcomes == ["recovered", "lost", "never", "unfooled"]
    assert [track["label"] for track in bim["tracks"]] == ["DIP", "t-DIPs, λ₁ = 5"]
    first = bim["items"][0]
    assert first["tracks"][0]["start"] is None and first["tracks"][1]["start"] is not None
    picture, heat, top = first["tracks"][1]["shots"][1]
    assert top[0] == [0, 1.0] and top[1] == [1, 0.0]
    pixel = np.asarray(opened(shown["pictures"][picture]))[30, 30] / 255
    assert pixel == pytest.approx(0.1, abs=0.02)
    assert first["others"] == [["Blur", 0]] and bim["items"][2]["others"] == [["Blur", 1]]
    assert first["noise"]["factor"] == pytest.approx(0.5 / (0.9 - 0.2), abs=0.06)
    assert clean["items"][0]["attacked"] is None and clean["items"][0]["noise"] is None


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_every_picture_that_is_named_is_there_and_used(shown):
    (experiment,) = shown["experiments"]
    used = set()
    for group in experiment["sets"]:
        for item in group["items"]:
            used |= gallery._places(item)
    assert used == set(range(len(shown["pictures"])))
    assert max(opened(uri).size[0] for uri in shown["pictures"]) == 64


def test_a_page_that_would_be_too_large_shows_fewer_images(kept, caplog):
    caplog.set_level("INFO")
    whole = gallery.experiments(*kept, {"tandem": SHEET})
    room = sum(map(len, whole["pictures"])) * 2 // 3
    shown = gallery.fitted(whole, room)
    assert gallery.fitted(whole, 10 * room) == whole  # as it was
    (experiment,) = shown["experiments"]
    assert 1 <= len(experiment["images"]) < 4 and "no room" in caplog.text
    assert all(len(group["items"]) == len(experiment["images"]) for group in experiment["sets"])
    assert sum(map(len, shown["pictures"])) <= room
    picture = experiment["sets"][0]["items"][0]["original"][0]
    assert np.asarray(opened(shown["pictures"][picture]))[0, 0, 0] == 51


def test_the_reports_page_is_no_longer_than_chromium_takes():
    """Snakemake's report holds it as an address: base64, a third longer."""
    beside = 200_000  # answers and curves: more than the demo's
    page = gallery.page({"experiments": [], "pictures": []}, [], [])
    assert 4 / 3 * (gallery.REPORT_ROOM + len(page.encode()) + beside) < 2 * 2**20


def test_files_of_other_images_are_refused(kept, tmp_path):
    files, entries = kept
    write_restored(tmp_path / "dip", {"0/10": flat([0.1] * 4)}, ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="bim: expected .*i0.*got.*'a'"):
        gallery.experiments(files, entries, {"tandem": SHEET})


def test_large_images_are_shown_small():
    assert gallery._shrunk(torch.rand(2, 3, 299, 150), 128).shape == (2, 3, 128, 64)
    assert gallery._shrunk(torch.rand(2, 1, 28, 28), 128).shape == (2, 1, 28, 28)


# --- tables and figures ---


@pytest.fixture
def artifacts(tmp_path):
    """(tables, figures) of the page, from CSV."""
    common = {"dataset": "photos", "classifier": "net", "n": 4, "low": 0.15, "high": 0.85}
    table = pd.DataFrame(
        [
            common | {"defense": d, "attack": a, "accuracy": 0.5, "seeds": 1, "iteration": i}
            for d, i in (("none", 0), ("dip", 20))
            for a in ("clean", "bim")
            if (d, a) != ("dip", "clean")
        ]
    ).assign(published=[0.672, np.nan, np.nan], first_iterations=0)
    columns = "dataset classifier defense attack first_iterations iteration n accuracy low high"
    table[[*columns.split(), "seeds", "published"]].to_csv(tmp_path / "table.csv", index=False)
    pd.DataFrame({"claim": ["DIP defends"], "holds": [True], "defense_a": ["dip"]}).to_csv(
        tmp_path / "claims.csv", index=False
    )
    curve = pd.DataFrame(
        [("bim", d, 0, step, 4, 0.5, 0.15, 0.85, 1) for d in ("dip", "tdips") for step in (10, 20)],
        columns="attack defense first_iterations iteration n accuracy low high seeds".split(),
    )
    curve.to_csv(tmp_path / "curve.csv", index=False)
    pd.DataFrame({"image": ["i0"], "state": ["original"]}).to_csv(tmp_path / "f.csv", index=False)
    Image.new("RGB", (60, 40), "white").save(tmp_path / "f.png")

    def spec(label):
        return {"label": label, "experiment": "tandem"}

    sheets = {"tandem": SHEET}
    tables = [str(tmp_path / "table.csv"), str(tmp_path / "claims.csv")]
    figures = [str(tmp_path / "curve.csv"), str(tmp_path / "f.csv")]
    return (
        gallery.tables([spec("Table 1"), spec("Claims")], tables, sheets),
        gallery.figures([spec("Figure 3"), spec("Figure 7")], figures, sheets),
    )


def test_tables_have_their_intervals_and_labels(artifacts):
    (table, claims), _ = artifacts
    assert table["label"] == "Tandem: Table 1" and table["columns"] == ["Clean", "BIM"]
    assert [line["heads"] for line in table["lines"]] == [["Bright", "No defense"], ["", "DIP"]]
    bare, dip = (line["cells"] for line in table["lines"])
    assert bare[0]["text"] == "50.0" and dip[0] is None
    assert bare[0]["tip"] == "95 % interval: 15.0 to 85.0\nn = 4\npublished: 67.2 %"
    assert dip[1]["tip"].endswith("iterations = 20") and "published" not in dip[1]["tip"]
    assert [cell["text"] for cell in claims["lines"][0]["cells"]] == ["DIP defends", "yes", "DIP"]


def test_differences_of_two_defenses_have_their_counts_and_their_test(tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "dataset,classifier,attack,defense_a,defense_b,n,only_a,only_b,difference,low,high,p_value\n"
        "photos,net,bim,none,dip,4,0,3,-0.75,-1,0.42,0.25\n"
    )
    spec = {"label": "Paired tests", "experiment": "tandem"}
    (table,) = gallery.tables([spec], [str(tmp_path / "pairs.csv")], {"tandem": SHEET})
    assert table["what"] == "difference in %" and table["columns"] == ["BIM"]
    (line,) = table["lines"]
    assert line["heads"] == ["Bright", "No defense", "DIP"] and line["cells"][0]["text"] == "-75.0"
    assert line["cells"][0]["tip"] == (
        "95 % interval: -100.0 to 42.0\nn = 4\nonly a: 0\nonly b: 3\np value: 0.25"
    )


def test_figures_are_curves_or_pictures(artifacts):
    _, (curve, picture) = artifacts
    assert curve["x"] == "iteration" and list(curve["panels"]) == ["BIM"]
    lines = curve["panels"]["BIM"]
    assert [line["label"] for line in lines] == ["DIP", "t-DIPs"]
    assert lines[0]["points"] == [[10, 0.5, 0.15, 0.85], [20, 0.5, 0.15, 0.85]]
    assert picture["size"] == (60, 40) and opened(picture["picture"]).size == (60, 40)


# --- the page ---


@pytest.fixture
def page(shown, artifacts, tmp_path):
    """The page's file."""
    tables, figures = artifacts
    file = tmp_path / "gallery.html"
    file.write_text(gallery.page(shown, tables, figures), encoding="utf-8")
    return file


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text()
    bare = re.sub(r"data:image/webp;base64,[\w+/=]+", "", text)
    assert not re.findall(r"(?:src|href)=[\"'](?!#)[^\"'{]", bare)
    assert set(re.findall(r"https?://[^\"' )]+", bare)) == {"http://www.w3.org/2000/svg"}
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["experiments"][0]["classes"][1] == EVIL


@pytest.fixture
def tab(browser, page):  # noqa: F811
    """``tab(**options)``: the page in a new tab; nothing may be logged and nothing requested."""
    complaints = []

    def open(**options):
        tab = browser.new_page(**options)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if not request.url.startswith(("data:", page.as_uri()))
                else None
            ),
        )
        tab.goto(page.as_uri())
        tab.wait_for_selector("article")
        return tab

    yield open
    assert not complaints


def cards(tab) -> list[str]:
    return [card.get_attribute("data-image") for card in tab.query_selector_all("article")]


def test_filters_filter(tab):
    tab = tab()
    assert cards(tab) == ["i0", "i1", "i2", "i3"]  # under BIM, which has the most read-outs
    assert tab.inner_text("#count") == "4 images"
    for outcome, images in {"recovered": ["i0"], "lost": ["i1"], "never": ["i2"]}.items():
        tab.select_option("[name=outcome]", outcome)
        assert cards(tab) == images and tab.inner_text("#count") == "1 image"
    tab.select_option("[name=outcome]", "")
    assert len(tab.query_selector_all("article:first-child .moving")) == 2
    tab.select_option("[name=defense]", "DIP")
    assert len(tab.query_selector_all("article:first-child .moving")) == 1
    tab.select_option("[name=defense]", "")
    tab.select_option("[name=attack]", "")
    assert len(cards(tab)) == 6 and tab.inner_text("#count") == "8 images"
    tab.click("#more")
    assert len(cards(tab)) == 8 and not tab.is_visible("#more")
    tab.select_option("[name=attack]", "clean")
    assert "Attacked" not in tab.inner_text("article:first-child")
    tab.select_option("[name=outcome]", "lost")
    assert cards(tab) == [] and "nothing fits" in tab.inner_text("#count")


def test_the_slider_moves_pictures_answers_and_the_curve(tab):
    tab = tab()
    state = """card => [...card.querySelectorAll('.moving')].map(
        f => [f.querySelector('img').src.length, f.querySelector('.first').className])"""

    def states(k):
        return tab.eval_on_selector(f"article:nth-child({k})", state)

    def cursor():
        return tab.get_attribute("article:first-child svg .cursor", "x1")

    assert "good" in states(1)[0][1] and "good" not in states(2)[0][1]  # after 20 iterations
    before, place = tab.eval_on_selector("article .moving img", "image => image.src"), cursor()
    tab.focus("article:first-child input[type=range]")
    tab.keyboard.press("ArrowLeft")
    assert tab.eval_on_selector("article .moving img", "image => image.src") != before
    assert "good" not in states(1)[0][1] and "good" in states(2)[0][1]  # all cards move
    assert "after 10" in tab.inner_text("article:nth-child(2) .moving figcaption")
    assert tab.inner_text("article:first-child output") == "10 of 20"
    assert cursor() != place and "after 10 iterations: DIP 50 %" in tab.inner_text(
        "article p.accuracy"
    )
    value = tab.get_attribute("article:first-child input[type=range]", "aria-valuetext")
    assert value == "10 iterations"


def test_activation_maps_are_shown_on_demand(tab):
    tab = tab()
    opacity = "image => Number(getComputedStyle(image).opacity)"
    assert tab.eval_on_selector(".heat", opacity) == 0
    tab.check("[name=heats]")
    assert tab.eval_on_selector(".heat", opacity) > 0.3
    assert tab.eval_on_selector(".heat", "image => image.naturalWidth") == gallery.HEAT_SIDE


def test_intervals_are_told_to_the_mouse_and_to_the_keyboard(tab):
    tab = tab()
    tab.hover("#tables td[data-tip]")
    assert "95 % interval: 15.0 to 85.0" in tab.inner_text("#tip")
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#tip")
    tab.focus("#tables tr:nth-child(2) td[data-tip]")
    assert "iterations = 20" in tab.inner_text("#tip")
    tab.focus("#charts svg")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#tip").split("\n")[:2] == ["iteration 20", "DIP: 50 % [15 %, 85 %]"]


@pytest.mark.parametrize("width", [390, 820, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_dark_scheme(tab, width, scheme):
    tab = tab(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (scheme == "dark")
    for selector in (".picture", "article input[type=range]", "#charts svg"):
        box = tab.query_selector(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 100


def test_names_are_text(tab):
    assert EVIL in tab().inner_text("article:first-child .top")
