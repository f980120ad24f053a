"""A wrong configuration fails at once, with the key, what was found and what is allowed."""

import dataclasses
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from tandem_defense.pipeline import classes, configuration, demand, registry
from tandem_defense.pipeline import schema as schema_of
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


@pytest.mark.parametrize("file", ["config.yaml", "demo/config.yaml"])
def test_both_configurations_are_valid(root, schema, file):
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
        ("experiments.tdips.keep_restored", 9, ["tdips.keep_restored", "9", "8"]),
        ("experiments.tdips.defenses.blur.every", 2, ["defenses.blur.every", "only a restoration"]),
        ("experiments.tdips.defenses.dip.every", 200, ["defenses.dip.every", "200", "100"]),
        ("experiments.tdips.defenses.dip.iterations", 0, ["dip.iterations", "0", "≥ 1"]),
        ("experiments.tdips.defenses.dip.first_iterations", [5], ["no first network"]),
        ("experiments.tdips.defenses.tdips.iterations", 5, ["no effect beside `readouts`"]),
        ("experiments.tdips.defenses.dip.only", {"attacks": ["pgd"]}, ["only.attacks", "'pgd'"]),
        ("experiments.funn.defenses.magnet.only", {"x": 1}, ["magnet.only", "unknown key x"]),
        ("figures.figure3.attacks", ["pgd"], ["figures.figure3.attacks", "'pgd'", "bim"]),
        ("figures.figure3.defenses", ["blur"], ["figure3", "blur is no restoration"]),
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
        ("figures.funn_figure2.images", 99, ["funn_figure2.images", "99", "images is 60"]),
        ("figures.figure9", {"kind": "curve"}, ["figures.figure9", "lacks the key experiment"]),
        (
            "figures.figure3.kind",
            "line",
            ["figure3.kind", "'line'", "curve", "file.py:Class"],
        ),
        ("figures.attack", {"kind": "curve", "experiment": "tdips"}, ["figures.attack", "taken"]),
        ("figures.figure3.stpes", 1, ["figures.figure3", "stpes", "iterations"]),
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
    ],
)
def test_a_wrong_value_is_named(config, schema, path, value, expected):
    change(config, path, value)
    message = complaint(config, schema)
    for part in expected:
        assert part in message


def test_a_missing_key_is_named(config, schema):
    del config["experiments"]["tdips"]["images"]
    assert "experiments.tdips: lacks the key images" in complaint(config, schema)
    del config["experiments"]["funn"]["classifiers"]["classic"]["training"]
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
    del experiment["classifiers"]["shufflenet"]["training"]
    experiment["defenses"]["comdefend"]["weights"] = "released"
    assert "comdefend: give either `training` (may be {}) or `weights`" in complaint(config, schema)
    del experiment["defenses"]["comdefend"]["training"]
    configuration.check(config, schema)
    experiment["defenses"]["comdefend"]["weights"] = "leaked"
    assert "comdefend.weights: found 'leaked', allowed is one of released" in complaint(
        config, schema
    )


def test_released_weights_must_be_in_the_manifest(config, schema):
    net = config["experiments"]["tdips"]["classifiers"]["shufflenet"]
    del net["training"]
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


def test_validation_needs_no_torch(root):
    program = (
        "import sys; sys.path.insert(0, 'scripts');"
        "from tandem_defense.pipeline import configuration, demand, registry, schema, stale;"
        "[schema.schema(t) for s in registry.SECTIONS.values() for t in s.values()];"
        "stale.code('attack.py', *registry.ATTACKS.values());"
        "assert not {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


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
