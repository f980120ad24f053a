"""The scripts of reproduction/: FUNN's on networks that nobody trained, tables, weights."""

import ast
import importlib.util
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tandem_defense.artifacts import rates
from tandem_defense.classifiers.autoencoder import ClassicAutoencoder
from tandem_defense.classifiers.base import Classifier
from tandem_defense.datasets.base import ImageSet
from tandem_defense.defenses.base import Defense
from tandem_defense.defenses.magnet import MagNet
from tandem_defense.evaluation.rows import Chunk
from tandem_defense.pipeline import checkpoint
from tandem_defense.pipeline.entries import to_tensor

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    import funn_rates

    monkeypatch.setattr(rates, "STEPS", 30)
    return funn_rates


@pytest.fixture
def case():
    """A classifier, and eight images of which it classifies all but the first correctly."""
    net = ClassicAutoencoder(widths=(4, 6))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    labels = net.predict(x).numpy()
    labels[0] = (labels[0] + 1) % 10
    names = tuple(str(i) for i in range(10))
    return net, ImageSet(pixels, labels, tuple(f"i{i}" for i in range(8)), names, ("",) * 8)


@pytest.mark.parametrize(
    "name", ["DeepFool L2, Foolbox 1", "DeepFool L2, Foolbox 3", "DeepFool L∞, Foolbox 3"]
)
def test_every_correct_image_has_a_row_of_deepfool(script, case, name):
    rows = script.measure(name, *case, seed=0)
    assert set(rows["attack"]) == {name}
    assert rows["image"].tolist() == [f"i{i}" for i in range(1, 8)]
    assert (rows["step"].notna() == rows["distance"].notna()).all()
    assert rows["step"].dropna().between(1, 30).all()
    assert ((rows["margin"] <= 0) >= rows["step"].notna()).all()  # 50 steps are more
    assert rows["distance"].dropna().gt(0).all() and rows["distance"].notna().any()


@pytest.mark.parametrize("name", ["PGD L2", "PGD L∞"])
def test_every_correct_image_has_a_row_of_pgd(script, case, name, monkeypatch):
    """The same one, however many images are attacked together."""
    monkeypatch.setitem(script.ATTACKS[name][1], "steps", 5)
    rows = script.measure(name, *case, seed=0)
    assert set(rows["attack"]) == {name}
    assert rows["image"].tolist() == [f"i{i}" for i in range(1, 8)]
    assert rows["step"].isna().all()
    assert set(rows["distance"].dropna()) <= set(rates.BUDGETS[name])
    assert rows["distance"].nunique() > 1
    monkeypatch.setattr(script, "BATCH", 2)
    pd.testing.assert_frame_equal(script.measure(name, *case, seed=0), rows)


def test_a_sweep_that_was_stopped_goes_on_after_its_last_images(script, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0)  # with the next line: always due
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    monkeypatch.setattr(script, "BATCH", 2)
    attacked = []

    def attack(entry, epsilon):
        def run(net, x, y, seeds):
            if stop and len(attacked) == 3:
                raise KeyboardInterrupt
            attacked.append(seeds)
            return SimpleNamespace(success=x.flatten() < epsilon)

        return run

    monkeypatch.setattr(script, "attack", attack)
    x, seeds = torch.arange(4.0)[:, None], list(range(4))

    def sweep():
        with checkpoint.kept(tmp_path / "sweep", {}):
            return script.sweep(None, x, torch.zeros(4), seeds, {}, (1, 2, 3))["distance"].tolist()

    stop = False
    whole, wanted = sweep(), list(attacked)
    attacked.clear()
    stop = True
    with pytest.raises(KeyboardInterrupt):
        sweep()
    stop = False
    np.testing.assert_equal(sweep(), whole)
    assert attacked == wanted and not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_smallest_epsilon_is_found_in_few_attacks(script, monkeypatch, count):
    """Image i falls from the ith ε on, the last never; none is attacked more often than needed."""
    epsilons, tried = tuple(range(1, count + 1)), Counter()

    def attack(entry, epsilon):
        def run(net, x, y, seeds):
            tried.update(seeds)
            assert seeds == y.tolist()
            return SimpleNamespace(success=x.flatten() < epsilon)

        return run

    monkeypatch.setattr(script, "attack", attack)
    x, seeds = torch.arange(count + 1.0)[:, None], list(range(count + 1))
    found = script.sweep(None, x, torch.tensor(seeds), seeds, {}, epsilons)["distance"]
    assert found.tolist()[:-1] == [*epsilons] and np.isnan(found.iloc[-1])
    assert max(tried.values()) == count.bit_length()


