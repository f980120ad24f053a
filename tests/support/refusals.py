"""A direct call refuses what the configuration refuses, with the same words."""

import pytest

from tandem_defense.pipeline import schema
from tandem_defense.settings import problems


def check_settings(cls: type, wrong: dict, **needed) -> None:
    """Neither the configuration nor the class takes the setting `wrong`, {name: value}."""
    found = list(problems(schema.schema(f"{cls.__module__}:{cls.__name__}"), needed | wrong))
    assert len(found) == 1
    with pytest.raises(ValueError) as error:
        cls(**needed | wrong)
    assert str(error.value) == f"{cls.__name__}: {found[0]}"


def check_training(module, wrong: dict, images, labels, **needed) -> None:
    """Neither the key `training` nor the method ``fit`` takes the setting `wrong`."""
    cls = type(module)
    found = list(problems(schema.fit(f"{cls.__module__}:{cls.__name__}"), wrong))
    assert len(found) == 1
    with pytest.raises(ValueError) as error:
        module.fit(images, labels, seed=0, **needed | wrong)
    assert str(error.value).endswith(f".fit: {found[0]}")
