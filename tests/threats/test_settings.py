"""What a configuration may say of threats, and what is refused before any hours are spent."""

import pytest

from tandem_defense.pipeline import configuration
from tandem_defense.pipeline.demand import ANY, Experiment


def complaint(config, schema) -> str:
    with pytest.raises(configuration.ConfigurationError) as refused:
        configuration.check(config, schema)
    return str(refused.value)


@pytest.mark.parametrize(
    ("threat", "expected"),
    [
        ({"kind": "bdpa"}, "threats.mine.kind: found 'bdpa', allowed is one of oblivious, noise"),
        ({"kind": "bpda", "sample": 3}, "threats.mine: unknown key sample; allowed are"),
        (
            {"kind": "bpda", "samples": 0},
            "threats.mine.samples: found 0, allowed is a whole number",
        ),
        (
            {"kind": "surrogate", "frequencies": 4},
            "threats.mine.frequencies: found 4, which has an effect only if stand_in = 'low_pass'",
        ),
        (
            {"kind": "bpda", "attack": {"kind": "pdg"}},
            "threats.mine.attack.kind: found 'pdg', allowed is one of fgsm",
        ),
        (
            {"kind": "bpda", "attack": {"kind": "pgd", "steps": 0}},
            "threats.mine.attack.steps: found 0, allowed is a whole number ≥ 1",
        ),
        (
            {"kind": "oblivious", "attack": {"kind": "deepfool_l2"}, "epsilons": [0.1]},
            "threats.mine.epsilons: the attack deepfool_l2 has no setting epsilon",
        ),
        (
            {"kind": "oblivious", "attack": {"kind": "pgd", "epsilon": 0.1}, "epsilons": [0.1]},
            "threats.mine.attack.epsilon: has no effect beside `epsilons`",
        ),
        (
            {"kind": "low_frequency", "attack": {"kind": "bim"}},
            "threats.mine.attack: found bim that stops early or has no ε",
        ),
        (
            {"kind": "low_frequency", "attack": {"kind": "carlini_wagner"}},
            "threats.mine.attack: found carlini_wagner that stops early or has no ε",
        ),
        (
            {"kind": "oblivious", "attack": {"kind": "mifgsm", "semantics": "minimal"}},
            "threats.mine.attack.semantics: found minimal, which may go beyond ε",
        ),
        (
            {"kind": "oblivious", "attack": {"kind": "pgd_l2"}},
            "threats.mine.attack: found pgd_l2, whose ε bounds the L2 norm, allowed is one whose ε",
        ),
        (
            {"kind": "oblivious", "attack": {"kind": "autoattack", "norm": "l2"}},
            "threats.mine.attack: found autoattack, whose ε bounds the L2 norm",
        ),
        (
            {"kind": "exact"},
            "threats.mine: dip has no gradient to go through: leave it out of `only",
        ),
        (
            {"kind": "bpda", "only": {"defenses": ["tdip"]}},
            "threats.mine.only.defenses: found 'tdip', allowed is one of none, blur",
        ),
        (
            {"kind": "bpda", "only": {"classifiers": ["shufflenet"], "defenses": ["dip"]}},
            "threats.mine.only: leaves no classifier with a defense",
        ),
    ],
)
def test_a_wrong_threat_is_named(config, schema, threat, expected):
    config["experiments"]["tdips"]["threats"]["mine"] = threat
    assert f"experiments.tdips.{expected}" in complaint(config, schema)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("experiments.tdips.threat_images", 17, "allowed are at most images, 16"),
        ("experiments.tdips.draws", 2, "draws: found 2, allowed is a whole number ≥ 3"),
        ("tables.table3.epsilon", 0.3, "tables.table3.epsilon: found 0.3, allowed is one of 0.03"),
        ("figures.figure9.control", "none", "figure9.control: found 'none', allowed is one of"),
        ("figures.figure9.classifier", "shufflenet", "allowed is one of small (experiments.tdips"),
    ],
)
def test_what_belongs_to_threats_is_checked(config, schema, path, value, expected):
    *parts, last = path.split(".")
    at = config
    for part in parts:
        at = at[part]
    at[last] = value
    assert expected in complaint(config, schema)


def test_without_threats_nothing_is_computed_or_shown(config, schema):
    del config["experiments"]["tdips"]["threats"]
    text = complaint(config, schema)
    assert "experiments.tdips.threat_images: there are no threats; remove the key" in text
    del config["experiments"]["tdips"]["threat_images"]
    text = complaint(config, schema)
    assert "tables.table3.experiment: experiments.tdips has no threats to any" in text
    assert Experiment("tdips", config["experiments"]["tdips"]).judged_files() == []


def test_the_name_of_the_worst_case_is_taken(config, schema):
    config["experiments"]["tdips"]["threats"]["worst"] = {"kind": "noise"}
    assert "threats.worst: the name is that of the worst case" in complaint(config, schema)


def test_candidates_are_per_defense_unless_the_attacker_knows_of_none(config):
    spec = config["experiments"]["tdips"]
    experiment = Experiment("tdips", spec)
    assert experiment.threats("small", "blur") == {
        "oblivious": ANY,
        "exact": "blur",
        "noise": ANY,
    }
    assert experiment.threats("shufflenet", "blur") == {}
    assert experiment.threat("exact")["attack"]["settings"] == {
        "semantics": "fixed",
        "steps": 200,
    }
    whole = experiment.whole("tdips")["settings"]
    assert (whole["first_iterations"], whole["iterations"]) == ([20], 100)
    funn = Experiment("funn", config["experiments"]["funn"])
    assert funn.threatened_cells() == [
        ("classic", "none"),
        ("classic", "magnet"),
        ("funn", "none"),
        ("linf", "none"),
    ]
    assert funn.weights(0, "classic", "none") == [] and funn.weights(0, "classic", "magnet")


def test_a_threat_of_another_s_own_attack_by_default():
    """Kinds without an attack in the entry have their class's, at its own ε."""
    spec = {"threats": {"q": {"kind": "query"}, "p": {"kind": "bpda"}}, "images": 3}
    experiment = Experiment("e", spec)
    assert experiment.threat("q")["attack"]["name"] == "square"
    assert experiment.threat("p")["attack"]["settings"] == {
        "semantics": "fixed",
        "steps": 40,
        "restarts": 5,
    }
    assert experiment.threatened == 3
    assert [experiment.threat(name)["epsilons"] for name in "qp"] == [[8 / 255]] * 2
