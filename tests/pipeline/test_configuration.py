"""A wrong configuration fails at once, with the key, what was found and what is allowed."""

import dataclasses
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from tandem_defense.pipeline import (
    check_entries,
    check_machine,
    classes,
    configuration,
    demand,
    registry,
)
from tandem_defense.pipeline import schema as schema_of
from tandem_defense.restoration import coarse
from tandem_defense.settings import SUPPLIED, SUPPLIED_TO_FIT
from tandem_defense.settings import schema_of as declared


def change(config: dict, path: str, value: object) -> dict:
    """Set a dotted key."""
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    config[last] = value
    return config


def complaint(config, schema) -> str:
    with pytest.raises(configuration.ConfigurationError) as caught:
        configuration.check(config, schema, root=Path(__file__).parents[2])
    return str(caught.value)


@pytest.mark.parametrize("file", ["config.yaml", "demo/config.yaml", "reproduction/config.yaml"])
def test_our_configurations_are_valid(root, schema, file):
    config = configuration.with_fractions(yaml.safe_load((root / file).read_text()))
    configuration.check(config, schema)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("experiments.tdips.attacks.bim.epsilon", 8, ["attacks.bim.epsilon", "8", "≤ 1", "8/255"]),
        ("experiments.tdips.attacks.bim.epsilom", 0.1, ["attacks.bim", "epsilom", "epsilon"]),
        ("experiments.tdips.attacks.bim.kind", "bmi", ["attacks.bim.kind", "'bmi'", "mifgsm"]),
        ("experiments.tdips.attacks.bim.steps", "ten", ["attacks.bim.steps", "'ten'", "whole"]),
        ("experiments.tdips.attacks.bim.steps", True, ["attacks.bim.steps", "True", "whole"]),
        ("experiments.tdips.attacks.bim.semantics", "max", ["'max'", "minimal, corner, fixed"]),
        ("experiments.tdips.images", 22, ["experiments.tdips.images", "22", "21"]),
        ("experiments.funn.dataset.test", 900, ["dataset.test", "900", "800"]),
        ("experiments.tdips.chunks", 99, ["experiments.tdips.chunks", "99"]),
        ("experiments.tdips.seeds", [], ["experiments.tdips.seeds", "[]"]),
        ("experiments.tdips.chunk", 2, ["experiments.tdips", "chunk", "chunks"]),
        ("experiments.tdips.classifiers.small.training.epoch", 2, ["training", "epoch"]),
        ("experiments.tdips.defenses.blur.training", {}, ["defenses.blur.training", "not trained"]),
        ("experiments.tdips.attacks.clean", {"kind": "bim"}, ["attacks", "clean"]),
        ("experiments.tdips.attacks.bim.epsilon", float("nan"), ["bim.epsilon", "nan", "> 0"]),
        ("experiments.tdips.keep_restored", 17, ["tdips.keep_restored", "17", "16"]),
        ("experiments.tdips.defenses.blur.every", 2, ["defenses.blur.every", "only a restoration"]),
        ("experiments.tdips.defenses.dip.every", 200, ["defenses.dip.every", "200", "100"]),
        ("experiments.tdips.defenses.dip.iterations", None, ["dip.iterations: found None"]),
        ("experiments.tdips.defenses.dip.iterations", 0, ["dip.iterations", "0", "≥ 1"]),
        ("experiments.tdips.defenses.dip.first_iterations", [5], ["no first network"]),
        ("experiments.tdips.defenses.tdips.iterations", 5, ["no effect beside `readouts`"]),
        ("experiments.tdips.defenses.dip.only", {"attacks": ["pgd"]}, ["only.attacks", "'pgd'"]),
        ("experiments.funn.defenses.magnet.only", {"x": 1}, ["magnet.only", "unknown key x"]),
        ("figures.figure3.attacks", ["pgd"], ["figures.figure3.attacks", "'pgd'", "bim"]),
        (
            "figures.figure3.defenses",
            ["blur"],
            ["figure3.defenses", "'blur'", "as DIP or t-DIPs: dip, tdips"],
        ),
        ("figures.figure3.iterations", 900, ["figure3.iterations", "no read-out 110", "100"]),
        ("figures.figure3.every", 7, ["figure3.iterations", "no read-out 7"]),
        ("figures.figure3.classifier", "shufflenet", ["is not run on bim of shufflenet", "only"]),
        ("figures.figure6.first_iterations", [0], ["first_iterations", "[0]", "≥ 1"]),
        (
            "figures.figure6.first_iterations",
            [30],
            ["no read-out 30", "20, 40"],
        ),
        ("figures.figure7.images", 9, ["figure7.images", "9", "keep_restored is 8"]),
        ("figures.funn_figure2.images", 99, ["funn_figure2.images", "99", "images is 40"]),
        ("figures.figure9", {"kind": "curve"}, ["figures.figure9", "lacks the key experiment"]),
        (
            "figures.figure3.kind",
            "line",
            ["figure3.kind", "'line'", "curve", "file.py:Class"],
        ),
        ("figures.attack", {"kind": "curve", "experiment": "tdips"}, ["figures.attack", "taken"]),
        ("figures.figure3.stpes", 1, ["figures.figure3", "stpes", "iterations"]),
        ("tables.table1.published", "table2", ["published: found table2.csv", "accuracy too"]),
        ("tables.table1.published", "table9", ["published", "'table9'", "table1, table2"]),
        ("tables.table1.omit", ["dipp"], ["tables.table1.omit", "'dipp'", "tdips"]),
        ("tables.table2.models.funn.classifier", "fun", ["models.funn.classifier", "'fun'"]),
        ("tables.table2.experiment", "nist", ["table2.experiment", "'nist'", "tdips, funn"]),
        (
            "experiments.tdips.defenses.mine",
            {"kind": "mine.py:Mine"},
            ["mine.kind", "plugins: true"],
        ),
        ("experiments.tdips.defenses.mine", {"kind": "a:b:c"}, ["mine.kind", "file.py:Class"]),
        ("experiments.tdips.defenses.jpeg.quality", 1000, ["jpeg.quality", "1000", "≤ 100"]),
        ("experiments.tdips.defenses.blur.kernel", 4, ["blur.kernel", "4", "an odd number"]),
        (
            "experiments.tdips.classifiers.shufflenet.architecture",
            "resnet51",
            ["shufflenet.architecture", "'resnet51'", "torchvision's", "resnet50"],
        ),
        (
            "experiments.tdips.classifiers.small.classes",
            3,
            ["small.classes", "3", "at least as many as the data has, 7"],
        ),
        (
            "experiments.tdips.dataset.test",
            100000,
            ["dataset.test", "100000", "test + tune ≤ 7 · scale · scale", "ask for fewer"],
        ),
        (
            "experiments.tdips.defenses.none",
            {"kind": "none", "only": {"classifiers": ["small"]}},
            ["defenses.none.only: every classifier has this row"],
        ),
        (
            "experiments.tdips.defenses.tdips.coarse",
            10,
            ["tdips.coarse: needs images of at least 128 × 128 pixels, found 64 × 64"],
        ),
        ("experiments.tdips.attacks.deepfool.candidates", 1, ["candidates: found 1", "≥ 2"]),
        ("experiments.funn.attacks.local_search.r", 2.5, ["local_search.r: found 2.5", "r ≤ 2"]),
        (
            "experiments.tdips.defenses.hgd",
            {"kind": "hgd", "widths": [8, 16], "training": {}},
            ["hgd.widths: found [8, 16]", "len(forward_depths) = len(widths)", "len(widths) - 1"],
        ),
        (
            "experiments.tdips.defenses.hgd.widths",
            [8, 16, 32],
            ["hgd.forward_depths: found [2, 1] beside widths [8, 16, 32]", "len(widths) - 1"],
        ),
        ("experiments.tdips.defenses.hgd.channels", 1, ["hgd.channels", "1", "the images, 3"]),
        ("experiments.funn.classifiers.funn.size", 32, ["funn.size", "32", "the images, 28"]),
        # what has no effect where it stands
        ("experiments.tdips.attacks.bim.on", {True: 1}, ["bim", "unknown key on"]),
        ("experiments.tdips.attacks.bim", {"kind": "bim", True: 1}, ["bim", "unknown key True"]),
        ("experiments.funn.keep_restored", 3, ["funn.keep_restored", "remove"]),
        ("experiments.tdips.defenses.tdips.every", 5, ["tdips.every", "beside `readouts`"]),
        ("experiments.tdips.defenses.dip.stop_patience", 5, ["only if stop_window is given"]),
        (
            "experiments.tdips.attacks.bim.binary_search_steps",
            5,
            ["bim.binary_search_steps: found 5", "only if semantics = 'minimal'"],
        ),
        ("experiments.tdips.attacks.bim.only", {"attacks": ["bim"]}, ["bim.only", "attacks"]),
        (
            "experiments.tdips.attacks.bim.only",
            {"classifiers": ["smal"]},
            ["attacks.bim.only.classifiers: found 'smal'", "small"],
        ),
        # bim is shown of the small CNN
        (
            "experiments.tdips.attacks.bim.only",
            {"classifiers": ["shufflenet"]},
            [
                "figures.figure3: experiments.tdips.attacks.bim does not attack small: see its",
                "figures.figure7: experiments.tdips.attacks.bim does not attack small: see its",
                "claims: experiments.tdips.defenses.dip is not run on bim of small",
            ],
        ),
        (
            "experiments.funn.attacks.deepfool_l2_50.only",
            {"classifiers": ["classic"]},
            ["figures.funn_figure2", "deepfool_l2_50 does not attack funn: see its `only`"],
        ),
        (
            "experiments.tdips.threats.exact.attack.only",
            {"classifiers": ["small"]},
            ["threats.exact.attack.only: has no effect here"],
        ),
        (
            "experiments.tdips.threats.exact.attack.label",
            "PGD",
            ["threats.exact.attack.label: has no effect here"],
        ),
        ("experiments.tdips.attacks.bim.control", True, ["bim", "unknown key control"]),
        ("experiments.tdips.attacks.bim.training", {}, ["bim", "unknown key training"]),
        ("experiments.tdips.dataset.label", "x", ["tdips.dataset", "unknown key label"]),
        ("figures.figure3.training", {}, ["figure3", "unknown key training"]),
        (
            "figures.figure3.first_iterations",
            [20],
            ["figure3.first_iterations", "no effect on dip"],
        ),
        ("figures.figure8.defense", "dip", ["figure8.first_iterations", "no effect on dip"]),
        ("tables.claims.curve_attacks", None, ["claims.curve_classifier", "if curve_attacks is"]),
        # artifacts: the right sort of names, none twice, what the experiment computes
        ("figures.figure3.defense", "none", ["figures.figure3", "unknown key defense"]),
        ("figures.figure8.defense", "none", ["figure8.defense", "'none'", "as DIP or t-DIPs"]),
        ("tables.claims.tdips", "dip", ["claims.tdips", "'dip'", "as t-DIPs: tdips"]),
        ("tables.claims.dip", "tdips", ["claims.dip", "'tdips'", "as DIP: dip"]),
        ("figures.figure3.attacks", ["bim", "bim"], ["figure3.attacks", "without repetition"]),
        ("figures.figure7.attack", "clean", ["figure7.attack", "'clean'", "fgsm"]),
        (
            "experiments.tdips.defenses.dip.only.attacks",
            ["bim", "bim"],
            ["dip.only.attacks", "without repetition"],
        ),
        ("figures.figure3.every", 1000, ["figure3.every: found 1000", "every ≤ iterations"]),
        ("tables.claims.every", 1000, ["claims.every: found 1000", "every ≤ last"]),
        ("tables.claims.last", 900, ["claims.last", "no read-out 110"]),
        ("tables.claims.curve_first_iterations", [33], ["no read-out 33", "[20, 40]"]),
        ("tables.claims.curve_attacks", ["cw"], ["claims", "dip is not run on cw of small"]),
        ("tables.table1.iterations", 90, ["table1.iterations", "no read-out 90 on", "[100]"]),
        ("tables.table1.first_iterations", 40, ["table1.first_iterations", "no read-out 40"]),
        ("tables.table1.omit", ["dip", "tdips"], ["table1.iterations: has no effect on none"]),
    ],
)
def test_a_wrong_value_is_named(config, schema, path, value, expected):
    change(config, path, value)
    message = complaint(config, schema)
    for part in expected:
        assert part in message


