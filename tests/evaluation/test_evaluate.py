"""`tandem_defense.evaluate`: what a table's cells are, whatever the classifier and the defenses."""

import subprocess
import sys

import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import nn
from trainings import random, smooth

import tandem_defense
from tandem_defense.attacks.gradient import FGSM
from tandem_defense.attacks.iterative import BIM, PGD
from tandem_defense.attacks.pixel import SinglePixel
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.defenses.base import Defense
from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.dip import TandemDIP
from tandem_defense.defenses.hgd import HGD
from tandem_defense.evaluation.statistics import wilson

COLUMNS = "attack defense n correct accuracy low high linf l2 fooled rejected".split()
TANDEM = {"first_iterations": (2,), "iterations": 2, "feature_scale": 32, "first_width": 0.125}
STRONG = FGSM(semantics="fixed", epsilon=0.2)


class Bright(nn.Module):
    """Class 1 where the mean is above ½: no parameters, a gradient everywhere."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


class Refusing(Defense):
    """Refuses bright images."""

    def forward(self, images, ids=None):
        return images

    def rejects(self, images):
        return images.mean((1, 2, 3)) > 0.5


@pytest.fixture(scope="module")
def images():
    """Means 0.4, 0.4, 0.55, 0.9; all smooth."""
    means = torch.tensor([0.4, 0.4, 0.55, 0.9])[:, None, None, None]
    noise = 0.1 * (smooth(4, 3, 16) - 0.5)
    return means + noise - noise.mean((1, 2, 3), keepdim=True)


def test_every_cell_is_what_it_says(images):
    labels = torch.tensor([0, 0, 1, 0])  # the last is misclassified from the start
    table = tandem_defense.evaluate(
        Bright(), images, labels, attacks={"fgsm": STRONG}, defenses=[Refusing(), AverageBlur()]
    )
    assert list(table) == COLUMNS
    cells = [(a, d) for a in ("clean", "fgsm") for d in ("none", "Refusing", "AverageBlur")]
    assert list(zip(table["attack"], table["defense"], strict=True)) == cells
    assert table["n"].tolist() == [4] * 6
    assert table["correct"].tolist() == [3, 2, 3, 0, 0, 0]
    assert table["rejected"].tolist() == [0, 2, 0, 0, 3, 0]
    assert table["accuracy"].tolist() == [0.75, 0.5, 0.75, 0, 0, 0]
    assert table["fooled"].tolist() == [0.25] * 3 + [1.0] * 3
    assert table["linf"].tolist() == pytest.approx([0] * 3 + [0.15] * 3, abs=1e-6)
    assert table["l2"].tolist() == pytest.approx([0] * 3 + [0.15 * (3 * 256) ** 0.5] * 3, rel=1e-5)
    low, high = wilson(3, 4)
    assert (table["low"][0], table["high"][0]) == pytest.approx((low, high))


def test_it_changes_nothing_and_depends_on_no_batch(images):
    torch.manual_seed(0)
    net = SmallCNN(classes=2, width=4).train()
    labels = net.eval().predict(images)
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    given = {"attacks": [STRONG, PGD(semantics="fixed")], "defenses": [TandemDIP(**TANDEM)]}
    whole = tandem_defense.evaluate(net, images, labels, **given)
    alone = tandem_defense.evaluate(net, images, labels, batch_size=1, **given)
    assert_frame_equal(whole, alone, rtol=1e-4)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


def test_ids_and_the_seed_decide_what_is_random():
    images, net = smooth(6, 3, 16), Bright()
    labels = net(images).argmax(1)
    settings = {
        "attacks": [SinglePixel(max_pixels=5), PGD(semantics="fixed", epsilon=0.1, steps=1)]
    }

    def run(**also):
        return tandem_defense.evaluate(net, images, labels, **settings, **also)

    names = list("abcdef")
    assert_frame_equal(run(), run())
    assert_frame_equal(run(ids=names), run(ids=names))
    differing = [run(ids=names), run(), run(ids=names, seed=1), run(ids=names[::-1])]
    assert len({table["l2"].iloc[-1] for table in differing}) == 4


def test_a_defense_gets_the_same_ids_for_clean_and_attacked_images(images):
    seen = []

    def noting(batch, ids):
        seen.append(tuple(ids))
        return batch

    given = {"attacks": [STRONG], "defenses": {"noting": noting}, "ids": list("abcd")}
    tandem_defense.evaluate(Bright(), images, torch.tensor([0, 0, 1, 1]), **given)
    assert seen == [tuple("abcd")] * 2


class Overwriting(Refusing):
    """Works in place, and refuses by what it is given."""

    def forward(self, images, ids=None):
        return images.mul_(0.5)


def test_what_works_in_place_changes_nothing_for_others(images):
    def halve(x, ids):
        return x.mul_(0.5)

    before = images.clone()
    given = {"function": halve, "defense": Overwriting(), "jpeg": JPEG()}
    table = tandem_defense.evaluate(Bright(), images, torch.tensor([0, 0, 1, 1]), defenses=given)
    found = dict(zip(table["defense"], table["correct"], strict=True))
    assert found == {"none": 4, "function": 2, "defense": 2, "jpeg": 4}
    rejected = dict(zip(table["defense"], table["rejected"], strict=True))
    assert rejected["defense"] == 2 and torch.equal(images, before)


class Shifting(Bright):
    """A classifier that works in place."""

    def forward(self, images):
        return super().forward(images.sub_(0.05))


def test_a_classifier_that_works_in_place(images):
    labels, before = torch.tensor([0, 0, 0, 1]), images.clone()
    table = tandem_defense.evaluate(Shifting(), images, labels, defenses=[JPEG()])
    assert table["correct"].tolist() == [4, 4] and torch.equal(images, before)
    with pytest.raises(ValueError, match="changes the images that it is given"):
        tandem_defense.evaluate(Shifting(), images, labels, attacks={"fgsm": STRONG})
    assert torch.equal(images, before)


def test_defenses_of_other_kinds(images):
    """Any module, a function of images and ids, and one that is made here."""
    given = {"half": lambda x, ids: x / 2, "module": nn.Identity(), "jpeg": JPEG()}
    table = tandem_defense.evaluate(Bright(), images, torch.tensor([0, 0, 1, 1]), defenses=given)
    found = dict(zip(table["defense"], table["correct"], strict=True))
    assert found == {"none": 4, "half": 2, "module": 4, "jpeg": 4}


def test_names_tell_apart_what_has_none(images):
    given = [FGSM(), FGSM(epsilon=0.1), BIM()]
    table = tandem_defense.evaluate(Bright(), images, torch.tensor([0, 0, 1, 1]), attacks=given)
    assert table["attack"].tolist() == ["clean", "FGSM", "FGSM(epsilon=0.1)", "BIM"]


def test_gray_and_float64():
    images = random(3, 1, 12, 12).double()
    table = tandem_defense.evaluate(
        Bright(), images, torch.tensor([0, 0, 0]), attacks=[STRONG], defenses=[JPEG()]
    )
    assert len(table) == 4


def test_progress_is_shown_on_stderr(images, capsys):
    labels, restoring = torch.tensor([0, 0, 1, 1]), TandemDIP(**TANDEM)
    given = {"attacks": [STRONG], "defenses": {"tandem": restoring}}
    tandem_defense.evaluate(Bright(), images, labels, **given)
    assert capsys.readouterr() == ("", "")
    tandem_defense.evaluate(Bright(), images, labels, progress=True, **given)
    out, err = capsys.readouterr()
    assert not out and "clean, tandem" in err and "100%" in err
    assert restoring.progress is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"attacks": [FGSM]}, r"attacks: FGSM is <class .*expected an Attack"),
        ({"attacks": [JPEG()]}, "attacks: JPEG is JPEG.*expected an Attack"),
        ({"attacks": [FGSM(), FGSM()]}, "attacks: FGSM is there twice: give names"),
        ({"attacks": {"clean": FGSM()}}, "attacks: 'clean' is always in the table"),
        ({"defenses": [JPEG]}, "defenses: JPEG is <class .*expected an object that is called"),
        ({"defenses": {"none": JPEG()}}, "defenses: 'none' is always in the table"),
        ({"defenses": {"crop": lambda x, ids: x[..., 1:]}}, r"made \(4, 3, 16, 15\) of images"),
        ({"ids": ["a"]}, "1 ids for 4 images"),
        ({"labels": torch.tensor([0, 0, 1, 2])}, "labels range from 0 to 2, expected 0 to 1"),
        ({"labels": torch.zeros(4)}, "labels are torch.float32, expected whole numbers"),
        ({"images": torch.full((4, 3, 8, 8), 9.0)}, r"images range from 9 to 9, expected \[0, 1\]"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "there are no images"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(images, wrong, why):
    given = {"images": images, "labels": torch.tensor([0, 0, 1, 1])} | wrong
    with pytest.raises(ValueError, match=why):
        tandem_defense.evaluate(Bright(), **given)


HGD_SMALL = {"widths": (2, 2), "forward_depths": (1, 1), "backward_depths": (1,)}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (HGD(**HGD_SMALL), r"last: images are torch.float64, the weights torch.float32: convert"),
        (HGD(**HGD_SMALL, channels=1).double(), r"last: images have the shape \(1, 3, 16, 16\)"),
        (AverageBlur(kernel=33), "last: images have the shape .* use larger images or a kernel"),
        (TandemDIP(**TANDEM, coarse=1), "last: coarse steps need images of at least 128 × 128"),
    ],
    ids=["type", "channels", "size", "coarse"],
)
def test_a_defense_that_refuses_the_images_is_known_before_others_compute(images, wrong, why):
    called = []

    def first(batch, ids):
        called.append(ids)
        return batch

    given = {"defenses": {"first": first, "last": wrong}}
    with pytest.raises(ValueError, match=f"defenses: {why}"):
        tandem_defense.evaluate(Bright(), images.double(), torch.tensor([0, 0, 1, 1]), **given)
    assert not called


def test_a_classifier_of_another_type_is_refused(images):
    net, labels = SmallCNN(classes=2, width=4), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="float64, the classifier's weights torch.float32: conv"):
        tandem_defense.evaluate(net, images.double(), labels)
    assert len(tandem_defense.evaluate(net.double(), images.double(), labels)) == 1


def test_the_package_alone_imports_nothing_heavy(root):
    program = "import sys, tandem_defense; print({'torch', 'pandas', 'foolbox'} & {*sys.modules})"
    program += "; print(tandem_defense.evaluate.__name__); tandem_defense.nothing"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(root / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["set()", "evaluate"]
    assert "has no attribute 'nothing'" in done.stderr