def test_a_defense_is_attacked_as_a_whole(script, case, monkeypatch):
    """Its gradient is the composition's; what it refuses from the start is left out."""
    net, images = case
    monkeypatch.setitem(script.ATTACKS["PGD L∞"][1], "steps", 5)
    seen = []

    class Negative(Defense):
        """Inverts images, and refuses the second."""

        def forward(self, x, ids=None):
            seen.append(len(x))
            return 1 - x

        def rejects(self, x):
            return (x == to_tensor(images.images)[1]).flatten(1).all(1)

    defense = Negative()
    given = net.predict(1 - to_tensor(images.images))
    right = ImageSet(images.images, given.numpy(), images.ids, images.classes, images.credits)
    table = script.measure("PGD L∞", net, right, seed=0, defense=defense)
    assert table["image"].tolist() == [f"i{i}" for i in (0, 2, 3, 4, 5, 6, 7)]
    assert len(seen) > 10  # of answers, and of PGD's steps


def test_cells_of_table_1_have_as_many_photographs_as_were_answered(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "reproduction")
    import photographs

    def answers(defense, attack, right, steps=(0, 0)):
        prediction = [1 if hit == "1" else 2 for hit in right]
        rows = pd.DataFrame({"image": [f"i{i}" for i in range(len(right))], "label": 1})
        rows = rows.assign(classifier="resnet50", attack=attack, defense=defense)
        rows = rows.assign(prediction=prediction)
        rows = rows.assign(first_iterations=steps[0], iteration=steps[1], clean_prediction=1)
        return rows.assign(rejected=False, success=attack != "clean", linf=0.03, l2=1.0)

    rows = [
        answers("none", "clean", "1111"),
        answers("none", "bim", "000"),
        answers("jpeg", "clean", "1101"),
        answers("jpeg", "bim", "10"),
        *(answers("tdips", "bim", "11", (100, step)) for step in range(100, 1001, 100)),
        answers("tdips", "clean", "1", (100, 1000)),
        *(answers("dip", "bim", "0", (0, step)) for step in range(100, 1501, 100)),
    ]
    other = answers("jpeg", "clean", "11111").assign(classifier="resnet18")  # and nothing else
    photographs.tables(pd.concat([*rows, other])[photographs.COLUMNS], tmp_path)
    table = pd.read_csv(tmp_path / "table1.csv").set_index(["classifier", "defense", "attack"])
    assert table.loc[("resnet18", "jpeg", "clean"), "n"] == 5
    table = table.loc["resnet50"]
    assert table["n"].to_dict() == {
        ("none", "clean"): 4,
        ("none", "bim"): 3,
        ("jpeg", "clean"): 4,
        ("jpeg", "bim"): 2,
        ("tdips", "clean"): 1,
        ("tdips", "bim"): 2,
    }
    assert table.loc["jpeg", "accuracy"].tolist() == [0.75, 0.5]
    assert table.loc[("tdips", "bim"), "iteration"] == 1000
    pairs = pd.read_csv(tmp_path / "table1_comparisons.csv")
    pairs = pairs.set_index(["defense_a", "defense_b", "attack"])[["n", "only_a", "only_b"]]
    assert pairs.loc[("none", "jpeg", "bim")].tolist() == [2, 0, 1]
    assert pairs.loc[("none", "tdips", "clean")].tolist() == [1, 0, 0]
    claims = pd.read_csv(tmp_path / "claims.csv")
    ahead = claims[claims["claim"] == "t-DIPs beats DIP at equal iterations"]
    holds = ahead.set_index("numbers")["holds"]
    assert pd.isna(holds["published"]) and holds["measured"]

    drawn = {}
    monkeypatch.setattr(
        photographs.style, "save", lambda figure, path: drawn.update({path: figure})
    )
    photographs.curves(pd.concat([*rows, other])[photographs.COLUMNS], tmp_path)
    assert list(drawn) == [tmp_path / "figure3.png", tmp_path / "figure6.png"]
    (axes,) = drawn[tmp_path / "figure6.png"].axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines == {"DIP": [0] * 10, "t-DIPs, λ₁ = 100": [1] * 10}
    photographs.curves(rows[0][photographs.COLUMNS], tmp_path)
    assert len(drawn) == 2  # nothing to draw