def test_a_table_shows_attacks_that_some_of_its_classifiers_are_spared(config, schema):
    change(config, "experiments.tdips.attacks.cw.only", {"classifiers": ["small"]})
    change(config, "tables.table1.attacks", ["fgsm", "cw"])
    configuration.check(config, schema)
    change(config, "tables.table1.classifiers", ["shufflenet"])
    message = complaint(config, schema)
    assert "tables.table1: experiments.tdips.attacks.cw does not attack shufflenet" in message


def test_a_figure_of_pictures_has_no_more_of_them_than_a_chunk_keeps(config, schema):
    change(config, "experiments.tdips.chunks", 8)
    change(config, "experiments.tdips.threat_images", 8)
    message = complaint(config, schema)
    for part in ["figure7.images: found 3", "at most 2", "8 chunks"]:
        assert part in message


def test_a_table_of_models_shows_one_read_out(config, schema):
    table = {"kind": "success", "experiment": "tdips"}
    table["models"] = {"a": {"classifier": "small", "defense": "tdips"}}
    change(config, "tables.models", table)
    message = complaint(config, schema)
    assert "tables.models.models.a.defense: tdips has the read-outs" in message
    change(config, "tables.models.attacks", ["cw"])  # of which one read-out is computed
    configuration.check(config, schema)


