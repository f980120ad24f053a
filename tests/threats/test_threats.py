"""Threats on real attacks, defenses and a trained classifier; what the signs say of broken ones."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from judged import rows as known
from trainings import digits as load

from tandem_defense.attacks import base
from tandem_defense.attacks.autoattack import AutoAttack
from tandem_defense.attacks.base import Attack, gradient
from tandem_defense.attacks.black_box import Noise, Square
from tandem_defense.attacks.gradient import FGSM
from tandem_defense.attacks.iterative import BIM, PGD, IterativeFGSM
from tandem_defense.attacks.pgd_l2 import PGDL2
from tandem_defense.classifiers.small import SmallCNN
from tandem_defense.defenses.base import Defense, NoDefense, names_of
from tandem_defense.defenses.controls import JPEG, AverageBlur
from tandem_defense.defenses.dip import DIP
from tandem_defense.evaluation.threats import COLUMNS, SIGNS, WORST, robustness
from tandem_defense.pipeline import threats as stage
from tandem_defense.pipeline.registry import THREATS
from tandem_defense.seeds import derive_seed
from tandem_defense.threats.base import DRAWS, Drawing, Through, judged_with, random
from tandem_defense.threats.blind import Noise as NoiseThreat
from tandem_defense.threats.blind import Oblivious
from tandem_defense.threats.surrogate import Surrogate
from tandem_defense.threats.through import BPDA, Exact, LowFrequency, Query, cosines

EPSILON = 0.15
PGD_ = PGD(semantics="fixed", epsilon=EPSILON, step_size=0.03, steps=15)
IDS = [f"i{i}" for i in range(24)]


class Quantized(Defense):
    """Eight levels per pixel: its gradient is zero, and hides the classifier's."""

    def forward(self, images, ids=None):
        return (images * 7).round() / 7


class Shattered(Defense):
    """Random levels per call and image, then rounding: no slope, and another answer every time."""

    seed: int = 0

    def forward(self, images, ids=None):
        source = torch.Generator().manual_seed(self.seed % 2**31)
        shift = torch.rand(images.shape, generator=source) - 0.5
        return ((images * 7 + shift).round() / 7).clamp(0, 1)


class Noisy(Defense):
    """Noise of an image's own seed."""

    seed: int = 0

    def forward(self, images, ids=None):
        noise = [
            torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed))
            for seed in (derive_seed(self.seed, name) for name in names_of(images, ids))
        ]
        return (images + 0.1 * torch.stack(noise)).clamp(0, 1)


@pytest.fixture(scope="module")
def net():
    images, labels = load(16)
    net = SmallCNN(classes=10, channels=1, width=8)
    net.fit(images[:1200], labels[:1200], seed=0, epochs=6)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def test_images():
    images, labels = load(16)
    return images[1300:1324], labels[1300:1324]


def judged(net, data, defense, threats) -> pd.DataFrame:
    """Rows as the pipeline makes them of {name: (threat, attack)}, judged with fresh seeds."""
    x, y = data
    chance, rows = random(defense), []
    nothing = dict.fromkeys(
        ("deceived", "zero_gradient", "no_gradient", "silent", "incomplete"), False
    )
    sets = [("clean", "clean", 0.0, x, False, 0, nothing)]
    for name, (threat, attack) in threats.items():
        found = threat(attack, net, defense, x, y, ids=IDS, seed=3)
        flags = {flag: getattr(found, flag).numpy() for flag in nothing}
        sets.append(
            (name, type(attack).__name__, attack.epsilon, found.images, threat.GRADIENTS)
            + (threat.samples, flags)
        )
    for name, attack, epsilon, images, gradients, samples, flags in sets:
        for draw in range(DRAWS if chance else 1):
            if chance:
                defense.seed = judged_with(3, draw)
            answers = stage.answers(
                net, defense, images, IDS, y=y.numpy(), on=torch.device("cpu"), n=64
            )
            columns = {key: values.numpy() for key, values in answers.items()}
            columns |= {"linf": (images - x).abs().flatten(1).amax(1).numpy(), "l2": 0.0}
            columns |= dict(dataset="d", seed=0, classifier="net", defense="it", threat=name)
            columns |= dict(attack=attack, epsilon=epsilon, image=IDS, label=y.numpy(), draw=draw)
            columns |= dict(
                aware=True, gradients=gradients, samples=samples, random=chance, dynamic=False
            )
            rows.append(pd.DataFrame(columns | flags))
    return pd.concat(rows, ignore_index=True)