def test_a_released_network_is_decoded_from_its_codebooks(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    from decode import decoded

    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(4, 3))
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn((4, 9), generator=draws).half()
    many = torch.randn((40000, 2), generator=draws).half()  # their codes do not fit into int16
    codes = torch.tensor([[0, 3], [1, 1], [2, 0]], dtype=torch.uint8)
    large = torch.tensor([[0, 39999], [32768, 1], [2, 3]])
    released = {
        "0.codebook": vectors,
        "0.codes_matrix": codes,
        "1.weight": torch.full((3,), 2.0),
        "1.bias": torch.zeros(3),
        "2.codebook": many,
        "2.codes_matrix": large.short(),
        "2.bias": torch.ones(3),
    }
    net.load_state_dict(decoded(released, net))
    assert torch.equal(net[0].weight[0, 1], vectors[3].view(3, 3).float())
    assert torch.equal(net[0].weight[2, 0], vectors[2].view(3, 3).float())
    assert torch.equal(net[2].weight[0, 2:], many[39999].float())
    assert torch.equal(net[2].weight[1, :2], many[32768].float())
    x = torch.rand((1, 3, 4, 4), generator=draws)
    assert torch.allclose(net.eval()[1](x), 2 * x, atol=1e-4)  # mean 0, variance 1
    del released["2.bias"]
    with pytest.raises(KeyError, match=r"expected 2\.bias in the released file"):
        decoded(released, net)