def test_a_curve_without_first_iterations_has_all_that_there_are_everywhere(config, schema):
    readouts = [{"first_iterations": [20], "iterations": 100, "every": 10}]
    some = {"only": {"attacks": ["bim"]}, "first_iterations": [20, 40]}
    change(config, "experiments.tdips.defenses.tdips.readouts", [*readouts, readouts[0] | some])
    message = complaint(config, schema)
    assert "figures.figure6.first_iterations: experiments.tdips.defenses.tdips has no" in message
    assert "read-out 40 on fgsm of small, but [20]" in message
    change(config, "figures.figure6.first_iterations", [20])
    change(config, "tables.claims.curve_first_iterations", [20])
    configuration.check(config, schema)


def test_a_picture_with_two_networks_says_which_first_one(config, schema):
    del config["figures"]["figure7"]["first_iterations"]
    assert "figure7: lacks the key first_iterations, which tdips needs" in complaint(config, schema)
    change(config, "figures.figure7.defenses", ["dip"])
    configuration.check(config, schema)


NETWORKS = """
import torch
from torch import nn
from tandem_defense.classifiers.fitting import Trainable
from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.settings import Count
class Whole(Trainable):
    def forward(self, images): return images
class Mine(Torchvision):
    width: Count = 3
class Net(nn.Module):
    def forward(self, images): return images
class Mapped(Net):
    def maps(self, images): return images
    def head(self, maps): return maps
def make(): return Net()
"""


