"""What every dataset states: settings, checked in a configuration and in a direct call alike."""

import pytest

from tandem_defense.datasets.base import Dataset
from tandem_defense.pipeline import classes, registry, schema
from tandem_defense.settings import problems


@pytest.mark.parametrize("target", registry.DATASETS.values(), ids=registry.DATASETS)
def test_a_dataset_and_its_schema_accept_the_same(target):
    cls, allowed = classes.load_class(target), schema.schema(target)
    assert issubclass(cls, Dataset)
    needed = {"folder": "somewhere", "test": 5}
    needed = {name: needed[name] for name in allowed["required"]}
    assert set(cls(**needed).settings()) == set(allowed["properties"])
    assert not list(problems(allowed, needed))
    wrong = needed | {"test": 0}
    (problem,) = problems(allowed, wrong)
    assert problem == "test: found 0, allowed is a whole number ≥ 1"
    with pytest.raises(ValueError, match=f"{cls.__name__}: {problem}"):
        cls(**wrong)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    {
        "photos": {
            "size": 64,
            "scale": 4.5,
            "contrast": 0.05,
            "test": 21,
            "tune": 21,
            "train": 1600,
            "regions": 0,
        },
        "digits": {"size": 28, "test": 400},
        "mnist": {"folder": "f", "test": 1000},
        "nips2017": {"folder": "f", "test": 1000, "train": 0},
    }.items(),
)
def test_the_defaults_are_part_of_a_configuration_s_meaning(kind, defaults):
    cls = classes.load_class(registry.DATASETS[kind])
    given = {"folder": "f"} if "folder" in defaults else {}
    assert cls(**given).settings() == defaults