def by_threat(table):
    return table.set_index("threat")["accuracy"], table.set_index("threat")["signs"].str.split()


@pytest.mark.parametrize("threat", [Exact(), BPDA(samples=3)], ids=["exact", "bpda"])
def test_without_a_defense_the_adaptive_attacker_is_the_oblivious_one(net, test_images, threat):
    oblivious = Oblivious()(PGD_, net, NoDefense(), *test_images, ids=IDS)
    adaptive = threat(PGD_, net, NoDefense(), *test_images, ids=IDS)
    assert (adaptive.images - oblivious.images).abs().max() < 1e-5
    assert torch.equal(adaptive.deceived, oblivious.deceived) and oblivious.deceived.sum() > 12


@pytest.mark.parametrize("defense", [Quantized(), Shattered()], ids=["quantized", "random"])
def test_a_defense_that_hides_its_gradient_shows_signs_and_falls(net, test_images, defense):
    everybody = {
        "oblivious": (Oblivious(), PGD_),
        "exact": (Exact(), PGD_),
        "bpda": (BPDA(samples=8), PGD_),
        "query": (Query(), Square(epsilon=EPSILON, queries=150)),
        "noise": (NoiseThreat(), Noise(epsilon=EPSILON)),
    }
    table = robustness(judged(net, test_images, defense, everybody))
    accuracy, signs = by_threat(table)
    bare = robustness(judged(net, test_images, NoDefense(), {"exact": (Exact(), PGD_)}))
    undefended = bare.set_index("threat")["accuracy"][WORST]
    assert accuracy["exact"] > undefended + 0.3
    assert "zero_gradients" in signs["exact"] and "query_better" in signs["exact"]
    assert ("randomized" in signs["bpda"]) == random(defense)
    assert accuracy[WORST] <= undefended + 0.05
    assert accuracy[WORST] <= accuracy.drop(WORST).min()
    assert not signs["clean"] and not signs["noise"]
    n = len(IDS)
    low, high = table.set_index("threat").loc["clean", ["low", "high"]]
    assert low <= accuracy["noise"] <= high and n == table["n"].iloc[0]


def test_a_gradient_that_is_not_there_is_a_sign_and_no_success(net, test_images):
    images, labels = test_images
    dip = DIP(iterations=1, feature_scale=32, gradient=None)
    found = Exact()(PGD_, net, dip, images[:4], labels[:4], ids=IDS[:4])
    assert found.no_gradient.all() and torch.equal(found.images, images[:4])


def test_steps_side_by_side_show_signs_too(net, test_images):
    """A minimal iterative FGSM tries many step sizes of one image at a time."""
    images, labels = (part[:4] for part in test_images)
    attack = IterativeFGSM(epsilon=EPSILON, steps=3)
    found = Exact()(attack, net, Quantized(), images, labels, ids=IDS[:4])
    right = net.predict(Quantized()(images)) == labels  # the others are not attacked
    assert torch.equal(found.zero_gradient, right) and right.sum() > 2
    assert not found.no_gradient.any()
    dip = DIP(iterations=1, feature_scale=32, gradient=None)
    found = Exact()(attack, net, dip, images, labels, ids=IDS[:4])
    assert found.no_gradient.any() and torch.equal(found.images, images)


def test_what_lies_outside_the_bound_is_no_success(net, test_images):
    """AutoAttack's FAB walks there, and comes back."""

    class Wanderer(Attack):
        """Asks about the image in the opposite brightness, and about one of noise within ε."""

        semantics = "fixed"
        epsilon: float = 0.01
        inside: bool = False

        def run(self, model, images, labels, seeds):
            gradient(model, 1 - images, labels)
            if self.inside:
                model(images + 0 * (1 - images))
            return images

    images, labels = test_images
    fooled = net.predict(1 - images) != labels
    found = Oblivious()(Wanderer(), net, NoDefense(), images, labels, ids=IDS)
    assert fooled.sum() > 12 and not found.silent.any() and not found.incomplete.any()
    found = Oblivious()(Wanderer(epsilon=1.0), net, NoDefense(), images, labels, ids=IDS)
    assert torch.equal(found.silent, fooled & ~found.deceived)


