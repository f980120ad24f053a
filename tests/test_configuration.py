"""A wrong configuration fails at once, with the key, what was found and what is allowed."""

import subprocess
import sys

import pytest
import yaml

from tandem_defense import configuration, registry, settings


def change(config: dict, path: str, value: object) -> dict:
    """Set a dotted key."""
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    config[last] = value
    return config


def complaint(config, schema) -> str:
    with pytest.raises(configuration.ConfigurationError) as caught:
        configuration.check(config, schema)
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
        ("figures.figure3.attack", "pgd", ["figures.figure3.attack", "'pgd'", "bim"]),
        ("figures.figure6.first_iterations", [0], ["first_iterations.0", "0", "≥ 1"]),
        ("figures.figure9", {}, ["figures", "figure9", "figure8"]),
        ("tables.table1.omit", ["dipp"], ["tables.table1.omit", "'dipp'", "tdips"]),
        ("tables.table2.models.funn.classifier", "fun", ["models.funn.classifier", "'fun'"]),
        ("tables.table2.experiment", "nist", ["tables.table2.experiment", "'nist'", "tdips, funn"]),
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
    change(config, "figures.figure3.attack", "pgd")
    message = complaint(config, schema)
    assert "epsilon" in message and "figure3" in message


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
        "from tandem_defense import configuration, registry, settings, stale;"
        "[settings.schema(t) for t in registry.ATTACKS.values()];"
        "stale.code('attack.py', *registry.ATTACKS.values());"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


ALL = [
    *registry.DATASETS.values(),
    *registry.CLASSIFIERS.values(),
    *registry.ATTACKS.values(),
    *registry.DEFENSES.values(),
    *registry.RESTORATIONS.values(),
]


@pytest.mark.parametrize("target", ALL)
def test_static_schema_agrees_with_the_class(target):
    """The registry's line resolves, and the source text says what Python says."""
    import inspect

    cls = registry.load(target)
    for method in ("__init__", "fit"):
        found = settings.schema(target, method)
        if found is None:
            assert not hasattr(cls, method)
            continue
        function = getattr(cls, method)
        parameters = {} if function is object.__init__ else inspect.signature(function).parameters
        keywords = {
            name: p
            for name, p in parameters.items()
            if p.kind is p.KEYWORD_ONLY and name not in settings.SUPPLIED
        }
        assert set(found["properties"]) == set(keywords)
        required = {name for name, p in keywords.items() if p.default is p.empty}
        assert set(found["required"]) == required
        assert cls.__doc__


def test_settings_inherit_and_refuse_unknown_types(tmp_path, monkeypatch):
    (tmp_path / "tandem_defense_example.py").write_text(
        "class A:\n    def __init__(self, *, x: Complex): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match="Complex"):
        settings.schema("tandem_defense_example:A")


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
            attack = registry.load(registry.ATTACKS[entry["kind"]])
            found = attack(**configuration.entry_settings(entry))(net, images, labels)
            assert (found.linf <= 8 / 255 + 1e-6).all()
