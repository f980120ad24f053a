"""What a configuration asks for follows from its experiments alone."""

import copy

import pytest

from tandem_defense.pipeline import artifacts, configuration
from tandem_defense.pipeline.demand import CLEAN, Experiment, selects
from tandem_defense.pipeline.work import work


@pytest.fixture
def experiment(config) -> Experiment:
    return Experiment("tdips", config["experiments"]["tdips"])


@pytest.mark.parametrize(
    ("only", "classifier", "attack", "expected"),
    [
        ({}, "a", "bim", True),
        ({"classifiers": ["a"]}, "a", "bim", True),
        ({"classifiers": ["a"]}, "b", "bim", False),
        ({"classifiers": ["a"]}, None, CLEAN, True),
        ({"attacks": ["fgsm"]}, "a", "bim", False),
        ({"attacks": ["fgsm"]}, None, CLEAN, False),
        ({"attacks": ["clean"]}, None, CLEAN, True),
    ],
)
def test_only_selects(only, classifier, attack, expected):
    assert selects(only, classifier, attack) is expected


def test_one_run_serves_every_list_of_readouts(experiment):
    assert experiment.readouts("tdips", "shufflenet", "bim") == {
        "iterations": [100],
        "first_iterations": [20],
    }
    assert experiment.readouts("tdips", "small", "bim") == {
        "iterations": list(range(10, 101, 10)),
        "first_iterations": [20, 40],
    }
    assert experiment.readouts("tdips", "small", "cw")["iterations"] == [100]
    assert experiment.readouts("tdips", None, CLEAN)["iterations"] == [100]
    assert experiment.readouts("dip", "small", "cw") is None
    assert experiment.readouts("dip", None, CLEAN) is None
    assert experiment.readouts("dip", "small", "bim")["first_iterations"] == []


def test_a_class_s_defaults_are_the_readouts_of_an_entry_that_says_nothing(config):
    spec = copy.deepcopy(config["experiments"]["tdips"])
    spec["defenses"]["tdips"] = {"kind": "tdips"}
    found = Experiment("tdips", spec).readouts("tdips", "small", "bim")
    assert found == {"iterations": [1000], "first_iterations": [100]}


def test_every_restored_set_is_listed_once(experiment):
    found = [(s["defense"], s.get("classifier"), s.get("attack")) for s in experiment.restored()]
    assert len(found) == len(set(found)) == 2 + 1 + 2 * 5
    assert ("tdips", None, None) in found and ("dip", "small", "bim") in found


def test_feed_forward_defenses_by_classifier(config):
    funn = Experiment("funn", config["experiments"]["funn"])
    assert list(funn.feed_forward("classic")) == ["none", "magnet"]
    assert list(funn.feed_forward("funn")) == ["none"]
    assert funn.feed_forward("funn")["none"] == [CLEAN, *funn["attacks"]]


def test_an_attack_may_spare_classifiers(experiment):
    """Nothing is attacked, evaluated or restored there; the others' files stay the same."""
    before = experiment.prediction_files(), experiment.attacked_files(), work(experiment)
    cw = experiment.spec["attacks"]["cw"] | {"only": {"classifiers": ["small"]}}
    spared = Experiment(
        "tdips", experiment.spec | {"attacks": experiment.spec["attacks"] | {"cw": cw}}
    )
    assert spared.entry("attacks", "cw") == experiment.entry("attacks", "cw")
    assert spared.attacks("small") == experiment.attacks() == spared.attacks()
    assert spared.attacks("shufflenet") == [CLEAN, "fgsm", "deepfool", "bim", "mifgsm"]
    assert "cw" not in spared.feed_forward("shufflenet")["none"]
    assert spared.computed("tdips", "shufflenet", "cw") is None
    after = spared.prediction_files(), spared.attacked_files(), work(spared)
    for kept, all_ in zip(after[:2], before[:2], strict=True):
        gone = set(all_) - set(kept)
        assert set(kept) < set(all_) and all("/shufflenet/cw/" in file for file in gone)
    assert after[2]["attacked"] == before[2]["attacked"] - 1
    assert after[2]["restored"] == [
        line
        for line in before[2]["restored"]
        if (line.get("classifier"), line.get("attack")) != ("shufflenet", "cw")
    ]


def test_what_a_reader_sees_reaches_no_job(config):
    """Labels and the like are in the sheet of tables and figures, and nowhere else."""
    spec = config["experiments"]["tdips"]
    before = Experiment("tdips", copy.deepcopy(spec))
    spec["label"] = "Other"
    for section in ("classifiers", "attacks", "defenses"):
        for name, entry in spec[section].items():
            entry["label"] = f"another {name}"
    spec["defenses"]["hgd"]["control"] = True
    after = Experiment("tdips", spec)
    for section in ("classifiers", "attacks", "defenses"):
        for name in spec[section]:
            assert before.entry(section, name) == after.entry(section, name)
    assert before.prediction_files() == after.prediction_files()
    assert work(before) == work(after) and before.sheet() != after.sheet()


def test_the_order_of_keys_reaches_no_job(config):
    """Snakemake compares what jobs are told as text."""
    before = Experiment("tdips", config["experiments"]["tdips"])
    turned = {
        section: {name: dict(reversed(entry.items())) for name, entry in entries.items()}
        for section, entries in config["experiments"]["tdips"].items()
        if section in ("classifiers", "attacks", "defenses")
    }
    after = Experiment("tdips", config["experiments"]["tdips"] | turned)
    for section in turned:
        for name in turned[section]:
            assert repr(before.entry(section, name)) == repr(after.entry(section, name))


@pytest.mark.parametrize("kept", ["tdips", "funn"])
@pytest.mark.parametrize("shown", ["all", "one figure", "none"])
def test_one_paper_alone_is_a_configuration(config, schema, kept, shown):
    config["experiments"] = {kept: config["experiments"][kept]}
    for section in ("tables", "figures"):
        entries = config[section].items()
        config[section] = {n: e for n, e in entries if e["experiment"] == kept}
    if shown != "all":
        del config["tables"]
        name = next(iter(config["figures"]))
        config["figures"] = {"mine": config["figures"][name]}
    if shown == "none":
        del config["figures"]
    configuration.check(config, schema)


def test_several_figures_of_one_kind(config, schema):
    figure = config["figures"]["figure6"]
    config["figures"] = {"one": figure, "two": figure | {"attacks": ["bim"]}}
    configuration.check(config, schema)
    assert [a.name for a in artifacts.of(config, "figures")] == ["one", "two"]


def test_more_kept_images_change_the_chunks_that_have_them(experiment):
    spec = experiment.spec | {"images": 16, "chunks": 4, "keep_restored": 6}
    items = [f"{i}-of-4" for i in (1, 2, 3, 4)]
    assert [Experiment("mine", spec).shown(item) for item in items] == [4, 2, 0, 0]
    spec |= {"keep_restored": 7}
    assert [Experiment("mine", spec).shown(item) for item in items] == [4, 3, 0, 0]