def test_an_attack_whose_epsilon_is_no_bound_is_refused(net, test_images):
    with pytest.raises(ValueError, match="minimal.*beyond ε"):
        Oblivious()(BIM(semantics="minimal"), net, NoDefense(), *test_images)


def test_a_defense_in_training_mode_is_attacked_as_it_defends(net, test_images):
    class Dropping(Defense):
        """Drops pixels, but only while it trains."""

        def forward(self, images, ids=None):
            return F.dropout(images, 0.9, self.training)

    images, labels = test_images
    found = Exact()(PGD_, net, Dropping().train(), images, labels, ids=IDS)
    bare = Exact()(PGD_, net, NoDefense(), images, labels, ids=IDS)
    assert torch.equal(found.images, bare.images)


def test_autoattack_goes_by_its_own_check_alone(net, test_images, monkeypatch):
    """Another draw, before or afterwards, would take back what it found of a random defense."""

    def settle(*_):
        raise AssertionError("a single draw decides")

    monkeypatch.setattr(Attack, "_settle", settle)
    images, labels = (part[:2] for part in test_images)
    attack = AutoAttack(epsilon=EPSILON, version="rand")
    found = Exact()(attack, net, Noisy(), images, labels, ids=IDS[:2])
    assert found.deceived.any()
    assert (found.images - images).abs().max() <= EPSILON + 1e-6


def test_an_attack_on_the_wrong_model_is_a_transfer_failure(net, test_images):
    class Erased(Defense):
        """Gives away nothing of the perturbation: rounds it off."""

        def forward(self, images, ids=None):
            return clean.clone()

    clean = test_images[0]
    accuracy, signs = by_threat(
        robustness(judged(net, test_images, Erased(), {"oblivious": (Oblivious(), PGD_)}))
    )
    assert accuracy["oblivious"] == accuracy["clean"] > 0.5
    assert "transfer_failure" in signs["oblivious"] and "transfer_failure" in signs[WORST]


@pytest.mark.parametrize("knows", [False, True])
def test_the_attacker_draws_as_he_may_and_batch_mates_do_not_matter(net, test_images, knows):
    images, labels = (part[:6] for part in test_images)
    dip = DIP(iterations=3, feature_scale=32)
    threat = BPDA(iterations=2, samples=2, knows_seeds=knows)
    attack = PGD(semantics="fixed", epsilon=EPSILON, steps=2)

    def run(part):
        return threat(attack, net, dip, images[part], labels[part], ids=IDS[:6][part]).images

    whole = run(slice(0, 3))
    assert torch.allclose(whole[1:], run(slice(1, 3)), atol=1e-6)
    assert dip.iterations == 3 and dip.gradient is None and dip.seed == 0  # as it was
    other = BPDA(iterations=2, samples=2, knows_seeds=not knows)
    changed = other(attack, net, dip, images[:3], labels[:3], ids=IDS[:3]).images
    assert not torch.equal(whole, changed)


@pytest.mark.parametrize(
    "attack", [BIM(epsilon=EPSILON), FGSM(epsilon=EPSILON)], ids=["bim", "fgsm"]
)
@pytest.mark.parametrize("knows", [False, True])
def test_attacks_that_stop_see_no_batch_mates_either(net, test_images, attack, knows):
    """Neither in their candidates nor in what is seen of them; one image is misclassified."""
    images, labels = (part[:8] for part in test_images)
    labels = torch.cat([labels[:7], (net.predict(images[7:]) + 1) % 10])
    threat = Exact(knows_seeds=knows)
    for defense in (Noisy(), Quantized()):
        whole = threat(attack, net, defense, images, labels, ids=IDS[:8])
        for i in range(8):
            part = slice(i, i + 1)
            alone = threat(attack, net, defense, images[part], labels[part], ids=IDS[part])
            for name, values in vars(alone).items():
                assert torch.equal(getattr(whole, name)[part], values), name
    assert whole.zero_gradient[:7].any()  # rounding has none