@pytest.mark.parametrize(
    ("classifier", "has"),
    [
        ({"kind": "small_cnn", "classes": 7, "training": {}}, True),
        ({"kind": "torchvision", "architecture": "resnext50_32x4d", "training": {}}, True),
        ({"kind": "torchvision", "architecture": "vgg11", "training": {}}, False),
        ({"kind": "FILE:Mine", "architecture": "vgg11", "training": {}}, False),
        ({"kind": "timm", "architecture": "resnet18.a1_in1k", "training": {}}, True),
        ({"kind": "timm", "architecture": "vit_tiny_patch16_224", "training": {}}, False),
        ({"kind": "FILE:Whole", "training": {}}, False),
        ({"kind": "own", "module": "FILE:Net"}, False),
        ({"kind": "own", "module": "FILE:Mapped"}, True),
        ({"kind": "own", "module": "FILE:make"}, True),  # what it makes is known in the job only
    ],
)
def test_what_asks_for_feature_maps_gets_them(config, schema, tmp_path, classifier, has):
    file = tmp_path / "net.py"
    file.write_text(NETWORKS)
    net = {
        k: v.replace("FILE", str(file)) if isinstance(v, str) else v for k, v in classifier.items()
    }
    if net["kind"] == "own":
        net |= {"weights": "net.pth", "normalization": "none"}
    config["plugins"] = True
    config["experiments"]["tdips"]["classifiers"]["small"] = net
    del config["figures"]["figure8"]
    configuration.check(config, schema)
    figure = {"kind": "activation", "experiment": "tdips", "classifier": "small", "images": 1}
    figure |= {"attack": "bim", "defense": "dip", "iterations": 100}
    config["figures"] = {"figure8": figure}
    config["experiments"]["tdips"]["defenses"]["hgd"]["training"]["guidance"] = "features"
    if has:
        configuration.check(config, schema)
        return
    message = complaint(config, schema)
    assert "hgd.training.guidance: found 'features', but small has no feature maps" in message
    config["experiments"]["tdips"]["defenses"]["hgd"]["training"]["guidance"] = "logits"
    assert "figure8.classifier: small has no feature maps" in complaint(config, schema)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("resnet50", False),
        ("resnet50.a1_in1k", False),  # the tag of the weights is looked up in the job
        ("resnet51", True),
        ("resnet51.a1_in1k", True),
    ],
)
def test_timm_s_names_are_known(config, schema, name, wrong):
    pytest.importorskip("timm")
    net = {"kind": "timm", "architecture": name, "classes": 7, "training": {}}
    change(config, "experiments.tdips.classifiers.timm", net)
    if wrong:
        assert "timm.architecture: found" in complaint(config, schema)
    else:
        configuration.check(config, schema)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_the_names_of_networks_are_those_that_the_package_lists(package):
    models = pytest.importorskip(package)
    listed = models.models.list_models(models.models if package == "torchvision" else "")
    assert schema_of.architectures(package) == set(listed)
    assert schema_of.architectures("no_such_package") is None


def test_keys_that_change_nothing_of_this_configuration(config, schema):
    config["offline"] = "inputs"
    with pytest.raises(configuration.ConfigurationError, match="offline: nothing is downloaded"):
        configuration.check(config, schema, set())
    mnist = {"kind": "mnist", "folder": "results/downloads/mnist"}
    config["experiments"]["funn"]["dataset"] = mnist
    config["keep_adversarial"] = True
    configuration.check(config, schema, set())
    for experiment in config["experiments"].values():
        experiment["attacks"] = {}
        experiment["defenses"] = {"none": {"kind": "none"}}
        for key in ("keep_restored", "threats", "threat_images"):
            experiment.pop(key, None)
    config["tables"], config["figures"] = {}, {}
    with pytest.raises(configuration.ConfigurationError, match="keep_adversarial: nothing"):
        configuration.check(config, schema, set())


# --- what this machine has ---


def machine(config, **options) -> str:
    with pytest.raises(configuration.ConfigurationError) as caught:
        configuration.check_machine(config, **options)
    return str(caught.value)


