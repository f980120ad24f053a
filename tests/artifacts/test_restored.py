"""Figure 7: which images are shown, in which state, with which answer; and what is refused."""

import frames
import numpy as np
import pytest
import torch
from frames import CURVES

from tandem_defense.artifacts import pictures, shown
from tandem_defense.artifacts.base import Inputs
from tandem_defense.artifacts.restored import Restored

WANTED = dict(experiment="tdips", classifier="inception_v3", attack="bim", iterations=1000) | {
    "first_iterations": 100
}
BOTH = WANTED | {"defenses": ["dip", "tdips"]}


class Bright(torch.nn.Module):
    """Class 1 for bright images, else 0."""

    def predict(self, images):
        return (images.mean((1, 2, 3)) > 0.5).long()


@pytest.fixture
def given(monkeypatch):
    """Four dark images, the last three of which an attack brightens; DIP fails on i2."""
    data = frames.image_set([51] * 4, credits=["A", "B", "C", "D"])
    given = Inputs({})

    def images(*values):
        return np.stack([frames.picture((3, 30, 30), value) for value in values])

    attacked = frames.attacked_set(data, images(0.2, 0.9, 0.8, 0.9), [0, 1, 1, 1], [0, 0, 0, 1])
    dip = {"0/1000": images(0.2, 0.3, 0.7, 0.3), "0/500": images(0, 0, 0, 0)}
    tdips = {"100/1000": images(0.2, 0.4, 0.4, 0.4), "200/1000": images(0, 0, 0, 0)}
    ids = list(data.ids)
    monkeypatch.setattr(shown, "classifier_of", lambda inputs: Bright())
    given.__dict__.update(images=data, attacked=[attacked])
    given.__dict__["restored"] = [(dip, ids), (tdips, ids)]
    return given


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_by_hand(given):
    figure, table = Restored(**BOTH).draw(given, CURVES)
    assert len(figure.axes) == 8  # i1 and i2: i0 is not fooled, i3 was not classified correctly
    values = [np.asarray(axes.images[0].get_array()).flat[0] for axes in figure.axes]
    assert values == pytest.approx([0.2, 0.9, 0.3, 0.4, 0.2, 0.8, 0.7, 0.4])
    for words in ("original", "attacked", "DIP", "t-DIPs", "✓ cat", "✗ dog"):
        assert words in texts(figure)
    marks = {text.get_text()[0]: text.get_color() for text in figure.texts}
    assert marks["✓"] == pictures.CORRECT and marks["✗"] == pictures.WRONG
    assert list(table) == ["image", "label", "state", "prediction", "correct"]
    assert table["image"].tolist() == ["i1", "i2"] * 4 and set(table["label"]) == {"cat"}
    assert table["state"].tolist()[::2] == ["original", "attacked", "dip", "tdips"]
    assert table["correct"].tolist() == [True, True, False, False, True, False, True, True]
    assert set(table["prediction"][table["correct"]]) == {"cat"}


def test_the_number_of_images_and_the_order_of_defenses(given):
    given.__dict__["restored"] = given.restored[::-1]
    _, table = Restored(**BOTH | {"defenses": ["tdips", "dip"]}, images=1).draw(given, CURVES)
    assert table["image"].unique().tolist() == ["i1"]
    assert table["state"].tolist() == ["original", "attacked", "tdips", "dip"]


def test_the_note_tells_which_images_and_whose(given):
    kind = Restored(**BOTH)
    note = shown.load(given, kind, kind.defenses).note(kind, CURVES)
    assert note == (
        "BIM on Inception, nips2017: the first 2 images that it fools (there are no more; 3"
        " were asked for); λ₁ = 100, λ₂ = 1000;"
        " oblivious attacker. Photographs, from the top: B; C"
    )
    one = Restored(**BOTH, images=1)
    note = shown.load(given, one, one.defenses).note(one, CURVES)
    assert "the first image that it fools" in note and note.endswith(". Photographs by B")


def test_where_none_is_fooled_the_first_are_shown(given):
    data = frames.image_set([51] * 4)
    (attacked,) = given.attacked
    attacked.success[:] = False
    given.__dict__["images"] = data
    kind = Restored(**BOTH, images=2)
    chosen = shown.load(given, kind, kind.defenses)
    note = chosen.note(kind, CURVES)
    assert chosen.ids == ("i0", "i1") and "the first 2 images (it fools none)" in note
    assert note.endswith("oblivious attacker")


def test_only_kept_images_are_shown(given):
    """An experiment keeps the restored images of the first few only."""
    given.__dict__["restored"] = [
        ({key: images[:2] for key, images in kept.items()}, ids[:2]) for kept, ids in given.restored
    ]
    kind = Restored(**BOTH)
    assert shown.load(given, kind, kind.defenses).ids == ("i1",)


def test_a_readout_that_was_not_kept_is_named(given):
    kind = Restored(**BOTH | {"iterations": 900})
    with pytest.raises(ValueError, match=r"dip: expected.*100/900 or 0/900, kept.*'0/1000'"):
        kind.draw(given, CURVES)


def test_files_of_different_images_are_refused(given):
    (kept, ids), other = given.restored
    given.__dict__["restored"] = [(kept, ids[::-1]), other]
    with pytest.raises(ValueError, match="dip: expected images .*'i3'.*got"):
        Restored(**BOTH).draw(given, CURVES)