def test_many_candidates_for_one_image_are_its_own_to_who_knows_the_seeds(net, test_images):
    """A minimal FGSM tries twenty sizes at a time: each is the image that will be judged."""
    images, labels = (part[:1] for part in test_images)
    defense = Noisy()
    shown = Drawing(Through(net, defense), defense, 3, "evaluation", 1, ["i0"])
    many = shown(images.repeat(20, 1, 1, 1))
    defense.seed = judged_with(3, 0)
    assert torch.allclose(many, net(defense(images, ["i0"])).expand(20, -1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_is_named_by_its_content(dtype):
    images = torch.rand(3, 1, 4, 4).to(dtype)
    names = names_of(images, None)
    assert len(set(names)) == 3 and names == names_of(images.clone(), None)
    assert names_of(images[1:, :, :, ::2], None) == names_of(images[1:, :, :, ::2].clone(), None)


def test_what_is_attacked_is_left_as_it_was(test_images):
    images, labels = test_images
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(256, 10))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    defense = Noisy()
    defense.seed = 5
    for threat in (Oblivious(), Surrogate(stand_in="autoencoder", pairs=4, epochs=1)):
        threat.prepare(defense, images, IDS, 0)
        threat(PGD_, net, defense, images, labels, ids=IDS)
    assert net.training and defense.seed == 5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("attack", [PGD_, BIM(epsilon=EPSILON)], ids=["pgd", "bim"])
def test_no_images_are_no_candidates(net, test_images, attack):
    images, labels = (part[:0] for part in test_images)
    found = Exact()(attack, net, AverageBlur(), images, labels)
    assert found.images.shape == images.shape and found.deceived.shape == (0,)


def test_labels_of_another_number_are_refused(net, test_images):
    images, labels = test_images
    for attack in (PGD_, BIM(epsilon=EPSILON)):
        for wrong in (labels[:3], labels.repeat(2), labels.tolist()):
            with pytest.raises(ValueError, match="one class per image"):
                Oblivious()(attack, net, NoDefense(), images, wrong)


def test_what_low_frequencies_are(net, test_images):
    """Between black and white nothing is clipped: the perturbation has no others."""
    images, labels = 0.3 + 0.4 * test_images[0], test_images[1]
    k = 4
    threat = LowFrequency(frequencies=k)
    found = threat(PGD_, net, AverageBlur(), images, labels, ids=IDS)
    delta = found.images - images
    assert 0.01 < delta.abs().max() <= EPSILON * 1.0001
    rows = cosines(16, 16).float()
    spectrum = rows @ delta @ rows.T
    assert spectrum[:, :, :k, :k].abs().amax((1, 2, 3)).min() > 0.01
    spectrum[:, :, :k, :k] = 0
    assert spectrum.abs().max() < 1e-4
    assert torch.allclose(rows @ rows.T, torch.eye(16), atol=1e-5)
    assert threat(PGD_, net, AverageBlur(), *test_images, ids=IDS).deceived.any()


@pytest.mark.parametrize("stand_in", ["blur", "low_pass", "autoencoder"])
def test_a_stand_in_is_attacked_in_place_of_the_defense(net, test_images, stand_in):
    images, labels = test_images
    only = {"pairs": 16, "epochs": 10} if stand_in == "autoencoder" else {}
    threat, defense = Surrogate(stand_in=stand_in, **only), AverageBlur()
    if only:
        with pytest.raises(ValueError, match="not fitted, expected a call of prepare first"):
            threat(PGD_, net, defense, images, labels)
        threat.prepare(defense, images, IDS, 0)
        x = images
        before, after = (defense(x) - x).square().mean(), (defense(x) - threat.network(x)).square()
        assert after.mean() < before
    found = threat(PGD_, net, defense, images, labels, ids=IDS)
    assert found.deceived.any() and not torch.equal(found.images, images)


def test_jpeg_passes_its_rounding_through():
    images = torch.rand(2, 3, 17, 16, generator=torch.Generator().manual_seed(0))
    asked = images.clone().requires_grad_()
    result = JPEG().through(asked)
    assert torch.allclose(result, JPEG()(images), atol=1e-6)
    gray = torch.ones(1, 3, 1, 1)
    result.mul(gray).sum().backward()
    assert torch.allclose(asked.grad, torch.ones_like(images), atol=1e-5)


def test_more_restarts_are_never_weaker(net, test_images):
    one = PGD(semantics="fixed", epsilon=0.05, steps=4)(net, *test_images)
    five = PGD(semantics="fixed", epsilon=0.05, steps=4, restarts=5)(net, *test_images)
    assert five.success.sum() >= one.success.sum()
    assert (five.success | ~one.success).all() and not torch.equal(five.images, one.images)
    with pytest.raises(ValueError, match="restarts: found 5, which has an effect only if"):
        PGD(restarts=5)


def test_square_finds_what_noise_does_not(net, test_images):
    noise = Noise(epsilon=0.15)(net, *test_images)
    square = Square(epsilon=0.15, queries=200)(net, *test_images)
    more = Square(epsilon=0.15, queries=2)(net, *test_images)
    assert square.success.sum() > noise.success.sum() and square.linf.max() <= 0.1501
    assert square.success.sum() >= more.success.sum()


def test_the_worst_case_never_rises_with_epsilon(net, test_images):
    threats = {
        f"pgd{i}": (Oblivious(), PGD(semantics="fixed", epsilon=e, steps=10))
        for i, e in enumerate((0.02, 0.05, 0.1))
    }
    table = robustness(judged(net, test_images, NoDefense(), threats))
    assert list(table) == COLUMNS
    worst = table[table["threat"] == WORST].sort_values("epsilon")
    assert list(worst["epsilon"]) == [0.02, 0.05, 0.1]
    assert (np.diff(worst["accuracy"]) <= 0).all()
    assert worst["accuracy"].iloc[-1] <= table["accuracy"][table["threat"] != WORST].min()


def test_the_worst_case_holds_every_candidate_of_its_bound(net, test_images):
    """Rounding of x + ε in float32 is more than a share of a small ε."""
    small = 0.25 / 255
    threats = {"pgd": (Oblivious(), PGD(semantics="fixed", epsilon=small, steps=3))}
    rows = judged(net, test_images, NoDefense(), threats)
    rows.loc[rows["threat"] == "pgd", "prediction"] = -1
    rows.loc[rows["threat"] == "pgd", "linf"] = small + 2e-8
    table = robustness(rows).set_index("threat")["accuracy"]
    assert table["pgd"] == table[WORST] == 0


def test_an_unbounded_candidate_counts_where_its_norm_is_allowed():
    """DeepFool has no ε: what it found at L∞ 0.3 is no candidate at 0.1, but one at 0.5."""
    parts = [known(["cccc"], "oblivious", 0.1), known(["cccc"], "oblivious", 0.5)]
    parts += [known(["cccc"], "clean", 0.0, linf=0.0), known(["cwww"], "deepfool", 0.0, linf=0.3)]
    table = robustness(pd.concat(parts, ignore_index=True))
    shares = table.pivot(index="threat", columns="epsilon", values="accuracy")
    assert shares.loc[WORST].dropna().to_dict() == {0.1: 1.0, 0.5: 0.25}
    assert shares.loc["deepfool"].to_dict() == {0.0: 0.25, 0.1: 1.0, 0.5: 0.25}


def test_a_clip_holds_for_threats_too(net, test_images):
    images, labels = test_images
    attack = PGDL2(epsilon=3.0, steps=3, clip=0.05)
    found = Oblivious()(attack, net, NoDefense(), images, labels, ids=IDS).images
    assert 0.04 < (found - images).abs().max() <= 0.0501


@pytest.mark.parametrize("knows", [False, True])
def test_a_batch_is_watched_whole_however_few_images_go_in_one_pass(
    net, test_images, monkeypatch, knows
):
    """Restarts compare projected images, and a random defense draws once for all of them."""
    images, labels = (part[:6] for part in test_images)
    attack = PGD(semantics="fixed", epsilon=EPSILON, steps=2, restarts=3)
    noisy, threat = Noisy(), LowFrequency(frequencies=4, knows_seeds=knows)

    def run():
        return threat(attack, net, noisy, images, labels, ids=IDS[:6]).images

    whole = run()
    monkeypatch.setattr(base, "IMAGES_AT_ONCE", 2)
    assert torch.equal(run(), whole)


def test_who_knows_the_seeds_knows_all_of_them():
    seen = []

    class Listening(Defense):
        seed: int = 0

        def forward(self, images, ids=None):
            seen.append(self.seed)
            return images

    shown = Through(torch.nn.Flatten(), listening := Listening())
    drawing = Drawing(shown, listening, 0, "evaluation", 2, ["a"], draws=5)
    for _ in range(5):
        drawing(torch.zeros(1, 1, 2, 2))
    assert seen == [judged_with(0, draw) for draw in range(5)] * 2


def test_every_threat_is_registered_and_every_sign_is_explained(root):
    page = (root / "docs/threats.md").read_text(encoding="utf-8")
    for name in [*SIGNS, *THREATS]:
        assert f"`{name}`" in page, name