def test_tf32_needs_a_gpu_here_unless_the_jobs_run_elsewhere(config, monkeypatch):
    configuration.check_machine(config)
    change(config, "experiments.tdips.defenses.dip.precision", "tf32")
    monkeypatch.setattr(check_machine, "glob", lambda pattern: [])
    message = machine(config)
    assert "experiments.tdips.defenses.dip.precision: found 'tf32'" in message
    assert "choose float32" in message
    configuration.check_machine(config, cluster=True)
    monkeypatch.setattr(check_machine, "glob", lambda pattern: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    configuration.check_machine(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "tf32" in machine(config)


def test_the_engine_triton_needs_a_gpu_too(config, monkeypatch):
    change(config, "experiments.tdips.defenses.dip.engine", "triton")
    monkeypatch.setattr(check_machine, "glob", lambda pattern: [])
    message = machine(config)
    assert "defenses.dip.engine: found 'triton', which needs an NVIDIA GPU" in message
    assert "choose fast" in message
    configuration.check_machine(config, cluster=True)


def test_the_check_knows_how_small_images_of_coarse_steps_may_be():
    assert check_entries.COARSE == coarse.LEAST


def test_an_attack_that_compares_classes_has_enough(config, schema):
    change(config, "experiments.tdips.attacks.auto", {"kind": "autoattack"})
    configuration.check(config, schema)
    change(config, "experiments.tdips.classifiers.small.classes", 3)
    expected = "attacks.auto.kind: autoattack needs classifiers of at least 4 classes, small has 3"
    assert expected in complaint(config, schema)
    change(config, "experiments.tdips.attacks.auto.only", {"classifiers": ["shufflenet"]})
    assert expected not in complaint(config, schema)  # the data has more classes than it, too


def test_a_label_may_look_like_a_fraction(config, schema):
    change(config, "experiments.tdips.attacks.bim.label", "8/255")
    change(config, "experiments.tdips.attacks.bim.epsilon", "4 / 255")
    found = configuration.with_fractions(config)
    configuration.check(found, schema)
    bim = found["experiments"]["tdips"]["attacks"]["bim"]
    assert (bim["label"], bim["epsilon"]) == ("8/255", 4 / 255)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("LOW, HIGH = 0.1, 0.2", None),
        ("TABLE = [n for n in range(3)]", None),
        ("norm = max('l2', 'linf')", "norm is not a literal: norm = max("),
    ],
)
def test_a_class_body_of_one_s_own_may_hold_anything(config, schema, tmp_path, line, expected):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from tandem_defense.attacks.base import Attack\nclass Mine(Attack):\n    {line}\n"
    )
    config["plugins"] = True
    change(config, "experiments.tdips.attacks.mine", {"kind": f"{file}:Mine"})
    if expected is None:
        configuration.check(config, schema)
    else:
        assert expected in complaint(config, schema)


def test_a_file_imports_what_lies_beside_it_by_its_name(config, schema, tmp_path):
    """By dots it fails in the job, and of two helpers of one name Python knows the first."""
    config["plugins"] = True
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helpers.py").write_text("")
        file = tmp_path / folder / "mine.py"
        text = "from tandem_defense.attacks.base import Attack\nimport helpers\n"
        file.write_text(text + "class Mine(Attack):\n    pass\n")
        change(config, f"experiments.tdips.attacks.mine_{folder}", {"kind": f"{file}:Mine"})
        if folder == "a":
            configuration.check(config, schema)
    message = complaint(config, schema)
    assert "attacks.mine_b.kind" in message and f"helpers.py from {tmp_path / 'a'}" in message
    del config["experiments"]["tdips"]["attacks"]["mine_a"]
    dotted = tmp_path / "b/dotted.py"
    dotted.write_text(file.read_text().replace("import helpers", "from .helpers import x"))
    config["experiments"]["tdips"]["attacks"]["mine_b"]["kind"] = f"{dotted}:Mine"
    assert "it imports from '.helpers'" in complaint(config, schema)


def test_what_is_trained_has_images_of_its_own(config, schema, tmp_path):
    """Without `train` a folder of pictures trains on its test images, which has to be said."""
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{i}.png").touch()
    dataset = {"kind": "folder", "folder": str(tmp_path), "test": 21, "size": 64}
    config["experiments"]["tdips"]["dataset"] = dataset
    assert "experiments.tdips.dataset: lacks `train`" in complaint(config, schema)
    dataset["train"] = 0
    configuration.check(config, schema)


@pytest.mark.parametrize("defense", ["dip", "tdips"])
def test_an_engine_without_bf16_is_named_before_it_runs(config, schema, defense):
    entry = config["experiments"]["tdips"]["defenses"][defense]
    entry |= {"precision": "bf16", "engine": "reference"}
    assert "only that engine has bf16" in complaint(config, schema)


def test_weights_of_null_are_none(config):
    assert demand.made_by({"training": None, "weights": None}) == ["training"]
    assert demand.made_by({"weights": "released"}) == ["weights"]
    assert demand.made_by({"weights": None}) == []