def test_table_2_has_the_medians_of_the_networks_that_stand_for_its_models(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    import funn

    rows = [
        {"setting": "funn, 32", "seed": seed, "measure": "fgsm", "n": n, "value": v, "noise": z}
        for seed, n, v, z in ((0, 960, 0.1, 0.2), (1, 964, 0.3, 0.1), (2, 961, 0.2, 0.4))
    ]
    other = {"setting": "funn, 256", "measure": "fgsm"}
    accuracy = {"setting": "classic, 32", "measure": "accuracy"}
    table = funn.table2(pd.DataFrame([*rows, rows[0] | other, rows[0] | accuracy]))
    (row,) = table.to_dict("records")
    assert (row["model"], row["attack"], row["n"], row["seeds"]) == ("funn", "fgsm", 961, 3)
    assert (row["success_rate"], row["low"], row["high"]) == (0.2, 0.1, 0.3)
    assert (row["noise_level"], row["published_success_rate"]) == (0.2, 0.0161)


class Bright(Classifier):
    """1 for images whose mean is above a quarter, else 0."""

    def __post_init__(self):
        super().__post_init__()
        self.sharpness = nn.Parameter(torch.tensor(40.0))

    def maps(self, images):
        return images

    def head(self, maps):
        lead = self.sharpness * (maps.mean((1, 2, 3)) - 0.25)
        return torch.stack([torch.zeros_like(lead), lead], 1)


def test_what_magnet_refuses_has_not_fooled_it(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "reproduction")
    import funn

    pixels = np.repeat(np.array([30, 50, 150, 250], np.uint8), 28 * 28).reshape(4, 28, 28, 1)
    ids, labels = tuple("abcd"), np.array([0, 0, 1, 1])
    images = ImageSet(pixels, labels, ids, tuple("01"), ("",) * 4)
    monkeypatch.setattr(funn, "KEPT", tmp_path)
    monkeypatch.setattr(funn, "ATTACKS", {"fgsm": funn.ATTACKS["fgsm_unbounded"]})
    monkeypatch.setattr(funn, "ORDER", ["fgsm"])
    magnet = MagNet()  # which nobody has trained, so that it makes everything gray
    monkeypatch.setattr(funn, "train", lambda name, *_: magnet if name in funn.BEHIND else Bright())
    splits = {"train": images, "test": images}

    def measured():
        found = funn.measures("magnet, 64", 0, funn.ORDER, set(), splits)
        return {row["measure"]: row for new in found for row in new}

    before = measured()
    assert before["accuracy"]["value"] == before["fgsm"]["value"] == 0.5
    assert before["fgsm"]["n"] == 4 and before["fgsm"]["noise"] > 0
    magnet.thresholds.fill_(0)
    after = measured()  # of the attacked images that are kept
    assert after["accuracy"]["value"] == after["fgsm"]["value"] == 0
    assert np.isnan(after["fgsm"]["noise"])


def test_an_attacked_photograph_is_kept(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "reproduction")
    import photographs

    monkeypatch.setattr(photographs, "KEPT", tmp_path)
    pixels = np.full((1, 8, 8, 3), 66, np.uint8)
    photo = ImageSet(pixels, np.array([1]), ("a",), ("0", "1"), ("",))
    arguments = ("resnet18", "fgsm", photo, Bright(), torch.device("cpu"))
    made = photographs.chunk(*arguments)
    assert made.columns["success"].tolist() == [True]
    assert 0 < made.columns["linf"][0] <= 8 / 255 and made.images.shape == (1, 3, 8, 8)
    monkeypatch.setattr(photographs, "in_batches", None)  # no second time
    again = photographs.chunk(*arguments)
    assert torch.equal(again.images, made.images)


def test_the_same_image_of_another_attack_is_not_restored_again(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    import photographs

    def attacked(attack: str) -> Chunk:
        """BIM's and DeepFool's image are the same, FGSM's is another."""
        pixels = torch.full((1, 3, 8, 8), 0.1 if attack == "fgsm" else 0.2)
        columns = {"label": np.array([1]), "linf": np.array([0.3]), "success": np.array([True])}
        return Chunk(pixels, ("a",), columns | {"l2": np.array([float(attack == "deepfool")])})

    row = {"classifier": "resnet50", "defense": "tdips", "image": "a", "first_iterations": 100}
    row |= {"prediction": 7, "clean_prediction": 1, "rejected": False}
    steps = range(100, 1001, 100)
    curve = pd.DataFrame(
        [row | {"attack": "bim", "iteration": n, "prediction": n} for n in steps]
        + [row | {"attack": "fgsm", "iteration": 1000}, row | {"attack": "clean", "image": "b"}]
    )
    find = partial(photographs.known, "resnet50")
    copied = find("deepfool", "tdips", attacked, curve)
    assert copied[["attack", "iteration", "prediction", "l2"]].values.tolist() == [
        ["deepfool", 1000, 1000, 1.0]
    ]
    assert find("bim", "tdips", attacked, curve[:10].assign(attack="deepfool")) is not None
    assert find("bim", "tdips", attacked, copied) is None  # it asks for more read-outs

    def unattacked(attack: str) -> Chunk:
        """The same image, without an attack's columns."""
        columns = {"label": np.array([1]), "clean_prediction": np.array([1])}
        return Chunk(torch.full((1, 3, 8, 8), 0.2), ("a",), columns)

    clean = find("clean", "tdips", unattacked, curve[:10].assign(success=True))
    assert clean[["attack", "iteration", "success"]].values.tolist() == [["clean", 1000, False]]
    assert find("deepfool", "tdips", attacked, curve[10:]) is None  # another image
    assert find("deepfool", "tdips", attacked, curve.assign(defense="dip")) is None


def test_the_longest_curve_comes_first(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "reproduction")
    import photographs

    asked = photographs.wanted("resnet50", 0, 1, ["clean", "deepfool", "bim"], ["dip", "tdips"])
    assert list(asked) == [
        (0, "bim", "tdips"),
        (0, "clean", "tdips"),
        (0, "deepfool", "tdips"),
        (0, "bim", "dip"),
    ]


SCRIPTS = [
    path.relative_to(ROOT)
    for folder in ("reproduction", "performance", "demo")
    for path in sorted((ROOT / folder).glob("*.py"))
]


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_scripts_behind_committed_numbers_import_what_they_use(root, path, monkeypatch):
    """Those that take days: a name that is gone would be noticed late."""
    monkeypatch.syspath_prepend(str(root / path.parent))
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", root / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    imports = [
        n for n in ast.walk(ast.parse((root / path).read_text())) if type(n) is ast.ImportFrom
    ]
    for node in imports:  # those inside functions too
        if node.module.startswith("tandem_defense"):
            found = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(found, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
