"""One declaration of a setting: keyword argument, key of the configuration, check of both."""

import math
from typing import Annotated, Literal

import pytest
from torch import nn

from tandem_defense.pipeline import schema
from tandem_defense.settings import (
    TYPES,
    Count,
    Counts,
    Epsilon,
    OddCount,
    Positive,
    Settings,
    checked,
    conflicts,
    evaluate,
    problems,
    schema_of,
)

SOURCE = """
from typing import Literal

from tandem_defense.settings import Count, Counts, Epsilon, OddCount, Positive, Settings


class Base(Settings):
    kernel: OddCount = 3
    rate: Positive | None = None
    seed: int = 0


class Derived(Base):
    CONSTANT = ("a",)
    CONDITIONS = {
        "len(steps) <= kernel + 1": "take fewer",
        "rate <= 2 * 3 - 1 or kernel == 3": "lower it",
    }
    ONLY_IF = {"rate": "mode == 'a'"}
    steps: Counts
    mode: Literal["a", "b"] = "a"
    epsilon: Epsilon = 8 / 255
"""


class Base(Settings):
    """The same as in SOURCE."""

    kernel: OddCount = 3
    rate: Positive | None = None
    seed: int = 0


class Derived(Base):
    """With settings of its own."""

    CONSTANT = ("a",)
    CONDITIONS = {
        "len(steps) <= kernel + 1": "take fewer",
        "rate <= 2 * 3 - 1 or kernel == 3": "lower it",
    }
    ONLY_IF = {"rate": "mode == 'a'"}
    steps: Counts
    mode: Literal["a", "b"] = "a"
    epsilon: Epsilon = 8 / 255


class Layered(Settings, nn.Module):
    """A module whose layers depend on a setting."""

    width: Count = 2

    def __post_init__(self):
        super().__post_init__()
        self.layer = nn.Linear(self.width, 1)


def test_a_subclass_has_its_parent_s_settings_and_its_own():
    made = Derived(steps=[3, 4], kernel=5)
    assert made.settings() == {
        "kernel": 5, "rate": None, "seed": 0, "steps": (3, 4), "mode": "a", "epsilon": 8 / 255
    }  # fmt: skip
    assert repr(made).startswith("Derived(kernel=5, rate=None") and made.steps == (3, 4)
    with pytest.raises(TypeError, match="steps"):
        Derived()
    with pytest.raises(TypeError, match="kernels"):
        Derived(steps=[1], kernels=5)
    with pytest.raises(TypeError):
        Base(3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": 4}, "kernel: found 4, allowed is an odd number ≥ 1"),
        ({"kernel": True}, "kernel: found True, allowed is an odd number"),
        ({"kernel": 3.0}, "kernel: found 3.0"),
        ({"rate": 0}, "rate: found 0, allowed is a number > 0 or null"),
        ({"rate": math.nan}, "rate: found nan"),
        ({"rate": math.inf}, "rate: found inf"),
        ({"rate": "fast"}, "rate: found 'fast'"),
        ({"steps": []}, r"steps: found \[\], allowed is a list of at least 1"),
        ({"steps": [1, 0]}, "steps.1: found 0, allowed is a whole number ≥ 1"),
        ({"mode": "c"}, "mode: found 'c', allowed is one of a, b"),
        ({"epsilon": 8}, "epsilon: found 8, allowed is .* for 8 of 255 write 8/255"),
        ({"kernel": 2, "mode": "c"}, "kernel: .*; mode: "),
    ],
)
def test_a_call_and_the_configuration_refuse_the_same(wrong, message, tmp_path):
    (tmp_path / "source.py").write_text(SOURCE)
    given = {"steps": [1]} | wrong
    with pytest.raises(ValueError, match=f"Derived: {message}"):
        Derived(**given)
    found = "; ".join(problems(schema.schema(f"{tmp_path}/source.py:Derived"), given))
    assert str(pytest.raises(ValueError, Derived, **given).value) == f"Derived: {found}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"steps": [1, 2, 3], "kernel": 1},
            r"found \[1, 2, 3\] beside kernel 1, allowed is len\(steps\) ≤ kernel \+ 1: take",
        ),
        ({"rate": 6, "kernel": 5}, r"rate: found 6 beside kernel 5, allowed is rate ≤ 2 · 3 - 1"),
        ({"rate": 1, "mode": "b"}, "rate: found 1, which has an effect only if mode = 'a': remove"),
        ({"rate": 6, "kernel": 3}, None),
        ({"rate": None, "kernel": 5, "mode": "a"}, None),
    ],
)
def test_settings_are_checked_together(wrong, message, tmp_path):
    """In a call and in a configuration, with the same words."""
    (tmp_path / "source.py").write_text(SOURCE)
    target = f"{tmp_path}/source.py:Derived"
    given = {"steps": [1]} | wrong
    together = [schema.constant(target, name) for name in ("CONDITIONS", "ONLY_IF")]
    found = "; ".join(conflicts(*together, schema.defaults(target) | given, given))
    if message is None:
        assert not found and Derived(**given)
        return
    with pytest.raises(ValueError, match=message) as caught:
        Derived(**given)
    assert str(caught.value) == f"Derived: {found}"


@pytest.mark.parametrize(
    "text", ["f(x)", "x.y", "[y for y in x]", "x**2", "lambda: x", "1 < x < 2"]
)
def test_a_condition_cannot_run_code(text):
    with pytest.raises(TypeError, match="cannot be a condition"):
        evaluate(text, {"x": 1})


def test_the_source_says_what_the_class_says(tmp_path):
    (tmp_path / "source.py").write_text(SOURCE)
    found = schema.schema(f"{tmp_path}/source.py:Derived")
    assert list(found["properties"]) == ["kernel", "rate", "steps", "mode", "epsilon"]
    assert found["required"] == ["steps"] and not found["additionalProperties"]
    defaults = schema.defaults(f"{tmp_path}/source.py:Derived")
    assert defaults == {"kernel": 3, "rate": None, "seed": 0, "mode": "a", "epsilon": 8 / 255}
    assert schema.constant(f"{tmp_path}/source.py:Derived", "CONSTANT") == ("a",)
    assert schema.fit(f"{tmp_path}/source.py:Derived") is None


def test_a_module_has_its_settings_before_its_layers():
    net = Layered(width=3)
    assert net.layer.weight.shape == (1, 3) and list(net.state_dict()) == [
        "layer.weight",
        "layer.bias",
    ]
    with pytest.raises(ValueError, match="Layered: width: found 0"):
        Layered(width=0)


def test_keyword_only_parameters_of_a_function_are_checked():
    @checked
    def fit(images, *, seed: int, epochs: Count = 3, rate: Positive = 0.1):
        return images, epochs

    assert fit(1, seed=0) == (1, 3)
    with pytest.raises(ValueError, match="fit: epochs: found 0, allowed is a whole number ≥ 1"):
        fit(1, seed=0, epochs=0)
    with pytest.raises(TypeError):
        fit(1, epochs=2)


def test_order_of_choices_is_that_of_the_annotation():
    assert schema_of(Literal["b", "a"]) == {"enum": ["b", "a"]}
    assert schema_of(Literal["a", "b"]) == {"enum": ["a", "b"]}


def test_every_type_is_known_by_its_name():
    for name in TYPES:
        assert schema_of(Annotated[object, name]) == TYPES[name]
    assert schema_of(complex) is None