def test_pictures_are_counted(config, tmp_path):
    """Their number and their classes, without opening one."""
    for name in ("circle", "square", "stripe"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").touch()
    experiment = config["experiments"]["tdips"]
    experiment["dataset"] = {"kind": "folder", "folder": str(tmp_path), "test": 8, "train": 4}
    configuration.check_machine(config)
    experiment["classifiers"]["small"]["classes"] = 2
    expected = "small.classes: found 2, allowed are at least as many as the data has, 3"
    assert expected in machine(config)
    experiment["dataset"]["train"] = 5
    message = machine(config)
    assert "experiments.tdips.dataset: " in message and "found 4 pictures for train" in message
    experiment["dataset"]["folder"] = str(tmp_path / "nowhere")
    assert "nowhere is not a folder" in machine(config)


def test_files_that_the_configuration_names_are_there(config, tmp_path, monkeypatch):
    """Snakemake itself does not miss them in a finished run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    spec = config["experiments"]["funn"]
    spec["dataset"] = {"kind": "mnist", "folder": "data", "test": 20, "train": 100}
    spec["classifiers"]["other"] = {"kind": "small_cnn", "classes": 10, "weights": "mine.pth"}
    config["tables"]["table2"]["published"] = "numbers.csv"
    message = machine(config)
    for part in (
        "funn.dataset.folder (t10k-images-idx3-ubyte): found 'data/t10k-images-idx3-ubyte'",
        "experiments.funn.classifiers.other.weights: found 'mine.pth', which is not there",
        "tables.table2.published: found 'numbers.csv', which is not there",
    ):
        assert part in message
    configuration.check_machine(config, files=False)  # they are in a storage
    spec["dataset"]["folder"] = "results/downloads/mnist"  # which the pipeline makes
    (tmp_path / "mine.pth").touch()
    (tmp_path / "numbers.csv").write_text("dataset,model,attack,success_rate\n")
    assert machine(config).endswith(
        "tables.table2.published: found numbers.csv with the columns dataset, model, attack, "
        "success_rate; a table of kind success reads noise_level too"
    )
    (tmp_path / "numbers.csv").write_bytes(b"\xff")
    assert "found numbers.csv, which is not a table" in machine(config)
    header = "\ufeff\ndataset,model,attack,success_rate,noise_level\n"  # as spreadsheets write it
    (tmp_path / "numbers.csv").write_text(header, encoding="utf-8")
    configuration.check_machine(config)


def test_no_two_labels_are_equal(config, schema):
    defenses = config["experiments"]["tdips"]["defenses"]
    defenses["jpeg90"] = {"kind": "jpeg", "quality": 90, "label": "JPEG 75"}
    assert "defenses.jpeg90: found the label 'JPEG 75', which jpeg has too" in complaint(
        config, schema
    )


@pytest.mark.parametrize(
    ("text", "module", "expected"),
    [
        (None, "absent.py:network", "there is no file absent.py"),
        ("def network(:", "net.py:network", "invalid syntax"),
        ("x = 1", "net.py:network", "net.py has no network"),
        ("x = 1", "net.py", "allowed is file.py:name or package.module:name"),
        ("from torchvision.models import resnet18 as network", "net.py:network", None),
        ("if True:\n    network = print", "net.py:network", None),
        ("# -*- coding: latin-1 -*-\ndef network(): return '\xe9'", "net.py:network", None),
        ("def network(): return '\xe9'", "net.py:network", "net.py:network cannot be used"),
    ],
)
def test_a_network_of_one_s_own_is_looked_for(
    config, schema, tmp_path, monkeypatch, text, module, expected
):
    monkeypatch.chdir(tmp_path)
    name = f"net{abs(hash((text, module)))}.py"  # what is read is kept
    if text:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    module = module.replace("net.py", name)
    config["plugins"] = True
    config["experiments"]["tdips"]["classifiers"]["mine"] = {
        "kind": "own", "module": module, "weights": "mine.pth", "normalization": "none",
    }  # fmt: skip
    if expected is None:
        configuration.check(config, schema)
        return
    assert expected.replace("net.py", name) in complaint(config, schema)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "tables.table2.models.x",
            {"classifier": "funn", "defense": "magnet"},
            "tables.table2.models.x.defense: magnet is not run before funn: see its `only`",
        ),
        (
            "tables.table1.omit",
            ["none", "blur", "jpeg", "dip", "tdips"],
            "tables.table1.omit: leaves no defense, expected at least 1",
        ),
        (
            "tables.comparisons.omit",
            ["blur", "jpeg", "dip", "tdips"],
            "tables.comparisons.omit: leaves none, expected at least 2",
        ),
        ("figures.figure3.iterations", 3, "figures.figure3.iterations: found 3, allowed is a mult"),
        ("figures.figure9.control", "exact", "figures.figure9.control: found 'exact', allowed"),
        ("experiments.funn.seeds", [2**63], "seeds.0: found 9223372036854775808, allowed is a wh"),
        ("experiments.tdips.defenses", {}, "defenses: found {}, allowed is entries, each under a"),
        ("offline", "", "offline: found '', allowed is a text that is not empty"),
        (
            "experiments.tdips.classifiers.small.training.learning_rate",
            "1e-3",
            "found '1e-3', allowed is a number > 0 (to YAML that is a text; write 0.001000 or",
        ),
    ],
)
def test_what_would_fail_late_or_tell_little(root, schema, path, value, expected):
    config = yaml.safe_load((root / "tests/tiny/config.yaml").read_text(encoding="utf-8"))
    config = configuration.with_fractions(config)
    if path.endswith("control"):  # a threat to another classifier
        tdips = config["experiments"]["tdips"]
        tdips["classifiers"]["other"] = tdips["classifiers"]["small"] | {"label": "Other"}
        tdips["threats"]["exact"]["only"]["classifiers"] = ["other"]
    change(config, path, value)
    assert expected in complaint(config, schema)


def test_the_folder_of_copies_exists(config, tmp_path):
    config["offline"] = str(tmp_path)
    configuration.check_machine(config)
    config["offline"] = str(tmp_path / "nowhere")
    assert "offline: found" in machine(config)


def test_a_missing_key_is_named(config, schema):
    del config["experiments"]["tdips"]["images"]
    assert "experiments.tdips: lacks the key images" in complaint(config, schema)


def test_what_must_be_trained_has_training_or_weights(config, schema):
    experiment = config["experiments"]["tdips"]
    del experiment["classifiers"]["small"]["training"]
    assert "classifiers.small: give `training` (may be {}), a" in complaint(config, schema)
    experiment["classifiers"]["small"]["training"] = {}
    experiment["classifiers"]["shufflenet"]["weights"] = "IMAGENET1K_V1"
    assert "shufflenet: give either `training` (may be {}) or `weights`" in complaint(
        config, schema
    )
    for key in ("training", "classes"):
        del experiment["classifiers"]["shufflenet"][key]
    experiment["defenses"]["comdefend"]["weights"] = "released"
    assert "comdefend: give either `training` (may be {}) or `weights`" in complaint(config, schema)
    del experiment["defenses"]["comdefend"]["training"]
    message = complaint(config, schema)
    assert "comdefend.compression: found [8, 16, 32, 16], the released weights have (16," in message
    for key in ("compression", "reconstruction"):
        del experiment["defenses"]["comdefend"][key]
    configuration.check(config, schema)
    experiment["classifiers"]["shufflenet"]["classes"] = 7
    assert "shufflenet.classes: found 7, the released weights have 1000" in complaint(
        config, schema
    )
    del experiment["classifiers"]["shufflenet"]["classes"]
    experiment["defenses"]["comdefend"]["weights"] = "leaked"
    assert "comdefend.weights: found 'leaked', allowed is one of released" in complaint(
        config, schema
    )


def test_a_classifier_without_fit_has_weights(config, schema, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from tandem_defense.classifiers.base import Classifier\n"
        "class Fixed(Classifier):\n"
        "    weights: str | None = None\n"
        "    def forward(self, images):\n"
        "        return images.mean((2, 3))\n"
    )
    config["plugins"] = True
    net = config["experiments"]["tdips"]["classifiers"]["small"] = {"kind": f"{file}:Fixed"}
    del config["figures"]["figure8"]
    message = complaint(config, schema)
    assert "classifiers.small.kind: nothing makes the weights of a" in message
    assert "neither a method `fit` nor a setting `weights` with a value" in message
    net["weights"] = "net.pth"
    configuration.check(config, schema)


def test_released_weights_must_be_in_the_manifest(config, schema):
    net = config["experiments"]["tdips"]["classifiers"]["shufflenet"]
    del net["training"], net["classes"]
    net["weights"] = "IMAGENET1K_V1"
    file = "torchvision/shufflenet_v2_x0_5-IMAGENET1K_V1.pth"
    configuration.check(config, schema, {file})
    with pytest.raises(configuration.ConfigurationError) as caught:
        configuration.check(config, schema, set())
    assert (
        f"shufflenet.weights: found 'IMAGENET1K_V1', but resources/downloads.toml has no {file!r}"
        in str(caught.value)
    )


def test_every_problem_is_listed(config, schema):
    change(config, "experiments.tdips.attacks.bim.epsilon", 8)
    change(config, "experiments.funn.dataset.test", 900)
    message = complaint(config, schema)
    assert "epsilon" in message and "dataset.test" in message


def test_fractions():
    found = configuration.with_fractions({"a": ["8/255", "x/2", 3, " 1 / 4 "], "b": "1/0"})
    assert found == {"a": [8 / 255, "x/2", 3, 0.25], "b": "1/0"}


def test_snakemake_shows_the_complaint_and_nothing_else(root, config, tmp_path):
    change(config, "experiments.tdips.attacks.bim.epsilon", 8)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--directory", tmp_path],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "for 8 of 255 write 8/255" in printed
    assert "Traceback" not in printed


def test_snakemake_looks_for_a_gpu_unless_the_jobs_run_on_a_cluster(root, config, tmp_path):
    change(config, "experiments.tdips.defenses.dip.precision", "tf32")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def dry_run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "--directory", tmp_path, *arguments],
            cwd=root,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )

    done = dry_run()
    assert done.returncode != 0 and "dip.precision: found 'tf32'" in done.stdout + done.stderr
    done = dry_run("--profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout + done.stderr


def test_validation_needs_no_torch(root):
    program = (
        "import sys; sys.path.insert(0, 'scripts');"
        "from tandem_defense.pipeline import artifacts, configuration, demand, registry;"
        "from tandem_defense.pipeline import schema, stale;"
        "[schema.schema(t) for s in registry.SECTIONS.values() for t in s.values()];"
        "stale.code('attack.py', *registry.ATTACKS.values());"
        "assert not {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_settings_are_inherited_from_files_and_modules_of_the_same_author(tmp_path, monkeypatch):
    """Beside a file, in a package beside it, in an installed one, also where it re-exports."""
    base = (
        "from tandem_defense.attacks.base import Attack\n\n\nclass Base(Attack):\n    {}: int = 3\n"
    )
    (tmp_path / "nets").mkdir()
    (tmp_path / "beside.py").write_text(base.format("beside"))
    (tmp_path / "nets/__init__.py").write_text("from .deep import Base as Deep\n")
    (tmp_path / "nets/deep.py").write_text(base.format("deep"))
    (tmp_path / "mine.py").write_text(
        "from beside import Base\nfrom nets import Deep\nfrom foolbox import Attack as Other\n\n\n"
        "class A(Base): ...\n\n\nclass B(Deep): ...\n\n\nclass C(Other): ...\n"
    )
    (tmp_path / "nets/mine.py").write_text("from . import Deep\n\n\nclass D(Deep): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = str(tmp_path / "mine.py")
    found = {
        target: set(schema_of.schema(target)["properties"]) - {"clip"}
        for target in (f"{file}:A", f"{file}:B", f"{file}:C", "nets.mine:D")
    }
    assert list(found.values()) == [{"beside"}, {"deep"}, set(), {"deep"}]
    with pytest.raises(ImportError, match="no class Nothing"):
        schema_of.schema("nets.mine:Nothing")


def test_a_file_of_one_s_own_loads_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_mine.py").write_text("KERNEL = 7\n")
    text = "from beside_mine import KERNEL\n\n\nclass Mine:\n    kernel = KERNEL\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert classes.load_class("mine.py:Mine").kernel == 7
    monkeypatch.delitem(sys.modules, "beside_mine")


def test_reading_an_installed_class_runs_nothing_of_its_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "armed/deep").mkdir(parents=True)
    for package in ("armed", "armed/deep"):
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('it runs')\n")
    (tmp_path / "armed/deep/part.py").write_text("class Mine:\n    width: int = 3\n")
    assert schema_of.defaults("armed.deep.part:Mine") == {"width": 3}
    for missing in ("armed.deep.other", "armed.deep.part.more", "unarmed.deep"):
        with pytest.raises(ImportError, match=f"no module {missing}"):
            schema_of.source(missing)


ALL = [target for section in registry.SECTIONS.values() for target in section.values()]


@pytest.mark.parametrize("target", ALL)
def test_the_static_reading_agrees_with_the_class(target):
    """The registry's line resolves, and the source text says what Python says."""
    if "timm" in target:
        pytest.importorskip("timm")
    cls = classes.load_class(target)
    assert cls.__doc__
    found = schema_of.schema(target)
    known = [f for f in dataclasses.fields(cls) if f.name not in SUPPLIED]
    assert list(found["properties"]) == [f.name for f in known]
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in known:
        assert found["properties"][field.name] == declared(hints[field.name]), field.name
    missing = dataclasses.MISSING
    assert set(found["required"]) == {f.name for f in known if f.default is missing}
    for name, value in schema_of.defaults(target).items():
        assert getattr(cls, name) == value
    fit = schema_of.fit(target)
    assert (fit is None) == (not hasattr(cls, "fit"))
    if fit:
        parameters = inspect.signature(cls.fit).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        keywords = [p for p in keywords if p.name not in SUPPLIED_TO_FIT]
        assert list(fit["properties"]) == [p.name for p in keywords]
        assert fit["required"] == [p.name for p in keywords if p.default is p.empty]


def test_settings_inherit_and_refuse_unknown_types(tmp_path, monkeypatch):
    (tmp_path / "tandem_defense_example.py").write_text("class A:\n    x: Complex = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match="Complex"):
        schema_of.schema("tandem_defense_example:A")


def test_the_presets_of_the_documentation_are_valid_and_respect_epsilon(root, config, schema):
    """docs/choices.md: every preset can be configured, and what it makes stays within 8/255."""
    import re

    import torch

    page = (root / "docs/choices.md").read_text()
    text = re.search(r"```yaml\n(foolbox2_minimal.*?)```", page, re.DOTALL).group(1)
    presets = configuration.with_fractions(yaml.safe_load(text))
    assert set(presets) == {"foolbox2_minimal", "foolbox2_corner", "fixed"}
    rng = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).requires_grad_(False)
    images = torch.rand(6, 3, 4, 4, generator=rng)
    labels = net(images).argmax(1)
    for preset in presets.values():
        config["experiments"]["tdips"]["attacks"] |= preset
        configuration.check(config, schema)
        for entry in preset.values():
            attack = classes.load_class(registry.ATTACKS[entry["kind"]])
            found = attack(**demand.settings("attacks", entry))(net, images, labels)
            assert (found.linf <= 8 / 255 + 1e-6).all()
