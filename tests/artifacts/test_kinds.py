"""Every registered kind of table and figure: its class, its words, what it reads, its caption."""

import inspect
from types import SimpleNamespace
from typing import get_type_hints

import jinja2
import pytest
import yaml

from tandem_defense.artifacts.base import Figure, Inputs, Table
from tandem_defense.pipeline import registry
from tandem_defense.pipeline.configuration import with_fractions
from tandem_defense.settings import schema_of

KINDS = [
    pytest.param(base, kind, target, id=kind)
    for base, section in ((Table, registry.TABLES), (Figure, registry.FIGURES))
    for kind, target in section.items()
]


def load(target):
    module, name = target.split(":")
    return getattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("base, kind, target", KINDS)
def test_a_kind_is_a_class_with_all_that_it_needs(base, kind, target, root):
    cls = load(target)
    assert issubclass(cls, base) and cls.__module__ == target.split(":")[0]
    needs = {*cls.NEEDS}
    assert cls.NEEDS and needs <= set(vars(Inputs)) | {"classifier"}
    for method in ("frame", "grid") if base is Table else ("draw",):
        assert getattr(cls, method) is not getattr(base, method)
        assert inspect.getdoc(getattr(cls, method))
    assert (root / f"report/{kind}.rst").read_text()


@pytest.mark.parametrize("base, kind, target", KINDS)
def test_a_kind_explains_its_settings(base, kind, target):
    cls = load(target)
    assert cls.__doc__ and "experiment" in cls.__dataclass_fields__
    hints = get_type_hints(cls, include_extras=True)
    said = " ".join(vars(parent).get("__doc__") or "" for parent in cls.__mro__[:-2])
    for name in cls.__dataclass_fields__:
        assert schema_of(hints[name]), name
        assert name in said, f"{cls.__name__} does not explain {name}"


def test_the_reader_of_a_need_asks_for_its_file():
    for need in ("predictions", "images", "attacked", "restored"):
        with pytest.raises(KeyError, match=need):
            getattr(Inputs({}), need)
    assert Inputs({}).published("accuracy") is None


@pytest.mark.parametrize("folder", [".", "demo"])
def test_shipped_entries_are_accepted_and_have_a_caption(folder, root):
    config = with_fractions(yaml.safe_load((root / folder / "config.yaml").read_text()))
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined)  # Snakemake's is not
    apart = ("kind", "label", "paper")
    for section in ("tables", "figures"):
        for name, entry in config[section].items():
            settings = {key: value for key, value in entry.items() if key not in apart}
            load(registry.target(section, entry["kind"]))(**settings)
            experiment = config["experiments"][entry["experiment"]]
            sheet = {
                key: {n: e.get("label", n) for n, e in experiment[key].items()}
                for key in ("classifiers", "attacks", "defenses")
            }
            params = SimpleNamespace(
                entry={"settings": settings},
                sheet=sheet | {"dataset": experiment["dataset"]["kind"]},
                shown={key: entry[key] for key in apart[1:] if key in entry},
            )
            caption = strict.from_string((root / f"report/{entry['kind']}.rst").read_text())
            text = caption.render(snakemake=SimpleNamespace(params=params))
            assert text.strip() and "{" not in text, name
